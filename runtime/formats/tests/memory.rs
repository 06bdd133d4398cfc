//! What decoding takes of memory, of input that is made to take as much as it can.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use millstream_formats::avro::{self, Container};
use millstream_formats::protobuf::{Descriptors, UnknownFields};
use millstream_formats::{Error, Value, cbor, json, msgpack};

static HELD: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

/// The allocator of the system, which is counted.
struct Counted;

// SAFETY: all is done by `System`, as it is asked; counting allocates nothing.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        PEAK.fetch_max(HELD.fetch_add(layout.size(), Relaxed) + layout.size(), Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static COUNTED: Counted = Counted;

/// How many times its length the worst of inputs takes. A byte of a list is a value of 40 bytes; while the list
/// grows, it is there twice, once in half its size. A map's entry of two bytes is two values.
const TIMES: usize = 160;

/// What one value of Avro may take, by its length: a list is there twice while it grows.
fn most_of_avro(length: usize) -> usize {
    2 * (64 << 20).max(256 * length)
}

/// What one block of a file may take: its values are there twice while their list grows.
const BLOCK: usize = 2 * (256 << 20);

/// How much decoding takes at its peak.
fn taken<T>(decode: impl Fn() -> Result<T, Error>) -> usize {
    let before = HELD.load(Relaxed);
    PEAK.store(before, Relaxed);
    let value = decode();
    let taken = PEAK.load(Relaxed) - before;
    drop(value);
    taken
}

/// A number as Avro writes it.
fn zigzag(number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    prost::encoding::encode_varint(number << 1, &mut bytes);
    bytes
}

/// How many times the length of its input decoding takes at its peak.
fn times(bytes: &[u8], decode: impl Fn(&[u8]) -> Result<Value, Error>) -> usize {
    let before = HELD.load(Relaxed);
    PEAK.store(before, Relaxed);
    let value = decode(bytes);
    let taken = PEAK.load(Relaxed) - before;
    drop(value);
    taken / bytes.len()
}

