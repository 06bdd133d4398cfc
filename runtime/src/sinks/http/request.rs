//! Messages made into requests.

use std::ops::Range;

use bytes::Bytes;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Body, Request, Url};
use sha2::{Digest, Sha256};

use super::super::Outcome;
use super::super::lines::ENCODE_ERROR;
use super::Mode;
use crate::codecs::{Encoder, GivenHeader, Protocol};
use crate::message::MessageRef;
use crate::traces::context::without_traceparent;

/// How every request looks.
pub struct Requests {
    pub method: reqwest::Method,
    pub url: Url,
    pub mode: Mode,
    pub headers: HeaderMap,
    pub forward: Vec<HeaderName>,
    /// Those with the trace context of a message, as far as they can be headers of a request.
    pub trace: Vec<HeaderName>,
    pub idempotency: Option<IdempotencyKey>,
}

pub struct IdempotencyKey {
    pub header: HeaderName,
    /// Header of a message whose value is taken, if it has one.
    pub from: Option<String>,
    /// What tells this sink from others that write to the same server.
    pub scope: String,
}

/// Messages of a call as bytes.
pub struct Encoded {
    bytes: Bytes,
    ranges: Vec<Range<usize>>,
    /// Those that the codec gives each of them.
    headers: Vec<Vec<GivenHeader>>,
}

impl Encoded {
    /// Encodes messages; those that cannot be get their outcome.
    pub fn of(codec: &dyn Encoder, messages: &[MessageRef<'_>], outcomes: &mut [Option<Outcome>]) -> Encoded {
        let mut bytes = Vec::new();
        let mut ranges = Vec::with_capacity(messages.len());
        let mut headers = Vec::with_capacity(messages.len());
        for (message, outcome) in messages.iter().zip(outcomes) {
            let start = bytes.len();
            let mut given = Vec::new();
            let encoded = codec.encode_with_headers(message, Protocol::Http, &mut bytes, &mut given);
            if let Err(error) = encoded {
                *outcome = Some(Outcome::Reject { code: ENCODE_ERROR, reason: error.to_string() });
            }
            ranges.push(start..bytes.len());
            headers.push(given);
        }
        Encoded { bytes: bytes.into(), ranges, headers }
    }

    pub fn message(&self, index: usize) -> Bytes {
        self.bytes.slice(self.ranges[index].clone())
    }
}

impl Requests {
    /// A request with the messages at these indexes of a call: one of them, if the mode is so.
    ///
    /// # Errors
    /// The outcome of the message that cannot be sent.
    pub fn build(
        &self,
        messages: &[MessageRef<'_>],
        encoded: &Encoded,
        indexes: &[usize],
    ) -> Result<Request, Outcome> {
        let mut request = Request::new(self.method.clone(), self.url.clone());
        *request.headers_mut() = self.headers.clone();
        let between = |before: &[u8], delimiter: &[u8], after: &[u8]| {
            let mut body = before.to_vec();
            for (nth, &index) in indexes.iter().enumerate() {
                body.extend_from_slice(if nth == 0 { b"" } else { delimiter });
                body.extend_from_slice(&encoded.message(index));
            }
            body.extend_from_slice(after);
            Bytes::from(body)
        };
        let body = match self.mode {
            Mode::Single => {
                let (body, given) = (encoded.message(indexes[0]), &encoded.headers[indexes[0]]);
                self.add_headers_of(&messages[indexes[0]], &body, given, request.headers_mut())?;
                body
            }
            Mode::Ndjson => between(b"", b"\n", b"\n"),
            Mode::JsonArray => between(b"[", b",", b"]"),
        };
        *request.body_mut() = Some(Body::from(body));
        Ok(request)
    }

    fn add_headers_of(
        &self,
        message: &MessageRef<'_>,
        body: &[u8],
        given: &[GivenHeader],
        headers: &mut HeaderMap,
    ) -> Result<(), Outcome> {
        for name in &self.forward {
            for (_, value) in
                message.headers().filter(|(known, _)| known.eq_ignore_ascii_case(name.as_str().as_bytes()))
            {
                headers.append(name, header_value(name.as_str(), value)?);
            }
        }
        for name in self.trace.iter().filter(|name| !self.forward.contains(name)) {
            let value = message.header(name.as_str()).and_then(|value| HeaderValue::from_bytes(value).ok());
            if let Some(value) = value {
                headers.insert(name, value);
            }
        }
        for header in given {
            let name = HeaderName::try_from(&*header.name).map_err(|_| Outcome::Reject {
                code: "invalid-header",
                reason: format!("{:?} cannot be the name of a header", header.name),
            })?;
            headers.insert(name, header_value(&header.name, header.value.as_bytes())?);
        }
        let Some(key) = &self.idempotency else { return Ok(()) };
        let from_message = key.from.as_deref().and_then(|from| Some((from, message.header(from)?)));
        let value = match from_message {
            Some((from, value)) => header_value(from, value)?,
            None => header_value(key.header.as_str(), key.of(message, body, given).as_bytes())?,
        };
        headers.insert(&key.header, value);
        Ok(())
    }
}

impl IdempotencyKey {
    /// The same whenever the source message is read and made into this body again. The body, and what the
    /// codec says in headers, are in it because several messages may descend from one.
    fn of(&self, message: &MessageRef<'_>, body: &[u8], given: &[GivenHeader]) -> String {
        let position = message.position();
        let mut hash = Sha256::new();
        hash.update((self.scope.len() as u64).to_le_bytes());
        hash.update(&self.scope);
        hash.update(position.partition.to_le_bytes());
        hash.update(position.offset.to_le_bytes());
        without_traceparent(message, body).iter().for_each(|part| hash.update(part));
        for text in given.iter().flat_map(|header| [&header.name, &header.value]) {
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text.as_bytes());
        }
        hex::encode(&hash.finalize()[..16])
    }
}

fn header_value(name: &str, value: &[u8]) -> Result<HeaderValue, Outcome> {
    HeaderValue::from_bytes(value).map_err(|_| Outcome::Reject {
        code: "invalid-header",
        reason: format!("the value of header {name:?} holds a control character and cannot be sent"),
    })
}
