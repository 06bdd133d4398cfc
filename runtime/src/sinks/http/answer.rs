//! What an answer, or none, says about the messages of a request.

use std::error::Error;
use std::io;
use std::time::Duration;

use millstream_registry::http::{chain, retry_after};
use reqwest::header::{HeaderMap, LOCATION};
use reqwest::{Client, Request, Response, StatusCode};
use serde::Deserialize;

use super::super::{CallError, Outcome};
use crate::config::units::Interval;

/// Code of a message that the server refuses.
const REFUSED: &str = "http-status";

/// Of an answer that must be understood, this much is read.
const BODY_BYTES: usize = 64 << 10;

/// Of the results of many messages, this much more for each.
const RESULT_BYTES: usize = 1 << 10;

/// Of an answer, this much is told.
const REASON_CHARS: usize = 400;

/// How answers are understood.
pub struct Rules {
    /// Scheme, host and port: a path may hold a secret.
    pub server: String,
    /// Statuses of success; empty for every 2xx.
    pub success: Vec<u16>,
    pub read_results: bool,
    /// Of the client, to tell it.
    pub timeout: Interval,
}

/// What became of a request.
#[derive(Debug, PartialEq)]
pub enum Answer {
    /// All its messages are delivered.
    Taken,
    /// One a message.
    Results(Vec<Outcome>),
    /// It is the fault of a message in it, and this is the outcome if there is only one.
    Failed { outcome: Outcome, timed_out: bool },
    /// It is nobody's fault here.
    Unavailable { reason: String, retry_after: Option<Duration>, credentials: bool },
}

impl Rules {
    /// Sends a request of so many messages and reads the answer.
    pub async fn exchange(&self, client: &Client, request: Request, messages: usize) -> Answer {
        let mut response = match client.execute(request).await {
            Ok(response) => response,
            Err(error) => return self.no_answer(error),
        };
        let status = response.status();
        let limit = if self.read_results { BODY_BYTES + messages * RESULT_BYTES } else { BODY_BYTES };
        // What cannot be read of an answer is not needed: its status is known. Read to its end, it
        // leaves the connection to the next request.
        let body = first_part(&mut response, limit).await;
        if self.read_results {
            if let Some(results) = self.results(&body, messages) {
                return Answer::Results(results);
            }
            if self.is_success(status) {
                let reason = format!("{} answered {status} without results", self.server);
                return Answer::Results(vec![Outcome::Retry { reason, after: None }; messages]);
            }
        }
        self.of_status(status, response.headers(), &body)
    }

    fn is_success(&self, status: StatusCode) -> bool {
        status.is_success() && (self.success.is_empty() || self.success.contains(&status.as_u16()))
    }

