use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use serde_json::json;

use super::super::Outcome;
use super::super::testing::{Plain, batch, context};
use super::*;

fn open(folder: &Path, config: serde_json::Value) -> anyhow::Result<Box<dyn Sink>> {
    open_with(folder, config, Plain { head: None, media_type: "application/json" })
}

fn open_with(folder: &Path, config: serde_json::Value, codec: Plain) -> anyhow::Result<Box<dyn Sink>> {
    let config = (SPEC.parse)(config).unwrap_or_else(|problems| panic!("{problems:?}"));
    config.open(SinkContext { codec: Arc::new(codec), ..context(folder) })
}

async fn write(sink: &mut dyn Sink, payloads: &[&str]) -> Result<Outcomes, CallError> {
    let batch = batch(payloads);
    sink.write(&batch.messages().collect::<Vec<_>>()).await
}

async fn write_durably(sink: &mut dyn Sink, payloads: &[&str]) {
    let outcomes = write(sink, payloads).await.unwrap_or_else(|error| panic!("{error}"));
    assert!(matches!(outcomes, Outcomes::AllDurable), "{outcomes:?}");
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[tokio::test]
async fn appends_to_what_is_there_and_makes_missing_folders() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a/b/out.ndjson");
    for round in ["1", "2"] {
        let mut sink = open(folder.path(), json!({ "path": "a/b/out.ndjson" })).unwrap();
        write_durably(&mut *sink, &[round, "x"]).await;
        write_durably(&mut *sink, &["y"]).await;
    }
    assert_eq!(fs::read_to_string(path).unwrap(), "1\nx\ny\n2\nx\ny\n");
}

#[tokio::test]
async fn p4_one_that_cannot_be_encoded_is_rejected_and_its_neighbours_are_written() {
    let folder = tempfile::tempdir().unwrap();
    let mut sink = open(folder.path(), json!({ "path": "out" })).unwrap();
    let Outcomes::Each(outcomes) = write(&mut *sink, &["1", "unencodable", "3"]).await.unwrap() else {
        panic!("all durable")
    };
    let reason = "it says so itself".to_owned();
    assert_eq!(
        outcomes,
        [Outcome::Durable, Outcome::Reject { code: "encode-error", reason }, Outcome::Durable]
    );
    assert_eq!(fs::read_to_string(folder.path().join("out")).unwrap(), "1\n3\n");
}

#[test]
fn p8_after_a_crash_a_half_line_is_cut_off_and_nothing_else() {
    let long = "x".repeat(200_000);
    for (before, after) in [
        ("1\n2\n{\"half", "1\n2\n"),
        ("1\n2\n", "1\n2\n"),
        ("half", ""),
        ("", ""),
        (&format!("1\n{long}"), "1\n"),
        (&format!("{long}\n{long}"), &format!("{long}\n")),
        ("1\n\0\0\0", "1\n"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        fs::write(&path, before).unwrap();
        open(folder.path(), json!({ "path": "out" })).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), after);
    }
}

#[test]
fn p8_a_quoted_line_break_of_csv_is_not_taken_for_the_end() {
    for (before, after) in [
        ("n\n1,\"a\nb\"\n2,\"c\nd", "n\n1,\"a\nb\"\n"),
        ("n\n\"he said \"\"x\ny\"\"\"\n\"", "n\n\"he said \"\"x\ny\"\"\"\n"),
        ("\"half\nof the first", ""),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.csv");
        fs::write(&path, before).unwrap();
        open_with(
            folder.path(),
            json!({ "path": "out.csv" }),
            Plain { head: Some("n\n"), media_type: "text/csv" },
        )
        .unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), after);
    }
}

#[tokio::test]
async fn each_new_file_begins_with_the_head() {
    let folder = tempfile::tempdir().unwrap();
    let config = json!({ "path": "out.csv", "rotate": { "size": 4 } });
    for _ in 0..2 {
        let codec = Plain { head: Some("n\n"), media_type: "text/csv" };
        let mut sink = open_with(folder.path(), config.clone(), codec).unwrap();
        write_durably(&mut *sink, &["1"]).await;
    }
    assert_eq!(fs::read_to_string(folder.path().join("out.csv")).unwrap(), "n\n1\n");
    let rotated = names(folder.path()).into_iter().find(|name| name != "out.csv").unwrap();
    assert_eq!(fs::read_to_string(folder.path().join(rotated)).unwrap(), "n\n1\n");
}

#[tokio::test]
async fn rotates_by_size_and_keeps_the_newest() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("out-other.ndjson"), "").unwrap();
    fs::write(folder.path().join("out-20200101T000000Z.ndjson"), "old\n").unwrap();
    let rotate = json!({ "path": "out.ndjson", "rotate": { "size": 6, "keep": 2 } });
    let mut sink = open(folder.path(), rotate).unwrap();
    for payload in ["aa", "bb", "cc", "dd", "ee", "ff", "gg"] {
        write_durably(&mut *sink, &[payload]).await;
    }
    assert_eq!(fs::read_to_string(folder.path().join("out.ndjson")).unwrap(), "gg\n");
    let mut rotated: Vec<String> = names(folder.path())
        .into_iter()
        .filter(|name| name.starts_with("out-2"))
        .map(|name| fs::read_to_string(folder.path().join(name)).unwrap())
        .collect();
    rotated.sort();
    assert_eq!(rotated, ["cc\ndd\n", "ee\nff\n"]);
    assert!(names(folder.path()).contains(&"out-other.ndjson".to_owned()));
}

