//! What the command line prints, to whom, and what it must not print.

mod schema;

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::support::{DEADLINE, Folder, Running, http_client, millstream, run};

/// Standard error or output that takes nothing.
fn full() -> File {
    OpenOptions::new().write(true).open("/dev/full").expect("Linux has it")
}

fn generate(folder: &Folder, name: &str, count: u32, rate: u32) {
    let text = format!(
        "name = \"{name}\"\n[source]\ntype = \"generate\"\ncount = {count}\nrate = {rate}\n\
         [[sink]]\ntype = \"file\"\npath = \"{name}.out\"\n"
    );
    folder.write(&format!("{name}.toml"), &text);
}

#[test]
fn p2_what_nobody_can_read_on_standard_error_stops_no_pipeline() {
    let folder = Folder::new();
    generate(&folder, "short", 10, 100_000);
    generate(&folder, "long", 1000, 1000);
    let path = folder.path("").display().to_string();
    let status = millstream(&["run", &path, "--admin", "127.0.0.1:0"])
        .stderr(full())
        .status()
        .expect("the binary starts");
    assert_eq!(status.code(), Some(0));
    assert_eq!((folder.lines("short.out").len(), folder.lines("long.out").len()), (10, 1000));
}

#[test]
fn the_example_of_the_pipeline_file_does_what_it_shows() {
    let page = include_str!("../../runtime/docs/pipeline-file.md");
    let example =
        page.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).expect("an example");
    let folder = Folder::new();
    let file = folder.write("orders.toml", example).display().to_string();
    let (status, _, told) = run(&["run", &file, "--admin", "127.0.0.1:0"]);
    assert_eq!(status.code(), Some(0), "{told}");
    // Its filter lets some orders through and drops others.
    let delivered = folder.lines("out/orders.ndjson").len();
    assert!((1..1000).contains(&delivered) && told.contains("read 1000,"), "{delivered} delivered\n{told}");
}

#[test]
fn a_reader_of_standard_output_that_goes_away_is_no_error() {
    let folder = Folder::new();
    generate(&folder, "p", 1, 1);
    let file = folder.path("p.toml").display().to_string();
    for arguments in [&["components"][..], &["components", "file"], &["check", &file]] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let output = millstream(arguments).stdout(writer).output().expect("the binary starts");
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), &*told), (Some(0), ""), "{arguments:?}");
    }
}

#[test]
fn standard_output_that_takes_nothing_is_an_error_in_words() {
    let output = millstream(&["components"]).stdout(full()).output().expect("the binary starts");
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(told.starts_with("error: cannot write to standard output: "), "{told}");
}

/// A server that answers every request with 400 and the credentials that it was sent.
fn echo_of_credentials() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut reader = BufReader::new(stream.expect("a connection"));
            let (mut line, mut seen, mut length) = (String::new(), String::new(), 0);
            while reader.read_line(&mut line).expect("a head") > 2 {
                if line.to_lowercase().starts_with("authorization:") {
                    line.trim().clone_into(&mut seen);
                }
                if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().expect("a length");
                }
                line.clear();
            }
            reader.read_exact(&mut vec![0; length]).expect("a body");
            let answer = format!(
                "HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{seen}",
                seen.len()
            );
            reader.get_mut().write_all(answer.as_bytes()).expect("it is read");
        }
    });
    address
}

#[tokio::test]
async fn p7_who_sends_by_http_is_not_told_the_value_of_a_variable() {
    let folder = Folder::new();
    let pipeline = format!(
        "name = \"p\"\n[source]\ntype = \"http\"\nlisten = \"127.0.0.1:0\"\n\
         [[sink]]\ntype = \"http\"\nurl = \"http://{}/\"\nbearer_token = \"${{WEBHOOK_SECRET}}\"\n",
        echo_of_credentials()
    );
    let mut running = Running::start(&folder, &folder.write("p.toml", &pipeline));
    let address = running.address("sources::http");
    let answer = http_client().post(format!("http://{address}/")).body("x").send().await.expect("an answer");
    let answer = answer.text().await.expect("a body");
    assert!(
        answer.contains("dead-lettered") && answer.contains("Bearer (from ${WEBHOOK_SECRET})"),
        "{answer}"
    );
}

