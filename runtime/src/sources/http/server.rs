//! The server: who may come in, and what they are told.

use std::future::{Future, poll_fn};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use axum::Router;
use axum::body::{Body, HttpBody};
use axum::extract::State;
use axum::http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_ENCODING, CONTENT_TYPE, EXPECT, RETRY_AFTER, WWW_AUTHENTICATE,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Request as HttpRequest, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum_server::Handle;
use axum_server::accept::Accept;
use axum_server::tls_rustls::{RustlsAcceptor, RustlsConfig};
use bytes::Bytes;
use rustls::ServerConfig;
use serde_json::{Value, json};
use subtle::ConstantTimeEq;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::super::SettledAs;
use super::inbox::{Answer, Inbox, Refused, Request, Ticket};
use super::reader::lines_of;

/// Headers about the connection or the request rather than a message, or secret ones.
const NOT_KEPT: &[&str] = &[
    "authorization",
    "connection",
    "content-length",
    "cookie",
    "expect",
    "host",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Headers of a request together, at least; from twice that on hyper answers 431. Each connection
/// may need that much memory.
const MAX_HEAD_BYTES: usize = 64 << 10;

/// What a header takes in memory besides its bytes, about.
const HEADER_OVERHEAD_BYTES: usize = 64;

/// Of the reason of a dead letter, this much is told.
const REASON_CHARS: usize = 400;

/// Seconds after which a client that came too early may try again.
const RETRY_AFTER_SECONDS: &str = "1";

/// What every request is held against.
pub struct Door {
    pub inbox: Arc<Inbox>,
    pub budget_is_used_up: Arc<AtomicBool>,
    pub token: Option<String>,
    pub key_header: Option<HeaderName>,
    /// Those that are kept; `None` for all but [`NOT_KEPT`].
    pub headers: Option<Vec<HeaderName>>,
    pub max_wait: Duration,
    pub request_timeout: Duration,
    pub max_body_bytes: usize,
    pub max_message_bytes: usize,
    pub max_batch_messages: usize,
}

async fn receive(State(door): State<Arc<Door>>, request: HttpRequest<Body>) -> Response {
    let (head, mut body) = request.into_parts();
    let refusal = match door.receive(&head.headers, &mut body).await {
        Ok(response) => return response,
        Err(refusal) => refusal,
    };
    // Who waits to be asked for its body does not send it now, and who is slow has had its time.
    if !head.headers.contains_key(EXPECT) && refusal.status != StatusCode::REQUEST_TIMEOUT {
        let _ = timeout(door.request_timeout, drain(&mut body)).await;
    }
    refusal.into_response()
}

/// Of the body of a request that is refused, this much is still read: many clients look for an
/// answer only when all is sent, and would else see nothing but a broken connection.
const DRAINED_BYTES: usize = 64 << 20;

async fn drain(body: &mut Body) {
    let mut drained = 0;
    while drained < DRAINED_BYTES
        && let Some(Ok(data)) = next_part(body).await
    {
        drained += data.len();
    }
}

/// The next bytes of a body; none for trailers.
async fn next_part(body: &mut Body) -> Option<Result<Bytes, axum::Error>> {
    let frame = poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await?;
    Some(frame.map(|frame| frame.into_data().unwrap_or_default()))
}

impl Door {
    /// The answer, or a refusal of a request of which nothing was taken.
    async fn receive(&self, headers: &HeaderMap, body: &mut Body) -> Result<Response, Refusal> {
        self.authorize(headers)?;
        if self.inbox.is_closing() {
            return Err(stopping());
        }
        if self.budget_is_used_up.load(Ordering::Relaxed) {
            return Err(too_much("the pipeline has as much as it can hold"));
        }
        if headers.get(CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
            return Err(refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, "compressed bodies are not taken"));
        }
        let (body, memory) = timeout(self.request_timeout, self.read(headers, body))
            .await
            .map_err(|_| refuse(StatusCode::REQUEST_TIMEOUT, "the body did not come in time"))??;
        let is_batch = is_ndjson(headers);
        self.check_size(&body, is_batch)?;

        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let (answer, answered) = oneshot::channel();
        let ticket = Arc::new(Ticket::new());
        let waiting = Waiting(Arc::clone(&ticket));
        let request = Request {
            body,
            is_batch,
            headers: self.kept(headers),
            key: self.key_header.as_ref().and_then(|name| headers.get(name)).cloned(),
            received_ms: i64::try_from(since_1970.as_millis()).unwrap_or(i64::MAX),
            ticket,
            answer,
            memory,
        };
        self.inbox.put(request).map_err(|refused| match refused {
            Refused::Full => too_much("too many requests wait to be read"),
            Refused::Closing => stopping(),
        })?;
        match timeout(self.max_wait, answered).await {
            Ok(Ok(Answer::Settled(outcomes))) => Ok(settled(is_batch, outcomes)),
            Ok(Ok(Answer::NoMessage(reason))) => Err(refuse(StatusCode::BAD_REQUEST, reason)),
            Ok(Err(_)) => Err(stopping()),
            Err(_) => match waiting.0.leave() {
                Some(id) => {
                    Ok(json_response(StatusCode::ACCEPTED, &json!({ "id": id, "outcome": "pending" })))
                }
                None => Err(too_much("the pipeline did not get to read it in time")),
            },
        }
    }

    fn authorize(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let Some(token) = &self.token else { return Ok(()) };
        let said = headers.get(AUTHORIZATION).map_or(&[][..], HeaderValue::as_bytes);
        let (scheme, said) = said.split_at_checked(b"Bearer ".len()).unwrap_or_default();
        // In constant time, so that the token cannot be found byte by byte.
        if scheme.eq_ignore_ascii_case(b"Bearer ") && bool::from(said.ct_eq(token.as_bytes())) {
            return Ok(());
        }
        Err(refuse(StatusCode::UNAUTHORIZED, "the bearer token is missing or wrong"))
    }

    /// The body, and a permit for the memory of the request.
    async fn read(
        &self,
        headers: &HeaderMap,
        body: &mut Body,
    ) -> Result<(Bytes, OwnedSemaphorePermit), Refusal> {
        let too_large = || {
            let reason = format!("the body is larger than {} bytes", self.max_body_bytes);
            refuse(StatusCode::PAYLOAD_TOO_LARGE, reason)
        };
        let reserve = |bytes: usize| {
            u32::try_from(bytes)
                .ok()
                .and_then(|bytes| Arc::clone(&self.inbox.memory).try_acquire_many_owned(bytes).ok())
                .ok_or_else(|| too_much("too many bytes are being received"))
        };
        let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
        if announced > self.max_body_bytes {
            return Err(too_large());
        }
        let head_bytes: usize = headers
            .iter()
            .map(|(name, value)| name.as_str().len() + value.len() + HEADER_OVERHEAD_BYTES)
            .sum();
        let mut memory = reserve(head_bytes + announced)?;
        let mut bytes = Vec::with_capacity(announced);
        while let Some(data) = next_part(body).await {
            let data = data
                .map_err(|error| refuse(StatusCode::BAD_REQUEST, format!("the body broke off: {error}")))?;
            let size = bytes.len() + data.len();
            if size > self.max_body_bytes {
                return Err(too_large());
            }
            if let Some(more) = (head_bytes + size).checked_sub(memory.num_permits()) {
                memory.merge(reserve(more)?);
            }
            bytes.extend_from_slice(&data);
        }
        Ok((bytes.into(), memory))
    }

    fn check_size(&self, body: &[u8], is_batch: bool) -> Result<(), Refusal> {
        if !is_batch {
            let (size, limit) = (body.len(), self.max_message_bytes);
            return match size > limit {
                true => {
                    let reason = format!("the message has {size} bytes, more than {limit}");
                    Err(refuse(StatusCode::PAYLOAD_TOO_LARGE, reason))
                }
                false => Ok(()),
            };
        }
        match lines_of(body).take(self.max_batch_messages + 1).count() {
            0 => Err(refuse(StatusCode::BAD_REQUEST, "there is no message in the body")),
            count if count > self.max_batch_messages => {
                let reason = format!("the body has more than {} messages", self.max_batch_messages);
                Err(refuse(StatusCode::PAYLOAD_TOO_LARGE, reason))
            }
            _ => Ok(()),
        }
    }

    /// The headers that messages have of those of their request.
    fn kept(&self, headers: &HeaderMap) -> Vec<(HeaderName, HeaderValue)> {
        // What `Connection` names is about the connection too (RFC 9110, section 7.6.1).
        let of_connection = |name: &HeaderName| {
            let named = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
            named
                .flat_map(|value| value.split(','))
                .any(|word| name.as_str().eq_ignore_ascii_case(word.trim()))
        };
        let is_kept = |name: &HeaderName| match &self.headers {
            Some(names) => names.contains(name),
            None => !NOT_KEPT.contains(&name.as_str()) && !of_connection(name),
        };
        headers
            .iter()
            .filter(|(name, _)| is_kept(name))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect()
    }
}

