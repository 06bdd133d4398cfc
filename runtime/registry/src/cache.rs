//! What was made of schemas: by id for ever, by subject for a time.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;
use tokio::sync::OnceCell;

use crate::{Error, Registered, Registry, Resolved, Version};

/// How long a [`Cache`] keeps what, and how much of it.
#[derive(Clone, Debug)]
pub struct Keep {
    /// Ids of which it is known what they are; the one known for longest makes room. A schema of
    /// thousands of fields takes some hundred kilobytes.
    pub ids: usize,
    /// Ids of which it is known that they are none, and subjects.
    pub others: usize,
    /// How long an id that is none is not asked for again.
    pub missing: Duration,
    /// How long the newest version of a subject is taken for that.
    pub subject: Duration,
    /// While the registry is away: how long a subject is not asked for again.
    pub away: Duration,
}

impl Default for Keep {
    fn default() -> Keep {
        Keep {
            ids: 4096,
            others: 4096,
            missing: Duration::from_secs(10),
            subject: Duration::from_secs(300),
            away: Duration::from_secs(5),
        }
    }
}

/// Makes something of a schema, or says why that cannot be done.
type Compile<T> = dyn Fn(&Resolved) -> Result<T, String> + Send + Sync;

/// What a caller has made of the schemas of a registry.
pub struct Cache<T> {
    registry: Arc<Registry>,
    compile: Box<Compile<T>>,
    keep: Keep,
    /// An id means the same schema for ever.
    ids: RwLock<Bounded<u32, Arc<T>>>,
    missing: Mutex<Bounded<u32, (Instant, Error)>>,
    subjects: Mutex<Bounded<String, Kept<T>>>,
    /// What is being asked for.
    asked_ids: Asked<u32, Arc<T>>,
    asked_subjects: Asked<String, Latest<T>>,
}

/// The newest version of a subject.
#[derive(Debug)]
pub struct Latest<T> {
    pub id: u32,
    pub version: u32,
    pub value: Arc<T>,
    /// Why it may not be the newest any more: the registry could not be asked.
    pub stale: Option<Error>,
}

struct Kept<T> {
    latest: Latest<T>,
    until: Instant,
}

impl<T> Cache<T> {
    pub fn new(
        registry: Arc<Registry>,
        keep: Keep,
        compile: impl Fn(&Resolved) -> Result<T, String> + Send + Sync + 'static,
    ) -> Cache<T> {
        Cache {
            registry,
            compile: Box::new(compile),
            ids: RwLock::new(Bounded::new(keep.ids)),
            missing: Mutex::new(Bounded::new(keep.others)),
            subjects: Mutex::new(Bounded::new(keep.others)),
            asked_ids: Asked::default(),
            asked_subjects: Asked::default(),
            keep,
        }
    }

    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// What was made of this schema, if it is known. Asks nobody and does not wait.
    pub fn get(&self, id: u32) -> Option<Arc<T>> {
        self.ids.read().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    /// Why this id cannot be used, if it was asked for a short time ago. Asks nobody.
    pub fn missing(&self, id: u32) -> Option<Error> {
        let mut missing = lock(&self.missing);
        let (until, error) = missing.get(&id)?;
        if *until > Instant::now() {
            return Some(error.clone());
        }
        missing.remove(&id);
        None
    }

    /// What was made of this schema; asks the registry if it is not known. Those who ask for the same
    /// id at the same time share one request and its outcome.
    ///
    /// # Errors
    /// See [`Error`]. [`Error::Unusable`] if nothing can be made of the schema. Those of the schema
    /// ([`Error::is_of_the_schema`]) are remembered for [`Keep::missing`].
    pub async fn fetch(&self, id: u32) -> Result<Arc<T>, Error> {
        let known = || self.get(id).map(Ok).or_else(|| self.missing(id).map(Err));
        if let Some(known) = known() {
            return known;
        }
        let ask = async {
            // Another may have asked between the look above and now.
            if let Some(known) = known() {
                return known;
            }
            let made = self.make(id).await;
            match &made {
                Ok(value) => {
                    self.ids.write().unwrap_or_else(PoisonError::into_inner).insert(id, Arc::clone(value));
                }
                Err(error) if error.is_of_the_schema() => {
                    lock(&self.missing).insert(id, (Instant::now() + self.keep.missing, error.clone()));
                }
                Err(_) => {}
            }
            made
        };
        self.asked_ids.once(&id, ask).await
    }

    async fn make(&self, id: u32) -> Result<Arc<T>, Error> {
        let schema = self.registry.schema(id).await?;
        let what = format!("schema {id}");
        let resolved = self.registry.resolve(&what, schema).await?;
        match (self.compile)(&resolved) {
            Ok(value) => Ok(Arc::new(value)),
            Err(reason) => Err(Error::Unusable { what, reason }),
        }
    }

    /// The newest version of a subject, asked for again once it is older than [`Keep::subject`]. While
    /// the registry cannot be asked it is the one that was the newest ([`Latest::stale`]).
    ///
    /// # Errors
    /// See [`Error`]. Where the registry could not be asked, only if no version is known yet.
    pub async fn latest(&self, subject: &str) -> Result<Latest<T>, Error> {
        if let Some(fresh) = self.fresh(subject) {
            return Ok(fresh);
        }
        let ask = async {
            if let Some(fresh) = self.fresh(subject) {
                return Ok(fresh);
            }
            let found = self.ask_for_latest(subject).await;
            let mut subjects = lock(&self.subjects);
            let (latest, time) = match found {
                Ok(latest) => (latest, self.keep.subject),
                Err(error) => match subjects.get(subject) {
                    Some(kept) if !error.is_of_the_schema() => {
                        let away = error.retry_after().unwrap_or(self.keep.away);
                        (Latest { stale: Some(error), ..kept.latest.clone() }, away)
                    }
                    _ => return Err(error),
                },
            };
            let kept = Kept { latest: latest.clone(), until: Instant::now() + time };
            subjects.insert(subject.to_owned(), kept);
            Ok(latest)
        };
        self.asked_subjects.once(&subject.to_owned(), ask).await
    }

    fn fresh(&self, subject: &str) -> Option<Latest<T>> {
        let subjects = lock(&self.subjects);
        let kept = subjects.get(subject).filter(|kept| kept.until > Instant::now())?;
        Some(kept.latest.clone())
    }

    async fn ask_for_latest(&self, subject: &str) -> Result<Latest<T>, Error> {
        let Registered { id, version, .. } = self.registry.version(subject, Version::Latest).await?;
        Ok(Latest { id, version, value: self.fetch(id).await?, stale: None })
    }
}

impl<T> Clone for Latest<T> {
    fn clone(&self) -> Latest<T> {
        let Latest { id, version, value, stale } = self;
        Latest { id: *id, version: *version, value: Arc::clone(value), stale: stale.clone() }
    }
}

/// What is being asked for, each by one task for all that want it.
struct Asked<K, V>(Mutex<HashMap<K, Flight<V>>>);

/// If the task that asks is cancelled, another that waits goes on in its place.
type Flight<V> = Arc<OnceCell<Result<V, Error>>>;

impl<K, V> Default for Asked<K, V> {
    fn default() -> Asked<K, V> {
        Asked(Mutex::default())
    }
}

impl<K: Hash + Eq + Clone, V: Clone> Asked<K, V> {
    /// The outcome of `ask`, or of that of another for the same key that is under way.
    async fn once(&self, key: &K, ask: impl Future<Output = Result<V, Error>>) -> Result<V, Error> {
        let flight = Arc::clone(lock(&self.0).entry(key.clone()).or_default());
        let ticket = Ticket { asked: self, key, flight: Some(flight) };
        let flight = ticket.flight.as_ref().expect("it is taken in `drop` alone");
        flight.get_or_init(|| ask).await.clone()
    }
}

/// Of one that waits, until it has the outcome or is cancelled. The last one tidies up.
struct Ticket<'a, K: Hash + Eq, V> {
    asked: &'a Asked<K, V>,
    key: &'a K,
    flight: Option<Flight<V>>,
}

