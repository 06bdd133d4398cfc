//! Hides values: at JSON pointers in the payload, and whole headers. All other bytes of the payload
//! stay as they are.

mod config;

use std::borrow::Cow;

use hmac::Mac;
use millstream_sdk::pointer::Pointers;
use millstream_sdk::prelude::*;
use sha2::{Digest, Sha256};

pub use config::Config;
use config::Masking;

/// Stands before the characters that are kept. Always the same, so that it does not tell how long
/// the value was.
const HIDDEN: &str = "***";

pub struct Mask {
    pointers: Pointers,
    /// How the value at each of `pointers` is hidden; of two for the same value the first counts.
    of_pointers: Vec<usize>,
    /// Names of headers, and how their values are hidden.
    headers: Vec<(String, usize)>,
    maskings: Vec<Masking>,
}

impl Plugin for Mask {
    type Config = Config;
    const NAME: &'static str = "mask";
    const SUMMARY: &'static str = "Redacts, hashes or shortens values at JSON pointers and in headers.";
    const READS: Reads = Reads::PAYLOAD.and(Reads::HEADERS);

    fn new(config: Config) -> Result<Self, ConfigError> {
        let mut mask = Mask {
            pointers: Pointers::default(),
            of_pointers: Vec::new(),
            headers: Vec::new(),
            maskings: Vec::new(),
        };
        if config.rules.is_empty() {
            return Err(ConfigError::at("/rules", "give at least one rule"));
        }
        for (index, mut rule) in config.rules.into_iter().enumerate() {
            let field = |name: &str| format!("/rules/{index}/{name}");
            if rule.pointers.is_empty() && rule.headers.is_empty() {
                return Err(ConfigError::at(
                    field("pointers"),
                    "name what is to be hidden, here or in `headers`",
                ));
            }
            for (at, pointer) in rule.pointers.iter().enumerate() {
                mask.pointers
                    .push(pointer)
                    .map_err(|error| ConfigError::at(field(&format!("pointers/{at}")), error.to_string()))?;
                mask.of_pointers.push(index);
            }
            let headers = std::mem::take(&mut rule.headers);
            mask.headers.extend(headers.into_iter().map(|name| (name, index)));
            mask.maskings
                .push(rule.masking().map_err(|(name, message)| ConfigError::at(field(name), message))?);
        }
        Ok(mask)
    }
}

impl Process for Mask {
    fn process(&mut self, message: &Message<'_>, out: &mut Output) -> Result<Verdict, Failure> {
        let payload = message.payload();
        let edits = match payload {
            Some(payload) => self.edits(payload)?,
            None => Vec::new(),
        };
        let mut headers =
            message.headers().filter_map(|(name, value)| Some((name, value, self.of_header(name)?)));
        let first_header = headers.next();
        if edits.is_empty() && first_header.is_none() {
            return Ok(Verdict::Pass);
        }

        let mut emission = out.emit();
        if let (Some(payload), false) = (payload, edits.is_empty()) {
            let mut writer = emission.payload_writer();
            let mut done = 0;
            for edit in &edits {
                writer.push(&payload[done..edit.start]);
                writer.push(edit.text.as_bytes());
                done = edit.end;
            }
            writer.push(&payload[done..]);
            emission = writer.done();
        }
        for (name, value, masking) in first_header.into_iter().chain(headers) {
            emission = emission.set_header(&String::from_utf8_lossy(name), masking.hide(value));
        }
        Ok(Verdict::Emit)
    }
}

/// Bytes of the payload and the JSON text in their place.
struct Edit {
    start: usize,
    end: usize,
    masking: usize,
    text: String,
}

impl Mask {
    /// What to replace in the payload, from front to back.
    fn edits(&self, payload: &[u8]) -> Result<Vec<Edit>, Failure> {
        let mut edits: Vec<Edit> = Vec::new();
        self.pointers.find(payload, |pointer, text| {
            let start = text.as_ptr() as usize - payload.as_ptr() as usize;
            let end = start + text.len();
            let masking = self.of_pointers[pointer];
            match edits.last_mut() {
                // The same value, or one within another that is hidden as a whole.
                Some(last) if start < last.end => {
                    if (start, end) == (last.start, last.end) {
                        last.masking = last.masking.min(masking);
                    }
                }
                _ => edits.push(Edit { start, end, masking, text: String::new() }),
            }
        })?;
        for edit in &mut edits {
            edit.text = self.maskings[edit.masking].hide_json(&payload[edit.start..edit.end])?;
        }
        Ok(edits)
    }

    fn of_header(&self, name: &[u8]) -> Option<&Masking> {
        let rule = self.headers.iter().find(|(known, _)| known.as_bytes().eq_ignore_ascii_case(name));
        rule.map(|(_, masking)| &self.maskings[*masking])
    }
}

impl Masking {
    /// Hides a JSON value, given and returned as its text.
    fn hide_json(&self, json: &[u8]) -> Result<String, Failure> {
        let hidden = match json.first() {
            Some(b'"') => {
                let text: Cow<'_, str> = serde_json::from_slice(json).map_err(|error| {
                    Failure::reject("payload-not-json", format!("the payload is not json: {error}"))
                })?;
                self.hide(text.as_bytes())
            }
            Some(b'{' | b'[' | b't' | b'f' | b'n') if matches!(self, Masking::KeepLast(_)) => {
                HIDDEN.to_owned()
            }
            _ => self.hide(json),
        };
        Ok(serde_json::Value::String(hidden).to_string())
    }

    fn hide(&self, value: &[u8]) -> String {
        match self {
            Masking::Redact(replacement) => replacement.clone(),
            Masking::Hash => hex::encode(Sha256::digest(value)),
            Masking::SaltedHash(salted) => {
                hex::encode(salted.clone().chain_update(value).finalize().into_bytes())
            }
            Masking::KeepLast(keep) => {
                let text = str::from_utf8(value).unwrap_or_default();
                let kept = text.chars().count().checked_sub(*keep).filter(|&hidden| hidden > 0);
                let kept = kept.map_or("", |hidden| {
                    text.char_indices().nth(hidden).map_or("", |(start, _)| &text[start..])
                });
                format!("{HIDDEN}{kept}")
            }
        }
    }
}

millstream_sdk::export!(Mask);

#[cfg(test)]
mod tests;
