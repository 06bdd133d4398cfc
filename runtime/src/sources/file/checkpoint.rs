//! How far each file is settled, and how a file is known again.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::Context;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::input::{Compression, Opened};
use super::paths::Paths;
use crate::message::Position;
use crate::store::Checkpoints;

/// Checkpoint of a name: mostly of one file, but also of those that had the name before, were
/// renamed, and are not settled yet.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Saved {
    files: Vec<Mark>,
}

/// How far a file is settled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mark {
    /// Bytes behind the last settled message, decompressed.
    pub offset: u64,
    /// Its line or record.
    pub record: u64,
    partition: u32,
    pub inode: u64,
    /// Hash of so many of the file's first bytes.
    fingerprint: String,
    fingerprint_bytes: usize,
}

impl Mark {
    /// Whether this is the file. Its device does not count: it may change when it is mounted again.
    pub fn is_of(&self, opened: &Opened, head: &[u8]) -> bool {
        self.inode == opened.inode
            && head.get(..self.fingerprint_bytes).is_some_and(|head| fingerprint(head) == self.fingerprint)
    }
}

/// 128 bits of SHA-256 are enough to tell files apart.
fn fingerprint(head: &[u8]) -> String {
    hex::encode(&Sha256::digest(head)[..16])
}

/// What was saved by the run before, and of which no file was found yet.
pub(super) struct Marks {
    paths: Paths,
    marks: Vec<(String, Mark)>,
}

impl Marks {
    /// # Errors
    /// The checkpoints cannot be read, or are of something else.
    pub fn load(checkpoints: &dyn Checkpoints, paths: &Paths) -> anyhow::Result<Marks> {
        let mut marks = Vec::new();
        for (name, saved) in checkpoints.load()? {
            // A pipeline may have had another path, or another source, before.
            if paths.matches(&name) {
                let saved: Saved = serde_json::from_value(saved).with_context(|| {
                    format!(
                        "the checkpoint of {name} cannot be read; `millstream checkpoint reset` removes it"
                    )
                })?;
                marks.extend(saved.files.into_iter().map(|mark| (name.clone(), mark)));
            }
        }
        Ok(Marks { paths: paths.clone(), marks })
    }

    /// The mark of a file, with the name under which it was saved: the file's, or one it had before.
    pub fn take(&mut self, name: &str, opened: &Opened, head: &[u8]) -> Option<(String, Mark)> {
        let of_name = self.marks.iter().position(|(known, mark)| known == name && mark.is_of(opened, head));
        let index = of_name.or_else(|| {
            self.marks
                .iter()
                .position(|(known, mark)| mark.is_of(opened, head) && !self.is_in_place(known, mark))
        })?;
        Some(self.marks.swap_remove(index))
    }

    /// Marks whose files have lost their names.
    pub fn displaced(&self) -> Vec<(String, Mark)> {
        self.marks.iter().filter(|(name, mark)| !self.is_in_place(name, mark)).cloned().collect()
    }

    /// Whether a name still belongs to the file of a mark.
    fn is_in_place(&self, name: &str, mark: &Mark) -> bool {
        std::fs::metadata(self.paths.path_of(name)).is_ok_and(|metadata| metadata.ino() == mark.inode)
    }
}

/// The files of this run: what the thread that reads them and those that settle and describe their
/// messages know together.
#[derive(Debug, Default)]
pub(super) struct Table(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    files: Vec<Tracked>,
    /// Names whose checkpoint is out of date.
    stale: BTreeSet<String>,
}

#[derive(Debug)]
struct Tracked {
    partition: u32,
    name: String,
    inode: u64,
    head: Vec<u8>,
    fingerprint: Option<String>,
    /// Offset and record of the last settled message.
    settled: Option<(u64, u64)>,
    /// Offset behind its last message, once it was read to its end.
    end: Option<u64>,
    /// It will not be found again: renamed and read to its end, or truncated.
    gone: bool,
}

