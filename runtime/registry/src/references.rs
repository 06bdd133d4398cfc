//! A schema with all that it refers to.

use std::collections::HashMap;

use crate::schema::{Dependency, Reference, Resolved, Schema};
use crate::{Error, Registry};

/// A schema whose references are being followed.
struct Open {
    /// None for the one that all began with.
    reference: Option<Reference>,
    text: String,
    /// Those that were not looked at yet, the next one last.
    remaining: Vec<Reference>,
}

impl Registry {
    /// Fetches all that a schema refers to. `what` names the schema in errors.
    ///
    /// # Errors
    /// As for each request; [`Error::Unusable`] if it is more than [`crate::Settings`] allows, if a schema
    /// refers to itself, or if two schemas go by one name.
    pub async fn resolve(&self, what: &str, schema: Schema) -> Result<Resolved, Error> {
        let unusable = |reason: String| Error::Unusable { what: what.to_owned(), reason };
        let mut dependencies = Vec::new();
        // What each name stands for. In it from when it is opened.
        let mut known: HashMap<String, (String, u32)> = HashMap::new();
        let mut bytes = schema.text.len();
        let mut remaining = schema.references.clone();
        remaining.reverse();
        let mut path = vec![Open { reference: None, text: String::new(), remaining }];
        while let Some(open) = path.last_mut() {
            let Some(reference) = open.remaining.pop() else {
                let done = path.pop().expect("it is the last");
                if let Some(reference) = done.reference {
                    dependencies.push(Dependency { name: reference.name, text: done.text });
                }
                continue;
            };
            let is_open = |open: &Open| {
                let open = open.reference.as_ref();
                open.is_some_and(|open| {
                    open.subject == reference.subject && open.version == reference.version
                })
            };
            let Reference { name, subject, version } = &reference;
            if path.iter().any(is_open) {
                return Err(unusable(format!("version {version} of subject {subject:?} refers to itself")));
            }
            match known.get(name) {
                Some((other, of)) if other == subject && of == version => continue,
                Some((other, of)) => {
                    return Err(unusable(format!(
                        "{name:?} stands for version {of} of subject {other:?} and for version {version} of \
                         {subject:?}"
                    )));
                }
                None => {}
            }
            let limits = &self.settings;
            if known.len() == limits.max_references {
                return Err(unusable(format!("it refers to more than {} schemas", limits.max_references)));
            }
            if path.len() > limits.max_reference_depth {
                let depth = limits.max_reference_depth;
                return Err(unusable(format!("its references go on for more than {depth} steps")));
            }
            let wanted = format!("version {version} of subject {subject:?}, which {what} refers to,");
            let found = self.referred(&wanted, subject, *version).await?.schema;
            if found.kind != schema.kind {
                return Err(unusable(format!(
                    "it is {}, and {name:?}, which it refers to, is {}",
                    schema.kind, found.kind
                )));
            }
            bytes += found.text.len();
            if bytes > limits.max_answer_bytes {
                let most = limits.max_answer_bytes;
                return Err(unusable(format!("with all that it refers to it has more than {most} bytes")));
            }
            known.insert(name.clone(), (subject.clone(), *version));
            let mut remaining = found.references;
            remaining.reverse();
            path.push(Open { reference: Some(reference), text: found.text, remaining });
        }
        Ok(Resolved { schema, dependencies })
    }
}
