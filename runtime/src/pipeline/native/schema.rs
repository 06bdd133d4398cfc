//! The check by a JSON Schema, as the plugin `validate-schema` does it.

use std::sync::Arc;

use millstream_schema::{Check, Refusal};

use super::{NativeSpec, NativeStep, Verdict, each};
use crate::message::Batch;
use crate::plugin::Processed;

/// Refuses messages whose payload breaks a schema.
pub struct SchemaCheck(pub Arc<Check>);

impl NativeSpec for SchemaCheck {
    fn name(&self) -> &'static str {
        "schema"
    }

    fn start(&self) -> Box<dyn NativeStep> {
        Box::new(SchemaCheck(Arc::clone(&self.0)))
    }
}

impl NativeStep for SchemaCheck {
    fn process(&mut self, batch: Batch) -> anyhow::Result<Processed> {
        Ok(each(batch, |message, _| match self.0.check(message.payload()) {
            Ok(()) => Verdict::Pass,
            Err(Refusal { code, reason }) => Verdict::reject(code, reason),
        }))
    }
}
