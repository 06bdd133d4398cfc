//! Which files are meant.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use glob::Pattern;

/// A path of a pipeline file: that of a file, or a pattern.
#[derive(Clone, Debug)]
pub(super) struct Paths {
    base: PathBuf,
    path: PathBuf,
    /// With the base folder, if it is a pattern.
    pattern: Option<String>,
}

/// A file that is there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Found {
    /// As the pipeline file would name it: relative to its folder if it is in there.
    pub name: String,
    pub path: PathBuf,
    pub bytes: u64,
    pub device: u64,
    pub inode: u64,
}

impl Paths {
    /// # Errors
    /// It is empty, or no pattern: in a sentence.
    pub fn new(base: &Path, path: &str) -> Result<Paths, String> {
        if path.is_empty() {
            return Err("the path is empty".into());
        }
        let full = base.join(path);
        let is_pattern = Paths::is_pattern(path) && !full.exists();
        let pattern = if !is_pattern {
            None
        } else if Path::new(path).is_absolute() || base.as_os_str().is_empty() {
            Some(path.to_owned())
        } else {
            let base = base.to_str().ok_or_else(|| format!("the folder {base:?} is not named in UTF-8"))?;
            Some(format!("{}/{path}", Pattern::escape(base)))
        };
        if let Some(pattern) = &pattern {
            Pattern::new(pattern).map_err(|error| format!("{path:?} is no pattern: {}", error.msg))?;
        }
        Ok(Paths { base: base.to_owned(), path: full, pattern })
    }

    /// Whether it may stand for several files.
    pub fn is_pattern(path: &str) -> bool {
        path.contains(['*', '?', '['])
    }

    /// For messages.
    pub fn shown(&self) -> &Path {
        &self.path
    }

    /// The folder that must be there for files to come up.
    pub fn folder(&self) -> PathBuf {
        let fixed: PathBuf = match &self.pattern {
            Some(_) => (self.path.components())
                .take_while(|part| !Paths::is_pattern(&part.as_os_str().to_string_lossy()))
                .collect(),
            None => self.path.parent().map(Path::to_owned).unwrap_or_default(),
        };
        if fixed.as_os_str().is_empty() { PathBuf::from(".") } else { fixed }
    }

    /// The path of a file by its name.
    pub fn path_of(&self, name: &str) -> PathBuf {
        self.base.join(name)
    }

    /// Whether a file of that name, there or not, would be found.
    pub fn matches(&self, name: &str) -> bool {
        let path = self.path_of(name);
        match &self.pattern {
            Some(pattern) => Pattern::new(pattern).is_ok_and(|pattern| pattern.matches_path(&path)),
            None => path == self.path,
        }
    }

    /// The files that are there, in the order of their names.
    ///
    /// # Errors
    /// A folder cannot be read, what is named is no file, or a name is not UTF-8.
    pub fn find(&self) -> anyhow::Result<Vec<Found>> {
        let mut found = Vec::new();
        match &self.pattern {
            Some(pattern) => {
                for path in glob::glob(pattern)? {
                    let path = path.map_err(|error| {
                        anyhow::anyhow!("cannot look into {:?}: {}", error.path(), error.error())
                    })?;
                    found.extend(self.look_at(path, false)?);
                }
            }
            None => found.extend(self.look_at(self.path.clone(), true)?),
        }
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    /// `None` if it is not there, or is a folder or the like that a pattern matches by chance.
    fn look_at(&self, path: PathBuf, named: bool) -> anyhow::Result<Option<Found>> {
        let metadata = match std::fs::metadata(&path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("cannot read {path:?}")),
        };
        if !metadata.is_file() {
            anyhow::ensure!(
                !named,
                "{path:?} is no regular file; what comes from a pipe is read with the stdin source"
            );
            return Ok(None);
        }
        let name = path.strip_prefix(&self.base).unwrap_or(&path);
        let name =
            name.to_str().with_context(|| format!("the file name {name:?} is not UTF-8: rename it"))?;
        Ok(Some(Found {
            name: name.to_owned(),
            bytes: metadata.len(),
            device: metadata.dev(),
            inode: metadata.ino(),
            path,
        }))
    }
}