#[tokio::test]
async fn p7_metrics_do_not_hold_the_value_of_a_variable() {
    let folder = Folder::new();
    // The secret that every test pipeline is given, as the name of a file.
    folder.write("It's a Secret to Everybody", "one\ntwo\n");
    let pipeline = "name = \"p\"\n[source]\ntype = \"file\"\nmode = \"follow\"\npath = \"${WEBHOOK_SECRET}\"\n\
                    [[sink]]\ntype = \"drop\"\n";
    let mut running = Running::start(&folder, &folder.write("p.toml", pipeline));
    let address = running.address("admin server");
    // The admin server answers before the pipeline has started.
    let metrics = page_with(&mut running, &address, "metrics", "messaging_messages_received_total{").await;
    assert!(metrics.contains("queue=\"file:(from ${WEBHOOK_SECRET})\""), "{metrics}");
    assert!(!metrics.contains("Secret to"), "{metrics}");
}

#[test]
fn p7_an_error_that_ends_the_process_does_not_hold_the_value_of_a_variable() {
    let folder = Folder::new();
    // A folder that cannot be made under a file.
    folder.write("hidden-place", "");
    let pipeline = "name = \"p\"\n[source]\ntype = \"generate\"\ncount = 1\n\
                    [[sink]]\ntype = \"file\"\npath = \"${PLACE}/out\"\n";
    let file = folder.write("p.toml", pipeline).display().to_string();
    let output = millstream(&["run", &file, "--admin", "127.0.0.1:0"])
        .env("PLACE", "hidden-place")
        .stdin(Stdio::null())
        .output()
        .expect("the binary starts");
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("error: pipeline p") && told.contains("(from ${PLACE})"), "{told}");
    assert!(!told.contains("hidden-place"), "{told}");
}

/// A page of the admin server, as soon as it holds this.
async fn page_with(running: &mut Running, address: &str, page: &str, text: &str) -> String {
    let client = http_client();
    let end = Instant::now() + DEADLINE;
    loop {
        let answer = client.get(format!("http://{address}/{page}")).send().await.expect("an answer");
        let body = answer.text().await.expect("a body");
        if body.contains(text) {
            return body;
        }
        assert!(!running.has_ended(), "it ended before {text:?} was there\n{}", running.log());
        assert!(Instant::now() < end, "no {text:?} in\n{body}\n{}", running.log());
    }
}

/// Pipelines whose messages go nowhere, so that all they read is in flight.
fn stuck(folder: &Folder, names: &[&str]) {
    for name in names {
        let text = format!(
            "name = \"{name}\"\n[source]\ntype = \"generate\"\ncount = 7\n\
             [[sink]]\ntype = \"http\"\nurl = \"http://127.0.0.1:1/\"\n"
        );
        folder.write(&format!("{name}.toml"), &text);
    }
}

