//! The codec's part in the lanes: payloads as they were read become what plugins see.

use std::sync::Arc;

use super::{NativeSpec, NativeStep, Verdict, each};
use crate::codecs::{Conversion, Needs};
use crate::message::Batch;
use crate::plugin::Processed;
use crate::sources::DECODE_ERROR;

/// Converts by the codec of the source.
pub struct Convert(pub Arc<dyn Conversion>);

impl NativeSpec for Convert {
    fn name(&self) -> &'static str {
        "codec"
    }

    fn start(&self) -> Box<dyn NativeStep> {
        Box::new(Converting(Arc::clone(&self.0)))
    }
}

struct Converting(Arc<dyn Conversion>);

impl NativeStep for Converting {
    fn needs<'a>(&'a self, batch: &'a Batch) -> Option<Needs<'a>> {
        batch.messages().find_map(|message| self.0.needs(message.payload()?))
    }

    fn process(&mut self, batch: Batch) -> anyhow::Result<Processed> {
        let mut processed = each(batch, |message, out| match self.0.convert(message, out) {
            Ok(true) => Verdict::Payload,
            Ok(false) => Verdict::Pass,
            Err(error) => Verdict::reject(DECODE_ERROR, error.to_string()),
        });
        if let Some(is_own) = self.0.own_headers() {
            processed.batch.drop_headers(is_own);
        }
        Ok(processed)
    }
}
