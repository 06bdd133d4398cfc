//! Keyword by keyword: whether what the reader demands follows from what the writer keeps to.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::shapes::{is_annotation, types};
use super::{Pair, is_false, is_true, refers};
use crate::compatibility::Findings;

type Schema = Map<String, Value>;

/// Bounds from below, and those that leave the bound itself out.
const LOWER: [&str; 2] = ["minimum", "exclusiveMinimum"];
const UPPER: [&str; 2] = ["maximum", "exclusiveMaximum"];

/// Keywords that say together what is demanded.
const GROUPS: [&[&str]; 2] = [&["contains", "minContains", "maxContains"], &["if", "then", "else"]];

impl Pair<'_> {
    /// For writers that are no choice and list no values.
    pub(super) fn rules(&mut self, path: &str, writer: &Schema, reader: &Schema, findings: &mut Findings) {
        let written = types(writer);
        let may_be = |kind: &str| written.contains(&kind);
        type_of(path, writer, reader, findings);
        if reader.contains_key("enum") || reader.contains_key("const") {
            findings.breaks(
                path,
                format!("the {} schema takes some values only", findings.way.reader()),
                "keep to the type, or list the values in both",
            );
        }
        if may_be("number") || may_be("integer") {
            bounds(path, writer, reader, LOWER, findings);
            bounds(path, writer, reader, UPPER, findings);
            multiple_of(path, writer, reader, !may_be("number"), findings);
        }
        if may_be("string") {
            count(path, writer, reader, ("minLength", "maxLength"), 0, findings);
            for key in ["pattern", "format"] {
                text_rule(path, key, writer, reader, findings);
            }
        }
        if may_be("array") {
            count(path, writer, reader, ("minItems", "maxItems"), 0, findings);
            unique(path, writer, reader, findings);
            self.items(path, writer, reader, findings);
        }
        if may_be("object") {
            let required = names(writer.get("required")).into_iter().collect::<BTreeSet<_>>().len() as u64;
            count(path, writer, reader, ("minProperties", "maxProperties"), required, findings);
            self.properties(path, writer, reader, findings);
        }
        for (key, wanted) in reader {
            let applies = match key.as_str() {
                "propertyNames"
                | "patternProperties"
                | "dependentRequired"
                | "dependentSchemas"
                | "unevaluatedProperties" => may_be("object"),
                "contains" | "minContains" | "maxContains" | "unevaluatedItems" => may_be("array"),
                key => !is_judged(key) && !is_annotation(key),
            };
            // What was not evaluated is a matter of all that stands beside it.
            let is_same = match key.as_str() {
                "unevaluatedProperties" | "unevaluatedItems" => is_true(wanted),
                key => has_same(writer, reader, key),
            };
            if applies && (!is_same || refers(wanted)) {
                findings.unknown(
                    &format!("{path}/{key}"),
                    format!("whether it follows from the {} schema", findings.way.writer()),
                    "compare it by hand",
                );
            }
        }
    }

    fn properties(&mut self, path: &str, writer: &Schema, reader: &Schema, findings: &mut Findings) {
        let way = findings.way;
        let always = names(writer.get("required"));
        for name in names(reader.get("required")) {
            if !always.contains(&name) {
                findings.breaks(
                    &format!("{path}/required"),
                    format!(
                        "{name:?} is required by the {} schema, the {} one may leave it out",
                        way.reader(),
                        way.writer()
                    ),
                    way.remedy("make it optional", "keep it required"),
                );
            }
        }
        let all = Map::new();
        let of = |schema: &'_ Schema| {
            schema.get("properties").and_then(Value::as_object).cloned().unwrap_or_else(|| all.clone())
        };
        let (written, read) = (of(writer), of(reader));
        let others =
            |schema: &Schema| schema.get("additionalProperties").cloned().unwrap_or(Value::Bool(true));
        let (other_written, other_read) = (others(writer), others(reader));
        // What a pattern takes is not among the others, and names are not matched here.
        let patterns =
            |schema: &Schema| schema.get("patternProperties").cloned().filter(|all| *all != json!({}));
        match (patterns(writer), patterns(reader)) {
            (None, None) => {}
            // It is told by `rules`.
            (have, want @ Some(_)) if have != want => return,
            (_, want) => {
                let is_new = |(name, to): (&String, &Value)| !written.contains_key(name) && !is_true(to);
                if want.is_none() && !is_true(&other_read) || read.iter().any(is_new) {
                    findings.unknown(
                        &format!("{path}/patternProperties"),
                        format!("which names the patterns of the {} schema take", way.writer()),
                        "compare it by hand",
                    );
                    return;
                }
            }
        }
        let mut known: Vec<&String> = written.keys().chain(read.keys()).collect();
        known.sort_unstable();
        known.dedup();
        for name in known {
            let from = written.get(name).unwrap_or(&other_written);
            let path = format!("{path}/properties/{}", name.replace('~', "~0").replace('/', "~1"));
            match read.get(name) {
                Some(to) if !written.contains_key(name) && is_true(&other_written) => {
                    if !is_true(to) {
                        findings.warn(
                            &path,
                            format!("the {} schema lets anything be there", way.writer()),
                            "good only if nobody wrote it",
                        );
                    }
                }
                Some(to) => self.compare(&path, from, to, findings),
                None if is_false(&other_read) && !is_false(from) => findings.breaks(
                    &path,
                    format!("the {} schema does not know it and takes no others", way.reader()),
                    way.remedy("keep it, or allow additionalProperties", "write it once all readers know it"),
                ),
                None => self.compare(&path, from, &other_read, findings),
            }
        }
        self.compare(&format!("{path}/additionalProperties"), &other_written, &other_read, findings);
    }

    fn items(&mut self, path: &str, writer: &Schema, reader: &Schema, findings: &mut Findings) {
        let ((first_written, rest_written), (first_read, rest_read)) = (tuple(writer), tuple(reader));
        let most = writer.get("maxItems").and_then(Value::as_u64).unwrap_or(u64::MAX);
        for index in 0..first_written.len().max(first_read.len()) {
            if index as u64 >= most {
                return;
            }
            let from = first_written.get(index).unwrap_or(&rest_written);
            let to = first_read.get(index).unwrap_or(&rest_read);
            self.compare(&format!("{path}/prefixItems/{index}"), from, to, findings);
        }
        if first_written.len().max(first_read.len()) as u64 != most {
            self.compare(&format!("{path}/items"), &rest_written, &rest_read, findings);
        }
    }
}

