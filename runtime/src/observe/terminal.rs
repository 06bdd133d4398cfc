//! Standard error, on which the progress of pipelines may be drawn.

use std::io::{self, Write};
use std::sync::LazyLock;

use indicatif::MultiProgress;

/// The progress lines of the process; nothing is drawn where standard error is no terminal.
pub static PROGRESS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// Writes above the progress lines, each time one piece.
pub struct Stderr;

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        PROGRESS.suspend(|| io::stderr().write_all(bytes)).map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}
