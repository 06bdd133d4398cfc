//! The subject of the schema that a sink writes by.

use millstream_registry::SubjectNames;

use super::registry::Names;
use crate::config::problem::Problem;

/// What a codec says about it.
pub struct Subject<'a> {
    pub subject: Option<&'a str>,
    pub topic: Option<&'a str>,
    pub names: Names,
}

impl Subject<'_> {
    /// What is missing to name it; `knows_record` if a schema gives the name of the record or message.
    pub fn check(&self, knows_record: bool, problems: &mut Vec<Problem>) {
        if self.subject.is_some() {
            return;
        }
        if self.names != Names::Record && self.topic.is_none() {
            problems.push(
                Problem::new("", "the subject of the schema is not known")
                    .help("topic = \"orders\", for the subject \"orders-value\"; or subject = \"...\""),
            );
        }
        if self.names != Names::Topic && !knows_record {
            problems.push(
                Problem::new("/subject_names", "the name of the record is not known without its schema")
                    .help("`schema`, or subject = \"...\""),
            );
        }
    }

    /// Its name.
    pub fn name(&self, record: &str) -> String {
        match self.subject {
            Some(subject) => subject.to_owned(),
            None => SubjectNames::from(self.names).subject(self.topic.unwrap_or_default(), record),
        }
    }
}

/// Says of keys that are given that they are only for the other direction.
pub fn only_for(direction: &str, given: &[(&str, bool)], problems: &mut Vec<Problem>) {
    for (name, _) in given.iter().filter(|(_, given)| *given) {
        problems
            .push(Problem::new(format!("/{name}"), format!("`{name}` is only for {direction}; remove it")));
    }
}
