//! What an answer says.

use std::time::Duration;

use reqwest::{Response, StatusCode};
use serde::Deserialize;

use crate::Error;
use crate::http::{chain, retry_after};

/// Of what a registry says in an error, this much is told.
const MESSAGE_CHARS: usize = 1000;

/// Of an answer that tells an error, this much is read.
const ERROR_BYTES: usize = 64 << 10;

/// What was asked, and of whom.
#[derive(Clone, Copy)]
pub struct Asked<'a> {
    pub what: &'a str,
    pub registry: &'a str,
    /// Never to be told.
    pub secrets: &'a [String],
}

/// What a registry answers when something is wrong.
#[derive(Deserialize)]
struct Told {
    error_code: u32,
    #[serde(default)]
    message: String,
}

impl Asked<'_> {
    /// The body of an answer that is a success.
    ///
    /// # Errors
    /// It is none, there is too much of it, or the connection is lost.
    pub async fn body(&self, mut response: Response, max_bytes: usize) -> Result<Vec<u8>, Error> {
        let status = response.status();
        if status.is_success() {
            let too_large = || Error::Unusable {
                what: self.what.to_owned(),
                reason: format!("the answer has more than {max_bytes} bytes"),
            };
            if response.content_length().is_some_and(|length| length > max_bytes as u64) {
                return Err(too_large());
            }
            let mut body = Vec::new();
            while let Some(chunk) = response.chunk().await.map_err(|error| self.failed(error))? {
                if body.len() + chunk.len() > max_bytes {
                    return Err(too_large());
                }
                body.extend_from_slice(&chunk);
            }
            return Ok(body);
        }
        let retry_after = retry_after(response.headers());
        let mut body = Vec::new();
        while body.len() < ERROR_BYTES {
            // The status says enough.
            let Ok(Some(chunk)) = response.chunk().await else { break };
            body.extend_from_slice(&chunk[..chunk.len().min(ERROR_BYTES - body.len())]);
        }
        Err(self.error(status, retry_after, &body))
    }

    fn error(&self, status: StatusCode, retry_after: Option<Duration>, body: &[u8]) -> Error {
        let told = serde_json::from_slice::<Told>(body).ok();
        let code = told.as_ref().map(|told| told.error_code);
        let message = match &told {
            Some(told) => self.quoted(told.message.as_bytes()),
            None => self.quoted(body),
        };
        let (what, registry) = (self.what.to_owned(), self.registry.to_owned());
        let reason = match message.is_empty() {
            true => format!("it answers {status}"),
            false => format!("it answers {status}: {message}"),
        };
        match (status.as_u16(), code) {
            // A path that the server does not know is 404 too; only these are of what was asked for.
            (404, Some(code @ 40401..=40499)) => Error::NotFound { what, registry, code, message },
            (404, _) => Error::Invalid { what, registry, reason: format!("{reason}; is the url right?") },
            (401 | 403 | 407, _) => Error::Refused { what, registry, reason },
            (409 | 422, code) => {
                Error::Rejected { what, registry, code: code.unwrap_or(status.as_u16().into()), message }
            }
            (408 | 429 | 500.., _) => Error::Unavailable { what, registry, reason, retry_after },
            (300..=399, _) => Error::Invalid {
                what,
                registry,
                reason: format!("{reason}; redirects are not followed, so give the url that it leads to"),
            },
            _ => Error::Invalid { what, registry, reason },
        }
    }

    /// There was no answer, or not all of it.
    pub fn failed(&self, error: reqwest::Error) -> Error {
        // The url may hold what is nobody's business, and `registry` says which one it was.
        let reason = match error.is_timeout() {
            true => "no answer in time".to_owned(),
            false => self.quoted(chain(&error.without_url()).as_bytes()),
        };
        Error::Unavailable {
            what: self.what.to_owned(),
            registry: self.registry.to_owned(),
            reason,
            retry_after: None,
        }
    }

    /// The answer was a success, but is not what was asked for.
    pub fn not_understood(&self, error: &serde_json::Error, body: &[u8]) -> Error {
        Error::Invalid {
            what: self.what.to_owned(),
            registry: self.registry.to_owned(),
            reason: format!("{error}: {}", self.quoted(body)),
        }
    }

    /// What others say, short, on one line, and without our secrets, should they repeat them.
    fn quoted(&self, text: &[u8]) -> String {
        let mut text = String::from_utf8_lossy(text).into_owned();
        for secret in self.secrets {
            text = text.replace(secret.as_str(), "***");
        }
        let text = text.trim().chars().take(MESSAGE_CHARS);
        text.map(|char| if char.is_control() { ' ' } else { char }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_say_is_short_on_one_line_and_without_secrets() {
        let asked = Asked { what: "", registry: "", secrets: &["s3cret".to_owned()] };
        assert_eq!(asked.quoted(b" a\r\nb\x1b[31m s3cret "), "a  b [31m ***");
        assert_eq!(asked.quoted(&[b'x'; 10_000]).len(), MESSAGE_CHARS);
    }
}
