//! From JSON to the types of a section, with the place of each mistake.

use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_path_to_error::Segment;

use super::Parsed;
use super::problem::Problem;

/// Reads a section into its type.
///
/// # Errors
/// What its type refuses, each with its JSON pointer. What one mistake is about is left out of the
/// next try, so that mistakes behind it are found too, except where the type cannot do without.
pub fn parse<T: DeserializeOwned>(mut value: Value) -> Parsed<T> {
    let mut problems: Vec<Problem> = Vec::new();
    let mut left_out: Vec<(String, String)> = Vec::new();
    loop {
        let error = match serde_path_to_error::deserialize(value.clone()) {
            Ok(_) if !problems.is_empty() => return Err(problems),
            Ok(parsed) => return Ok(parsed),
            Err(error) => error,
        };
        let at = pointer(error.path());
        let message = error.inner().to_string();
        let missing_by_our_doing = left_out
            .iter()
            .any(|(section, key)| *section == at && message == format!("missing field `{key}`"));
        if !missing_by_our_doing {
            problems.push(Problem::new(at.clone(), message));
        }
        match leave_out(&mut value, &at) {
            Some(place) => left_out.push(place),
            None => return Err(problems),
        }
    }
}

/// JSON pointer of a path in a value.
fn pointer(path: &serde_path_to_error::Path) -> String {
    path.iter().fold(String::new(), |pointer, segment| match segment {
        Segment::Seq { index } => format!("{pointer}/{index}"),
        Segment::Map { key } | Segment::Enum { variant: key } => pointer + "/" + &escape(key),
        Segment::Unknown => pointer,
    })
}

/// A key as it stands in a JSON pointer (RFC 6901).
pub fn escape(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

/// A segment of a JSON pointer as the key it stands for.
pub fn unescape(segment: &str) -> String {
    segment.replace("~1", "/").replace("~0", "~")
}

/// Takes the value at a pointer, or the array it is in, out of its table, and says which key of
/// which table that was.
pub fn leave_out(value: &mut Value, pointer: &str) -> Option<(String, String)> {
    let (table, key) = pointer.rsplit_once('/')?;
    let key = unescape(key);
    match value.pointer_mut(table)? {
        Value::Object(fields) => fields.remove(&key).map(|_| (table.to_owned(), key)),
        _ => leave_out(value, table),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;
    use serde_json::json;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Section {
        path: String,
        size: Option<super::super::units::ByteSize>,
        inner: Option<Inner>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Inner {
        port: u16,
        names: Vec<String>,
    }

    fn problems(value: Value) -> Vec<(String, String)> {
        let found = parse::<Section>(value).expect_err("it has mistakes");
        found.into_iter().map(|problem| (problem.at, problem.message)).collect()
    }

    #[test]
    fn finds_every_mistake_with_its_place() {
        let found = problems(json!({
            "path": 5, "size": "3 apples", "inner": { "port": 70000, "names": ["a", 7] }, "extra/key": 1
        }));
        let places: Vec<&str> = found.iter().map(|(at, _)| at.as_str()).collect();
        assert_eq!(places, ["/extra~1key", "/inner/names/1", "/inner/port", "/path", "/size"], "{found:?}");
    }

    #[test]
    fn a_missing_field_is_told_at_its_section() {
        assert_eq!(problems(json!({})), [(String::new(), "missing field `path`".into())]);
    }

    #[test]
    fn unknown_keys_have_their_place() {
        let found =
            problems(json!({ "path": "x", "extra/key": 1, "inner": { "port": 1, "names": [], "b": 2 } }));
        let places: Vec<&str> = found.iter().map(|(at, _)| at.as_str()).collect();
        assert_eq!(places, ["/extra~1key", "/inner/b"]);
    }
}
