//! Names of pipelines, plugins and sinks.

use std::collections::BTreeSet;

use serde_json::Value;

use super::document::{Document, Mark};

/// A metric label, a path and a column on a terminal all take a name of this length.
const MAX_BYTES: usize = 64;

/// A name as it stands in the file, if it is a good one.
pub fn read(document: &mut Document, at: &str, value: Option<&Value>) -> Option<String> {
    let name = value?.as_str()?;
    if document.variable_of(at).is_some() {
        let message = "a name cannot come from a variable, for names are printed";
        document.problem(at, Mark::Value, message, Some("write it out".into()));
        return None;
    }
    let is_fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.len() > MAX_BYTES || !name.chars().all(is_fine) || name.starts_with(['.', '-'])
    {
        let message = format!("{} is not a name", document.show(at, &name.into()));
        let help =
            format!("up to {MAX_BYTES} letters, digits, `-`, `_` and `.`, the first a letter or a digit");
        document.problem(at, Mark::Value, message, Some(help));
        return None;
    }
    Some(name.to_owned())
}

/// Names of the plugins or of the sinks of a pipeline.
pub struct Names {
    what: &'static str,
    taken: BTreeSet<String>,
}

impl Names {
    pub fn of(what: &'static str) -> Names {
        Names { what, taken: BTreeSet::new() }
    }

    /// The name that a section gives itself. To be asked for all sections before any is numbered.
    pub fn given(&mut self, document: &mut Document, at: &str, section: &Value) -> Option<String> {
        let name = read(document, at, section.get("name"))?;
        if !self.taken.insert(name.clone()) {
            let message = format!("another {} of this pipeline is called `{name}`", self.what);
            document.problem(at, Mark::Value, message, None);
        }
        Some(name)
    }

    /// A name for a section that has none: that of its kind, with `-2`, `-3` where it is taken.
    pub fn number(&mut self, kind: &str) -> String {
        let numbers = (2..).map(|number| format!("{kind}-{number}"));
        let name = std::iter::once(kind.to_owned()).chain(numbers).find(|name| !self.taken.contains(name));
        let name = name.unwrap_or_default();
        self.taken.insert(name.clone());
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::variables::Environment;
    use std::path::Path;

    fn document(text: &str) -> Document {
        Document::read(Path::new("p.toml"), text.into(), &Environment::given(&[("A", "a")]))
    }

    #[test]
    fn sections_without_a_name_are_numbered_around_those_with_one() {
        let mut document = document("s = [{ name = 'file-2' }, { name = 'x' }, { name = 'x' }]");
        let sections = document.value["s"].clone();
        let mut names = Names::of("sink");
        for number in 0..3 {
            names.given(&mut document, &format!("/s/{number}/name"), &sections[number]);
        }
        assert_eq!([names.number("file"), names.number("file")], ["file", "file-3"]);
        let report = document.into_report();
        assert_eq!(report.problems()[0].message, "another sink of this pipeline is called `x`");
        assert_eq!(report.problems().len(), 1);
    }

    #[test]
    fn bad_names_are_told() {
        let mut document = document("a = '${A}'\nb = 'x/y'\nc = '.x'\nd = ''\ne = 'x.y-z_1'\n");
        let names = document.value.clone();
        for key in ["a", "b", "c", "d"] {
            assert_eq!(read(&mut document, &format!("/{key}"), names.get(key)), None, "{key}");
        }
        assert_eq!(read(&mut document, "/e", names.get("e")), Some("x.y-z_1".into()));
        assert_eq!(document.into_report().problems().len(), 4);
    }
}
