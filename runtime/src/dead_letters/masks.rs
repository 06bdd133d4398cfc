//! What the plugin `mask` hides in a pipeline is hidden where its dead letters are shown, too.

use millstream_json_pointer::Pointers;
use serde::Deserialize;

use super::{DeadLetter, Stage};
use crate::config::Pipeline;
use crate::config::secrets::{Redactor, Secrets, Short};
use crate::message::Message;
use crate::plugin::{PluginCode, PluginSpec};

/// Stands for what is hidden.
const HIDDEN: &str = "***";

/// What is not to be seen.
#[derive(Default)]
pub struct Masks {
    /// Names of headers; ASCII case does not matter.
    headers: Vec<String>,
    /// Values in the payload, found as the plugin finds them.
    pointers: Pointers,
}

/// What matters here of the configuration of `mask`.
#[derive(Deserialize)]
struct MaskConfig {
    rules: Vec<Rule>,
}

#[derive(Deserialize)]
struct Rule {
    #[serde(default)]
    pointers: Vec<String>,
    #[serde(default)]
    headers: Vec<String>,
}

impl Masks {
    /// Those of all steps of a pipeline that use the built-in `mask`.
    ///
    /// # Errors
    /// A configuration that `mask` itself refuses too.
    pub fn of(pipeline: &Pipeline) -> anyhow::Result<Masks> {
        Masks::of_plugins(&pipeline.plugins)
    }

    /// The same of these steps.
    ///
    /// # Errors
    /// As there.
    pub fn of_plugins<'p>(plugins: impl IntoIterator<Item = &'p PluginSpec>) -> anyhow::Result<Masks> {
        let mask = PluginCode::BuiltIn("mask".to_owned());
        let mut masks = Masks::default();
        for plugin in plugins.into_iter().filter(|plugin| plugin.code == mask) {
            let refused = |error: &dyn std::fmt::Display| {
                anyhow::anyhow!(
                    "what plugin {} hides cannot be told: {error}; correct its config",
                    plugin.step
                )
            };
            masks.add(&plugin.config).map_err(|error| refused(&format!("{error:#}")))?;
        }
        Ok(masks)
    }

    fn add(&mut self, config: &serde_json::Value) -> anyhow::Result<()> {
        for rule in MaskConfig::deserialize(config)?.rules {
            self.headers.extend(rule.headers);
            for pointer in &rule.pointers {
                self.pointers.push(pointer)?;
            }
        }
        Ok(())
    }

    /// Hides it in a dead letter, and everything that came from a variable. What was hidden in the
    /// message is hidden in the reason too, which may quote it.
    pub fn hide(&self, letter: &mut DeadLetter) {
        let hidden = self.hide_in_message(&mut letter.message, letter.stage == Stage::Source);
        letter.reason = hidden.redact(&letter.reason, Short::Shown).into_owned();
        redact_variables(letter);
    }

    /// Hides it in a message; `is_frame` says that it was never decoded. Returns what was hidden.
    pub fn hide_in_message(&self, message: &mut Message, is_frame: bool) -> Secrets {
        let mut hidden = Secrets::default();
        for (name, value) in &mut message.headers {
            if self.headers.iter().any(|masked| name.eq_ignore_ascii_case(masked.as_bytes())) {
                hidden.add(&String::from_utf8_lossy(value), HIDDEN);
                *value = HIDDEN.as_bytes().to_vec();
            }
        }
        if let Some(payload) = message.payload.take() {
            message.payload = Some(self.hide_in_payload(payload, is_frame, &mut hidden));
        }
        hidden
    }

    fn hide_in_payload(&self, payload: Vec<u8>, is_frame: bool, hidden: &mut Secrets) -> Vec<u8> {
        if self.headers.is_empty() && self.pointers.is_empty() {
            return payload;
        }
        let mut found: Vec<(usize, usize)> = Vec::new();
        let searched = self.pointers.find(&payload, |_, text| {
            let start = text.as_ptr() as usize - payload.as_ptr() as usize;
            // A value within one that is hidden already is hidden with it.
            if found.last().is_none_or(|&(_, end)| start >= end) {
                found.push((start, start + text.len()));
            }
            // `true` and `null` would turn up in any reason.
            match serde_json::from_str(text) {
                Ok(serde_json::Value::String(value)) => hidden.add(&value, HIDDEN),
                Ok(serde_json::Value::Number(_)) => hidden.add(text, HIDDEN),
                _ => {}
            }
        });
        // A frame that could not be decoded, or a payload that is no JSON: what is to be hidden may
        // stand anywhere in it.
        if searched.is_err() || is_frame {
            return HIDDEN.as_bytes().to_vec();
        }
        let mut masked = Vec::with_capacity(payload.len());
        let mut done = 0;
        for (start, end) in found {
            masked.extend_from_slice(&payload[done..start]);
            masked.extend_from_slice(format!("\"{HIDDEN}\"").as_bytes());
            done = end;
        }
        masked.extend_from_slice(&payload[done..]);
        masked
    }
}

