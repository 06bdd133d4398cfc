//! Requests that were received, until they are answered.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use axum::http::{HeaderName, HeaderValue};
use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::super::{CommitKind, Committer, SettledAs, SettledRow};
use super::server::ServerHandle;

/// Between the server, which puts requests in, the reader, which takes them out, and the
/// committer, which answers them.
pub struct Inbox {
    queue: mpsc::Sender<Request>,
    /// Bytes that may still be received.
    pub memory: Arc<Semaphore>,
    /// Requests that the pipeline has, by the offset of their first message.
    open: Mutex<BTreeMap<u64, Open>>,
    /// Nothing is read any more.
    closing: AtomicBool,
}

/// Why a request is not queued.
pub enum Refused {
    Full,
    Closing,
}

/// A request whose body is there.
pub struct Request {
    pub body: Bytes,
    /// One message a line.
    pub is_batch: bool,
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub key: Option<HeaderValue>,
    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub received_ms: i64,
    pub ticket: Arc<Ticket>,
    pub answer: oneshot::Sender<Answer>,
    /// Given back when the body is in a batch of the pipeline, whose budget it then is in.
    pub memory: OwnedSemaphorePermit,
}

pub enum Answer {
    /// Outcomes of its messages, with the numbers of their lines.
    Settled(Vec<(usize, SettledAs)>),
    /// It is no message; nothing of it was taken.
    NoMessage(String),
}

/// Who has a request: at first the queue, then either the pipeline, or nobody because its client
/// has gone or waited long enough. Never both.
pub struct Ticket(AtomicU64);

const WAITING: u64 = 0;
const GONE: u64 = u64::MAX;

impl Ticket {
    pub fn new() -> Ticket {
        Ticket(AtomicU64::new(WAITING))
    }

    /// The pipeline takes it, with the offset of its first message; false if it is gone.
    pub fn take(&self, first_offset: u64) -> bool {
        self.0.compare_exchange(WAITING, first_offset, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// The client goes; the offset of its first message if the pipeline has it already.
    pub fn leave(&self) -> Option<u64> {
        self.0
            .compare_exchange(WAITING, GONE, Ordering::AcqRel, Ordering::Acquire)
            .err()
            .filter(|&by| by != GONE)
    }
}

/// A request that the pipeline has.
struct Open {
    messages: Vec<Message>,
    /// Messages with rows that are not settled.
    unsettled: usize,
    answer: oneshot::Sender<Answer>,
}

struct Message {
    line: usize,
    rows: usize,
    /// The worst of the rows that are settled.
    outcome: Option<SettledAs>,
}

impl Inbox {
    pub fn new(max_requests: usize, max_bytes: usize) -> (Inbox, mpsc::Receiver<Request>) {
        let (queue, requests) = mpsc::channel(max_requests.clamp(1, Semaphore::MAX_PERMITS));
        let inbox = Inbox {
            queue,
            memory: Arc::new(Semaphore::new(max_bytes.min(Semaphore::MAX_PERMITS))),
            open: Mutex::default(),
            closing: AtomicBool::new(false),
        };
        (inbox, requests)
    }

    /// Puts a request into the queue.
    pub fn put(&self, request: Request) -> Result<(), Refused> {
        self.queue.try_send(request).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Refused::Full,
            mpsc::error::TrySendError::Closed(_) => Refused::Closing,
        })
    }

    pub fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    pub fn start_closing(&self) {
        self.closing.store(true, Ordering::Release);
    }

    /// The pipeline now has a request of so many messages, on these lines, a row each. Their
    /// offsets are without a gap.
    pub fn register(
        &self,
        first_offset: u64,
        lines: impl Iterator<Item = usize>,
        answer: oneshot::Sender<Answer>,
    ) {
        let messages: Vec<Message> = lines.map(|line| Message { line, rows: 1, outcome: None }).collect();
        let open = Open { unsettled: messages.len(), messages, answer };
        self.lock().insert(first_offset, open);
    }

    /// A message came out as another number of rows than one.
    pub fn set_rows(&self, offset: u64, rows: usize) {
        match rows {
            0 => {
                self.settle([SettledRow { position: at(offset), outcome: SettledAs::Filtered, failures: 0 }])
            }
            rows => {
                if let Some((_, message)) = find(&mut self.lock(), offset) {
                    message.rows = rows;
                }
            }
        }
    }

    /// A request whose only message is none.
    pub fn refuse(&self, first_offset: u64, reason: String) {
        if let Some(open) = self.lock().remove(&first_offset) {
            // Nobody waits for it if the client has gone.
            let _ = open.answer.send(Answer::NoMessage(reason));
        }
    }