impl<K: Hash + Eq, V> Drop for Ticket<'_, K, V> {
    fn drop(&mut self) {
        let mut asked = lock(&self.asked.0);
        // Let go of under the lock, as it is taken under it, so the count can be relied on.
        let Some(ours) = self.flight.take() else { return };
        let is_there = asked.get(self.key).is_some_and(|flight| Arc::ptr_eq(flight, &ours));
        let is_last = Arc::strong_count(&ours) == 2;
        if is_there && (is_last || ours.initialized()) {
            asked.remove(self.key);
        }
        drop(ours);
    }
}

/// A map of so many entries at most: the one that was put in first makes room.
struct Bounded<K, V> {
    most: usize,
    entries: HashMap<K, V, RandomState>,
    /// Each key of the map once.
    order: VecDeque<K>,
}

impl<K: Hash + Eq + Clone, V> Bounded<K, V> {
    fn new(most: usize) -> Bounded<K, V> {
        Bounded { most: most.max(1), entries: HashMap::default(), order: VecDeque::new() }
    }

    fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: std::borrow::Borrow<Q>,
    {
        self.entries.get(key)
    }

    fn insert(&mut self, key: K, value: V) {
        if self.entries.insert(key.clone(), value).is_some() {
            return;
        }
        self.order.push_back(key);
        if self.order.len() > self.most
            && let Some(first) = self.order.pop_front()
        {
            self.entries.remove(&first);
        }
    }

    fn remove(&mut self, key: &K) {
        self.entries.remove(key);
        self.order.retain(|other| other != key);
    }
}

fn lock<V>(mutex: &Mutex<V>) -> std::sync::MutexGuard<'_, V> {
    // What it holds is whole between any two statements.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_known_for_longest_makes_room() {
        let mut bounded = Bounded::new(2);
        bounded.insert(1, "a");
        bounded.insert(2, "b");
        bounded.insert(1, "c");
        assert_eq!((bounded.get(&1), bounded.get(&2)), (Some(&"c"), Some(&"b")));
        bounded.insert(3, "d");
        assert_eq!((bounded.get(&1), bounded.get(&2), bounded.get(&3)), (None, Some(&"b"), Some(&"d")));
        bounded.remove(&2);
        bounded.insert(4, "e");
        assert_eq!((bounded.get(&3), bounded.get(&4)), (Some(&"d"), Some(&"e")));
        assert_eq!(bounded.order.len(), bounded.entries.len());
    }
}
