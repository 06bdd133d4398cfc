//! The SQLite file of a data folder: how it is opened, upgraded, read and written.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use rusqlite::{Connection, ErrorCode, OpenFlags, Transaction, TransactionBehavior};

/// The steps from an empty file to the current format; step n makes version n + 1. Steps are only
/// ever added: an older file goes through those that it has not seen.
const STEPS: &[&str] = &[
    "
    CREATE TABLE pipeline (name TEXT NOT NULL) STRICT;
    CREATE TABLE checkpoints (
        partition TEXT PRIMARY KEY,
        checkpoint TEXT NOT NULL,
        saved_at_ms INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    -- What may be large stands last, so that a scan over the rest does not read it.
    CREATE TABLE dead_letters (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        pipeline TEXT NOT NULL,
        source TEXT NOT NULL,
        partition INTEGER NOT NULL,
        position_offset INTEGER NOT NULL,
        record INTEGER NOT NULL,
        position TEXT NOT NULL,
        stage TEXT NOT NULL,
        plugin_step TEXT,
        plugin_name TEXT,
        plugin_version TEXT,
        plugin_sha256 TEXT,
        code TEXT NOT NULL,
        trap TEXT,
        attempts INTEGER NOT NULL,
        read_at_ms INTEGER NOT NULL,
        failed_at_ms INTEGER NOT NULL,
        trace_id TEXT,
        replays INTEGER NOT NULL,
        sinks TEXT NOT NULL,
        timestamp_ms INTEGER NOT NULL,
        reason TEXT NOT NULL,
        key BLOB,
        headers TEXT NOT NULL,
        payload BLOB
    ) STRICT;
    CREATE INDEX dead_letters_by_time ON dead_letters (failed_at_ms);
",
    "
    -- What plugins keep. The triggers count the bytes of keys and values of each space.
    CREATE TABLE state_spaces (
        id INTEGER PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        bytes INTEGER NOT NULL DEFAULT 0
    ) STRICT;
    CREATE TABLE state (
        space INTEGER NOT NULL,
        key BLOB NOT NULL,
        expires_at_ms INTEGER NOT NULL,
        partition INTEGER NOT NULL,
        position_offset INTEGER NOT NULL,
        epoch INTEGER NOT NULL,
        value BLOB NOT NULL,
        PRIMARY KEY (space, key)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX state_by_expiry ON state (expires_at_ms);
    CREATE TRIGGER state_inserted AFTER INSERT ON state BEGIN
        UPDATE state_spaces SET bytes = bytes + length(new.key) + length(new.value) WHERE id = new.space;
    END;
    CREATE TRIGGER state_updated AFTER UPDATE OF value ON state BEGIN
        UPDATE state_spaces SET bytes = bytes + length(new.value) - length(old.value) WHERE id = new.space;
    END;
    CREATE TRIGGER state_deleted AFTER DELETE ON state BEGIN
        UPDATE state_spaces SET bytes = bytes - length(old.key) - length(old.value) WHERE id = old.space;
    END;
",
    "
    -- What this member of a pipeline is called where no two may be called the same.
    ALTER TABLE pipeline ADD COLUMN member TEXT;
",
    "
    -- How often messages of a queue were given back after they had failed.
    CREATE TABLE failures (
        message TEXT PRIMARY KEY,
        failures INTEGER NOT NULL,
        failed_at_ms INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
",
];

/// Marks the file as ours: "mlst".
const APPLICATION_ID: i32 = 0x6d6c_7374;

/// Another process has the file open only by mistake (the folder is locked) or to look into it
/// with a tool; that should not fail a commit.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// Pages in memory, at most; most data folders need a few.
const CACHE_KIB: i32 = 32 << 10;
/// Pages of the write-ahead log that are written back together: 32 MiB.
const WAL_PAGES: i32 = 8000;

/// One connection that writes and one that only reads, so that a long look at the dead letters
/// does not hold up a commit. All calls block.
pub struct Database {
    path: PathBuf,
    writer: Mutex<Connection>,
    reader: Mutex<Connection>,
}

impl Database {
    /// Opens the file, making or upgrading it as needed. What cannot be read, and what a newer
    /// version wrote, is an error and stays as it is.
    pub fn open(path: &Path) -> anyhow::Result<Database> {
        Database::open_with(path, STEPS)
    }

    fn open_with(path: &Path, steps: &[&str]) -> anyhow::Result<Database> {
        // SQLite would make it readable by others; it holds messages.
        OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connect = |setup: fn(&mut Connection, &[&str]) -> Result<(), Setup>| {
            let mut connection = Connection::open_with_flags(path, flags).map_err(Setup::Sqlite)?;
            connection.busy_timeout(BUSY_TIMEOUT).map_err(Setup::Sqlite)?;
            setup(&mut connection, steps).map(|()| connection)
        };
        let explain_setup = |error| match error {
            Setup::Sqlite(error) => explain(error, path),
            Setup::Format(words) => anyhow::anyhow!("{} {words}", path.display()),
        };
        let writer = connect(prepare_writer).map_err(explain_setup)?;
        let reader = connect(|connection, _| Ok(connection.pragma_update(None, "query_only", true)?))
            .map_err(explain_setup)?;
        Ok(Database { path: path.to_owned(), writer: Mutex::new(writer), reader: Mutex::new(reader) })
    }

    /// Runs `body` in one transaction, which is durable when this returns; on an error nothing of
    /// it was done.
    pub fn write<T>(&self, body: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>) -> anyhow::Result<T> {
        let mut connection = lock(&self.writer);
        let result =
            connection.transaction_with_behavior(TransactionBehavior::Immediate).and_then(|transaction| {
                let value = body(&transaction)?;
                transaction.commit()?;
                Ok(value)
            });
        result.map_err(|error| explain(error, &self.path))
    }

    /// Runs `body` on a connection that cannot write.
    pub fn read<T>(&self, body: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> anyhow::Result<T> {
        body(&lock(&self.reader)).map_err(|error| explain(error, &self.path))
    }

    /// Another connection that cannot write, for one who reads often and is not to wait for others.
    pub fn reading_connection(&self) -> anyhow::Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        Connection::open_with_flags(&self.path, flags)
            .and_then(|connection| {
                connection.busy_timeout(BUSY_TIMEOUT)?;
                connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
                Ok(connection)
            })
            .map_err(|error| explain(error, &self.path))
    }

    /// Gives disk space that deleted rows had back to the file system, a few megabytes at most so
    /// that commits need not wait for long.
    pub fn shrink(&self) -> anyhow::Result<()> {
        const PAGES: i64 = 1024;
        let connection = lock(&self.writer);
        // Each row that this returns frees a page.
        let result =
            connection.prepare(&format!("PRAGMA incremental_vacuum({PAGES})")).and_then(|mut statement| {
                let mut rows = statement.query([])?;
                while rows.next()?.is_some() {}
                Ok(())
            });
        result.map_err(|error| explain(error, &self.path))
    }
}

/// A panic in the middle of a transaction has rolled it back: the connection is good.
fn lock(connection: &Mutex<Connection>) -> MutexGuard<'_, Connection> {
    connection.lock().unwrap_or_else(PoisonError::into_inner)
}

enum Setup {
    Sqlite(rusqlite::Error),
    /// Follows the file's path.
    Format(String),
}

impl From<rusqlite::Error> for Setup {
    fn from(error: rusqlite::Error) -> Setup {
        Setup::Sqlite(error)
    }
}

fn prepare_writer(connection: &mut Connection, steps: &[&str]) -> Result<(), Setup> {
    let pragma = |connection: &Connection, name| {
        connection.pragma_query_value(None, name, |row| row.get::<_, i32>(0)).map_err(Setup::Sqlite)
    };
    let version = pragma(connection, "user_version")?;
    let application_id = pragma(connection, "application_id")?;
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if tables > 0 && application_id != APPLICATION_ID {
        return Err(Setup::Format(
            "is a database of another program; name another folder as the data folder".to_owned(),
        ));
    }
    let known = steps.len();
    let done = usize::try_from(version).ok().filter(|done| *done <= known).ok_or_else(|| {
        Setup::Format(format!(
            "has format version {version}, and this millstream knows versions up to {known}: run the newer \
             millstream that wrote it, or name another data folder; nothing was changed"
        ))
    })?;
    if tables == 0 {
        // Only takes effect before the first table.
        connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
        connection.pragma_update(None, "application_id", APPLICATION_ID)?;
    }
    connection.pragma_update(None, "journal_mode", "WAL")?;
    // Keys of state come in no order, so a commit touches about as many pages as it has keys: a page
    // that is kept need not be read again, and one that changes often is written back seldom.
    connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
    connection.pragma_update(None, "wal_autocheckpoint", WAL_PAGES)?;
    // A commit is on the disk when it returns, also with WAL.
    connection.pragma_update(None, "synchronous", "FULL")?;
    for (step, version) in steps.iter().zip(1..).skip(done) {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        transaction.execute_batch(step)?;
        transaction.pragma_update(None, "user_version", version)?;
        transaction.commit()?;
    }
    Ok(())
}

/// The error in words that say what to do.
fn explain(error: rusqlite::Error, path: &Path) -> anyhow::Error {
    let path = path.display();
    let remedy = match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            format!(
                "{path} is damaged; nothing of it was deleted. restore it from a copy, or move it away: the source \
                 is then read from its start again, and the dead letters in it are not seen"
            )
        }
        Some(ErrorCode::DiskFull) => format!("no space is left for {path}; make space on its disk"),
        Some(ErrorCode::SystemIoFailure) => {
            format!("the disk refuses to read or write {path}; see whether it is full or damaged")
        }
        Some(ErrorCode::ReadOnly) => format!("{path} cannot be written; see its owner, mode and file system"),
        Some(ErrorCode::DatabaseBusy) => {
            format!("{path} is held by another program for over {} s; close it", BUSY_TIMEOUT.as_secs())
        }
        Some(ErrorCode::FileLockingProtocolFailed) => {
            format!("{path} cannot be locked; the data folder must be on a local file system")
        }
        _ => format!("cannot work with {path}"),
    };
    anyhow::Error::new(error).context(remedy)
}

