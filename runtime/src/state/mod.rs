//! What plugins keep (`grants.state`): keys and values in named spaces, durable in the data folder.
//!
//! What a plugin writes for a message is *pending*: others see it, but it becomes final only when
//! the source message is settled, and is durable before its source is told (P1). So a crash, a call
//! that is divided, a retry and a replay never make a message its own duplicate (P2):
//!
//! - a call that fails takes back what it wrote ([`Calling::undo`]);
//! - a message that is given up or given back leaves nothing ([`States::settle`]);
//! - a final entry knows its [`Owner`], and the same source position is always admitted again.
//!
//! A message that is dropped because of one in flight shares the fate of that one ([`Pending`]), or
//! both could be gone.
//!
//! - [`disk`]: what is final
//! - [`overlay`]: what is pending, or final and not yet on the disk

mod disk;
mod overlay;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use tokio::sync::watch;

use crate::config::units::ByteSize;
use crate::store::DataFolder;
use crate::store::database::Database;
use disk::{Disk, Stored};
use overlay::{Overlay, Unwritten, Version};

/// A source message in flight: its claim, and its row there.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Ticket {
    pub claim: u64,
    pub row: u32,
}

/// A source message whenever it is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Owner {
    pub partition: u32,
    pub offset: u64,
    /// When it was first read, for a source that may use a position again for another message;
    /// otherwise 0. Milliseconds since 1970-01-01T00:00:00Z.
    pub epoch: i64,
}

/// How the journey of a source message ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ending {
    /// Delivered to a sink at least, or dropped by plugins.
    Done,
    /// Given up, and delivered nowhere.
    DeadLettered,
    /// Given back to the source.
    Returned,
}

/// A message in flight because of which another is dropped.
#[derive(Clone, Debug)]
pub struct Pending {
    ticket: Ticket,
    ending: watch::Receiver<Option<Ending>>,
}

impl Pending {
    /// Waits for its end; `None` if the pipeline ends before.
    pub async fn ended(mut self) -> Option<Ending> {
        self.ending.wait_for(Option::is_some).await.ok().and_then(|ending| *ending)
    }
}

/// Who writes: a row of a call into a plugin.
#[derive(Clone, Debug)]
pub struct Writer {
    pub ticket: Ticket,
    pub owner: Owner,
    /// The plugin's step.
    pub step: Arc<str>,
    /// Number of the call, another for each.
    pub call: u64,
    pub row: u32,
}

/// What a pipeline grants of a space.
#[derive(Clone, Copy, Debug)]
pub struct Allowed {
    /// Longest time that an entry is kept.
    pub ttl_ms: Option<i64>,
    /// Bytes of keys and values, pending ones included.
    pub size: ByteSize,
}

/// Something to write.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    pub key: &'a [u8],
    /// `None` removes the key.
    pub value: Option<&'a [u8]>,
    pub ttl_ms: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error(
        "the space {space:?} holds all of its {size}; raise `size` in its grant, or give its entries a shorter time to live"
    )]
    Full { space: String, size: ByteSize },
    #[error("the state cannot be read: {0:#}")]
    Disk(#[from] anyhow::Error),
}

/// Whether an entry was written.
#[derive(Debug)]
pub enum Inserted {
    Yes,
    /// The key is there already.
    No,
    /// The key is there because of this message in flight.
    NotYet(Pending),
}

/// The state of a pipeline.
#[derive(Default)]
pub struct States {
    /// Without it all is in memory.
    database: Option<Arc<Database>>,
    disk: OnceLock<Disk>,
    overlay: Mutex<Overlay>,
    /// One at a time, so that what is final reaches the disk in order.
    flushing: Mutex<()>,
    calls: AtomicU64,
}

impl States {
    /// In a data folder, as soon as there are spaces.
    pub fn of(folder: &DataFolder) -> Arc<States> {
        Arc::new(States { database: Some(folder.database()), ..States::default() })
    }

    /// For as long as it lives: for tests of plugins.
    pub fn in_memory() -> Arc<States> {
        Arc::default()
    }

