//! Against servers on the loopback that answer in every way, or not at all.

use std::collections::HashSet;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::super::testing::{Plain, batch, batch_of_orders, context};
use super::super::{CallError, Outcome, Outcomes};
use super::*;
use crate::message::{Batch, BatchBuilder, Message, Position};
use crate::tls::{self, testing::Certificates};

/// No test waits longer.
const DEADLINE: Duration = Duration::from_secs(20);

struct Seen {
    method: Method,
    headers: HeaderMap,
    body: String,
}

/// A server that answers by a function of the number of a request, from 0, and its body.
struct Server {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Server {
    fn start<A, F>(answer: A) -> Server
    where
        A: Fn(usize, String) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (router, seen) = recording(answer);
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await });
        Server { address, seen }
    }

    /// Answers at once.
    fn answering<R: IntoResponse>(
        answer: impl Fn(usize, &str) -> R + Clone + Send + Sync + 'static,
    ) -> Server {
        Server::start(move |number, body| std::future::ready(answer(number, &body).into_response()))
    }

    fn url(&self) -> String {
        format!("http://{}/in?token=secret", self.address)
    }

    fn bodies(&self) -> Vec<String> {
        self.seen.lock().unwrap().iter().map(|seen| seen.body.clone()).collect()
    }
}

fn recording<A, F>(answer: A) -> (Router, Arc<Mutex<Vec<Seen>>>)
where
    A: Fn(usize, String) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response> + Send + 'static,
{
    let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
    let record = Arc::clone(&seen);
    let handler = async move |method: Method, headers: HeaderMap, body: Bytes| {
        let body = String::from_utf8_lossy(&body).into_owned();
        let number = {
            let mut seen = record.lock().unwrap();
            seen.push(Seen { method, headers, body: body.clone() });
            seen.len() - 1
        };
        answer(number, body).await
    };
    (Router::new().fallback(handler), seen)
}

fn config(url: String, more: Value) -> Value {
    let mut config = json!({ "url": url, "timeout": "10s" });
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    config
}

fn sink(url: String, more: Value) -> Box<dyn Sink> {
    let config = (SPEC.parse)(config(url, more)).unwrap_or_else(|problems| panic!("{problems:?}"));
    config.open(context(".")).unwrap()
}

async fn write(sink: &mut dyn Sink, batch: &Batch) -> Result<Outcomes, CallError> {
    let messages: Vec<_> = batch.messages().collect();
    tokio::time::timeout(DEADLINE, sink.write(&messages)).await.expect("in time")
}

/// The outcomes in short: `D`urable, `R`etry, `L`ater, re`J`ected.
async fn outcomes(sink: &mut dyn Sink, batch: &Batch) -> String {
    let outcomes = match write(sink, batch).await {
        Ok(Outcomes::AllDurable) => return "D".repeat(batch.len()),
        Ok(Outcomes::Each(outcomes)) => outcomes,
        Ok(Outcomes::Until(_, error)) | Err(error) => return format!("{error:?}"),
    };
    assert_eq!(outcomes.len(), batch.len());
    let letter = |outcome: &Outcome| match outcome {
        Outcome::Durable => 'D',
        Outcome::Retry { .. } => 'R',
        Outcome::Later { .. } => 'L',
        Outcome::Reject { .. } => 'J',
    };
    outcomes.iter().map(letter).collect()
}