#[tokio::test]
async fn p8_who_stops_is_not_ready() {
    let folder = Folder::new();
    stuck(&folder, &["p"]);
    let mut running = Running::start(&folder, &folder.path("p.toml"));
    let address = running.address("admin server");
    page_with(&mut running, &address, "readyz", "sink http").await;
    running.terminate();
    page_with(&mut running, &address, "readyz", r#"{"part":"pipeline","reason":"stopping"}"#).await;
}

#[tokio::test]
async fn p11_the_depth_of_a_queue_is_that_of_all_its_pipelines() {
    let folder = Folder::new();
    stuck(&folder, &["a", "b"]);
    let mut running = Running::start(&folder, &folder.path(""));
    let address = running.address("admin server");
    for name in ["a", "b"] {
        let in_flight = format!("millstream_messages{{account=\"in_flight\",pipeline=\"{name}\"}} 7");
        page_with(&mut running, &address, "metrics", &in_flight).await;
    }
    let metrics = page_with(&mut running, &address, "metrics", "messaging_queue_depth{").await;
    assert!(metrics.contains("messaging_queue_depth{queue=\"generate\"} 14"), "{metrics}");
}

#[tokio::test]
async fn p11_the_books_of_a_pipeline_outlast_its_end() {
    let folder = Folder::new();
    stuck(&folder, &["a"]);
    generate(&folder, "short", 10, 100_000);
    let mut running = Running::start(&folder, &folder.path(""));
    let address = running.address("admin server");
    running.wait_for("the end of a pipeline", |running| running.log().contains("short: read 10"));
    let metrics = page_with(&mut running, &address, "metrics", "pipeline=\"a\"").await;
    for (account, count) in [("received", 10), ("delivered", 10), ("in_flight", 0)] {
        let line = format!("millstream_messages{{account=\"{account}\",pipeline=\"short\"}} {count}\n");
        assert!(metrics.contains(&line), "no {line} in\n{metrics}");
    }
}

#[test]
fn on_a_terminal_progress_is_drawn_and_what_is_told_stands_on_lines_of_its_own() {
    let folder = Folder::new();
    generate(&folder, "p", 2000, 2000);
    let file = folder.path("p.toml").display().to_string();
    let run = format!("{} run {file} --admin 127.0.0.1:0", env!("CARGO_BIN_EXE_millstream"));
    // Gives its command a terminal.
    let output =
        Command::new("script").args(["--quiet", "--return", "--command", &run, "/dev/null"]).output();
    let output = output.expect("this test needs script: apt-get install bsdutils");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}");
    assert!(
        text.contains(" messages, ") && text.contains("/s, ") && text.contains(" dead letters"),
        "{text:?}"
    );
    // What the terminal shows of a line begins behind the last sequence that erases it.
    let shown = |line: &str| line.rsplit('\u{1b}').next().map_or(String::new(), |end| end.to_owned());
    let told = text.lines().find(|line| line.contains("read 2000, delivered 2000")).expect("the report");
    assert!(
        shown(told).trim_start_matches("[K").trim_start_matches("[2K").starts_with("p: read"),
        "{told:?}"
    );
}

#[test]
fn a_path_that_came_from_a_variable_is_not_shown() {
    let folder = Folder::new();
    folder.write("in-sesame.txt", "not json\n");
    let text = "name = \"p\"\n[source]\ntype = \"file\"\npath = \"${IN}\"\ncodec = \"json\"\n[[sink]]\ntype = \"drop\"\n";
    let file = folder.write("p.toml", text).display().to_string();
    for arguments in [
        &["run", &file, "--admin", "127.0.0.1:0"][..],
        &["dlq", "list", &file, "--json"],
        &["dlq", "list", &file],
        &["checkpoint", "show", &file],
        &["checkpoint", "show", &file, "--json"],
    ] {
        let output = millstream(arguments).env("IN", "in-sesame.txt").output().expect("the binary starts");
        let told = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.success(), "{arguments:?}: {told}");
        assert!(!told.is_empty() && !told.contains("sesame"), "{arguments:?}: {told}");
    }
}

#[test]
fn the_reference_of_every_component_is_printed() {
    let (_, list, _) = run(&["components"]);
    let names: Vec<&str> =
        list.lines().filter_map(|line| line.strip_prefix("  ")?.split(' ').next()).collect();
    assert!(
        ["file", "http", "record", "jq", "enrich", "verify-signature"]
            .iter()
            .all(|name| names.contains(name)),
        "{list}"
    );
    for name in names {
        let (status, page, _) = run(&["components", name]);
        assert!(status.success() && page.contains("Example:") && page.contains("```toml"), "{name}: {page}");
    }
    let (_, page, _) = run(&["components", "verify-signature"]);
    assert!(page.contains("| `secrets`") && page.contains("Header that holds the signature"), "{page}");
}
