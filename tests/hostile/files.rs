//! Files that are no plugins, or plugins that do harm before their first message. Whatever a file is,
//! it ends no process that loads it, and what is said of it names the problem and the remedy.

use std::fmt::Write;

use millstream::plugin::compile::to_component;

use super::text::{Text, contract_version, with_world};
use crate::support::{Folder, guest, millstream, run};

struct Case {
    name: &'static str,
    file: Vec<u8>,
    /// More keys of its `[[plugin]]`.
    keys: &'static str,
    /// What is said of it, and what to do; nothing if it is loaded all the same.
    says: &'static str,
    remedy: &'static str,
}

fn case(name: &'static str, file: impl Into<Vec<u8>>, says: &'static str, remedy: &'static str) -> Case {
    Case { name, file: file.into(), keys: "", says, remedy }
}

/// For one that was never a plugin, is damaged, has too much in it, does not start.
const BUILD_IT: &str = "give the .wasm that `cargo build --target wasm32-unknown-unknown --release` made";
const AGAIN: &str = "build it again with millstream-plugin-sdk for wasm32-unknown-unknown";
const SMALLER: &str = "make it smaller";
const MEND: &str = "its author has to mend that";

fn wat(text: &str) -> Vec<u8> {
    wat::parse_str(text).unwrap_or_else(|error| panic!("{error}"))
}

fn text(text: Text<'_>) -> Vec<u8> {
    text.plugin()
}

fn items(items: &str) -> Vec<u8> {
    Text { items, ..Text::default() }.plugin()
}

/// A plugin of another version of the contract.
fn of_version(version: &str) -> Vec<u8> {
    let from = format!("@{}", contract_version());
    let to = format!("@{version}");
    let wit = include_str!("../../plugin-sdk/wit/plugin.wit").replace(&from, &to);
    with_world(&Text::default().module().replace(&from, &to), &wit)
}

/// A plugin with so many instances of a core module in its component.
fn crowded(instances: u32, module: &str) -> Vec<u8> {
    let plugin = Text::default().plugin();
    let mut component = to_component(&plugin).expect("it is a plugin").into_owned();
    // Sections are their number, their length, their content; 1 is a core module, 2 core instances.
    let (mut at, mut modules) = (8, 0);
    while at < component.len() {
        modules += u32::from(component[at] == 1);
        let mut len = 0;
        for (index, byte) in component[at + 1..].iter().enumerate() {
            len |= usize::from(byte & 0x7f) << (7 * index);
            if byte & 0x80 == 0 {
                at += 2 + index;
                break;
            }
        }
        at += len;
    }
    let mut all = leb(instances);
    for _ in 0..instances {
        all.push(0);
        all.extend(leb(modules));
        all.push(0);
    }
    for (section, content) in [(1, wat(module)), (2, all)] {
        component.push(section);
        component.extend(leb(content.len() as u32));
        component.extend(content);
    }
    component
}

/// Components in each other.
fn nested(depth: usize) -> Vec<u8> {
    let header = b"\0asm\x0d\0\x01\0";
    (0..depth)
        .fold(header.to_vec(), |inner, _| [&header[..], &[4], &leb(inner.len() as u32), &inner].concat())
}

/// A module with one function, with so many numbers for locals.
fn function(locals: u32, body: &[u8]) -> Vec<u8> {
    let body = [&[1], &leb(locals)[..], &[0x7f], body, &[0x0b]].concat();
    let code = [&[1], &leb(body.len() as u32)[..], &body].concat();
    let start = b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\x03\x02\x01\0\x0a";
    [&start[..], &leb(code.len() as u32), &code].concat()
}

/// A function as long as one may be: a million additions.
fn slow_to_compile() -> Vec<u8> {
    function(1, &[0x20, 0, 0x41, 1, 0x6a, 0x21, 0].repeat(1_000_000))
}

/// Loops in each other and locals that are used in the innermost: the compiler keeps each local of
/// each loop apart.
fn huge_to_compile() -> Vec<u8> {
    const LOOPS: usize = 10_000;
    const LOCALS: u32 = 50_000;
    let uses = (0..LOCALS).flat_map(|local| [&[0x20], &leb(local)[..], &[0x1a]].concat());
    let body: Vec<u8> = [0x03, 0x40].repeat(LOOPS).into_iter().chain(uses).collect();
    // `local.get 0`, `br_if 0`, `end` of each loop.
    function(LOCALS, &[body, [0x20, 0, 0x0d, 0, 0x0b].repeat(LOOPS)].concat())
}

