//! One member: what arrives, where it begins, and where it goes on.

use std::time::Duration;

use super::world::{Member, Pipeline, Stream, Taker};
use crate::services::aws::{StandIn, python};
use crate::support::run;

#[test]
fn p2_what_boto3_puts_arrives_as_it_was_put_and_once() {
    let (stream, taker) = (Stream::new(2), Taker::start());
    let put = "
keys = sys.argv[2].split(',')
for number, key in enumerate(keys):
    data = bytes([number, 0, 255]) if number % 2 else b'text %d' % number
    put = client('kinesis').put_record(StreamName=sys.argv[1], PartitionKey=key, Data=data)
    print(key, put['SequenceNumber'], put['ShardId'], base64.b64encode(data).decode())
";
    let keys: Vec<String> = (0..8).map(|number| format!("schlüssel {number}").replace(' ', "_")).collect();
    let printed = python(StandIn::kinesis(), put, &[&stream.name, &keys.join(",")]);
    let mut member = Member::start(&Pipeline::new(&stream, &taker));
    member.wait_for("all are delivered", || taker.count() >= keys.len());
    let expected = |one: &super::world::Taken| {
        use base64::Engine;
        let data = base64::engine::general_purpose::STANDARD.encode(&one.payload);
        let header = |name: &str| &one.headers[name];
        format!("{} {} {} {data}", one.key, header("kinesis-sequence-number"), header("kinesis-shard-id"))
    };
    let mut got: Vec<String> = taker.taken().iter().map(expected).collect();
    let mut put: Vec<&str> = printed.lines().collect();
    got.sort();
    put.sort_unstable();
    assert_eq!(got, put);
    let stopped = member.stop();
    let path = stopped.pipeline.to_str().expect("UTF-8").to_owned();
    let (status, out, errors) = run(&["checkpoint", "show", &path, "--json"]);
    assert!(status.success(), "{errors}");
    assert_eq!(out.lines().filter(|line| line.contains(&stream.name)).count(), 2, "{out}");
    // What is put while nobody reads comes then, and nothing else.
    stream.put("later", b"later");
    let mut member = stopped.start();
    member.wait_for("the record that was put meanwhile", || taker.count() > keys.len());
    let stopped = member.stop();
    assert_eq!(taker.taken().iter().filter(|one| one.key == "later").count(), 1);
    assert_eq!(taker.count(), keys.len() + 1, "nothing twice: {:?}", taker.texts());
    let (status, _, errors) = run(&["checkpoint", "reset", &path, "--yes"]);
    assert!(status.success(), "{errors}");
    let mut member = stopped.start();
    member.wait_for("everything once more", || taker.count() >= 2 * (keys.len() + 1));
}

#[test]
fn p1_no_checkpoint_is_ahead_of_what_is_settled() {
    let (stream, taker) = (Stream::new(1), Taker::start());
    for number in 0..10 {
        stream.put("k", number.to_string().as_bytes());
    }
    taker.hold(Some("5"));
    let mut pipeline = Pipeline::new(&stream, &taker);
    // Each is read and delivered by itself, so that those before it can be committed.
    pipeline.source = "batch = 1".to_owned();
    pipeline.sink = "batch = 1".to_owned();
    let mut member = Member::start(&pipeline);
    member.wait_for("those before it are delivered", || taker.count() == 5);
    // Time to commit those.
    std::thread::sleep(Duration::from_secs(2));
    let killed = member.kill();
    assert_eq!(taker.texts(), ["0", "1", "2", "3", "4"]);
    taker.hold(None);
    let mut member = killed.start();
    member.wait_for("the rest", || taker.distinct() == 10);
    member.stop();
    let mut texts: Vec<String> = taker.taken().iter().map(|one| one.text()).collect();
    // The one that was held may have come twice.
    texts.dedup();
    assert_eq!(
        texts,
        ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"],
        "what was settled is not read again"
    );
}

