//! `dlq replay`: what comes again, where it goes, and what is left.

use serde_json::{Value, json};

use super::{Orders, Server, World, account, id, letter_of, number, numbers, record, sink_account};

/// Numbers and marks of the messages in the file of sink `a`.
fn in_file(world: &World) -> Vec<(u64, Value)> {
    let message = |line: String| {
        let record: Value = serde_json::from_str(&line).expect("a record");
        let headers = record["headers"].clone();
        let mark = match &headers {
            Value::Array(pairs) => {
                pairs.iter().find(|pair| pair[0] == "millstream-replays").map(|pair| pair[1].clone())
            }
            object => object.get("millstream-replays").cloned(),
        };
        (number(record["payload"].as_str().expect("a payload")), mark.unwrap_or(Value::Null))
    };
    world.folder.lines("a.ndjson").into_iter().map(message).collect()
}

/// Seven messages were read: 1, 2 and 3 failed in the plugin `check`, 4 for want of a route, 5 and 6
/// at the server, 7 goes through.
fn failing_world(server: &Server) -> World {
    let first: String = [1, 2].map(|n| record(&json!({ "n": n, "to": "a", "note": "!" }))).concat();
    let world = World::new(&Orders::of(server).toml(), &first);
    world.run();
    // Another run, so that their times are later.
    world.append(&record(&json!({ "n": 3, "to": "a", "note": "!" })));
    world.append(&record(&json!({ "n": 4, "to": "nowhere" })));
    world.append(&[5, 6].map(|n| record(&json!({ "n": n, "to": "b" }))).concat());
    world.append(&record(&json!({ "n": 7, "to": "a" })));
    world.run();
    world
}

fn those_meant_are_replayed_by_a_mended_pipeline(running: bool) {
    let server = Server::start(|_, body| if number(body) == 5 { 422 } else { 400 });
    let mut world = failing_world(&server);
    let letters = world.letters();
    let mut left = numbers(&letters);
    left.sort_unstable();
    assert_eq!(left, [1, 2, 3, 4, 5, 6]);
    let later = letter_of(&letters, 3)["failed_at"].as_str().expect("a time");
    assert!(letters.iter().all(|letter| number(letter["payload"].as_str().expect("text")) < 3
        || letter["failed_at"].as_str() >= Some(later)));

    // Nothing fails any more.
    server.answer_with(|_, _| 200);
    world.configure(
        &Orders { follow: running, trigger: "nothing", otherwise: &["a"], ..Orders::of(&server) }.toml(),
    );
    if running {
        world.start();
    }
    let tried = world.dlq("replay", &["--all", "--dry-run"]).ended_with(0);
    assert!(tried.err.ends_with("6 would be replayed\n"), "{}", tried.err);
    assert!(letters.iter().all(|letter| tried.out.contains(id(letter))), "{}", tried.out);
    assert_eq!(world.letters(), letters, "a dry run changes nothing");
    assert_eq!((in_file(&world), server.numbers()), (vec![(7, Value::Null)], vec![]));

    let mut expected = vec![(7, Value::Null)];
    for (arguments, n) in [
        (vec![id(letter_of(&letters, 1))], 1),
        (vec!["--until", later, "--since", "1h"], 2),
        (vec!["--plugin", "hostile"], 3),
        (vec!["--stage", "route"], 4),
        (vec!["--reason", "422"], 5),
        (vec!["--all"], 6),
    ] {
        let said = world.dlq("replay", &arguments).ended_with(0);
        assert!(
            said.err.ends_with("1 delivered, 0 dropped by a plugin, 0 failed again\n"),
            "{arguments:?}: {}",
            said.err
        );
        left.retain(|&left| left != n);
        let mut now = numbers(&world.letters());
        now.sort_unstable();
        assert_eq!(now, left, "{arguments:?}");
        match n {
            5 | 6 => assert_eq!(server.numbers().last(), Some(&n), "{arguments:?}"),
            n => expected.push((n, json!("1"))),
        }
        assert_eq!(in_file(&world), expected, "{arguments:?}");
    }
    let marks: Vec<Option<String>> = server.taken().into_iter().map(|taken| taken.replays).collect();
    assert_eq!(marks, [Some("1".to_owned()), Some("1".to_owned())]);
    let said = world.dlq("replay", &["--all"]).ended_with(0);
    assert!(said.err.ends_with("0 delivered, 0 dropped by a plugin, 0 failed again\n"), "{}", said.err);

    if running {
        let metrics = world.metrics();
        assert_eq!(account(&metrics, "delivered"), Some(6));
        assert_eq!(account(&metrics, "received"), Some(6));
        assert_eq!(["a", "b"].map(|sink| sink_account(&metrics, sink, "delivered")), [Some(4), Some(2)]);
        world.stop();
    }
}

