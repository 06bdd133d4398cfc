//! `millstream dlq export`: dead letters as a file that the file source reads.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;

use super::access::Access;
use super::{Selection, Target};
use crate::cli::output::tell;
use crate::dead_letters::json;

/// Writes the original messages of dead letters to a file, one a line, as the codec `record` reads
/// them. Nothing is hidden in it, and the dead letters stay.
#[derive(Args)]
pub struct Export {
    #[command(flatten)]
    target: Target,
    /// Only those with these ids.
    #[arg(value_name = "ID")]
    ids: Vec<String>,
    #[command(flatten)]
    selection: Selection,
    /// The file to make; it must not be there yet.
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
}

impl Export {
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let Some(pipeline) = self.target.load()? else { return Ok(ExitCode::FAILURE) };
        let access = Access::open(&pipeline).await?;
        access.know(&self.ids).await?;
        let filter = self.selection.filter(self.ids);
        let mut exported = Exported::create(&self.to)?;
        access
            .each_page(&filter, |letters| {
                letters.iter().try_for_each(|letter| exported.push(&json::record(&letter.message)?))?;
                Ok(true)
            })
            .await?;
        let count = exported.finish()?;
        tell(format_args!("{count} messages were written to {}", self.to.display()));
        Ok(ExitCode::SUCCESS)
    }
}

/// A file that is there, whole and on the disk, only once it is finished.
struct Exported {
    to: PathBuf,
    file: BufWriter<tempfile::NamedTempFile>,
    count: u64,
}

impl Exported {
    fn create(to: &Path) -> anyhow::Result<Exported> {
        if to.exists() {
            bail!("{} is there already; name another file or move it away", to.display());
        }
        let file = tempfile::NamedTempFile::new_in(folder_of(to)).with_context(|| cannot_write(to))?;
        Ok(Exported { to: to.to_owned(), file: BufWriter::new(file), count: 0 })
    }

    fn push(&mut self, line: &[u8]) -> anyhow::Result<()> {
        self.count += 1;
        self.file
            .write_all(line)
            .and_then(|()| self.file.write_all(b"\n"))
            .with_context(|| cannot_write(&self.to))
    }

    /// Durable when it returns.
    fn finish(self) -> anyhow::Result<u64> {
        let Exported { to, file, count } = self;
        let file = file
            .into_inner()
            .map_err(std::io::IntoInnerError::into_error)
            .with_context(|| cannot_write(&to))?;
        file.as_file().sync_all().with_context(|| cannot_write(&to))?;
        // Another file that has come meanwhile stays.
        file.persist_noclobber(&to).with_context(|| cannot_write(&to))?;
        File::open(folder_of(&to)).and_then(|folder| folder.sync_all()).with_context(|| cannot_write(&to))?;
        Ok(count)
    }
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn cannot_write(path: &Path) -> String {
    format!("cannot write {}", path.display())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::dead_letters::testing::letter;

    #[test]
    fn a_file_is_there_once_it_is_whole_and_never_in_place_of_another() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.ndjson");
        let mut exported = Exported::create(&path).unwrap();
        exported.push(&json::record(&letter(1).message).unwrap()).unwrap();
        assert!(!path.exists());
        assert_eq!(exported.finish().unwrap(), 1);
        let line = r#"{"key":"k","headers":[["h","1"],["h",{"base64":"/wA="}]],"payload":"{\"n\":1}","timestamp":"1970-01-01T00:00:00.017Z"}"#;
        assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{line}\n"));
        // It may hold what mask hides.
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let error = Exported::create(&path).err().unwrap().to_string();
        assert!(error.contains("is there already"), "{error}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_name_alone_is_in_the_current_folder() {
        assert_eq!(folder_of(Path::new("out.ndjson")), Path::new("."));
        assert_eq!(folder_of(Path::new("/a/out.ndjson")), Path::new("/a"));
    }
}
