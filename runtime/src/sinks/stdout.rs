//! `stdout`: one message a line.

use std::io::{self, Write};
use std::sync::mpsc;

use anyhow::Context;
use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::sync::oneshot;

use super::lines::{encode_lines, reuse};
use super::{CallError, Outcomes, Sink, SinkConfig, SinkContext, SinkSpec, SinkTraits};
use crate::config::parse;
use crate::config::problem::Problem;
use crate::message::MessageRef;

pub const SPEC: SinkSpec = SinkSpec {
    name: "stdout",
    schema: || schemars::schema_for!(Stdout),
    example: "[[sink]]\ntype = \"stdout\"\n",
    default_codec: "lines",
    parse: |value| Ok(Box::new(parse::<Stdout>(value)?)),
};

/// Writes one message a line to the standard output. Whoever reads it may still lose it, so a
/// pipeline with this sink cannot promise more than at-most-once for it. It has no settings.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Stdout {}

impl SinkConfig for Stdout {
    fn check(&self, _: &SinkContext, _: &mut Vec<Problem>) {}

    fn traits(&self) -> SinkTraits {
        SinkTraits {
            not_durable: Some("what reads the standard output may lose it"),
            ..SinkTraits::with_batch(8192)
        }
    }

    fn open(self: Box<Self>, context: SinkContext) -> anyhow::Result<Box<dyn Sink>> {
        Ok(Box::new(LineSink::new(io::stdout(), context)?))
    }
}

/// Writes lines from a thread of its own: a pipe that nobody reads blocks for good, which may hold
/// up neither the other sinks nor the end of the process.
struct LineSink {
    context: SinkContext,
    writer: mpsc::Sender<Job>,
    buffer: Vec<u8>,
}

struct Job {
    buffer: Vec<u8>,
    done: oneshot::Sender<(Vec<u8>, io::Result<()>)>,
}

impl LineSink {
    fn new(mut out: impl Write + Send + 'static, context: SinkContext) -> anyhow::Result<LineSink> {
        let (writer, jobs) = mpsc::channel::<Job>();
        let head = context.codec.head();
        std::thread::Builder::new()
            .name("stdout".to_owned())
            .spawn(move || {
                let mut head = head.unwrap_or_default();
                for Job { buffer, done } in jobs {
                    let written = out
                        .write_all(&std::mem::take(&mut head))
                        .and_then(|()| out.write_all(&buffer))
                        .and_then(|()| out.flush());
                    // Nobody waits for it if the write was given up at the deadline of a stop.
                    let _ = done.send((buffer, written));
                }
            })
            .context("cannot start the thread that writes to stdout")?;
        Ok(LineSink { context, writer, buffer: Vec::new() })
    }
}

#[async_trait]
impl Sink for LineSink {
    async fn write(&mut self, messages: &[MessageRef<'_>]) -> Result<Outcomes, CallError> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let outcomes = encode_lines(&*self.context.codec, messages, &mut buffer);
        let (done, written) = oneshot::channel();
        let ended = || CallError::Fatal("the thread that writes to stdout has ended".to_owned());
        self.writer.send(Job { buffer, done }).map_err(|_| ended())?;
        let (buffer, written) = written.await.map_err(|_| ended())?;
        self.buffer = reuse(buffer);
        match written {
            Ok(()) => Ok(outcomes),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                Err(CallError::Fatal("nobody reads the standard output any more (broken pipe)".to_owned()))
            }
            Err(error) => Err(CallError::Fatal(format!("cannot write to the standard output: {error}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::sync::Arc;

    use super::super::testing::{Plain, batch, context};
    use super::super::{Outcome, SinkContext};
    use super::*;

    #[tokio::test]
    async fn one_message_a_line_behind_the_head() {
        let (mut reader, writer) = io::pipe().unwrap();
        let codec = Arc::new(Plain { head: Some("n\n"), media_type: "text/csv" });
        let mut sink = LineSink::new(writer, SinkContext { codec, ..context(".") }).unwrap();
        let batch = batch(&["1", "unencodable", "3"]);
        let messages: Vec<_> = batch.messages().collect();
        let Outcomes::Each(outcomes) = sink.write(&messages).await.unwrap() else { panic!("all durable") };
        assert_eq!(outcomes[0], Outcome::Durable);
        assert!(matches!(outcomes[1], Outcome::Reject { code: "encode-error", .. }));
        assert!(matches!(sink.write(&messages[..1]).await.unwrap(), Outcomes::AllDurable));
        drop(sink);
        let mut written = String::new();
        reader.read_to_string(&mut written).unwrap();
        assert_eq!(written, "n\n1\n3\n1\n");
    }

    #[tokio::test]
    async fn a_broken_pipe_is_fatal_and_says_so() {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let mut sink = LineSink::new(writer, context(".")).unwrap();
        let batch = batch(&["1"]);
        let error = sink.write(&batch.messages().collect::<Vec<_>>()).await.unwrap_err();
        assert!(matches!(&error, CallError::Fatal(reason) if reason.contains("broken pipe")), "{error}");
    }
}
