//! P7: what a plugin may ask of the host once the pipeline grants it, and what it is told before.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tokio::sync::Barrier;

use crate::support::{Folder, Running, guest, look, metric, run};

/// A pipeline whose plugin does what its messages say.
fn pipeline(folder: &Folder, grants: &str) -> String {
    let wasm = guest("capable");
    let text = format!(
        r#"
name = "capable"
lanes = 1
[source]
type = "file"
path = "in.ndjson"
codec = "record"
mode = "follow"
[[plugin]]
wasm = "{}"
{grants}
[[sink]]
type = "file"
path = "out.ndjson"
[retry]
base_delay = "1ms"
"#,
        wasm.display(),
    );
    folder.write("pipeline.toml", &text).display().to_string()
}

fn records(messages: &[Value]) -> String {
    messages.iter().map(|message| format!("{}\n", json!({ "payload": message.to_string() }))).collect()
}

/// What the plugin says of each of these messages: a new payload, or `CODE: REASON`.
fn told(grants: &str, messages: &[Value]) -> Vec<Value> {
    let folder = Folder::new();
    let pipeline = pipeline(&folder, grants);
    let record = folder.write("in.ndjson", &records(messages)).display().to_string();
    let (status, out, err) = run(&["plugin", "run", &pipeline, "--record", &record]);
    assert!(status.success(), "{err}");
    let outcome = |line: &str| {
        let line: Value = serde_json::from_str(line).expect("a line of JSON");
        match line["messages"][0]["payload"].as_str() {
            Some(payload) => serde_json::from_str(payload).expect("the guest writes JSON"),
            None => format!("{}: {}", line["code"], line["reason"]).replace('"', "").into(),
        }
    };
    out.lines().map(outcome).collect()
}

#[test]
fn p7_what_is_not_granted_is_refused_with_the_line_to_add() {
    let messages = [
        (json!({ "do": "clock" }), "grants.clock = true"),
        (json!({ "do": "random", "count": 4 }), "grants.random = true"),
        (json!({ "do": "get", "key": "a" }), "grants.state.space = { ttl = \"24h\" }"),
        (json!({ "do": "put", "key": "a" }), "grants.state.space = { ttl = \"24h\" }"),
        (json!({ "do": "insert", "key": "a" }), "grants.state.space = { ttl = \"24h\" }"),
        (
            json!({ "do": "http", "paths": ["/"] }),
            "grants.http.server = { url = \"https://HOST\", methods = [\"GET\"] }",
        ),
        (json!({ "do": "count", "name": "a" }), "grants.metrics = {}"),
    ];
    let asked: Vec<Value> = messages.iter().map(|(message, _)| message.clone()).collect();
    let told = told("", &asked);
    for (told, (message, line)) in told.iter().zip(&messages) {
        let text = told.as_str().unwrap_or_else(|| panic!("{message} was granted: {told}"));
        let line = line.replace('"', "");
        assert!(
            text.starts_with("not-granted: ") && text.contains("not granted; add to its [[plugin]]"),
            "{text}"
        );
        assert!(text.replace('\\', "").ends_with(&line), "{text} and not {line}");
    }
    // And with those lines each is there: they are lines of a pipeline file.
    let lines: Vec<&str> = messages.iter().map(|(_, line)| *line).collect();
    let mut lines = lines.iter().map(|line| format!("{line}\n")).collect::<std::collections::BTreeSet<_>>();
    lines.retain(|line| !line.contains("http"));
    let granted = self::told(&lines.into_iter().collect::<String>(), &asked);
    for (told, (message, _)) in granted.iter().zip(&messages) {
        let refused = told.as_str().is_some_and(|text| text.starts_with("not-granted"));
        assert_eq!(refused, message["do"] == "http", "{message}: {told}");
    }
}

#[test]
fn the_clock_and_chance_are_the_same_for_fixtures_and_real_in_a_pipeline() {
    let grants = "grants.clock = true\ngrants.random = true";
    let messages = [
        json!({ "do": "clock" }),
        json!({ "do": "random", "count": 8 }),
        json!({ "do": "random", "count": 8 }),
        json!({ "do": "random", "count": 70_000 }),
    ];
    let first = told(grants, &messages);
    assert_eq!(first[0], json!(1_700_000_000_000_000_000_u64));
    assert_ne!(first[1], first[2]);
    assert!(first[3].as_str().is_some_and(|text| text.contains("65536 are the most")), "{}", first[3]);
    assert_eq!(told(grants, &messages), first);

    let folder = Folder::new();
    let pipeline = pipeline(&folder, grants);
    folder.write("in.ndjson", &records(&messages[..3]));
    let before = now_ns();
    let mut running = Running::start(&folder, pipeline.as_ref());
    running.wait_for("three messages are written", |_| folder.lines("out.ndjson").len() == 3);
    let lines = folder.lines("out.ndjson");
    let clock: u64 = lines[0].parse().expect("nanoseconds");
    assert!((before..=now_ns()).contains(&clock), "{clock}");
    assert!(lines[1] != lines[2] && *lines[1] != *first[1].to_string(), "{lines:?}");
}

