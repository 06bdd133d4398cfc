//! Other schemas that a schema refers to.

use std::collections::BTreeMap;
use std::sync::Arc;

use jsonschema::{Retrieve, Uri};
use serde_json::Value;

use crate::config::{Mistake, schema};

/// Schemas by their URIs, in place of everything that could be fetched.
#[derive(Clone, Debug, Default)]
pub struct References(Arc<BTreeMap<String, Value>>);

/// A `$ref` leads to none of them.
#[derive(Debug)]
struct NotGiven;

impl References {
    /// # Errors
    /// One of them is not JSON.
    pub fn new(given: BTreeMap<String, Value>) -> Result<References, Mistake> {
        let read = |(uri, value): (String, Value)| -> Result<(String, Value), Mistake> {
            let field = || format!("/references/{}", uri.replace('~', "~0").replace('/', "~1"));
            let schema = schema(field, value)?;
            // An empty fragment says nothing.
            Ok((uri.strip_suffix('#').map_or(uri.clone(), str::to_owned), schema))
        };
        Ok(References(Arc::new(given.into_iter().map(read).collect::<Result<_, _>>()?)))
    }
}

impl Retrieve for References {
    fn retrieve(&self, uri: &Uri<String>) -> Result<Value, Box<dyn std::error::Error + Send + Sync>> {
        self.0.get(uri.as_str()).cloned().ok_or_else(|| NotGiven.into())
    }
}

impl std::fmt::Display for NotGiven {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("nothing is fetched; give this schema in `references`, by this URI")
    }
}

impl std::error::Error for NotGiven {}
