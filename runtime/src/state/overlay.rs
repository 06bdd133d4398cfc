//! What is pending, and what is final but not yet on the disk.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::watch;

use super::disk::Write;
use super::{Ending, Entry, Owner, Ticket, Writer};
use crate::config::units::ByteSize;

#[derive(Default)]
pub struct Overlay {
    spaces: HashMap<Arc<str>, Space>,
    /// Messages in flight that have written something.
    in_flight: HashMap<Ticket, InFlight>,
    next: u64,
    /// Final versions that are to be written to the disk.
    dirty: Vec<(Arc<str>, Arc<[u8]>, u64)>,
    /// How often something went from here to the disk.
    pub flushes: u64,
}

#[derive(Default)]
struct Space {
    keys: HashMap<Arc<[u8]>, Vec<Version>>,
    /// Bytes of keys and values here, and on the disk.
    bytes: u64,
    on_disk: u64,
}

/// A value of a key. Of several the one with the highest number counts.
pub struct Version {
    number: u64,
    /// Whose it is as long as it is pending; `None` once it is final.
    pub ticket: Option<Ticket>,
    pub owner: Owner,
    pub step: Arc<str>,
    pub call: u64,
    pub row: u32,
    /// `None` if the key was removed.
    pub value: Option<Arc<[u8]>>,
    expires_at_ms: i64,
    /// It is on the disk, but an older one is pending that must not replace it.
    is_written: bool,
}

impl Version {
    /// `None` if it was removed or has expired.
    pub fn value_at(&self, now_ms: i64) -> Option<&[u8]> {
        self.value.as_deref().filter(|_| self.expires_at_ms > now_ms)
    }
}

/// What is to be written to the disk, each with its number.
pub struct Unwritten {
    /// Marks that this is made of; some may have been overtaken.
    pub marks: usize,
    pub writes: Vec<(u64, Write)>,
}

#[derive(Default)]
struct InFlight {
    written: Vec<(Arc<str>, Arc<[u8]>, u64)>,
    /// For those who wait for its end.
    ending: Option<watch::Sender<Option<Ending>>>,
    /// The message because of which it is dropped.
    follows: Option<Ticket>,
}

/// Where something was written.
pub struct Place {
    space: Arc<str>,
    key: Arc<[u8]>,
    number: u64,
    ticket: Ticket,
    pub bytes: u64,
}

impl Overlay {
    /// That many bytes of a space are on the disk.
    pub fn on_disk(&mut self, name: &Arc<str>, bytes: u64) {
        self.space(name).1.on_disk = bytes;
    }

    fn space(&mut self, name: &str) -> (Arc<str>, &mut Space) {
        let name = match self.spaces.get_key_value(name) {
            Some((name, _)) => Arc::clone(name),
            None => name.into(),
        };
        (Arc::clone(&name), self.spaces.entry(name).or_default())
    }

    /// The newest version of a key, if there is one here.
    pub fn newest(&self, space: &str, key: &[u8]) -> Option<&Version> {
        self.spaces.get(space)?.keys.get(key)?.last()
    }

    pub fn has_room(&mut self, name: &str, bytes: u64, size: ByteSize) -> bool {
        let (_, space) = self.space(name);
        space.bytes + space.on_disk + bytes <= size.0
    }

    pub fn write(&mut self, space: &str, writer: &Writer, entry: Entry<'_>, expires_at_ms: i64) -> Place {
        let number = self.next;
        self.next += 1;
        let bytes = entry.bytes();
        let (name, space) = self.space(space);
        space.bytes += bytes;
        let key = match space.keys.get_key_value(entry.key) {
            Some((key, _)) => Arc::clone(key),
            None => entry.key.into(),
        };
        space.keys.entry(Arc::clone(&key)).or_default().push(Version {
            number,
            ticket: Some(writer.ticket),
            owner: writer.owner,
            step: Arc::clone(&writer.step),
            call: writer.call,
            row: writer.row,
            value: entry.value.map(Arc::from),
            expires_at_ms,
            is_written: false,
        });
        let in_flight = self.in_flight.entry(writer.ticket).or_default();
        in_flight.written.push((Arc::clone(&name), Arc::clone(&key), number));
        Place { space: name, key, number, ticket: writer.ticket, bytes }
    }

    pub fn undo(&mut self, place: &Place) {
        if let Some(in_flight) = self.in_flight.get_mut(&place.ticket) {
            in_flight.written.retain(|(.., number)| *number != place.number);
        }
        self.take_back(&place.space, &place.key, place.number);
    }

