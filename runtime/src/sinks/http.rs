//! `http`: sends messages to a server, one or many a request.

mod answer;
mod call;
mod request;

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Url};
use schemars::JsonSchema;
use serde::Deserialize;

pub use self::answer::answered;

use self::answer::Rules;
use self::call::HttpCalls;
use self::request::{IdempotencyKey, Requests};
use super::{Sink, SinkConfig, SinkContext, SinkSpec, SinkTraits};
use crate::codecs::{Encoder, Ends};
use crate::config::parse;
use crate::config::problem::Problem;
use crate::config::units::{ByteSize, Interval};
use crate::dead_letters::REPLAYS_HEADER;
use crate::http_client::{self, Destination};
use crate::tls::ClientTls;
use crate::traces::context::{TRACEPARENT, TRACESTATE};

pub const SPEC: SinkSpec = SinkSpec {
    name: "http",
    schema: || schemars::schema_for!(HttpSink),
    example: "[[sink]]\ntype = \"http\"\nurl = \"https://orders.example/intake\"\n\
              bearer_token = \"${ORDERS_TOKEN}\"\nidempotency_key = \"idempotency-key\"\n",
    default_codec: "raw",
    parse: |value| Ok(Box::new(parse::<HttpSink>(value)?)),
};

/// Sends messages to a server. What becomes of a message:
///
/// - any status 2xx: it is delivered
/// - 401, 403, 407: the server refuses our credentials, the pipeline waits
/// - 429, 502, 503, 504, a redirect, a connection or TLS handshake that fails: the server is not
///   available, the pipeline waits; `Retry-After` is honoured up to an hour
/// - 408, 500, other 5xx, no answer in time, a connection lost before the answer: counts as a
///   failed attempt of the message
/// - 501, 505 and other 4xx: the message becomes a dead letter, with the first part of the answer
///
/// When a request with many messages fails it is divided until the guilty message stands alone.
/// Redirects are not followed, proxies not used.
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct HttpSink {
    /// Where to send to. `https`, or `http` to this machine itself.
    url: String,
    /// Method of the requests.
    #[serde(default)]
    method: Method,
    /// What a request holds.
    #[serde(default)]
    mode: Mode,
    /// Messages of a request, at most, where it holds many.
    #[serde(default = "max_messages_default")]
    max_messages: usize,
    /// Bytes of a request, at most, where it holds many messages; a single message may be more.
    #[serde(default = "max_bytes_default")]
    max_bytes: ByteSize,
    /// The server answers a request that holds many messages with
    /// `{"results": [{"outcome": "delivered"}, {"status": 422, "reason": "..."}, ...]}`, one a
    /// message, in order or with its `line` from 1, as the http source does: with an `outcome` of
    /// that source or with the `status` that the message alone would have had. A message it says
    /// nothing of counts as failed. With this a request holds at most one message of a key
    /// (`ordering = "key"`) or of a partition (`ordering = "partition"`).
    #[serde(default)]
    read_results: bool,
    /// Only these statuses mean that a message is delivered; by default every 2xx. `[200]` for an
    /// http source of Millstream, whose 202 says that it has not yet seen to the message.
    #[serde(default)]
    success: Vec<u16>,
    /// Requests that are sent at the same time, at most. Those of messages that must stay in order
    /// are sent one after the other all the same.
    #[serde(default = "concurrency_default")]
    concurrency: usize,
    /// How long making a connection may take, TLS included.
    #[serde(default = "connect_timeout_default")]
    connect_timeout: Interval,
    /// How long a request may take, from connecting to the end of the answer.
    #[serde(default = "timeout_default")]
    timeout: Interval,
    /// Headers of every request. `content-type` is that of the codec unless it is given here.
    #[serde(default)]
    headers: BTreeMap<String, String>,
    /// Headers of a message that become headers of its request, by name. `traceparent` and `tracestate`
    /// always do, unless `headers` has one, and so does `millstream-replays`, the mark of a replayed dead
    /// letter.
    #[serde(default)]
    forward_headers: Vec<String>,
    /// Sent as `Authorization: Bearer ...`.
    bearer_token: Option<String>,
    /// Name of a header whose value is the same whenever the same message is sent, so that the
    /// server can tell a repetition: a hash of the source position and of the body.
    idempotency_key: Option<String>,
    /// Name of a header of the message whose value is taken for `idempotency_key` where it has one.
    /// Where plugins make several messages of one, they must give each a value of its own.
    idempotency_from: Option<String>,
    /// How to trust the server, and be trusted by it.
    tls: Option<ClientTls>,
    /// Send unencrypted (`http`) also to other machines.
    #[serde(default)]
    allow_plaintext: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
enum Method {
    #[default]
    Post,
    Put,
}

#[derive(Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Mode {
    /// One message.
    #[default]
    Single,
    /// Many messages, each with a line break behind it (`application/x-ndjson`).
    Ndjson,
    /// Many messages as a JSON array (`application/json`).
    JsonArray,
}

