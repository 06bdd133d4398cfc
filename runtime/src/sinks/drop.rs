//! `drop`: takes everything and keeps nothing, to measure what comes before it.

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;

use super::{CallError, Outcomes, Sink, SinkConfig, SinkContext, SinkSpec, SinkTraits};
use crate::config::parse;
use crate::config::problem::Problem;
use crate::message::MessageRef;

pub const SPEC: SinkSpec = SinkSpec {
    name: "drop",
    schema: || schemars::schema_for!(DropSink),
    example: "[[sink]]\ntype = \"drop\"\n",
    default_codec: "raw",
    parse: |value| Ok(Box::new(parse::<DropSink>(value)?)),
};

/// Drops every message and counts it as delivered. It has no settings.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct DropSink {}

impl SinkConfig for DropSink {
    fn check(&self, _: &SinkContext, _: &mut Vec<Problem>) {}

    fn sends_headers(&self) -> bool {
        true
    }

    fn traits(&self) -> SinkTraits {
        SinkTraits::with_batch(8192)
    }

    fn open(self: Box<Self>, _: SinkContext) -> anyhow::Result<Box<dyn Sink>> {
        Ok(self)
    }
}

#[async_trait]
impl Sink for DropSink {
    async fn write(&mut self, _: &[MessageRef<'_>]) -> Result<Outcomes, CallError> {
        Ok(Outcomes::AllDurable)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{batch, context};
    use super::*;

    #[tokio::test]
    async fn takes_everything() {
        let batch = batch(&["a", "b"]);
        let config = (SPEC.parse)(serde_json::json!({})).unwrap_or_else(|problems| panic!("{problems:?}"));
        let mut sink = config.open(context(".")).unwrap();
        let outcomes = sink.write(&batch.messages().collect::<Vec<_>>()).await.unwrap();
        assert!(matches!(outcomes, Outcomes::AllDurable));
        assert!((SPEC.parse)(serde_json::json!({ "path": "x" })).is_err());
    }
}