/// A plugin with a section of zeros that means nothing.
fn padded(mib: usize) -> Vec<u8> {
    let mut plugin = Text::default().plugin();
    let zeros = vec![0; mib << 20];
    plugin.push(0);
    plugin.extend(leb(zeros.len() as u32));
    plugin.extend(zeros);
    plugin
}

/// A plugin that imports one more interface.
fn importing(interface: &str) -> Vec<u8> {
    let wit = include_str!("../../plugin-sdk/wit/plugin.wit")
        .replace("world plugin {", &format!("world plugin {{ import {interface};"));
    let package = interface.replace("/now", "");
    let wit = format!("{wit} package {package} {{ interface now {{ get: func() -> u32; }} }}");
    let import = format!("  (import \"{interface}\" \"get\" (func $now (result i32)))\n  (memory ");
    let process = "(drop (call $now)) (call $pass (local.get $batch))";
    let module = Text { process, ..Text::default() }.module();
    with_world(&module.replacen("  (memory ", &import, 1), &wit)
}

fn leb(mut number: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

fn cases() -> Vec<Case> {
    let hostile = std::fs::read(guest("hostile")).expect("the guest can be read");
    let plugin = Text::default().plugin();
    let component = to_component(&plugin).expect("it is a plugin").into_owned();
    let noise: Vec<u8> = (0..4096_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let random_module = [b"\0asm\x01\0\0\0", &noise[..]].concat();
    let random_component = [b"\0asm\x0d\0\x01\0", &noise[..]].concat();
    let compiled = wasmtime::Engine::default().precompile_module(&wat("(module)")).expect("it compiles");
    let import_twice = plugin_with_import_twice();
    let configured = |mode: &'static str, keys, says| Case { keys, ..case(mode, &hostile[..], says, MEND) };
    vec![
        case("empty", "", "empty.wasm is not WebAssembly", BUILD_IT),
        case("script", "#!/bin/sh\nexit 0\n", "script.wasm is not WebAssembly", BUILD_IT),
        case("random-bytes", &noise[..], "random-bytes.wasm is not WebAssembly", BUILD_IT),
        case("four-bytes", "\0asm", "four-bytes.wasm is not WebAssembly", BUILD_IT),
        case("random-module", random_module, "random-module.wasm cannot be loaded", AGAIN),
        case("random-component", random_component, "random-component.wasm cannot be loaded", AGAIN),
        case("truncated-early", &hostile[..hostile.len() / 3], "unexpected end", AGAIN),
        case("truncated", &hostile[..hostile.len() / 2], "unexpected end", AGAIN),
        case("truncated-late", &hostile[..hostile.len() - 1], "unexpected end", AGAIN),
        case("truncated-component", &component[..component.len() / 2], "unexpected end", AGAIN),
        case("compiled", compiled, "is compiled already, and such code cannot be checked", BUILD_IT),
        case("core-module", wat("(module)"), "core-module.wasm is no plugin", "export! macro"),
        case(
            "command",
            wat("(module
                   (import \"wasi_snapshot_preview1\" \"fd_write\" (func (param i32 i32 i32 i32) (result i32)))
                   (func (export \"_start\")))"),
            "failed to resolve import `wasi_snapshot_preview1::fd_write`",
            AGAIN,
        ),
        case("no-exports", wat("(component)"), "no-exports.wasm is no plugin", "export! macro"),
        case("older-contract", of_version("0.0.9"), "is built for version 0.0.9", "millstream-plugin-sdk"),
        case("newer-contract", of_version("0.9.0"), "is built for version 0.9.0", "millstream-plugin-sdk"),
        case("far-newer-contract", of_version("7.0.0"), "is built for version 7.0.0", "millstream-plugin-sdk"),
        case(
            "unknown-import",
            wat("(module (import \"env\" \"now\" (func)))"),
            "failed to resolve import `env::now`",
            AGAIN,
        ),
        case(
            "escapes-in-import",
            wat("(module (import \"e\\1b[2Jv\\0a\" \"now\" (func)))"),
            "failed to resolve import `e\\u{1b}[2Jv\\n::now`",
            AGAIN,
        ),
        case(
            "unknown-interface",
            importing("other:clock/now@1.0.0"),
            "imports other:clock/now@1.0.0, which this millstream does not have",
            "remove the dependency that wants it",
        ),
        case(
            "duplicate-import",
            wat("(component (import \"a\" (func)) (import \"a\" (func)))"),
            "import name `a` conflicts with previous name `a`",
            AGAIN,
        ),
        // A module may ask twice for the same.
        case("import-twice", import_twice, "", ""),
        case(
            "duplicate-export",
            wat("(module (func (export \"a\")) (func (export \"a\")))"),
            "duplicate export name `a`",
            AGAIN,
        ),
        case("instances", crowded(100, "(module)"), "exceeds the configured maximum of 64", SMALLER),
        case("thousands-of-instances", crowded(5000, "(module)"), "instances count exceeds limit", AGAIN),
        case("memories", crowded(20, "(module (memory 1))"), "exceeds the configured maximum of 4", SMALLER),
        case("thousands-of-memories", crowded(5000, "(module (memory 1))"), "count exceeds limit", AGAIN),
        case("memories-in-a-module", items(&"(memory 1)".repeat(90)), "memories count of 91 exceeds the per-instance limit of 4", SMALLER),
        case("tables-in-a-module", items(&"(table 1 funcref)".repeat(90)), "tables count of 90 exceeds the per-instance limit of 8", SMALLER),
        case("nested", nested(5000), "nested.wasm is no plugin", "export! macro"),
        case(
            "memory-of-4-gib",
            crowded(1, "(module (memory 65536))"),
            "does not start: it needs more than its 64MiB of memory",
            "give it more than 64MiB",
        ),
        case("memory-of-64-bits", crowded(1, "(module (memory i64 1))"), "memory64 must be enabled", AGAIN),
        case("table-of-a-million", items("(table 1000000 funcref)"), "1000000", SMALLER),
        case("table-of-4-billion", items("(table 4294967295 funcref)"), "4294967295", SMALLER),
        case("too-large", padded(65), "is larger than 64MiB", "set a larger limits.file"),
        Case { keys: "limits.file = \"70MiB\"", ..case("as-large-as-configured", padded(65), "", "") },
        Case {
            keys: "limits.compile = \"100ms\"",
            ..case(
                "slow-to-compile",
                slow_to_compile(),
                "cannot be compiled within 100ms",
                "set a longer limits.compile",
            )
        },
        case("huge-to-compile", huge_to_compile(), "the compiler, which may use 4GiB, ended with", SMALLER),
        case("trap-in-start", items("(func $s (unreachable)) (start $s)"), "does not start: it panicked", MEND),
        case(
            "table-bomb-in-start",
            items(
                "(table $t 1 funcref)
                 (func $s (loop $more (br_if $more (i32.ne
                   (table.grow $t (ref.null func) (i32.const 1000)) (i32.const -1)))) (unreachable))
                 (start $s)",
            ),
            "does not start: it needs a table of more than 100000 elements",
            MEND,
        ),
        case(
            "memory-bomb-in-describe",
            text(Text {
                describe: "(loop $more (br_if $more (i32.ne (memory.grow (i32.const 16)) (i32.const -1))))
                           (unreachable)",
                ..Text::default()
            }),
            "does not start: it needs more than its 64MiB of memory",
            "give it more than 64MiB",
        ),
        case(
            "recursion-in-describe",
            text(Text { describe: "(call $recurse (i32.const 1))", ..Text::default() }),
            "does not start: it called itself until its stack was full",
            MEND,
        ),
        case(
            "log-in-describe",
            text(Text {
                describe: "(loop $ever (call $log (i32.const 2) (i32.const 0) (i32.const 0) (i32.const 4096)
                             (i32.const 100)) (br $ever)) (unreachable)",
                ..Text::default()
            }),
            "does not start: it wrote more than 1MiB of log",
            MEND,
        ),
        case(
            "name-outside-of-memory",
            items("(data (i32.const 64) \"\\00\\00\\00\\7f\\ff\\ff\\00\\00\")"),
            "does not start: it gave back what is malformed",
            MEND,
        ),
        case(
            "name-not-utf8",
            items("(data (i32.const 16) \"\\ff\\fe\")"),
            "does not start: it gave back what is malformed",
            MEND,
        ),
        case(
            "name-with-escapes",
            items("(data (i32.const 16) \"\\1b[2J\")"),
            "the plugin has the name or version \"\\u{1b}[2J\"",
            "control characters are not allowed",
        ),
        case(
            "long-name",
            items("(data (i32.const 68) \"\\00\\01\\00\\00\")"),
            "the plugin has a name or version of 256 bytes",
            "200 are allowed",
        ),
        case(
            "endless-schema",
            text(Text {
                describe: "(call $grow (i32.const 0x1800000)) (i32.store (i32.const 96) (i32.const 0x1700000))
                           (i32.const 64)",
                ..Text::default()
            }),
            "does not start: it gave back more than 16MiB",
            MEND,
        ),
        configured("trap-in-configure", "config.mode = \"trap-in-configure\"", "does not start: it panicked"),
        Case {
            remedy: "give it more than 64MiB",
            ..configured(
                "grow-in-configure",
                "config.mode = \"grow-in-configure\"",
                "does not start: it needs more than its 64MiB of memory",
            )
        },
        configured(
            "recurse-in-configure",
            "config.mode = \"recurse-in-configure\"",
            "does not start: it called itself until its stack was full",
        ),
        Case {
            keys: "limits.file = \"1KiB\"",
            ..case("larger-than-configured", plugin, "is larger than 1KiB", "set a larger limits.file")
        },
    ]
}

/// Its import of the log stands twice in its module.
fn plugin_with_import_twice() -> Vec<u8> {
    let module = Text::default().module();
    let import = module.lines().find(|line| line.contains("(func $log")).expect("it imports the log");
    let again = format!("{import}\n{}", import.replace("$log", "$again"));
    with_world(&module.replace(import, &again), include_str!("../../plugin-sdk/wit/plugin.wit"))
}

const PIPELINE: &str = "name = \"files\"\n[source]\ntype = \"stdin\"\n[[sink]]\ntype = \"drop\"\n";

#[test]
fn p7_p9_what_is_no_plugin_ends_no_process_and_is_told_with_its_remedy() {
    let folder = Folder::new();
    let cases = cases();
    let mut pipeline = PIPELINE.to_owned();
    for Case { name, file, keys, .. } in &cases {
        std::fs::write(folder.path(&format!("{name}.wasm")), file).expect("a file for the test");
        writeln!(pipeline, "[[plugin]]\nwasm = \"{name}.wasm\"\n{keys}").expect("a string takes all");
    }
    let pipeline = folder.write("pipeline.toml", &pipeline);
    let (status, said, complained) = run(&["check", pipeline.to_str().expect("a path in UTF-8")]);
    assert_eq!(status.code(), Some(1), "{said}{complained}");
    assert!(!complained.contains('\u{1b}'), "what is in a file reached the terminal: {complained:?}");
    // One process looked at all of them, one after the other.
    let mut problems = complained.split("\n\n");
    let mut wrong = Vec::new();
    for (index, Case { name, says, remedy, .. }) in cases.iter().enumerate() {
        if says.is_empty() {
            let first = PIPELINE.lines().count() + 1 + index * 3;
            let told = (first..first + 3).any(|line| complained.contains(&format!("pipeline.toml:{line}:")));
            wrong.extend(told.then(|| format!("{name} is not loaded")));
            continue;
        }
        let problem = problems.next().unwrap_or_default();
        for words in [says, remedy].into_iter().filter(|words| !problem.contains(**words)) {
            wrong.push(format!("{name}: not {words:?} in\n{problem}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn p7_a_plugin_that_never_starts_is_given_up() {
    const LOOP: &str = "(loop $ever (br $ever)) (unreachable)";
    let bulk = "(func $s (loop $ever
        (memory.fill (i32.const 0x100000) (i32.const 1) (i32.const 0x10000)) (br $ever))) (start $s)";
    let cases = [
        ("describe", Text { describe: LOOP, ..Text::default() }),
        ("configure", Text { configure: LOOP, ..Text::default() }),
        ("realloc", Text { realloc: LOOP, ..Text::default() }),
        ("start", Text { items: "(func $s (loop $ever (br $ever))) (start $s)", ..Text::default() }),
        ("bulk-in-start", Text { items: bulk, ..Text::default() }),
    ];
    let folder = Folder::new();
    // All at once: each has its ten seconds.
    let checks = cases.map(|(name, text)| {
        std::fs::write(folder.path(&format!("{name}.wasm")), text.plugin()).expect("a file for the test");
        let pipeline = format!("{PIPELINE}[[plugin]]\nwasm = \"{name}.wasm\"\n");
        let pipeline = folder.write(&format!("{name}.toml"), &pipeline);
        let mut check = millstream(&["check", pipeline.to_str().expect("a path in UTF-8")]);
        (name, check.stderr(std::process::Stdio::piped()).spawn().expect("the binary starts"))
    });
    for (name, check) in checks {
        let output = check.wait_with_output().expect("it ends");
        let complained = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{name}: {complained}");
        assert!(complained.contains("does not start: it ran longer than 10s"), "{name}: {complained}");
        assert!(complained.contains(MEND), "{name}: {complained}");
    }
}
