//! JSON Schema, draft-06 to 2020-12: whether each document that is valid by the writer's schema is valid by the
//! reader's.
//!
//! What a reader's schema demands must follow from the writer's. It is judged for: `type`, `enum`, `const`, the
//! bounds of numbers, lengths and counts, `multipleOf`, `uniqueItems`, `required`, `properties`,
//! `additionalProperties`, `items`, `prefixItems`, `additionalItems`, `allOf`, `anyOf`, `oneOf` and `$ref`
//! within the document. Every other assertion (`pattern`, `format`, `not`, `if`, `contains`, ...) is good if the
//! writer has the very same, breaks where that is plain, and otherwise cannot be told; what is unevaluated is good
//! only in the same schema.
//!
//! Paths are JSON pointers into the reader's schema.

mod rules;
mod shapes;
mod values;

use std::collections::HashSet;

use serde_json::{Map, Value};

use self::shapes::{conjunction, is_annotation, merged, types};
use super::{Finding, Findings, Mode, Weight};
use crate::Error;

/// Compares two versions of a schema.
///
/// # Errors
/// One of them is no JSON, or neither an object nor a boolean; it says which.
pub fn check(old: &str, new: &str, mode: Mode) -> Result<Vec<Finding>, Error> {
    let parse = |text: &str, which: &str| {
        let wrong = |what: String| Error::new(format!("the {which} schema is none: {what}"));
        let schema: Value = serde_json::from_str(text).map_err(|error| wrong(error.to_string()))?;
        match schema {
            Value::Object(_) | Value::Bool(_) => Ok(schema),
            _ => Err(wrong("neither an object nor a boolean".to_owned())),
        }
    };
    let (old, new) = (parse(old, "old")?, parse(new, "new")?);
    Ok(Findings::of(mode, |findings| {
        let (writer, reader) = findings.way.pair(&old, &new);
        Pair { writer, reader, assumed: HashSet::new() }.compare("", writer, reader, findings);
    }))
}

/// Two documents, of which a part of one is compared with a part of the other.
#[derive(Clone)]
struct Pair<'a> {
    writer: &'a Value,
    reader: &'a Value,
    /// Pairs with a reference that were compared or are being compared: taken for good, so that recursion ends.
    assumed: HashSet<(String, String)>,
}

