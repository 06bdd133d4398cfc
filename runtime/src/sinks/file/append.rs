//! A file that is only ever longer by whole, fsynced writes.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, bail};

use super::Rotate;
use crate::codecs::{Ends, Framer, Framing};

pub struct AppendFile {
    path: PathBuf,
    head: Vec<u8>,
    ends: Ends,
    rotate: Option<Rotate>,
    current: Option<Current>,
}

struct Current {
    file: File,
    /// Device and inode, to see when another file has taken its name.
    identity: (u64, u64),
    /// Length up to which everything is fsynced. What is behind it was a write that failed.
    durable: u64,
    /// Something of a failed write is still behind that.
    uncut: bool,
    written_at: SystemTime,
}

impl AppendFile {
    pub fn new(path: PathBuf, head: Option<Vec<u8>>, ends: Ends, rotate: Option<Rotate>) -> AppendFile {
        AppendFile { path, head: head.unwrap_or_default(), ends, rotate, current: None }
    }

    /// Appends bytes that end with a message; all of them are durable when it returns.
    ///
    /// # Errors
    /// What the system says. None of the bytes are left in the file then; should it refuse even to
    /// cut them off, the next call does that first.
    pub fn append(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.open()?;
        let now = SystemTime::now();
        if let (Some(rotate), Some(current)) = (&self.rotate, &self.current)
            && rotate.is_due(current.durable, current.written_at, now)
        {
            self.current = None;
            rotate.rename(&self.path, now)?;
            self.open()?;
        }
        let current = self.current.as_mut().context("the file has just been opened")?;
        let head = if current.durable == 0 { &self.head[..] } else { &[] };
        let written = current
            .file
            .write_all(head)
            .and_then(|()| current.file.write_all(bytes))
            .and_then(|()| current.file.sync_data());
        if let Err(error) = written {
            if let Err(error) = current.cut() {
                tracing::warn!(file = %self.path.display(), %error, "cannot cut off a write that failed yet");
            }
            return Err(error).with_context(|| format!("cannot write to {}", self.path.display()));
        }
        current.durable += (head.len() + bytes.len()) as u64;
        current.written_at = now;
        Ok(())
    }

    /// Blocks belong to the head of their file.
    fn check_head(&self, file: &File) -> anyhow::Result<()> {
        let mut head = vec![0; self.head.len()];
        let is_ours = file.read_exact_at(&mut head, 0).is_ok() && head == self.head;
        anyhow::ensure!(
            is_ours,
            "{} was begun with another schema or compression, or by another program; move it away to begin a \
             new one",
            self.path.display()
        );
        Ok(())
    }

    /// Makes sure that the file under this name is open, locked and ends with a whole message.
    pub fn open(&mut self) -> anyhow::Result<()> {
        if let Some(current) = &mut self.current {
            match fs::metadata(&self.path) {
                Ok(there) if (there.dev(), there.ino()) == current.identity => {
                    if current.uncut {
                        current.cut().with_context(|| format!("cannot cut {}", self.path.display()))?;
                        return Ok(());
                    }
                    if there.len() == current.durable {
                        return Ok(());
                    }
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    return Err(error).with_context(|| format!("cannot look at {}", self.path.display()));
                }
            }
            tracing::info!(file = %self.path.display(), "the file was moved away or changed by others, opening it again");
            self.current = None;
        }
        let current = Current::open(&self.path, self.ends)?;
        if self.ends == Ends::AvroBlocks && current.durable > 0 {
            self.check_head(&current.file)?;
        }
        self.current = Some(current);
        Ok(())
    }
}

