//! `dlq list`, `show` and `export`, and what they hide.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{Orders, Said, Server, World, id, letter_of, record};
use crate::support::{guest, millstream};

const CARD: &str = "4711 0815";

/// Six messages, five of which fail: each at another stage, two of them in a plugin.
fn input() -> String {
    let base64 = json!({ "payload_base64": "/wD+", "timestamp": "2026-01-31T12:00:00Z" });
    [
        record(&json!({ "n": 1, "to": "a" })),
        "this is no record\n".to_owned(),
        record(&json!({ "n": 3, "to": "a", "card": CARD, "note": "!" })),
        record(&json!({ "n": 4, "to": "nowhere" })),
        record(&json!({ "n": 5, "to": "b" })),
        format!("{base64}\n"),
    ]
    .concat()
}

/// The pipeline runs, and everything of its input is settled and committed.
fn running_world(server: &Server) -> World {
    let mut world = World::new(&Orders { follow: true, ..Orders::of(server) }.toml(), &input());
    world.start();
    world.wait_for("five dead letters", |world| world.letters().len() == 5);
    world.wait_for("the commit", |world| {
        let saved = world.checkpoint("show", &["--json"]).ended_with(0).objects();
        saved.iter().any(|saved| saved["checkpoint"]["files"][0]["record"] == 6)
    });
    world
}

fn stage(letter: &Value) -> &str {
    letter["stage"].as_str().expect("every dead letter has a stage")
}

/// Everything that can be asked, and the answers.
fn answers(world: &World) -> Vec<(String, String)> {
    let letters = world.letters();
    let ids: Vec<&str> = letters.iter().map(id).collect();
    let last = letters.iter().map(|letter| letter["failed_at"].as_str().expect("a time")).max();
    let last = last.expect("there are dead letters");
    let mut questions: Vec<(&str, Vec<&str>)> = vec![
        ("list", vec![]),
        ("list", vec!["--limit", "2"]),
        ("list", vec!["--json"]),
        ("list", vec!["--json", "--reveal"]),
        ("list", vec!["--stage", "plugin"]),
        ("list", vec!["--reason", "as the test WANTS it", "--json"]),
        ("list", vec!["--since", last, "--json"]),
        ("list", vec!["--until", last, "--json"]),
        ("show", vec!["0123456789"]),
        ("replay", vec!["--all", "--dry-run"]),
        ("replay", vec!["0123456789"]),
        ("purge", vec!["0123456789", "--yes"]),
    ];
    for &id in &ids {
        questions.push(("show", vec![id]));
        questions.push(("show", vec![id, "--json"]));
        questions.push(("show", vec![id, "--reveal"]));
    }
    let mut answers: Vec<(String, String)> = questions
        .iter()
        .map(|(verb, arguments)| {
            (format!("{verb} {arguments:?}"), format!("{:?}", world.dlq(verb, arguments)))
        })
        .collect();
    let exported = world.folder.path("exported.ndjson");
    let said = world.dlq("export", &["--to", exported.to_str().expect("UTF-8")]).ended_with(0);
    answers.push(("export".to_owned(), said.err));
    answers.push(("exported".to_owned(), std::fs::read_to_string(&exported).expect("it is there")));
    std::fs::remove_file(&exported).expect("it was there");
    for mut saved in world.checkpoint("show", &["--json"]).ended_with(0).objects() {
        // A clean stop may save it once more.
        saved.as_object_mut().expect("an object").remove("saved_at").expect("a time");
        answers.push(("checkpoint".to_owned(), saved.to_string()));
    }
    answers
}

#[test]
fn p5_the_running_process_and_the_folder_of_one_that_has_ended_give_the_same_answers() {
    let server = Server::start(|_, _| 400);
    let mut world = running_world(&server);
    let running = answers(&world);
    assert_eq!(running.iter().filter(|(question, _)| question == "checkpoint").count(), 1);
    world.stop();
    assert_eq!(answers(&world), running);
}

