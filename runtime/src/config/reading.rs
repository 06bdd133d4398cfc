//! A pipeline's file as it was read, kept while the pipeline runs.

use std::collections::BTreeSet;

use serde_json::Value;

use super::assemble::tell_load_error;
use super::document::Document;
use super::report::Report;
use crate::plugin::LoadError;

/// Tells what was changed in the file since, and where in it a plugin stands that cannot be used.
#[derive(Clone)]
pub struct Reading(Document);

impl Reading {
    pub(super) fn of(document: &Document) -> Reading {
        Reading(document.clone())
    }

    /// Keys that another reading of the file has with another value, or alone, or lacks; without those
    /// of plugins and of tests. They stand as `source.path` and `sink[0].path`, and hold no values.
    pub fn changed_keys(&self, other: &Reading) -> Vec<String> {
        let mut changed = BTreeSet::new();
        differences(&self.0.value, &other.0.value, "", &mut changed);
        changed.into_iter().collect()
    }

    /// Why a plugin of the file cannot be used, with its line. It shows no value that came from a
    /// variable.
    pub fn refusal(&self, plugin: usize, error: LoadError) -> Report {
        let mut document = self.0.clone();
        tell_load_error(&mut document, plugin, error);
        document.into_report()
    }
}

fn differences(old: &Value, new: &Value, at: &str, changed: &mut BTreeSet<String>) {
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => {
            for key in old.keys().chain(new.keys()) {
                let at = if at.is_empty() { key.clone() } else { format!("{at}.{key}") };
                if !["plugin", "test", "test_variables"].contains(&at.as_str()) {
                    let value = |fields: &serde_json::Map<String, Value>| fields.get(key).cloned();
                    differences(
                        &value(old).unwrap_or_default(),
                        &value(new).unwrap_or_default(),
                        &at,
                        changed,
                    );
                }
            }
        }
        (Value::Array(old), Value::Array(new)) if old.len() == new.len() => {
            for (index, (old, new)) in old.iter().zip(new).enumerate() {
                differences(old, new, &format!("{at}[{index}]"), changed);
            }
        }
        _ if old != new => {
            changed.insert(at.to_owned());
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Environment;
    use crate::config::problem::Problem;

    fn reading(text: &str) -> Reading {
        let environment = Environment::given(&[("SECRET", "geheim!")]);
        Reading::of(&Document::read(Path::new("p.toml"), text.to_owned(), &environment))
    }

    #[test]
    fn changed_keys_are_told_without_those_of_plugins() {
        let old = reading(
            "name = 'p'\n[source]\npath = 'a'\ncodec = { type = 'csv' }\n[[plugin]]\nuse = 'jq'\n\
             [[sink]]\ntype = 'drop'\n[[sink]]\ntype = 'file'\npath = '${SECRET}'\n",
        );
        let new = reading(
            "name = 'p'\nbudget = '1GiB'\n[source]\npath = 'a'\ncodec = { type = 'csv', head = true }\n\
             [[plugin]]\nuse = 'mask'\n[[sink]]\ntype = 'drop'\n[[sink]]\ntype = 'file'\npath = 'out'\n\
             [retry]\nmax_attempts = 2\n[[test]]\nname = 'new'\n",
        );
        let changed = ["budget", "retry", "sink[1].path", "source.codec.head"];
        assert_eq!(old.changed_keys(&new), changed);
        assert_eq!(new.changed_keys(&old), changed);
        assert!(old.changed_keys(&old).is_empty());
        assert_eq!(old.changed_keys(&reading("name = 'p'\n")), ["sink", "source"]);
    }

    #[test]
    fn a_refused_plugin_is_told_with_its_line_and_without_secrets() {
        let reading = reading("name = 'p'\n[[plugin]]\nwasm = 'a.wasm'\nconfig = { a = '${SECRET}' }\n");
        let problems = vec![
            Problem::new("/wasm", "is no plugin").help("build it"),
            Problem::new("/config/a", "gehe is no program"),
        ];
        let report = reading.refusal(0, LoadError { step: "a".into(), problems }).to_string();
        assert!(report.contains("p.toml:3:8") && report.contains("= build it"), "{report}");
        assert!(report.contains("a part of (from ${SECRET})") && !report.contains("gehe"), "{report}");
    }
}
