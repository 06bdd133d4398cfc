//! Files that are being written: new bytes, new files, rotation.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use super::super::stream::{Halt, Piece, Pieces};
use super::Files;
use super::input::{Compression, HEAD_BYTES, Input, Opened};
use super::paths::Paths;

/// Chunks of a file that are read before it is another one's turn.
const CHUNKS_A_TURN: usize = 8;

pub(super) struct Follower {
    files: Files,
    paths: Paths,
    poll_interval: Duration,
    rotate_wait: Duration,
    /// Those that lost their name stand before the one that has it now.
    followed: Vec<Followed>,
}

/// A file that is read as it grows. It is kept open, so that its inode goes to no other file.
struct Followed {
    name: String,
    opened: Opened,
    state: State,
    /// Length and modification time when it was last read.
    seen: Option<(u64, i64, i64)>,
    at_end: bool,
    last_bytes: Instant,
    /// Since when no name leads to it.
    nameless_since: Option<Instant>,
}

enum State {
    /// Its first line, by which it is known, is not there yet.
    Empty,
    Reading {
        partition: u32,
        input: Input,
        /// Bytes read, decompressed.
        taken: u64,
        /// The compressed data ended in the middle: more must come.
        broken_off: bool,
    },
    /// The compressed data is complete.
    Complete { partition: u32 },
}

impl Follower {
    pub fn new(files: Files, paths: Paths, poll_interval: Duration, rotate_wait: Duration) -> Follower {
        Follower { files, paths, poll_interval, rotate_wait, followed: Vec::new() }
    }

    pub fn run(mut self, pieces: &Pieces) -> Result<(), Halt> {
        self.find_displaced()?;
        loop {
            self.look_for_files()?;
            let looked_at = Instant::now();
            loop {
                let busy = self.read_round(pieces)?;
                if !busy {
                    pieces.wait(self.poll_interval)?;
                }
                if !busy || looked_at.elapsed() >= self.poll_interval {
                    break;
                }
            }
        }
    }

    /// Finds files that were renamed while nobody looked: their rest comes first.
    fn find_displaced(&mut self) -> Result<(), Halt> {
        for (name, mark) in self.files.marks.displaced() {
            match self.find_inode(&name, mark.inode) {
                Ok(Some((other_name, opened))) => {
                    let head = opened.head().map_err(|error| cannot_read(&other_name, &error))?;
                    // One of another name that is looked for is found under that.
                    if mark.is_of(&opened, &head) && !self.paths.matches(&other_name) {
                        tracing::info!(file = name, now = other_name, "was renamed: reading its rest");
                        self.followed.push(Followed::new(name, opened));
                    }
                }
                Ok(None) => {
                    tracing::warn!(
                        file = name,
                        byte = mark.offset,
                        "the file of this checkpoint is gone: what was written to it behind this byte is not read"
                    );
                    self.files.table.stale([name]);
                }
                Err(error) => return Err(cannot_read(&name, &error)),
            }
        }
        Ok(())
    }

    /// Looks for a file in the folder in which it was.
    fn find_inode(&self, name: &str, inode: u64) -> io::Result<Option<(String, Opened)>> {
        let path = self.paths.path_of(name);
        let Some(folder) = path.parent().filter(|folder| folder.is_dir()) else { return Ok(None) };
        for entry in folder.read_dir()? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            if metadata.ino() == inode && metadata.is_file() {
                let other = std::path::Path::new(name).with_file_name(entry.file_name());
                return Ok(Some((other.to_string_lossy().into_owned(), Opened::open(&entry.path())?)));
            }
        }
        Ok(None)
    }

    /// Finds new files and those that have another name or none now.
    fn look_for_files(&mut self) -> Result<(), Halt> {
        let found = self.paths.find()?;
        let now = Instant::now();
        for followed in &mut self.followed {
            let names = || found.iter().filter(|file| followed.opened.is(file.device, file.inode));
            if names().any(|file| file.name == followed.name) {
                followed.nameless_since = None;
            } else if let Some(file) = names().next() {
                tracing::info!(file = followed.name, now = file.name, "was renamed");
                followed.nameless_since = None;
                followed.name.clone_from(&file.name);
                if let Some(partition) = followed.partition() {
                    self.files.table.rename(partition, &file.name);
                }
            } else {
                followed.nameless_since.get_or_insert(now);
            }
        }
        for file in found {
            if self.followed.iter().any(|followed| followed.opened.is(file.device, file.inode)) {
                continue;
            }
            match Opened::open(&file.path) {
                Ok(opened) => {
                    let known = |followed: &Followed| followed.opened.is(opened.device, opened.inode);
                    if !self.followed.iter().any(known) {
                        self.followed.push(Followed::new(file.name, opened));
                    }
                }
                // Renamed or removed just now.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(cannot_read(&file.name, &error)),
            }
        }
        Ok(())
    }

    /// Reads a turn of each file, and returns whether there is more to be read at once.
    fn read_round(&mut self, pieces: &Pieces) -> Result<bool, Halt> {
        let mut busy = false;
        let mut index = 0;
        while index < self.followed.len() {
            let (older, rest) = self.followed.split_at_mut(index);
            let followed = &mut rest[0];
            // What was written to a name first is read first.
            if older.iter().any(|older| older.name == followed.name && !older.at_end) {
                index += 1;
                continue;
            }
            followed.read_turn(&mut self.files, pieces)?;
            busy |= !followed.at_end;
            if followed.is_over(self.rotate_wait) {
                self.followed.remove(index).close(&self.files, pieces)?;
            } else {
                index += 1;
            }
        }
        Ok(busy)
    }
}