#[test]
fn p5_json_has_the_fields_that_programs_count_on() {
    let server = Server::start(|_, _| 400);
    let world = World::new(&Orders::of(&server).toml(), &input());
    world.run();
    let letters = world.letters();
    let stages: BTreeSet<&str> = letters.iter().map(stage).collect();
    assert_eq!(stages, BTreeSet::from(["source", "plugin:check", "plugin:mask", "route", "sink:b"]));

    let promised = [
        "id",
        "pipeline",
        "stage",
        "plugin",
        "plugin_sha256",
        "reason",
        "attempts",
        "position",
        "failed_at",
        "key",
        "headers",
    ];
    let beside =
        ["source", "plugin_version", "code", "trap", "read_at", "trace_id", "replays", "sinks", "timestamp"];
    for letter in &letters {
        let is_text = stage(letter) != "plugin:mask";
        let payload = if is_text { "payload" } else { "payload_base64" };
        let fields: BTreeSet<&str> =
            letter.as_object().expect("an object").keys().map(String::as_str).collect();
        let expected = promised.into_iter().chain(beside).chain([payload]);
        assert_eq!(fields, expected.collect::<BTreeSet<&str>>(), "{letter}");
        let shown = world.dlq("show", &[id(letter), "--json", "--reveal"]).ended_with(0);
        assert_eq!(shown.objects(), std::slice::from_ref(letter));
    }

    let of_stage =
        |wanted: &str| letters.iter().find(|letter| stage(letter) == wanted).expect("it failed there");
    let trapped = of_stage("plugin:check");
    let sha256 = hex::encode(Sha256::digest(std::fs::read(guest("hostile")).expect("the plugin")));
    assert_eq!(id(trapped).len(), 20, "{trapped}");
    let position = trapped["position"].as_str().expect("a position");
    assert!(position.starts_with("in.ndjson line 3 "), "{position}");
    for time in ["failed_at", "read_at"] {
        let text = trapped[time].as_str().expect("a time");
        text.parse::<jiff::Timestamp>().unwrap_or_else(|error| panic!("{time} {text}: {error}"));
    }
    assert!(trapped["reason"].as_str().expect("a reason").contains("panicked or aborted"), "{trapped}");
    for (field, expected) in [
        ("pipeline", json!("orders")),
        ("source", json!("file:in.ndjson")),
        ("plugin", json!("hostile")),
        ("plugin_sha256", json!(sha256)),
        ("code", json!("trap")),
        ("attempts", json!(1)),
        ("key", json!("k3")),
        ("headers", json!([["h", "1"], ["h", "2"], ["authorization", "Bearer t0k3n"]])),
        ("payload", json!(json!({ "n": 3, "to": "a", "card": CARD, "note": "!" }).to_string())),
        ("timestamp", json!("2026-01-31T12:00:00.000Z")),
        ("replays", json!(0)),
        ("sinks", json!([])),
    ] {
        assert_eq!(trapped[field], expected, "{field} of {trapped}");
    }
    assert_eq!(of_stage("plugin:mask")["payload_base64"], "/wD+");
    assert_eq!(of_stage("plugin:mask")["key"], Value::Null);
    assert_eq!(of_stage("source")["payload"], "this is no record");
    assert_eq!(of_stage("source")["code"], "decode-error");
    assert_eq!(of_stage("route")["plugin"], Value::Null);
    let refused = of_stage("sink:b");
    assert_eq!(refused["sinks"], json!(["b"]));
    let reason = refused["reason"].as_str().expect("a reason");
    assert!(reason.contains("400") && reason.contains("as the test wants it"), "{reason}");
}

