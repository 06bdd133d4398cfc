//! Defaults of fields, which schemas give in a JSON of their own: bytes are a text of code points.

use serde_json::Value as Json;

use super::plan::{Node, NodeId, Plan};
use super::write::{Writer, bytes, length};
use crate::error::At;
use crate::{Error, ExtraFields, MAX_DEPTH};

/// Appends a default as a value of the node. After an error something may have been appended.
pub fn write(plan: &Plan, node: NodeId, json: &Json, out: &mut Vec<u8>) -> Result<(), Error> {
    match (plan.node(node), json) {
        (Node::Bytes | Node::Decimal { fixed: None, .. }, Json::String(text)) => {
            bytes(&code_points(text)?, out);
        }
        (Node::Fixed { size, .. } | Node::Decimal { fixed: Some((_, size)), .. }, Json::String(text)) => {
            let given = code_points(text)?;
            if given.len() != *size {
                return Err(Error::new(format!("{} bytes where {size} are wanted", given.len())));
            }
            out.extend_from_slice(&given);
        }
        (Node::Array(items), Json::Array(list)) => {
            if !list.is_empty() {
                length(list.len(), out);
            }
            for (at, json) in list.iter().enumerate() {
                write(plan, *items, json, out).at(at)?;
            }
            length(0, out);
        }
        (Node::Map(values), Json::Object(entries)) => {
            if !entries.is_empty() {
                length(entries.len(), out);
            }
            for (key, json) in entries {
                bytes(key.as_bytes(), out);
                write(plan, *values, json, out).at(key)?;
            }
            length(0, out);
        }
        (Node::Record(record), Json::Object(given)) => {
            for field in &record.fields {
                match (given.get(&field.name), &field.default) {
                    (Some(json), _) => write(plan, field.node, json, out).at(&field.name)?,
                    (None, Some(default)) => out.extend_from_slice(default),
                    (None, None) => {
                        return Err(Error::new("missing, and has no default").at(&field.name));
                    }
                }
            }
        }
        // Of the first branch, or since Avro 1.12 of any.
        (Node::Union(union), json) => {
            let before = out.len();
            let fits = union.branches.iter().enumerate().any(|(at, (_, branch))| {
                out.truncate(before);
                length(at, out);
                write(plan, *branch, json, out).is_ok()
            });
            if !fits {
                return Err(Error::new(format!("{json} fits no branch of the union")));
            }
        }
        (_, json) => {
            let model = crate::json::decode(json.to_string().as_bytes())?;
            Writer { plan, extra: ExtraFields::Reject, out }.value(node, &model, MAX_DEPTH)?;
        }
    }
    Ok(())
}

fn code_points(text: &str) -> Result<Vec<u8>, Error> {
    text.chars()
        .map(|char| u8::try_from(u32::from(char)).map_err(|_| Error::new(format!("{char:?} is no byte"))))
        .collect()
}
