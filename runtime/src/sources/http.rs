//! `http`: a server that takes messages and answers when they are settled.

mod inbox;
mod reader;
mod server;

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use axum::http::{HeaderName, HeaderValue};
use rustls::ServerConfig;
use schemars::JsonSchema;
use serde::Deserialize;

use self::inbox::{HttpCommitter, Inbox};
use self::reader::HttpReader;
use self::server::{Door, Server};
use super::{OpenSource, Replay, SourceConfig, SourceContext, SourceSpec, SourceTraits};
use crate::codecs::Framing;
use crate::config::parse;
use crate::config::problem::Problem;
use crate::config::units::{ByteSize, Interval};
use crate::message::{MAX_ARENA_BYTES, Position};
use crate::tls;

pub const SPEC: SourceSpec = SourceSpec {
    name: "http",
    schema: || schemars::schema_for!(HttpSource),
    example: "[source]\ntype = \"http\"\nlisten = \"127.0.0.1:8080\"\npath = \"/orders\"\ntoken = \"${ORDERS_TOKEN}\"",
    default_codec: "raw",
    parse: |value| Ok(Box::new(parse::<HttpSource>(value)?)),
};

/// A server to which messages are POSTed: one a request, or one a line with the content type
/// `application/x-ndjson`. A message has the headers of its request; its time is when it came.
///
/// - 200: everything of the request is settled, `{"outcome": "delivered"}`, or for a batch
///   `{"results": [{"line": 1, "outcome": "delivered"}, ...]}`. An outcome is `delivered`,
///   `filtered` (dropped by a plugin), `dead-lettered` (kept as a dead letter, with a `reason`), or
///   `returned`.
/// - 503: as 200, but some of it was `returned`: given back unsettled, as when the pipeline stops.
///   Send that again. Also when the pipeline is stopping.
/// - 202: not settled within `max_wait`. It goes on, but may still be given back: who must be sure
///   sends it again. `id` is the number of the message, in dead letters too.
/// - 400: not a message of the codec, and empty bodies; nothing was taken.
/// - 401: the token is missing or wrong.
/// - 408, 413: the request came too slowly, or is too large.
/// - 415: a compressed body.
/// - 429: too much is on its way already. Send it again, after `Retry-After` seconds.
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct HttpSource {
    /// Address and port to listen on. Port 0 takes a free one, which the log tells.
    listen: String,
    /// Path of the requests.
    path: String,
    /// Who sends must say `Authorization: Bearer` and this; by default anybody may send.
    token: Option<String>,
    /// Header whose value becomes the key of a message; by default it has none, or that of its
    /// record.
    key_header: Option<String>,
    /// Headers of a request that its messages have, by name. By default all but those about the
    /// connection and the body's length (RFC 9110, sections 7.6.1 and 8.6), `host`, `expect`,
    /// `authorization`, `proxy-authorization` and `cookie`.
    headers: Option<Vec<String>>,
    /// How long a request waits for its messages to be settled until it is answered with 202.
    max_wait: Interval,
    /// How long a client may take to send a request, and a connection may be idle.
    request_timeout: Interval,
    /// Largest body of a request. A single message is also limited by `max_message_bytes`; a line
    /// of a batch that is longer than that becomes a dead letter.
    max_body_bytes: ByteSize,
    /// Messages of a batch, at most.
    max_batch_messages: usize,
    /// Requests that wait to be read by the pipeline, at most.
    max_pending: usize,
    /// Bytes of those and of the bodies that are being received, at most.
    max_pending_bytes: ByteSize,
    /// Connections, at most.
    max_connections: usize,
    /// Certificate and key to be reached by `https`.
    tls: Option<Tls>,
    /// Listen unencrypted also for other machines, as behind a proxy that ends TLS.
    allow_plaintext: bool,
}

/// Files are PEM, relative to the pipeline file.
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Tls {
    /// The certificate, and those between it and its authority.
    cert_file: PathBuf,
    /// Its private key.
    key_file: PathBuf,
}

impl Default for HttpSource {
    fn default() -> HttpSource {
        HttpSource {
            listen: "127.0.0.1:8080".to_owned(),
            path: "/".to_owned(),
            token: None,
            key_header: None,
            headers: None,
            max_wait: Interval::secs(30),
            request_timeout: Interval::secs(30),
            max_body_bytes: ByteSize::mib(8),
            max_batch_messages: 10_000,
            max_pending: 1024,
            max_pending_bytes: ByteSize::mib(32),
            max_connections: 1024,
            tls: None,
            allow_plaintext: false,
        }
    }
}

impl SourceConfig for HttpSource {
    fn check(&self, context: &SourceContext, problems: &mut Vec<Problem>) {
        self.check_door(problems);
        self.check_limits(problems);
        if let Some(tls) = &self.tls
            && let Err(error) = tls.load(&context.base)
        {
            problems.push(
                Problem::new("/tls", format!("{error:#}"))
                    .help("PEM files with a certificate and its private key"),
            );
        }
        if matches!(context.codec.framing(), Framing::Csv { .. }) {
            problems.push(
                Problem::new("/codec", "a request is one message, or one a line, and has no head")
                    .help("codec = \"raw\", \"lines\", \"json\" or \"record\""),
            );
        }
    }

    fn traits(&self) -> SourceTraits {
        SourceTraits {
            replay: Replay::ByClient("the client sends again what was not answered with 200"),
            unordered: None,
            partitions: Some(1),
        }
    }