fn now_ns() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    since.as_nanos() as u64
}

#[test]
fn state_is_kept_over_restarts_and_forgets_what_failed() {
    let folder = Folder::new();
    let pipeline = pipeline(&folder, "grants.state.space = { size = \"200KiB\" }\ngrants.metrics = {}");
    let large = "x".repeat(64 << 10);
    let rounds = [
        vec![
            (json!({ "do": "put", "key": "a", "value": "1" }), json!("put")),
            (json!({ "do": "get", "key": "a" }), json!("1")),
            (json!({ "do": "insert", "key": "b" }), json!([true])),
            (json!({ "do": "get", "key": "b" }), json!("inserted")),
        ],
        vec![
            (json!({ "do": "get", "key": "a" }), json!("1")),
            (json!({ "do": "insert", "key": "b" }), json!([false])),
            (json!({ "do": "put", "key": "a", "value": null }), json!("put")),
            (json!({ "do": "panic" }), Value::Null),
            (json!({ "do": "get", "key": "panic" }), Value::Null),
            (
                json!({ "do": "put", "key": "long", "value": format!("{large}+") }),
                json!("a value of 65537 bytes"),
            ),
            (json!({ "do": "put", "key": "k".repeat(1025), "value": "" }), json!("a key of 1025 bytes")),
            (json!({ "do": "put", "key": "1", "value": large }), json!("put")),
        ],
        vec![
            (json!({ "do": "get", "key": "a" }), Value::Null),
            (json!({ "do": "put", "key": "2", "value": large }), json!("put")),
            (json!({ "do": "put", "key": "3", "value": large }), json!("put")),
            (
                json!({ "do": "put", "key": "4", "value": large }),
                json!("holds all of its 200KiB; raise `size`"),
            ),
            (json!({ "do": "get", "key": "2" }), json!(large)),
        ],
    ];
    let mut written = 0;
    for round in rounds {
        let mut input = std::fs::read_to_string(folder.path("in.ndjson")).unwrap_or_default();
        input += &records(&round.iter().map(|(message, _)| message.clone()).collect::<Vec<_>>());
        folder.write("in.ndjson", &input);
        let is_refused = |(message, expected): &(Value, Value)| {
            message["do"] == "panic" || expected.as_str().is_some_and(|text| text.contains(' '))
        };
        let expected: Vec<String> =
            round.iter().filter(|case| !is_refused(case)).map(|(_, expected)| expected.to_string()).collect();
        let mut running = Running::start(&folder, pipeline.as_ref());
        running.wait_for("all are written", |_| folder.lines("out.ndjson").len() == written + expected.len());
        assert_eq!(folder.lines("out.ndjson")[written..], expected);
        written += expected.len();
        running.terminate();
        assert!(running.end().success(), "{}", running.log());
        let (_, letters, _) = run(&["dlq", "list", &pipeline, "--json"]);
        for (message, why) in round.iter().filter(|case| is_refused(case)) {
            let why = why.as_str().unwrap_or("as it was told");
            assert!(letters.contains(why), "{message}: {why} is not in {letters}");
        }
    }
}

/// Answers as the path says; `/api/both` waits for two requests at the same time.
struct Server {
    port: u16,
    served: Arc<AtomicUsize>,
    _runtime: tokio::runtime::Runtime,
}

impl Server {
    fn start() -> Server {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let served = Arc::new(AtomicUsize::new(0));
        let both = Arc::new(Barrier::new(2));
        let count = Arc::clone(&served);
        let router = Router::new().fallback(move |uri: Uri, headers: HeaderMap| {
            count.fetch_add(1, Ordering::SeqCst);
            answer(uri, headers, Arc::clone(&both))
        });
        runtime.spawn(async move { axum::serve(listener, router).await });
        Server { port, served, _runtime: runtime }
    }
}

async fn answer(uri: Uri, headers: HeaderMap, both: Arc<Barrier>) -> Response {
    let text = uri.to_string();
    match text.as_str() {
        "/api/both" => {
            both.wait().await;
            text.into_response()
        }
        "/api/large" => "x".repeat(2000).into_response(),
        "/api/token" => headers["x-token"].to_str().expect("text").to_owned().into_response(),
        "/api/gone" => (StatusCode::FOUND, [("location", "/elsewhere")], text).into_response(),
        "/api/silent" => std::future::pending().await,
        _ => text.into_response(),
    }
}