impl Followed {
    fn new(name: String, opened: Opened) -> Followed {
        Followed {
            name,
            opened,
            state: State::Empty,
            seen: None,
            at_end: false,
            last_bytes: Instant::now(),
            nameless_since: None,
        }
    }

    fn partition(&self) -> Option<u32> {
        match self.state {
            State::Empty => None,
            State::Reading { partition, .. } | State::Complete { partition } => Some(partition),
        }
    }

    fn is_over(&self, rotate_wait: Duration) -> bool {
        let quiet = |since: Instant| since.max(self.last_bytes).elapsed() >= rotate_wait;
        self.at_end && self.nameless_since.is_some_and(quiet)
    }

    fn read_turn(&mut self, files: &mut Files, pieces: &Pieces) -> Result<(), Halt> {
        let name = self.name.clone();
        let failed = |error: io::Error| cannot_read(&name, &error);
        let metadata = self.opened.metadata().map_err(failed)?;
        let seen = Some((metadata.len(), metadata.mtime(), metadata.mtime_nsec()));
        let changed = self.seen != seen;
        self.seen = seen;
        if changed && self.was_truncated(files, metadata.len()).map_err(failed)? {
            tracing::info!(file = name, "was truncated or written anew: reading it from its start");
            self.end(files, pieces)?;
        }
        if matches!(self.state, State::Empty) {
            let head = self.opened.head().map_err(failed)?;
            let enough = self.opened.compression != Compression::None || head.len() == HEAD_BYTES;
            let known = enough || head.contains(&b'\n') || self.nameless_since.is_some();
            if head.is_empty() || !known {
                self.at_end = true;
                return Ok(());
            }
            let (partition, input, taken) = files.start(&name, &self.opened, pieces)?;
            self.state = State::Reading { partition, input, taken, broken_off: false };
        } else if !changed && self.at_end {
            return Ok(());
        }
        let State::Reading { partition, input, taken, broken_off } = &mut self.state else {
            self.at_end = true;
            return Ok(());
        };
        if std::mem::take(broken_off) {
            *input = self.opened.input().map_err(failed)?;
            input.skip_to(*taken).map_err(failed)?;
        }
        self.at_end = false;
        for _ in 0..CHUNKS_A_TURN {
            let (bytes, result) = files.buffers.fill(input);
            if let Some(bytes) = bytes {
                *taken += bytes.len() as u64;
                self.last_bytes = Instant::now();
                pieces.send(Piece::Data { partition: *partition, bytes, read_bytes: 0 })?;
            }
            match result {
                Ok(false) => {}
                Ok(true) if self.opened.compression == Compression::None => {
                    self.at_end = true;
                    break;
                }
                Ok(true) => {
                    let partition = *partition;
                    self.at_end = true;
                    self.state = State::Complete { partition };
                    pieces.send(Piece::End { partition })?;
                    break;
                }
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    *broken_off = true;
                    self.at_end = true;
                    break;
                }
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(())
    }

    /// Whether the file does not go on where it was, though it is the same file.
    fn was_truncated(&self, files: &Files, len: u64) -> io::Result<bool> {
        Ok(match self.state {
            State::Empty => false,
            // More was added to what was complete: only from its start can it be decompressed.
            State::Complete { .. } => true,
            State::Reading { partition, taken, .. } => {
                (self.opened.compression == Compression::None && len < taken)
                    || !files.table.same_head(partition, &self.opened.head()?)
            }
        })
    }

    /// Gives up what was read so far; from here on it is another file.
    fn end(&mut self, files: &Files, pieces: &Pieces) -> Result<(), Halt> {
        match std::mem::replace(&mut self.state, State::Empty) {
            State::Empty => {}
            State::Reading { partition, .. } => {
                files.table.gone(partition);
                pieces.send(Piece::End { partition })?;
            }
            State::Complete { partition } => files.table.gone(partition),
        }
        Ok(())
    }

    /// It has no name, and nothing was written to it for a while.
    fn close(mut self, files: &Files, pieces: &Pieces) -> Result<(), Halt> {
        if matches!(self.state, State::Reading { broken_off: true, .. }) {
            tracing::warn!(file = self.name, "was removed in the middle of its compressed data");
        }
        self.end(files, pieces)
    }
}

fn cannot_read(name: &str, error: &io::Error) -> Halt {
    Halt::Failed(anyhow::anyhow!("cannot read {name}: {error}"))
}