#[test]
fn p5_those_meant_are_replayed_by_a_mended_pipeline_of_which_nothing_runs() {
    those_meant_are_replayed_by_a_mended_pipeline(false);
}

#[test]
fn p5_p11_those_meant_are_replayed_by_a_mended_pipeline_that_runs() {
    those_meant_are_replayed_by_a_mended_pipeline(true);
}

/// Every message to both sinks.
fn both_sinks(server: &Server, follow: bool) -> String {
    format!(
        r#"
name = "orders"
lanes = 1

[source]
type = "file"
path = "in.ndjson"
codec = "record"
mode = "{mode}"
poll_interval = "20ms"

[[sink]]
name = "a"
type = "file"
path = "a.ndjson"
codec = "record"

[[sink]]
name = "b"
type = "http"
url = "http://{address}/b"
"#,
        mode = if follow { "follow" } else { "once" },
        address = server.address,
    )
}

fn a_replay_goes_only_to_the_sink_that_did_not_have_it(running: bool) {
    let server = Server::start(|_, body| if number(body) == 2 { 400 } else { 200 });
    let input = [1, 2, 3].map(|n| record(&json!({ "n": n }))).concat();
    let mut world = World::new(&both_sinks(&server, running), &input);
    if running {
        world.start();
        world.wait_for("a dead letter", |world| world.letters().len() == 1);
        world.wait_for("the others", |world| {
            world.folder.lines("a.ndjson").len() == 3 && server.taken().len() == 2
        });
    } else {
        world.run();
    }
    let letters = world.letters();
    assert_eq!((numbers(&letters), &letters[0]["sinks"]), (vec![2], &json!(["b"])));

    server.answer_with(|_, _| 200);
    world.dlq("replay", &["--all"]).ended_with(0);
    assert_eq!(world.letters(), [Value::Null; 0]);
    let unmarked = [1, 2, 3].map(|n| (n, Value::Null));
    assert_eq!(in_file(&world), unmarked, "it had them all");
    let taken: Vec<(u64, Option<String>)> =
        server.taken().into_iter().map(|taken| (number(&taken.body), taken.replays)).collect();
    assert_eq!(taken, [(1, None), (3, None), (2, Some("1".to_owned()))]);

    if running {
        let metrics = world.metrics();
        assert_eq!(account(&metrics, "delivered"), Some(6));
        let books = ["received", "added", "dead_lettered"].map(|name| account(&metrics, name));
        assert_eq!(books, [Some(4), Some(3), Some(1)]);
        let of =
            |sink| ["offered", "delivered", "dead_lettered"].map(|name| sink_account(&metrics, sink, name));
        assert_eq!((of("a"), of("b")), ([3, 3, 0].map(Some), [4, 3, 1].map(Some)));
        world.stop();
    }
}

#[test]
fn p1_a_replay_goes_only_to_the_sink_that_did_not_have_it_where_nothing_runs() {
    a_replay_goes_only_to_the_sink_that_did_not_have_it(false);
}

#[test]
fn p1_p11_a_replay_goes_only_to_the_sink_that_did_not_have_it_where_the_pipeline_runs() {
    a_replay_goes_only_to_the_sink_that_did_not_have_it(true);
}

/// The letter without what a replay in vain changes.
fn lasting(letter: &Value) -> Value {
    let mut letter = letter.clone();
    let fields = letter.as_object_mut().expect("an object");
    for field in ["replays", "failed_at"] {
        fields.remove(field).expect("it is there");
    }
    letter
}

