//! The check of a signature, as the plugin `verify-signature` does it.

use std::sync::Arc;

use millstream_signature::{Check, Refusal};

use super::{NativeSpec, NativeStep, Verdict, each};
use crate::message::Batch;
use crate::plugin::Processed;

/// Refuses messages without a valid signature of their payload.
pub struct SignatureCheck(pub Arc<Check>);

impl NativeSpec for SignatureCheck {
    fn name(&self) -> &'static str {
        "signature"
    }

    fn start(&self) -> Box<dyn NativeStep> {
        Box::new(SignatureCheck(Arc::clone(&self.0)))
    }
}

impl NativeStep for SignatureCheck {
    fn process(&mut self, batch: Batch) -> anyhow::Result<Processed> {
        Ok(each(batch, |message, _| match self.0.check(message.header(self.0.header()), message.payload()) {
            Ok(()) => Verdict::Pass,
            Err(Refusal { code, reason }) => Verdict::reject(code, reason),
        }))
    }
}
