//! Sources through a proxy that fails as services and networks do; and what is told when a service refuses us.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use axum::Router;
use axum::http::{HeaderMap, StatusCode};
use serde_json::{Value, json};

use super::kinesis_source::world::Stream;
use super::proxy::{Fault, Faults, Proxy};
use super::queues::Queue;
use super::sinks::{assert_all, assert_all_in_order, dead_letters, number, start};
use crate::services::aws::{ENVIRONMENT, REGION, SECRET_KEY, StandIn};
use crate::support::{DEADLINE, Folder, Running, ask, look, millstream, rounds, seed};

const GROUPS: u64 = 5;

/// Each fault alone, then all together: `run` is given which, of how many percent of requests, the number of
/// messages and a seed, and returns how often what happened.
fn every_fault(mut run: impl FnMut(&[Fault], u32, u64, u64) -> BTreeMap<Fault, usize>) {
    let seed = seed();
    let mixed = rounds("faults mixed", 1, 20);
    let alone = Fault::ALL.iter().map(|&fault| (vec![fault], 30, 20));
    let rounds = alone.chain(std::iter::repeat_n((Fault::ALL.to_vec(), 25, 120), mixed));
    let mut happened = 0;
    for (round, (faults, percent, messages)) in rounds.enumerate() {
        let seed = seed.wrapping_add(round as u64);
        println!("{faults:?}, seed {seed}");
        let done = run(&faults, percent, messages, seed);
        println!("{done:?}");
        happened += done.values().sum::<usize>();
    }
    // One alone may not come about in a few requests.
    assert!(happened > 0, "nothing failed");
}

/// Numbered payload of a group, as tests of sinks have them.
fn payload(number: u64) -> String {
    json!({ "number": number }).to_string()
}

/// Runs a source to a file until `is_done`; the numbers that arrived, in order. Its books balance all the
/// time (P11), and nothing is a dead letter.
fn arrived(source: &str, ordering: &str, mut is_done: impl FnMut(&[u64]) -> bool) -> Vec<u64> {
    let folder = Folder::new();
    let file = folder.write(
        "faults.toml",
        &format!(
            "name = \"faults\"\nordering = \"{ordering}\"\n[source]\n{source}\n\
             [[sink]]\ntype = \"file\"\npath = \"out.ndjson\"\n"
        ),
    );
    let mut running = start(&folder, &file);
    let admin = running.address("admin server listening");
    let numbers = || -> Vec<u64> { folder.lines("out.ndjson").iter().map(|line| number(line)).collect() };
    running.wait_for("all messages are done", |_| {
        look(&admin);
        is_done(&numbers())
    });
    running.terminate();
    assert!(running.end().success(), "{}", running.log());
    assert_eq!(dead_letters(&file), [Value::Null; 0]);
    numbers()
}

fn from_queue(is_fifo: bool) {
    let stand_in = StandIn::fauxqs();
    every_fault(|faults, percent, messages, seed| {
        let queue = if is_fifo { Queue::fifo(stand_in) } else { Queue::standard(stand_in) };
        let groups: Vec<String> = (0..GROUPS).map(|group| format!("g{group}")).collect();
        queue
            .send((0..messages).map(|number| (groups[(number % GROUPS) as usize].as_str(), payload(number))));
        let proxy = Proxy::start(stand_in, Faults::new(faults, percent), seed);
        let source = format!(
            "type = \"sqs\"\nqueue = \"{}\"\nwait_time = \"0s\"\nvisibility_timeout = \"3s\"\n{}",
            queue.name,
            proxy.toml()
        );
        let ordering = if is_fifo { "key" } else { "none" };
        // Also deleted: nobody gets it again.
        let numbers =
            arrived(&source, ordering, |numbers| numbers.len() as u64 >= messages && queue.is_empty());
        match is_fifo {
            true => assert_all_in_order(numbers, GROUPS, messages),
            false => assert_all(numbers, messages),
        }
        proxy.done()
    });
}

#[test]
fn p1_p3_p11_a_fifo_queue_through_every_fault() {
    from_queue(true);
}

#[test]
fn p1_p11_a_standard_queue_through_every_fault() {
    from_queue(false);
}

#[test]
fn p1_p3_p11_a_stream_through_every_fault() {
    every_fault(|faults, percent, messages, seed| {
        // Of what a source of a stream asks nothing is a batch.
        if faults == [Fault::Partial] {
            return BTreeMap::new();
        }
        let stream = Stream::new(2);
        for number in 0..messages {
            stream.put(&format!("k{}", number % GROUPS), payload(number).as_bytes());
        }
        let proxy = Proxy::start(StandIn::kinesis(), Faults::new(faults, percent), seed);
        // So that there is more than one call of each shard.
        let (name, aws) = (&stream.name, proxy.toml());
        let source = format!("type = \"kinesis\"\nstream = \"{name}\"\nrecords = 10\n{aws}");
        let is_done = |numbers: &[u64]| numbers.len() as u64 >= messages && !proxy.done().is_empty();
        assert_all_in_order(arrived(&source, "key", is_done), GROUPS, messages);
        proxy.done()
    });
}

/// The token of a session, which is a secret too.
const TOKEN: &str = "IQoJb3JpZ2lu/TestTokenThatIsNowhere+2==";

