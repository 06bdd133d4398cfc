//! Files that are no plugins, and what is said of them.

use std::os::unix::fs::PermissionsExt;

use super::guests::{Answer, answering, guest, module, with_world};
use super::*;

fn refusal(spec: &PluginSpec) -> (String, String, String) {
    let mut error = engine().check(spec).map(drop).unwrap_err();
    assert_eq!(error.problems.len(), 1, "{error}");
    let Problem { at, message, help } = error.problems.remove(0);
    (at, message, help.unwrap_or_default())
}

fn pass() -> Vec<u8> {
    guest("(call $pass (local.get $batch))", "")
}

const WIT: &str = include_str!("../../../../plugin-sdk/wit/plugin.wit");

#[test]
fn a_plugin_says_who_it_is() {
    let wasm = pass();
    let plugin = engine().check(&spec(&wasm)).unwrap();
    use sha2::Digest;
    let sha256 = hex::encode(sha2::Sha256::digest(&wasm));
    let identity = PluginIdentity {
        step: "test".into(),
        name: "test".into(),
        version: "0.1.0".into(),
        sha256: sha256.clone(),
    };
    assert_eq!(*plugin.identity(), identity);
    assert_eq!((plugin.summary(), plugin.config_schema()), ("test", "{}"));

    let pinned = |pin: &str| PluginSpec { sha256: Some(pin.into()), ..spec(&wasm) };
    assert!(engine().check(&pinned(&sha256.to_uppercase())).is_ok());
    let (at, message, help) = refusal(&pinned(&"0".repeat(64)));
    assert!(at == "/sha256" && message.contains(&sha256) && help.contains("pin"), "{message}");
    let (at, message, help) = refusal(&pinned("abc"));
    assert!(at == "/sha256" && message.contains("not a SHA-256") && help.contains(&sha256), "{message}");
}

#[test]
fn what_is_no_plugin_is_told_what_it_is() {
    let whole = pass();
    let other_version = |wat: String| {
        let (wat, wit) = (wat.replace("@0.1.0", "@0.2.0"), WIT.replace("@0.1.0", "@0.2.0"));
        with_world(&wat, &wit)
    };
    let component = |wat: &str| wat::parse_str(wat).unwrap();
    let cases: Vec<(Vec<u8>, &str, &str)> = vec![
        (Vec::new(), "is not WebAssembly", "wasm32-unknown-unknown"),
        (b"#!/bin/sh\nexit 0\n".to_vec(), "is not WebAssembly", "wasm32-unknown-unknown"),
        ((0..4096u32).map(|n| (n.wrapping_mul(2654435761) >> 24) as u8).collect(), "is not WebAssembly", ""),
        (b"\0asm".to_vec(), "is not WebAssembly", ""),
        ([&b"\0asm\x01\0\0\0"[..], &[0xff; 100]].concat(), "cannot be loaded", "build it again"),
        ([&b"\0asm\x0d\0\x01\0"[..], &[0xff; 100]].concat(), "cannot be loaded", "build it again"),
        (whole[..whole.len() / 2].to_vec(), "cannot be loaded", "build it again"),
        (
            component("(module)"),
            "is no plugin: it does not export millstream:plugin/processor@0.1.0",
            "export! macro",
        ),
        (component("(component)"), "is no plugin", "export! macro"),
        (component("(module (import \"env\" \"now\" (func)))"), "cannot be loaded", "build it again"),
        (
            other_version(module(7, "(call $pass (local.get $batch))", "")),
            "is built for version 0.2.0 of the plugin contract, this millstream has 0.1.0",
            "millstream-plugin-sdk of millstream",
        ),
    ];
    for (wasm, words, remedy) in cases {
        let (at, message, help) = refusal(&spec(&wasm));
        assert_eq!(at, "/wasm", "{message}");
        assert!(message.contains(words), "{message:?} does not say {words:?}");
        assert!(help.contains(remedy), "{help:?} does not say {remedy:?}");
    }
    let missing = PluginSpec { code: PluginCode::File("no/such.wasm".into()), ..spec(&whole) };
    assert!(refusal(&missing).1.contains("no/such.wasm cannot be read"));
    let unknown = PluginSpec { code: PluginCode::BuiltIn("jp".into()), ..spec(&whole) };
    let (at, message, help) = refusal(&unknown);
    assert!(at == "/use" && message.contains("\"jp\"") && help.contains("wasm = "), "{help}");
}

#[test]
fn p7_imports_that_no_plugin_is_granted() {
    // The interfaces of the contract, and one more.
    let with_import = |import: &str, call: &str| {
        let wit = WIT.replace("world plugin {", &format!("world plugin {{ import {import};"))
            + &format!(
                "package {} {{ interface now {{ get: func() -> u32; }} }}",
                import.replace("/now", "")
            );
        let wat = module(7, call, "").replace(
            "  (memory ",
            &format!("  (import \"{import}\" \"get\" (func $now (result i32)))\n  (memory "),
        );
        with_world(&wat, &wit)
    };
    let call = "(drop (call $now)) (call $pass (local.get $batch))";
    let (at, message, _) = refusal(&spec(&with_import("other:clock/now@1.0.0", call)));
    assert!(at == "/wasm" && message.contains("imports other:clock/now@1.0.0"), "{message}");
    // WASI is there but denied when it is called.
    let mut instance = instance(&spec(&with_import("wasi:clocks/now@0.2.0", call)));
    let processed = instance.process(batch(&["a"]), 1).unwrap();
    let FateVerdict::Faulted(fault) = &processed.fates[0].verdict else { panic!("{:?}", processed.fates) };
    assert!(
        fault.message.contains("called wasi:clocks/now@0.2.0#get, which is granted to no plugin"),
        "{fault}"
    );
}