/// Gives a request up that the pipeline has not read when its client goes away.
struct Waiting(Arc<Ticket>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.leave();
    }
}

fn is_ndjson(headers: &HeaderMap) -> bool {
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    ["application/x-ndjson", "application/ndjson"].iter().any(|ndjson| essence.eq_ignore_ascii_case(ndjson))
}

fn settled(is_batch: bool, outcomes: Vec<(usize, SettledAs)>) -> Response {
    let is_returned = outcomes.iter().any(|(_, outcome)| *outcome == SettledAs::Returned);
    let status = if is_returned { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    let tell = |outcome: SettledAs| match outcome {
        SettledAs::Delivered => json!({ "outcome": "delivered" }),
        SettledAs::Filtered => json!({ "outcome": "filtered" }),
        SettledAs::DeadLettered(reason) => {
            let reason: String = reason.chars().take(REASON_CHARS).collect();
            json!({ "outcome": "dead-lettered", "reason": reason })
        }
        SettledAs::Returned => json!({ "outcome": "returned" }),
    };
    let body = if is_batch {
        let results = outcomes.into_iter().map(|(line, outcome)| {
            let mut result = tell(outcome);
            result["line"] = line.into();
            result
        });
        json!({ "results": results.collect::<Vec<_>>() })
    } else {
        outcomes.into_iter().next().map_or(Value::Null, |(_, outcome)| tell(outcome))
    };
    json_response(status, &body)
}

fn json_response(status: StatusCode, body: &Value) -> Response {
    let mut response = (status, [(CONTENT_TYPE, "application/json")], body.to_string()).into_response();
    if matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_SECONDS));
    }
    response
}

