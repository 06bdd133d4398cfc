//! Real clients on the loopback, with a pipeline that the test plays.

use std::io;
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use reqwest::header::HeaderMap;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::super::testing::{self, DEADLINE, limit};
use super::super::{Committer, Read, ReadBatch, Reader, SettledAs, SettledRow};
use super::*;
use crate::message::MessageRef;
use crate::tls::testing::Certificates;

struct Source {
    reader: HttpReader,
    committer: HttpCommitter,
    address: SocketAddr,
    context: SourceContext,
}

fn try_open(config: Value, codec: &str, change: impl FnOnce(&mut SourceContext)) -> anyhow::Result<Source> {
    let mut all = json!({ "listen": "127.0.0.1:0", "path": "/in" });
    all.as_object_mut().unwrap().extend(config.as_object().unwrap().clone());
    let config = parse::<HttpSource>(all).unwrap_or_else(|problems| panic!("{problems:?}"));
    let mut context = testing::context(codec, "{}", &Arc::default());
    change(&mut context);
    let Listening { reader, committer, address } = config.listen(context.clone())?;
    Ok(Source { reader, committer, address, context })
}

/// Opens it and begins to serve.
async fn open_with(config: Value, codec: &str, change: impl FnOnce(&mut SourceContext)) -> Source {
    let mut source = try_open(config, codec, change).unwrap();
    assert!(source.reads_nothing().await);
    source
}

async fn open(config: Value) -> Source {
    open_with(config, "raw", |_| {}).await
}

impl Source {
    async fn read(&mut self) -> ReadBatch {
        self.read_rows(100).await
    }

    async fn read_rows(&mut self, rows: usize) -> ReadBatch {
        let read = tokio::time::timeout(DEADLINE, self.reader.read(limit(rows, 1 << 20)));
        let Read::Batch(batch) = read.await.expect("nothing came").unwrap() else { panic!("it has ended") };
        batch
    }

    /// Polls a read once.
    async fn reads_nothing(&mut self) -> bool {
        let mut read = pin!(self.reader.read(limit(100, 1 << 20)));
        std::future::poll_fn(|context| std::task::Poll::Ready(read.as_mut().poll(context).is_pending())).await
    }