#[tokio::test]
async fn a_message_a_request_with_its_headers() {
    let server = Server::answering(|_, _| StatusCode::NO_CONTENT);
    let mut sink = sink(
        server.url(),
        json!({
            "method": "PUT", "bearer_token": "t0k3n", "headers": { "X-Fixed": "f" },
            "forward_headers": ["X-Two", "x-none"], "idempotency_key": "Idempotency-Key",
            "idempotency_from": "x-id",
        }),
    );
    let mut builder = BatchBuilder::new();
    let all =
        [("x-two", "1"), ("X-TWO", "2"), ("x-other", "3"), ("x-id", "given"), ("millstream-replays", "2")];
    for headers in [&all[..], &[]] {
        let headers =
            headers.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec()));
        let message =
            Message { payload: Some(b"{}".to_vec()), headers: headers.collect(), ..Message::default() };
        builder.push_message(&message, Position { partition: 3, offset: 4711, record: 1 });
    }
    let batch = builder.finish();
    assert_eq!(outcomes(&mut *sink, &batch).await, "DD");
    assert_eq!(outcomes(&mut *sink, &batch).await, "DD");
    let seen = server.seen.lock().unwrap();
    let values = |nth: usize, name: &str| -> Vec<&str> {
        seen[nth].headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect()
    };
    assert_eq!((&seen[0].method, &*seen[0].body), (&Method::PUT, "{}"));
    assert_eq!(values(0, "content-type"), ["application/json"]);
    assert_eq!(values(0, "authorization"), ["Bearer t0k3n"]);
    assert_eq!(values(0, "x-fixed"), ["f"]);
    assert_eq!(values(0, "x-two"), ["1", "2"]);
    assert_eq!(values(0, "x-other"), [""; 0]);
    assert_eq!(values(0, "millstream-replays"), ["2"]);
    assert_eq!(values(1, "millstream-replays"), [""; 0]);
    assert_eq!(values(0, "idempotency-key"), ["given"]);
    assert_eq!(values(1, "idempotency-key"), values(3, "idempotency-key"), "the same for the same message");
    assert_eq!(values(1, "idempotency-key")[0].len(), 32);
}

#[tokio::test]
async fn messages_made_of_one_have_idempotency_keys_of_their_own() {
    let server = Server::answering(|_, _| StatusCode::OK);
    let mut sink = sink(server.url(), json!({ "idempotency_key": "key" }));
    let mut builder = BatchBuilder::new();
    for (payload, offset) in [("a", 1), ("b", 1), ("a", 2)] {
        let message = Message { payload: Some(payload.as_bytes().to_vec()), ..Message::default() };
        builder.push_message(&message, Position { offset, ..Position::default() });
    }
    assert_eq!(outcomes(&mut *sink, &builder.finish()).await, "DDD");
    let seen = server.seen.lock().unwrap();
    let keys: HashSet<_> = seen.iter().map(|seen| seen.headers["key"].clone()).collect();
    assert_eq!(keys.len(), 3);
}

