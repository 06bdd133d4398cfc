//! Messages that name their schema in a registry (Confluent's wire format): a zero byte, the id of the schema
//! in four bytes, and what the format has behind it.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use millstream_formats::compatibility::{Finding, Mode, Weight};
use millstream_registry::{Cache, Error, Level, Resolved, Schema, Version, framing};

use super::registry::RegistryKeys;
use super::{Extra, Payload};
use crate::codecs::{Asking, Conversion, DecodeError, EncodeError, Encoder, Ends, Needs, NotReady};
use crate::config::Parsed;
use crate::config::problem::Problem;
use crate::message::MessageRef;

/// What is made of a schema of a registry.
pub trait Compiled: Sized + Send + Sync + 'static {
    /// Of one encoded message.
    const MEDIA_TYPE: &'static str;

    /// What there is besides the schema itself.
    type Settings: Clone + Send + Sync + 'static;

    /// # Errors
    /// Why nothing can be made of it.
    fn compile(schema: &Resolved, settings: &Self::Settings) -> Result<Self, String>;

    /// Appends what plugins see of what stands behind the id.
    fn read(&self, bytes: &[u8], payload: Payload, out: &mut Vec<u8>) -> Result<(), DecodeError>;

    /// Appends what stands behind the id, of a message as plugins see it. On an error something may have been
    /// appended.
    fn write(
        &self,
        message: &MessageRef<'_>,
        payload: Payload,
        extra: Extra,
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeError>;
}

/// What is known of the schemas of a registry, from the table `registry` of a codec.
fn cache<C: Compiled>(registry: &RegistryKeys, base: &Path, settings: C::Settings) -> Parsed<Cache<C>> {
    let within = |problem: Problem| Problem { at: format!("/registry{}", problem.at), ..problem };
    let opened =
        registry.open(base).map_err(|problems| problems.into_iter().map(within).collect::<Vec<_>>())?;
    Ok(Cache::new(Arc::new(opened), registry.keep(), move |schema| C::compile(schema, &settings)))
}

/// From messages that name their schema into what plugins see.
pub fn reading<C: Compiled>(
    registry: &RegistryKeys,
    base: &Path,
    settings: C::Settings,
    payload: Payload,
) -> Parsed<Arc<dyn Conversion>> {
    Ok(Arc::new(Reading { cache: cache::<C>(registry, base, settings)?, payload }))
}

struct Reading<C> {
    cache: Cache<C>,
    payload: Payload,
}

impl<C: Compiled> Conversion for Reading<C> {
    fn needs(&self, payload: &[u8]) -> Option<Needs<'_>> {
        let (id, _) = framing::parse(payload).ok()?;
        if self.cache.get(id).is_some() || self.cache.missing(id).is_some() {
            return None;
        }
        Some(Box::pin(async move {
            match self.cache.fetch(id).await {
                Err(error) if !error.is_of_the_schema() => Err(not_ready(&error)),
                // What became of it is known now.
                _ => Ok(()),
            }
        }))
    }

    fn convert(&self, message: &MessageRef<'_>, out: &mut Vec<u8>) -> Result<bool, DecodeError> {
        let Some(payload) = message.payload() else { return Ok(false) };
        let (id, rest) = framing::parse(payload).map_err(|error| DecodeError(error.to_string()))?;
        let Some(compiled) = self.cache.get(id) else {
            let why = self.cache.missing(id).map_or_else(|| "it was not asked for".into(), |e| e.to_string());
            return Err(DecodeError(format!("its schema {id} is not there: {why}")));
        };
        compiled
            .read(rest, self.payload, out)
            .map_err(|error| DecodeError(format!("by schema {id}: {error}")))?;
        Ok(true)
    }
}

/// Which schema a sink writes by.
pub enum Pinned<C> {
    /// The newest version of the subject.
    Latest,
    /// This one, which is looked up in the subject, or registered there.
    This { schema: Schema, compiled: Arc<C>, register: bool, compare: Compare },
}

/// What is between an older version of the schema and this one.
pub type Compare =
    Box<dyn Fn(&Resolved, Mode) -> Result<Vec<Finding>, millstream_formats::Error> + Send + Sync>;

/// How a sink writes messages that name their schema.
pub struct Target<C> {
    pub subject: String,
    pub pinned: Pinned<C>,
    pub payload: Payload,
    pub extra: Extra,
}

/// From what plugins see into messages that name their schema.
pub fn writing<C: Compiled>(
    registry: &RegistryKeys,
    base: &Path,
    settings: C::Settings,
    target: Target<C>,
) -> Parsed<Arc<dyn Encoder>> {
    let cache = cache::<C>(registry, base, settings)?;
    Ok(Arc::new(Writing { cache, target, current: Mutex::default() }))
}

struct Writing<C> {
    cache: Cache<C>,
    target: Target<C>,
    /// The schema and its id, once they are known.
    current: Mutex<Option<(u32, Arc<C>)>>,
}

