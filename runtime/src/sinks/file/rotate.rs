//! Going on in a new file when one is full or old.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;

use super::Rotate;
use super::append::{folder_of, sync_folder};

impl Rotate {
    /// Whether a file of this length, last written at that time, is to be renamed.
    pub fn is_due(&self, bytes: u64, written_at: SystemTime, now: SystemTime) -> bool {
        let full = self.size.is_some_and(|size| bytes >= size.0);
        let old = self.interval.is_some_and(|interval| {
            let count = |time: SystemTime| {
                time.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() / interval.0.as_nanos().max(1)
            };
            // A clock that was set back makes no file old.
            count(now) > count(written_at)
        });
        bytes > 0 && (full || old)
    }

    /// Renames a file; durable when it returns.
    pub fn rename(&self, path: &Path, now: SystemTime) -> anyhow::Result<()> {
        let names = Names::of(path);
        let time = jiff::Timestamp::try_from(now)
            .context("the clock stands at no time that can be written")?
            .strftime("%Y%m%dT%H%M%SZ")
            .to_string();
        let free = (1..).map(|number| names.rotated(&time, number)).find(|name| !name.exists());
        let to = free.context("there is no free name left")?;
        fs::rename(path, &to)
            .and_then(|()| sync_folder(folder_of(path)))
            .with_context(|| format!("cannot rename {} to {}", path.display(), to.display()))?;
        tracing::info!(file = %path.display(), to = %to.display(), "rotated");
        if let Some(keep) = self.keep
            && let Err(error) = names.delete_all_but(keep)
        {
            tracing::warn!(file = %path.display(), %error, "cannot delete the oldest rotated files");
        }
        Ok(())
    }
}

/// The names that a file gets when it is rotated: `orders-TIME.ndjson`, `orders-TIME-2.ndjson`.
struct Names<'a> {
    folder: &'a Path,
    stem: &'a str,
    ending: &'a str,
}

/// Length of `20260131T235959Z`.
const TIME_CHARS: usize = 16;

fn text(part: Option<&OsStr>) -> &str {
    part.and_then(OsStr::to_str).unwrap_or_default()
}

impl Names<'_> {
    fn of(path: &Path) -> Names<'_> {
        // A name from a pipeline file is UTF-8, and check() has seen that there is one.
        Names { folder: folder_of(path), stem: text(path.file_stem()), ending: text(path.extension()) }
    }

    fn rotated(&self, time: &str, number: usize) -> PathBuf {
        let number = if number > 1 { format!("-{number}") } else { String::new() };
        let dot = if self.ending.is_empty() { "" } else { "." };
        self.folder.join(format!("{}-{time}{number}{dot}{}", self.stem, self.ending))
    }

    /// Time and number of a name, if it is one of these.
    fn read<'n>(&self, name: &'n str) -> Option<(&'n str, usize)> {
        let rest = name.strip_prefix(self.stem)?.strip_prefix('-')?;
        let rest = match self.ending {
            "" => rest,
            ending => rest.strip_suffix(ending)?.strip_suffix('.')?,
        };
        let (time, number) = rest.split_at_checked(TIME_CHARS)?;
        let is_time = time.bytes().enumerate().all(|(at, byte)| match at {
            8 => byte == b'T',
            15 => byte == b'Z',
            _ => byte.is_ascii_digit(),
        });
        let number = match number {
            "" => 1,
            number => number.strip_prefix('-')?.parse().ok()?,
        };
        is_time.then_some((time, number))
    }

    fn delete_all_but(&self, keep: usize) -> io::Result<()> {
        let names: Vec<String> = fs::read_dir(self.folder)?
            .filter_map(|entry| entry.map(|entry| entry.file_name().into_string().ok()).transpose())
            .collect::<io::Result<_>>()?;
        let mut rotated: Vec<_> = names.iter().filter_map(|name| Some((self.read(name)?, name))).collect();
        rotated.sort();
        for (_, name) in &rotated[..rotated.len().saturating_sub(keep)] {
            fs::remove_file(self.folder.join(name))?;
        }
        Ok(())
    }
}
