//! What failed is an error with its reason, and no secret is told.

use std::sync::{Arc, Mutex};

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post as posted;

use super::{TRACE, one, post, runtime, serve, start, stop, traceparent, tracing};
use crate::services::otlp::Receiver;
use crate::support::{Folder, millstream, run};

const SECRET: &str = "hunter2-is-nowhere";

#[test]
fn a_dead_letter_is_an_error_that_holds_no_secret() {
    let (folder, receiver) = (Folder::new(), Receiver::start());
    let runtime = runtime();
    let url = serve(
        &runtime,
        posted(|| async { (StatusCode::UNPROCESSABLE_ENTITY, format!("not with {SECRET}")) }),
        (),
    );
    let record = |payload: &str, trace: &str| {
        let traceparent = traceparent("01").replace(TRACE, trace);
        serde_json::json!({ "headers": { "traceparent": traceparent }, "payload": payload }).to_string()
            + "\n"
    };
    let traces = ["1", "2", "3", "4"].map(|digit| digit.repeat(32));
    let lines = [
        record(r#"{"bad":1}"#, &traces[0]),
        record(r#"{"to":"server"}"#, &traces[1]),
        record(r#"{"to":"nowhere"}"#, &traces[2]),
        record(&format!(r#"{{"correlationId":"{SECRET}","to":"file"}}"#), &traces[3]),
    ];
    folder.write("in.ndjson", &lines.concat());
    let text = format!(
        r#"
name = "failing"
[source]
type = "file"
path = "in.ndjson"
codec = "record"
[[plugin]]
use = "jq"
config = {{ program = "if .bad then error(\"no ${{TRACE_SECRET}}\") else . end" }}
[[plugin]]
use = "route"
[plugin.config]
default = ["nowhere"]
rules = [
    {{ when = [{{ pointer = "/to", equals = "server" }}], routes = ["server"] }},
    {{ when = [{{ pointer = "/to", equals = "file" }}], routes = ["file"] }},
]
[[sink]]
type = "http"
route = "server"
url = "{url}"
[[sink]]
type = "file"
route = "file"
path = "out.ndjson"
{}
headers = {{ x-api-key = "${{TRACE_SECRET}}" }}
"#,
        tracing(&receiver, "ratio = 0")
    );
    let pipeline = folder.write("failing.toml", &text);
    let mut command = millstream(&["run", pipeline.to_str().expect("UTF-8")]);
    let output = command.env("TRACE_SECRET", SECRET).output().expect("the binary starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let spans = receiver.spans();
    let error = |trace: &String, name: &str| {
        let of_trace: Vec<_> = spans.iter().filter(|span| span.trace == *trace).cloned().collect();
        let errors = of_trace.iter().filter(|span| span.error.is_some()).count();
        assert_eq!(errors, 1, "only where it failed: {of_trace:#?}");
        let span = one(&of_trace, "failing", name).clone();
        (span.attribute("error.type").to_owned(), span.error.expect("an error"))
    };
    let (code, reason) = error(&traces[0], "plugin jq");
    assert_eq!(code, "jq-error");
    assert!(reason.contains("(from ${TRACE_SECRET})"), "{reason}");
    let (code, reason) = error(&traces[1], &format!("send {url}"));
    assert!(code == "http-status" && reason.contains("422"), "{code} {reason}");
    let (code, reason) = error(&traces[2], "route");
    assert!(code == "unrouted" && reason.contains("nowhere"), "{code} {reason}");
    assert!(spans.iter().filter(|span| span.trace == traces[3]).all(|span| span.error.is_none()));
    assert!(!receiver.text().contains(SECRET), "{}", receiver.text());

    let list = millstream(&["dlq", "list", pipeline.to_str().expect("UTF-8"), "--json"])
        .env("TRACE_SECRET", SECRET)
        .output()
        .expect("the binary starts");
    let letters = String::from_utf8_lossy(&list.stdout).into_owned();
    assert!(traces[..3].iter().all(|trace| letters.contains(trace.as_str())), "{letters}");
}

#[test]
fn a_dead_letter_names_the_trace_that_began_with_it() {
    let (folder, receiver) = (Folder::new(), Receiver::start());
    folder.write("in.ndjson", "{\"bad\":1}\n");
    let pipeline = folder.write(
        "root.toml",
        &format!(
            "name = \"root\"\n{}[source]\ntype = \"file\"\npath = \"in.ndjson\"\n[[plugin]]\nuse = \"jq\"\n\
             config = {{ program = \"error(\\\"no\\\")\" }}\n[[sink]]\ntype = \"drop\"\n",
            tracing(&receiver, "ratio = 1")
        ),
    );
    let pipeline = pipeline.to_str().expect("UTF-8");
    let (status, _, errors) = run(&["run", pipeline]);
    assert!(status.success(), "{errors}");
    let (_, letters, _) = run(&["dlq", "list", pipeline, "--json"]);
    let spans = receiver.spans();
    assert_eq!(spans.len(), 2, "{spans:#?}");
    assert!(letters.contains(&spans[0].trace) && spans[0].trace == spans[1].trace, "{letters}");

    // A replay is read again, with what it came with: nothing, so that is a trace of its own.
    let (_, _, errors) = run(&["dlq", "replay", pipeline, "--all"]);
    assert!(errors.contains("1 failed again"), "{errors}");
    let replayed = receiver.spans();
    assert_eq!(replayed.len(), 4, "{replayed:#?}");
    assert_eq!(one(&replayed[2..], "root", "receive in.ndjson").attribute("millstream.replays"), "1");
}

#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<String>>>);

async fn fail_once(State(seen): State<Seen>, headers: HeaderMap) -> StatusCode {
    let traceparent = headers.get("traceparent").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let mut seen = seen.0.lock().expect("no panic");
    seen.push(traceparent.to_owned());
    if seen.len() == 1 { StatusCode::INTERNAL_SERVER_ERROR } else { StatusCode::OK }
}

#[test]
fn a_retry_is_an_event_of_the_same_span() {
    let (folder, runtime, receiver) = (Folder::new(), runtime(), Receiver::start());
    let seen = Seen::default();
    let url = serve(&runtime, posted(fail_once), seen.clone());
    let rest = format!(
        "{}[retry]\nbase_delay = \"10ms\"\n[[sink]]\ntype = \"http\"\nurl = {url:?}\n",
        tracing(&receiver, "ratio = 1")
    );
    let (mut running, from) = start(&folder, "retrying", &rest);
    assert_eq!(post(&runtime, &from, &[], "x"), 200);
    stop(&mut running);
    let seen = seen.0.lock().expect("no panic");
    assert_eq!(seen.len(), 2);
    assert_eq!(seen[0], seen[1], "the receiver sees one message");
    let spans = receiver.spans();
    let sent = one(&spans, "retrying", &format!("send {url}"));
    assert_eq!(seen[0], format!("00-{}-{}-01", sent.trace, sent.id));
    assert_eq!((sent.events.len(), &sent.error), (1, &None));
    assert!(sent.events[0].contains("500"), "{:?}", sent.events);
}
