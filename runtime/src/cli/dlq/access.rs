//! How the dead letters are reached: in the data folder itself, or through the process that has it; and
//! those that are elsewhere, in a topic, by a copy.

use anyhow::Context;

use crate::config::Pipeline;
use crate::dead_letters::filter::Filter;
use crate::dead_letters::store::{Cursor, DeadLetterStore, Page};
use crate::dead_letters::{DeadLetter, elsewhere};
use crate::observe::socket::Client;
use crate::store::{DataFolder, OpenError};

pub struct Access {
    /// The data folder, if this process has it now: no pipeline can start in it meanwhile.
    pub folder: Option<DataFolder>,
    /// Those of the embedded store.
    pub local: Place,
    /// A copy of those that are elsewhere, if there is such a place.
    pub copy: Option<Place>,
}

/// Where dead letters are.
pub enum Place {
    /// The pipeline never ran: it has no data folder, and none is made.
    Nothing,
    Store(DeadLetterStore),
    /// In the folder of a process that runs.
    Running(Client),
}

impl Access {
    pub async fn open(pipeline: &Pipeline) -> anyhow::Result<Access> {
        let copy = match elsewhere(pipeline) {
            None => None,
            Some(elsewhere) => {
                let copied = tokio::task::spawn_blocking(move || elsewhere.copy());
                Some(Place::Store(copied.await.context("reading the dead letters was cut off")??))
            }
        };
        let (folder, local) = local(pipeline)?;
        Ok(Access { folder, local, copy })
    }

    fn places(&self) -> impl DoubleEndedIterator<Item = &Place> {
        std::iter::once(&self.local).chain(&self.copy)
    }

    /// Calls `page` with those that are there now, a bounded number at a time, oldest first (but those
    /// of the embedded store before those elsewhere), until it returns false.
    pub async fn each_page(
        &self,
        filter: &Filter,
        mut page: impl FnMut(Vec<DeadLetter>) -> anyhow::Result<bool>,
    ) -> anyhow::Result<()> {
        for place in self.places() {
            let end = place.end().await?;
            let mut next = Some(0);
            while let Some(after) = next {
                let Page { letters, next: further } = place.page(filter, after, end).await?;
                if !page(letters)? {
                    return Ok(());
                }
                next = further;
            }
        }
        Ok(())
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
        let mut count = 0;
        for place in self.places() {
            count += place.count(filter).await?;
        }
        Ok(count)
    }

    pub async fn purge(&self, filter: &Filter) -> anyhow::Result<u64> {
        let mut count = 0;
        for place in self.places().rev() {
            count += place.purge(filter).await?;
        }
        Ok(count)
    }

    /// Those elsewhere have a retention of their own.
    pub async fn purge_expired(&self) -> anyhow::Result<u64> {
        self.local.purge_expired().await
    }
}

impl Place {
    async fn end(&self) -> anyhow::Result<Cursor> {
        match self {
            Place::Nothing => Ok(0),
            Place::Store(store) => blocking(store, |store| store.end()).await,
            Place::Running(client) => client.end().await,
        }
    }

    async fn page(&self, filter: &Filter, after: Cursor, end: Cursor) -> anyhow::Result<Page> {
        match self {
            Place::Nothing => Ok(Page::default()),
            Place::Store(store) => {
                let filter = filter.clone();
                blocking(store, move |store| store.page(&filter, after, end)).await
            }
            Place::Running(client) => client.page(filter, after, end).await,
        }
    }

    async fn count(&self, filter: &Filter) -> anyhow::Result<u64> {
        match self {
            Place::Nothing => Ok(0),
            Place::Store(store) => {
                let filter = filter.clone();
                blocking(store, move |store| store.count(&filter)).await
            }
            Place::Running(client) => client.count(filter).await,
        }
    }

    async fn purge(&self, filter: &Filter) -> anyhow::Result<u64> {
        match self {
            Place::Nothing => Ok(0),
            Place::Store(store) => {
                let filter = filter.clone();
                blocking(store, move |store| store.purge(&filter)).await
            }
            Place::Running(client) => client.purge(filter).await,
        }
    }

    async fn purge_expired(&self) -> anyhow::Result<u64> {
        match self {
            Place::Nothing => Ok(0),
            Place::Store(store) => {
                let now_ms = jiff::Timestamp::now().as_millisecond();
                blocking(store, move |store| store.purge_expired(now_ms)).await
            }
            Place::Running(client) => client.purge_expired().await,
        }
    }
}

/// The data folder of a pipeline, if this process can have it, and its dead letters.
fn local(pipeline: &Pipeline) -> anyhow::Result<(Option<DataFolder>, Place)> {
    if !DataFolder::exists(&pipeline.data_dir) {
        return Ok((None, Place::Nothing));
    }
    match DataFolder::open(&pipeline.data_dir, &pipeline.name) {
        Ok(folder) => {
            let store = DeadLetterStore::new(&folder, pipeline.dead_letters.common.retention.0);
            Ok((Some(folder), Place::Store(store)))
        }
        Err(in_use @ OpenError::InUse { .. }) => {
            // Another `dlq`, or a pipeline that is just starting, has the folder and no socket.
            if !DataFolder::socket(&pipeline.data_dir).exists() {
                return Err(in_use.into());
            }
            Ok((None, Place::Running(Client::new(&pipeline.data_dir)?)))
        }
        Err(OpenError::Other(error)) => Err(error),
    }
}

async fn blocking<T: Send + 'static>(
    store: &DeadLetterStore,
    work: impl FnOnce(DeadLetterStore) -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    let store = store.clone();
    tokio::task::spawn_blocking(move || work(store)).await.context("work on the dead letters was cut off")?
}