/// A service, whichever is asked, that refuses our signature and tells what the secrets were.
fn refusing() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.set_nonblocking(true).expect("it can be");
    let url = format!("http://{}", listener.local_addr().expect("it listens"));
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let app = Router::new().fallback(|headers: HeaderMap| async move {
                let words = format!("it was signed with {SECRET_KEY} by the session {TOKEN}");
                let code = "SignatureDoesNotMatch";
                let body = match headers.get("x-amz-target") {
                    Some(_) => json!({ "__type": code, "message": words }).to_string(),
                    // SNS and S3, of which the one has it within the other's.
                    None => format!(
                        "<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code><Message>{words}</Message>\
                         </Error></ErrorResponse>"
                    ),
                };
                (StatusCode::FORBIDDEN, body)
            });
            let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
            axum::serve(listener, app).await.expect("it serves");
        });
    });
    url
}

#[test]
fn no_secret_is_in_anything_that_is_told() {
    let aws = format!("aws = {{ region = {REGION:?}, endpoint = \"{}\" }}", refusing());
    let file = "type = \"file\"\npath = \"in.ndjson\"\nmode = \"follow\"".to_owned();
    let drop = "type = \"drop\"".to_owned();
    let cases = [
        (format!("type = \"sqs\"\nqueue = \"q\"\n{aws}"), drop.clone()),
        (format!("type = \"kinesis\"\nstream = \"s\"\n{aws}"), drop.clone()),
        (
            format!("type = \"kinesis\"\nstream = \"s\"\n{aws}\nleases = {{ table = \"leases\", {aws} }}"),
            drop,
        ),
        (file.clone(), format!("type = \"sqs\"\nqueue = \"q\"\n{aws}")),
        (file.clone(), format!("type = \"sns\"\ntopic = \"arn:aws:sns:eu-central-1:1:t\"\n{aws}")),
        (
            file.clone(),
            format!(
                "type = \"sns\"\ntopic = \"arn:aws:sns:eu-central-1:1:t\"\n{aws}\n\
                 claim_check = {{ bucket = \"payloads\", threshold = \"0B\" }}"
            ),
        ),
        (file, format!("type = \"kinesis\"\nstream = \"s\"\n{aws}")),
    ];
    for (source, sink) in cases {
        let folder = Folder::new();
        folder.write("in.ndjson", "{}\n");
        let file = folder.write(
            "refused.toml",
            &format!("name = \"refused\"\nordering = \"none\"\nshutdown_timeout = \"1s\"\n[source]\n{source}\n[[sink]]\n{sink}\n"),
        );
        let mut command = millstream(&["run", file.to_str().expect("UTF-8"), "--admin", "127.0.0.1:0"]);
        command.envs(ENVIRONMENT).env("AWS_SESSION_TOKEN", TOKEN).env("MILLSTREAM_LOG", "debug");
        let mut running = Running::of(&folder, command.stdout(std::process::Stdio::null()));
        let admin = running.address("admin server listening");
        let mut said = String::new();
        let end = Instant::now() + DEADLINE;
        while !said.contains("SignatureDoesNotMatch") && !said.contains("403") {
            assert!(Instant::now() < end, "{source}\n{sink}\n{said}\n{}", running.log());
            said = ask(&admin, "/readyz").filter(|(status, _)| *status == 503).unwrap_or_default().1;
            std::thread::sleep(Duration::from_millis(20));
        }
        for page in ["/metrics", "/status", "/healthz"] {
            said += &ask(&admin, page).unwrap_or_default().1;
        }
        running.terminate();
        running.end();
        said += &running.log();
        for secret in [SECRET_KEY, TOKEN] {
            assert!(!said.contains(secret), "{source}\n{sink}\n{said}");
        }
    }
}

#[test]
fn no_secret_is_in_what_commands_tell() {
    let aws = format!("aws = {{ region = {REGION:?}, endpoint = \"{}\" }}", refusing());
    let folder = Folder::new();
    let file = folder.write(
        "refused.toml",
        &format!(
            "name = \"refused\"\nordering = \"none\"\n[source]\ntype = \"sqs\"\nqueue = \"q\"\n{aws}\n\
             [[sink]]\ntype = \"sns\"\ntopic = \"arn:aws:sns:eu-central-1:1:t\"\n{aws}\n\
             [[sink.subscriptions]]\nqueue = \"q\"\n\
             [dead_letters]\ntype = \"sqs\"\nqueue = \"dead\"\n{aws}\n"
        ),
    );
    let file = file.to_str().expect("UTF-8");
    let commands: [&[&str]; 6] = [
        &["check", file, "--connect"],
        &["aws", "fanout", file],
        &["dlq", "list", file],
        &["dlq", "replay", file, "--all"],
        &["dlq", "purge", file, "--all", "--yes"],
        &["dlq", "move", file],
    ];
    for arguments in commands {
        let mut command = millstream(arguments);
        command.envs(ENVIRONMENT).env("AWS_SESSION_TOKEN", TOKEN).env("MILLSTREAM_LOG", "debug");
        let output = command.output().expect("the binary starts");
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(!output.status.success(), "{arguments:?}\n{said}");
        assert!(said.contains("SignatureDoesNotMatch"), "{arguments:?}\n{said}");
        for secret in [SECRET_KEY, TOKEN] {
            assert!(!said.contains(secret), "{arguments:?}\n{said}");
        }
    }
}
