//! What a pipeline waits for.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// What a pipeline waits for, and why: it is not ready meanwhile.
#[derive(Debug, Default)]
pub struct Waits {
    reasons: Mutex<BTreeMap<String, String>>,
}

impl Waits {
    pub fn set(&self, part: &str, reason: String) {
        self.reasons.lock().unwrap_or_else(PoisonError::into_inner).insert(part.to_owned(), reason);
    }

    pub fn clear(&self, part: &str) {
        self.reasons.lock().unwrap_or_else(PoisonError::into_inner).remove(part);
    }

    /// Part and reason; empty if it waits for nothing.
    pub fn reasons(&self) -> Vec<(String, String)> {
        let reasons = self.reasons.lock().unwrap_or_else(PoisonError::into_inner);
        reasons.iter().map(|(part, reason)| (part.clone(), reason.clone())).collect()
    }
}
