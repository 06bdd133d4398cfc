//! The data folder: what a pipeline must remember.
//!
//! - [`folder`]: the folder, its lock, its checkpoints
//! - [`database`]: the SQLite file in it, its format version and upgrade path
//! - `failures`: how often messages of a queue have failed

pub mod database;
mod failures;
pub mod folder;

pub use failures::FailureCounts;
pub use folder::{DataFolder, OpenError};

/// Where the partitions of a source stand. Kept for a pipeline in its data folder.
///
/// Calls block on the disk: a few milliseconds, for a commit is fsynced.
pub trait Checkpoints: Send + Sync {
    /// All checkpoints of the pipeline: the source's own name of a partition (a path), and what it
    /// saved for it.
    fn load(&self) -> anyhow::Result<Vec<(String, serde_json::Value)>>;

    /// Replaces the checkpoints of these partitions, all or none; durable when it returns.
    fn save(&self, checkpoints: &[(String, serde_json::Value)]) -> anyhow::Result<()>;
}