impl Pair<'_> {
    fn compare(&mut self, path: &str, writer: &Value, reader: &Value, findings: &mut Findings) {
        // What refers to something may refer to something else in the other document.
        if writer == reader && !refers(reader) {
            return;
        }
        if is_false(writer) || is_true(reader) {
            return;
        }
        if is_false(reader) {
            findings.breaks(
                path,
                format!("the {} schema allows nothing here", findings.way.reader()),
                "keep what was allowed",
            );
            return;
        }
        if let Some((key, target)) = reference(reader) {
            // Whole, for beside a reference there may be more.
            if self.assumed.insert((demanded(writer), demanded(reader))) {
                self.follow(path, &key, target, writer, reader, findings);
            }
            return;
        }
        let Some(writer) = self.without_references(path, writer, findings) else { return };
        let all = Map::new();
        let (writer, reader) =
            (writer.as_object().unwrap_or(&all).clone(), reader.as_object().unwrap_or(&all));
        self.objects(path, &writer, reader, findings);
    }

    /// The reader refers to something, and may demand more beside it.
    fn follow(
        &mut self,
        path: &str,
        key: &str,
        target: &str,
        writer: &Value,
        reader: &Value,
        findings: &mut Findings,
    ) {
        match pointed(self.reader, target) {
            Some(found) => {
                let found = found.clone();
                self.compare(path, writer, &found, findings);
            }
            None => findings.unknown(path, format!("{key} is not in this document"), "put it into the file"),
        }
        let beside = beside_reference(reader);
        if !is_true(&beside) {
            self.compare(path, writer, &beside, findings);
        }
    }

    /// The writer's schema with what it refers to in place. None if that cannot be had, which is told.
    fn without_references(&self, path: &str, writer: &Value, findings: &mut Findings) -> Option<Value> {
        let mut writer = writer.clone();
        // A chain of references ends, or is a circle, which allows everything and demands nothing.
        for _ in 0..64 {
            let Some((key, target)) = reference(&writer) else { return Some(writer) };
            let Some(found) = pointed(self.writer, target) else {
                findings.unknown(path, format!("{key} is not in this document"), "put it into the file");
                return None;
            };
            let beside = beside_reference(&writer);
            writer = match is_true(&beside) {
                true => found.clone(),
                false => serde_json::json!({ "allOf": [found, beside] }),
            };
        }
        findings.unknown(path, "its references do not end", "refer to a schema");
        None
    }

    fn objects(
        &mut self,
        path: &str,
        writer: &Map<String, Value>,
        reader: &Map<String, Value>,
        findings: &mut Findings,
    ) {
        let same = writer
            .iter()
            .filter(|(key, _)| !is_annotation(key))
            .eq(reader.iter().filter(|(key, _)| !is_annotation(key)));
        if same && !refers(&Value::Object(reader.clone())) {
            return;
        }
        // Each choice of the writer by itself: the reader must take all of them.
        for key in ["anyOf", "oneOf"] {
            if let Some(Value::Array(branches)) = writer.get(key) {
                let mut rest = writer.clone();
                rest.remove(key);
                for branch in branches {
                    let whole = match merged(&rest, branch) {
                        Some(whole) => whole,
                        None => serde_json::json!({ "allOf": [rest.clone(), branch] }),
                    };
                    self.compare(path, &whole, &Value::Object(reader.clone()), findings);
                }
                return;
            }
        }
        if let Some(Value::Array(parts)) = writer.get("allOf") {
            let parts = parts.clone();
            self.all_of(path, writer, &parts, reader, findings);
            return;
        }
        if let Some(allowed) = values::of(writer) {
            for value in allowed {
                match values::accepts(self.reader, reader, &value, 0) {
                    Some(true) => {}
                    Some(false) => findings.breaks(
                        path,
                        format!("{value} is not allowed by the {} schema", findings.way.reader()),
                        findings.way.remedy("keep the value", "write it once all readers know it"),
                    ),
                    None => {
                        findings.unknown(path, format!("whether {value} is allowed"), "compare it by hand")
                    }
                }
            }
            return;
        }
        self.rules(path, writer, reader, findings);
        if let Some(Value::Array(parts)) = reader.get("allOf") {
            for (index, part) in parts.iter().enumerate() {
                let writer = Value::Object(writer.clone());
                self.compare(&format!("{path}/allOf/{index}"), &writer, part, findings);
            }
        }
        for key in ["anyOf", "oneOf"] {
            if let Some(Value::Array(branches)) = reader.get(key) {
                self.choice(&format!("{path}/{key}"), writer, branches, key == "oneOf", findings);
            }
        }
    }

    /// The writer keeps to all of some schemas: as one of them, or to the one of them that is enough.
    fn all_of(
        &mut self,
        path: &str,
        writer: &Map<String, Value>,
        parts: &[Value],
        reader: &Map<String, Value>,
        findings: &mut Findings,
    ) {
        let reader = Value::Object(reader.clone());
        let mut rest = writer.clone();
        rest.remove("allOf");
        if let Some(whole) = conjunction(&rest, parts, &|part| {
            self.without_references(path, part, &mut Findings { way: findings.way, list: Vec::new() })
        }) {
            self.compare(path, &whole, &reader, findings);
            return;
        }
        let rest = Value::Object(rest);
        let tried = parts.iter().chain([&rest]).filter_map(|part| self.tried(path, part, &reader, findings));
        if let Some(warnings) = tried.min_by_key(Vec::len) {
            findings.list.extend(warnings);
            return;
        }
        findings.unknown(path, "the writer's `allOf` demands the same thing twice", "compare it by hand");
    }

    /// What is to be warned of in a pair that goes together; none if it does not.
    fn tried(&self, path: &str, writer: &Value, reader: &Value, findings: &Findings) -> Option<Vec<Finding>> {
        let mut tried = Findings { way: findings.way, list: Vec::new() };
        self.clone().compare(path, writer, reader, &mut tried);
        tried.list.iter().all(|finding| finding.weight == Weight::Warning).then_some(tried.list)
    }

    /// The reader has a choice.
    fn choice(
        &mut self,
        path: &str,
        writer: &Map<String, Value>,
        branches: &[Value],
        only_one: bool,
        findings: &mut Findings,
    ) {
        let whole = Value::Object(writer.clone());
        let places = branches.iter().enumerate().map(|(index, branch)| (format!("{path}/{index}"), branch));
        let tried: Vec<Option<Vec<Finding>>> =
            places.map(|(place, branch)| self.tried(&place, &whole, branch, findings)).collect();
        let fits: Vec<bool> = tried.iter().map(Option::is_some).collect();
        let apart = |branch: &Value| self.are_apart(writer, branch);
        if branches.iter().all(apart) {
            findings.breaks(
                path,
                format!(
                    "the {} schema has no choice for what the {} one allows here",
                    findings.way.reader(),
                    findings.way.writer()
                ),
                findings.way.remedy("keep the choice", "write it once all readers know it"),
            );
        } else if !fits.contains(&true) {
            findings.unknown(path, "no single choice is seen to take all of it", "compare it by hand");
        } else if only_one
            && (fits.iter().filter(|fits| **fits).count() > 1
                || branches.iter().zip(&fits).any(|(branch, fits)| !*fits && !apart(branch)))
        {
            findings.unknown(path, "more than one choice may take it, and `oneOf` wants one", "use anyOf");
        } else if let Some(warnings) = tried.into_iter().flatten().min_by_key(Vec::len) {
            findings.list.extend(warnings);
        }
    }

    /// Whether no document fits both, which is seen by types and by the values of a property that both require.
    fn are_apart(&self, writer: &Map<String, Value>, branch: &Value) -> bool {
        let branch = match reference(branch) {
            Some((_, target)) => pointed(self.reader, target).unwrap_or(branch),
            None => branch,
        };
        let Some(branch) = branch.as_object() else { return is_false(branch) };
        let both = types(branch);
        if types(writer).iter().all(|kind| !both.contains(kind)) {
            return true;
        }
        if types(writer) != ["object"] {
            return false;
        }
        let required = |schema: &Map<String, Value>, name: &str| {
            schema
                .get("required")
                .and_then(Value::as_array)
                .is_some_and(|names| names.iter().any(|other| other == name))
        };
        let property = |schema: &Map<String, Value>, name: &str| {
            schema.get("properties")?.get(name)?.as_object().and_then(values::of)
        };
        let names = branch.get("properties").and_then(Value::as_object).into_iter().flatten();
        names.map(|(name, _)| name).filter(|name| required(writer, name)).any(|name| {
            match (property(writer, name), property(branch, name)) {
                (Some(one), Some(other)) => {
                    one.iter().all(|value| !other.iter().any(|other| values::same(value, other)))
                }
                _ => false,
            }
        })
    }
}