/// Sets the pipeline that owns the file, or refuses another one's.
pub(super) fn claim_for(database: &Database, pipeline: &str) -> anyhow::Result<()> {
    let owner = database.write(|transaction| {
        transaction.execute(
            "INSERT INTO pipeline (name) SELECT ?1 WHERE NOT EXISTS (SELECT 1 FROM pipeline)",
            [pipeline],
        )?;
        transaction.query_row("SELECT name FROM pipeline", [], |row| row.get::<_, String>(0))
    })?;
    if owner != pipeline {
        bail!(
            "{} belongs to the pipeline {owner:?}, not to {pipeline:?}: two pipelines cannot share a data \
             folder; set another `data_dir`, or the old name if this pipeline was renamed",
            database.path.display()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(database: &Database) -> i32 {
        database.read(|c| c.pragma_query_value(None, "user_version", |row| row.get(0))).unwrap()
    }

    #[test]
    fn an_older_file_goes_through_the_steps_it_has_not_seen() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.sqlite");
        let first = "CREATE TABLE a (x INTEGER) STRICT; INSERT INTO a VALUES (1);";
        drop(Database::open_with(&path, &[first]).unwrap());
        let steps = [first, "ALTER TABLE a RENAME TO b;", "INSERT INTO b VALUES (2);"];
        for _ in 0..2 {
            let database = Database::open_with(&path, &steps).unwrap();
            assert_eq!(version(&database), 3);
            let rows: Vec<i64> = database
                .read(|c| c.prepare("SELECT x FROM b ORDER BY x")?.query_map([], |row| row.get(0))?.collect())
                .unwrap();
            assert_eq!(rows, [1, 2]);
        }
    }

    #[test]
    fn a_step_that_fails_leaves_the_version_before_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.sqlite");
        let steps = ["CREATE TABLE a (x INTEGER) STRICT;", "CREATE TABLE b (x INTEGER) STRICT; nonsense;"];
        assert!(Database::open_with(&path, &steps).is_err());
        let database = Database::open_with(&path, &steps[..1]).unwrap();
        assert_eq!(version(&database), 1);
        assert!(database.read(|c| c.prepare("SELECT * FROM b").map(drop)).is_err());
    }

    #[test]
    fn a_newer_file_is_refused_and_stays_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.sqlite");
        drop(Database::open(&path).unwrap());
        let newer = STEPS.len() + 1;
        Connection::open(&path).unwrap().pragma_update(None, "user_version", newer as i64).unwrap();
        let before = std::fs::read(&path).unwrap();
        let error = format!("{:#}", Database::open(&path).err().unwrap());
        assert!(error.contains(&format!("format version {newer}")), "{error}");
        assert!(error.contains("run the newer millstream"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), before);
    }

    #[test]
    fn a_damaged_file_is_an_error_and_stays_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.sqlite");
        let garbage = b"these are not the bytes of a database ".repeat(100);
        std::fs::write(&path, &garbage).unwrap();
        let error = format!("{:#}", Database::open(&path).err().unwrap());
        assert!(error.contains("is damaged; nothing of it was deleted"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), garbage);
    }

    #[test]
    fn a_disk_that_fails_is_told_with_what_to_do() {
        // What a full tmpfs gives at the start (SQLITE_IOERR_SHMSIZE).
        let failure = rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(4874), None);
        let error = format!("{:#}", explain(failure, Path::new("data/store.sqlite")));
        assert!(
            error.starts_with("the disk refuses to read or write data/store.sqlite; see whether"),
            "{error}"
        );
    }

    #[test]
    fn a_database_of_another_program_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.sqlite");
        Connection::open(&path).unwrap().execute_batch("CREATE TABLE t (x)").unwrap();
        let error = format!("{:#}", Database::open(&path).err().unwrap());
        assert!(error.contains("another program"), "{error}");
    }

    #[test]
    fn what_is_written_is_synced_and_what_fails_is_not_done() {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::open(&folder.path().join("store.sqlite")).unwrap();
        let pragma = |name| {
            let connection = lock(&database.writer);
            connection.pragma_query_value(None, name, |row| row.get::<_, rusqlite::types::Value>(0)).unwrap()
        };
        assert_eq!(pragma("synchronous"), 2.into());
        assert_eq!(pragma("journal_mode"), "wal".to_owned().into());
        assert_eq!(pragma("auto_vacuum"), 2.into());
        let failed = database.write(|transaction| {
            transaction.execute("INSERT INTO pipeline VALUES ('p')", [])?;
            transaction.execute("nonsense", [])
        });
        assert!(failed.is_err());
        assert_eq!(
            database.read(|c| c.query_row("SELECT count(*) FROM pipeline", [], |row| row.get(0))).ok(),
            Some(0)
        );
        assert!(database.read(|c| c.execute("INSERT INTO pipeline VALUES ('p')", [])).is_err());
    }
}