    fn open(self: Box<Self>, context: SourceContext) -> anyhow::Result<OpenSource> {
        let (name, tls) = (format!("http:{}", self.path), self.tls.is_some());
        let Listening { reader, committer, address } = self.listen(context)?;
        tracing::info!(addr = %address, source = %name, tls, "listening");
        Ok(OpenSource {
            name: name.clone(),
            reader: Box::new(reader),
            committer: Box::new(committer),
            describe: Arc::new(move |position: Position| {
                format!("{name} message {} since the start (id {})", position.record, position.offset)
            }),
        })
    }
}

/// Its two halves, and where it listens.
struct Listening {
    reader: HttpReader,
    committer: HttpCommitter,
    address: SocketAddr,
}

impl HttpSource {
    fn listen(self, context: SourceContext) -> anyhow::Result<Listening> {
        let tls = self.tls.as_ref().map(|tls| tls.load(&context.base)).transpose()?;
        let listener =
            TcpListener::bind(&self.listen).with_context(|| format!("cannot listen on {}", self.listen))?;
        let address = listener.local_addr().context("cannot tell the address that was listened on")?;
        let (inbox, queue) = Inbox::new(self.max_pending, self.max_pending_bytes.as_usize());
        let inbox = Arc::new(inbox);
        let header_name =
            |text: &String| HeaderName::try_from(text).with_context(|| format!("header {text:?}"));
        let door = Door {
            inbox: Arc::clone(&inbox),
            budget_is_used_up: context.budget_is_used_up,
            token: self.token.clone(),
            key_header: self.key_header.as_ref().map(header_name).transpose()?,
            headers: match &self.headers {
                Some(names) => Some(names.iter().map(header_name).collect::<anyhow::Result<_>>()?),
                None => None,
            },
            max_wait: self.max_wait.0,
            request_timeout: self.request_timeout.0,
            max_body_bytes: self.max_body_bytes.as_usize(),
            max_message_bytes: context.max_message_bytes,
            max_batch_messages: self.max_batch_messages,
        };
        let server = Server::new(listener, tls, self.path, self.max_connections, door);
        // Positions are never used again, not even by the next process: what is made of one must
        // not be taken for a repetition of a message of this one.
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let first_offset = u64::try_from(since_1970.as_micros()).unwrap_or(u64::MAX / 2).max(1);
        let handle = server.handle();
        let reader = HttpReader::new(
            Arc::clone(&inbox),
            queue,
            server,
            &*context.codec,
            context.max_message_bytes,
            first_offset,
        );
        Ok(Listening { reader, committer: HttpCommitter::new(inbox, handle), address })
    }

    fn check_door(&self, problems: &mut Vec<Problem>) {
        match self.listen.parse::<SocketAddr>() {
            Err(_) => problems.push(
                Problem::new("/listen", format!("{:?} is no address with a port", self.listen)).help(
                    "as in `listen = \"127.0.0.1:8080\"`, or \"0.0.0.0:8080\" for all of this machine's",
                ),
            ),
            Ok(address) if !address.ip().is_loopback() && self.tls.is_none() && !self.allow_plaintext => {
                problems.push(
                    Problem::new("/listen", format!("{address} takes messages of other machines unencrypted"))
                        .help("tls = { cert_file = \"...\", key_file = \"...\" }, or `allow_plaintext = true` behind a proxy that ends TLS"),
                );
            }
            Ok(_) => {}
        }
        if !self.path.starts_with('/') || self.path.contains(['{', '}', '*', '?', '#']) {
            problems.push(
                Problem::new("/path", format!("{:?} is not the path of a url", self.path))
                    .help("as in `path = \"/orders\"`"),
            );
        }
        if self.token.as_ref().is_some_and(|token| token.is_empty() || HeaderValue::try_from(token).is_err())
        {
            problems.push(Problem::new("/token", "it is empty or holds a control character"));
        }
        let names =
            self.headers.iter().flatten().enumerate().map(|(n, name)| (format!("/headers/{n}"), name));
        let key = self.key_header.iter().map(|name| ("/key_header".to_owned(), name));
        for (at, name) in names.chain(key) {
            if HeaderName::try_from(name).is_err() {
                problems.push(
                    Problem::new(at, format!("{name:?} is not the name of a header"))
                        .help("letters, digits and hyphens, as in \"x-request-id\""),
                );
            }
        }
    }

    fn check_limits(&self, problems: &mut Vec<Problem>) {
        let counts = [
            ("/max_batch_messages", self.max_batch_messages),
            ("/max_pending", self.max_pending),
            ("/max_connections", self.max_connections),
            ("/max_body_bytes", self.max_body_bytes.as_usize()),
        ];
        for (at, _) in counts.iter().filter(|(_, count)| *count == 0) {
            problems.push(Problem::new(*at, "0 is too few").help("at least 1"));
        }
        for (at, interval) in [("/max_wait", self.max_wait), ("/request_timeout", self.request_timeout)] {
            if interval.0.is_zero() {
                problems.push(Problem::new(at, "no time at all").help("a time like \"30s\""));
            }
        }
        let most = ByteSize(MAX_ARENA_BYTES as u64 / 8);
        if self.max_body_bytes > most {
            problems.push(
                Problem::new("/max_body_bytes", format!("{} is too much", self.max_body_bytes))
                    .help(format!("at most \"{most}\"")),
            );
        }
        if self.max_pending_bytes < self.max_body_bytes {
            problems.push(
                Problem::new(
                    "/max_pending_bytes",
                    format!("{} is less than one body", self.max_pending_bytes),
                )
                .help(format!("at least max_body_bytes, \"{}\"", self.max_body_bytes)),
            );
        }
    }
}

impl Tls {
    fn load(&self, base: &Path) -> anyhow::Result<Arc<ServerConfig>> {
        tls::server_config(&base.join(&self.cert_file), &base.join(&self.key_file))
    }
}

#[cfg(test)]
mod tests;
