use std::fs::{self, OpenOptions};
use std::io::Write;

use serde_json::json;
use tempfile::TempDir;

use super::super::Read;
use super::super::testing::{MemoryCheckpoints, Row, context, limit, next, rows};
use super::*;

/// A folder of files, and what a pipeline would remember of them.
struct Folder {
    dir: TempDir,
    checkpoints: Arc<MemoryCheckpoints>,
    codec: (&'static str, &'static str),
}

impl Folder {
    fn new() -> Folder {
        Folder { dir: TempDir::new().unwrap(), checkpoints: Arc::default(), codec: ("lines", "{}") }
    }

    fn with_codec(name: &'static str, config: &'static str) -> Folder {
        Folder { codec: (name, config), ..Folder::new() }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        fs::write(self.path(name), bytes).unwrap();
    }

    fn append(&self, name: &str, bytes: impl AsRef<[u8]>) {
        let mut file = OpenOptions::new().append(true).open(self.path(name)).unwrap();
        file.write_all(bytes.as_ref()).unwrap();
    }

    fn rename(&self, from: &str, to: &str) {
        fs::rename(self.path(from), self.path(to)).unwrap();
    }

    fn context(&self) -> SourceContext {
        let base = self.dir.path().to_owned();
        SourceContext { base, ..context(self.codec.0, self.codec.1, &self.checkpoints) }
    }

    fn try_open(&self, config: serde_json::Value) -> anyhow::Result<OpenSource> {
        (SPEC.parse)(config).unwrap().open(self.context())
    }

    fn open(&self, path: &str) -> OpenSource {
        self.try_open(json!({ "path": path })).unwrap()
    }

    /// Without patience, so that a test is quick.
    fn follow(&self, path: &str) -> OpenSource {
        self.follow_patiently(path, "20ms")
    }

    fn follow_patiently(&self, path: &str, rotate_wait: &str) -> OpenSource {
        let config =
            json!({ "path": path, "mode": "follow", "poll_interval": "2ms", "rotate_wait": rotate_wait });
        self.try_open(config).unwrap()
    }

    fn problems(&self, config: serde_json::Value) -> Vec<String> {
        let mut problems = Vec::new();
        (SPEC.parse)(config).unwrap().check(&self.context(), &mut problems);
        problems.iter().map(|problem| format!("{}: {}", problem.at, problem.message)).collect()
    }

    fn saved(&self, name: &str) -> serde_json::Value {
        self.checkpoints.0.lock().unwrap()[name].clone()
    }
}

fn texts(rows: &[Row]) -> Vec<&str> {
    rows.iter().map(Row::text).collect()
}

/// Reads until there are so many, and not more.
async fn take(source: &mut OpenSource, count: usize) -> Vec<Row> {
    let mut all = Vec::new();
    while all.len() < count {
        all.extend(next(&mut *source.reader, limit(count - all.len(), 1 << 20)).await.expect("it ended"));
    }
    all
}

async fn settle(source: &mut OpenSource, row: &Row) {
    source.committer.up_to(&[row.position]).await.unwrap();
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    ::zstd::encode_all(bytes, 1).unwrap()
}

#[tokio::test]
async fn files_are_read_in_the_order_of_their_names() {
    let folder = Folder::new();
    folder.write("b.log", "3\n4");
    folder.write("a.log", "1\n2\n");
    folder.write("c.log", "");
    folder.write("d.txt", "no");
    fs::create_dir(folder.path("e.log")).unwrap();
    let mut source = folder.open("*.log");
    assert_eq!(source.name, "file:*.log");
    let rows = rows(&mut *source.reader).await;
    assert_eq!(texts(&rows), ["1", "2", "3", "4"]);
    assert_eq!(rows[0].position.partition, rows[1].position.partition);
    assert_ne!(rows[1].position.partition, rows[2].position.partition);
    assert_eq!((source.describe)(rows[3].position), "b.log line 2 (ends at byte 3)");
    assert_eq!(folder.open("[a]*.log").reader.progress().unwrap().total_bytes, 4);
}