/// Whether two schemas say the same by a keyword and those that it belongs to.
fn has_same(writer: &Schema, reader: &Schema, key: &str) -> bool {
    let group = GROUPS.into_iter().find(|group| group.contains(&key)).unwrap_or_default();
    group.iter().chain([&key]).all(|key| writer.get(*key) == reader.get(*key))
}

/// Items with a schema of their own, and that of the others; by the names of 2020-12 and by the older ones.
fn tuple(schema: &Schema) -> (Vec<Value>, Value) {
    let or_any = |key: &str| schema.get(key).cloned().unwrap_or(Value::Bool(true));
    match (schema.get("prefixItems"), schema.get("items")) {
        (Some(Value::Array(first)), _) => (first.clone(), or_any("items")),
        (_, Some(Value::Array(first))) => (first.clone(), or_any("additionalItems")),
        _ => (Vec::new(), or_any("items")),
    }
}

fn type_of(path: &str, writer: &Schema, reader: &Schema, findings: &mut Findings) {
    let (written, read) = (types(writer), types(reader));
    let refused: Vec<&str> = written.into_iter().filter(|kind| !read.contains(kind)).collect();
    if !refused.is_empty() {
        findings.breaks(
            &format!("{path}/type"),
            format!("{} is not allowed by the {} schema", refused.join(", "), findings.way.reader()),
            findings.way.remedy("keep the type among those allowed", "keep to the types that were allowed"),
        );
    }
}

/// The bound of a schema and whether it is left out, the narrower one if there are two.
fn bound(schema: &Schema, [with, without]: [&str; 2], is_lower: bool) -> Option<(f64, bool)> {
    let bounds = [
        schema.get(with).and_then(Value::as_f64).map(|bound| (bound, false)),
        schema.get(without).and_then(Value::as_f64).map(|bound| (bound, true)),
    ];
    let narrower = |one: (f64, bool), other: (f64, bool)| {
        let first = if one.0 == other.0 { one.1 } else { (one.0 > other.0) == is_lower };
        if first { one } else { other }
    };
    bounds.into_iter().flatten().reduce(narrower)
}

fn bounds(path: &str, writer: &Schema, reader: &Schema, keys: [&str; 2], findings: &mut Findings) {
    let is_lower = keys == LOWER;
    // In draft-04 it says of the other one whether the bound is left out.
    if reader.get(keys[1]).is_some_and(Value::is_boolean)
        || writer.get(keys[1]).is_some_and(Value::is_boolean)
    {
        let what = format!("{} is a boolean, as in draft-04", keys[1]);
        findings.unknown(&format!("{path}/{}", keys[1]), what, "use a number");
        return;
    }
    let Some((wanted, is_left_out)) = bound(reader, keys, is_lower) else { return };
    let follows = bound(writer, keys, is_lower).is_some_and(|(have, leaves_out)| {
        if have == wanted { leaves_out || !is_left_out } else { (have > wanted) == is_lower }
    });
    if !follows {
        findings.breaks(
            &format!("{path}/{}", keys[usize::from(is_left_out)]),
            format!("the {} schema allows more than {wanted}", findings.way.writer()),
            findings.way.remedy("keep the bound as it was", "keep within the bound that was there"),
        );
    }
}