fn max_messages_default() -> usize {
    500
}

fn max_bytes_default() -> ByteSize {
    ByteSize::mib(1)
}

fn concurrency_default() -> usize {
    8
}

fn connect_timeout_default() -> Interval {
    Interval::secs(5)
}

fn timeout_default() -> Interval {
    Interval::secs(30)
}

/// Messages that a call has for each request in flight where one holds one, so that the last of
/// a call do not wait for each other all the time.
const CALL_MESSAGES_PER_REQUEST: usize = 32;

impl SinkConfig for HttpSink {
    fn check(&self, context: &SinkContext, problems: &mut Vec<Problem>) {
        let destination = Destination {
            url: &self.url,
            has_tls: self.tls.is_some(),
            allow_plaintext: self.allow_plaintext,
            example: "url = \"https://orders.example/intake\"",
            plaintext: "messages would be sent unencrypted to another machine",
        };
        destination.check(problems);
        self.check_headers(&*context.codec, problems);
        self.check_mode(context, problems);
        for (at, number) in [("/concurrency", self.concurrency), ("/max_messages", self.max_messages)] {
            if number == 0 {
                problems.push(Problem::new(at, "0 is too few").help("at least 1"));
            }
        }
        for (at, interval) in [("/connect_timeout", self.connect_timeout), ("/timeout", self.timeout)] {
            if interval.0.is_zero() {
                problems.push(Problem::new(at, "no time at all").help("a time like \"30s\""));
            }
        }
        for (index, status) in
            self.success.iter().enumerate().filter(|(_, status)| !(200..300).contains(*status))
        {
            problems.push(
                Problem::new(format!("/success/{index}"), format!("status {status} does not say success"))
                    .help("statuses from 200 to 299"),
            );
        }
        if let Some(tls) = &self.tls {
            tls.check(&context.base, problems);
        }
    }

    fn sends_headers(&self) -> bool {
        self.mode == Mode::Single
    }

    fn destination(&self) -> Option<String> {
        let url = Url::parse(&self.url).ok()?;
        // Without a password and a query, which may be secret.
        Some(format!("{}{}", url.origin().ascii_serialization(), url.path()))
    }

    fn traits(&self) -> SinkTraits {
        let messages = match self.mode {
            Mode::Single => CALL_MESSAGES_PER_REQUEST,
            Mode::Ndjson | Mode::JsonArray => self.max_messages,
        };
        SinkTraits {
            partial_failures: self.read_results,
            ..SinkTraits::with_batch(self.concurrency.saturating_mul(messages))
        }
    }

    fn open(self: Box<Self>, context: SinkContext) -> anyhow::Result<Box<dyn Sink>> {
        let url = Url::parse(&self.url).context("the url cannot be read")?;
        let client = self.client(&url, &context.base)?;
        let name =
            |text: &String| HeaderName::try_from(text).with_context(|| format!("{text:?} is no header name"));
        let mut forward: Vec<HeaderName> =
            self.forward_headers.iter().map(name).collect::<anyhow::Result<_>>()?;
        // What comes back to the pipeline that sent it must be known for a replay, or a loop never ends.
        let mark = HeaderName::from_static(REPLAYS_HEADER);
        if !forward.contains(&mark) {
            forward.push(mark);
        }
        let requests = Requests {
            method: match self.method {
                Method::Post => reqwest::Method::POST,
                Method::Put => reqwest::Method::PUT,
            },
            url: url.clone(),
            mode: self.mode,
            headers: self.static_headers(&*context.codec)?,
            forward,
            trace: trace_headers(&self.headers),
            idempotency: match &self.idempotency_key {
                Some(header) => Some(IdempotencyKey {
                    header: name(header)?,
                    from: self.idempotency_from.clone(),
                    scope: format!("{}/{}", context.pipeline, context.name),
                }),
                None => None,
            },
        };
        let rules = Rules {
            server: url.origin().ascii_serialization(),
            success: self.success.clone(),
            read_results: self.read_results,
            timeout: self.timeout,
        };
        Ok(Box::new(HttpCalls {
            client,
            codec: context.codec,
            requests,
            rules: rules.into(),
            concurrency: self.concurrency.max(1),
            max_messages: self.max_messages.max(1),
            max_bytes: self.max_bytes.as_usize(),
        }))
    }
}