/// A sink that writes CloudEvents in binary mode.
fn events(url: String, more: Value) -> Box<dyn Sink> {
    let config = (SPEC.parse)(config(url, more)).unwrap_or_else(|problems| panic!("{problems:?}"));
    let Ok(codec) = crate::codecs::tests::encoder("cloudevents", r#"{"mode": "binary"}"#) else { panic!() };
    config.open(SinkContext { codec, ..context(".") }).unwrap()
}

#[tokio::test]
async fn headers_of_the_codec_stand_in_place_of_others_and_make_an_idempotency_key() {
    let server = Server::answering(|_, _| StatusCode::OK);
    let mut sink =
        events(server.url(), json!({ "idempotency_key": "key", "forward_headers": ["ce-id", "x-other"] }));
    let mut builder = BatchBuilder::new();
    for (id, data) in [("1", json!(null)), ("2", json!(null)), ("1", json!([]))] {
        let envelope = json!({ "id": id, "type": "t", "source": "s", "specversion": "1.0", "data": data });
        let header = |name: &str| (name.as_bytes().to_vec(), b"old".to_vec());
        let headers = vec![header("ce-id"), header("content-type"), header("x-other")];
        let payload = Some(envelope.to_string().into_bytes());
        builder.push_message(&Message { payload, headers, ..Message::default() }, Position::default());
    }
    assert_eq!(outcomes(&mut *sink, &builder.finish()).await, "DDD");
    let seen = server.seen.lock().unwrap();
    let all = |seen: &Seen, name: &str| -> Vec<String> {
        seen.headers.get_all(name).iter().map(|value| value.to_str().unwrap().to_owned()).collect()
    };
    let mut told: Vec<_> = seen
        .iter()
        .map(|seen| (all(seen, "ce-id"), all(seen, "content-type"), all(seen, "x-other"), &*seen.body))
        .collect();
    told.sort();
    let of = |text: &str| vec![text.to_owned()];
    assert_eq!(
        told,
        [
            (of("1"), vec![], of("old"), ""),
            (of("1"), of("application/json"), of("old"), "[]"),
            (of("2"), vec![], of("old"), ""),
        ]
    );
    let keys: HashSet<_> = seen.iter().map(|seen| seen.headers["key"].clone()).collect();
    assert_eq!(keys.len(), 3);
}

#[tokio::test]
async fn a_header_that_cannot_be_sent_rejects_its_message_only() {
    let server = Server::answering(|_, _| StatusCode::OK);
    let mut sink = sink(server.url(), json!({ "forward_headers": ["h"] }));
    let mut builder = BatchBuilder::new();
    for value in [&b"a\nb"[..], b"ab"] {
        let headers = vec![(b"h".to_vec(), value.to_vec())];
        builder.push_message(&Message { headers, ..Message::default() }, Position::default());
    }
    assert_eq!(outcomes(&mut *sink, &builder.finish()).await, "JD");
}

#[tokio::test]
async fn each_status_means_what_the_reference_says() {
    for (status, expected) in [
        (200, "D"),
        (201, "D"),
        (202, "D"),
        (400, "J"),
        (404, "J"),
        (413, "J"),
        (422, "J"),
        (501, "J"),
        (408, "R"),
        (500, "R"),
        (507, "R"),
    ] {
        let server = Server::answering(move |_, _| StatusCode::from_u16(status).unwrap());
        let mut sink = sink(server.url(), json!({}));
        assert_eq!(outcomes(&mut *sink, &batch(&["a"])).await, expected, "{status}");
    }
    for (status, refused) in [
        (301, false),
        (401, true),
        (403, true),
        (407, true),
        (429, false),
        (502, false),
        (503, false),
        (504, false),
    ] {
        let server = Server::answering(move |_, _| StatusCode::from_u16(status).unwrap());
        let mut sink = sink(server.url(), json!({}));
        let error = write(&mut *sink, &batch(&["a", "b"])).await.unwrap_err();
        let CallError::Unavailable { credentials, retry_after: None, reason } = error else {
            panic!("{error}")
        };
        assert_eq!(credentials, refused, "{status}");
        assert!(reason.contains(&format!("{} answered {status}", server.address)), "{reason}");
        assert!(!reason.contains("secret"), "{reason}");
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let server = Server::answering(|number, _| match number {
        0 => (StatusCode::TEMPORARY_REDIRECT, [("location", "/elsewhere")]).into_response(),
        _ => StatusCode::OK.into_response(),
    });
    let mut sink = sink(server.url(), json!({}));
    let error = write(&mut *sink, &batch(&["a"])).await.unwrap_err().to_string();
    assert!(
        error.ends_with("answered 307 Temporary Redirect to /elsewhere, which is not followed; set `url`"),
        "{error}"
    );
}

#[tokio::test]
async fn only_the_statuses_of_success_that_are_given_are_success() {
    let server =
        Server::answering(|number, _| if number == 0 { StatusCode::ACCEPTED } else { StatusCode::OK });
    let mut sink = sink(server.url(), json!({ "success": [200] }));
    assert_eq!(outcomes(&mut *sink, &batch(&["a"])).await, "R");
    assert_eq!(outcomes(&mut *sink, &batch(&["a"])).await, "D");
}

#[tokio::test]
async fn a_rejection_says_what_the_server_said() {
    let server = Server::answering(|_, _| (StatusCode::BAD_REQUEST, "no\nfield \"id\""));
    let mut sink = sink(server.url(), json!({}));
    let Outcomes::Each(outcomes) = write(&mut *sink, &batch(&["a"])).await.unwrap() else {
        panic!("durable")
    };
    let reason = format!("http://{} answered 400 Bad Request: no field \"id\"", server.address);
    assert_eq!(outcomes, [Outcome::Reject { code: "http-status", reason }]);
}

#[tokio::test]
async fn retry_after_is_honoured_in_seconds_and_as_a_date() {
    for (value, range) in [
        ("7".to_owned(), 7..=7),
        (httpdate::fmt_http_date(std::time::SystemTime::now() + Duration::from_secs(100)), 90..=100),
    ] {
        let server =
            Server::answering(move |_, _| (StatusCode::TOO_MANY_REQUESTS, [("retry-after", value.clone())]));
        let mut sink = sink(server.url(), json!({}));
        let error = write(&mut *sink, &batch(&["a"])).await.unwrap_err();
        let CallError::Unavailable { retry_after: Some(after), credentials: false, .. } = error else {
            panic!("{error:?}")
        };
        assert!(range.contains(&after.as_secs()), "{after:?}");
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_no_messages_fault() {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut sink = sink(format!("http://{address}/?token=secret"), json!({}));
    let error = write(&mut *sink, &batch(&["a"])).await.unwrap_err();
    let CallError::Unavailable { reason, retry_after: None, credentials: false } = error else {
        panic!("{error:?}")
    };
    assert!(reason.starts_with(&format!("cannot connect to http://{address}: ")), "{reason}");
    assert!(reason.contains("refused") && !reason.contains("secret"), "{reason}");
}

#[tokio::test]
async fn throttled_in_the_middle_of_a_call_the_rest_is_for_later() {
    let server = Server::answering(|number, _| match number {
        0 => StatusCode::OK.into_response(),
        _ => (StatusCode::TOO_MANY_REQUESTS, [("retry-after", "3")]).into_response(),
    });
    let mut sink = sink(server.url(), json!({ "concurrency": 1 }));
    let Outcomes::Until(outcomes, why) = write(&mut *sink, &batch(&["a", "b", "c"])).await.unwrap() else {
        panic!("all durable")
    };
    assert_eq!(outcomes, [Some(Outcome::Durable), None, None]);
    let CallError::Unavailable { retry_after: Some(after), credentials: false, .. } = why else {
        panic!("{why}")
    };
    assert_eq!(after.as_secs(), 3);
    assert_eq!(server.bodies().len(), 2, "nothing is sent to one that throttles");
}

#[tokio::test]
async fn p3_behind_a_message_that_failed_none_of_its_order_is_sent() {
    let server =
        Server::answering(
            |_, body| if body == "a2" { StatusCode::INTERNAL_SERVER_ERROR } else { StatusCode::OK },
        );
    let mut sink = sink(server.url(), json!({}));
    let batch =
        batch_of_orders(&[(1, "a1"), (2, "b1"), (1, "a2"), (2, "b2"), (1, "a3"), (2, "b3"), (1, "a4")]);
    assert_eq!(outcomes(&mut *sink, &batch).await, "DDRDLDL");
    let mut bodies = server.bodies();
    bodies.sort();
    assert_eq!(bodies, ["a1", "a2", "b1", "b2", "b3"]);
}

#[tokio::test]
async fn p3_a_rejected_message_releases_those_behind_it() {
    let server =
        Server::answering(|_, body| if body == "a1" { StatusCode::BAD_REQUEST } else { StatusCode::OK });
    let mut sink = sink(server.url(), json!({}));
    assert_eq!(
        outcomes(&mut *sink, &batch_of_orders(&[(1, "a1"), (1, "a2"), (1, "unencodable"), (1, "a3")])).await,
        "JDJD"
    );
    assert_eq!(server.bodies(), ["a1", "a2", "a3"]);
}

#[tokio::test]
async fn p3_requests_run_together_but_not_those_of_one_order() {
    let together = Arc::new(tokio::sync::Barrier::new(4));
    let running: Arc<Mutex<HashSet<String>>> = Arc::default();
    let overlaps: Arc<Mutex<Vec<String>>> = Arc::default();
    let server = {
        let overlaps = Arc::clone(&overlaps);
        Server::start(move |_, body| {
            let (together, running, overlaps) =
                (Arc::clone(&together), Arc::clone(&running), Arc::clone(&overlaps));
            async move {
                let order = body[..1].to_owned();
                if !running.lock().unwrap().insert(order.clone()) {
                    overlaps.lock().unwrap().push(body);
                }
                // Nobody goes on until four are here.
                together.wait().await;
                running.lock().unwrap().remove(&order);
                StatusCode::OK.into_response()
            }
        })
    };
    let mut sink = sink(server.url(), json!({ "concurrency": 4 }));
    let batch = batch_of_orders(
        &["a1", "a2", "b1", "b2", "c1", "c2", "d1", "d2"]
            .map(|payload| (u64::from(payload.as_bytes()[0]), payload)),
    );
    assert_eq!(outcomes(&mut *sink, &batch).await, "DDDDDDDD");
    assert_eq!(*overlaps.lock().unwrap(), [""; 0]);
    for order in ["a", "b", "c", "d"] {
        let sent: Vec<_> = server.bodies().into_iter().filter(|body| body.starts_with(order)).collect();
        assert_eq!(sent, [format!("{order}1"), format!("{order}2")]);
    }
}

#[tokio::test]
async fn a_server_that_hangs_holds_up_a_call_for_one_timeout() {
    let server = Server::start(|_, _| std::future::pending());
    let mut sink = sink(server.url(), json!({ "concurrency": 2, "timeout": "200ms" }));
    let Outcomes::Each(outcomes) = write(&mut *sink, &batch(&["a", "b", "c", "d"])).await.unwrap() else {
        panic!("all durable")
    };
    for outcome in &outcomes[..2] {
        let reason = format!("http://{} did not answer within 200ms", server.address);
        assert_eq!(*outcome, Outcome::Retry { reason, after: None });
    }
    for outcome in &outcomes[2..] {
        assert!(matches!(outcome, Outcome::Later { after: Some(Duration::ZERO), .. }), "{outcome:?}");
    }
}

/// A server that reads a request, writes this and closes.
async fn dies_after(answer: &'static [u8]) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 64 << 10];
            let mut read = 0;
            while !request[..read].ends_with(b"body") {
                read += stream.read(&mut request[read..]).await.unwrap();
            }
            stream.write_all(answer).await.unwrap();
        }
    });
    address
}

#[tokio::test]
async fn a_connection_lost_before_the_answer_is_an_attempt() {
    for answer in [&b""[..], b"HTTP/1.1 20", b"nonsense"] {
        let address = dies_after(answer).await;
        let mut sink = sink(format!("http://{address}/"), json!({}));
        let Outcomes::Each(outcomes) = write(&mut *sink, &batch(&["body"])).await.unwrap() else {
            panic!("durable")
        };
        let [Outcome::Retry { reason, after: None }] = &outcomes[..] else { panic!("{outcomes:?}") };
        assert!(reason.contains("lost the connection"), "{reason}");
    }
}

#[tokio::test]
async fn a_status_counts_even_if_the_rest_of_the_answer_is_lost() {
    let address = dies_after(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf").await;
    let mut sink = sink(format!("http://{address}/"), json!({}));
    assert_eq!(outcomes(&mut *sink, &batch(&["body"])).await, "D");
}

/// Answers a request, and then goes on writing as long as anybody listens.
async fn never_stops_answering() -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        while stream.write_all(&[b'x'; 4096]).await.is_ok() {}
    });
    address
}

