//! The story of a dead letter as headers of its message, and back.

use super::{DeadLetter, Stage};
use crate::message::{Message, MessageRef, Position};
use crate::plugin::PluginIdentity;

/// What the names of all headers that a dead letter is given begin with.
pub const HEADER_PREFIX: &str = "millstream-dlq-";

/// Header of a record that says of a dead letter, by its id, that it is none any more.
pub const SETTLED: &str = "millstream-dlq-settled";

/// Servers refuse requests whose headers come to more than some 8 to 16 KiB; the reason is the only
/// header that can be long.
const REASON_BYTES: usize = 4 << 10;

/// The message as it was read, with its story in headers. Those of an earlier story are dropped.
pub fn with_story(letter: &DeadLetter) -> Message {
    let mut message = letter.message.clone();
    message.headers.retain(|(name, _)| !is_of_story(name));
    let mut add = |name: &str, value: &str| {
        message.headers.push((format!("{HEADER_PREFIX}{name}").into_bytes(), one_line(value).into_bytes()));
    };
    add("id", &letter.id);
    add("pipeline", &letter.pipeline);
    add("source", &letter.source);
    add("position", &letter.position_text);
    let Position { partition, offset, record } = letter.position;
    add("at", &format!("{partition}/{offset}/{record}"));
    add("stage", &letter.stage.to_string());
    if let Some(plugin) = &letter.plugin {
        add("plugin-step", &plugin.step);
        add("plugin", &plugin.name);
        add("plugin-version", &plugin.version);
        add("plugin-sha256", &plugin.sha256);
    }
    add("code", &letter.code);
    add("reason", &cut(&letter.reason, REASON_BYTES));
    if let Some(trap) = &letter.trap {
        add("trap", trap);
    }
    add("attempts", &letter.attempts.to_string());
    add("read-at", &super::time_text(letter.read_at_ms));
    add("failed-at", &super::time_text(letter.failed_at_ms));
    // A topic or a server may have a time of its own for it.
    add("timestamp", &super::time_text(letter.message.timestamp_ms));
    if let Some(trace_id) = &letter.trace_id {
        add("trace-id", trace_id);
    }
    add("replays", &letter.replays.to_string());
    if !letter.sinks.is_empty() {
        add("sinks", &letter.sinks.join(","));
    }
    message
}

/// Many systems refuse a header with a line break in it, and then for ever.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn cut(text: &str, bytes: usize) -> String {
    if text.len() <= bytes {
        return text.to_owned();
    }
    format!("{} ... ({} bytes)", &text[..text.floor_char_boundary(bytes)], text.len())
}

/// What a record says of dead letters.
#[derive(Debug, PartialEq)]
pub enum Told {
    Letter(Box<DeadLetter>),
    Settled(Settled),
}

/// A dead letter that is none any more: it was replayed, or deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settled {
    pub id: String,
    pub key: Option<Vec<u8>>,
    /// It had been replayed that often, and was given up then. The same message can fail again, which
    /// is another dead letter with the same id: replayed more often, or given up later.
    pub replays: u32,
    pub failed_at_ms: i64,
}

