//! Candidates beside a plugin: compared and counted, never delivered, and harmless.

use super::{World, another_version, configured, pipeline, program, reloads};
use crate::support::{guest, look, metric};

/// Messages that the candidate had, by what came of them.
fn compared(page: &str, result: &str) -> usize {
    let labels = ["plugin=\"step\"", &format!("result=\"{result}\"")];
    metric(page, "millstream_plugin_shadow_messages_total", &labels).unwrap_or(0) as usize
}

fn of_all(page: &str) -> usize {
    ["same", "different", "failed", "skipped"].iter().map(|result| compared(page, result)).sum()
}

/// Waits until the candidate had, or skipped, everything that was sent; returns the metrics.
fn settled(world: &mut World) -> String {
    world.settle();
    let mut page = String::new();
    let World { running, admin, sent, .. } = world;
    running.wait_for("all of them compared", |_| {
        page = look(admin).expect("it runs");
        of_all(&page) == *sent
    });
    page
}

#[test]
fn p7_a_candidate_is_compared_with_the_active_plugin_and_delivers_nothing() {
    let other = program(1).replace(".v = 1", ".v = (if .n % 5 == 0 then 2 else 1 end)");
    let shadow = format!("{{ wasm = \"shadow.wasm\", share = 1.0, config = {{ program = \"{other}\" }} }}");
    let mask = "use = \"mask\"\nconfig = { rules = [{ pointers = [\"/card\"], action = \"redact\" }] }";
    let plugin = format!("{}\nshadow = {shadow}\n[[plugin]]\n{mask}", configured(1));
    let mut world = World::start(&plugin);
    world.send_until("a difference", |page| compared(page, "different") > 0);
    let page = settled(&mut world);
    assert_eq!(compared(&page, "failed"), 0, "{page}");
    assert!(compared(&page, "same") > compared(&page, "different"), "{page}");
    let sent = world.sent;
    let differ = (0..sent).filter(|n| n % 5 == 0 && n % super::REFUSED != 0).count();
    assert!(compared(&page, "skipped") > 0 || compared(&page, "different") == differ, "{page}");
    let log = world.running.log();
    for part in ["shadow differs", "-    \"v\": 1", "+    \"v\": 2", "offset=", "***"] {
        assert!(log.contains(part), "no {part:?} in {log}");
    }
    assert!(!log.contains("4711"), "what `mask` hides is in the log: {log}");

    // One that is no plugin changes nothing, another version is taken; the active plugin stays.
    std::fs::write(world.folder.path("shadow.wasm"), "oh no").expect("a bad file");
    world.send_until("the failure", |page| reloads(page, "failed") == 1);
    std::fs::write(world.folder.path("shadow.wasm"), another_version(2)).expect("another version");
    world.send_until("the other version", |page| reloads(page, "ok") == 1);
    let page = settled(&mut world);
    assert!(compared(&page, "different") > differ, "it went on: {page}");
    assert!(
        world.running.log().contains("the shadow: ") && page.contains("plugin=\"step:shadow\""),
        "{page}"
    );
    assert!(world.delivered().iter().all(|line| line["v"] == 1 && line["card"] == "***"));
    world.end();
}

#[test]
fn p4_a_candidate_that_fails_or_never_ends_harms_nobody() {
    for (mode, timeout, result) in [("trap", "500ms", "failed"), ("loop", "1h", "skipped")] {
        let hostile = guest("hostile");
        let config = format!("{{ mode = \"{mode}\", trigger = \"\" }}");
        let shadow = format!("{{ wasm = {hostile:?}, share = 1.0, config = {config} }}");
        let limits = format!("limits = {{ timeout = \"{timeout}\" }}");
        let mut world = World::start(&format!("{}\nshadow = {shadow}\n{limits}", configured(1)));
        world.send_until(result, |page| compared(page, result) > 0);
        world.send(500);
        world.settle();
        let page = look(&world.admin).expect("it runs");
        assert_eq!(compared(&page, "same") + compared(&page, "different"), 0, "{mode}: {page}");
        assert!(mode == "trap" || compared(&page, "failed") == 0, "{mode}: {page}");
        world.delivered();
        // Also while the candidate is in its call.
        world.end();
    }
}

#[test]
fn a_candidate_comes_and_goes_with_a_sighup() {
    let mut world = World::start(&configured(1));
    let file = world.folder.path("pipeline.toml");
    let with = format!("{}\nshadow = \"shadow.wasm\"", configured(1));
    std::fs::write(&file, pipeline(&with, "")).expect("a candidate");
    world.running.hang_up();
    world.send_until("the candidate", |page| reloads(page, "ok") == 1 && compared(page, "same") > 0);
    let page = look(&world.admin).expect("it runs");
    assert!(of_all(&page) < world.sent, "it has a share: {page}");
    std::fs::write(&file, pipeline(&configured(1), "")).expect("none");
    world.running.hang_up();
    world.send_until("its end", |page| reloads(page, "ok") == 2);
    assert!(world.running.log().contains("shadow ended"), "{}", world.running.log());
    world.settle();
    world.delivered();
    world.end();
}