#[tokio::test]
async fn p6_an_endless_answer_is_not_read_to_its_end() {
    let address = never_stops_answering().await;
    let mut sink = sink(format!("http://{address}/"), json!({ "timeout": "1h" }));
    assert_eq!(outcomes(&mut *sink, &batch(&["a"])).await, "J");
}

#[tokio::test]
async fn many_messages_are_one_request() {
    for (mode, body, media_type) in
        [("ndjson", "1\n2\n3\n", "application/x-ndjson"), ("json-array", "[1,2,3]", "application/json")]
    {
        let server = Server::answering(|_, _| StatusCode::OK);
        let mut sink = sink(server.url(), json!({ "mode": mode, "concurrency": 1 }));
        assert_eq!(outcomes(&mut *sink, &batch(&["1", "unencodable", "2", "3"])).await, "DJDD");
        assert_eq!(server.bodies(), [body]);
        assert_eq!(server.seen.lock().unwrap()[0].headers["content-type"], media_type);
    }
}

#[tokio::test]
async fn requests_are_limited_by_messages_and_by_bytes() {
    let server = Server::answering(|_, _| StatusCode::OK);
    let more = json!({ "mode": "ndjson", "concurrency": 1, "max_messages": 3, "max_bytes": 10 });
    let mut sink = sink(server.url(), more);
    let payloads = ["1", "2", "3", "4", "55555", "666666", "7777777777777", "8"];
    assert_eq!(outcomes(&mut *sink, &batch(&payloads)).await, "DDDDDDDD");
    assert_eq!(server.bodies(), ["1\n2\n3\n", "4\n55555\n", "666666\n", "7777777777777\n", "8\n"]);
}