    fn of_status(&self, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Answer {
        if self.is_success(status) {
            return Answer::Taken;
        }
        let mut reason = format!("{} answered {status}", self.server);
        if status.is_redirection()
            && let Some(location) = headers.get(LOCATION)
        {
            reason +=
                &format!(" to {}, which is not followed; set `url`", in_a_sentence(location.as_bytes()));
        } else if !body.is_empty() {
            reason += &format!(": {}", in_a_sentence(body));
        }
        let retry_after = retry_after(headers);
        match status.as_u16() {
            401 | 403 | 407 => Answer::Unavailable { reason, retry_after, credentials: true },
            300..=399 | 429 | 502..=504 => Answer::Unavailable { reason, retry_after, credentials: false },
            501 | 505 => failed(Outcome::Reject { code: REFUSED, reason }),
            408 | 500..=599 => failed(Outcome::Retry { reason, after: retry_after }),
            400..=499 => failed(Outcome::Reject { code: REFUSED, reason }),
            // A 1xx does not end an exchange; what is left is a 2xx that is not in `success`, or no
            // status of HTTP.
            _ => failed(Outcome::Retry { reason, after: retry_after }),
        }
    }

    fn no_answer(&self, error: reqwest::Error) -> Answer {
        let tls = tls_error(&error).cloned();
        let (connecting, timed_out) = (error.is_connect(), error.is_timeout());
        let why = chain(&error.without_url());
        if connecting || tls.is_some() {
            let reason = format!("cannot connect to {}: {why}", self.server);
            let credentials = matches!(tls, Some(rustls::Error::AlertReceived(_)));
            return Answer::Unavailable { reason, retry_after: None, credentials };
        }
        let reason = if timed_out {
            format!("{} did not answer within {}", self.server, self.timeout)
        } else {
            format!("lost the connection to {} before it answered: {why}", self.server)
        };
        Answer::Failed { outcome: Outcome::Retry { reason, after: None }, timed_out }
    }

    /// The outcome of each message, if the answer tells them.
    fn results(&self, body: &[u8], messages: usize) -> Option<Vec<Outcome>> {
        let Results { results } = serde_json::from_slice(body).ok()?;
        let unknown = Outcome::Retry {
            reason: format!(
                "{} answered with {} results, none of them for this message",
                self.server,
                results.len()
            ),
            after: None,
        };
        let mut outcomes = vec![unknown; messages];
        for (index, result) in results.into_iter().enumerate() {
            let index = result.line.map_or(Some(index), |line| line.checked_sub(1));
            if let Some(outcome) = index.and_then(|index| outcomes.get_mut(index)) {
                *outcome = self.outcome(result);
            }
        }
        Some(outcomes)
    }

    fn outcome(&self, result: OneResult) -> Outcome {
        let reason = result.reason.unwrap_or_default();
        if let Some(status) = result.status.and_then(|status| StatusCode::from_u16(status).ok()) {
            return match self.of_status(status, &HeaderMap::new(), reason.as_bytes()) {
                Answer::Taken | Answer::Results(_) => Outcome::Durable,
                Answer::Failed { outcome, .. } => outcome,
                Answer::Unavailable { reason, retry_after, .. } => {
                    Outcome::Later { reason, after: retry_after }
                }
            };
        }
        let reason = in_a_sentence(reason.as_bytes());
        match result.outcome.as_deref() {
            Some("delivered" | "filtered" | "dead-lettered") => Outcome::Durable,
            Some("returned") => {
                Outcome::Later { reason: format!("{} gave it back: {reason}", self.server), after: None }
            }
            other => Outcome::Retry {
                reason: format!("{} answered with the unknown outcome {other:?}: {reason}", self.server),
                after: None,
            },
        }
    }
}

/// What this sink makes of an answer with this status to a request of one message, if every 2xx is a
/// success.
///
/// # Errors
/// The server is not available, or it is no status at all.
pub fn answered(server: &str, status: u16) -> Result<Outcome, CallError> {
    let status = StatusCode::from_u16(status).map_err(|error| CallError::Fatal(error.to_string()))?;
    let (server, timeout) = (server.to_owned(), Interval::secs(0));
    let rules = Rules { server, success: Vec::new(), read_results: false, timeout };
    match rules.of_status(status, &HeaderMap::new(), &[]) {
        Answer::Taken | Answer::Results(_) => Ok(Outcome::Durable),
        Answer::Failed { outcome, .. } => Ok(outcome),
        Answer::Unavailable { reason, retry_after, credentials } => {
            Err(CallError::Unavailable { reason, retry_after, credentials })
        }
    }
}

#[derive(Deserialize)]
struct Results {
    results: Vec<OneResult>,
}

#[derive(Deserialize)]
struct OneResult {
    line: Option<usize>,
    outcome: Option<String>,
    status: Option<u16>,
    reason: Option<String>,
}

fn failed(outcome: Outcome) -> Answer {
    Answer::Failed { outcome, timed_out: false }
}

/// At most so many bytes of an answer, fewer if it breaks off.
async fn first_part(response: &mut Response, limit: usize) -> Vec<u8> {
    let mut body = Vec::new();
    while body.len() < limit
        && let Ok(Some(chunk)) = response.chunk().await
    {
        body.extend_from_slice(&chunk[..chunk.len().min(limit - body.len())]);
    }
    body
}

/// Bytes of others, short and on one line.
fn in_a_sentence(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut words = String::new();
    for char in text.trim().chars().take(REASON_CHARS) {
        words.push(if char.is_control() { ' ' } else { char });
    }
    words
}

/// The error of TLS that an error comes from, if it does. That the server does not trust our
/// certificate is only told after the handshake (TLS 1.3).
fn tls_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if let Some(tls) = inner.and_then(|inner| inner.downcast_ref()).or_else(|| error.downcast_ref()) {
            return Some(tls);
        }
        cause = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_say_is_short_and_on_one_line() {
        assert_eq!(in_a_sentence(b" a\r\nb\x1b[31m \xff "), "a  b [31m \u{fffd}");
        assert_eq!(in_a_sentence(&[b'x'; 10_000]).len(), REASON_CHARS);
    }
}