fn what_fails_again_is_left_as_it_was_read(running: bool) {
    let server = Server::start(|_, _| 500);
    let input =
        [record(&json!({ "n": 1, "to": "a", "note": "!" })), record(&json!({ "n": 2, "to": "b" }))].concat();
    let mut world = World::new(&Orders { follow: running, ..Orders::of(&server) }.toml(), &input);
    if running {
        world.start();
        world.wait_for("two dead letters", |world| world.letters().len() == 2);
    } else {
        world.run();
    }
    let before = world.letters();
    let attempts = [1, 2].map(|n| letter_of(&before, n)["attempts"].clone());
    assert_eq!(attempts, [json!(1), json!(2)], "a trap is tried once, the server up to max_attempts");
    let mut last: Vec<Value> = before.clone();
    for replays in 1..=5 {
        let said = world.dlq("replay", &["--all"]).ended_with(1);
        assert!(said.err.ends_with("0 delivered, 0 dropped by a plugin, 2 failed again\n"), "{}", said.err);
        let letters = world.letters();
        for n in [1, 2] {
            let letter = letter_of(&letters, n);
            assert_eq!(lasting(letter), lasting(letter_of(&before, n)));
            assert_eq!(letter["replays"], replays);
            let failed_at =
                |letters: &[Value]| letter_of(letters, n)["failed_at"].as_str().expect("a time").to_owned();
            assert!(failed_at(&letters) > failed_at(&last));
        }
        last = letters;
    }
    // So a loop ends.
    let said = world.dlq("replay", &["--all"]).ended_with(1);
    assert!(said.err.contains("0 failed again\n2 left out"), "{}", said.err);
    assert!(said.err.contains("replayed 5 times already, each time in vain; --force"), "{}", said.err);
    let said = world.dlq("replay", &["--all", "--dry-run"]).ended_with(0);
    assert!(said.err.starts_with("0 would be replayed\n2 left out"), "{}", said.err);
    assert_eq!(world.letters(), last);

    world.dlq("replay", &["--all", "--force"]).ended_with(1);
    assert!(world.letters().iter().all(|letter| letter["replays"] == 6));
    server.answer_with(|_, _| 200);
    world.dlq("replay", &["--stage", "sink", "--force"]).ended_with(0);
    assert_eq!(server.taken()[0].replays.as_deref(), Some("7"));
    assert_eq!(numbers(&world.letters()), [1]);

    if running {
        let metrics = world.metrics();
        assert_eq!(account(&metrics, "delivered"), Some(1));
        // Two that were read, and seven replays of each but for the last of one.
        let books = ["received", "added", "dead_lettered"].map(|name| account(&metrics, name));
        assert_eq!(books, [Some(2 + 6 + 7), Some(0), Some(14)]);
        world.stop();
    }
}

#[test]
fn p5_what_fails_again_is_left_as_it_was_read_where_nothing_runs() {
    what_fails_again_is_left_as_it_was_read(false);
}

#[test]
fn p5_p11_what_fails_again_is_left_as_it_was_read_where_the_pipeline_runs() {
    what_fails_again_is_left_as_it_was_read(true);
}

#[test]
fn a_replay_in_vain_does_not_stop_the_pipeline() {
    let server = Server::start(|_, body| if number(body) <= 4 { 400 } else { 200 });
    let input: String = (1..=10).rev().map(|n| record(&json!({ "n": n, "to": "b" }))).collect();
    let limit = "[dead_letters]\nstop_above = { share = 0.5, window = \"1h\", min_messages = 2 }";
    let orders = Orders { more: limit, ..Orders::of(&server) };
    let mut world = World::new(&orders.toml(), &input);
    world.run();
    let said = world.dlq("replay", &["--all"]).ended_with(1);
    assert!(said.err.ends_with("0 delivered, 0 dropped by a plugin, 4 failed again\n"), "{}", said.err);

    world.configure(&Orders { follow: true, ..orders }.toml());
    world.start();
    let said = world.dlq("replay", &["--all"]).ended_with(1);
    assert!(said.err.ends_with("0 delivered, 0 dropped by a plugin, 4 failed again\n"), "{}", said.err);
    world.append(&record(&json!({ "n": 11, "to": "b" })));
    world.wait_for("the next message", |_| server.numbers().contains(&11));
    world.stop();
    assert_eq!(world.letters().len(), 4);
}