#[tokio::test]
async fn p4_a_request_that_is_refused_is_divided_until_the_guilty_stand_alone() {
    let payloads: Vec<String> =
        (0..64).map(|n| if n == 17 || n == 50 { format!("bad{n}") } else { n.to_string() }).collect();
    let payloads: Vec<&str> = payloads.iter().map(String::as_str).collect();
    let kept: Arc<Mutex<Vec<String>>> = Arc::default();
    let server = {
        let kept = Arc::clone(&kept);
        Server::answering(move |_, body| {
            if body.contains("bad") {
                return StatusCode::UNPROCESSABLE_ENTITY;
            }
            kept.lock().unwrap().extend(body.lines().map(str::to_owned));
            StatusCode::OK
        })
    };
    let mut sink = sink(server.url(), json!({ "mode": "ndjson", "concurrency": 1 }));
    let outcomes = outcomes(&mut *sink, &batch(&payloads)).await;
    let guilty: Vec<usize> = outcomes.match_indices('J').map(|(index, _)| index).collect();
    assert_eq!(guilty, [17, 50]);
    assert_eq!(outcomes.matches('D').count(), 62);
    let good: Vec<&str> = payloads.into_iter().filter(|payload| !payload.starts_with("bad")).collect();
    assert_eq!(*kept.lock().unwrap(), good, "in order, each once");
    assert!(server.bodies().len() < 30, "{} requests", server.bodies().len());
}