#[test]
fn a_filter_shows_those_that_it_means() {
    let server = Server::start(|_, _| 400);
    let world = World::new(&Orders::of(&server).toml(), &input());
    world.run();
    let letters = world.letters();
    let sha256 = letter_of_stage(&letters, "plugin:check")["plugin_sha256"].as_str().expect("a hash");
    let times: Vec<&str> =
        letters.iter().map(|letter| letter["failed_at"].as_str().expect("a time")).collect();
    let last = times.iter().max().expect("there are dead letters");
    let all = ["source", "plugin:check", "plugin:mask", "route", "sink:b"];
    let at_last = |at_last: bool| {
        let wanted = |letter: &&Value| (letter["failed_at"] == **last) == at_last;
        letters.iter().filter(wanted).map(stage).collect::<Vec<_>>()
    };
    for (arguments, expected) in [
        (vec!["--stage", "source"], vec!["source"]),
        (vec!["--stage", "plugin"], vec!["plugin:check", "plugin:mask"]),
        (vec!["--stage", "plugin:mask"], vec!["plugin:mask"]),
        (vec!["--stage", "route"], vec!["route"]),
        (vec!["--stage", "sink"], vec!["sink:b"]),
        (vec!["--stage", "sink:a"], vec![]),
        (vec!["--plugin", "hostile"], vec!["plugin:check"]),
        (vec!["--plugin", "check"], vec!["plugin:check"]),
        (vec!["--plugin", sha256], vec!["plugin:check"]),
        (vec!["--reason", "UNROUTED"], vec!["route"]),
        (vec!["--reason", "test wants"], vec!["sink:b"]),
        (vec!["--since", "1h"], all.to_vec()),
        (vec!["--until", "1h"], vec![]),
        (vec!["--since", last], at_last(true)),
        (vec!["--until", last], at_last(false)),
        (vec!["--since", "1h", "--stage", "plugin", "--reason", "trap"], vec!["plugin:check"]),
    ] {
        let listed = world.dlq("list", &[&["--json"], &arguments[..]].concat()).ended_with(0).objects();
        let listed: BTreeSet<&str> = listed.iter().map(stage).collect();
        assert_eq!(listed, expected.into_iter().collect(), "{arguments:?}");
    }
    let said = world.dlq("list", &["--stage", "check"]).ended_with(2);
    assert!(said.err.contains("plugin:STEP"), "{}", said.err);
    let said = world.dlq("list", &["--since", "yesterday"]).ended_with(2);
    assert!(said.err.contains("2026-01-31T12:00:00Z"), "{}", said.err);
}

fn letter_of_stage<'a>(letters: &'a [Value], wanted: &str) -> &'a Value {
    letters.iter().find(|letter| stage(letter) == wanted).expect("one failed there")
}

#[test]
fn what_mask_hides_is_hidden_unless_it_is_to_be_revealed() {
    let server = Server::start(|_, _| 400);
    let world = World::new(&Orders::of(&server).toml(), &input());
    world.run();
    let letters = world.letters();
    let trapped = id(letter_of(&letters, 3));
    let hidden = ["4711", "t0k3n", "this is no record", "/wD+"];
    let all = &["--json"][..];
    for (verb, arguments) in [
        ("list", all),
        ("list", &[]),
        ("show", &[trapped]),
        ("show", &[trapped, "--json"]),
        ("replay", &["--all", "--dry-run"]),
    ] {
        let said = world.dlq(verb, arguments).ended_with(0);
        for value in hidden {
            assert!(!said.out.contains(value), "{verb} {arguments:?} shows {value}: {}", said.out);
        }
    }
    let shown = world.dlq("show", &[trapped, "--json"]).objects().remove(0);
    assert_eq!(shown["payload"], json!({ "n": 3, "to": "a", "card": "***", "note": "!" }).to_string());
    assert_eq!(shown["headers"], json!([["h", "1"], ["h", "2"], ["authorization", "***"]]));

    let revealed = world.dlq("list", &["--json", "--reveal"]).ended_with(0).out;
    for value in hidden {
        assert!(revealed.contains(value), "{value} is not in {revealed}");
    }
    let revealed = world.dlq("show", &[trapped, "--reveal"]).ended_with(0).out;
    assert!(revealed.contains("authorization: Bearer t0k3n") && revealed.contains(CARD), "{revealed}");
}