impl Settled {
    /// As a record of the same key, without a payload.
    pub fn headers(&self) -> [(&'static str, String); 3] {
        [
            (SETTLED, self.id.clone()),
            ("millstream-dlq-replays", self.replays.to_string()),
            ("millstream-dlq-failed-at", super::time_text(self.failed_at_ms)),
        ]
    }
}

/// Reads what [`with_story`] or [`Settled::headers`] made; `None` if it is something else.
pub fn read(message: Message) -> Option<Told> {
    let Message { payload, key, headers, .. } = message;
    let story = Story(&headers);
    if let Some(id) = story.find("settled") {
        let (replays, failed_at_ms) = (story.number("replays")?, story.time_ms("failed-at")?);
        return Some(Told::Settled(Settled { id: id.to_owned(), key, replays, failed_at_ms }));
    }
    let stage: Stage = story.find("stage")?.parse().ok()?;
    let mut at = story.find("at")?.split('/');
    let mut next = || at.next()?.parse::<u64>().ok();
    let position = Position { partition: u32::try_from(next()?).ok()?, offset: next()?, record: next()? };
    let plugin = story.text("plugin").map(|name| PluginIdentity {
        step: story.text("plugin-step").unwrap_or_default(),
        name,
        version: story.text("plugin-version").unwrap_or_default(),
        sha256: story.text("plugin-sha256").unwrap_or_default(),
    });
    let letter = DeadLetter {
        id: story.text("id")?,
        pipeline: story.text("pipeline")?,
        source: story.text("source")?,
        position,
        position_text: story.text("position")?,
        stage,
        plugin,
        code: story.text("code")?,
        reason: story.text("reason")?,
        trap: story.text("trap"),
        attempts: story.number("attempts")?,
        read_at_ms: story.time_ms("read-at")?,
        failed_at_ms: story.time_ms("failed-at")?,
        trace_id: story.text("trace-id"),
        replays: story.number("replays")?,
        sinks: story.find("sinks").map_or(Vec::new(), |names| names.split(',').map(str::to_owned).collect()),
        message: Message {
            payload,
            key,
            timestamp_ms: story.time_ms("timestamp")?,
            headers: headers.iter().filter(|(name, _)| !is_of_story(name)).cloned().collect(),
        },
    };
    Some(Told::Letter(Box::new(letter)))
}

/// Whether a message has a story: it is a dead letter.
pub fn is_told(message: &MessageRef<'_>) -> bool {
    message.header("millstream-dlq-id").is_some()
}

fn is_of_story(name: &[u8]) -> bool {
    let prefix = name.get(..HEADER_PREFIX.len()).unwrap_or_default();
    prefix.eq_ignore_ascii_case(HEADER_PREFIX.as_bytes())
}

/// Headers, of which those with the prefix are looked for.
struct Story<'h>(&'h [(Vec<u8>, Vec<u8>)]);

impl<'h> Story<'h> {
    fn find(&self, name: &str) -> Option<&'h str> {
        let is_it = |known: &[u8]| is_of_story(known) && &known[HEADER_PREFIX.len()..] == name.as_bytes();
        let (_, value) = self.0.iter().find(|(known, _)| is_it(known))?;
        str::from_utf8(value).ok()
    }

    fn text(&self, name: &str) -> Option<String> {
        self.find(name).map(str::to_owned)
    }

    fn number(&self, name: &str) -> Option<u32> {
        self.find(name)?.parse().ok()
    }

    fn time_ms(&self, name: &str) -> Option<i64> {
        Some(self.find(name)?.parse::<jiff::Timestamp>().ok()?.as_millisecond())
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::letter;
    use super::*;

    #[test]
    fn p5_a_dead_letter_is_read_as_it_was_written() {
        // Line breaks of a reason are written as spaces.
        let written = DeadLetter { reason: "one line".to_owned(), ..letter(u64::MAX) };
        let mut bare = DeadLetter {
            stage: Stage::Sink("a:b".to_owned()),
            plugin: None,
            trap: None,
            trace_id: None,
            ..written.clone()
        };
        (bare.sinks, bare.message) = (vec!["a".to_owned(), "b".to_owned()], Message::default());
        let many = DeadLetter { sinks: Vec::new(), stage: Stage::Source, ..written.clone() };
        for letter in [written, bare, many] {
            assert_eq!(read(with_story(&letter)), Some(Told::Letter(Box::new(letter))));
        }
        assert_eq!(read(letter(1).message), None);
    }

    #[test]
    fn that_it_is_none_any_more_is_read_too() {
        let settled = Settled { id: "a1".to_owned(), key: Some(vec![255]), replays: 2, failed_at_ms: 1_001 };
        let headers = settled.headers().map(|(name, value)| (name.as_bytes().to_vec(), value.into_bytes()));
        let record = Message { key: settled.key.clone(), headers: headers.to_vec(), ..Message::default() };
        assert_eq!(read(record), Some(Told::Settled(settled)));
    }

    #[test]
    fn a_long_reason_is_cut_at_a_character() {
        let long =
            DeadLetter { reason: "ä".repeat(REASON_BYTES), stage: Stage::Route, plugin: None, ..letter(1) };
        let message = with_story(&long);
        let reason = message.headers.iter().find(|(name, _)| name == b"millstream-dlq-reason").unwrap();
        let reason = str::from_utf8(&reason.1).unwrap();
        assert!(reason.ends_with(&format!("ä ... ({} bytes)", 2 * REASON_BYTES)), "{reason}");
        assert!(reason.len() < REASON_BYTES + 30);
    }
}