#[tokio::test]
async fn p4_a_failure_of_many_is_an_attempt_of_one() {
    let server = Server::answering(|_, body| match body.contains("bad") {
        true => StatusCode::INTERNAL_SERVER_ERROR,
        false => StatusCode::OK,
    });
    let mut sink = sink(server.url(), json!({ "mode": "ndjson", "concurrency": 1 }));
    assert_eq!(outcomes(&mut *sink, &batch(&["1", "2", "3", "bad", "5", "6", "7", "8"])).await, "DDDRLLLL");
}

#[tokio::test]
async fn p4_many_that_got_no_answer_in_time_are_sent_one_by_one() {
    let server = Server::start(|_, body| async move {
        if body.contains("slow") || body.lines().count() > 2 {
            return std::future::pending().await;
        }
        StatusCode::OK.into_response()
    });
    let more = json!({ "mode": "ndjson", "concurrency": 1, "timeout": "300ms" });
    let mut sink = sink(server.url(), more);
    assert_eq!(outcomes(&mut *sink, &batch(&["1", "2", "slow", "4"])).await, "DDRL");
    assert_eq!(server.bodies(), ["1\n2\nslow\n4\n", "1\n", "2\n", "slow\n"]);
}

#[tokio::test]
async fn results_tell_of_each_message() {
    let server = Server::answering(|_, _| {
        let results = json!({ "results": [
            { "line": 1, "outcome": "delivered" },
            { "line": 2, "outcome": "dead-lettered", "reason": "bad" },
            { "line": 4, "status": 422, "reason": "no id" },
            { "line": 5, "status": 500 },
            { "line": 6, "outcome": "returned", "reason": "stopping" },
            { "line": 7, "status": 429 },
            { "line": 8, "outcome": "eaten" },
            { "line": 99, "outcome": "delivered" },
            { "line": 0, "outcome": "delivered" },
        ] });
        (StatusCode::SERVICE_UNAVAILABLE, results.to_string())
    });
    let mut sink = sink(server.url(), json!({ "mode": "ndjson", "concurrency": 1, "read_results": true }));
    let batch = batch(&["1", "2", "3", "4", "5", "6", "7", "8"]);
    assert_eq!(outcomes(&mut *sink, &batch).await, "DDRJRLLR");
    assert_eq!(server.bodies().len(), 1);
}

