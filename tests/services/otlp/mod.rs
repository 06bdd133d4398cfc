//! A receiver of OTLP: that of the OpenTelemetry Collector, built from its modules.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use super::installed;
use super::server::{Server, free_port};
use crate::support::DEADLINE;

const GO: &str = "this test needs Go 1.26 and the Go module proxy: https://go.dev/dl";

/// The program, built at the first use.
fn program() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let build = || {
        let files = [
            ("go.mod", include_str!("go.mod")),
            ("go.sum", include_str!("go.sum")),
            ("main.go", include_str!("main.go")),
        ];
        let wanted: String = files.iter().map(|(_, text)| *text).collect();
        installed::once("otlp", &wanted, |folder| {
            for (name, text) in files {
                std::fs::write(folder.join(name), text).expect("a file of the receiver");
            }
            let mut go = Command::new("go");
            go.args(["build", "-o", "receiver", "."]).current_dir(folder);
            installed::run(&mut go, GO);
        })
        .join("receiver")
    };
    BUILT.get_or_init(build).clone()
}

/// A receiver of the test's own.
pub struct Receiver {
    port: u16,
    folder: TempDir,
    /// Certificate, key and authority of its clients, if it wants TLS.
    tls: Vec<PathBuf>,
    server: Option<Server>,
}

impl Receiver {
    pub fn start() -> Receiver {
        let mut receiver = Receiver::prepared();
        receiver.run();
        receiver
    }

    /// It has its address, and does not run yet.
    pub fn prepared() -> Receiver {
        let folder = tempfile::Builder::new().prefix("otlp-").tempdir().expect("a folder for a server");
        Receiver { port: free_port(), folder, tls: Vec::new(), server: None }
    }

    /// It speaks TLS alone, with clients who show a certificate of that authority.
    pub fn start_with_tls(certificate: PathBuf, key: PathBuf, client_authority: PathBuf) -> Receiver {
        let mut receiver = Receiver::prepared();
        receiver.tls = vec![certificate, key, client_authority];
        receiver.run();
        receiver
    }

    /// Starts it, also again.
    pub fn run(&mut self) {
        let address = format!("127.0.0.1:{}", self.port);
        let mut command = Command::new(program());
        command.arg(&address).arg(self.folder.path().join("traces.ndjson")).args(&self.tls);
        let log = self.folder.path().join("log");
        let server = Server::start("the receiver of OTLP".into(), &mut command, &log, self.folder.path());
        let end = Instant::now() + DEADLINE;
        while std::net::TcpStream::connect(&address).is_err() {
            server.assert_runs();
            assert!(Instant::now() < end, "the receiver of OTLP does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        self.server = Some(server);
    }

    pub fn stop(&mut self) {
        self.server.take().expect("it runs").stop();
    }

    pub fn url(&self) -> String {
        let scheme = if self.tls.is_empty() { "http" } else { "https" };
        format!("{scheme}://127.0.0.1:{}", self.port)
    }

    /// What it was sent, as it stands in its file.
    pub fn text(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("traces.ndjson")).unwrap_or_default()
    }

    /// All spans that it has been sent whole.
    pub fn spans(&self) -> Vec<Span> {
        let text = self.text();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let requests = whole.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON a line"));
        requests.flat_map(|request| elements(&request["resourceSpans"])).flat_map(of_resource).collect()
    }
}

#[derive(Clone, Debug, Default)]
pub struct Span {
    pub trace: String,
    pub id: String,
    /// Empty if it has none.
    pub parent: String,
    pub state: String,
    pub name: String,
    /// 1 internal, 4 producer, 5 consumer.
    pub kind: u64,
    /// Its own, and those of its resource.
    pub attributes: BTreeMap<String, String>,
    /// The message of an error.
    pub error: Option<String>,
    pub events: Vec<String>,
    pub nanos: i128,
}

impl Span {
    pub fn attribute(&self, key: &str) -> &str {
        self.attributes.get(key).map_or("", String::as_str)
    }
}

fn of_resource(spans: Value) -> Vec<Span> {
    let resource = attributes(&spans["resource"]["attributes"]);
    let of_scopes = elements(&spans["scopeSpans"]).into_iter().flat_map(|scope| elements(&scope["spans"]));
    of_scopes
        .map(|span| {
            let text = |key: &str| span[key].as_str().unwrap_or_default().to_owned();
            let time = |key: &str| text(key).parse::<i128>().expect("a time");
            let mut all = resource.clone();
            all.extend(attributes(&span["attributes"]));
            Span {
                trace: text("traceId"),
                id: text("spanId"),
                parent: text("parentSpanId"),
                state: text("traceState"),
                name: text("name"),
                kind: span["kind"].as_u64().unwrap_or_default(),
                attributes: all,
                error: (span["status"]["code"] == 2)
                    .then(|| span["status"]["message"].as_str().unwrap_or_default().to_owned()),
                events: elements(&span["events"]).iter().map(|event| event.to_string()).collect(),
                nanos: time("endTimeUnixNano") - time("startTimeUnixNano"),
            }
        })
        .collect()
}

fn elements(list: &Value) -> Vec<Value> {
    list.as_array().cloned().unwrap_or_default()
}

/// Numbers are texts in this encoding too.
fn attributes(list: &Value) -> BTreeMap<String, String> {
    let pair = |attribute: Value| {
        let value = &attribute["value"];
        let text = value["stringValue"].as_str().or_else(|| value["intValue"].as_str());
        (attribute["key"].as_str().expect("a key").to_owned(), text.unwrap_or_default().to_owned())
    };
    elements(list).into_iter().map(pair).collect()
}
