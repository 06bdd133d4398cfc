use std::collections::VecDeque;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode as Status;
use axum::routing::post;

use super::*;
use crate::config::units::Interval;
use crate::tls::ClientTls;
use crate::traces::context::SpanContext;
use crate::traces::otlp::{Kind, PartialSuccess};
use crate::traces::span::ParentSpan;

/// What it answers, in order, and the spans of each request.
#[derive(Clone, Default)]
struct Receiver(Arc<Mutex<(VecDeque<(Status, i64)>, Vec<usize>)>>);

async fn take(State(receiver): State<Receiver>, body: Bytes) -> (Status, Vec<u8>) {
    let request = ExportTraceServiceRequest::decode(body).unwrap();
    let mut state = receiver.0.lock().unwrap();
    state.1.push(request.resource_spans[0].scope_spans[0].spans.len());
    let (status, rejected_spans) = state.0.pop_front().unwrap_or((Status::OK, 0));
    let partial = PartialSuccess { rejected_spans, error_message: "too old".to_owned() };
    (status, ExportTraceServiceResponse { partial_success: Some(partial) }.encode_to_vec())
}

/// Exports three spans to a receiver with these answers, closes, and returns its requests and what was
/// exported and dropped.
async fn export(answers: &[(Status, i64)]) -> (Vec<usize>, u64, u64) {
    let receiver = Receiver::default();
    receiver.0.lock().unwrap().0.extend(answers);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/v1/traces", listener.local_addr().unwrap());
    let server = Router::new().route("/v1/traces", post(take)).with_state(receiver.clone());
    tokio::spawn(async move { axum::serve(listener, server).await });
    let tracing = Tracing {
        url: url.parse().unwrap(),
        headers: BTreeMap::new(),
        service_name: "test".to_owned(),
        ratio: 1.0,
        timeout: Interval::secs(10),
        queue: 2,
        tls: ClientTls::default(),
        base: ".".into(),
    };
    let metrics = Metrics::new();
    let exporter = Exporter::start(&tracing, "test", &metrics).unwrap();
    for _ in 0..3 {
        let context = SpanContext::root();
        exporter.export(Span::new(context, ParentSpan::None, "receive x".to_owned(), Kind::Consumer, 1, 2));
    }
    exporter.close(Duration::from_secs(60)).await;
    let count = |metric: &prometheus::IntCounterVec| metric.with_label_values(&["test"]).get();
    let requests = receiver.0.lock().unwrap().1.clone();
    (requests, count(&metrics.spans_exported), count(&metrics.spans_dropped))
}

/// P6: on one thread, so the exporter takes nothing until it is closed.
#[tokio::test]
async fn p6_what_is_beyond_the_queue_is_dropped_and_counted() {
    assert_eq!(export(&[]).await, (vec![2], 2, 1));
}

#[tokio::test]
async fn what_the_receiver_does_not_take_is_dropped_and_counted() {
    assert_eq!(export(&[(Status::OK, 1)]).await, (vec![2], 1, 2));
    assert_eq!(export(&[(Status::BAD_REQUEST, 0)]).await, (vec![2], 0, 3));
    // At the end it is tried once.
    assert_eq!(export(&[(Status::SERVICE_UNAVAILABLE, 0)]).await, (vec![2], 0, 3));
}