    /// Makes these spaces ready, before anything is written there. Blocks.
    ///
    /// # Errors
    /// The data folder cannot be read or written.
    pub fn open<'s>(&self, names: impl Iterator<Item = &'s str>) -> anyhow::Result<()> {
        let Some(database) = &self.database else { return Ok(()) };
        for name in names {
            if self.disk.get().is_none() {
                // If two are that far the second opened one for nothing.
                let _ = self.disk.set(Disk::open(Arc::clone(database))?);
            }
            let Some(disk) = self.disk.get() else { continue };
            let name: Arc<str> = name.into();
            if let Some(bytes) = disk.open_space(&name)? {
                self.overlay().on_disk(&name, bytes);
            }
        }
        Ok(())
    }

    pub fn next_call(&self) -> u64 {
        self.calls.fetch_add(1, Relaxed)
    }

    fn overlay(&self) -> MutexGuard<'_, Overlay> {
        // Each change is whole before the lock is given back.
        self.overlay.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the disk, then looks at what is not there yet: both as of one moment.
    fn with<'k, T>(
        &self,
        space: &str,
        keys: impl Iterator<Item = &'k [u8]> + Clone,
        now_ms: i64,
        work: impl FnOnce(&mut Overlay, Vec<Option<Stored>>) -> T,
    ) -> anyhow::Result<T> {
        let Some(disk) = self.disk.get() else {
            return Ok(work(&mut self.overlay(), keys.map(|_| None).collect()));
        };
        loop {
            let flushes = self.overlay().flushes;
            let stored = disk.read(space, keys.clone(), now_ms)?;
            let mut overlay = self.overlay();
            // What was flushed meanwhile is neither in what was read nor in the overlay.
            if overlay.flushes == flushes {
                return Ok(work(&mut overlay, stored));
            }
        }
    }

    /// The values of these keys.
    ///
    /// # Errors
    /// The disk cannot be read.
    pub fn get<'k>(
        &self,
        space: &str,
        keys: impl Iterator<Item = &'k [u8]> + Clone,
        now_ms: i64,
    ) -> Result<Vec<Option<Vec<u8>>>, StateError> {
        Ok(self.with(space, keys.clone(), now_ms, |overlay, stored| {
            keys.zip(stored)
                .map(|(key, stored)| match overlay.newest(space, key) {
                    Some(version) => version.value_at(now_ms).map(<[u8]>::to_vec),
                    None => stored.map(|stored| stored.value),
                })
                .collect()
        })?)
    }

    /// Writes all of these or, if there is no room, none.
    ///
    /// # Errors
    /// There is no room.
    pub fn put(
        &self,
        calling: &mut Calling,
        space: &str,
        entries: &[(Writer, Entry<'_>)],
        allowed: Allowed,
        now_ms: i64,
    ) -> Result<(), StateError> {
        self.make_room(space, entries, allowed, now_ms)?;
        let mut overlay = self.overlay();
        for (writer, entry) in entries {
            calling.write(&mut overlay, space, writer, *entry, expiry(*entry, allowed, now_ms));
        }
        Ok(())
    }

    /// Writes each of these whose key is not there.
    ///
    /// # Errors
    /// There is no room for one of them, or the disk cannot be read; nothing was written.
    pub fn insert_if_absent(
        &self,
        calling: &mut Calling,
        space: &str,
        entries: &[(Writer, Entry<'_>)],
        allowed: Allowed,
        now_ms: i64,
    ) -> Result<Vec<Inserted>, StateError> {
        self.make_room(space, entries, allowed, now_ms)?;
        let keys = entries.iter().map(|(_, entry)| entry.key);
        Ok(self.with(space, keys, now_ms, |overlay, stored| {
            let inserted = entries.iter().zip(stored).map(|((writer, entry), stored)| {
                let there = match overlay.newest(space, entry.key) {
                    Some(version) if version.value_at(now_ms).is_none() => None,
                    Some(version) => is_there(version, writer),
                    None => match stored {
                        Some(stored) if stored.owner != writer.owner => Some(None),
                        _ => None,
                    },
                };
                match there {
                    None => {
                        calling.write(overlay, space, writer, *entry, expiry(*entry, allowed, now_ms));
                        Inserted::Yes
                    }
                    Some(Some(other)) => match overlay.pending(other) {
                        Some(ending) => Inserted::NotYet(Pending { ticket: other, ending }),
                        None => Inserted::No,
                    },
                    Some(None) => Inserted::No,
                }
            });
            inserted.collect()
        })?)
    }

    /// Whether there is room for these. Another lane may take it meanwhile: the limit is that of a
    /// disk, not of an account.
    fn make_room(
        &self,
        space: &str,
        entries: &[(Writer, Entry<'_>)],
        allowed: Allowed,
        now_ms: i64,
    ) -> Result<(), StateError> {
        let bytes = entries.iter().map(|(_, entry)| entry.bytes()).sum();
        let has_room = || self.overlay().has_room(space, bytes, allowed.size);
        if has_room() {
            return Ok(());
        }
        if let Some(disk) = self.disk.get() {
            // It may be full of what has expired.
            while !has_room() {
                let (purged, sizes) = disk.purge(now_ms)?;
                self.sizes(sizes);
                if purged == 0 {
                    break;
                }
            }
        }
        match has_room() {
            true => Ok(()),
            false => Err(StateError::Full { space: space.to_owned(), size: allowed.size }),
        }
    }

    fn sizes(&self, sizes: Vec<(Arc<str>, u64)>) {
        let mut overlay = self.overlay();
        for (name, bytes) in sizes {
            overlay.on_disk(&name, bytes);
        }
    }

    /// The message `ticket` is dropped because of `of`. False if that one, in the end, is dropped
    /// because of this one: then neither may be.
    pub fn follows(&self, ticket: Ticket, of: &Pending) -> bool {
        self.overlay().follows(ticket, of.ticket)
    }

    /// A source message is settled: what was written for it becomes final, or is forgotten.
    pub fn settle(&self, ticket: Ticket, ending: Ending) {
        self.overlay().settle(ticket, ending, self.disk.get().is_some());
    }

    /// Whether something final is not on the disk.
    pub fn is_dirty(&self) -> bool {
        self.disk.get().is_some() && self.overlay().is_dirty()
    }

    /// Writes what is final to the disk; durable when it returns. Blocks.
    ///
    /// # Errors
    /// The disk refuses; what is final stays to be written.
    pub fn flush(&self) -> anyhow::Result<()> {
        let Some(disk) = self.disk.get() else { return Ok(()) };
        let _one_at_a_time = self.flushing.lock().unwrap_or_else(PoisonError::into_inner);
        let Unwritten { marks, writes } = self.overlay().unwritten();
        if marks == 0 {
            return Ok(());
        }
        let sizes = disk.write(&writes, jiff::Timestamp::now().as_millisecond())?;
        self.overlay().written(marks, &writes);
        self.sizes(sizes);
        Ok(())
    }
}

impl Entry<'_> {
    fn bytes(&self) -> u64 {
        (self.key.len() + self.value.map_or(0, <[u8]>::len)) as u64
    }
}

fn expiry(entry: Entry<'_>, allowed: Allowed, now_ms: i64) -> i64 {
    let asked = i64::try_from(entry.ttl_ms).ok().filter(|&ttl| ttl > 0);
    let ttl = match (asked, allowed.ttl_ms) {
        (Some(asked), Some(most)) => asked.min(most),
        (ttl, None) | (None, ttl) => ttl.unwrap_or(i64::MAX),
    };
    now_ms.saturating_add(ttl)
}

/// Whether a value keeps `writer` from inserting its key; because of which other message in flight,
/// if so.
fn is_there(version: &Version, writer: &Writer) -> Option<Option<Ticket>> {
    match version.ticket {
        // Of the same source message: it was divided by a plugin, and this is another part of it.
        Some(ticket) if ticket == writer.ticket => {
            let same =
                version.step != writer.step || (version.call, version.row) == (writer.call, writer.row);
            (!same).then_some(None)
        }
        _ if version.owner == writer.owner => None,
        other => Some(other),
    }
}

/// What one call into a plugin has written, so that it can be taken back.
#[derive(Default)]
pub struct Calling {
    written: Vec<(u32, overlay::Place)>,
    bytes: usize,
}

/// What an entry takes besides its key and value.
const ENTRY_BYTES: usize = 200;

impl Calling {
    fn write(
        &mut self,
        overlay: &mut Overlay,
        space: &str,
        writer: &Writer,
        entry: Entry<'_>,
        expires_at_ms: i64,
    ) {
        let place = overlay.write(space, writer, entry, expires_at_ms);
        self.bytes += ENTRY_BYTES + place.bytes as usize;
        self.written.push((writer.row, place));
    }

    /// Whether it has written anything.
    pub fn is_empty(&self) -> bool {
        self.written.is_empty()
    }

    /// Rows that something was written for; may repeat.
    pub fn rows(&self) -> impl Iterator<Item = u32> + '_ {
        self.written.iter().map(|(row, _)| *row)
    }

    /// Takes back what was written for the rows that `of` names.
    pub fn undo(&mut self, states: &States, mut of: impl FnMut(u32) -> bool) {
        let mut overlay = states.overlay();
        let bytes = &mut self.bytes;
        self.written.retain(|(row, place)| {
            let undone = of(*row);
            if undone {
                *bytes -= ENTRY_BYTES + place.bytes as usize;
                overlay.undo(place);
            }
            !undone
        });
    }

    /// Memory that what was written takes until it is settled.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}
