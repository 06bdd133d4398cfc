//! Trace context and spans, told to a receiver of OTLP that is not ours.

mod context;
mod failures;
mod outages;
mod tls;
mod way;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use reqwest::StatusCode;
use tokio::runtime::Runtime;

use crate::services::otlp::{Receiver, Span};
use crate::support::{DEADLINE, Folder, Running, http_client, runtime, serve};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

/// A pipeline from an http server on a free port, with the rest of its file.
fn from_http(folder: &Folder, name: &str, rest: &str) -> PathBuf {
    let text = format!(
        "name = \"{name}\"\n{rest}\n[source]\ntype = \"http\"\nlisten = \"127.0.0.1:0\"\npath = \"/{name}\"\n"
    );
    folder.write(&format!("{name}.toml"), &text)
}

/// A pipeline of a folder of its own that listens, and the url there.
fn start(folder: &Folder, name: &str, rest: &str) -> (Running, String) {
    let mut running = Running::start(folder, &from_http(folder, name, rest));
    let address = running.address("sources::http: listening");
    (running, format!("http://{address}/{name}"))
}

/// `[tracing]` for a receiver, with more keys of it.
fn tracing(receiver: &Receiver, more: &str) -> String {
    format!("[tracing]\nendpoint = {:?}\n{more}\n", receiver.url())
}

fn traceparent(flags: &str) -> String {
    format!("00-{TRACE}-{PARENT}-{flags}")
}

fn post(runtime: &Runtime, url: &str, headers: &[(&str, &str)], body: &str) -> StatusCode {
    runtime.block_on(async {
        let mut request = http_client().post(url).body(body.to_owned());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.send().await.expect("an answer").status()
    })
}

/// SIGTERM; it has exported everything when it has ended.
fn stop(running: &mut Running) {
    running.terminate();
    let status = running.end();
    assert!(status.success(), "{status}\n{}", running.log());
}

/// Waits until the receiver has so many spans.
fn wait_for_spans(receiver: &Receiver, count: usize) -> Vec<Span> {
    let end = Instant::now() + DEADLINE;
    loop {
        let spans = receiver.spans();
        if spans.len() >= count {
            return spans;
        }
        assert!(Instant::now() < end, "{} spans of {count}: {spans:#?}", spans.len());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The one span with this name in a pipeline.
fn one<'a>(spans: &'a [Span], pipeline: &str, name: &str) -> &'a Span {
    let found = all(spans, pipeline, name);
    assert_eq!(found.len(), 1, "{name} of {pipeline} in {spans:#?}");
    found[0]
}

fn all<'a>(spans: &'a [Span], pipeline: &str, name: &str) -> Vec<&'a Span> {
    let is_it = |span: &&Span| span.attribute("millstream.pipeline.name") == pipeline && span.name == name;
    spans.iter().filter(is_it).collect()
}