#[tokio::test]
async fn rotates_when_a_new_interval_has_begun() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out");
    fs::write(&path, "yesterday\n").unwrap();
    let yesterday = std::time::SystemTime::now() - std::time::Duration::from_secs(86_400);
    fs::File::options().append(true).open(&path).unwrap().set_modified(yesterday).unwrap();
    let mut sink = open(folder.path(), json!({ "path": "out", "rotate": { "interval": "1d" } })).unwrap();
    write_durably(&mut *sink, &["today"]).await;
    assert_eq!(fs::read_to_string(&path).unwrap(), "today\n");
    assert_eq!(names(folder.path()).len(), 2);
}

#[test]
fn an_interval_begins_at_its_multiples() {
    let hourly = Rotate { size: None, interval: Some(Interval::secs(3600)), keep: None };
    let at = |seconds| std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
    assert!(hourly.is_due(1, at(3599), at(3600)));
    assert!(!hourly.is_due(1, at(3600), at(7199)));
    assert!(!hourly.is_due(0, at(0), at(7200)), "an empty file is not worth one of its own");
    assert!(!hourly.is_due(1, at(7200), at(0)), "the clock was set back");
}

#[tokio::test]
async fn a_file_that_was_moved_away_gets_a_successor() {
    let folder = tempfile::tempdir().unwrap();
    let (path, moved) = (folder.path().join("out"), folder.path().join("moved"));
    let mut sink = open(folder.path(), json!({ "path": "out" })).unwrap();
    write_durably(&mut *sink, &["1"]).await;
    fs::rename(&path, &moved).unwrap();
    write_durably(&mut *sink, &["2"]).await;
    assert_eq!(fs::read_to_string(&moved).unwrap(), "1\n");
    assert_eq!(fs::read_to_string(&path).unwrap(), "2\n");

    fs::write(&path, "").unwrap();
    write_durably(&mut *sink, &["3"]).await;
    assert_eq!(fs::read_to_string(&path).unwrap(), "3\n", "emptied by others");

    fs::File::options().append(true).open(&path).unwrap().write_all(b"4\nhalf").unwrap();
    write_durably(&mut *sink, &["5"]).await;
    assert_eq!(fs::read_to_string(&path).unwrap(), "3\n4\n5\n", "written to by others");
}

#[test]
fn a_second_writer_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let first = open(folder.path(), json!({ "path": "out" })).unwrap();
    let error = open(folder.path(), json!({ "path": "out" })).err().expect("refused").to_string();
    assert!(error.contains("out is being written by another process or another sink"), "{error}");
    drop(first);
    open(folder.path(), json!({ "path": "out" })).unwrap();
}

#[test]
fn p9_all_that_is_wrong_is_told_at_once() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("folder")).unwrap();
    let check = |config: serde_json::Value, media_type| {
        let mut problems = Vec::new();
        let codec = Arc::new(Plain { head: None, media_type });
        (SPEC.parse)(config)
            .unwrap_or_else(|problems| panic!("{problems:?}"))
            .check(&SinkContext { codec, ..context(folder.path()) }, &mut problems);
        problems.into_iter().map(|problem| problem.at).collect::<Vec<_>>()
    };
    assert_eq!(
        check(json!({ "path": "folder", "rotate": {} }), "application/octet-stream"),
        ["/path", "/codec", "/rotate"]
    );
    assert_eq!(check(json!({ "path": "/dev/null" }), "text/plain"), ["/path"]);
    assert_eq!(
        check(json!({ "path": "x", "rotate": { "size": 0, "interval": "10ms" } }), "text/csv"),
        ["/rotate/size", "/rotate/interval"]
    );
    assert_eq!(check(json!({ "path": "x", "rotate": { "size": "1GiB" } }), "text/plain"), [""; 0]);
}

/// Set to a folder in the process that has no room for more than a few KiB in a file.
const FULL_DISK: &str = "MILLSTREAM_TEST_FULL_DISK";

#[test]
fn p1_what_a_full_disk_cuts_short_leaves_nothing_and_is_no_messages_fault() {
    let folder = tempfile::tempdir().unwrap();
    // The limit on a file's size acts like a full disk: a part is written, then an error comes. It
    // holds for a whole process, so this one starts itself again, to run the other test only.
    let child = Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -S -f 8; exec \"$0\" --exact --ignored sinks::file::tests::with_a_full_disk"])
        .arg(std::env::current_exe().unwrap())
        .env(FULL_DISK, folder.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success() && said.contains("1 passed"), "{said}");
}

#[tokio::test]
#[ignore = "run by p1_what_a_full_disk_cuts_short_leaves_nothing_and_is_no_messages_fault"]
async fn with_a_full_disk() {
    let folder = std::env::var_os(FULL_DISK).expect("run by the other test");
    let folder = Path::new(&folder);
    let path = folder.join("out");
    let mut sink = open(folder, json!({ "path": "out" })).unwrap();
    write_durably(&mut *sink, &["1"]).await;
    let big = "x".repeat(1000);
    for _ in 0..2 {
        let error = write(&mut *sink, &vec![&*big; 50]).await.unwrap_err();
        let CallError::Unavailable { reason, credentials: false, .. } = error else { panic!("{error}") };
        assert!(reason.contains("cannot write to") && reason.contains("out: File too large"), "{reason}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "1\n");
    }
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Fsize);
    setrlimit(Resource::Fsize, Rlimit { current: maximum, maximum }).unwrap();
    write_durably(&mut *sink, &vec![&*big; 50]).await;
    assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 51);
}