fn multiple_of(path: &str, writer: &Schema, reader: &Schema, is_whole: bool, findings: &mut Findings) {
    let Some(wanted) = reader.get("multipleOf").and_then(Value::as_f64) else { return };
    let have = writer.get("multipleOf").and_then(Value::as_f64).or(is_whole.then_some(1.0));
    // Of numbers that are not whole the quotient is not exact; the same one follows all the same.
    let follows = have.is_some_and(|have| {
        have == wanted || have.fract() == 0.0 && wanted.fract() == 0.0 && have % wanted == 0.0
    });
    if !follows {
        let what = format!("the {} schema allows what is no multiple of {wanted}", findings.way.writer());
        findings.breaks(&format!("{path}/multipleOf"), what, "keep it as it was");
    }
}

/// A least and a most, of what the writer has at `least` at least.
fn count(
    path: &str,
    writer: &Schema,
    reader: &Schema,
    (min, max): (&str, &str),
    least: u64,
    findings: &mut Findings,
) {
    let number = |schema: &Schema, key: &str| schema.get(key).and_then(Value::as_f64);
    let way = findings.way;
    if let Some(wanted) = number(reader, min)
        && number(writer, min).unwrap_or_default().max(least as f64) < wanted
    {
        let what = format!("the {} schema allows less than {wanted}", way.writer());
        findings.breaks(&format!("{path}/{min}"), what, "keep the bound as it was");
    }
    if let Some(wanted) = number(reader, max)
        && number(writer, max).is_none_or(|have| have > wanted)
    {
        let what = format!("the {} schema allows more than {wanted}", way.writer());
        findings.breaks(&format!("{path}/{max}"), what, "keep the bound as it was");
    }
}

/// A rule for texts, of which one cannot be seen to follow from another.
fn text_rule(path: &str, key: &str, writer: &Schema, reader: &Schema, findings: &mut Findings) {
    let path = format!("{path}/{key}");
    match (writer.get(key), reader.get(key)) {
        (_, None) => {}
        (None, Some(wanted)) => findings.breaks(
            &path,
            format!(
                "the {} schema allows any text, the {} one only {wanted}",
                findings.way.writer(),
                findings.way.reader()
            ),
            findings.way.remedy("leave it out", "keep it"),
        ),
        (Some(have), Some(wanted)) if have == wanted => {}
        (Some(have), Some(wanted)) => {
            findings.unknown(&path, format!("whether {wanted} follows from {have}"), "compare it by hand");
        }
    }
}

fn unique(path: &str, writer: &Schema, reader: &Schema, findings: &mut Findings) {
    let is_unique =
        |schema: &Schema| schema.get("uniqueItems").is_some_and(|unique| *unique == Value::Bool(true));
    let at_most_one = writer.get("maxItems").and_then(Value::as_u64).is_some_and(|most| most < 2);
    if is_unique(reader) && !is_unique(writer) && !at_most_one {
        let what = format!("the {} schema allows the same item twice", findings.way.writer());
        findings.breaks(&format!("{path}/uniqueItems"), what, "keep it as it was");
    }
}

fn names(list: Option<&Value>) -> Vec<&str> {
    list.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect()
}

/// Keywords that are compared by their meaning.
fn is_judged(key: &str) -> bool {
    matches!(
        key,
        "type"
            | "enum"
            | "const"
            | "minimum"
            | "exclusiveMinimum"
            | "maximum"
            | "exclusiveMaximum"
            | "multipleOf"
            | "minLength"
            | "maxLength"
            | "pattern"
            | "format"
            | "minItems"
            | "maxItems"
            | "uniqueItems"
            | "items"
            | "prefixItems"
            | "additionalItems"
            | "minProperties"
            | "maxProperties"
            | "required"
            | "properties"
            | "additionalProperties"
            | "propertyNames"
            | "patternProperties"
            | "dependentRequired"
            | "dependentSchemas"
            | "unevaluatedProperties"
            | "contains"
            | "minContains"
            | "maxContains"
            | "unevaluatedItems"
            | "allOf"
            | "anyOf"
            | "oneOf"
            | "$ref"
    )
}
