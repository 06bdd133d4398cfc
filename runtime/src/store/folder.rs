//! The data folder of a pipeline: one process at a time, and its checkpoints.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::Checkpoints;
use super::database::{Database, claim_for};

const LOCK: &str = "lock";
const DATABASE: &str = "store.sqlite";
const SOCKET: &str = "admin.sock";

/// An open data folder. Cloning shares it; the lock is given back with the last clone.
#[derive(Clone)]
pub struct DataFolder(Arc<Opened>);

struct Opened {
    path: PathBuf,
    database: Arc<Database>,
    /// Locked as long as it is open. Never deleted: who then waits for it would lock a file that
    /// is no longer there.
    _lock: File,
}

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("the data folder {} is in use by {}: stop that process, or wait for its end", folder.display(), process(.pid))]
    InUse { folder: PathBuf, pid: Option<u32> },
    #[error(transparent)]
    Other(#[from] anyhow::Error),
}

fn process(pid: &Option<u32>) -> String {
    pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}

/// A checkpoint, to be shown.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SavedCheckpoint {
    /// The source's own name of the partition.
    pub partition: String,
    pub checkpoint: serde_json::Value,
    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub saved_at_ms: i64,
}

impl DataFolder {
    /// Opens the folder for a pipeline, making it if it is not there. As long as it is open no
    /// other process can.
    pub fn open(path: &Path, pipeline: &str) -> Result<DataFolder, OpenError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .with_context(|| format!("cannot make the data folder {}", path.display()))?;
        let lock = take_lock(path)?;
        let database = Database::open(&path.join(DATABASE))?;
        claim_for(&database, pipeline)?;
        Ok(DataFolder(Arc::new(Opened { path: path.to_owned(), database: Arc::new(database), _lock: lock })))
    }

    /// Whether a pipeline has left anything there.
    pub fn exists(path: &Path) -> bool {
        path.join(DATABASE).exists()
    }

    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Where the admin socket of a running process is.
    pub fn socket(folder: &Path) -> PathBuf {
        folder.join(SOCKET)
    }

    pub fn database(&self) -> Arc<Database> {
        Arc::clone(&self.0.database)
    }

    /// A name that only this member of the pipeline has, made once and kept. Blocks on the first call.
    pub fn member(&self) -> anyhow::Result<String> {
        let fresh = uuid::Uuid::new_v4().to_string();
        self.0.database.write(|transaction| {
            transaction.execute("UPDATE pipeline SET member = ?1 WHERE member IS NULL", [fresh])?;
            transaction.query_row("SELECT member FROM pipeline", [], |row| row.get(0))
        })
    }

    /// All checkpoints, by partition. Blocks.
    pub fn saved_checkpoints(&self) -> anyhow::Result<Vec<SavedCheckpoint>> {
        let rows: Vec<(String, String, i64)> = self.0.database.read(|connection| {
            connection
                .prepare_cached(
                    "SELECT partition, checkpoint, saved_at_ms FROM checkpoints ORDER BY partition",
                )?
                .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
                .collect()
        })?;
        rows.into_iter()
            .map(|(partition, checkpoint, saved_at_ms)| {
                let checkpoint = serde_json::from_str(&checkpoint).with_context(|| {
                    format!("the checkpoint of {partition:?} is not JSON: {checkpoint:?}")
                })?;
                Ok(SavedCheckpoint { partition, checkpoint, saved_at_ms })
            })
            .collect()
    }

    /// Forgets all checkpoints, so that the source is read from its start; returns how many there
    /// were. Blocks; durable when it returns.
    pub fn reset_checkpoints(&self) -> anyhow::Result<usize> {
        self.0.database.write(|transaction| transaction.execute("DELETE FROM checkpoints", []))
    }
}

impl Checkpoints for DataFolder {
    fn load(&self) -> anyhow::Result<Vec<(String, serde_json::Value)>> {
        Ok(self.saved_checkpoints()?.into_iter().map(|saved| (saved.partition, saved.checkpoint)).collect())
    }

    fn save(&self, checkpoints: &[(String, serde_json::Value)]) -> anyhow::Result<()> {
        let now_ms = jiff::Timestamp::now().as_millisecond();
        self.0.database.write(|transaction| {
            let mut statement = transaction.prepare_cached(
                "INSERT INTO checkpoints (partition, checkpoint, saved_at_ms) VALUES (?1, ?2, ?3)
                 ON CONFLICT (partition) DO UPDATE
                 SET checkpoint = excluded.checkpoint, saved_at_ms = excluded.saved_at_ms",
            )?;
            for (partition, checkpoint) in checkpoints {
                statement.execute((partition, checkpoint.to_string(), now_ms))?;
            }
            Ok(())
        })
    }
}

fn take_lock(folder: &Path) -> Result<File, OpenError> {
    let path = folder.join(LOCK);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut pid = String::new();
            file.read_to_string(&mut pid).with_context(|| format!("cannot read {}", path.display()))?;
            return Err(OpenError::InUse { folder: folder.to_owned(), pid: pid.trim().parse().ok() });
        }
        Err(error) => {
            let error = anyhow::Error::new(error).context(format!(
                "cannot lock {}; the data folder must be on a file system with locks",
                path.display()
            ));
            return Err(OpenError::Other(error));
        }
    }
    // The pid is for people; the lock itself ends with the process.
    file.set_len(0)
        .and_then(|()| file.write_all(format!("{}\n", std::process::id()).as_bytes()))
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use serde_json::json;

    use super::*;

    #[test]
    fn checkpoints_survive_the_process() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data/p");
        {
            let data = DataFolder::open(&path, "p").unwrap();
            assert_eq!(data.load().unwrap(), []);
            data.save(&[("a".to_owned(), json!({ "offset": 1 })), ("b".to_owned(), json!(2))]).unwrap();
            data.save(&[("a".to_owned(), json!({ "offset": u64::MAX }))]).unwrap();
        }
        let data = DataFolder::open(&path, "p").unwrap();
        let expected = [("a".to_owned(), json!({ "offset": u64::MAX })), ("b".to_owned(), json!(2))];
        assert_eq!(data.load().unwrap(), expected);
        assert_eq!(data.reset_checkpoints().unwrap(), 2);
        assert_eq!(data.load().unwrap(), []);
    }

    #[test]
    fn only_its_owner_can_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p");
        let _data = DataFolder::open(&path, "p").unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o700);
        let files: Vec<PathBuf> =
            std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(files.len() >= 2, "{files:?}");
        for file in files {
            assert_eq!(mode(&file), 0o600, "{}", file.display());
        }
    }

    #[test]
    fn one_process_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let data = DataFolder::open(folder.path(), "p").unwrap();
        let clone = data.clone();
        drop(data);
        let error = DataFolder::open(folder.path(), "p").err().unwrap();
        assert!(matches!(error, OpenError::InUse { pid: Some(pid), .. } if pid == std::process::id()));
        let words = error.to_string();
        let path = folder.path().display().to_string();
        for part in [&path, &format!("process {}", std::process::id()), "stop that process"] {
            assert!(words.contains(part), "{words}");
        }
        drop(clone);
        DataFolder::open(folder.path(), "p").unwrap();
    }

    #[test]
    fn two_pipelines_cannot_share_it() {
        let folder = tempfile::tempdir().unwrap();
        drop(DataFolder::open(folder.path(), "one").unwrap());
        let error = format!("{:#}", DataFolder::open(folder.path(), "two").err().unwrap());
        assert!(error.contains("belongs to the pipeline \"one\", not to \"two\""), "{error}");
        DataFolder::open(folder.path(), "one").unwrap();
    }
}
