//! Dead letters in a queue of SQS: how they stand there, and how they are read again.
//!
//! A dead letter is a message as its source had it, body and attributes, and one attribute more, so
//! that whoever reads the queue, or moves its messages back, finds what SQS's own redrive would have put
//! there. What the body cannot hold (no text) or the attributes cannot (names that repeat, or too many)
//! is in that attribute.

mod letter;
mod looked_at;

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;

use self::looked_at::LookedAt;
use super::Access;
use super::claim_check::PutSection;
use crate::dead_letters::store::{DeadLetterStore, Original};
use crate::dead_letters::story::Settled;
use crate::dead_letters::{DeadLetter, Elsewhere};
use crate::store::DataFolder;

pub use letter::{ATTRIBUTE, Body, body_and_attribute};

/// A queue that dead letters go to.
#[derive(Clone)]
pub struct DeadLetterQueue {
    /// Its name or its url.
    pub queue: String,
    pub access: Access,
    /// Where payloads are that are too large for it.
    pub claim_check: Option<PutSection>,
    pub base: PathBuf,
    pub pipeline: String,
}

/// Dead letters that come into the copy at once.
const BATCH: usize = 256;

impl Elsewhere for DeadLetterQueue {
    fn copy(&self) -> anyhow::Result<DeadLetterStore> {
        let folder = tempfile::tempdir().context("no folder for a copy of the dead letters")?;
        let data = DataFolder::open(folder.path(), &self.pipeline)?;
        let store = DeadLetterStore::new(&data, std::time::Duration::MAX);
        let mut letters: Vec<DeadLetter> = Vec::new();
        let looked_at = LookedAt::look(self.clone(), |letter| {
            letters.push(letter);
            if letters.len() >= BATCH {
                store.insert(&std::mem::take(&mut letters))?;
            }
            Ok(())
        })
        .with_context(|| format!("the dead letters in queue {} cannot be read", self.queue))?;
        store.insert(&letters)?;
        store.as_copy(&[], Arc::new(Copied { looked_at, _folder: folder }))
    }

    fn queue(&self) -> Option<DeadLetterQueue> {
        Some(self.clone())
    }

    fn note(&self) -> Option<String> {
        Some(format!(
            "each look counts as a receive of these messages in queue {}, which a redrive policy of it counts",
            self.queue
        ))
    }
}

/// What a copy was made of.
struct Copied {
    looked_at: LookedAt,
    /// Where the copy is.
    _folder: tempfile::TempDir,
}

impl Original for Copied {
    fn settle(&self, settled: Vec<Settled>) -> anyhow::Result<()> {
        self.looked_at.delete(settled)
    }
}