#[test]
fn what_comes_back_by_way_of_the_source_is_known_by_its_mark() {
    let server = Server::start(|_, _| 400);
    let looped = |n: u64, replays: &str| {
        let payload = json!({ "n": n, "to": "b" }).to_string();
        format!("{}\n", json!({ "headers": { "Millstream-Replays": replays }, "payload": payload }))
    };
    let world = World::new(&Orders::of(&server).toml(), &(looped(1, "4") + &looped(2, "5")));
    world.run();
    let before = world.letters();
    assert_eq!([1, 2].map(|n| letter_of(&before, n)["replays"].clone()), [json!(4), json!(5)]);
    let said = world.dlq("replay", &["--all"]).ended_with(1);
    let left_out = format!("1 left out ({})", id(letter_of(&before, 2)));
    assert!(said.err.contains("1 failed again\n") && said.err.contains(&left_out), "{}", said.err);
    let after = world.letters();
    assert_eq!(letter_of(&after, 1)["replays"], 5);
    assert_eq!(letter_of(&after, 1)["headers"], json!({ "Millstream-Replays": "4" }), "as it was read");
    assert_eq!(letter_of(&after, 2), letter_of(&before, 2));
    server.answer_with(|_, _| 200);
    world.dlq("replay", &["--all", "--force"]).ended_with(0);
    let marks: Vec<Option<String>> = server.taken().into_iter().map(|taken| taken.replays).collect();
    assert_eq!(marks, [Some("6".to_owned()), Some("6".to_owned())]);
}

#[test]
fn a_replay_with_nothing_running_tells_what_it_waits_for() {
    let server = Server::start(|_, _| 400);
    let world = World::new(&Orders::of(&server).toml(), &record(&json!({ "n": 1, "to": "b" })));
    world.run();
    let asked = std::sync::atomic::AtomicU32::new(0);
    server.answer_with(move |_, _| match asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
        0 | 1 => 503,
        _ => 200,
    });
    let said = world.dlq("replay", &["--all"]).ended_with(0);
    assert_eq!(said.err.matches("the sink is unavailable; waiting for it").count(), 2, "{}", said.err);
    assert!(said.err.contains("the sink is back"), "{}", said.err);
    assert!(said.err.ends_with("1 delivered, 0 dropped by a plugin, 0 failed again\n"), "{}", said.err);
    assert_eq!((server.numbers(), world.letters()), (vec![1], vec![]));
}