#[test]
fn it_begins_where_it_is_told_and_after_a_restart_where_it_was() {
    let stream = Stream::new(1);
    stream.put("k", b"early");
    std::thread::sleep(Duration::from_millis(20));
    let between = jiff::Timestamp::now();
    std::thread::sleep(Duration::from_millis(20));
    stream.put("k", b"late");
    let start = |start: &str| {
        let taker = Taker::start();
        let mut pipeline = Pipeline::new(&stream, &taker);
        pipeline.source = format!("start = {start}");
        let mut member = Member::start(&pipeline);
        member.wait_for_log("reading a shard");
        (member, taker)
    };
    let (mut all, all_taken) = start("\"trim-horizon\"");
    let (mut some, some_taken) = start(&format!("{{ timestamp = \"{between}\" }}"));
    let (latest, latest_taken) = start("\"latest\"");
    all.wait_for("both", || all_taken.count() >= 2);
    some.wait_for("the second", || some_taken.count() >= 1);
    // Killed before it has read anything, it begins later where it would have begun then.
    let killed = latest.kill();
    stream.put("k", b"latest");
    let mut latest = killed.start();
    latest.wait_for("the third", || latest_taken.count() >= 1);
    all.wait_for("the third", || all_taken.count() >= 3);
    some.wait_for("the third", || some_taken.count() >= 2);
    assert_eq!(all_taken.texts(), ["early", "late", "latest"]);
    assert_eq!(some_taken.texts(), ["late", "latest"]);
    assert_eq!(latest_taken.texts(), ["latest"]);
    for member in [all, some, latest] {
        member.stop();
    }
}

/// Python that makes aggregated records by hand, as the format is documented.
const AGGREGATE: &str = r#"
import hashlib
def varint(n):
    out = b''
    while n > 127:
        out, n = out + bytes([n & 127 | 128]), n >> 7
    return out + bytes([n])
def field(tag, data):
    return varint(tag << 3 | 2) + varint(len(data)) + data
def aggregate(records):
    keys = sorted({key for key, _, _ in records})
    hashes = sorted({h for _, h, _ in records if h is not None})
    body = b''.join(field(1, key.encode()) for key in keys) + b''.join(field(2, h.encode()) for h in hashes)
    for key, h, data in records:
        one = varint(1 << 3) + varint(keys.index(key))
        if h is not None:
            one += varint(2 << 3) + varint(hashes.index(h))
        body += field(3, one + field(3, data))
    return b'\xf3\x89\x9a\xc2' + body + hashlib.md5(body).digest()
def put(data, **more):
    client('kinesis').put_record(StreamName=sys.argv[1], PartitionKey='a', Data=data, **more)
"#;

#[test]
fn aggregated_records_are_taken_apart_and_what_only_looks_like_one_is_not() {
    let (stream, taker) = (Stream::new(2), Taker::start());
    let program = format!(
        "{AGGREGATE}
whole = aggregate([('u%d' % (n % 3), '0', b'user %d' % n) for n in range(700)])
put(whole, ExplicitHashKey='0')
put(whole[:-1] + bytes([whole[-1] ^ 1]), ExplicitHashKey='0')
put(aggregate([('mine', '1', b'in'), ('theirs', str(2**128 - 1), b'out')]), ExplicitHashKey='0')
put(b'plain', ExplicitHashKey='0')"
    );
    python(StandIn::kinesis(), &program, &[&stream.name]);
    let mut pipeline = Pipeline::new(&stream, &taker);
    // An aggregated record is more than a batch.
    pipeline.source = "batch = 64".to_owned();
    let mut member = Member::start(&pipeline);
    member.wait_for("all user records", || taker.taken().iter().any(|one| one.payload == b"plain"));
    member.stop();
    let taken = taker.taken();
    let of = |key: &str| taken.iter().filter(|one| one.key == key).collect::<Vec<_>>();
    for (key, first) in [("u0", 0), ("u1", 1), ("u2", 2)] {
        let texts: Vec<String> = of(key).iter().map(|one| one.text()).collect();
        let expected: Vec<String> = (first..700).step_by(3).map(|number| format!("user {number}")).collect();
        assert_eq!(texts, expected);
        let subsequence = &of(key)[1].headers["kinesis-subsequence-number"];
        assert_eq!(*subsequence, (first + 3).to_string());
    }
    assert_eq!(of("mine").len(), 1);
    assert!(of("theirs").is_empty(), "it belongs to the other shard");
    let plain = of("a");
    assert_eq!(plain.len(), 2);
    assert!(plain[0].payload.starts_with(&[0xf3, 0x89, 0x9a, 0xc2]), "damaged, it is what it is");
    assert!(!plain[0].headers.contains_key("kinesis-subsequence-number"));
}
