//! Dead letters in a topic, read again. What is none any more is marked by a record of the same key.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use tempfile::TempDir;

use crate::dead_letters::store::{DeadLetterStore, Original};
use crate::dead_letters::story::{Settled, Told, read};
use crate::dead_letters::{DeadLetter, Elsewhere};
use crate::kafka::producer::{Care, Producer, Record};
use crate::kafka::{Cluster, whole};
use crate::store::DataFolder;

/// Dead letters, or marks, that are written at once.
const BATCH: usize = 256;

/// A topic that dead letters go to.
#[derive(Clone)]
pub struct DeadLetterTopic {
    pub cluster: Cluster,
    pub base: PathBuf,
    /// With which the sink writes: a mark must come to the partition of its dead letter.
    pub config: ClientConfig,
    pub topic: String,
    pub pipeline: String,
    pub timeout: Duration,
}

impl DeadLetterTopic {
    fn of(&self) -> String {
        format!("dead letters of {}", self.pipeline)
    }
}

impl Elsewhere for DeadLetterTopic {
    fn copy(&self) -> anyhow::Result<DeadLetterStore> {
        let folder = tempfile::tempdir().context("no folder for a copy of the dead letters")?;
        let data = DataFolder::open(folder.path(), &self.pipeline)?;
        let store = DeadLetterStore::new(&data, Duration::MAX);
        let mut letters: Vec<DeadLetter> = Vec::new();
        let mut settled = Vec::new();
        whole::read(&self.cluster, &self.base, &self.of(), &self.topic, self.timeout, |message| {
            match read(message) {
                Some(Told::Letter(letter)) if letter.pipeline == self.pipeline => letters.push(*letter),
                Some(Told::Settled(one)) => settled.push(Settled { key: None, ..one }),
                // Of another pipeline, or no dead letter of ours.
                Some(Told::Letter(_)) | None => {}
            }
            if letters.len() >= BATCH {
                store.insert(&std::mem::take(&mut letters))?;
            }
            Ok(())
        })
        .with_context(|| format!("the dead letters in topic {} cannot be read", self.topic))?;
        store.insert(&letters)?;
        store.as_copy(
            &settled,
            Arc::new(Copied { topic: self.clone(), producer: Mutex::default(), _folder: folder }),
        )
    }
}

/// What a copy was made of.
struct Copied {
    topic: DeadLetterTopic,
    /// Kept from one mark to the next, as long as it works.
    producer: Mutex<Option<Producer>>,
    /// Where the copy is.
    _folder: TempDir,
}

impl Copied {
    fn producer(&self) -> anyhow::Result<Producer> {
        let kept = self.producer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(producer) = kept {
            return Ok(producer);
        }
        let DeadLetterTopic { cluster, config, .. } = &self.topic;
        Producer::start(config.clone(), Care::default(), cluster.context(&self.topic.of())?)
    }
}

impl Original for Copied {
    fn settle(&self, settled: Vec<Settled>) -> anyhow::Result<()> {
        if settled.is_empty() {
            return Ok(());
        }
        let DeadLetterTopic { topic, timeout, .. } = &self.topic;
        let producer = self.producer()?;
        for settled in settled.chunks(BATCH) {
            let call = producer.begin(settled.len());
            for (number, one) in settled.iter().enumerate() {
                let headers = one.headers().into_iter().fold(OwnedHeaders::new(), |headers, (key, value)| {
                    headers.insert(Header { key, value: Some(&value) })
                });
                let record = Record {
                    topic,
                    key: one.key.as_deref(),
                    payload: None,
                    headers: Some(headers),
                    timestamp_ms: jiff::Timestamp::now().as_millisecond(),
                };
                call.send(number, record).map_err(|code| anyhow::anyhow!("topic {topic}: {code}"))?;
            }
            let reports = tokio::runtime::Handle::current().block_on(call.reports(*timeout));
            for report in reports.each {
                match report {
                    Some(Ok(())) => {}
                    Some(Err(code)) => {
                        bail!("topic {topic} does not take that a dead letter is settled: {code}")
                    }
                    None => {
                        let why = producer.take_error().map(|(_, why)| why).unwrap_or_default();
                        bail!(
                            "topic {topic} does not take that a dead letter is settled: no answer for {timeout:?}; {why}"
                        );
                    }
                }
            }
        }
        *self.producer.lock().unwrap_or_else(PoisonError::into_inner) = Some(producer);
        Ok(())
    }
}