fn redact_variables(letter: &mut DeadLetter) {
    let redactor = Redactor::global();
    let redact = |bytes: &mut Vec<u8>| {
        if let Ok(text) = str::from_utf8(bytes) {
            *bytes = redactor.redact(text).into_owned().into_bytes();
        }
    };
    let message = &mut letter.message;
    message.payload.as_mut().map(redact);
    message.key.as_mut().map(redact);
    message.headers.iter_mut().for_each(|(_, value)| redact(value));
    for text in [&mut letter.reason, &mut letter.source, &mut letter.position_text] {
        *text = redactor.redact(text).into_owned();
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::letter;
    use super::*;

    fn masks(config: serde_json::Value) -> Masks {
        let mut masks = Masks::default();
        masks.add(&config).unwrap();
        masks
    }

    fn shown(masks: &Masks, mut letter: DeadLetter) -> DeadLetter {
        masks.hide(&mut letter);
        letter
    }

    fn with_payload(payload: &str) -> DeadLetter {
        let mut letter = letter(1);
        letter.message.payload = Some(payload.as_bytes().to_vec());
        letter
    }

    fn payload(letter: &DeadLetter) -> &str {
        str::from_utf8(letter.message.payload.as_deref().unwrap()).unwrap()
    }

    #[test]
    fn what_mask_hides_is_hidden_here_too() {
        let masks = masks(json!({ "rules": [
            { "pointers": ["/card", "/people/*/name"], "action": "hash", "salt": "x" },
            { "headers": ["Authorization"], "action": "redact" },
        ] }));
        let mut letter =
            with_payload(r#"{"card": 4711.0, "people": [{"name": "Ann\u00e9"}, {"name": null}], "n": 1.50}"#);
        letter.message.headers = vec![
            (b"authorization".to_vec(), b"Bearer t0ken".to_vec()),
            (b"other".to_vec(), b"seen".to_vec()),
        ];
        letter.reason = "4711.0 is no string, \"Ann\u{e9}\" is no number, Bearer t0ken is null".to_owned();
        let shown = shown(&masks, letter);
        assert_eq!(
            payload(&shown),
            r#"{"card": "***", "people": [{"name": "***"}, {"name": "***"}], "n": 1.50}"#
        );
        let headers: Vec<&[u8]> = shown.message.headers.iter().map(|(_, value)| value.as_slice()).collect();
        assert_eq!(headers, [&b"***"[..], b"seen"]);
        assert_eq!(shown.reason, "*** is no string, \"***\" is no number, *** is null");
    }

    #[test]
    fn what_cannot_be_searched_is_hidden_whole() {
        let by_pointer = masks(json!({ "rules": [{ "pointers": ["/card"], "action": "redact" }] }));
        let by_header = masks(json!({ "rules": [{ "headers": ["a"], "action": "redact" }] }));
        assert_eq!(payload(&shown(&by_pointer, with_payload("{\"card\": 4711"))), "***");
        assert_eq!(payload(&shown(&by_header, with_payload("{\"card\": 4711"))), "{\"card\": 4711");
        let frame = DeadLetter { stage: Stage::Source, ..with_payload("{\"headers\": {\"a\": 1}}") };
        assert_eq!(payload(&shown(&by_header, frame.clone())), "***");
        assert_eq!(shown(&Masks::default(), frame.clone()), frame);
    }

    #[test]
    fn p7_what_came_from_a_variable_is_hidden() {
        let mut secrets = Secrets::default();
        secrets.add("masks-test-s3cret", "(from ${MASKS_TEST})");
        Redactor::global().add(&secrets);
        let mut letter = with_payload("{\"a\":\"masks-test-s3cret\"}");
        letter.message.key = Some(b"masks-test-s3cret".to_vec());
        letter.message.headers = vec![(b"a".to_vec(), b"masks-test-s3cret".to_vec())];
        letter.reason = "masks-test-s3cret".to_owned();
        let shown = serde_json::to_value(shown(&Masks::default(), letter)).unwrap();
        let secret = serde_json::to_value("masks-test-s3cret".as_bytes()).unwrap().to_string();
        let text = shown.to_string();
        assert!(
            !text.contains("masks-test-s3cret") && !text.contains(&secret[1..secret.len() - 1]),
            "{text}"
        );
        assert!(text.contains("(from ${MASKS_TEST})"), "{text}");
    }

    #[test]
    fn a_configuration_that_mask_refuses_is_an_error() {
        let mut masks = Masks::default();
        assert!(masks.add(&json!({ "rules": [{ "pointers": ["card"] }] })).is_err());
        assert!(masks.add(&json!({ "rule": [] })).is_err());
    }
}
