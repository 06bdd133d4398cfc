//! The configuration of `mask`.

use hmac::{Hmac, KeyInit};
use millstream_sdk::prelude::*;
use schemars::JsonSchema;
use serde::Deserialize;
use sha2::Sha256;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// What is hidden, and how. Of two rules for the same value the first counts.
    pub rules: Vec<Rule>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// JSON pointers (RFC 6901) to values in the payload. `*` stands for every element of a list
    /// or every field of an object.
    #[serde(default)]
    pub pointers: Vec<String>,
    /// Names of headers; case does not matter.
    #[serde(default)]
    pub headers: Vec<String>,
    /// How they are hidden.
    action: Action,
    /// For `redact`: what stands in place of a value. `***` by default.
    replacement: Option<String>,
    /// For `hash`: makes it an HMAC with this key, so that nobody can find a value by trying.
    salt: Option<Secret>,
    /// For `keep-last`: how many characters stay.
    keep: Option<usize>,
}

#[derive(Clone, Copy, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Action {
    /// Replaces the value.
    Redact,
    /// Replaces it by its SHA-256 in hex: equal values stay equal.
    Hash,
    /// Keeps its last characters, behind `***`. Of a value that has no more than those nothing is
    /// kept, nor of one that is no string and no number.
    KeepLast,
}

/// A rule that makes sense.
pub enum Masking {
    Redact(String),
    Hash,
    SaltedHash(Hmac<Sha256>),
    /// How many characters stay.
    KeepLast(usize),
}

impl Rule {
    /// An error is a field and what is wrong with it.
    pub fn masking(self) -> Result<Masking, (&'static str, &'static str)> {
        if self.replacement.is_some() && self.action != Action::Redact {
            return Err(("replacement", "goes with action `redact`; remove it"));
        }
        if self.salt.is_some() && self.action != Action::Hash {
            return Err(("salt", "goes with action `hash`; remove it"));
        }
        if self.keep.is_some() && self.action != Action::KeepLast {
            return Err(("keep", "goes with action `keep-last`; remove it"));
        }
        match (self.action, self.salt, self.keep) {
            (Action::Redact, ..) => Ok(Masking::Redact(self.replacement.unwrap_or(super::HIDDEN.to_owned()))),
            (Action::Hash, None, _) => Ok(Masking::Hash),
            (Action::Hash, Some(salt), _) if salt.expose().is_empty() => {
                Err(("salt", "an empty salt protects nothing; remove it or give one"))
            }
            (Action::Hash, Some(salt), _) => Hmac::new_from_slice(salt.expose().as_bytes())
                .map(Masking::SaltedHash)
                .map_err(|_| ("salt", "this salt cannot be a key")),
            (Action::KeepLast, _, Some(keep)) => Ok(Masking::KeepLast(keep)),
            (Action::KeepLast, _, None) => Err(("keep", "say how many characters stay")),
        }
    }
}