impl Table {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a file and returns the number of its partition: that of its mark, or one made of what it
    /// is, so that it is the same again after a crash, but not that of another file of this name.
    pub fn add(&self, name: &str, opened: &Opened, head: Vec<u8>, mark: Option<&Mark>) -> u32 {
        let mut known = self.lock();
        let mut partition = mark.map_or_else(|| partition_of(opened, &head), |mark| mark.partition);
        while known.files.iter().any(|file| file.partition == partition) {
            partition = partition.wrapping_add(1);
        }
        known.files.push(Tracked {
            partition,
            name: name.to_owned(),
            inode: opened.inode,
            head,
            fingerprint: None,
            settled: mark.map(|mark| (mark.offset, mark.record)),
            end: None,
            gone: false,
        });
        partition
    }

    /// Compares a file's first bytes with those it began with, and learns those that came since.
    /// Returns whether it is still the same file.
    pub fn same_head(&self, partition: u32, head: &[u8]) -> bool {
        let mut known = self.lock();
        let Some(file) = known.of(partition) else { return false };
        if !head.starts_with(&file.head) {
            return false;
        }
        if head.len() > file.head.len() {
            file.head = head.to_vec();
            file.fingerprint = None;
        }
        true
    }

    /// The file has another name now.
    pub fn rename(&self, partition: u32, name: &str) {
        let mut known = self.lock();
        if let Some(file) = known.of(partition) {
            let before = std::mem::replace(&mut file.name, name.to_owned());
            known.stale.extend([before, name.to_owned()]);
        }
    }

    /// The file was read to its end.
    pub fn end(&self, partition: u32, last_row: u64) {
        if let Some(file) = self.lock().of(partition) {
            file.end = Some(last_row);
        }
    }

    /// The file will not be found again.
    pub fn gone(&self, partition: u32) {
        let mut known = self.lock();
        if let Some(file) = known.of(partition) {
            file.gone = true;
            let name = file.name.clone();
            known.stale.insert(name);
        }
    }

    pub fn name(&self, partition: u32) -> Option<String> {
        self.lock().of(partition).map(|file| file.name.clone())
    }

    /// Takes note of what is settled, and returns the checkpoints to save: of these files and of
    /// those that were renamed since.
    ///
    /// # Errors
    /// A partition is none of this source.
    pub fn commit(&self, positions: &[Position]) -> anyhow::Result<Vec<(String, serde_json::Value)>> {
        let mut known = self.lock();
        for position in positions {
            let file = known.of(position.partition).with_context(|| format!("no file has {position:?}"))?;
            file.settled = Some((position.offset, position.record));
            let name = file.name.clone();
            known.stale.insert(name);
        }
        known.files.retain(|file| !file.is_done());
        std::mem::take(&mut known.stale)
            .into_iter()
            .map(|name| {
                let files = known
                    .files
                    .iter_mut()
                    .filter(|file| file.name == name)
                    .filter_map(Tracked::mark)
                    .collect();
                Ok((name, serde_json::to_value(Saved { files })?))
            })
            .collect()
    }

    /// The checkpoints of these names must be saved again.
    pub fn stale(&self, names: impl IntoIterator<Item = String>) {
        self.lock().stale.extend(names);
    }
}

impl Known {
    fn of(&mut self, partition: u32) -> Option<&mut Tracked> {
        self.files.iter_mut().find(|file| file.partition == partition)
    }
}

impl Tracked {
    /// Whether nobody will ask for it again.
    fn is_done(&self) -> bool {
        let settled = self.settled.map_or(0, |(offset, _)| offset);
        self.gone && self.end.is_some_and(|end| end <= settled)
    }

    fn mark(&mut self) -> Option<Mark> {
        let (offset, record) = self.settled?;
        let fingerprint = self.fingerprint.get_or_insert_with(|| fingerprint(&self.head)).clone();
        Some(Mark {
            offset,
            record,
            partition: self.partition,
            inode: self.inode,
            fingerprint,
            fingerprint_bytes: self.head.len(),
        })
    }
}

/// A number made of the file's inode, birth and first line: what stays the same while it grows.
fn partition_of(opened: &Opened, head: &[u8]) -> u32 {
    let first_line = match opened.compression {
        Compression::None => memchr::memchr(b'\n', head).map_or(head, |end| &head[..end]),
        Compression::Gzip | Compression::Zstd => head,
    };
    let mut hash = Sha256::new();
    hash.update(opened.inode.to_be_bytes());
    hash.update(opened.born.to_be_bytes());
    hash.update(first_line);
    let hash = hash.finalize();
    u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]])
}