    /// Removes a pending version; a newer one may have waited for that.
    fn take_back(&mut self, space: &str, key: &[u8], number: u64) {
        self.remove(space, key, |version| version.number == number);
        self.remove_written(space, key);
    }

    /// Something to wait with for the end of a message, if it is in flight.
    pub fn pending(&mut self, ticket: Ticket) -> Option<watch::Receiver<Option<Ending>>> {
        let in_flight = self.in_flight.get_mut(&ticket)?;
        Some(in_flight.ending.get_or_insert_with(|| watch::channel(None).0).subscribe())
    }

    pub fn follows(&mut self, ticket: Ticket, of: Ticket) -> bool {
        let mut next = Some(of);
        while let Some(leader) = next {
            if leader == ticket {
                return false;
            }
            next = self.in_flight.get(&leader).and_then(|leader| leader.follows);
        }
        // One that has written nothing has none who wait for it.
        if let Some(in_flight) = self.in_flight.get_mut(&ticket) {
            in_flight.follows = Some(of);
        }
        true
    }

    pub fn settle(&mut self, ticket: Ticket, ending: Ending, has_disk: bool) {
        let Some(in_flight) = self.in_flight.remove(&ticket) else { return };
        for (name, key, number) in in_flight.written {
            if ending != Ending::Done {
                self.take_back(&name, &key, number);
                continue;
            }
            let Some(versions) = self.spaces.get_mut(&name).and_then(|space| space.keys.get_mut(&key)) else {
                continue;
            };
            let is_newer = |version: &Version| version.ticket.is_none() && version.number > number;
            if versions.iter().any(is_newer) {
                self.take_back(&name, &key, number);
                continue;
            }
            if let Some(version) = versions.iter_mut().find(|version| version.number == number) {
                version.ticket = None;
            }
            self.remove(&name, &key, |version| version.ticket.is_none() && version.number < number);
            if has_disk {
                self.dirty.push((name, key, number));
            }
        }
        if let Some(waiting) = in_flight.ending {
            waiting.send_replace(Some(ending));
        }
    }

    pub fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// What is to be written to the disk; it stays here until [`Overlay::written`].
    pub fn unwritten(&self) -> Unwritten {
        let write = |(space, key, number): &(Arc<str>, Arc<[u8]>, u64)| {
            let versions = self.spaces.get(space)?.keys.get(key)?;
            let version = versions.iter().find(|version| version.number == *number)?;
            let write = Write {
                space: Arc::clone(space),
                key: Arc::clone(key),
                value: version.value.clone(),
                expires_at_ms: version.expires_at_ms,
                owner: version.owner,
            };
            Some((*number, write))
        };
        let writes = self.dirty.iter().filter_map(write).collect();
        Unwritten { marks: self.dirty.len(), writes }
    }

    /// These are on the disk.
    pub fn written(&mut self, marks: usize, writes: &[(u64, Write)]) {
        self.flushes += 1;
        self.dirty.drain(..marks);
        for (number, Write { space, key, .. }) in writes {
            let version = self.spaces.get_mut(space).and_then(|space| {
                space.keys.get_mut(key)?.iter_mut().find(|version| version.number == *number)
            });
            if let Some(version) = version {
                version.is_written = true;
            }
            self.remove_written(space, key);
        }
    }

    /// Removes what is on the disk as well, unless something older is pending: once that is final it
    /// must find the newer one.
    fn remove_written(&mut self, space: &str, key: &[u8]) {
        let Some(versions) = self.spaces.get(space).and_then(|space| space.keys.get(key)) else { return };
        let oldest_pending =
            versions.iter().filter(|version| version.ticket.is_some()).map(|v| v.number).min();
        self.remove(space, key, |version| {
            version.is_written && oldest_pending.is_none_or(|oldest| oldest > version.number)
        });
    }

    fn remove(&mut self, space: &str, key: &[u8], mut gone: impl FnMut(&Version) -> bool) {
        let Some(space) = self.spaces.get_mut(space) else { return };
        let Some(versions) = space.keys.get_mut(key) else { return };
        let bytes = &mut space.bytes;
        versions.retain(|version| {
            let gone = gone(version);
            if gone {
                *bytes -= (key.len() + version.value.as_ref().map_or(0, |value| value.len())) as u64;
            }
            !gone
        });
        if versions.is_empty() {
            space.keys.remove(key);
        }
    }
}
