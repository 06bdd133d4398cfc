//! The section `[tracing]`.

use crate::support::{Folder, millstream};

fn check(section: &str, environment: &[(&str, &str)]) -> String {
    let folder = Folder::new();
    let rest = "[source]\ntype = \"stdin\"\n[[sink]]\ntype = \"drop\"\n";
    let pipeline = folder.write("p.toml", &format!("name = \"p\"\n{rest}[tracing]\n{section}\n"));
    let mut command = millstream(&["check", pipeline.to_str().expect("UTF-8")]);
    let output = command.envs(environment.iter().copied()).output().expect("the binary starts");
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    text(&output.stdout) + &text(&output.stderr)
}

/// P9
#[test]
fn p9_mistakes_are_told_with_their_place() {
    for (section, expected) in [
        ("ratio = 1.5", "ratio"),
        ("endpoint = \"collector.example:4318\"", "is not spoken here"),
        ("endpoint = \"http://collector.example:4318\"", "unencrypted to another machine"),
        ("tls = {}", "there is no TLS"),
        ("headers = { \"a b\" = \"c\" }", "is not the name of a header"),
        ("queue = 0", "queue"),
        ("endpont = \"x\"", "endpont"),
    ] {
        let told = check(section, &[]);
        assert!(told.contains("error") && told.contains(expected), "{section}: {told}");
    }
    let told = check("", &[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector.example:4318")]);
    assert!(told.contains("unencrypted to another machine"), "{told}");
    // The file wins.
    let told = check(
        "endpoint = \"http://127.0.0.1:4318\"",
        &[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector.example:4318")],
    );
    assert!(!told.contains("error"), "{told}");
}