impl HttpSink {
    fn check_headers(&self, codec: &dyn Encoder, problems: &mut Vec<Problem>) {
        if let Some(is_own) = codec.own_headers().filter(|_| codec.needs_headers()) {
            for name in self.headers.keys().filter(|name| is_own(name.as_bytes())) {
                problems.push(
                    Problem::new(
                        format!("/headers/{}", pointer_key(name)),
                        format!("the codec says {name:?} for each message"),
                    )
                    .help("remove it"),
                );
            }
        }
        let mut check_name = |at: String, name: &str| {
            if HeaderName::try_from(name).is_err() {
                problems.push(
                    Problem::new(at, format!("{name:?} is not the name of a header"))
                        .help("letters, digits and hyphens, as in \"x-request-id\""),
                );
            }
        };
        for (index, name) in self.forward_headers.iter().enumerate() {
            check_name(format!("/forward_headers/{index}"), name);
        }
        if let Some(name) = &self.idempotency_key {
            check_name("/idempotency_key".to_owned(), name);
        }
        for name in self.headers.keys() {
            check_name(format!("/headers/{}", pointer_key(name)), name);
        }
        for (name, value) in &self.headers {
            if HeaderValue::try_from(value).is_err() {
                problems.push(Problem::new(
                    format!("/headers/{}", pointer_key(name)),
                    "the value holds a control character, such as a line break",
                ));
            }
        }
        if let Some(token) = &self.bearer_token {
            if token.is_empty() || HeaderValue::try_from(token).is_err() {
                problems.push(Problem::new("/bearer_token", "it is empty or holds a control character"));
            }
            if self.headers.keys().any(|name| name.eq_ignore_ascii_case("authorization")) {
                problems.push(
                    Problem::new("/bearer_token", "`headers` has an authorization too").help("only one"),
                );
            }
        }
        if self.idempotency_from.is_some() && self.idempotency_key.is_none() {
            problems.push(
                Problem::new("/idempotency_from", "it is not said in which header to send it")
                    .help("idempotency_key = \"idempotency-key\""),
            );
        }
    }

    fn check_mode(&self, context: &SinkContext, problems: &mut Vec<Problem>) {
        if self.mode == Mode::Single {
            if self.read_results {
                problems.push(
                    Problem::new("/read_results", "a request holds one message, its status is the result")
                        .help("mode = \"ndjson\" or \"json-array\""),
                );
            }
            return;
        }
        if !self.forward_headers.is_empty() {
            problems.push(
                Problem::new(
                    "/forward_headers",
                    "a request holds many messages, each with headers of its own",
                )
                .help("mode = \"single\", or codec = \"record\", which writes headers"),
            );
        }
        if self.idempotency_key.is_some() {
            problems.push(
                Problem::new(
                    "/idempotency_key",
                    "many messages of a request are not the same ones every time",
                )
                .help("mode = \"single\""),
            );
        }
        let codec = &context.codec;
        if self.mode == Mode::Ndjson && codec.ends() != Ends::LineBreaks {
            problems.push(
                Problem::new("/codec", "messages of this codec are not one a line")
                    .help("codec = \"json\" or \"record\""),
            );
        }
        if self.mode == Mode::JsonArray && codec.media_type() != "application/json" {
            problems.push(
                Problem::new("/codec", "messages of this codec cannot be elements of a JSON array")
                    .help("codec = \"json\" or \"record\""),
            );
        }
    }

    fn static_headers(&self, codec: &dyn Encoder) -> anyhow::Result<HeaderMap> {
        let media_type = match self.mode {
            Mode::Single => codec.media_type(),
            Mode::Ndjson => "application/x-ndjson",
            Mode::JsonArray => "application/json",
        };
        let mut headers = HeaderMap::new();
        // Else each message has its own.
        if !codec.needs_headers() {
            headers.insert(reqwest::header::CONTENT_TYPE, HeaderValue::from_static(media_type));
        }
        for (name, value) in &self.headers {
            let mut value =
                HeaderValue::try_from(value).with_context(|| format!("the value of header {name:?}"))?;
            value.set_sensitive(true);
            headers.insert(HeaderName::try_from(name).with_context(|| format!("header {name:?}"))?, value);
        }
        if let Some(token) = &self.bearer_token {
            let mut value = HeaderValue::try_from(format!("Bearer {token}")).context("bearer_token")?;
            value.set_sensitive(true);
            headers.insert(reqwest::header::AUTHORIZATION, value);
        }
        Ok(headers)
    }

    fn client(&self, url: &Url, base: &Path) -> anyhow::Result<Client> {
        let builder = http_client::builder(url, &self.tls.clone().unwrap_or_default(), base)?
            .connect_timeout(self.connect_timeout.0.min(self.timeout.0))
            .timeout(self.timeout.0)
            .pool_max_idle_per_host(self.concurrency);
        builder.build().context("cannot set up the http client")
    }
}

/// Headers of a message with its trace context, which become headers of its request.
fn trace_headers(given: &BTreeMap<String, String>) -> Vec<HeaderName> {
    let is_given = |name: &str| given.keys().any(|given| given.eq_ignore_ascii_case(name));
    let names = [TRACEPARENT, TRACESTATE].into_iter().filter(|name| !is_given(name));
    names.map(HeaderName::from_static).collect()
}

/// A key as it stands in a JSON pointer (RFC 6901, section 3).
fn pointer_key(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

#[cfg(test)]
mod tests;
