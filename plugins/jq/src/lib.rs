//! Runs a jq program on every payload: filters, reshapes, splits one message into many.
//!
//! - [`program`]: a compiled program, and what it makes of one payload
//! - [`json`]: what goes in is strict JSON, what comes out is compact JSON
//! - [`mistakes`]: what is wrong with a program, with its place

mod json;
mod mistakes;
mod program;

use std::num::NonZeroU32;

use jaq_json::{Map, Val};
use millstream_sdk::prelude::*;
use schemars::JsonSchema;
use serde::Deserialize;

use program::{Error, Program, Value, Variable};

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The jq program, in the dialect of jaq. `.` is the payload; `$key`, `$headers` (an object),
    /// `$timestamp` (milliseconds since 1970) and `$source` are the rest of the message.
    program: String,
    /// What becomes of a message for which the program ends with an error.
    #[serde(default)]
    on_error: OnError,
    /// How many messages one message may become; with more it is an error.
    #[serde(default = "default_max_outputs")]
    max_outputs: NonZeroU32,
}

#[derive(Clone, Copy, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum OnError {
    /// It goes to the dead letters with code `jq-error`.
    #[default]
    Reject,
    /// It is dropped, with a line in the log.
    Drop,
    /// It goes on unchanged, with a line in the log.
    Pass,
}

fn default_max_outputs() -> NonZeroU32 {
    const { NonZeroU32::new(10_000).unwrap() }
}

pub struct Jq {
    program: Program,
    on_error: OnError,
    max_outputs: usize,
}

impl Plugin for Jq {
    type Config = Config;
    const NAME: &'static str = "jq";
    const SUMMARY: &'static str = "Filters, reshapes and splits JSON messages with a jq program.";
    const READS: Reads = Reads::PAYLOAD.and(Reads::KEY).and(Reads::HEADERS).and(Reads::METADATA);

    fn new(config: Config) -> Result<Self, ConfigError> {
        let program =
            Program::compile(&config.program).map_err(|mistakes| ConfigError::at("/program", mistakes))?;
        Ok(Jq { program, on_error: config.on_error, max_outputs: config.max_outputs.get() as usize })
    }
}

impl Process for Jq {
    fn process(&mut self, message: &Message<'_>, out: &mut Output) -> Result<Verdict, Failure> {
        let variable = |variable| value_of(variable, message);
        let values = match self.program.run(message.payload(), message.now_ms(), self.max_outputs, variable) {
            Ok(values) => values,
            Err(Error::NotJson(why)) => {
                return Err(Failure::reject("payload-not-json", format!("the payload is not json: {why}")));
            }
            Err(Error::Program(text)) => return self.failed(text),
        };
        match values.as_slice() {
            [] => return Ok(Verdict::Drop),
            [Value::Same] => return Ok(Verdict::Pass),
            _ => {}
        }
        for value in values {
            let emission = out.emit();
            if let Value::Json(text) = value {
                emission.payload(&text);
            }
        }
        Ok(Verdict::Emit)
    }
}

impl Jq {
    fn failed(&self, text: String) -> Result<Verdict, Failure> {
        match self.on_error {
            OnError::Reject => return Err(Failure::reject("jq-error", text)),
            OnError::Drop | OnError::Pass => log::warn(format_args!("the program failed: {text}")),
        }
        Ok(Verdict::pass_if(matches!(self.on_error, OnError::Pass)))
    }
}

/// Bytes that are not UTF-8 are replaced: a key or a header is for reading here, not for keeping.
fn value_of(variable: Variable, message: &Message<'_>) -> Val {
    let text = |bytes: &[u8]| Val::from(String::from_utf8_lossy(bytes).into_owned());
    match variable {
        Variable::Key => message.key().map_or(Val::Null, text),
        Variable::Headers => {
            let mut headers = Map::default();
            for (name, value) in message.headers() {
                headers.entry(text(name)).or_insert_with(|| text(value));
            }
            Val::obj(headers)
        }
        Variable::Timestamp => Val::Num(jaq_json::Num::from_integral(message.timestamp_ms())),
        Variable::Source => text(message.source().as_bytes()),
        Variable::Environment => Val::obj(Map::default()),
    }
}

millstream_sdk::export!(Jq);

#[cfg(test)]
mod tests;