#[test]
fn a_running_pipeline_whose_dead_letters_go_to_a_sink_answers_too() {
    let server = Server::start(|_, _| 400);
    let input = [record(&json!({ "n": 1, "to": "b" })), record(&json!({ "n": 2, "to": "b" }))].concat();
    let mut world = World::new(&Orders::of(&server).toml(), &input);
    world.run();
    let before = world.letters();
    let to_a_file = "[dead_letters]\ntype = \"file\"\npath = \"dead.ndjson\"\ncodec = \"record\"\n";
    let orders = Orders { follow: true, more: to_a_file, ..Orders::of(&server) };
    world.configure(&orders.toml());
    world.start();
    assert_eq!(world.letters(), before, "those from before are still there");
    let saved = world.checkpoint("show", &["--json"]).ended_with(0).objects();
    assert_eq!(saved[0]["checkpoint"]["files"][0]["record"], 2);

    // What fails again goes where dead letters go now.
    world.dlq("replay", &[id(letter_of(&before, 1))]).ended_with(1);
    assert_eq!(numbers(&world.letters()), [2]);
    let dead: Vec<Value> = world
        .folder
        .lines("dead.ndjson")
        .iter()
        .map(|line| serde_json::from_str(line).expect("a record"))
        .collect();
    assert_eq!(dead.len(), 1);
    assert_eq!(number(dead[0]["payload"].as_str().expect("a payload")), 1);
    let headers = dead[0]["headers"].to_string();
    assert!(headers.contains(r#"["millstream-dlq-replays","1"]"#), "{headers}");
    assert!(!headers.contains("millstream-replays"), "{headers}");
    world.dlq("purge", &["--all", "--yes"]).ended_with(0);
    let said = world.dlq("list", &[]).ended_with(0);
    assert_eq!(said.err, "no dead letters here: this pipeline writes them to the sink dead-letters\n");
    world.metrics();
    world.stop();
    assert_eq!(world.dlq("list", &[]), said, "the same with nothing running");
}

/// Every part of a message to both servers.
fn parts(server: &Server) -> String {
    format!(
        r#"
name = "orders"
lanes = 1

[source]
type = "file"
path = "in.ndjson"
codec = "record"

[[plugin]]
use = "jq"
config = {{ program = ".n as $n | .parts[] | {{ n: $n, part: . }}" }}

[[sink]]
name = "a"
type = "http"
url = "http://{address}/a"

[[sink]]
name = "b"
type = "http"
url = "http://{address}/b"
"#,
        address = server.address,
    )
}

#[test]
fn p5_parts_of_a_message_that_fail_at_a_sink_are_one_dead_letter_of_it() {
    let refuse = |path: &str, body: &str| match path {
        "/a" if body.contains("bad") => 400,
        "/b" if body.contains("worst") => 400,
        _ => 200,
    };
    let server = Server::start(refuse);
    let payload = json!({ "n": 1, "parts": ["good", "bad", "bad and worst"] });
    let world = World::new(&parts(&server), &record(&payload));
    let said = world.run();
    assert!(said.err.contains("read 1, delivered 3, filtered 0, dead letters 3"), "{}", said.err);
    let before = world.letters();
    let mut sinks: Vec<(&str, &Value)> =
        before.iter().map(|letter| (letter["stage"].as_str().expect("a stage"), &letter["sinks"])).collect();
    sinks.sort_by_key(|&(stage, _)| stage);
    assert_eq!(sinks, [("sink:a", &json!(["a"])), ("sink:b", &json!(["b"]))]);
    let original = payload.to_string();
    assert!(before.iter().all(|letter| letter["payload"] == original.as_str()), "{before:?}");
    assert_ne!(id(&before[0]), id(&before[1]));

    // Where one of its parts fails again the dead letter stays, once.
    server.answer_with(move |path, body| if path == "/b" { 200 } else { refuse(path, body) });
    let said = world.dlq("replay", &["--all"]).ended_with(1);
    assert!(said.err.ends_with("1 delivered, 0 dropped by a plugin, 1 failed again\n"), "{}", said.err);
    let after = world.letters();
    assert_eq!((after.len(), &after[0]["stage"], &after[0]["replays"]), (1, &json!("sink:a"), &json!(1)));
    let of_a = before.iter().find(|letter| letter["stage"] == "sink:a").expect("it was there");
    assert_eq!(id(&after[0]), id(of_a));

    server.answer_with(|_, _| 200);
    world.dlq("replay", &["--all"]).ended_with(0);
    assert_eq!(world.letters(), [Value::Null; 0]);
    // Each replay makes all parts again, for its sink alone.
    let taken = |path: &str, marked: bool| {
        let taken = server
            .taken()
            .into_iter()
            .filter(|taken| taken.path == path && taken.replays.is_some() == marked);
        let mut parts: Vec<String> = taken
            .map(|taken| {
                let body: Value = serde_json::from_str(&taken.body).expect("JSON");
                body["part"].as_str().expect("a part").to_owned()
            })
            .collect();
        parts.sort();
        parts
    };
    assert_eq!(taken("/a", false), ["good"]);
    assert_eq!(taken("/b", false), ["bad", "good"]);
    assert_eq!(taken("/a", true), ["bad", "bad and worst", "good", "good"]);
    assert_eq!(taken("/b", true), ["bad", "bad and worst", "good"]);
}
