//! Logs: to standard error, as text or as JSON, without the values of variables.

use std::io::{self, IsTerminal, Write};

use anyhow::Context;
use clap::ValueEnum;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use super::terminal::Stderr;
use crate::config::secrets::Redactor;

/// Variable that says what is logged, in the syntax of `tracing-subscriber`'s `EnvFilter`:
/// `debug`, `warn,millstream::sinks=trace`.
pub const FILTER_VARIABLE: &str = "MILLSTREAM_LOG";

const DEFAULT_FILTER: &str = "warn,millstream=info";

/// How a line of the log looks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line, fields like `pipeline`, `plugin` and `position` on its top level.
    Json,
}

/// Sets up the log of the process. To be called once, before anything is logged.
pub fn init(format: LogFormat) -> anyhow::Result<()> {
    let filter = std::env::var(FILTER_VARIABLE).unwrap_or_default();
    let subscriber = subscriber(format, &filter, io::stderr().is_terminal(), || Stderr)?;
    tracing::subscriber::set_global_default(subscriber).context("the log was set up already")
}

fn subscriber<W>(
    format: LogFormat,
    filter: &str,
    colours: bool,
    writer: W,
) -> anyhow::Result<Box<dyn tracing::Subscriber + Send + Sync>>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let filter = if filter.trim().is_empty() { DEFAULT_FILTER } else { filter };
    let filter = EnvFilter::builder().parse(filter).with_context(|| {
        format!("{FILTER_VARIABLE}={filter:?} is no filter; write `debug`, or `warn,millstream=debug`")
    })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(colours)
        // A log that cannot be written must not end the process, as printing that would.
        .log_internal_errors(false)
        .with_writer(Redacting(writer));
    Ok(match format {
        LogFormat::Text => Box::new(builder.finish()),
        LogFormat::Json => Box::new(builder.json().flatten_event(true).finish()),
    })
}

/// Sends what is written through the [`Redactor`]. An event comes in one piece.
struct Redacting<W>(W);

impl<'a, W: MakeWriter<'a>> MakeWriter<'a> for Redacting<W> {
    type Writer = RedactingWriter<W::Writer>;

    fn make_writer(&'a self) -> Self::Writer {
        RedactingWriter(self.0.make_writer())
    }
}

struct RedactingWriter<W>(W);

impl<W: Write> Write for RedactingWriter<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        self.0.write_all(Redactor::global().redact(&text).as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::config::secrets::Secrets;

    #[derive(Clone, Default)]
    struct Memory(Arc<Mutex<Vec<u8>>>);

    impl Write for Memory {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat, filter: &str, log: impl FnOnce()) -> String {
        let memory = Memory::default();
        let writer = memory.clone();
        let subscriber = subscriber(format, filter, false, move || writer.clone()).unwrap();
        tracing::subscriber::with_default(subscriber, log);
        let bytes = memory.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn fields_stand_on_the_top_level_of_a_json_line() {
        let line = logged(LogFormat::Json, "", || {
            tracing::warn!(pipeline = "p", plugin = "jq", position = "a.ndjson line 3", "slow");
        });
        let mut line: serde_json::Value = serde_json::from_str(&line).unwrap();
        line.as_object_mut().unwrap().remove("timestamp").unwrap();
        let expected = serde_json::json!({
            "level": "WARN",
            "target": "millstream::observe::logs::tests",
            "message": "slow",
            "pipeline": "p",
            "plugin": "jq",
            "position": "a.ndjson line 3",
        });
        assert_eq!(line, expected);
    }

    #[test]
    fn a_text_line_names_the_fields() {
        let line = logged(LogFormat::Text, "", || tracing::info!(pipeline = "p", "started"));
        assert!(
            line.ends_with("INFO millstream::observe::logs::tests: started pipeline=\"p\"\n"),
            "{line:?}"
        );
        assert_eq!(logged(LogFormat::Text, "", || tracing::debug!("not by default")), "");
        assert!(logged(LogFormat::Text, "debug", || tracing::debug!("asked for")).contains("asked for"));
    }

    #[test]
    fn p7_the_value_of_a_variable_is_never_logged() {
        let mut secrets = Secrets::default();
        secrets.add("log-test \"s3cret\"", "(from ${LOG_TEST})");
        Redactor::global().add(&secrets);
        for format in [LogFormat::Text, LogFormat::Json] {
            let line = logged(format, "", || {
                tracing::info!(url = "http://x/?q=log-test \"s3cret\"", "sent log-test \"s3cret\"");
            });
            assert!(!line.contains("s3cret") && line.matches("(from ${LOG_TEST})").count() == 2, "{line}");
        }
    }

    #[test]
    fn a_filter_that_is_none_is_refused() {
        let error = subscriber(LogFormat::Text, "millstream=loud", false, io::sink).err().unwrap();
        let error = format!("{error:#}");
        assert!(error.contains("MILLSTREAM_LOG=\"millstream=loud\" is no filter"), "{error}");
    }
}
