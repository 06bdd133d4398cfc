//! One call: its messages in requests, some at the same time, none before its turn.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use reqwest::Client;
use tokio::task::JoinSet;

use super::super::{CallError, Outcome, Outcomes, Sink};
use super::Mode;
use super::answer::{Answer, Rules};
use super::request::{Encoded, Requests};
use crate::codecs::Encoder;
use crate::message::MessageRef;

pub struct HttpCalls {
    pub client: Client,
    pub codec: Arc<dyn Encoder>,
    pub requests: Requests,
    pub rules: Arc<Rules>,
    pub concurrency: usize,
    pub max_messages: usize,
    pub max_bytes: usize,
}

/// Messages that are sent one after the other (P3), as indexes of the call.
#[derive(Default)]
struct Chain {
    waiting: VecDeque<usize>,
    /// So many at the front were in a request that failed, and it is not yet known whose fault it was.
    suspects: usize,
    /// That request got no answer in time. Dividing it in halves would wait that long again and again.
    one_by_one: bool,
}

impl Chain {
    /// Takes the messages of the next request.
    fn take(&mut self, encoded: &Encoded, max_messages: usize, max_bytes: usize) -> Vec<usize> {
        let messages = match self.suspects {
            0 => max_messages,
            _ if self.one_by_one => 1,
            suspects => (suspects / 2).max(1),
        };
        let mut taken = Vec::new();
        let mut bytes = 0;
        while taken.len() < messages
            && let Some(&index) = self.waiting.front()
        {
            bytes += encoded.message(index).len();
            if !taken.is_empty() && bytes > max_bytes {
                break;
            }
            taken.push(index);
            self.waiting.pop_front();
        }
        taken
    }

    fn put_back(&mut self, taken: &[usize]) {
        for &index in taken.iter().rev() {
            self.waiting.push_front(index);
        }
    }
}

impl HttpCalls {
    /// Messages that may be sent at the same time are in different chains.
    fn chains(&self, messages: &[MessageRef<'_>], outcomes: &[Option<Outcome>]) -> VecDeque<Chain> {
        let mut chains: VecDeque<Chain> = VecDeque::new();
        let mut numbers: HashMap<u64, usize> = HashMap::new();
        for (index, message) in messages.iter().enumerate().filter(|(index, _)| outcomes[*index].is_none()) {
            let order = message.row().order;
            let chain = match self.requests.mode {
                Mode::Single => order,
                // As many chains as requests, so that these are full.
                Mode::Ndjson | Mode::JsonArray => order % self.concurrency as u64,
            };
            let number = match numbers.entry(chain) {
                Entry::Occupied(known) => *known.get(),
                Entry::Vacant(new) => {
                    chains.push_back(Chain::default());
                    *new.insert(chains.len() - 1)
                }
            };
            chains[number].waiting.push_back(index);
        }
        chains
    }
}

#[async_trait]
impl Sink for HttpCalls {
    async fn write(&mut self, messages: &[MessageRef<'_>]) -> Result<Outcomes, CallError> {
        let mut outcomes: Vec<Option<Outcome>> = vec![None; messages.len()];
        let encoded = Encoded::of(&*self.codec, messages, &mut outcomes);
        let mut ready = self.chains(messages, &outcomes);
        let max_messages = if self.requests.mode == Mode::Single { 1 } else { self.max_messages };
        // Either of them ends the call once the requests in flight are answered.
        let mut timed_out = false;
        let mut unavailable: Option<CallError> = None;
        // Dropped with the call, it gives up what is being sent.
        let mut running = JoinSet::new();
        loop {
            while !timed_out
                && unavailable.is_none()
                && running.len() < self.concurrency
                && let Some(mut chain) = ready.pop_front()
            {
                let taken = chain.take(&encoded, max_messages, self.max_bytes);
                if taken.is_empty() {
                    continue;
                }
                match self.requests.build(messages, &encoded, &taken) {
                    Ok(request) => {
                        let (client, rules) = (self.client.clone(), Arc::clone(&self.rules));
                        running.spawn(async move {
                            let answer = rules.exchange(&client, request, taken.len()).await;
                            (chain, taken, answer)
                        });
                    }
                    Err(outcome) => {
                        outcomes[taken[0]] = Some(outcome);
                        ready.push_front(chain);
                    }
                }
            }
            let Some(done) = running.join_next().await else { break };
            let (mut chain, taken, answer) =
                done.map_err(|error| CallError::Fatal(format!("an http request was given up: {error}")))?;
            match answer {
                Answer::Taken => {
                    for &index in &taken {
                        outcomes[index] = Some(Outcome::Durable);
                    }
                    chain.suspects = chain.suspects.saturating_sub(taken.len());
                    ready.push_back(chain);
                }
                Answer::Results(results) => {
                    for (&index, result) in taken.iter().zip(results) {
                        outcomes[index] = Some(result);
                    }
                    chain.suspects = chain.suspects.saturating_sub(taken.len());
                    ready.push_back(chain);
                }
                Answer::Failed { timed_out, .. } if taken.len() > 1 => {
                    chain.put_back(&taken);
                    chain.suspects = taken.len();
                    chain.one_by_one = timed_out;
                    ready.push_front(chain);
                }
                Answer::Failed { outcome, timed_out: hangs } => {
                    let is_over = matches!(outcome, Outcome::Reject { .. });
                    // Each message may hang that long: the pipeline is to hear of this one first.
                    timed_out |= hangs;
                    outcomes[taken[0]] = Some(outcome);
                    chain.suspects = 0;
                    // Otherwise those behind it must wait for it.
                    if is_over {
                        ready.push_back(chain);
                    }
                }
                Answer::Unavailable { reason, retry_after, credentials } => {
                    let is_longer = |known: &CallError| matches!(known, CallError::Unavailable { retry_after: known, .. } if *known > retry_after);
                    if !unavailable.as_ref().is_some_and(is_longer) {
                        unavailable = Some(CallError::Unavailable { reason, retry_after, credentials });
                    }
                }
            }
        }
        summary(outcomes, timed_out, unavailable)
    }
}

/// The outcomes of a call, in which those without one were not delivered.
fn summary(
    outcomes: Vec<Option<Outcome>>,
    timed_out: bool,
    unavailable: Option<CallError>,
) -> Result<Outcomes, CallError> {
    match unavailable {
        Some(why) if outcomes.iter().all(Option::is_none) => return Err(why),
        Some(why) => return Ok(Outcomes::Until(outcomes, why)),
        None => {}
    }
    if outcomes.iter().all(|outcome| *outcome == Some(Outcome::Durable)) {
        return Ok(Outcomes::AllDurable);
    }
    let reason = match timed_out {
        true => "not sent, as another was not answered in time",
        false => "not sent, as it stands behind one of the same order that failed",
    };
    let later = || Outcome::Later { reason: reason.to_owned(), after: Some(Duration::ZERO) };
    Ok(Outcomes::Each(outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(later)).collect()))
}
