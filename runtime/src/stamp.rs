//! What tells one content of a file from another, without reading it.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// When a file was changed, its size, its inode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stamp {
    seconds: i64,
    nanoseconds: i64,
    bytes: u64,
    inode: u64,
}

impl Stamp {
    /// `None` if the file cannot be looked at: it may be on its way.
    pub fn of(file: &Path) -> Option<Stamp> {
        fs::metadata(file).ok().as_ref().map(Stamp::from)
    }
}

impl From<&Metadata> for Stamp {
    fn from(metadata: &Metadata) -> Stamp {
        Stamp {
            seconds: metadata.mtime(),
            nanoseconds: metadata.mtime_nsec(),
            bytes: metadata.len(),
            inode: metadata.ino(),
        }
    }
}