#[tokio::test]
async fn folders_and_absolute_paths_are_found() {
    let folder = Folder::new();
    fs::create_dir_all(folder.path("x/y [1]")).unwrap();
    folder.write("x/y [1]/a.log", "1");
    folder.write("x/b.log", "2");
    let absolute = folder.path("x/b.log");
    for (path, expected, name) in [
        ("./x/**/*.log", &["2", "1"][..], "x/b.log"),
        ("x/y [1]/a.log", &["1"], "x/y [1]/a.log"),
        ("x/../x/b.log", &["2"], "x/../x/b.log"),
        (absolute.to_str().unwrap(), &["2"], "x/b.log"),
    ] {
        let mut source = folder.open(path);
        let rows = rows(&mut *source.reader).await;
        assert_eq!(texts(&rows), expected, "{path}");
        settle(&mut source, &rows[0]).await;
        assert!(folder.checkpoints.0.lock().unwrap().contains_key(name), "{path}");
        folder.checkpoints.0.lock().unwrap().clear();
    }
}

#[tokio::test]
async fn compressed_files_are_decompressed() {
    let folder = Folder::new();
    let big = "a line of some length\n".repeat(100_000);
    folder.write("1.gz", [gzip(b"1\n2"), gzip(b"\n3\n")].concat());
    folder.write("2.zst", [zstd(b"4\n5"), zstd(b"\n6\n")].concat());
    folder.write("3.gz", "");
    folder.write("4.GZ", gzip(big.as_bytes()));
    folder.write("5.zst", zstd(big.as_bytes()));
    let mut source = folder.open("*");
    let rows = rows(&mut *source.reader).await;
    assert_eq!(texts(&rows[..6]), ["1", "2", "3", "4", "5", "6"]);
    assert_eq!(rows.len(), 200_006);
    assert!(rows[6..].iter().all(|row| row.payload == b"a line of some length"));
    let progress = source.reader.progress().unwrap();
    let bytes: u64 =
        fs::read_dir(folder.dir.path()).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
    assert_eq!((progress.read_bytes, progress.total_bytes), (bytes, bytes));
}

#[tokio::test]
async fn p2_reading_goes_on_behind_every_settled_message() {
    let csv = "name,n\n\"a\nb\",1\r\n\nc,2\n\"d\",\"\"\"3\"\n";
    let lines = "a\n\n{]\r\nbc\n\nd";
    for (codec, content) in
        [(("csv", "{}"), csv), (("lines", "{}"), lines), (("json", "{}"), lines), (("raw", "{}"), lines)]
    {
        for (name, bytes) in [
            ("x", content.as_bytes().to_vec()),
            ("x.gz", gzip(content.as_bytes())),
            ("x.zst", zstd(content.as_bytes())),
        ] {
            let folder = Folder::with_codec(codec.0, codec.1);
            folder.write(name, bytes);
            let all = rows(&mut *folder.open(name).reader).await;
            assert!(!all.is_empty());
            for (index, row) in all.iter().enumerate() {
                let mut source = folder.open("x*");
                take(&mut source, 1).await;
                settle(&mut source, row).await;
                let mut again = folder.open("x*");
                assert_eq!(rows(&mut *again.reader).await, all[index + 1..], "{name} {codec:?} {row:?}");
                folder.checkpoints.0.lock().unwrap().clear();
            }
        }
    }
}

#[tokio::test]
async fn a_second_run_reads_what_was_added() {
    let folder = Folder::new();
    folder.write("a.log", "1\n2\n");
    folder.write("b.log", "3\n");
    let mut source = folder.open("*.log");
    let first = rows(&mut *source.reader).await;
    source.committer.up_to(&[first[1].position, first[2].position]).await.unwrap();
    assert_eq!(rows(&mut *folder.open("*.log").reader).await, []);
    folder.append("a.log", "4\n");
    folder.write("aa.log", "5\n");
    let second = rows(&mut *folder.open("*.log").reader).await;
    assert_eq!(texts(&second), ["4", "5"]);
    assert_eq!(second[0].position, Position { offset: 6, record: 3, ..first[1].position });
    assert_ne!(second[1].position.partition, first[2].position.partition);
}