#[tokio::test]
async fn half_the_results_are_half_the_outcomes() {
    let server = Server::answering(|_, _| {
        json!({ "results": [{ "status": 200 }, { "outcome": "filtered" }] }).to_string()
    });
    let mut sink =
        sink(server.url(), json!({ "mode": "json-array", "concurrency": 1, "read_results": true }));
    assert_eq!(outcomes(&mut *sink, &batch(&["1", "2", "3", "4"])).await, "DDRR");
}

#[tokio::test]
async fn p1_a_success_without_the_results_that_it_should_have_is_none() {
    let server = Server::answering(|_, _| "thanks");
    let mut sink = sink(server.url(), json!({ "mode": "ndjson", "read_results": true, "concurrency": 1 }));
    assert_eq!(outcomes(&mut *sink, &batch(&["1", "2"])).await, "RR");
}

/// An https server; asks for a certificate of our authority if `mutual`.
fn https(certificates: &Certificates, mutual: bool) -> SocketAddr {
    tls::install_provider();
    let file = |name: &str| certificates.folder.path().join(name);
    let builder = rustls::ServerConfig::builder();
    let builder = if mutual {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(tls::read_certificates(&file("ca.pem")).unwrap());
        builder.with_client_cert_verifier(WebPkiClientVerifier::builder(roots.into()).build().unwrap())
    } else {
        builder.with_no_client_auth()
    };
    let config = builder
        .with_single_cert(
            tls::read_certificates(&file("server.pem")).unwrap(),
            tls::read_key(&file("server.key")).unwrap(),
        )
        .unwrap();
    let config = axum_server::tls_rustls::RustlsConfig::from_config(config.into());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let router = Router::new().fallback(async || "");
    let server = axum_server::from_tcp_rustls(listener, config).unwrap();
    tokio::spawn(server.serve(router.into_make_service()));
    address
}

fn tls_sink(certificates: &Certificates, address: SocketAddr, tls: Value) -> Box<dyn Sink> {
    let config = (SPEC.parse)(config(format!("https://{address}/"), json!({ "tls": tls })))
        .unwrap_or_else(|problems| panic!("{problems:?}"));
    let mut problems = Vec::new();
    let context = context(certificates.folder.path());
    config.check(&context, &mut problems);
    assert_eq!(problems, []);
    config.open(context).unwrap()
}

#[tokio::test]
async fn a_server_is_trusted_by_its_authority_only() {
    let certificates = Certificates::make();
    let address = https(&certificates, false);
    let mut trusting = tls_sink(&certificates, address, json!({ "ca_file": "ca.pem" }));
    assert_eq!(outcomes(&mut *trusting, &batch(&["a"])).await, "D");

    let mut wary = tls_sink(&certificates, address, json!({ "ca_file": "client.pem" }));
    let error = write(&mut *wary, &batch(&["a"])).await.unwrap_err();
    let CallError::Unavailable { reason, credentials: false, .. } = error else { panic!("{error:?}") };
    assert!(
        reason.contains("cannot connect to https://127.0.0.1") && reason.contains("certificate"),
        "{reason}"
    );
}

