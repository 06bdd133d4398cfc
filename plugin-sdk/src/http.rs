//! Requests to servers that the pipeline grants by name: `grants.http.NAME = { url = "...",
//! methods = ["GET"] }`. Natively they are answered by
//! [`testing::Harness::server`](crate::testing::Harness::server).

use crate::NotGranted;
use crate::bindings::millstream::plugin::http as host;
use crate::plugin::Failure;

pub use host::{Request, Response};

/// Why a request has no answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RequestError {
    /// The grant does not allow it.
    Refused(String),
    Timeout(String),
    TooLarge(String),
    Unreachable(String),
}

/// What may get better is tried again: a server that did not answer.
impl From<RequestError> for Failure {
    fn from(error: RequestError) -> Failure {
        match error {
            RequestError::Refused(text) => Failure::reject("http-refused", text),
            RequestError::TooLarge(text) => Failure::reject("http-too-large", text),
            RequestError::Timeout(text) => Failure::retry("http-timeout", text),
            RequestError::Unreachable(text) => Failure::retry("http-unreachable", text),
        }
    }
}

impl Request {
    /// `path` begins with `/`, is below the path that is granted, and may have a query.
    pub fn get(path: impl Into<String>) -> Request {
        Request { method: "GET".to_owned(), path: path.into(), headers: Vec::new(), body: Vec::new() }
    }

    /// See [`Request::get`].
    pub fn post(path: impl Into<String>, content_type: &str, body: impl Into<Vec<u8>>) -> Request {
        let headers = vec![("content-type".to_owned(), content_type.as_bytes().to_vec())];
        Request { method: "POST".to_owned(), path: path.into(), headers, body: body.into() }
    }
}

/// Sends all of these, at most 1024, some at the same time; an answer a request, in their order.
/// The time it takes is not counted as the plugin's.
///
/// # Errors
/// The server is not granted.
pub fn send_many(
    server: &str,
    requests: &[Request],
) -> Result<Vec<Result<Response, RequestError>>, NotGranted> {
    let answers = to_host(server, requests).map_err(|host::HttpError::NotGranted(text)| NotGranted(text))?;
    let told = |error| match error {
        host::RequestError::Refused(text) => RequestError::Refused(text),
        host::RequestError::Timeout(text) => RequestError::Timeout(text),
        host::RequestError::TooLarge(text) => RequestError::TooLarge(text),
        host::RequestError::Unreachable(text) => RequestError::Unreachable(text),
    };
    Ok(answers.into_iter().map(|answer| answer.map_err(told)).collect())
}

#[cfg(target_arch = "wasm32")]
fn to_host(
    server: &str,
    requests: &[Request],
) -> Result<Vec<Result<Response, host::RequestError>>, host::HttpError> {
    host::send_many(server, requests)
}

#[cfg(not(target_arch = "wasm32"))]
fn to_host(
    server: &str,
    requests: &[Request],
) -> Result<Vec<Result<Response, host::RequestError>>, host::HttpError> {
    crate::testing::host::send_many(server, requests)
}
