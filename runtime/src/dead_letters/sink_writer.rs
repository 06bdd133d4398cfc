//! Dead letters that go to a sink: the message as it was read, with what became of it as headers.

use std::collections::HashSet;

use anyhow::{Context, bail};
use async_trait::async_trait;

use super::store::DeadLetterStore;
use super::story::with_story;
use super::{DeadLetter, DeadLetterWriter};
use crate::message::{BatchBuilder, MessageRef};
use crate::sinks::{Outcome, Outcomes, Sink};

/// Bytes of messages that are copied for one call.
const CALL_BYTES: usize = 32 << 20;

/// Writes dead letters to any sink. A message that the sink refuses is an error like any other, unless
/// there is another place to put it: the pipeline waits.
pub struct SinkWriter {
    sink: Box<dyn Sink>,
    /// Messages in a call, at most.
    batch: usize,
    /// Ids of those that are durable while others of the same write are not: a pipeline that calls
    /// again with the same dead letters does not write these twice.
    durable: HashSet<String>,
}

impl SinkWriter {
    pub fn new(sink: Box<dyn Sink>, batch: usize) -> SinkWriter {
        SinkWriter { sink, batch: batch.max(1), durable: HashSet::new() }
    }

    /// Writes all that the sink takes, and returns what it refuses for good, with its words.
    pub async fn write_some<'l>(
        &mut self,
        letters: &'l [DeadLetter],
    ) -> anyhow::Result<Vec<(&'l DeadLetter, String)>> {
        let mut refused = Vec::new();
        let mut rest: Vec<&DeadLetter> =
            letters.iter().filter(|letter| !self.durable.contains(&letter.id)).collect();
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = rest.iter().take(self.batch).take_while(|letter| {
                let fits = bytes < CALL_BYTES;
                bytes += letter.message.payload.as_ref().map_or(0, Vec::len);
                fits
            });
            let call: Vec<&DeadLetter> = rest.drain(..fits.count()).collect();
            let refused_now = self.call(&call).await.context("the sink of the dead letters did not take")?;
            refused.extend(refused_now);
        }
        Ok(refused)
    }

    async fn call<'l>(
        &mut self,
        letters: &[&'l DeadLetter],
    ) -> anyhow::Result<Vec<(&'l DeadLetter, String)>> {
        let mut builder = BatchBuilder::new();
        for letter in letters {
            builder.push_message(&with_story(letter), letter.position);
        }
        let batch = builder.finish();
        let messages: Vec<MessageRef<'_>> = batch.messages().collect();
        let outcomes = match self.sink.write(&messages).await? {
            Outcomes::AllDurable => {
                self.durable.extend(letters.iter().map(|letter| letter.id.clone()));
                return Ok(Vec::new());
            }
            Outcomes::Each(outcomes) => outcomes,
            Outcomes::Until(outcomes, why) => {
                let not_written = || Outcome::Later { reason: why.to_string(), after: None };
                outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(not_written)).collect()
            }
        };
        if outcomes.len() != letters.len() {
            bail!(
                "the sink of the dead letters told {} outcomes for {} messages",
                outcomes.len(),
                letters.len()
            );
        }
        let (mut failed, mut refused) = (Vec::new(), Vec::new());
        for (letter, outcome) in letters.iter().copied().zip(outcomes) {
            match outcome {
                Outcome::Durable => drop(self.durable.insert(letter.id.clone())),
                Outcome::Retry { reason, .. } | Outcome::Later { reason, .. } => {
                    failed.push((letter, reason))
                }
                Outcome::Reject { code, reason } => {
                    refused.push((letter, format!("the sink refuses it for good ({code}): {reason}")));
                }
            }
        }
        none_of(&failed, letters.len()).map(|()| refused)
    }
}

/// An error if there are any of these, of so many.
fn none_of(failed: &[(&DeadLetter, String)], all: usize) -> anyhow::Result<()> {
    match failed.first() {
        None => Ok(()),
        Some((letter, reason)) => bail!("{} of {all} dead letters; {}: {reason}", failed.len(), letter.id),
    }
}

