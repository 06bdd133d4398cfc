//! `${NAME}` in the values of a pipeline file.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use crate::plugin::PluginEngine;

/// What is around a pipeline file: variables, and what the command line says of all pipelines.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    variables: Variables,
    /// `--data-dir`: each pipeline has the folder of its name in it.
    pub data_dir: Option<PathBuf>,
    /// Loads plugins and tries their configuration; without one they are believed.
    pub engine: Option<Arc<PluginEngine>>,
}

#[derive(Clone, Debug, Default)]
enum Variables {
    #[default]
    Process,
    Given(BTreeMap<String, String>),
    /// Those of a test, which is the same on every machine.
    OfTests(BTreeMap<String, String>),
}

impl Environment {
    /// That of this process.
    pub fn process() -> Environment {
        Environment::default()
    }

    /// One with these variables and no others.
    pub fn given(variables: &[(&str, &str)]) -> Environment {
        let variables = variables.iter().map(|(name, value)| (name.to_string(), value.to_string()));
        Environment { variables: Variables::Given(variables.collect()), ..Environment::default() }
    }

    /// That of tests with these variables.
    pub fn of_tests(variables: BTreeMap<String, String>) -> Environment {
        Environment { variables: Variables::OfTests(variables), ..Environment::default() }
    }

    pub fn is_of_tests(&self) -> bool {
        matches!(self.variables, Variables::OfTests(_))
    }

    /// `None` if it is not set.
    ///
    /// # Errors
    /// If it is not UTF-8.
    pub(super) fn variable(&self, name: &str) -> Result<Option<String>, VariableError> {
        match &self.variables {
            Variables::Given(variables) | Variables::OfTests(variables) => Ok(variables.get(name).cloned()),
            Variables::Process => match std::env::var(name) {
                Ok(value) => Ok(Some(value)),
                Err(std::env::VarError::NotPresent) => Ok(None),
                Err(std::env::VarError::NotUnicode(_)) => Err(VariableError::NotUtf8(name.to_owned())),
            },
        }
    }
}

#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum VariableError {
    #[error("variable `{0}` is not set")]
    NotSet(String),
    #[error("variable `{0}` is not set for tests, which see none of the environment")]
    NotSetForTests(String),
    #[error("variable `{0}` is not UTF-8")]
    NotUtf8(String),
    #[error("`{0}` names no variable")]
    Malformed(String),
}

impl VariableError {
    pub fn help(&self) -> String {
        match self {
            VariableError::NotSet(name) => {
                format!("set it: export {name}=...\nor give it a default here: ${{{name}:-...}}")
            }
            VariableError::NotSetForTests(name) => {
                format!(
                    "add:\n[test_variables]\n{name} = \"...\"\nor give it a default here: ${{{name}:-...}}"
                )
            }
            VariableError::NotUtf8(name) => format!("set it to UTF-8 text: export {name}=..."),
            VariableError::Malformed(_) => {
                "write ${NAME} or ${NAME:-default}, or $${ for the characters themselves".into()
            }
        }
    }

    /// The text in the file that this is about.
    pub fn written(&self) -> String {
        match self {
            VariableError::NotSet(name)
            | VariableError::NotSetForTests(name)
            | VariableError::NotUtf8(name) => format!("${{{name}"),
            VariableError::Malformed(text) => text.clone(),
        }
    }
}

/// A text with its variables put in.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Interpolated {
    pub text: String,
    /// Whether any was in it, even if its default was taken.
    pub had_variable: bool,
    /// Variables of the environment that are in it, with their values; defaults do not count.
    pub from: Vec<(String, String)>,
}

/// Puts variables into a text. `${NAME:-default}` takes the default where the variable is not set
/// or empty, as a shell does; `$${` stands for `${`; any other `$` for itself.
///
/// # Errors
/// Everything that is wrong with it.
pub fn interpolate(text: &str, environment: &Environment) -> Result<Interpolated, Vec<VariableError>> {
    let mut done = Interpolated::default();
    let mut errors = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        let (before, from) = rest.split_at(start);
        if let Some(before) = before.strip_suffix('$') {
            done.text.push_str(before);
            done.text.push_str("${");
            rest = &from[2..];
            continue;
        }
        done.text.push_str(before);
        let Some(end) = from.find('}') else {
            errors.push(VariableError::Malformed(from.to_owned()));
            rest = "";
            break;
        };
        let (name, default) = match from[2..end].split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (&from[2..end], None),
        };
        rest = &from[end + 1..];
        if !is_name(name) {
            errors.push(VariableError::Malformed(from[..=end].to_owned()));
            continue;
        }
        done.had_variable = true;
        match (environment.variable(name), default) {
            (Err(error), _) => errors.push(error),
            (Ok(Some(value)), None) => {
                done.text.push_str(&value);
                done.from.push((name.to_owned(), value));
            }
            (Ok(Some(value)), Some(_)) if !value.is_empty() => {
                done.text.push_str(&value);
                done.from.push((name.to_owned(), value));
            }
            (Ok(_), Some(default)) => done.text.push_str(default),
            (Ok(None), None) if environment.is_of_tests() => {
                errors.push(VariableError::NotSetForTests(name.to_owned()));
            }
            (Ok(None), None) => errors.push(VariableError::NotSet(name.to_owned())),
        }
    }
    done.text.push_str(rest);
    if errors.is_empty() { Ok(done) } else { Err(errors) }
}

fn is_name(name: &str) -> bool {
    !name.starts_with(|c: char| c.is_ascii_digit())
        && !name.is_empty()
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment() -> Environment {
        Environment::given(&[("A", "1"), ("B_2", "two"), ("EMPTY", "")])
    }

    #[test]
    fn variables_are_put_in() {
        for (text, expected, from) in [
            ("plain $ {A} $A", "plain $ {A} $A", vec![]),
            ("${A}", "1", vec!["A"]),
            ("x${A}-${B_2}y", "x1-twoy", vec!["A", "B_2"]),
            ("${NO:-a b}/${A:-c}", "a b/1", vec!["A"]),
            ("${EMPTY:-d}${NO:-}", "d", vec![]),
            ("[${EMPTY}]", "[]", vec!["EMPTY"]),
            ("$${A} $$${A}", "${A} $${A}", vec![]),
        ] {
            let done = interpolate(text, &environment()).expect("it can be put in");
            let names: Vec<&str> = done.from.iter().map(|(name, _)| name.as_str()).collect();
            assert_eq!((done.text.as_str(), names), (expected, from), "{text}");
        }
    }

    #[test]
    fn every_mistake_is_told() {
        let errors =
            interpolate("${NO} ${A B} ${} ${1x} ${ALSO_NOT} ${A", &environment()).expect_err("it is bad");
        let told: Vec<String> = errors.iter().map(|error| error.to_string()).collect();
        assert_eq!(
            told,
            [
                "variable `NO` is not set",
                "`${A B}` names no variable",
                "`${}` names no variable",
                "`${1x}` names no variable",
                "variable `ALSO_NOT` is not set",
                "`${A` names no variable",
            ]
        );
    }
}