#[tokio::test]
async fn p2_a_file_that_was_replaced_is_read_from_its_start() {
    type Replace = fn(&Folder);
    let replace: [(&str, Replace); 4] = [
        ("another file", |folder| {
            folder.write("new", "1\n2\n3\n");
            folder.rename("new", "a.log");
        }),
        ("the same inode, other bytes", |folder| folder.write("a.log", "0\n2\n3\n")),
        ("truncated", |folder| folder.write("a.log", "1\n")),
        ("other compressed bytes", |folder| folder.write("z.gz", gzip(b"0\n2\n3\n"))),
    ];
    for (what, replace) in replace {
        let folder = Folder::new();
        folder.write("a.log", "1\n2\n3\n");
        folder.write("z.gz", gzip(b"1\n2\n3\n"));
        let mut source = folder.open("*");
        let before = rows(&mut *source.reader).await;
        assert_eq!(before.len(), 6);
        source.committer.up_to(&[before[2].position, before[5].position]).await.unwrap();
        replace(&folder);
        let mut source = folder.open("*");
        let after = rows(&mut *source.reader).await;
        assert!(["1", "0"].contains(&after[0].text()), "{what}: {after:?}");
        assert_eq!(after[0].position.record, 1, "{what}");
        // What was truncated may be the same file for all that is known of it.
        let known = [before[0].position.partition, before[5].position.partition];
        assert_eq!(known.contains(&after[0].position.partition), what == "truncated", "{what}");
    }
}

#[tokio::test]
async fn a_file_that_was_renamed_between_two_runs_is_known() {
    let folder = Folder::new();
    folder.write("app.log", "1\n2\n3\n");
    let mut source = folder.open("app.log*");
    let before = rows(&mut *source.reader).await;
    settle(&mut source, &before[1]).await;
    folder.rename("app.log", "app.log.1");
    folder.write("app.log", "4\n");
    let mut source = folder.open("app.log*");
    let after = rows(&mut *source.reader).await;
    assert_eq!(texts(&after), ["4", "3"]);
    assert_eq!(after[1], before[2]);
    source.committer.up_to(&[after[0].position, after[1].position]).await.unwrap();
    assert_eq!(folder.saved("app.log.1")["files"][0]["offset"], 6);
    assert_eq!(folder.saved("app.log")["files"].as_array().unwrap().len(), 1);
    assert_eq!(rows(&mut *folder.open("app.log*").reader).await, []);
}

#[tokio::test]
async fn a_checkpoint_of_something_else_is_an_error_that_names_it() {
    let folder = Folder::new();
    folder.write("a.log", "1\n");
    folder.checkpoints.save(&[("b.log".into(), json!(1))]).unwrap();
    assert_eq!(rows(&mut *folder.open("a.log").reader).await.len(), 1);
    folder.checkpoints.save(&[("a.log".into(), json!({ "next": 1 }))]).unwrap();
    let error = folder.try_open(json!({ "path": "a.log" })).err().unwrap();
    assert!(format!("{error:#}").contains("the checkpoint of a.log cannot be read"), "{error:#}");
}

#[tokio::test]
async fn a_whole_file_is_one_message() {
    let folder = Folder::with_codec("raw", "{}");
    folder.write("a.bin", "1\n2\n");
    folder.write("b.bin", "");
    folder.write("c.bin", "3");
    let mut source = folder.open("*.bin");
    let before = rows(&mut *source.reader).await;
    assert_eq!(texts(&before), ["1\n2\n", "3"]);
    assert_eq!((source.describe)(before[0].position), "a.bin record 1 (ends at byte 4)");
    source.committer.up_to(&[before[0].position, before[1].position]).await.unwrap();
    assert_eq!(rows(&mut *folder.open("*.bin").reader).await, []);
    // One that has grown is another message, and not its new end.
    folder.append("a.bin", "4");
    assert_eq!(texts(&rows(&mut *folder.open("*.bin").reader).await), ["1\n2\n4"]);
}