#[test]
fn p7_requests_go_to_the_granted_server_alone_and_within_its_limits() {
    let server = Server::start();
    let port = server.port;
    let grants = format!(
        "grants.http.server = {{ url = \"http://127.0.0.1:{port}/api\", methods = [\"GET\"], timeout = \"300ms\", \
         max_response = \"1000B\", headers = {{ x-token = \"secret-of-the-host\" }} }}"
    );
    let http = |paths: &[&str]| json!({ "do": "http", "paths": paths });
    let good = told(&grants, &[http(&["/api/a", "/api/b?q=1"]), http(&["/api/both", "/api/both"])]);
    assert_eq!(good[0], json!([[200, "/api/a"], [200, "/api/b?q=1"]]));
    assert_eq!(good[1], json!([[200, "/api/both"], [200, "/api/both"]]), "they are sent at the same time");
    let odd = told(&grants, &[http(&["/api/token", "/api/gone", "/api/large", "/api/silent"])]);
    let odd = odd[0].as_array().expect("four answers");
    assert_eq!(odd[0], json!([200, "secret-of-the-host"]));
    assert_eq!(odd[1], json!([302, "/api/gone"]), "redirects are not followed");
    assert!(odd[2].as_str().is_some_and(|text| text.contains("larger than 1000B")), "{}", odd[2]);
    assert!(odd[3].as_str().is_some_and(|text| text.contains("no answer within 300ms")), "{}", odd[3]);

    let before = server.served.load(Ordering::SeqCst);
    let outside = [
        "/",
        "/apis",
        "/api/../secret",
        "/api/%2e%2e/secret",
        "//other.host/api/",
        "api",
        "@other.host/",
        "",
    ];
    let refused =
        told(&grants, &[http(&outside), json!({ "do": "http", "method": "POST", "paths": ["/api/a"] })]);
    for told in refused[0].as_array().expect("answers").iter().chain(refused[1].as_array().expect("answers"))
    {
        assert!(told.as_str().is_some_and(|text| text.starts_with("Refused(")), "{told}");
    }
    assert_eq!(server.served.load(Ordering::SeqCst), before, "none of these was sent");

    let unreachable = grants.replace(&format!(":{port}"), ":1");
    let told = told(&unreachable, &[http(&["/api/a"])]);
    assert!(told[0].to_string().contains("http://127.0.0.1:1 cannot be reached"), "{}", told[0]);
}

#[test]
fn a_grant_that_cannot_be_used_is_told_with_its_place() {
    let folder = Folder::new();
    let grants = "grants.http.one = { url = \"ftp://host\", methods = [\"get\"] }\n\
         grants.http.two = { url = \"http://host\", methods = [], timeout = \"0s\", headers = { host = \"x\" } }\n\
         grants.state.space = { size = \"many\" }\n";
    let (status, _, err) = run(&["check", &pipeline(&folder, grants)]);
    assert!(!status.success());
    for part in [
        "must be a size like \"64MiB\", found \"many\"",
        "\"ftp://host\" is not the URL of a server",
        "\"get\" is no method",
        "no method is allowed",
        "`timeout` must be more than 0",
        "\"host\" with its value is no header",
    ] {
        assert!(err.contains(part), "{part} is not in {err}");
    }
}

#[test]
fn p4_a_call_that_is_divided_makes_no_message_its_own_duplicate() {
    let insert = |key: &str| json!({ "do": "insert", "key": key });
    let messages = [insert("a"), insert("b"), json!({ "do": "panic" }), insert("c"), insert("a")];
    let told = told("grants.state.space = {}\ngrants.metrics = {}", &messages);
    assert!(told[2].as_str().is_some_and(|text| text.contains("as it was told")), "{}", told[2]);
    let inserted = [&told[0], &told[1], &told[3], &told[4]];
    assert_eq!(inserted.map(|told| told[0].as_bool().expect("one")), [true, true, true, false]);
}

#[test]
fn metrics_of_a_plugin_count_calls_that_went_well_and_are_bounded() {
    let folder = Folder::new();
    let pipeline = pipeline(&folder, "grants.metrics = { names = 3 }\ngrants.state.space = {}");
    let messages = [
        json!({ "do": "count", "name": "orders" }),
        json!({ "do": "count", "name": "orders" }),
        json!({ "do": "observe", "name": "total", "value": 2.5 }),
        json!({ "do": "count", "name": "Orders" }),
        json!({ "do": "panic" }),
        json!({ "do": "count", "name": "fourth" }),
    ];
    folder.write("in.ndjson", &records(&messages));
    let mut running = Running::start(&folder, pipeline.as_ref());
    let admin = running.address("admin server listening");
    let mut page = String::new();
    running.wait_for("all six are settled", |_| {
        page = look(&admin).unwrap_or_default();
        let account = |name: &str| metric(&page, "millstream_messages", &[&format!("account=\"{name}\"")]);
        account("delivered") == Some(3) && account("dead_lettered") == Some(3)
    });
    let counter =
        |name: &str| metric(&page, "millstream_plugin_counter_total", &[&format!("name=\"{name}\"")]);
    assert_eq!((counter("orders"), counter("panics"), counter("fourth")), (Some(4), None, None), "{page}");
    assert_eq!(metric(&page, "millstream_plugin_histogram_count", &["name=\"total\""]), Some(1));
    running.terminate();
    assert!(running.end().success());
    let (_, letters, _) = run(&["dlq", "list", &pipeline, "--json"]);
    assert!(letters.contains("is no name of a metric"), "{letters}");
    assert!(letters.contains("would be more than 3; raise grants.metrics"), "{letters}");
}