#[test]
fn an_id_that_no_dead_letter_has_is_an_error_that_names_it_and_does_nothing() {
    let server = Server::start(|_, _| 400);
    let world = World::new(&Orders::of(&server).toml(), &input());
    let never_ran = world.dlq("show", &["nosuch"]).ended_with(1);
    assert!(never_ran.err.contains("there is no dead letter nosuch"), "{}", never_ran.err);
    world.run();
    let before = world.letters();
    let known = id(letter_of(&before, 5));
    server.answer_with(|_, _| 200);
    let exported = world.folder.path("exported.ndjson");
    let to = exported.to_str().expect("UTF-8");
    for (verb, arguments) in [
        ("show", &["nosuch"][..]),
        ("replay", &["nosuch"]),
        ("replay", &[known, "nosuch"]),
        ("replay", &["nosuch", "--dry-run"]),
        ("purge", &["nosuch", "--yes"]),
        ("purge", &[known, "nosuch", "--yes"]),
        ("export", &["nosuch", "--to", to]),
    ] {
        let said = world.dlq(verb, arguments).ended_with(1);
        let expected = "error: there is no dead letter nosuch; `millstream dlq list` shows those there are\n";
        assert_eq!((said.out.as_str(), said.err.as_str()), ("", expected), "{verb} {arguments:?}");
    }
    let said = world.dlq("purge", &["no1", known, "no2", "--yes"]).ended_with(1);
    assert!(said.err.contains("there are no dead letters no1, no2;"), "{}", said.err);
    assert_eq!(world.letters(), before);
    assert_eq!(server.numbers(), [0; 0]);
    assert!(!exported.exists());
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let server = Server::start(|_, _| 400);
    let world = World::new(&Orders::of(&server).toml(), "");
    // More than a pipe holds.
    super::many::fill(&world, 2_000, 200);
    for (verb, arguments) in [("list", &[][..]), ("list", &["--json"]), ("replay", &["--all", "--dry-run"])] {
        let mut child = world
            .dlq_command(verb, arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let mut line = String::new();
        let mut out = BufReader::new(child.stdout.take().expect("its output"));
        out.read_line(&mut line).expect("a line");
        drop(out);
        let output = child.wait_with_output().expect("it ends");
        let err = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && !err.contains("panic"), "{verb} {arguments:?}: {err}");
        assert!(line.len() > 10, "{line}");
    }

    // `2>&1 | head -1`: what it has to tell finds no reader either.
    let (mut reader, writer) = std::io::pipe().expect("a pipe");
    let mut child = world
        .dlq_command("list", &[])
        .stdout(writer.try_clone().expect("a copy"))
        .stderr(writer)
        .spawn()
        .expect("the binary starts");
    reader.read_exact(&mut [0; 10]).expect("the begin of a line");
    drop(reader);
    assert!(child.wait().expect("it ends").success());
}

#[test]
fn p5_the_commands_that_show_prints_repeat_the_refusal_offline() {
    let pipeline = r#"
name = "orders"
[source]
type = "file"
path = "in.ndjson"
[[plugin]]
name = "double"
use = "jq"
config = { program = ".n * 2" }
[[plugin]]
name = "positive"
use = "jq"
config = { program = "if . < 0 then error(\"negative: \\(.)\") else . end" }
[[sink]]
type = "drop"
"#;
    let world = World::new(pipeline, "{\"n\":1}\n{\"n\":-2}\n");
    world.run();
    let letters = world.letters();
    let id = letters[0]["id"].as_str().expect("an id");
    let shown = world.dlq("show", &[id]).ended_with(0);
    let commands: Vec<&str> = shown.err.lines().filter(|line| line.starts_with("  millstream ")).collect();
    let said: Vec<Said> = commands
        .iter()
        .map(|command| {
            let arguments: Vec<&str> = command.split_whitespace().skip(1).collect();
            Said::of(millstream(&arguments).current_dir(world.folder.path(""))).ended_with(0)
        })
        .collect();
    assert_eq!(said.len(), 2, "{shown:?}");
    let again = said[1].objects();
    assert_eq!(again.len(), 1, "{again:?}");
    for field in ["code", "reason"] {
        assert_eq!(again[0][field], letters[0][field], "{again:?}");
    }
    assert!(letters[0]["reason"].as_str().is_some_and(|reason| reason.contains("-4")), "{letters:?}");
    // Without the plugins before it, it would be another message.
    let direct: Vec<&str> =
        commands[1].split_whitespace().skip(1).filter(|word| *word != "--through").collect();
    let direct = Said::of(millstream(&direct).current_dir(world.folder.path(""))).ended_with(0).objects();
    assert_ne!(direct[0]["reason"], again[0]["reason"]);
}
