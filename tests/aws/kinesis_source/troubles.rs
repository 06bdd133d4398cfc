//! A service that is not there, not yet, or has too much to do.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use tokio::runtime::Runtime;

use super::world::{Member, Pipeline, Stream, Taker, runtime};
use crate::services::aws::{REGION, SECRET_KEY, StandIn};
use crate::support::{ask, http_client};

/// Something between us and the service, that answers now and then in its place.
#[derive(Clone)]
struct Between {
    client: reqwest::Client,
    url: String,
    /// Error codes by what they answer, in order.
    faults: Arc<Mutex<HashMap<&'static str, Vec<&'static str>>>>,
    /// When records were asked for.
    asked: Arc<Mutex<Vec<Instant>>>,
}

async fn pass_on(State(between): State<Between>, headers: HeaderMap, body: Bytes) -> Response {
    let target = headers.get("x-amz-target").and_then(|target| target.to_str().ok()).unwrap_or_default();
    let call = target.rsplit('.').next().unwrap_or_default().to_owned();
    if call == "GetRecords" {
        between.asked.lock().expect("no panic").push(Instant::now());
    }
    let fault = {
        let mut faults = between.faults.lock().expect("no panic");
        faults.get_mut(&*call).and_then(|codes| (!codes.is_empty()).then(|| codes.remove(0)))
    };
    if let Some(code) = fault {
        let body = format!(r#"{{"__type":"{code}","message":"because of the test"}}"#);
        let status = match code {
            "InternalFailure" => StatusCode::INTERNAL_SERVER_ERROR,
            _ => StatusCode::BAD_REQUEST,
        };
        return (status, [("content-type", "application/x-amz-json-1.1")], body).into_response();
    }
    let mut headers = headers;
    headers.remove("host");
    let sent = between.client.post(&between.url).headers(headers).body(body).send().await;
    let answer = sent.expect("the stand-in answers");
    let (status, headers) = (answer.status(), answer.headers().clone());
    let mut response = (status, answer.bytes().await.expect("a body")).into_response();
    if let Some(kind) = headers.get("content-type") {
        response.headers_mut().insert("content-type", kind.clone());
    }
    response
}

impl Between {
    fn start(faults: &[(&'static str, Vec<&'static str>)]) -> (Between, String, Runtime) {
        let runtime = runtime();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let between = Between {
            client: http_client(),
            url: StandIn::kinesis().url(),
            faults: Arc::new(Mutex::new(faults.iter().cloned().collect())),
            asked: Arc::default(),
        };
        let server = Router::new().fallback(pass_on).with_state(between.clone());
        runtime.spawn(async move { axum::serve(listener, server).await });
        (between, format!("aws = {{ region = {REGION:?}, endpoint = {url:?} }}"), runtime)
    }
}

#[test]
fn what_the_service_refuses_for_a_while_is_waited_for() {
    let (stream, taker) = (Stream::new(1), Taker::start());
    let throttled = "ProvisionedThroughputExceededException";
    let (between, aws, _runtime) = Between::start(&[
        ("ListShards", vec!["LimitExceededException", "InternalFailure"]),
        ("GetShardIterator", vec![throttled]),
        ("GetRecords", vec!["ExpiredIteratorException", throttled, throttled, throttled, "InternalFailure"]),
    ]);
    for number in 0..20 {
        stream.put("k", format!("{number:02}").as_bytes());
    }
    let mut pipeline = Pipeline::new(&stream, &taker);
    pipeline.aws = aws;
    // Two records a call: it is behind for a while, and asks as often as it may.
    pipeline.source = "records = 2".to_owned();
    let mut member = Member::start(&pipeline);
    let mut reasons = String::new();
    let admin = member.admin.clone();
    member.running.wait_for("all records", |_| {
        if let Some((503, text)) = ask(&admin, "/readyz") {
            reasons.push_str(&text);
        }
        taker.count() >= 20
    });
    assert!(reasons.contains("ListShards of"), "it shows in /readyz: {reasons}");
    assert!(reasons.contains(throttled), "it shows in /readyz: {reasons}");
    member.running.wait_for("it is ready", |_| matches!(ask(&admin, "/readyz"), Some((200, _))));
    let texts: Vec<String> = taker.taken().iter().map(|one| one.text()).collect();
    assert_eq!(texts, (0..20).map(|number| format!("{number:02}")).collect::<Vec<_>>());
    assert!(between.faults.lock().expect("no panic").values().all(Vec::is_empty));
    let log = member.running.log();
    assert!(log.contains("the source waits") && log.contains("the source reads"), "{log}");
    assert!(!log.contains(SECRET_KEY));
    // Five calls a second, whatever comes; the network may shift one a little.
    let asked = between.asked.lock().expect("no panic").clone();
    for two in asked.windows(6) {
        let took = two[5] - two[0];
        assert!(took >= Duration::from_millis(900), "six calls within {took:?}");
    }
    member.stop();
}

#[test]
fn a_stream_that_is_not_there_yet_is_waited_for() {
    let (stream, taker) = (Stream::later(), Taker::start());
    let mut member = Member::start(&Pipeline::new(&stream, &taker));
    let admin = member.admin.clone();
    member.running.wait_for(
        "it says that there is no stream",
        |_| matches!(ask(&admin, "/readyz"), Some((503, text)) if text.contains("ResourceNotFoundException")),
    );
    stream.create(1);
    stream.put("k", b"first");
    member.wait_for("its first record", || taker.count() == 1);
    member.running.wait_for("it is ready", |_| matches!(ask(&admin, "/readyz"), Some((200, _))));
    member.stop();
}

#[test]
fn p6_while_nothing_is_delivered_no_more_is_fetched_than_fits() {
    const RECORDS: usize = 100;
    const BYTES: usize = 250_000;
    let (stream, taker) = (Stream::new(1), Taker::start());
    let (between, aws, _runtime) = Between::start(&[]);
    let body = |number: usize| [format!("{number:03}").as_bytes(), &[b'.'; BYTES]].concat();
    for numbers in (0..RECORDS).collect::<Vec<_>>().chunks(16) {
        stream.put_all(&numbers.iter().map(|&number| ("k".to_owned(), body(number))).collect::<Vec<_>>());
    }
    taker.open(false);
    let mut pipeline = Pipeline::new(&stream, &taker);
    pipeline.aws = aws;
    // A call brings 2 MB, and there is room for five of them beside what is in flight.
    pipeline.source = "records = 8".to_owned();
    pipeline.top = "budget = \"28MiB\"".to_owned();
    let mut member = Member::start(&pipeline);
    let mut asked = (0, Instant::now());
    member.running.wait_for("no more is asked for", |_| {
        let count = between.asked.lock().expect("no panic").len();
        if count != asked.0 {
            asked = (count, Instant::now());
        }
        count > 0 && asked.1.elapsed() > Duration::from_secs(4)
    });
    println!("{} calls, {} MiB resident", asked.0, member.running.resident_bytes() >> 20);
    assert!(asked.0 < RECORDS / 8, "everything was fetched");
    taker.open(true);
    member.wait_for("all records", || taker.count() >= RECORDS);
    let numbers: Vec<String> = taker.taken().iter().map(|one| one.text()[..3].to_owned()).collect();
    assert_eq!(numbers, (0..RECORDS).map(|number| format!("{number:03}")).collect::<Vec<_>>());
    member.stop();
}
