//! Dead letters for people.

use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::cli::output::visible;
use crate::dead_letters::{DeadLetter, json, time_text};

/// Characters of a key and of a reason in the table.
const KEY_CHARS: usize = 24;
const REASON_CHARS: usize = 100;

const HEAD: [&str; 6] = ["ID", "STAGE", "CODE", "FAILED AT", "KEY", "REASON"];

/// A table that is printed page by page: its columns are as wide as its first page needs.
#[derive(Default)]
pub struct Table {
    widths: Option<[usize; HEAD.len()]>,
    count: usize,
}

impl Table {
    /// How many dead letters it holds.
    pub fn count(&self) -> usize {
        self.count
    }

    pub fn rows(&mut self, letters: &[DeadLetter]) -> Vec<u8> {
        self.count += letters.len();
        let mut rows: Vec<[String; HEAD.len()]> = letters.iter().map(cells).collect();
        if self.widths.is_none() && !rows.is_empty() {
            rows.insert(0, HEAD.map(str::to_owned));
        }
        let widths = *self.widths.get_or_insert_with(|| {
            let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
            std::array::from_fn(width)
        });
        let mut text = String::new();
        for row in rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(widths) {
                let _ = write!(line, "{cell:width$}  ");
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text.into_bytes()
    }
}

fn cells(letter: &DeadLetter) -> [String; HEAD.len()] {
    let key = letter.message.key.as_deref().map_or_else(|| "-".to_owned(), text_or_size);
    [
        one_line(&letter.id, usize::MAX),
        one_line(&letter.stage.to_string(), usize::MAX),
        one_line(&letter.code, usize::MAX),
        time_text(letter.failed_at_ms),
        one_line(&key, KEY_CHARS),
        one_line(&letter.reason, REASON_CHARS),
    ]
}

/// The first line, cut.
fn one_line(text: &str, chars: usize) -> String {
    let line = visible(text.lines().next().unwrap_or_default()).replace('\t', " ");
    match line.char_indices().nth(chars) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line,
    }
}

fn text_or_size(bytes: &[u8]) -> String {
    match str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => format!("({} bytes)", bytes.len()),
    }
}

pub fn json_lines(letters: &[DeadLetter]) -> anyhow::Result<Vec<u8>> {
    let mut lines = Vec::new();
    for letter in letters {
        lines.extend(json::line(letter)?);
        lines.push(b'\n');
    }
    Ok(lines)
}

/// Everything of one (P5).
pub fn details(letter: &DeadLetter) -> Vec<u8> {
    let mut text = String::new();
    let mut field = |name: &str, value: &str| {
        // Further lines stand below the first.
        let value = visible(value).replace('\n', &format!("\n{:12} ", ""));
        let _ = writeln!(text, "{name:12} {value}");
    };
    field("id", &letter.id);
    field("pipeline", &letter.pipeline);
    field("stage", &letter.stage.to_string());
    if let Some(plugin) = &letter.plugin {
        field("plugin", &format!("{} {}", plugin.name, plugin.version));
        field("sha256", &plugin.sha256);
    }
    field("code", &letter.code);
    field("reason", &letter.reason);
    if let Some(trap) = &letter.trap {
        field("trap", trap);
    }
    field("attempts", &letter.attempts.to_string());
    field("source", &letter.source);
    field("position", &letter.position_text);
    field("read at", &time_text(letter.read_at_ms));
    field("failed at", &time_text(letter.failed_at_ms));
    if let Some(trace_id) = &letter.trace_id {
        field("trace id", trace_id);
    }
    field("replays", &letter.replays.to_string());
    let sinks = if letter.sinks.is_empty() { "all".to_owned() } else { letter.sinks.join(", ") };
    field("for sinks", &sinks);
    field("timestamp", &time_text(letter.message.timestamp_ms));
    field("key", &letter.message.key.as_deref().map_or_else(|| "none".to_owned(), text_or_base64));
    for (name, value) in &letter.message.headers {
        field("header", &format!("{}: {}", String::from_utf8_lossy(name), text_or_base64(value)));
    }
    match &letter.message.payload {
        None => field("payload", "none"),
        Some(payload) => {
            field("payload", &format!("{} bytes", payload.len()));
            let _ = writeln!(text, "{}", visible(&text_or_base64(payload)));
        }
    }
    text.into_bytes()
}

fn text_or_base64(bytes: &[u8]) -> String {
    match str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => format!("(base64) {}", STANDARD.encode(bytes)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dead_letters::Stage;
    use crate::dead_letters::testing::letter;

    #[test]
    fn a_table_has_a_head_once_and_a_line_each() {
        let mut table = Table::default();
        let mut second = DeadLetter { stage: Stage::Source, code: "decode-error".to_owned(), ..letter(2) };
        second.message.key = None;
        second.reason = format!("\u{1b}[2J{}", "x".repeat(200));
        let text =
            String::from_utf8([table.rows(&[letter(1), second]), table.rows(&[letter(3)])].concat()).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[0],
            "ID                STAGE        CODE          FAILED AT                 KEY  REASON"
        );
        assert_eq!(
            lines[1],
            "0000000000000001  plugin:jq-2  trap          1970-01-01T00:00:02.001Z  k    Cannot index number with \"a\""
        );
        let start = "0000000000000002  source       decode-error  1970-01-01T00:00:02.002Z  -    \\u{1b}[2J";
        assert_eq!(lines[2], format!("{start}{}...", "x".repeat(91)));
        assert!(lines[3].starts_with("0000000000000003  plugin:jq-2  trap          1970"));
        assert_eq!((lines.len(), table.count()), (4, 3));
        assert_eq!(Table::default().rows(&[]), b"");
    }

    #[test]
    fn p5_details_tell_all() {
        let sha256 = "ab".repeat(32);
        let expected = format!(
            "id           0000000000000001\n\
             pipeline     orders\n\
             stage        plugin:jq-2\n\
             plugin       jq 0.1.0\n\
             sha256       {sha256}\n\
             code         trap\n\
             reason       Cannot index number with \"a\"\n\
             {:13}in message 1\n\
             trap         unreachable\n\
             attempts     2\n\
             source       file:orders\n\
             position     orders.ndjson line 1\n\
             read at      1970-01-01T00:00:01.001Z\n\
             failed at    1970-01-01T00:00:02.001Z\n\
             trace id     0af7651916cd43dd8448eb211c80319c\n\
             replays      0\n\
             for sinks    a\n\
             timestamp    1970-01-01T00:00:00.017Z\n\
             key          k\n\
             header       h: 1\n\
             header       h: (base64) /wA=\n\
             payload      7 bytes\n\
             {{\"n\":1}}\n",
            ""
        );
        assert_eq!(String::from_utf8(details(&letter(1))).unwrap(), expected);
    }
}
