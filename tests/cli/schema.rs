//! `millstream schema check`, as CI calls it.

use std::path::Path;

use crate::support::{Folder, run};

/// Its exit code, what it prints and what it tells.
fn check(old: &Path, new: &Path, more: &[&str]) -> (Option<i32>, String, String) {
    let paths = [old, new].map(|path| path.to_str().expect("a path in UTF-8"));
    let (status, printed, told) = run(&[&["schema", "check"], &paths[..], more].concat());
    (status.code(), printed, told)
}

fn avro(fields: &str) -> String {
    format!("{{\"type\": \"record\", \"name\": \"Order\", \"fields\": [{fields}]}}")
}

#[test]
fn a_schema_is_checked_against_an_older_one() {
    let folder = Folder::new();
    let id = "{\"name\": \"id\", \"type\": \"string\"}";
    let old = folder.write("old.avsc", &avro(id));
    let new = folder.write("new.avsc", &avro(&format!("{id}, {{\"name\": \"amount\", \"type\": \"int\"}}")));
    let (code, printed, told) = check(&old, &new, &[]);
    assert_eq!(code, Some(1), "{printed}{told}");
    let wanted = "breaks: /amount: the old schema does not write it, and it has no default (new reads old); \
                  give it a default\n";
    assert_eq!(printed, wanted);
    assert_eq!(told, "not compatible: 1 that break, 0 that cannot be told\n");
    assert_eq!(check(&old, &new, &["--mode", "forward"]), (Some(0), String::new(), String::new()));
    assert_eq!(check(&old, &new, &["--mode", "full"]).0, Some(1));

    let (_, printed, _) = check(&old, &new, &["--json"]);
    let line: serde_json::Value = serde_json::from_str(&printed).expect("a line of JSON");
    assert_eq!(
        (&line["weight"], &line["path"], &line["reader"]),
        (&"breaks".into(), &"/amount".into(), &"new".into())
    );
}

#[test]
fn proto_files_import_from_their_own_folders() {
    let folder = Folder::new();
    let money = |kind: &str| format!("syntax = \"proto3\"; message Money {{ {kind} cents = 1; }}");
    let order = "syntax = \"proto3\"; import \"money.proto\"; message Order { Money all = 1; }";
    for (name, kind) in [("old", "int32"), ("new", "int64")] {
        std::fs::create_dir(folder.path(name)).expect("a folder");
        folder.write(&format!("{name}/money.proto"), &money(kind));
        folder.write(&format!("{name}/order.proto"), order);
    }
    let (old, new) = (folder.path("old/order.proto"), folder.path("new/order.proto"));
    let message = ["--message", "Order"];
    assert_eq!(check(&old, &new, &message), (Some(0), String::new(), String::new()));
    let (code, printed, _) = check(&new, &old, &message);
    assert_eq!(code, Some(1));
    assert!(printed.starts_with("breaks: Money.cents (1): int64 is read as int32: "), "{printed}");
    let (code, _, told) = check(&old, &new, &["--message", "Bill"]);
    assert_eq!(code, Some(1));
    assert!(told.contains("the old schema has no message \"Bill\""), "{told}");
}

#[test]
fn what_cannot_be_told_fails_unless_that_is_allowed() {
    let folder = Folder::new();
    let old = folder.write("old.json", "{\"type\": \"string\", \"pattern\": \"a\"}");
    let new = folder.write("new.json", "{\"type\": \"string\", \"pattern\": \"b\"}");
    let (code, printed, _) = check(&old, &new, &[]);
    assert_eq!(code, Some(1));
    assert!(printed.starts_with("cannot tell: /pattern: "), "{printed}");
    assert_eq!(check(&old, &new, &["--allow-unknown"]).0, Some(0));
}

#[test]
fn a_wrong_call_says_what_to_change() {
    let folder = Folder::new();
    let (file, missing) = (folder.write("schema.txt", "{}"), folder.path("missing.avsc"));
    for (new, more, code, wanted) in [
        (&file, &[][..], 1, "add --type avro, protobuf or json"),
        (&missing, &[], 1, "cannot read"),
        (&file, &["--type", "json", "--message", "Order"], 1, "are for Protocol Buffers; leave them out"),
        (&file, &["--type", "xml"], 2, "possible values: avro, protobuf, json"),
        (&file, &["--type", "avro"], 1, "the old schema is none: "),
    ] {
        let (is, _, told) = check(&file, new, more);
        assert_eq!(is, Some(code), "{told}");
        assert!(told.contains(wanted), "{told}");
    }
}
