//! A sink whose codec needs something from elsewhere before it can write: its schema.

use std::sync::Arc;

use async_trait::async_trait;

use super::{CallError, Outcomes, Sink};
use crate::codecs::Encoder;
use crate::message::MessageRef;

/// Waits for the codec before each call: until then the sink is unavailable.
struct Prepared {
    codec: Arc<dyn Encoder>,
    sink: Box<dyn Sink>,
}

/// The sink, or one around it if its codec has to be prepared.
pub fn prepared(codec: Arc<dyn Encoder>, sink: Box<dyn Sink>) -> Box<dyn Sink> {
    let has_to_be = codec.prepare().is_some();
    if has_to_be { Box::new(Prepared { codec, sink }) } else { sink }
}

#[async_trait]
impl Sink for Prepared {
    async fn write(&mut self, messages: &[MessageRef<'_>]) -> Result<Outcomes, CallError> {
        if let Some(ready) = self.codec.prepare() {
            ready.await.map_err(|why| match why.is_final {
                true => CallError::Fatal(why.reason),
                false => CallError::Unavailable {
                    reason: why.reason,
                    retry_after: why.retry_after,
                    credentials: why.credentials,
                },
            })?;
        }
        self.sink.write(messages).await
    }

    async fn close(&mut self) -> anyhow::Result<()> {
        self.sink.close().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codecs::{EncodeError, Ends, Needs, NotReady};
    use crate::sinks::testing::batch;
    use std::sync::Mutex;

    /// Is ready, or not, in turn.
    struct Codec(Mutex<Vec<Result<(), NotReady>>>);

    impl Encoder for Codec {
        fn prepare(&self) -> Option<Needs<'_>> {
            Some(Box::pin(async { self.0.lock().unwrap().pop().unwrap_or(Ok(())) }))
        }

        fn encode(&self, _: &MessageRef<'_>, _: &mut Vec<u8>) -> Result<(), EncodeError> {
            Ok(())
        }

        fn ends(&self) -> Ends {
            Ends::LineBreaks
        }

        fn media_type(&self) -> &'static str {
            "text/plain"
        }
    }

    /// Counts its calls.
    struct Counting(Arc<Mutex<usize>>);

    #[async_trait]
    impl Sink for Counting {
        async fn write(&mut self, _: &[MessageRef<'_>]) -> Result<Outcomes, CallError> {
            *self.0.lock().unwrap() += 1;
            Ok(Outcomes::AllDurable)
        }
    }

    #[tokio::test]
    async fn nothing_is_written_before_the_codec_is_ready() {
        let why =
            |is_final| NotReady { reason: "away".into(), retry_after: None, credentials: true, is_final };
        let codec = Arc::new(Codec(Mutex::new(vec![Ok(()), Err(why(true)), Err(why(false))])));
        let calls = Arc::new(Mutex::new(0));
        let mut sink = prepared(codec, Box::new(Counting(Arc::clone(&calls))));
        let batch = batch(&["a"]);
        let messages: Vec<_> = batch.messages().collect();
        let error = sink.write(&messages).await.unwrap_err();
        assert!(matches!(error, CallError::Unavailable { credentials: true, .. }), "{error:?}");
        let error = sink.write(&messages).await.unwrap_err();
        assert!(matches!(error, CallError::Fatal(_)), "{error:?}");
        assert_eq!(*calls.lock().unwrap(), 0);
        sink.write(&messages).await.unwrap();
        assert_eq!(*calls.lock().unwrap(), 1);
    }
}
