//! Drops messages whose idempotency key was seen before, within the time to live of the space in
//! which the host keeps the keys.

use std::borrow::Cow;

use millstream_sdk::key::{Key, KeyPlace};
use millstream_sdk::prelude::*;
use millstream_sdk::state::{Entry, StateError};
use schemars::JsonSchema;
use serde::Deserialize;
use sha2::{Digest, Sha256};

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where the idempotency key of a message is found.
    by: Key,
    /// Name of the space of keys, which the pipeline grants: `grants.state.NAME = { ttl = "24h" }`,
    /// where `ttl` is how long a key is remembered.
    #[serde(default = "default_space")]
    space: String,
    /// What becomes of a message whose key was seen before.
    #[serde(default)]
    on_duplicate: OnDuplicate,
    /// What becomes of a message that has no key.
    #[serde(default)]
    on_missing: OnMissing,
}

fn default_space() -> String {
    Deduplicate::NAME.to_owned()
}

#[derive(Clone, Copy, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum OnDuplicate {
    /// It is dropped.
    #[default]
    Drop,
    /// It goes to the dead letters with code `duplicate`.
    Reject,
}

#[derive(Clone, Copy, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum OnMissing {
    /// It goes to the dead letters with code `idempotency-key-missing`.
    #[default]
    Reject,
    /// It goes on: it may be a duplicate.
    Pass,
}

pub struct Deduplicate {
    by: KeyPlace,
    space: String,
    on_duplicate: OnDuplicate,
    on_missing: OnMissing,
}

impl Plugin for Deduplicate {
    type Config = Config;
    const NAME: &'static str = "deduplicate";
    const SUMMARY: &'static str = "Drops messages whose idempotency key was seen before.";
    const READS: Reads = Reads::PAYLOAD.and(Reads::KEY).and(Reads::HEADERS);

    fn new(config: Config) -> Result<Self, ConfigError> {
        let Config { by, space, on_duplicate, on_missing } = config;
        let by = by.place("/by")?;
        // Asks for nothing, only whether it may: better now than for each message.
        match state::get_many::<&[u8]>(&space, &[]) {
            Ok(_) => Ok(Deduplicate { by, space, on_duplicate, on_missing }),
            Err(StateError::NotGranted(text) | StateError::Full(text) | StateError::Failed(text)) => {
                Err(ConfigError::at("/space", text))
            }
        }
    }
}

impl Process for Deduplicate {
    fn process(&mut self, message: &Message<'_>, _out: &mut Output) -> Result<Verdict, Failure> {
        let Some(key) = self.by.find(message)?.map(short) else { return self.missing() };
        let entry = Entry { row: message.row(), key: &key, value: Some(b"") };
        let is_new = state::insert_if_absent(&self.space, &[entry], 0)?[0];
        self.verdict(is_new)
    }

    fn process_batch(&mut self, batch: &Batch<'_>, out: &mut Output) {
        let keys: Vec<Result<Option<Cow<'_, [u8]>>, Failure>> =
            batch.messages().map(|message| Ok(self.by.find(&message)?.map(short))).collect();
        let with_key = keys.iter().enumerate().filter_map(|(row, key)| match key {
            Ok(Some(key)) => Some(Entry { row, key, value: Some(b"") }),
            _ => None,
        });
        let inserted = state::insert_if_absent(&self.space, &with_key.collect::<Vec<_>>(), 0);
        let mut next = 0;
        for key in keys {
            let verdict = match (key, &inserted) {
                (Err(failure), _) => Err(failure),
                (Ok(None), _) => self.missing(),
                (Ok(Some(_)), Err(error)) => Err(error.clone().into()),
                (Ok(Some(_)), Ok(inserted)) => {
                    next += 1;
                    self.verdict(inserted[next - 1])
                }
            };
            out.settle(verdict);
        }
    }
}

impl Deduplicate {
    fn verdict(&self, is_new: bool) -> Result<Verdict, Failure> {
        match (is_new, self.on_duplicate) {
            (true, _) => Ok(Verdict::Pass),
            (false, OnDuplicate::Drop) => Ok(Verdict::Drop),
            (false, OnDuplicate::Reject) => {
                Err(Failure::reject("duplicate", "its idempotency key was seen before"))
            }
        }
    }

    fn missing(&self) -> Result<Verdict, Failure> {
        match self.on_missing {
            OnMissing::Pass => Ok(Verdict::Pass),
            OnMissing::Reject => {
                Err(Failure::reject("idempotency-key-missing", "there is no idempotency key where `by` says"))
            }
        }
    }
}

/// Keys up to that length are kept as they are; of others the hash.
const LONGEST_KEY: usize = 256;

fn short(key: Cow<'_, [u8]>) -> Cow<'_, [u8]> {
    if key.len() <= LONGEST_KEY {
        return key;
    }
    // Longer than a key that is kept as it is, so that the two are never the same.
    let mut hashed = vec![b'#'; LONGEST_KEY + 1];
    hashed.extend_from_slice(&Sha256::digest(&key));
    Cow::Owned(hashed)
}

millstream_sdk::export!(Deduplicate);

#[cfg(test)]
mod tests;