#[async_trait]
impl DeadLetterWriter for SinkWriter {
    async fn write(&mut self, letters: &[DeadLetter]) -> anyhow::Result<()> {
        let refused = self.write_some(letters).await?;
        none_of(&refused, letters.len()).context("the sink of the dead letters did not take")?;
        self.durable.clear();
        Ok(())
    }
}

/// Writes dead letters to a sink, and to the embedded store what the sink refuses for good.
pub struct Overflow {
    pub sink: SinkWriter,
    pub store: DeadLetterStore,
}

#[async_trait]
impl DeadLetterWriter for Overflow {
    async fn write(&mut self, letters: &[DeadLetter]) -> anyhow::Result<()> {
        let refused = self.sink.write_some(letters).await?;
        for (letter, why) in &refused {
            tracing::warn!(id = letter.id, "a dead letter goes to the embedded store, {why}");
        }
        let refused: Vec<DeadLetter> = refused.into_iter().map(|(letter, _)| letter.clone()).collect();
        if !refused.is_empty() {
            self.store.write(&refused).await?;
        }
        self.sink.durable.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::super::testing::letter;
    use super::*;
    use crate::message::Message;
    use crate::sinks::CallError;

    /// Remembers what it is given, and answers with what it was told to.
    #[derive(Clone, Default)]
    struct Scripted {
        calls: Arc<Mutex<Vec<Vec<Message>>>>,
        answers: Arc<Mutex<Vec<Result<Outcomes, CallError>>>>,
    }

    #[async_trait]
    impl Sink for Scripted {
        async fn write(&mut self, messages: &[MessageRef<'_>]) -> Result<Outcomes, CallError> {
            self.calls.lock().unwrap().push(messages.iter().map(MessageRef::to_owned).collect());
            let mut answers = self.answers.lock().unwrap();
            if answers.is_empty() { Ok(Outcomes::AllDurable) } else { answers.remove(0) }
        }
    }

    fn writer(answers: Vec<Result<Outcomes, CallError>>, batch: usize) -> (Scripted, SinkWriter) {
        let sink = Scripted { answers: Arc::new(Mutex::new(answers)), ..Scripted::default() };
        (sink.clone(), SinkWriter::new(Box::new(sink), batch))
    }

    fn payloads(sink: &Scripted) -> Vec<Vec<String>> {
        let text = |message: &Message| String::from_utf8(message.payload.clone().unwrap()).unwrap();
        sink.calls.lock().unwrap().iter().map(|call| call.iter().map(text).collect()).collect()
    }

    #[tokio::test]
    async fn p5_the_original_goes_out_with_its_story() {
        let (sink, mut writer) = writer(Vec::new(), 10);
        let mut original = letter(1);
        original.message.headers.push((b"Millstream-DLQ-Id".to_vec(), b"older".to_vec()));
        writer.write(&[original]).await.unwrap();
        let written = sink.calls.lock().unwrap()[0][0].clone();
        let expected = letter(1).message;
        assert_eq!((&written.payload, &written.key), (&expected.payload, &expected.key));
        assert_eq!(written.headers[..2], expected.headers);
        let story: Vec<String> = written.headers[2..]
            .iter()
            .map(|(name, value)| {
                format!("{}={}", String::from_utf8_lossy(name), String::from_utf8_lossy(value))
            })
            .collect();
        assert_eq!(
            story,
            [
                "millstream-dlq-id=0000000000000001",
                "millstream-dlq-pipeline=orders",
                "millstream-dlq-source=file:orders",
                "millstream-dlq-position=orders.ndjson line 1",
                "millstream-dlq-at=3/1/1",
                "millstream-dlq-stage=plugin:jq-2",
                "millstream-dlq-plugin-step=jq-2",
                "millstream-dlq-plugin=jq",
                "millstream-dlq-plugin-version=0.1.0",
                &format!("millstream-dlq-plugin-sha256={}", "ab".repeat(32)),
                "millstream-dlq-code=trap",
                "millstream-dlq-reason=Cannot index number with \"a\" in message 1",
                "millstream-dlq-trap=unreachable",
                "millstream-dlq-attempts=2",
                "millstream-dlq-read-at=1970-01-01T00:00:01.001Z",
                "millstream-dlq-failed-at=1970-01-01T00:00:02.001Z",
                "millstream-dlq-timestamp=1970-01-01T00:00:00.017Z",
                "millstream-dlq-trace-id=0af7651916cd43dd8448eb211c80319c",
                "millstream-dlq-replays=0",
                "millstream-dlq-sinks=a",
            ]
        );
    }

    #[tokio::test]
    async fn p1_what_the_sink_did_not_take_is_an_error_and_alone_is_written_again() {
        let reject = Outcome::Reject { code: "http-400", reason: "too long".to_owned() };
        let (sink, mut writer) =
            writer(vec![Ok(Outcomes::Each(vec![Outcome::Durable, reject, Outcome::Durable]))], 10);
        let letters = [letter(1), letter(2), letter(3)];
        let error = format!("{:#}", writer.write(&letters).await.unwrap_err());
        assert!(error.contains("1 of 3 dead letters; 0000000000000002"), "{error}");
        assert!(error.contains("(http-400): too long"), "{error}");
        writer.write(&letters).await.unwrap();
        writer.write(&letters[..1]).await.unwrap();
        let expected =
            [vec![r#"{"n":1}"#, r#"{"n":2}"#, r#"{"n":3}"#], vec![r#"{"n":2}"#], vec![r#"{"n":1}"#]];
        assert_eq!(payloads(&sink), expected);
    }

    #[tokio::test]
    async fn what_the_sink_refuses_for_good_goes_to_the_embedded_store() {
        let folder = tempfile::tempdir().unwrap();
        let folder = crate::store::DataFolder::open(folder.path(), "orders").unwrap();
        let store = DeadLetterStore::new(&folder, std::time::Duration::from_secs(60));
        let reject = || Outcome::Reject { code: "too-large", reason: "too long".to_owned() };
        let later = || Outcome::Later { reason: "not yet".to_owned(), after: None };
        let (sink, writer) = writer(
            vec![
                Ok(Outcomes::Each(vec![Outcome::Durable, reject(), later()])),
                Ok(Outcomes::Each(vec![reject(), Outcome::Durable])),
            ],
            10,
        );
        let mut writer = Overflow { sink: writer, store: store.clone() };
        let letters = [letter(1), letter(2), letter(3)];
        let error = format!("{:#}", writer.write(&letters).await.unwrap_err());
        assert!(error.contains("1 of 3 dead letters; 0000000000000003: not yet"), "{error}");
        writer.write(&letters).await.unwrap();
        let page = store.page(&Default::default(), 0, u64::MAX >> 1).unwrap();
        assert_eq!(page.letters, [letter(2)]);
        assert_eq!(payloads(&sink)[1], [r#"{"n":2}"#, r#"{"n":3}"#]);
    }

    #[tokio::test]
    async fn p1_too_few_outcomes_are_an_error() {
        let (_, mut writer) = writer(vec![Ok(Outcomes::Each(vec![Outcome::Durable]))], 10);
        let error = format!("{:#}", writer.write(&[letter(1), letter(2)]).await.unwrap_err());
        assert!(error.contains("1 outcomes for 2 messages"), "{error}");
    }

    #[tokio::test]
    async fn an_unavailable_sink_is_an_error_that_can_be_told_from_others() {
        let down = CallError::Unavailable {
            reason: "connection refused".to_owned(),
            retry_after: None,
            credentials: false,
        };
        let (_, mut writer) = writer(vec![Err(down)], 10);
        let error = writer.write(&[letter(1)]).await.unwrap_err();
        assert!(matches!(error.downcast_ref(), Some(CallError::Unavailable { .. })), "{error:#}");
    }

    #[tokio::test]
    async fn calls_hold_as_many_as_the_sink_wants() {
        let (sink, mut writer) = writer(Vec::new(), 2);
        writer.write(&[letter(1), letter(2), letter(3)]).await.unwrap();
        assert_eq!(payloads(&sink), [vec![r#"{"n":1}"#, r#"{"n":2}"#], vec![r#"{"n":3}"#]]);
    }
}
