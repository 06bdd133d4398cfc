//! What a plugin can ask of the host, and what it cannot (P7).

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Mutex;

use tracing_subscriber::fmt::MakeWriter;

use super::*;
use crate::config::units::Interval;

/// A plugin that looks up its keys in the table "t" and emits what it finds as payloads.
fn joining() -> Vec<u8> {
    // lookup writes result<values, error> at 4200: tag, then arena and found.
    let process = "(local.set $n (call $pass (local.get $batch)))
        (call $lookup (i32.const 4096) (i32.const 1) (i32.load offset=16 (local.get $batch)) (i32.load offset=20 (local.get $batch))
          (i32.load offset=32 (local.get $batch)) (i32.load offset=36 (local.get $batch)) (i32.const 4200))
        ;; Not granted: the text becomes the payload of all.
        (if (i32.load8_u (i32.const 4200)) (then
          (i32.store offset=8 (local.get $n) (i32.load (i32.const 4208)))
          (i32.store offset=12 (local.get $n) (i32.load (i32.const 4212)))
          (i32.store8 (i32.load (local.get $n)) (i32.const 2))
          (i32.store (i32.const 4300) (i32.const 0))
          (i32.store (i32.const 4304) (i32.load offset=20 (local.get $batch)))
          (i32.store (i32.const 4308) (i32.load (i32.const 4212)))
          (i32.store (i32.const 4312) (i32.const -1))
          (i32.store (i32.const 4328) (i32.const -1))
          (i32.store offset=16 (local.get $n) (i32.const 4300))
          (i32.store offset=20 (local.get $n) (i32.const 8))
          (return (local.get $n))))
        (i32.store offset=8 (local.get $n) (i32.load (i32.const 4204)))
        (i32.store offset=12 (local.get $n) (i32.load (i32.const 4208)))
        (local.set $emitted (call $alloc (i32.const 0) (i32.const 0) (i32.const 8)
          (i32.mul (i32.load (local.get $batch)) (i32.const 32))))
        (i32.store offset=16 (local.get $n) (local.get $emitted))
        (loop $next
          (local.set $span (i32.add (i32.load (i32.const 4212)) (i32.shl (local.get $row) (i32.const 3))))
          (if (i32.ne (i32.load (local.get $span)) (i32.const -2)) (then
            (i32.store8 (i32.add (i32.load (local.get $n)) (local.get $row)) (i32.const 2))
            (i32.store (local.get $emitted) (local.get $row))
            (i32.store offset=4 (local.get $emitted)
              (i32.add (i32.load offset=20 (local.get $batch)) (i32.load (local.get $span))))
            (i32.store offset=8 (local.get $emitted) (i32.load offset=4 (local.get $span)))
            (i64.store offset=12 (local.get $emitted) (i64.const 0xffffffff))
            (i64.store offset=20 (local.get $emitted) (i64.const 0))
            (i32.store offset=28 (local.get $emitted) (i32.const -1))
            (i32.store offset=20 (local.get $n) (i32.add (i32.load offset=20 (local.get $n)) (i32.const 8)))
            (local.set $emitted (i32.add (local.get $emitted) (i32.const 32)))))
          (local.set $row (i32.add (local.get $row) (i32.const 1)))
          (br_if $next (i32.lt_u (local.get $row) (i32.load (local.get $batch)))))
        (local.get $n)";
    guests::guest(process, "(data (i32.const 4096) \"t\")")
}

