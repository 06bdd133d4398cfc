//! How long dead letters are kept, and how they are deleted.

use serde_json::{Value, json};

use super::{Orders, Server, World, id, letter_of, numbers, record};
use crate::support::{look, metric};

fn failing(numbers: &[u64]) -> String {
    numbers.iter().map(|n| record(&json!({ "n": n, "to": "a", "note": "!" }))).collect()
}

#[test]
fn dead_letters_past_their_retention_go() {
    let server = Server::start(|_, _| 200);
    let mut world = World::new(&Orders::of(&server).toml(), &failing(&[1, 2]));
    world.run();
    assert_eq!(numbers(&world.letters()), [1, 2]);
    let said = world.dlq("purge", &["--expired"]).ended_with(0);
    assert_eq!(said.err, "0 dead letters were deleted\n");

    let short = "[dead_letters]\nretention = \"1s\"";
    world.configure(&Orders { follow: true, more: short, ..Orders::of(&server) }.toml());
    world.start();
    world.wait_for("the old ones are gone", |world| world.letters().is_empty());
    // It looks again and again.
    world.append(&failing(&[3]));
    let admin = world.admin();
    let is = |name: &str, label: &str, value| {
        look(&admin).and_then(|page| metric(&page, name, &[label])) == Some(value)
    };
    world.wait_for("another dead letter", |_| is("millstream_messages", "account=\"dead_lettered\"", 1));
    world.wait_for("it is gone", |_| is("millstream_dead_letters", "pipeline=\"orders\"", 0));
    assert_eq!(world.letters(), [Value::Null; 0]);
    world.stop();

    // With nothing running, when one asks for it.
    world.append(&failing(&[4]));
    world.configure(&Orders { more: "[dead_letters]\nretention = \"1ms\"", ..Orders::of(&server) }.toml());
    world.run();
    world.dlq("purge", &["--expired"]).ended_with(0);
    assert_eq!(world.letters(), [Value::Null; 0]);
}

fn a_purge_deletes_those_that_are_meant(running: bool) {
    let server = Server::start(|_, _| 400);
    let input = failing(&[1, 2, 3]) + &[4, 5].map(|n| record(&json!({ "n": n, "to": "b" }))).concat();
    let mut world = World::new(&Orders { follow: running, ..Orders::of(&server) }.toml(), &input);
    if running {
        world.start();
        world.wait_for("five dead letters", |world| world.letters().len() == 5);
    } else {
        world.run();
    }
    let letters = world.letters();
    let first = id(letter_of(&letters, 1));
    // Nobody is there to answer.
    let said = world.dlq("purge", &[first]).ended_with(1);
    let expected = "error: delete 1 dead letters of orders for good? nobody is there to answer; add --yes\n";
    assert_eq!(said.err, expected);
    assert_eq!(world.letters(), letters);
    for (arguments, left) in [
        (&[first, "--yes"][..], &[2, 3, 4, 5][..]),
        (&["--stage", "sink", "--yes"], &[2, 3]),
        (&["--reason", "no such reason"], &[2, 3]),
        (&["--all", "--yes"], &[]),
    ] {
        let before = world.letters().len();
        let said = world.dlq("purge", arguments).ended_with(0);
        let mut now = numbers(&world.letters());
        now.sort_unstable();
        assert_eq!(now, left, "{arguments:?}");
        assert_eq!(said.err, format!("{} dead letters were deleted\n", before - left.len()));
    }
    if running {
        world.stop();
    }
}

#[test]
fn a_purge_deletes_those_that_are_meant_where_nothing_runs() {
    a_purge_deletes_those_that_are_meant(false);
}

#[test]
fn a_purge_deletes_those_that_are_meant_where_the_pipeline_runs() {
    a_purge_deletes_those_that_are_meant(true);
}

#[test]
fn a_purge_says_what_must_be_given_and_where() {
    let server = Server::start(|_, _| 400);
    let world = World::new(&Orders::of(&server).toml(), "");
    for verb in ["purge", "replay"] {
        let said = world.dlq(verb, &[]).ended_with(2);
        assert!(
            said.err.contains(&format!("millstream dlq {verb} [OPTIONS] <FILE> <ID...|--all")),
            "{}",
            said.err
        );
    }
}
