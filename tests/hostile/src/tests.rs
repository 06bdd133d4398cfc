use super::*;

fn batch(payloads: &[&str]) -> Batch {
    let mut batch = Batch {
        rows: payloads.len() as u32,
        now: 0,
        arena: Vec::new(),
        payloads: Vec::new(),
        keys: Vec::new(),
        header_ends: Vec::new(),
        headers: Vec::new(),
        timestamps: Vec::new(),
        source: String::new(),
        partitions: Vec::new(),
        offsets: Vec::new(),
    };
    for payload in payloads {
        batch.payloads.extend([batch.arena.len() as u32, payload.len() as u32]);
        batch.arena.extend_from_slice(payload.as_bytes());
    }
    batch
}

fn run(mode: &str, payloads: &[&str]) -> Outcome {
    Hostile::configure(format!(r#"{{"mode": "{mode}", "trigger": "poison", "amount": 2}}"#)).unwrap();
    Hostile::process(batch(payloads))
}

#[test]
fn messages_without_the_trigger_pass() {
    for mode in ["loop", "grow", "recurse", "trap", "log-forever", "huge-output", "bad-utf8"] {
        assert_eq!(run(mode, &["a", "", "pois on"]).verdicts, [PASS, PASS, PASS]);
    }
}

#[test]
fn indexes_are_beyond_the_arenas() {
    let outcome = run("index-out-of-range", &["a", "poison"]);
    assert_eq!(outcome.verdicts, [PASS, EMIT]);
    assert_eq!(outcome.emitted[..3], [1, 7, 1]);
    let outcome = run("index-wrap", &["poison"]);
    assert!(outcome.emitted[1].checked_add(outcome.emitted[2]).is_none());
}

#[test]
fn a_verdict_is_forgotten() {
    assert_eq!(run("too-few-verdicts", &["poison", "a", "b"]).verdicts, [PASS, PASS]);
}

#[test]
fn the_output_is_huge() {
    assert_eq!(run("huge-output", &["poison"]).arena.len(), 100 << 20);
}

#[test]
fn each_payload_is_put_off() {
    run("retry-n", &[]);
    let verdicts = |payloads: &[&str]| Hostile::process(batch(payloads)).verdicts;
    assert_eq!(verdicts(&["poison 1", "a", "poison 2"]), [RETRY, PASS, RETRY]);
    assert_eq!(verdicts(&["poison 1"]), [RETRY]);
    assert_eq!(verdicts(&["poison 1", "poison 2"]), [PASS, RETRY]);
}

#[test]
fn what_is_leaked_begins_after_some_messages() {
    run("leak", &["poison"]);
    let kept = || STATE.with_borrow(|state| state.as_ref().map(|state| state.kept.len()));
    assert_eq!(Hostile::process(batch(&["poison"])).verdicts, [PASS]);
    assert_eq!(kept(), Some(0));
    Hostile::process(batch(&["poison"; 3]));
    assert_eq!(kept(), Some(3));
}