/// Why nothing of a request was taken.
struct Refusal {
    status: StatusCode,
    reason: String,
}

fn refuse(status: StatusCode, reason: impl Into<String>) -> Refusal {
    Refusal { status, reason: reason.into() }
}

fn too_much(reason: &str) -> Refusal {
    refuse(StatusCode::TOO_MANY_REQUESTS, reason)
}

fn stopping() -> Refusal {
    refuse(StatusCode::SERVICE_UNAVAILABLE, "the pipeline is stopping")
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = json_response(self.status, &json!({ "error": self.reason }));
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// A server that listens from the beginning and serves from the first read on.
pub struct Server {
    listening: Option<Listening>,
    handle: ServerHandle,
}

struct Listening {
    listener: TcpListener,
    tls: Option<Arc<ServerConfig>>,
    path: String,
    max_connections: usize,
    door: Door,
}

impl Server {
    pub fn new(
        listener: TcpListener,
        tls: Option<Arc<ServerConfig>>,
        path: String,
        max_connections: usize,
        door: Door,
    ) -> Server {
        Server {
            listening: Some(Listening { listener, tls, path, max_connections, door }),
            handle: ServerHandle { handle: Handle::new(), task: Arc::default() },
        }
    }

    pub fn handle(&self) -> ServerHandle {
        self.handle.clone()
    }

    /// Begins to serve, if it does not yet.
    pub fn start(&mut self) -> anyhow::Result<()> {
        let Some(Listening { listener, tls, path, max_connections, door }) = self.listening.take() else {
            return Ok(());
        };
        let request_timeout = door.request_timeout;
        let router = Router::new().route(&path, post(receive)).with_state(Arc::new(door));
        let handle = self.handle.handle.clone();
        let mut server = axum_server::from_tcp(listener)
            .context("cannot accept connections")?
            .http1_only()
            .handle(handle.clone())
            .accept_error_handler(
                |peer, error| tracing::debug!(?peer, %error, "a connection was not accepted"),
            );
        // Without bytes of a request for that long, also between two, a connection is closed.
        server.http_builder().http1().header_read_timeout(request_timeout).max_buf_size(MAX_HEAD_BYTES);
        let service = router.into_make_service();
        let task = match tls {
            Some(config) => {
                let config = RustlsConfig::from_config(config);
                let tls =
                    |inner| RustlsAcceptor::new(config).handshake_timeout(request_timeout).acceptor(inner);
                let server = server.map(|inner| Limited { inner: tls(inner), handle, max_connections });
                tokio::spawn(server.serve(service))
            }
            None => {
                let server = server.map(|inner| Limited { inner, handle, max_connections });
                tokio::spawn(server.serve(service))
            }
        };
        *self.handle.task.lock().unwrap_or_else(PoisonError::into_inner) = Some(task);
        Ok(())
    }

    /// Accepts no more connections; requests that are there are still answered.
    pub fn stop_accepting(&mut self) {
        self.listening = None;
        self.handle.handle.graceful_shutdown(None);
    }
}

#[derive(Clone)]
pub struct ServerHandle {
    handle: Handle<SocketAddr>,
    task: Arc<Mutex<Option<JoinHandle<io::Result<()>>>>>,
}

impl ServerHandle {
    #[cfg(test)]
    pub fn connection_count(&self) -> usize {
        self.handle.connection_count()
    }

    /// Ends it when all answers are taken, or after this time.
    pub async fn close(&self, patience: Duration) {
        self.handle.graceful_shutdown(None);
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut task) = task else { return };
        if timeout(patience, &mut task).await.is_err() {
            self.handle.shutdown();
            let _ = task.await;
        }
    }
}

/// Closes connections that are too many before anything is read from them.
#[derive(Clone)]
struct Limited<A> {
    inner: A,
    handle: Handle<SocketAddr>,
    max_connections: usize,
}

impl<A, I, S> Accept<I, S> for Limited<A>
where
    A: Accept<I, S>,
    A::Future: Send + 'static,
{
    type Stream = A::Stream;
    type Service = A::Service;
    type Future = Pin<Box<dyn Future<Output = io::Result<(A::Stream, A::Service)>> + Send>>;

    fn accept(&self, stream: I, service: S) -> Self::Future {
        // This one is counted already.
        if self.handle.connection_count() > self.max_connections {
            let error = io::Error::other(format!("there are {} connections already", self.max_connections));
            return Box::pin(async { Err(error) });
        }
        Box::pin(self.inner.accept(stream, service))
    }
}