#[test]
fn p7_a_table_is_there_only_when_it_is_granted() {
    let mut spec = spec(&joining());
    let processed = instance(&spec).process(batch(&["a"]), 1).unwrap();
    let text = String::from_utf8(processed.batch.message(0).payload().unwrap().to_vec()).unwrap();
    assert!(text.contains("grants.lookup.t = { file = \"t.csv\", key = \"id\" }"), "{text}");

    let file = ENGINE.1.path().join("granted.csv");
    std::fs::write(&file, "id,name\n0,zero\n2,two\n").unwrap();
    let table = LookupTable { file, key: "id".into(), reload: Interval::secs(10) };
    spec.grants.lookup = BTreeMap::from([("t".to_owned(), table.clone())]);
    let processed = instance(&spec).process(batch(&["a", "b", "c"]), 1).unwrap();
    assert_complete(&processed, 3);
    let payloads: Vec<Option<Vec<u8>>> = going_on(&processed).into_iter().map(|(_, m)| m.payload).collect();
    let expected = ["{\"id\":\"0\",\"name\":\"zero\"}", "b", "{\"id\":\"2\",\"name\":\"two\"}"];
    assert_eq!(payloads, expected.map(|text| Some(text.as_bytes().to_vec())));

    let missing = LookupTable { file: ENGINE.1.path().join("missing.csv"), ..table };
    spec.grants.lookup.insert("other".into(), missing);
    let error = engine().check(&spec).map(drop).unwrap_err();
    assert_eq!(error.problems[0].at, "/grants/lookup/other/file", "{error}");
}

#[test]
fn p7_a_lookup_that_lies_is_a_fault() {
    for (keys, kind) in [
        ("(i32.const 4096) (i32.const 3)", FaultKind::Malformed),
        ("(i32.const 4096) (i32.const 2)", FaultKind::Malformed),
        ("(i32.const 4096) (i32.const 0x7fffffff)", FaultKind::Malformed),
    ] {
        let process = format!(
            "(call $lookup (i32.const 4096) (i32.const 1) (i32.const 0) (i32.const 100) {keys} (i32.const 4200))
             (call $pass (local.get $batch))"
        );
        let mut spec = spec(&guests::guest(&process, "(data (i32.const 4096) \"t\")"));
        let file = ENGINE.1.path().join("lied-about.csv");
        std::fs::write(&file, "id\n0\n").unwrap();
        let table = LookupTable { file, key: "id".into(), reload: Interval::secs(10) };
        spec.grants.lookup.insert("t".into(), table);
        let processed = instance(&spec).process(batch(&["a"]), 1).unwrap();
        let FateVerdict::Faulted(fault) = &processed.fates[0].verdict else { panic!("{keys}") };
        assert_eq!(fault.kind, kind, "{keys}: {fault}");
    }
}

#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Captured {
    type Writer = Captured;

    fn make_writer(&self) -> Captured {
        self.clone()
    }
}

#[test]
fn a_log_line_names_pipeline_plugin_and_message_once() {
    // Logs about its last row, and fails when there is a `!`.
    let process =
        "(call $log (i32.const 1) (i32.const 1) (i32.sub (i32.load (local.get $batch)) (i32.const 1))
          (i32.const 4096) (i32.const 4))
        (if (call $some (local.get $batch) (i32.const 33)) (then (unreachable)))
        (call $pass (local.get $batch))";
    let mut instance = instance(&spec(&guests::guest(process, "(data (i32.const 4096) \"odd\\07\")")));
    let captured = Captured::default();
    let subscriber = tracing_subscriber::fmt().with_writer(captured.clone()).with_ansi(false).finish();
    tracing::subscriber::with_default(subscriber, || {
        instance.process(batch(&["a", "b", "!", "d"]), 1).unwrap();
    });
    let log = String::from_utf8(captured.0.lock().unwrap().clone()).unwrap();
    let lines: Vec<&str> = log.lines().collect();
    // 0-1 went well, then 2 failed alone, then 3 went well; the first call, of all, is not told.
    let records: Vec<bool> = [2, 3, 4]
        .iter()
        .zip(&lines)
        .map(|(record, line)| line.contains(&format!("record={record}")))
        .collect();
    assert_eq!((records, lines.len()), (vec![true; 3], 3), "{log}");
    assert!(lines[0].contains("WARN") && lines[0].contains("odd\\u{7}"), "{log}");
    assert!(lines[0].contains("pipeline=\"pipeline\" plugin=\"test\" partition=3 offset=1"), "{log}");
}