#[test]
fn a_bad_configuration_names_its_field() {
    // configure: err({ field: "/a", message: "no" })
    let data = "(data (i32.const 128) \"\\01\\00\\00\\00\\00\\10\\00\\00\\02\\00\\00\\00\\02\\10\\00\\00\\02\\00\\00\\00\")
        (data (i32.const 4096) \"/ano\")";
    let wasm = guest("(call $pass (local.get $batch))", data);
    let given = PluginSpec { config: serde_json::json!({ "a": 1 }), ..spec(&wasm) };
    assert_eq!(refusal(&given), ("/config/a".into(), "no".into(), String::new()));
    // What is not there has no place of its own: the message names it.
    for config in [serde_json::json!({ "b": 1 }), serde_json::Value::Null] {
        let missing = PluginSpec { config, ..spec(&wasm) };
        assert_eq!(refusal(&missing), ("/config/a".into(), "`config.a`: no".into(), String::new()));
    }
}

#[test]
fn limits_that_make_no_sense_are_told() {
    use crate::config::units::{ByteSize, Interval};
    let mut spec = spec(&pass());
    spec.limits.memory = ByteSize::kib(64);
    let (at, message, help) = refusal(&spec);
    assert!(
        at == "/limits/memory" && message.contains("64KiB") && help.contains("more than 64KiB"),
        "{message}"
    );
    spec.limits.memory = ByteSize::mib(5000);
    spec.limits.timeout = Interval::millis(0);
    let error = engine().check(&spec).map(drop).unwrap_err();
    let at: Vec<&str> = error.problems.iter().map(|problem| &*problem.at).collect();
    assert_eq!(at, ["/limits/memory", "/limits/timeout"]);
}

#[test]
fn a_damaged_cache_entry_is_compiled_again() {
    let folder = tempfile::tempdir().unwrap();
    let cache_dir = folder.path().join("cache");
    let fresh = || {
        PluginEngine::new(EngineSettings {
            cache_dir: cache_dir.clone(),
            compiler: None,
            source_lines: false,
        })
        .unwrap()
    };
    let spec = spec(&answering(&Answer { verdicts: vec![1], ..Answer::default() }));
    let entry = || {
        let entries = std::fs::read_dir(&cache_dir).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.extension().is_some_and(|ending| ending == "cwasm")).collect::<Vec<_>>()
    };
    fresh().check(&spec).unwrap();
    let [path] = &entry()[..] else { panic!("{:?}", entry()) };
    let compiled = std::fs::read(path).unwrap();
    assert_eq!(std::fs::metadata(&cache_dir).unwrap().permissions().mode() & 0o777, 0o700);
    for damage in [&[][..], b"junk", &compiled[..compiled.len() / 2]] {
        std::fs::write(path, damage).unwrap();
        fresh().check(&spec).unwrap();
        assert!(std::fs::read(path).unwrap() == compiled, "it was not compiled again");
    }
    // One bit in the middle of the code.
    let mut flipped = compiled.clone();
    flipped[compiled.len() / 2] ^= 1;
    std::fs::write(path, &flipped).unwrap();
    fresh().check(&spec).unwrap();
    assert!(std::fs::read(path).unwrap() == compiled, "it was not compiled again");
    // It is used when it is whole: with no compiler to call there is no other way.
    let compiler = Some("/no/such/compiler".into());
    let engine =
        PluginEngine::new(EngineSettings { cache_dir: cache_dir.clone(), compiler, source_lines: false })
            .unwrap();
    engine.check(&spec).unwrap();
    std::fs::remove_file(path).unwrap();
    let engine = PluginEngine::new(EngineSettings {
        cache_dir,
        compiler: Some("/no/such/compiler".into()),
        source_lines: false,
    })
    .unwrap();
    let error = engine.check(&spec).map(drop).unwrap_err().to_string();
    assert!(error.contains("the compiler for") && error.contains("could not be started"), "{error}");
}

#[test]
fn a_compiler_that_dies_is_told_and_ends_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let spec = spec(&answering(&Answer { verdicts: vec![4], ..Answer::default() }));
    for (script, words) in [
        ("kill -9 $$", "ended with signal 9"),
        (
            "echo memory allocation of 7 bytes failed >&2; exit 101",
            "ended with exit code 101: memory allocation",
        ),
        ("echo is no good >&2; exit 3", "cannot be loaded: is no good"),
        ("exit 0", "cannot be loaded"),
    ] {
        let compiler = folder.path().join("compiler");
        std::fs::write(&compiler, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&compiler, std::fs::Permissions::from_mode(0o700)).unwrap();
        let settings = EngineSettings {
            cache_dir: folder.path().join("cache"),
            compiler: Some(compiler),
            source_lines: false,
        };
        let error = PluginEngine::new(settings).unwrap().check(&spec).map(drop).unwrap_err();
        assert!(error.problems[0].message.contains(words), "{error}");
    }
}