#[test]
fn decoding_takes_a_bounded_multiple_of_its_input() {
    // The allocator counts for the process, so nothing else may run: this is the only test of this file.
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().expect("no other test panicked");
    const LENGTH: usize = 300_000;
    let behind = |head: &[u8], repeated: &[u8]| {
        let mut bytes = head.to_vec();
        bytes.extend(repeated.iter().cycle().take(LENGTH - LENGTH % repeated.len()));
        bytes
    };
    let count = |length: usize| (length as u32).to_be_bytes();
    let head = |first: u8, length: usize| [&[first][..], &count(length)].concat();

    for (name, bytes) in [
        ("nulls", behind(&head(0xdd, LENGTH), &[0xc0])),
        ("empty lists", behind(&head(0xdd, LENGTH), &[0x90])),
        ("empty maps", behind(&head(0xdd, LENGTH), &[0x80])),
        ("lists of one", behind(&head(0xdd, LENGTH / 2), &[0x91, 0xc0])),
        ("maps of one", behind(&head(0xdd, LENGTH / 3), &[0x81, 0xa0, 0xc0])),
        ("more than there is", behind(&head(0xdd, u32::MAX as usize), &[0xdf, 255, 255, 255, 255])),
    ] {
        let times = times(&bytes, msgpack::decode);
        println!("msgpack, {name}: {times} times");
        assert!(times <= TIMES, "msgpack, {name}: {times} times");
    }
    for (name, bytes) in [
        ("nulls", behind(&head(0x9a, LENGTH), &[0xf6])),
        ("lists without length", behind(&[0x9f], &[0x9f, 0xff])),
        ("maps without length", behind(&[0x9f], &[0xbf, 0x60, 0xf6, 0xff])),
        ("chunks", behind(&[0x5f], &[0x40])),
        ("more than there is", behind(&head(0x9a, u32::MAX as usize), &[0xba, 255, 255, 255, 255])),
    ] {
        let times = times(&bytes, cbor::decode);
        println!("cbor, {name}: {times} times");
        assert!(times <= TIMES, "cbor, {name}: {times} times");
    }
    let times_of_json = times(&behind(b"[", b"0,"), json::decode);
    println!("json: {times_of_json} times");
    assert!(times_of_json <= TIMES, "json: {times_of_json} times");

    let optional: String = (1..=1000).map(|number| format!("optional int32 o{number} = {number};")).collect();
    let implicit: String = (1..=1000).map(|number| format!("int32 i{number} = {number};")).collect();
    let schema = format!(
        "syntax = \"proto3\";
        message All {{
          repeated bool flags = 1; repeated Optional optional = 2; repeated Implicit implicit = 3;
          map<int32, bool> map = 4; All all = 5; repeated Empty empty = 6;
        }}
        message Optional {{ {optional} }} message Implicit {{ {implicit} }} message Empty {{}}"
    );
    let message = Descriptors::from_sources(&schema, &[]).unwrap().message("All").unwrap();
    let message = message.with_unknown_fields(UnknownFields::Drop);
    let mut flags = vec![1 << 3 | 2];
    prost::encoding::encode_varint(LENGTH as u64, &mut flags);
    // Twice 256: while a list grows, half of it is there twice.
    const TIMES_OF_PROTOBUF: usize = 512;
    for (name, bytes) in [
        ("flags", behind(&flags, &[1])),
        ("flags that are not packed", behind(&[], &[8, 1])),
        ("messages of optional fields", behind(&[], &[2 << 3 | 2, 0])),
        ("messages of other fields", behind(&[], &[3 << 3 | 2, 0])),
        ("empty messages", behind(&[], &[6 << 3 | 2, 0])),
        ("entries", behind(&[], &[4 << 3 | 2, 0])),
        ("parts", behind(&[], &[5 << 3 | 2, 2, 5 << 3 | 2, 0])),
        ("unknown fields", behind(&[], &[7 << 3, 0])),
    ] {
        let times = times(&bytes, |bytes| message.decode(bytes));
        println!("protobuf, {name}: {times} times");
        assert!(times <= TIMES_OF_PROTOBUF, "protobuf, {name}: {times} times");
    }
    for (name, schema, bytes) in [
        ("nulls", r#""null""#, [zigzag(1 << 40), vec![0]].concat()),
        ("nulls that go", r#""null""#, [zigzag(1_000_000), vec![0]].concat()),
        ("blocks of nulls", r#""null""#, behind(&[], &zigzag(10_000))),
        (
            "empty records",
            r#"{"type":"record","name":"r","fields":[]}"#,
            [zigzag(1_000_000), vec![0]].concat(),
        ),
        ("empty texts", r#""string""#, [zigzag(LENGTH as u64), vec![0; LENGTH + 1]].concat()),
        (
            "empty lists",
            r#"{"type":"array","items":"null"}"#,
            [zigzag(LENGTH as u64), vec![0; LENGTH + 1]].concat(),
        ),
        ("more than there is", r#""long""#, [zigzag(1 << 40), vec![0; 9]].concat()),
        ("bytes that are not there", r#""bytes""#, [zigzag(1), zigzag(60 << 20)].concat()),
    ] {
        let schema = avro::Schema::parse(&format!(r#"{{"type":"array","items":{schema}}}"#), &[]).unwrap();
        let taken = taken(|| schema.decode(&bytes));
        println!("avro, {name}: {} MiB of {} bytes", taken >> 20, bytes.len());
        assert!(taken <= most_of_avro(bytes.len()), "avro, {name}: {taken} bytes");
    }
    // What a count only says takes nothing.
    let longs = avro::Schema::parse(r#"{"type":"array","items":"long"}"#, &[]).unwrap();
    let few = [zigzag(1_000_000), vec![0; 9]].concat();
    let taken_few = taken(|| longs.decode(&few));
    println!("avro, a million that are not there: {taken_few} bytes");
    assert!(taken_few < 1 << 20, "avro, a million that are not there: {taken_few} bytes");
    let list = r#"{"type":"record","name":"r","fields":[{"name":"next","type":["null","r"]}]}"#;
    let list = avro::Schema::parse(list, &[]).unwrap();
    let deep = vec![2; LENGTH];
    let taken_deep = taken(|| list.decode(&deep));
    println!("avro, far too deep: {taken_deep} bytes");
    assert!(taken_deep < 1 << 20, "avro, far too deep: {taken_deep} bytes");

    // A block of values that take no bytes, as many as it says.
    let null = avro::Schema::parse(r#""null""#, &[]).unwrap();
    let head = avro::head(&null, avro::Compression::Null);
    let container = Container::open(&head, None).unwrap();
    for count in [1 << 40, 10_000_000] {
        let block = [&zigzag(count)[..], &[0], &head[head.len() - 16..]].concat();
        let taken = taken(|| container.block(&block));
        println!("avro, a block that says it has {count} nulls: {} MiB", taken >> 20);
        assert!(taken <= BLOCK, "avro, a block of {count} nulls: {taken} bytes");
    }
    // Lists of a thousand, so many that they are small for each one and not for all.
    let lists = avro::Schema::parse(r#"{"type":"array","items":"null"}"#, &[]).unwrap();
    let head = avro::head(&lists, avro::Compression::Null);
    let container = Container::open(&head, None).unwrap();
    let values = [zigzag(1000), vec![0]].concat().repeat(LENGTH / 3);
    let block =
        [zigzag(LENGTH as u64 / 3), zigzag(values.len() as u64), values, head[head.len() - 16..].to_vec()]
            .concat();
    let taken = taken(|| container.block(&block));
    println!("avro, a block of lists: {} MiB of {} bytes", taken >> 20, block.len());
    assert!(taken <= BLOCK, "avro, a block of lists: {taken} bytes");
}