impl Current {
    fn open(path: &Path, ends: Ends) -> anyhow::Result<Current> {
        let cannot_open = || format!("cannot open {} to write to it", path.display());
        let folder = folder_of(path);
        let made =
            make_folders(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
        let mut file =
            OpenOptions::new().read(true).append(true).create(true).open(path).with_context(cannot_open)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => bail!(
                "{} is being written by another process or another sink; give each a file of its own",
                path.display()
            ),
            Err(TryLockError::Error(error)) => return Err(error).with_context(cannot_open),
        }
        let there = file.metadata().with_context(cannot_open)?;
        if !there.is_file() {
            bail!("{} is not a regular file, so nothing in it can be made durable", path.display());
        }
        let durable = end_of_last_message(&mut file, ends).with_context(cannot_open)?;
        let mut current = Current {
            file,
            identity: (there.dev(), there.ino()),
            durable,
            uncut: false,
            written_at: there.modified().with_context(cannot_open)?,
        };
        if there.len() > durable {
            tracing::warn!(
                file = %path.display(),
                at = durable,
                bytes = there.len() - durable,
                "cut off an unfinished last line that a crash has left"
            );
            current.cut().with_context(cannot_open)?;
        }
        if there.len() == 0 {
            // Its name must outlast a crash as its content does.
            current.file.sync_all().with_context(cannot_open)?;
            for folder in made.iter().map(PathBuf::as_path).chain([folder]) {
                sync_folder(folder).with_context(cannot_open)?;
            }
        }
        Ok(current)
    }

    fn cut(&mut self) -> io::Result<()> {
        self.uncut = true;
        self.file.set_len(self.durable)?;
        self.file.sync_data()?;
        self.uncut = false;
        Ok(())
    }
}

/// The folder that a file is in.
pub fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Makes a folder and those around it; returns the folders that a new one was made in.
fn make_folders(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let changed = folder
        .ancestors()
        .take_while(|folder| !folder.as_os_str().is_empty() && !folder.exists())
        .map(|folder| folder_of(folder).to_owned())
        .collect();
    fs::create_dir_all(folder)?;
    Ok(changed)
}

/// Makes what was created or renamed in a folder outlast a crash.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

const BLOCK_BYTES: usize = 64 << 10;

/// Where the last whole message of a file ends: 0 if it has none.
fn end_of_last_message(file: &mut File, ends: Ends) -> io::Result<u64> {
    let len = file.seek(SeekFrom::End(0))?;
    let mut block = vec![0; BLOCK_BYTES];
    match ends {
        Ends::LineBreaks | Ends::Unmarked => {
            let mut end = len;
            while end > 0 {
                let start = end.saturating_sub(BLOCK_BYTES as u64);
                let block = &mut block[..(end - start) as usize];
                file.seek(SeekFrom::Start(start))?;
                file.read_exact(block)?;
                if let Some(at) = memchr::memrchr(b'\n', block) {
                    return Ok(start + at as u64 + 1);
                }
                end = start;
            }
            Ok(0)
        }
        // Each says how long it is. A head alone is no message: it is written anew.
        Ends::AvroBlocks => {
            let mut framer = Framer::new(Framing::AvroContainer);
            let (mut at, mut end, mut frames) = (0, 0, 0u64);
            file.seek(SeekFrom::Start(0))?;
            loop {
                let count = file.read(&mut block)?;
                if count == 0 {
                    return Ok(if frames > 1 { end } else { 0 });
                }
                let mut next = &block[..count];
                while let Some(taken) = framer.find_end(next) {
                    frames += 1;
                    end = at + (block[..count].len() - next.len() + taken) as u64;
                    next = &next[taken..];
                }
                at += count as u64;
            }
        }
        // Whether a quotation mark opens or closes depends on all before it.
        Ends::QuotedLineBreaks => {
            let (mut quoted, mut start, mut end) = (false, 0, 0);
            file.seek(SeekFrom::Start(0))?;
            loop {
                let count = file.read(&mut block)?;
                if count == 0 {
                    return Ok(end);
                }
                for at in memchr::memchr2_iter(b'"', b'\n', &block[..count]) {
                    match block[at] {
                        b'"' => quoted = !quoted,
                        _ if !quoted => end = start + at as u64 + 1,
                        _ => {}
                    }
                }
                start += count as u64;
            }
        }
    }
}
