//! Transactions: what sinks write and how far the source is read become final together.

use std::any::Any;

use async_trait::async_trait;

/// The one transaction that is open, of the sinks and the dead letters of a pipeline.
///
/// The source ends it ([`Committer::commit_in`](crate::sources::Committer::commit_in)), for its
/// positions belong in it.
#[async_trait]
pub trait Transactions: Send + Sync {
    /// Opens a transaction: what is written from now on belongs to it. Waits for the broker.
    async fn begin(&self) -> Result<(), TransactionError>;

    /// Undoes everything that was written since it was opened.
    async fn abort(&self) -> Result<(), TransactionError>;

    /// For sink and source, which know what it is.
    fn as_any(&self) -> &dyn Any;
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransactionError {
    /// It cannot be ended as it is: it is to be aborted, and run again.
    #[error("{0}")]
    Failed(String),
    /// No waiting and no repetition will help.
    #[error("{0}")]
    Fatal(String),
}