#[tokio::test]
async fn limits_are_kept() {
    let folder = Folder::new();
    folder.write("a.log", "0123456789\n".repeat(50_000));
    let mut source = folder.open("a.log");
    let mut count = 0;
    while let Some(rows) = next(&mut *source.reader, limit(1000, 1100)).await {
        assert!((1..=101).contains(&rows.len()), "{}", rows.len());
        count += rows.len();
    }
    assert_eq!(count, 50_000);
}

#[tokio::test]
async fn what_cannot_be_read_is_an_error_that_names_it() {
    let folder = Folder::new();
    folder.write("a.gz", &gzip("line\n".repeat(1000).as_bytes())[..30]);
    let mut source = folder.open("a.gz");
    let error = loop {
        match source.reader.read(limit(100, 1 << 20)).await {
            Ok(Read::Batch(_)) => {}
            Ok(Read::End | Read::Lost(_) | Read::Rewound) => panic!("it ended"),
            Err(error) => break error,
        }
    };
    assert!(error.to_string().starts_with("cannot read a.gz: "), "{error}");

    // More than is read ahead, so that the second is not opened before it is gone.
    folder.write("b.log", "0123456789\n".repeat(1 << 20));
    folder.write("c.log", "x\n");
    let mut source = folder.open("?.log");
    next(&mut *source.reader, limit(1, 1)).await.unwrap();
    fs::remove_file(folder.path("c.log")).unwrap();
    let error = loop {
        match source.reader.read(limit(10_000, 1 << 20)).await {
            Ok(Read::Batch(_)) => {}
            Ok(Read::End | Read::Lost(_) | Read::Rewound) => panic!("it ended"),
            Err(error) => break error,
        }
    };
    assert!(error.to_string().starts_with("cannot read c.log: "), "{error}");

    let folder = Folder::with_codec("csv", r#"{"key": "b"}"#);
    folder.write("a.csv", "a,c\n1,2\n");
    let error = folder.open("a.csv").reader.read(limit(1, 1)).await.unwrap_err();
    assert_eq!(
        format!("{error:#}"),
        "cannot read a.csv: its head cannot be used: there is no column \"b\"; there are a, c"
    );
}

#[test]
fn p9_a_path_that_leads_nowhere_is_found_by_check() {
    let folder = Folder::new();
    folder.write("a.log", "");
    fs::create_dir(folder.path("sub")).unwrap();
    let first = |config| folder.problems(config).into_iter().next().unwrap_or_default();
    assert_eq!(first(json!({ "path": "a.log" })), "");
    assert!(first(json!({ "path": "b.log" })).contains("/path: there is no file"));
    assert!(first(json!({ "path": "b*.log" })).contains("/path: there is no file"));
    assert!(first(json!({ "path": "" })).contains("/path: the path is empty"));
    assert!(first(json!({ "path": "a**" })).contains("/path: \"a**\" is no pattern"));
    assert!(first(json!({ "path": "sub" })).contains("is no regular file"));
    assert_eq!(first(json!({ "path": "b*.log", "mode": "follow" })), "");
    assert_eq!(first(json!({ "path": "b.log", "mode": "follow" })), "");
    assert!(first(json!({ "path": "no/b*.log", "mode": "follow" })).contains("/path: there is no folder"));
    assert!(first(json!({ "path": "no/b.log", "mode": "follow" })).contains("/path: there is no folder"));
    assert!(
        first(json!({ "path": "a.log", "mode": "follow", "poll_interval": "0s" })).contains("/poll_interval")
    );
    let folder = Folder::with_codec("raw", "{}");
    assert!(
        folder.problems(json!({ "path": "a", "mode": "follow" }))[0]
            .contains("/mode: this codec takes a whole file")
    );
    assert!((SPEC.parse)(json!({ "path": "a", "mode": "twice" })).is_err());
    assert!((SPEC.parse)(json!({})).is_err());
}

#[tokio::test]
async fn a_followed_file_is_read_as_it_grows() {
    let folder = Folder::new();
    folder.write("a.log", "1\n2");
    let mut source = folder.follow("a.log");
    assert_eq!(texts(&take(&mut source, 1).await), ["1"]);
    folder.append("a.log", "2\n3\nhalf");
    assert_eq!(texts(&take(&mut source, 2).await), ["22", "3"]);
    folder.append("a.log", " and half\n");
    let row = take(&mut source, 1).await.remove(0);
    assert_eq!((row.text(), row.position.record, row.position.offset), ("half and half", 4, 21));
    assert!(source.reader.progress().is_none());
}

#[tokio::test]
async fn files_that_come_up_are_followed_too() {
    let folder = Folder::new();
    let mut source = folder.follow("*.log");
    folder.write("b.log", "1\n");
    assert_eq!(texts(&take(&mut source, 1).await), ["1"]);
    folder.write("a.log", "");
    folder.append("b.log", "2\n");
    assert_eq!(texts(&take(&mut source, 1).await), ["2"]);
    folder.append("a.log", "3\n");
    let row = take(&mut source, 1).await.remove(0);
    assert_eq!((source.describe)(row.position), "a.log line 1 (ends at byte 2)");
    folder.write("c.txt", "no\n");
    fs::remove_file(folder.path("b.log")).unwrap();
    folder.write("c.log.tmp", "4\n");
    folder.rename("c.log.tmp", "c.log");
    assert_eq!(texts(&take(&mut source, 1).await), ["4"]);
}

#[tokio::test]
async fn p2_a_rotated_file_is_read_to_its_end() {
    let folder = Folder::new();
    folder.write("a.log", "1\n");
    let mut source = folder.follow_patiently("a.log", "2s");
    let first = take(&mut source, 1).await.remove(0);
    let mut writer = OpenOptions::new().append(true).open(folder.path("a.log")).unwrap();
    folder.rename("a.log", "a.log.1");
    folder.write("a.log", "4\n");
    writer.write_all(b"2\n3 without end").unwrap();
    let rows = take(&mut source, 3).await;
    let mut old: Vec<&Row> =
        rows.iter().filter(|row| row.position.partition == first.position.partition).collect();
    old.sort_by_key(|row| row.position);
    assert_eq!(old.iter().map(|row| row.text()).collect::<Vec<_>>(), ["2", "3 without end"]);
    let new = rows.iter().find(|row| row.position.partition != first.position.partition).unwrap();
    assert_eq!((new.text(), new.position.record), ("4", 1));
    // While the old one is not settled the checkpoint knows both, then only the one that has the name.
    source.committer.up_to(&[new.position, old[0].position]).await.unwrap();
    assert_eq!(folder.saved("a.log")["files"].as_array().unwrap().len(), 2);
    settle(&mut source, old[1]).await;
    let saved = folder.saved("a.log");
    assert_eq!(saved["files"].as_array().unwrap().len(), 1, "{saved}");
    assert_eq!(saved["files"][0]["offset"], 2);
}

#[tokio::test]
async fn p2_a_file_rotated_while_nobody_looked_is_read_to_its_end_first() {
    let folder = Folder::new();
    folder.write("a.log", "1\n2\n");
    let mut source = folder.follow("a.log");
    let before = take(&mut source, 2).await;
    settle(&mut source, &before[0]).await;
    drop(source);
    folder.append("a.log", "3\n");
    folder.rename("a.log", "a.log.1");
    folder.write("a.log", "4\n");
    let mut source = folder.follow("a.log");
    let after = take(&mut source, 3).await;
    assert_eq!(texts(&after), ["2", "3", "4"]);
    assert_eq!(after[0], before[1]);
    assert_eq!((source.describe)(after[1].position), "a.log line 3 (ends at byte 6)");
    // What was settled of the new one does not make the rest of the old one forgotten.
    settle(&mut source, &after[2]).await;
    drop(source);
    let mut source = folder.follow("a.log");
    assert_eq!(texts(&take(&mut source, 2).await), ["2", "3"]);
}

#[tokio::test]
async fn a_renamed_file_that_is_still_meant_goes_on_under_its_new_name() {
    let folder = Folder::new();
    folder.write("a.log", "1\n");
    let mut source = folder.follow("a.log*");
    let first = take(&mut source, 1).await.remove(0);
    settle(&mut source, &first).await;
    folder.rename("a.log", "a.log.1");
    folder.write("a.log", "2\n");
    let second = take(&mut source, 1).await.remove(0);
    assert_eq!((source.describe)(first.position), "a.log.1 line 1 (ends at byte 2)");
    settle(&mut source, &second).await;
    assert_eq!(folder.saved("a.log.1")["files"][0]["offset"], 2);
    folder.append("a.log.1", "3\n");
    let third = take(&mut source, 1).await.remove(0);
    assert_eq!(
        (third.text(), third.position.record, third.position.partition),
        ("3", 2, first.position.partition)
    );
}

#[tokio::test]
async fn a_truncated_file_is_read_from_its_start() {
    let folder = Folder::new();
    folder.write("a.log", "1\n2\n");
    let mut source = folder.follow("a.log");
    let before = take(&mut source, 2).await;
    settle(&mut source, &before[1]).await;
    // As `copytruncate` does it; shorter than it was, and then longer.
    folder.write("a.log", "3\n");
    let shorter = take(&mut source, 1).await.remove(0);
    assert_eq!((shorter.text(), shorter.position.offset), ("3", 2));
    assert_ne!(shorter.position.partition, before[0].position.partition);
    folder.write("a.log", "4\n5\n6\n");
    // Some of it may have been read in the moment before it was found out.
    let mut after = Vec::new();
    while !texts(&after).ends_with(&["4", "5", "6"]) {
        after.extend(take(&mut source, 1).await);
    }
    settle(&mut source, &shorter).await;
    let saved = folder.saved("a.log");
    assert!(saved["files"].as_array().unwrap().len() <= 1, "{saved}");
}

#[tokio::test]
async fn a_followed_compressed_file_may_come_in_parts() {
    let folder = Folder::new();
    let lines: Vec<String> = (0..50_000u64).map(|n| format!("line {n} {:x}", n * n * 7919)).collect();
    let bytes = gzip((lines.join("\n")).as_bytes());
    let (first, second) = bytes.split_at(bytes.len() / 2);
    folder.write("a.log.gz", first);
    let mut source = folder.follow("*.gz");
    let mut all = take(&mut source, 1000).await;
    folder.append("a.log.gz", second);
    all.extend(take(&mut source, lines.len() - 1000).await);
    assert_eq!(texts(&all), lines);
    settle(&mut source, &all[all.len() - 1]).await;
    drop(source);
    let mut source = folder.follow("*.gz");
    folder.write("b.log.gz", gzip(b"x\n"));
    assert_eq!(texts(&take(&mut source, 1).await), ["x"]);
}

#[tokio::test]
async fn a_busy_file_does_not_starve_the_others() {
    let folder = Folder::new();
    folder.write("a.log", "0123456789\n".repeat(1 << 20));
    folder.write("b.log", "x\n");
    let mut source = folder.follow("?.log");
    let mut before = 0;
    loop {
        let rows = next(&mut *source.reader, limit(10_000, 1 << 20)).await.unwrap();
        if rows.iter().any(|row| row.text() == "x") {
            break;
        }
        before += rows.len();
    }
    assert!(before < 1 << 18, "{before} messages of the other file came before");
}
