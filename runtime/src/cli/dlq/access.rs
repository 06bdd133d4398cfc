//! How the dead letters are reached: in the data folder itself, or through the process that has it.

use anyhow::Context;

use crate::config::Pipeline;
use crate::dead_letters::DeadLetter;
use crate::dead_letters::filter::Filter;
use crate::dead_letters::store::{Cursor, DeadLetterStore, Page};
use crate::observe::socket::Client;
use crate::store::{DataFolder, OpenError};

pub enum Access {
    /// The pipeline never ran: it has no data folder, and none is made.
    Nothing,
    /// This process has the folder now: no pipeline can start in it meanwhile.
    Folder {
        folder: DataFolder,
        store: DeadLetterStore,
    },
    Running(Client),
}

impl Access {
    pub fn open(pipeline: &Pipeline) -> anyhow::Result<Access> {
        if !DataFolder::exists(&pipeline.data_dir) {
            return Ok(Access::Nothing);
        }
        match DataFolder::open(&pipeline.data_dir, &pipeline.name) {
            Ok(folder) => {
                let store = DeadLetterStore::new(&folder, pipeline.dead_letters.common.retention.0);
                Ok(Access::Folder { folder, store })
            }
            Err(in_use @ OpenError::InUse { .. }) => {
                // Another `dlq`, or a pipeline that is just starting, has the folder and no socket.
                if !DataFolder::socket(&pipeline.data_dir).exists() {
                    return Err(in_use.into());
                }
                Ok(Access::Running(Client::new(&pipeline.data_dir)?))
            }
            Err(OpenError::Other(error)) => Err(error),
        }
    }

    async fn end(&self) -> anyhow::Result<Cursor> {
        match self {
            Access::Nothing => Ok(0),
            Access::Folder { store, .. } => blocking(store, |store| store.end()).await,
            Access::Running(client) => client.end().await,
        }
    }

    async fn page(&self, filter: &Filter, after: Cursor, end: Cursor) -> anyhow::Result<Page> {
        match self {
            Access::Nothing => Ok(Page::default()),
            Access::Folder { store, .. } => {
                let filter = filter.clone();
                blocking(store, move |store| store.page(&filter, after, end)).await
            }
            Access::Running(client) => client.page(filter, after, end).await,
        }
    }

    /// Calls `page` with those that are there now, a bounded number at a time, oldest first, until
    /// it returns false.
    pub async fn each_page(
        &self,
        filter: &Filter,
        mut page: impl FnMut(Vec<DeadLetter>) -> anyhow::Result<bool>,
    ) -> anyhow::Result<()> {
        let end = self.end().await?;
        let mut after = 0;
        loop {
            let Page { letters, next } = self.page(filter, after, end).await?;
            if !page(letters)? {
                return Ok(());
            }
            match next {
                Some(next) => after = next,
                None => return Ok(()),
            }
        }
    }

    /// Refuses ids that no dead letter has, naming them: one that was mistyped must not look like one
    /// that was replayed or deleted.
    pub async fn know(&self, ids: &[String]) -> anyhow::Result<()> {
        let mut unknown = Vec::new();
        for id in ids {
            if self.count(&Filter::of_id(id)).await? == 0 {
                unknown.push(id);
            }
        }
        if unknown.is_empty() { Ok(()) } else { Err(super::unknown(&unknown)) }
    }

    pub async fn count(&self, filter: &Filter) -> anyhow::Result<u64> {
        match self {
            Access::Nothing => Ok(0),
            Access::Folder { store, .. } => {
                let filter = filter.clone();
                blocking(store, move |store| store.count(&filter)).await
            }
            Access::Running(client) => client.count(filter).await,
        }
    }

    pub async fn purge(&self, filter: &Filter) -> anyhow::Result<u64> {
        match self {
            Access::Nothing => Ok(0),
            Access::Folder { store, .. } => {
                let filter = filter.clone();
                blocking(store, move |store| store.purge(&filter)).await
            }
            Access::Running(client) => client.purge(filter).await,
        }
    }

    pub async fn purge_expired(&self) -> anyhow::Result<u64> {
        match self {
            Access::Nothing => Ok(0),
            Access::Folder { store, .. } => {
                let now_ms = jiff::Timestamp::now().as_millisecond();
                blocking(store, move |store| store.purge_expired(now_ms)).await
            }
            Access::Running(client) => client.purge_expired().await,
        }
    }
}

async fn blocking<T: Send + 'static>(
    store: &DeadLetterStore,
    work: impl FnOnce(DeadLetterStore) -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    let store = store.clone();
    tokio::task::spawn_blocking(move || work(store)).await.context("work on the dead letters was cut off")?
}
