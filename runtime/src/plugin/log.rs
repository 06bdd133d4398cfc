//! What a guest writes to the log.
//!
//! Lines are kept until the call they belong to is over: a call that is divided is made again, and
//! would say everything twice.

use std::sync::Arc;

use crate::config::secrets::Redactor;
use crate::config::units::ByteSize;
use crate::message::Row;

use super::bindings::Level;
use super::fault::Stop;

/// What a line counts besides its text, so that empty lines are limited too.
const LINE_BYTES: usize = 64;

#[derive(Default)]
pub(super) struct LogBuffer {
    lines: Vec<Line>,
    used: usize,
    /// Bytes for the whole call.
    limit: usize,
}

struct Line {
    level: Level,
    row: Option<u32>,
    text: String,
}

/// Who speaks, for the log of the host.
#[derive(Clone)]
pub(super) struct Speaker {
    pub pipeline: Option<Arc<str>>,
    pub step: Arc<str>,
}

impl LogBuffer {
    /// Starts a call of `messages`, each of which may write `limit`.
    pub fn start(&mut self, limit: ByteSize, messages: usize) {
        self.lines.clear();
        self.used = 0;
        self.limit = limit.as_usize().saturating_mul(messages.max(1));
    }

    pub fn write(&mut self, level: Level, row: Option<u32>, text: &str) -> wasmtime::Result<()> {
        self.used += LINE_BYTES + text.len();
        if self.used > self.limit {
            return Err(Stop::Log(ByteSize(self.limit as u64)).into());
        }
        if enabled(level) {
            self.lines.push(Line { level, row, text: printable(&Redactor::global().redact(text)) });
        }
        Ok(())
    }

    /// The last error that was written: what a panic says.
    pub fn last_error(&self) -> Option<&str> {
        let last = self.lines.iter().rfind(|line| matches!(line.level, Level::Error))?;
        Some(&last.text)
    }

    /// Hands the lines of a call about `rows` to the host's log.
    pub fn flush(&mut self, speaker: &Speaker, rows: &[Row]) {
        for line in self.lines.drain(..) {
            let row = line.row.and_then(|row| rows.get(row as usize));
            say(speaker, line.level, row, &line.text);
        }
    }
}

fn enabled(level: Level) -> bool {
    match level {
        // Kept for the fault, too.
        Level::Error => true,
        Level::Warn => tracing::enabled!(tracing::Level::WARN),
        Level::Info => tracing::enabled!(tracing::Level::INFO),
        Level::Debug => tracing::enabled!(tracing::Level::DEBUG),
        Level::Trace => tracing::enabled!(tracing::Level::TRACE),
    }
}

fn say(speaker: &Speaker, level: Level, row: Option<&Row>, text: &str) {
    let (pipeline, plugin) = (speaker.pipeline.as_deref(), &*speaker.step);
    let partition = row.map(|row| row.position.partition);
    let offset = row.map(|row| row.position.offset);
    let record = row.map(|row| row.position.record).filter(|&record| record != 0);
    macro_rules! event {
        ($level:ident) => {
            tracing::$level!(pipeline, plugin, partition, offset, record, "{text}")
        };
    }
    match level {
        Level::Error => event!(error),
        Level::Warn => event!(warn),
        Level::Info => event!(info),
        Level::Debug => event!(debug),
        Level::Trace => event!(trace),
    }
}

/// The text without what could move the cursor of a terminal or begin a line of its own.
pub(super) fn printable(text: &str) -> String {
    let odd = |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202A}'..='\u{202E}');
    text.chars().fold(String::with_capacity(text.len()), |mut printable, c| {
        if odd(c) {
            printable.extend(c.escape_default())
        } else {
            printable.push(c)
        }
        printable
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_written_out() {
        assert_eq!(printable("a\nb\u{1b}[2J\u{202e}ü"), "a\\nb\\u{1b}[2J\\u{202e}ü");
    }

    #[test]
    fn p7_empty_lines_use_up_the_limit() {
        let mut log = LogBuffer::default();
        log.start(ByteSize(640), 2);
        for _ in 0..20 {
            log.write(Level::Error, None, "").unwrap();
        }
        assert!(log.write(Level::Error, None, "").is_err());
        log.start(ByteSize(640), 2);
        log.write(Level::Error, None, "again").unwrap();
        assert_eq!(log.last_error(), Some("again"));
    }
}