fn is_true(schema: &Value) -> bool {
    match schema {
        Value::Bool(all) => *all,
        Value::Object(keywords) => keywords.keys().all(|key| is_annotation(key)),
        _ => false,
    }
}

fn is_false(schema: &Value) -> bool {
    *schema == Value::Bool(false) || schema.get("not").is_some_and(is_true)
}

/// What a schema refers to, as it stands there, and as a pointer within the document.
fn reference(schema: &Value) -> Option<(String, &str)> {
    let target = schema.get("$ref")?.as_str()?;
    Some((format!("$ref {target:?}"), target))
}

fn pointed<'a>(document: &'a Value, target: &str) -> Option<&'a Value> {
    document.pointer(target.strip_prefix('#')?)
}

/// A schema as text, without what demands nothing.
fn demanded(schema: &Value) -> String {
    let mut schema = schema.clone();
    if let Value::Object(keywords) = &mut schema {
        keywords.retain(|key, _| !is_annotation(key));
    }
    schema.to_string()
}

fn beside_reference(schema: &Value) -> Value {
    let mut beside = schema.as_object().cloned().unwrap_or_default();
    beside.remove("$ref");
    Value::Object(beside)
}

/// Whether something in it stands elsewhere.
fn refers(schema: &Value) -> bool {
    match schema {
        Value::Object(keywords) => {
            keywords.iter().any(|(key, value)| key.ends_with("ref") || key.ends_with("Ref") || refers(value))
        }
        Value::Array(items) => items.iter().any(refers),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