impl<C: Compiled> Writing<C> {
    /// Whether the subject takes the schema of the pipeline as its next version, by the registry and by what
    /// is found between it and the newest version.
    async fn compatibility(&self, schema: &Schema, compare: &Compare) -> anyhow::Result<Vec<String>> {
        let (registry, subject) = (self.cache.registry(), &self.target.subject);
        let newest = match registry.version(subject, Version::Latest).await {
            Ok(newest) => newest,
            // The first version goes together with anything.
            Err(Error::NotFound { .. }) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        };
        let level = match registry.level(subject).await {
            Ok(level) => level,
            // A registry that has no rule for it.
            Err(Error::NotFound { .. }) => Level::None,
            Err(error) => return Err(error.into()),
        };
        let Some(mode) = mode_of(level) else { return Ok(Vec::new()) };
        let verdict = match registry.compatibility(subject, Version::Latest, schema).await {
            Ok(verdict) => Some(verdict),
            // Apicurio (3.0) follows no references where it is only asked, though it does when one registers.
            // What is found here counts alone then.
            Err(Error::Rejected { .. }) if !schema.references.is_empty() => None,
            Err(error) => return Err(error.into()),
        };
        let version = format!("version {} of subject {subject:?}", newest.version);
        let newest = registry.resolve(&version, newest.schema).await?;
        let found = compare(&newest, mode)?;
        let breaks = found.iter().filter(|finding| finding.weight == Weight::Breaks);
        let mut told: Vec<String> =
            breaks.map(|finding| format!("{version} and this schema: {finding}")).collect();
        if let Some(verdict) = verdict.filter(|verdict| !verdict.compatible && told.is_empty()) {
            let why = verdict.messages.join("; ");
            told.push(format!("the registry does not take this schema in subject {subject:?}: {why}"));
        }
        Ok(told)
    }

    async fn find(&self) -> Result<(u32, Arc<C>), Error> {
        match &self.target.pinned {
            Pinned::Latest => {
                let latest = self.cache.latest(&self.target.subject).await?;
                Ok((latest.id, latest.value))
            }
            Pinned::This { schema, compiled, register, .. } => {
                let (registry, subject) = (self.cache.registry(), &self.target.subject);
                let id = match register {
                    true => registry.register(subject, schema).await?,
                    false => registry.find(subject, schema).await?.id,
                };
                Ok((id, Arc::clone(compiled)))
            }
        }
    }

    fn current(&self) -> Option<(u32, Arc<C>)> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl<C: Compiled> Encoder for Writing<C> {
    fn ask(&self) -> Option<Asking<'_>> {
        match &self.target.pinned {
            Pinned::Latest => None,
            Pinned::This { schema, compare, .. } => Some(Box::pin(self.compatibility(schema, compare))),
        }
    }

    /// Finds out by which schema to write. Asks the registry only where that is not known, or may have
    /// changed.
    fn prepare(&self) -> Option<Needs<'_>> {
        if matches!(self.target.pinned, Pinned::This { .. }) && self.current().is_some() {
            return Some(Box::pin(std::future::ready(Ok(()))));
        }
        Some(Box::pin(async move {
            let found = self.find().await.map_err(|error| match error {
                // Until somebody registers it.
                Error::NotFound { .. } => {
                    let help = match &self.target.pinned {
                        Pinned::Latest => "",
                        Pinned::This { .. } => "; `register = true` registers it",
                    };
                    NotReady { reason: format!("{error}{help}"), ..not_ready(&error) }
                }
                error if error.is_of_the_schema() => NotReady { is_final: true, ..not_ready(&error) },
                error => not_ready(&error),
            })?;
            *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Some(found);
            Ok(())
        }))
    }

    fn encode(&self, message: &MessageRef<'_>, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let (id, compiled) =
            self.current().ok_or_else(|| EncodeError("its schema is not known yet".into()))?;
        let before = out.len();
        framing::write(id, out);
        compiled.write(message, self.target.payload, self.target.extra, out).map_err(|error| {
            out.truncate(before);
            EncodeError(format!("by schema {id} of {}: {error}", self.target.subject))
        })
    }

    fn ends(&self) -> Ends {
        Ends::Unmarked
    }

    fn media_type(&self) -> &'static str {
        C::MEDIA_TYPE
    }
}

/// What the rule of a subject asks of its next version.
fn mode_of(level: Level) -> Option<Mode> {
    match level {
        Level::None => None,
        Level::Backward | Level::BackwardTransitive => Some(Mode::Backward),
        Level::Forward | Level::ForwardTransitive => Some(Mode::Forward),
        Level::Full | Level::FullTransitive => Some(Mode::Full),
    }
}

fn not_ready(error: &Error) -> NotReady {
    NotReady {
        reason: error.to_string(),
        retry_after: error.retry_after(),
        credentials: matches!(error, Error::Refused { .. }),
        is_final: false,
    }
}
