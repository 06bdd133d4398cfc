//! Defaults of fields, which schemas give in a JSON of their own: bytes are a text of code points.

use apache_avro::types::Value as Avro;
use serde_json::Value as Json;

use super::plan::{Node, NodeId, Plan};
use super::write;
use crate::error::At;
use crate::{Error, ExtraFields, MAX_DEPTH};

pub fn value(plan: &Plan, node: NodeId, json: &Json) -> Result<Avro, Error> {
    match (plan.node(node), json) {
        (Node::Bytes, Json::String(text)) => Ok(Avro::Bytes(code_points(text)?)),
        (Node::Fixed { size, .. }, Json::String(text)) => {
            let bytes = code_points(text)?;
            match bytes.len() == *size {
                true => Ok(Avro::Fixed(*size, bytes)),
                false => Err(Error::new(format!("{} bytes where {size} are wanted", bytes.len()))),
            }
        }
        (Node::Decimal { .. }, Json::String(text)) => Ok(Avro::Decimal(code_points(text)?.into())),
        (Node::Array(items), Json::Array(list)) => {
            let items = list.iter().enumerate().map(|(at, json)| value(plan, *items, json).at(at));
            Ok(Avro::Array(items.collect::<Result<_, _>>()?))
        }
        (Node::Map(values), Json::Object(entries)) => {
            let entries =
                entries.iter().map(|(key, json)| Ok((key.clone(), value(plan, *values, json).at(key)?)));
            Ok(Avro::Map(entries.collect::<Result<_, Error>>()?))
        }
        (Node::Record(record), Json::Object(given)) => {
            let field = |field: &super::plan::Field| {
                let found = match given.get(&field.name) {
                    Some(json) => value(plan, field.node, json),
                    None => field.default.clone().ok_or_else(|| Error::new("missing, and has no default")),
                };
                Ok((field.name.clone(), found.at(&field.name)?))
            };
            Ok(Avro::Record(record.fields.iter().map(field).collect::<Result<_, Error>>()?))
        }
        // Of the first branch, or since Avro 1.12 of any.
        (Node::Union(union), json) => {
            let mut branches = union.branches.iter().enumerate();
            let found = branches.find_map(|(at, (_, branch))| Some((at, value(plan, *branch, json).ok()?)));
            let (at, value) =
                found.ok_or_else(|| Error::new(format!("{json} fits no branch of the union")))?;
            Ok(Avro::Union(at as u32, Box::new(value)))
        }
        (_, json) => {
            let model = crate::json::decode(json.to_string().as_bytes())?;
            write::value(plan, node, &model, ExtraFields::Reject, MAX_DEPTH)
        }
    }
}

fn code_points(text: &str) -> Result<Vec<u8>, Error> {
    text.chars()
        .map(|char| u8::try_from(u32::from(char)).map_err(|_| Error::new(format!("{char:?} is no byte"))))
        .collect()
}