#[tokio::test]
async fn we_are_known_by_our_certificate() {
    let certificates = Certificates::make();
    let address = https(&certificates, true);
    let known = json!({ "ca_file": "ca.pem", "cert_file": "client.pem", "key_file": "client.key" });
    let mut known = tls_sink(&certificates, address, known);
    assert_eq!(outcomes(&mut *known, &batch(&["a"])).await, "D");

    let mut unknown = tls_sink(&certificates, address, json!({ "ca_file": "ca.pem" }));
    let error = write(&mut *unknown, &batch(&["a"])).await.unwrap_err();
    let CallError::Unavailable { reason, credentials: true, .. } = error else { panic!("{error:?}") };
    assert!(reason.contains("ertificate"), "{reason}");
}

fn problems(config: Value, media_type: &'static str) -> Vec<String> {
    let mut problems = Vec::new();
    let codec = Arc::new(Plain { head: None, media_type });
    (SPEC.parse)(config)
        .unwrap_or_else(|problems| panic!("{problems:?}"))
        .check(&SinkContext { codec, ..context("/nowhere") }, &mut problems);
    problems.into_iter().map(|problem| problem.at).collect()
}

#[test]
fn p9_all_that_is_wrong_is_told_at_once() {
    let json = "application/json";
    assert_eq!(problems(json!({ "url": "https://example.com/" }), "text/csv"), [""; 0]);
    for url in ["http://localhost:1/", "http://127.0.0.1/", "http://[::1]/"] {
        assert_eq!(problems(json!({ "url": url }), json), [""; 0], "{url}");
    }
    for url in ["example.com", "ftp://example.com/", "http://example.com/", "http://127.0.0.1.example.com/"] {
        assert_eq!(problems(json!({ "url": url }), json), ["/url"], "{url}");
    }
    assert_eq!(problems(json!({ "url": "http://example.com/", "allow_plaintext": true }), json), [""; 0]);
    assert_eq!(
        problems(
            json!({
                "url": "http://localhost/", "headers": { "a b": "x", "c/d": "line\nbreak", "Authorization": "x" },
                "bearer_token": "x", "forward_headers": ["ok", "not ok"], "idempotency_from": "x",
                "read_results": true, "concurrency": 0, "timeout": "0s", "success": [200, 404],
                "tls": { "ca_file": "none.pem", "cert_file": "none.pem" },
            }),
            json
        ),
        [
            "/tls",
            "/forward_headers/1",
            "/headers/a b",
            "/headers/c~1d",
            "/headers/c~1d",
            "/bearer_token",
            "/idempotency_from",
            "/read_results",
            "/concurrency",
            "/timeout",
            "/success/1",
            "/tls/ca_file",
            "/tls",
        ]
    );
    assert_eq!(
        problems(
            json!({ "url": "https://example.com/", "mode": "ndjson", "forward_headers": ["x"], "idempotency_key": "k" }),
            "application/octet-stream"
        ),
        ["/forward_headers", "/idempotency_key", "/codec"]
    );
    assert_eq!(
        problems(json!({ "url": "https://example.com/", "mode": "json-array" }), "text/plain"),
        ["/codec"]
    );
}

#[test]
fn what_is_wrong_with_certificates_is_told_with_the_file() {
    let certificates = Certificates::make();
    let folder = certificates.folder.path();
    std::fs::write(folder.join("empty.pem"), "").unwrap();
    let check = |tls: Value| {
        let mut problems = Vec::new();
        (SPEC.parse)(json!({ "url": "https://localhost/", "tls": tls }))
            .unwrap_or_else(|problems| panic!("{problems:?}"))
            .check(&context(folder), &mut problems);
        problems
            .into_iter()
            .map(|problem| format!("{} {}", problem.at, problem.message))
            .collect::<Vec<_>>()
            .join("|")
    };
    let told = check(json!({ "ca_file": "empty.pem", "cert_file": "client.pem", "key_file": "server.pem" }));
    assert!(told.contains("/tls/ca_file there is no certificate in") && told.contains("empty.pem"), "{told}");
    assert!(
        told.contains("/tls/cert_file cannot read a private key from") && told.contains("server.pem"),
        "{told}"
    );
}