    /// Books what is settled and answers the requests of which everything is (P1).
    pub fn settle(&self, settled: impl IntoIterator<Item = SettledRow>) {
        let mut requests = self.lock();
        for SettledRow { position, outcome, .. } in settled {
            let Some((first_offset, message)) = find(&mut requests, position.offset) else { continue };
            if message.rows == 0 {
                continue;
            }
            message.rows -= 1;
            let worst = message.outcome.take().map_or(outcome.clone(), |known| worse(known, outcome));
            let is_settled = message.rows == 0;
            message.outcome = Some(worst);
            if !is_settled {
                continue;
            }
            let std::collections::btree_map::Entry::Occupied(mut open) = requests.entry(first_offset) else {
                continue;
            };
            open.get_mut().unsettled -= 1;
            if open.get().unsettled == 0 {
                let Open { messages, answer, .. } = open.remove();
                let outcomes = messages
                    .into_iter()
                    .filter_map(|message| Some((message.line, message.outcome?)))
                    .collect();
                // Nobody waits for it if the client has gone, or was told 202.
                let _ = answer.send(Answer::Settled(outcomes));
            }
        }
    }

    /// Lets go of all requests; their clients are told that nothing is known of them.
    fn abandon_all(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Open>> {
        // What is changed under this lock is whole after each step.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn at(offset: u64) -> crate::message::Position {
    crate::message::Position { offset, ..Default::default() }
}

/// The message with this offset, and the first offset of its request.
fn find(requests: &mut BTreeMap<u64, Open>, offset: u64) -> Option<(u64, &mut Message)> {
    let (&first, open) = requests.range_mut(..=offset).next_back()?;
    let message = open.messages.get_mut(usize::try_from(offset - first).ok()?)?;
    Some((first, message))
}

fn worse(one: SettledAs, other: SettledAs) -> SettledAs {
    let badness = |outcome: &SettledAs| match outcome {
        SettledAs::Filtered => 0,
        SettledAs::Delivered => 1,
        SettledAs::DeadLettered(_) => 2,
        SettledAs::Returned => 3,
    };
    if badness(&other) >= badness(&one) { other } else { one }
}

pub struct HttpCommitter {
    inbox: Arc<Inbox>,
    server: ServerHandle,
}

/// How long clients have to take their last answers.
const FAREWELL: Duration = Duration::from_secs(5);

impl HttpCommitter {
    pub fn new(inbox: Arc<Inbox>, server: ServerHandle) -> HttpCommitter {
        HttpCommitter { inbox, server }
    }
}

#[async_trait]
impl Committer for HttpCommitter {
    fn kind(&self) -> CommitKind {
        CommitKind::Each
    }

    async fn each(&mut self, settled: Vec<SettledRow>) -> anyhow::Result<()> {
        self.inbox.settle(settled);
        Ok(())
    }

    async fn close(&mut self) -> anyhow::Result<()> {
        self.inbox.start_closing();
        self.inbox.abandon_all();
        self.server.close(FAREWELL).await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settled(offset: u64, outcome: SettledAs) -> SettledRow {
        SettledRow { position: at(offset), outcome, failures: 0 }
    }

    #[test]
    fn of_the_rows_of_a_message_the_worst_counts() {
        let (inbox, _queue) = Inbox::new(1, 1);
        let (answer, mut answered) = oneshot::channel();
        inbox.register(10, [1, 2, 4].into_iter(), answer);
        inbox.set_rows(10, 3);
        inbox.set_rows(12, 0);
        inbox.settle([
            settled(10, SettledAs::Delivered),
            settled(11, SettledAs::Delivered),
            settled(10, SettledAs::DeadLettered("x".into())),
        ]);
        assert!(answered.try_recv().is_err());
        inbox.settle([settled(10, SettledAs::Filtered)]);
        let Ok(Answer::Settled(outcomes)) = answered.try_recv() else { panic!("no answer") };
        let expected =
            [(1, SettledAs::DeadLettered("x".into())), (2, SettledAs::Delivered), (4, SettledAs::Filtered)];
        assert_eq!(outcomes, expected);
    }

    #[test]
    fn what_is_told_twice_or_of_nobody_counts_for_nothing() {
        let (inbox, _queue) = Inbox::new(1, 1);
        let (answer, mut answered) = oneshot::channel();
        inbox.register(10, [1, 2].into_iter(), answer);
        let again = || settled(10, SettledAs::Delivered);
        inbox.settle([settled(9, SettledAs::Delivered), settled(12, SettledAs::Delivered), again(), again()]);
        assert!(answered.try_recv().is_err());
        inbox.settle([settled(11, SettledAs::Delivered)]);
        assert!(matches!(answered.try_recv(), Ok(Answer::Settled(_))));
    }

    #[test]
    fn a_request_belongs_to_one_only() {
        let ticket = Ticket::new();
        assert!(ticket.take(7));
        assert_eq!(ticket.leave(), Some(7));
        let ticket = Ticket::new();
        assert_eq!(ticket.leave(), None);
        assert_eq!(ticket.leave(), None);
        assert!(!ticket.take(7));
    }
}