    async fn settle(&mut self, read: &ReadBatch, outcome: impl Fn(MessageRef<'_>) -> SettledAs) {
        let settled = read.batch.messages().map(|message| SettledRow {
            position: message.position(),
            outcome: outcome(message),
            failures: 0,
        });
        self.committer.each(settled.collect()).await.unwrap();
    }

    /// Reads once and delivers that.
    async fn deliver(&mut self) -> Vec<String> {
        let read = self.read().await;
        self.settle(&read, |_| SettledAs::Delivered).await;
        payloads(&read)
    }

    fn post(&self, body: impl Into<reqwest::Body>) -> JoinHandle<Answer> {
        post(self.address, &[], body)
    }

    fn post_batch(&self, body: impl Into<reqwest::Body>) -> JoinHandle<Answer> {
        post(self.address, &[("content-type", "application/x-ndjson; charset=utf-8")], body)
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Waits until so many requests are in the queue.
    async fn until_queued(&self, requests: usize) {
        until(|| self.reader.waiting() == requests).await;
    }
}

/// Waits for what has no event of its own.
async fn until(mut is_so: impl FnMut() -> bool) {
    let wait = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(DEADLINE, wait).await.expect("it did not become so");
}

fn payloads(read: &ReadBatch) -> Vec<String> {
    read.batch
        .messages()
        .map(|message| String::from_utf8(message.payload().unwrap().to_vec()).unwrap())
        .collect()
}

#[derive(Debug)]
struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Value,
}

fn client() -> reqwest::ClientBuilder {
    tls::install_provider();
    reqwest::Client::builder().no_proxy().tls_certs_only([]).timeout(DEADLINE)
}

fn post(address: SocketAddr, headers: &[(&str, &str)], body: impl Into<reqwest::Body>) -> JoinHandle<Answer> {
    let request = client().build().unwrap().post(format!("http://{address}/in")).body(body);
    let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    tokio::spawn(async move {
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = response.text().await.unwrap();
        Answer { status, headers, body: serde_json::from_str(&body).unwrap_or(Value::String(body)) }
    })
}

#[tokio::test]
async fn a_request_is_a_message_with_its_headers() {
    let mut source = open(json!({ "key_header": "X-Key" })).await;
    let headers = [
        ("x-key", "k1"),
        ("x-github-event", "issues"),
        ("content-type", "application/json"),
        ("authorization", "Bearer x"),
        ("cookie", "x"),
        ("connection", "keep-alive, x-hop"),
        ("x-hop", "x"),
    ];
    let answer = post(source.address, &headers, "{}");
    let read = source.read().await;
    let message = read.batch.message(0).to_owned();
    assert_eq!((message.payload.as_deref(), message.key.as_deref()), (Some(&b"{}"[..]), Some(&b"k1"[..])));
    let mut names: Vec<_> =
        message.headers.iter().map(|(name, _)| String::from_utf8(name.clone()).unwrap()).collect();
    names.sort();
    assert_eq!(names, ["accept", "content-type", "x-github-event", "x-key"]);
    assert_eq!(read.batch.message(0).header("X-GitHub-Event"), Some(&b"issues"[..]));
    let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap();
    assert!((now - 60_000..=now).contains(&message.timestamp_ms), "{}", message.timestamp_ms);
    source.settle(&read, |_| SettledAs::Delivered).await;
    let answer = answer.await.unwrap();
    assert_eq!((answer.status, answer.body), (200, json!({ "outcome": "delivered" })));
}

#[tokio::test]
async fn only_the_headers_that_are_named_are_kept() {
    let mut source = open(json!({ "headers": ["X-One", "Cookie"] })).await;
    let answer = post(source.address, &[("x-one", "1"), ("x-two", "2"), ("cookie", "c")], "x");
    let read = source.read().await;
    let mut headers = read.batch.message(0).to_owned().headers;
    headers.sort();
    assert_eq!(headers, [(b"cookie".to_vec(), b"c".to_vec()), (b"x-one".to_vec(), b"1".to_vec())]);
    source.settle(&read, |_| SettledAs::Delivered).await;
    assert_eq!(answer.await.unwrap().status, 200);
}

#[tokio::test]
async fn p1_no_200_before_all_of_a_request_is_settled() {
    let mut source = open(json!({})).await;
    let first = source.post_batch("1\n2\n");
    let read = source.read().await;
    let settled: Vec<_> = (read.batch.messages())
        .map(|message| SettledRow {
            position: message.position(),
            outcome: SettledAs::Delivered,
            failures: 0,
        })
        .collect();
    source.committer.each(settled[..1].to_vec()).await.unwrap();
    // Another request goes all the way in the meantime.
    let second = source.post("other");
    assert_eq!(source.deliver().await, ["other"]);
    assert_eq!(second.await.unwrap().status, 200);
    assert!(!first.is_finished());
    source.committer.each(settled[1..].to_vec()).await.unwrap();
    assert_eq!(first.await.unwrap().status, 200);
}

#[tokio::test]
async fn each_outcome_is_told() {
    let mut source = open(json!({})).await;
    for (outcome, status, body) in [
        (SettledAs::Filtered, 200, json!({ "outcome": "filtered" })),
        (SettledAs::DeadLettered("bad".into()), 200, json!({ "outcome": "dead-lettered", "reason": "bad" })),
        (SettledAs::Returned, 503, json!({ "outcome": "returned" })),
    ] {
        let answer = source.post("x");
        let read = source.read().await;
        source.settle(&read, |_| outcome.clone()).await;
        let answer = answer.await.unwrap();
        assert_eq!((answer.status, answer.body), (status, body));
        assert_eq!(answer.headers.contains_key("retry-after"), status == 503);
    }
}

#[tokio::test]
async fn a_batch_has_a_result_a_line() {
    let mut source = open(json!({})).await;
    let answer = source.post_batch("good\n\r\n\nbad\r\nlast");
    let read = source.read().await;
    assert_eq!(payloads(&read), ["good", "bad", "last"]);
    source
        .settle(&read, |message| match message.payload() {
            Some(b"bad") => SettledAs::DeadLettered("it is bad".into()),
            _ => SettledAs::Delivered,
        })
        .await;
    let answer = answer.await.unwrap();
    assert_eq!(answer.status, 200);
    assert_eq!(
        answer.body,
        json!({ "results": [
            { "line": 1, "outcome": "delivered" },
            { "line": 4, "outcome": "dead-lettered", "reason": "it is bad" },
            { "line": 5, "outcome": "delivered" },
        ] })
    );
}

#[tokio::test]
async fn a_batch_of_which_some_was_returned_is_to_be_sent_again() {
    let mut source = open(json!({})).await;
    let answer = source.post_batch("1\n2\n");
    let read = source.read().await;
    source
        .settle(&read, |message| match message.payload() {
            Some(b"2") => SettledAs::Returned,
            _ => SettledAs::Delivered,
        })
        .await;
    let answer = answer.await.unwrap();
    assert_eq!(answer.status, 503);
    let results = json!([{ "line": 1, "outcome": "delivered" }, { "line": 2, "outcome": "returned" }]);
    assert_eq!(answer.body, json!({ "results": results }));
}

#[tokio::test]
async fn a_batch_may_be_read_in_parts_and_parts_together() {
    let mut source = open(json!({})).await;
    let batch = source.post_batch("1\n2\n3\n4\n5\n");
    source.until_queued(1).await;
    let single = source.post("6");
    source.until_queued(2).await;
    for expected in [&["1", "2"][..], &["3", "4"], &["5", "6"]] {
        let read = source.read_rows(2).await;
        assert_eq!(payloads(&read), expected);
        source.settle(&read, |_| SettledAs::Delivered).await;
    }
    assert_eq!(batch.await.unwrap().body["results"].as_array().unwrap().len(), 5);
    assert_eq!(single.await.unwrap().status, 200);
}

#[tokio::test]
async fn a_line_that_is_no_message_harms_only_itself() {
    let large = format!("\"{}\"", "x".repeat(100));
    let mut source = open_with(json!({}), "json", |context| context.max_message_bytes = 50).await;
    let answer = source.post_batch(format!("1\n{{\n{large}\n4\n"));
    let read = source.read().await;
    assert_eq!(payloads(&read), ["1", "{", &large[..50], "4"]);
    let rejected: Vec<_> = read.rejected.iter().map(|rejected| (rejected.row, rejected.code)).collect();
    assert_eq!(rejected, [(1, "decode-error"), (2, "too-large")]);
    assert!(read.rejected[0].reason.contains("not JSON"), "{}", read.rejected[0].reason);
    assert!(read.rejected[1].reason.contains("102 bytes"), "{}", read.rejected[1].reason);
    source.settle(&read, |_| SettledAs::Delivered).await;
    assert_eq!(answer.await.unwrap().status, 200);
}

#[tokio::test]
async fn a_record_brings_its_own_key_and_headers() {
    let mut source = open_with(json!({ "key_header": "x-key" }), "record", |_| {}).await;
    let record = r#"{"key": "own", "headers": {"h": "v"}, "payload": "p"}"#;
    let answer = post(source.address, &[("x-key", "of the request")], record);
    let read = source.read().await;
    let message = read.batch.message(0);
    assert_eq!((message.key(), message.payload()), (Some(&b"own"[..]), Some(&b"p"[..])));
    assert_eq!(message.header("h"), Some(&b"v"[..]));
    source.settle(&read, |_| SettledAs::Delivered).await;
    assert_eq!(answer.await.unwrap().status, 200);
}

#[tokio::test]
async fn what_is_no_message_is_400_and_nothing_of_it_is_taken() {
    let mut source = open_with(json!({}), "json", |_| {}).await;
    for body in ["{", "", "\n"] {
        let mut answer = source.post(body);
        let answer = tokio::select! {
            answer = &mut answer => answer.unwrap(),
            read = source.read() => panic!("{read:?}"),
        };
        assert_eq!(answer.status, 400, "{body:?}: {answer:?}");
        assert!(answer.body["error"].is_string());
    }
    let blank = source.post_batch("\n\r\n\n");
    assert_eq!(blank.await.unwrap().status, 400);
    let good = source.post("{\n}\n");
    assert_eq!(source.deliver().await, ["{\n}"]);
    assert_eq!(good.await.unwrap().status, 200);
}

#[tokio::test]
async fn what_is_not_settled_in_time_is_202_with_its_id() {
    let mut source = open(json!({ "max_wait": "50ms" })).await;
    let answer = source.post("slow");
    let read = source.read().await;
    let answer = answer.await.unwrap();
    let id = read.batch.message(0).position().offset;
    assert_eq!((answer.status, answer.body), (202, json!({ "id": id, "outcome": "pending" })));
    source.settle(&read, |_| SettledAs::Delivered).await;
    let next = source.post("next");
    assert_eq!(source.deliver().await, ["next"]);
    assert_eq!(next.await.unwrap().status, 200);
}

#[tokio::test]
async fn what_was_not_read_in_time_is_429_and_is_never_read() {
    let mut source = open(json!({ "max_wait": "50ms" })).await;
    let answer = source.post("unread").await.unwrap();
    assert_eq!((answer.status, &answer.headers["retry-after"]), (429, &HeaderValue::from_static("1")));
    let next = source.post("next");
    assert_eq!(source.deliver().await, ["next"]);
    assert_eq!(next.await.unwrap().status, 200);
}

#[tokio::test]
async fn what_a_client_no_longer_waits_for_is_not_read() {
    let mut source = open(json!({})).await;
    let mut gone = source.connect().await;
    gone.write_all(b"POST /in HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\ngone").await.unwrap();
    source.until_queued(1).await;
    drop(gone);
    let handle = source.reader.server_handle();
    until(|| handle.connection_count() == 0).await;
    let next = source.post("next");
    assert_eq!(source.deliver().await, ["next"]);
    assert_eq!(next.await.unwrap().status, 200);
}

/// Posts twice; the one that is refused, and the one that waits.
async fn post_two(source: &Source, body: impl Fn() -> reqwest::Body) -> (Answer, JoinHandle<Answer>) {
    let (mut one, mut other) = (source.post(body()), source.post(body()));
    tokio::select! {
        refused = &mut one => (refused.unwrap(), other),
        refused = &mut other => (refused.unwrap(), one),
    }
}

#[tokio::test]
async fn p6_too_many_requests_are_429() {
    let mut source = open(json!({ "max_pending": 1 })).await;
    let (refused, waiting) = post_two(&source, || "x".into()).await;
    assert_eq!((refused.status, &refused.headers["retry-after"]), (429, &HeaderValue::from_static("1")));
    source.deliver().await;
    assert_eq!(waiting.await.unwrap().status, 200);
}

#[tokio::test]
async fn p6_too_many_bytes_are_429_until_they_are_read() {
    let mut source = open(json!({ "max_pending_bytes": 4000, "max_body_bytes": 3000 })).await;
    let body = "x".repeat(2500);
    let bodies: [&dyn Fn() -> reqwest::Body; 2] = [&|| body.clone().into(), &|| chunked(body.clone())];
    for body in bodies.into_iter().cycle().take(4) {
        let (refused, waiting) = post_two(&source, body).await;
        assert_eq!(refused.status, 429, "{refused:?}");
        source.deliver().await;
        assert_eq!(waiting.await.unwrap().status, 200);
    }
}

#[tokio::test]
async fn p6_while_the_budget_is_used_up_nothing_is_taken() {
    let mut source = open(json!({})).await;
    source.context.budget_is_used_up.store(true, Ordering::Relaxed);
    assert_eq!(source.post("x").await.unwrap().status, 429);
    source.context.budget_is_used_up.store(false, Ordering::Relaxed);
    let answer = source.post("y");
    assert_eq!(source.deliver().await, ["y"]);
    assert_eq!(answer.await.unwrap().status, 200);
}

/// A body whose length is not known beforehand.
fn chunked(body: String) -> reqwest::Body {
    let (mut writer, reader) = tokio::io::duplex(1024);
    tokio::spawn(async move { writer.write_all(body.as_bytes()).await });
    reqwest::Body::wrap_stream(tokio_util::io::ReaderStream::new(reader))
}

#[tokio::test]
async fn what_is_too_large_is_413() {
    let limits = json!({ "max_body_bytes": 3000, "max_pending_bytes": 8000, "max_batch_messages": 3 });
    // Some clients look for an answer only when all is sent.
    let mut source = open_with(limits, "raw", |context| context.max_message_bytes = 2000).await;
    assert_eq!(source.post("x".repeat(2001)).await.unwrap().status, 413);
    assert_eq!(source.post("x".repeat(3001)).await.unwrap().status, 413);
    assert_eq!(source.post("x".repeat(30_000_000)).await.unwrap().status, 413);
    assert_eq!(source.post(chunked("x".repeat(30_000_000))).await.unwrap().status, 413);
    assert_eq!(source.post(chunked("x".repeat(3001))).await.unwrap().status, 413);
    assert_eq!(source.post_batch("1\n2\n\n3\n4").await.unwrap().status, 413);
    for body in [reqwest::Body::from("x".repeat(2000)), chunked("x".repeat(2000))] {
        let answer = source.post(body);
        assert_eq!(source.deliver().await, ["x".repeat(2000)]);
        assert_eq!(answer.await.unwrap().status, 200);
    }
}

#[tokio::test]
async fn who_asks_first_need_not_send_what_is_refused() {
    let source = open(json!({ "max_body_bytes": 3000 })).await;
    let mut stream = source.connect().await;
    let head = b"POST /in HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 3001\r\n\r\n";
    stream.write_all(head).await.unwrap();
    assert!(answer_on(&mut stream).await.starts_with("HTTP/1.1 413"));
}

#[tokio::test]
async fn only_who_has_the_token_may_send() {
    let mut source = open(json!({ "token": "s3cret" })).await;
    for wrong in ["Bearer s3cre", "Bearer s3creT", "Bearer s3crets", "Basic s3cret", "s3cret", "Bearer"] {
        let answer = post(source.address, &[("authorization", wrong)], "x").await.unwrap();
        let challenge = answer.headers.get("www-authenticate").map(HeaderValue::as_bytes);
        assert_eq!((answer.status, challenge), (401, Some(&b"Bearer"[..])), "{wrong:?}");
    }
    assert_eq!(source.post("x").await.unwrap().status, 401);
    for right in ["Bearer s3cret", "bearer s3cret"] {
        let answer = post(source.address, &[("authorization", right)], "x");
        source.deliver().await;
        assert_eq!(answer.await.unwrap().status, 200);
    }
}

#[tokio::test]
async fn what_is_not_for_it_is_refused() {
    let source = open(json!({})).await;
    let compressed = post(source.address, &[("content-encoding", "gzip")], "x").await.unwrap();
    assert_eq!(compressed.status, 415);
    let client = client().build().unwrap();
    let elsewhere = client.post(format!("http://{}/else", source.address)).body("x").send().await.unwrap();
    assert_eq!(elsewhere.status(), 404);
    let other_method = client.put(format!("http://{}/in", source.address)).body("x").send().await.unwrap();
    assert_eq!(
        (other_method.status().as_u16(), &other_method.headers()["allow"]),
        (405, &HeaderValue::from_static("POST"))
    );
}

/// The next answer on a connection.
async fn answer_on(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let read = async {
        while !answer.ends_with(b"}") {
            let mut byte = [0];
            stream.read_exact(&mut byte).await?;
            answer.push(byte[0]);
        }
        io::Result::Ok(())
    };
    tokio::time::timeout(DEADLINE, read).await.expect("no answer").unwrap();
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn a_connection_serves_many_requests() {
    let mut source = open(json!({})).await;
    let mut stream = source.connect().await;
    for _ in 0..3 {
        stream.write_all(b"POST /in HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\nx").await.unwrap();
        source.deliver().await;
        assert!(answer_on(&mut stream).await.starts_with("HTTP/1.1 200"));
    }
}

/// Reads until the other side closes.
async fn until_closed(stream: &mut TcpStream) -> Vec<u8> {
    let mut answer = Vec::new();
    let read =
        tokio::time::timeout(DEADLINE, stream.read_to_end(&mut answer)).await.expect("it is open still");
    match read {
        Ok(_) => answer,
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => answer,
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn p6_slow_clients_are_given_up() {
    let source = open(json!({ "request_timeout": "100ms" })).await;
    let mut silent = source.connect().await;
    assert_eq!(until_closed(&mut silent).await, b"");
    let mut slow_head = source.connect().await;
    slow_head.write_all(b"POST /in HTTP/1.1\r\nhost: x\r\n").await.unwrap();
    until_closed(&mut slow_head).await;
    let mut slow_body = source.connect().await;
    slow_body.write_all(b"POST /in HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nhalf").await.unwrap();
    let answer = until_closed(&mut slow_body).await;
    assert!(answer.starts_with(b"HTTP/1.1 408"), "{}", String::from_utf8_lossy(&answer));
}

#[tokio::test]
async fn p6_a_head_without_end_is_refused() {
    let source = open(json!({})).await;
    let mut stream = source.connect().await;
    let head = format!("POST /in HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "x".repeat(300_000));
    // It may close before it has taken all.
    let _ = stream.write_all(head.as_bytes()).await;
    let answer = until_closed(&mut stream).await;
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 431"), "{}", String::from_utf8_lossy(&answer));
    assert_eq!(source.reader.waiting(), 0);
}

#[tokio::test]
async fn p6_connections_beyond_the_limit_are_closed() {
    let mut source = open(json!({ "max_connections": 1 })).await;
    let mut first = source.connect().await;
    first.write_all(b"POST /in HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\nx").await.unwrap();
    source.deliver().await;
    answer_on(&mut first).await;
    let mut second = source.connect().await;
    assert_eq!(until_closed(&mut second).await, b"");
    first.write_all(b"POST /in HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\nx").await.unwrap();
    source.deliver().await;
    answer_on(&mut first).await;
}

#[tokio::test]
async fn speaks_tls() {
    let certificates = Certificates::make();
    let tls = json!({ "tls": { "cert_file": "server.pem", "key_file": "server.key" } });
    let mut source =
        open_with(tls, "raw", |context| context.base = certificates.folder.path().to_owned()).await;
    let authority = tls::read_certificates(&certificates.folder.path().join("ca.pem")).unwrap();
    let authority = reqwest::Certificate::from_der(&authority[0]).unwrap();
    let client = client().tls_certs_only([authority]).build().unwrap();
    let answer = tokio::spawn(client.post(format!("https://{}/in", source.address)).body("x").send());
    assert_eq!(source.deliver().await, ["x"]);
    assert_eq!(answer.await.unwrap().unwrap().status(), 200);

    let mut plain = source.connect().await;
    plain.write_all(b"POST /in HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\nx").await.unwrap();
    let answer = until_closed(&mut plain).await;
    assert!(!answer.starts_with(b"HTTP"), "{}", String::from_utf8_lossy(&answer));
}

#[tokio::test]
async fn p8_when_it_is_closed_all_that_is_unanswered_is_503() {
    let mut source = open(json!({})).await;
    let unsettled = source.post("unsettled");
    let read = source.read().await;
    let unread = source.post("unread");
    source.until_queued(1).await;
    let Source { reader, mut committer, address, .. } = source;
    drop(reader);
    let answer = unread.await.unwrap();
    assert_eq!((answer.status, answer.body), (503, json!({ "error": "the pipeline is stopping" })));
    until(|| std::net::TcpStream::connect(address).is_err()).await;
    assert!(!unsettled.is_finished());
    committer.close().await.unwrap();
    assert_eq!(unsettled.await.unwrap().status, 503);
    drop(read);
}

#[tokio::test]
async fn p8_what_is_settled_while_it_closes_is_still_answered() {
    let mut source = open(json!({})).await;
    let whole = source.post("whole");
    let read = source.read().await;
    let part = source.post_batch("1\n2\n3\n");
    let first = source.read_rows(1).await;
    let Source { reader, mut committer, .. } = source;
    drop(reader);
    for read in [&read, &first] {
        let position = read.batch.message(0).position();
        committer
            .each(vec![SettledRow { position, outcome: SettledAs::Delivered, failures: 0 }])
            .await
            .unwrap();
    }
    assert_eq!(whole.await.unwrap().status, 200);
    let part = part.await.unwrap();
    assert_eq!(part.status, 503);
    let outcomes: Vec<_> =
        part.body["results"].as_array().unwrap().iter().map(|result| &result["outcome"]).collect();
    assert_eq!(outcomes, ["delivered", "returned", "returned"]);
    committer.close().await.unwrap();
}

#[tokio::test]
async fn a_connection_that_is_kept_does_not_hold_up_the_end() {
    let mut source = open(json!({})).await;
    let mut stream = source.connect().await;
    stream.write_all(b"POST /in HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\nx").await.unwrap();
    source.deliver().await;
    answer_on(&mut stream).await;
    let Source { reader, mut committer, .. } = source;
    drop(reader);
    committer.close().await.unwrap();
    assert_eq!(until_closed(&mut stream).await, b"");
}

#[test]
fn an_address_that_is_taken_is_an_error_at_the_start_that_names_it() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let error = try_open(json!({ "listen": address }), "raw", |_| {}).err().expect("refused");
    let error = format!("{error:#}");
    assert!(
        error.starts_with(&format!("cannot listen on {address}: ")) && error.contains("in use"),
        "{error}"
    );
}

#[test]
fn the_log_tells_the_address() {
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);
    impl io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).with_ansi(false).finish();
    let config = (SPEC.parse)(json!({ "listen": "127.0.0.1:0", "path": "/in" }));
    let config = config.unwrap_or_else(|problems| panic!("{problems:?}"));
    let context = testing::context("raw", "{}", &Arc::default());
    let source = tracing::subscriber::with_default(subscriber, || config.open(context).unwrap());
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let (_, told) = log.split_once("listening addr=").expect("it is told");
    let (address, rest) = told.split_once(' ').unwrap();
    assert_eq!(rest.trim_end(), "source=http:/in tls=false");
    std::net::TcpStream::connect(address).unwrap();
    assert_eq!(source.name, "http:/in");
    let position = Position { offset: 4711, record: 3, ..Position::default() };
    assert_eq!((source.describe)(position), "http:/in message 3 since the start (id 4711)");
}

#[tokio::test]
async fn positions_are_never_used_again() {
    let mut last = 0;
    for _ in 0..3 {
        let mut source = open(json!({})).await;
        let answer = source.post_batch("1\n2\n");
        let read = source.read().await;
        for (nth, message) in read.batch.messages().enumerate() {
            assert!(message.position().offset > last);
            assert_eq!(message.position().record, nth as u64 + 1);
            last = message.position().offset;
        }
        source.settle(&read, |_| SettledAs::Delivered).await;
        answer.await.unwrap();
    }
}

#[test]
fn p9_all_that_is_wrong_is_told_at_once() {
    let certificates = Certificates::make();
    let check = |config: Value, codec: &str| {
        let mut context = testing::context(codec, "{}", &Arc::default());
        context.base = certificates.folder.path().to_owned();
        let mut problems = Vec::new();
        (SPEC.parse)(config).unwrap_or_else(|problems| panic!("{problems:?}")).check(&context, &mut problems);
        problems.into_iter().map(|problem| problem.at).collect::<Vec<_>>()
    };
    assert_eq!(check(json!({}), "raw"), [""; 0]);
    assert_eq!(check(json!({ "listen": "0.0.0.0:1" }), "raw"), ["/listen"]);
    assert_eq!(check(json!({ "listen": "0.0.0.0:1", "allow_plaintext": true }), "raw"), [""; 0]);
    let tls = json!({ "cert_file": "server.pem", "key_file": "server.key" });
    assert_eq!(check(json!({ "listen": "0.0.0.0:1", "tls": tls }), "raw"), [""; 0]);
    let mixed = json!({ "cert_file": "server.pem", "key_file": "client.key" });
    assert_eq!(
        check(
            json!({
                "listen": "localhost", "path": "in", "token": "", "headers": ["ok", "not ok"], "key_header": "",
                "max_batch_messages": 0, "max_wait": "0s", "max_body_bytes": "1GiB", "tls": mixed,
            }),
            "csv"
        ),
        [
            "/listen",
            "/path",
            "/token",
            "/headers/1",
            "/key_header",
            "/max_batch_messages",
            "/max_wait",
            "/max_body_bytes",
            "/max_pending_bytes",
            "/tls",
            "/codec",
        ]
    );
}
