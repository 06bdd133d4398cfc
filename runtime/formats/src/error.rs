//! What is wrong with a value, and where in it.

use std::fmt;

/// Says what cannot be decoded, or not be said in the format that is wanted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Error {
    /// From the value to the root: the way back.
    path: Vec<String>,
    what: String,
}

impl Error {
    pub fn new(what: impl Into<String>) -> Error {
        Error { path: Vec::new(), what: what.into() }
    }

    /// The error of what is in this field, element or key of something.
    #[must_use]
    pub fn at(mut self, place: impl fmt::Display) -> Error {
        self.path.push(place.to_string());
        self
    }

    /// Where it is, as a JSON pointer (RFC 6901); empty for the whole value.
    pub fn path(&self) -> String {
        self.path
            .iter()
            .rev()
            .map(|place| format!("/{}", place.replace('~', "~0").replace('/', "~1")))
            .collect()
    }

    /// What is wrong there.
    pub fn what(&self) -> &str {
        &self.what
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path.is_empty() {
            true => f.write_str(&self.what),
            false => write!(f, "{}: {}", self.path(), self.what),
        }
    }
}

/// Names the place of an error.
pub trait At<T> {
    /// # Errors
    /// The same error, one step further from its place.
    fn at(self, place: impl fmt::Display) -> Result<T, Error>;
}

impl<T> At<T> for Result<T, Error> {
    fn at(self, place: impl fmt::Display) -> Result<T, Error> {
        self.map_err(|error| error.at(place))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_its_place() {
        let error = Error::new("is wrong").at(3).at("a/b").at("top");
        assert_eq!(error.to_string(), "/top/a~1b/3: is wrong");
        assert_eq!(Error::new("is wrong").to_string(), "is wrong");
    }
}
