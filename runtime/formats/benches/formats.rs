//! What the model costs: each format beside the bare crate for it, and the way from one to another beside the
//! sum of the two crates. Ratios of one run, taken in turns, so that a busy machine slows both sides.

use std::hint::black_box;
use std::time::{Duration, Instant};

use millstream_formats::protobuf::Descriptors;
use millstream_formats::{ExtraFields, Value, avro, cbor, json, msgpack};
use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, MapKey, MessageDescriptor, ReflectMessage};

/// Rounds, of which the median counts.
const ROUNDS: usize = 41;

/// How long one side of a round takes about.
const ROUND: Duration = Duration::from_millis(10);

const SCHEMA: &str = r#"
    syntax = "proto3";
    package shop.v1;
    enum State { UNSPECIFIED = 0; PAID = 1; SENT = 2; }
    message Order {
      string order_id = 1;
      int64 created_at = 2;
      State state = 3;
      string customer = 4;
      double total = 5;
      bool is_gift = 6;
      repeated Line lines = 7;
      map<string, string> labels = 8;
      repeated int32 codes = 9;
      bytes signature = 10;
      optional string note = 11;
      Address address = 12;
    }
    message Line { string sku = 1; int32 count = 2; double price = 3; string title = 4; }
    message Address { string street = 1; string city = 2; string country = 3; uint32 code = 4; }
"#;

const AVRO: &str = r#"{"type": "record", "name": "shop.v1.Order", "fields": [
    {"name": "order_id", "type": "string"},
    {"name": "created_at", "type": "long"},
    {"name": "state", "type": {"type": "enum", "name": "State", "symbols": ["UNSPECIFIED", "PAID", "SENT"]}},
    {"name": "customer", "type": "string"},
    {"name": "total", "type": "double"},
    {"name": "is_gift", "type": "boolean"},
    {"name": "lines", "type": {"type": "array", "items": {"type": "record", "name": "Line", "fields": [
        {"name": "sku", "type": "string"}, {"name": "count", "type": "int"},
        {"name": "price", "type": "double"}, {"name": "title", "type": "string"}]}}},
    {"name": "labels", "type": {"type": "map", "values": "string"}},
    {"name": "codes", "type": {"type": "array", "items": "int"}},
    {"name": "signature", "type": "bytes"},
    {"name": "note", "type": ["null", "string"]},
    {"name": "address", "type": ["null", {"type": "record", "name": "Address", "fields": [
        {"name": "street", "type": "string"}, {"name": "city", "type": "string"},
        {"name": "country", "type": "string"}, {"name": "code", "type": "int"}]}]}
]}"#;

const ORDER: &str = r#"{
    "order_id": "2f6c1e4e-98f1-4c41-9a54-5d3f6a7b8c9d", "created_at": 1767225600123, "state": "PAID",
    "customer": "customer-00042", "total": 149.97, "is_gift": true,
    "lines": [
        {"sku": "A-1001", "count": 2, "price": 19.99, "title": "A cup of porcelain"},
        {"sku": "A-1002", "count": 1, "price": 89.99, "title": "A lamp for the table"},
        {"sku": "B-7", "count": 10, "price": 1.99, "title": "Candles"}
    ],
    "labels": {"channel": "web", "campaign": "winter", "region": "eu-central"},
    "codes": [1, 200, 30000, 4000000], "signature": "3q2+796tvu/erb7v3q2+7w==", "note": "ring twice",
    "address": {"street": "1 Long Street", "city": "Oldtown", "country": "NL", "code": 1012}
}"#;

fn main() {
    let ours = Descriptors::from_sources(SCHEMA, &[]).unwrap().message("shop.v1.Order").unwrap();
    let described = described();
    let value = {
        let mut message = Vec::new();
        ours.encode(&json::decode(ORDER.as_bytes()).unwrap(), &mut message).unwrap();
        ours.decode(&message).unwrap()
    };
    let mut bytes = Vec::new();
    ours.encode(&value, &mut bytes).unwrap();
    let dynamic = DynamicMessage::decode(described.clone(), bytes.as_slice()).unwrap();
    let mut packed = Vec::new();
    msgpack::encode(&value, &mut packed).unwrap();
    // Both write the same MessagePack, or there is nothing to compare. Their maps have no order.
    let mut theirs = Vec::new();
    bare_msgpack(&dynamic, &mut theirs);
    assert_eq!(theirs.len(), packed.len());
    println!("an order of {} bytes as protobuf, {} as MessagePack", bytes.len(), packed.len());

    let mut out = Vec::new();
    compare(
        "protobuf decode / prost-reflect decode",
        || drop(black_box(ours.decode(black_box(&bytes)).unwrap())),
        || drop(black_box(DynamicMessage::decode(described.clone(), black_box(bytes.as_slice())).unwrap())),
    );
    let mut other = Vec::new();
    compare(
        "protobuf encode / prost-reflect encode",
        || {
            out.clear();
            ours.encode(black_box(&value), &mut out).unwrap();
        },
        || {
            other.clear();
            black_box(&dynamic).encode(&mut other).unwrap();
        },
    );
    compare(
        "protobuf to msgpack / prost-reflect and rmp",
        || {
            out.clear();
            let value = ours.decode(black_box(&bytes)).unwrap();
            msgpack::encode(&value, &mut out).unwrap();
        },
        || {
            other.clear();
            let message = DynamicMessage::decode(described.clone(), black_box(bytes.as_slice())).unwrap();
            bare_msgpack(&message, &mut other);
        },
    );
    theirs.clear();
    compiled::Order::decode(bytes.as_slice()).unwrap().msgpack(&mut theirs);
    assert_eq!(theirs.len(), packed.len());
    compare(
        "protobuf to msgpack / types compiled in and rmp",
        || {
            out.clear();
            let value = ours.decode(black_box(&bytes)).unwrap();
            msgpack::encode(&value, &mut out).unwrap();
        },
        || {
            other.clear();
            compiled::Order::decode(black_box(bytes.as_slice())).unwrap().msgpack(&mut other);
        },
    );
    compare(
        "msgpack to protobuf / rmpv and prost-reflect",
        || {
            out.clear();
            let value = msgpack::decode(black_box(&packed)).unwrap();
            ours.encode(&value, &mut out).unwrap();
        },
        || {
            other.clear();
            black_box(rmpv::decode::read_value(&mut black_box(packed.as_slice())).unwrap());
            dynamic.encode(&mut other).unwrap();
        },
    );
    compare(
        "msgpack decode / rmpv decode",
        || drop(black_box(msgpack::decode(black_box(&packed)).unwrap())),
        || drop(black_box(rmpv::decode::read_value(&mut black_box(packed.as_slice())).unwrap())),
    );
    of_own_value_types(&value);
    of_avro();
}

/// Formats without a schema, each beside the value type that the crate for it has.
fn of_own_value_types(value: &Value) {
    let (mut out, mut other) = (Vec::new(), Vec::new());
    let mut packed = Vec::new();
    msgpack::encode(value, &mut packed).unwrap();
    let theirs = rmpv::decode::read_value(&mut packed.as_slice()).unwrap();
    compare(
        "msgpack encode / rmpv encode",
        || {
            out.clear();
            msgpack::encode(black_box(value), &mut out).unwrap();
        },
        || {
            other.clear();
            rmpv::encode::write_value(&mut other, black_box(&theirs)).unwrap();
        },
    );
    let mut bytes = Vec::new();
    cbor::encode(value, &mut bytes).unwrap();
    let theirs: ciborium::Value = ciborium::from_reader(bytes.as_slice()).unwrap();
    compare(
        "cbor decode / ciborium decode",
        || drop(black_box(cbor::decode(black_box(&bytes)).unwrap())),
        || drop(black_box(ciborium::from_reader::<ciborium::Value, _>(black_box(bytes.as_slice())).unwrap())),
    );
    compare(
        "cbor encode / ciborium encode",
        || {
            out.clear();
            cbor::encode(black_box(value), &mut out).unwrap();
        },
        || {
            other.clear();
            ciborium::into_writer(black_box(&theirs), &mut other).unwrap();
        },
    );
    let mut text = Vec::new();
    json::encode(value, &mut text).unwrap();
    let theirs: serde_json::Value = serde_json::from_slice(&text).unwrap();
    compare(
        "json decode / serde_json decode",
        || drop(black_box(json::decode(black_box(&text)).unwrap())),
        || drop(black_box(serde_json::from_slice::<serde_json::Value>(black_box(&text)).unwrap())),
    );
    compare(
        "json encode / serde_json encode",
        || {
            out.clear();
            json::encode(black_box(value), &mut out).unwrap();
        },
        || {
            other.clear();
            serde_json::to_writer(&mut other, black_box(&theirs)).unwrap();
        },
    );
}

/// Avro beside apache-avro alone, and on its way from and to the others.
fn of_avro() {
    use apache_avro::reader::datum::GenericDatumReader;
    use apache_avro::writer::datum::GenericDatumWriter;
    let ours = avro::Schema::parse(AVRO, &[]).unwrap();
    let message = Descriptors::from_sources(SCHEMA, &[]).unwrap().message("shop.v1.Order").unwrap();
    let parsed = apache_avro::Schema::parse_str(AVRO).unwrap();
    let reader = GenericDatumReader::builder(&parsed).build().unwrap();
    let writer = GenericDatumWriter::builder(&parsed).validate(false).build().unwrap();
    let mut bytes = Vec::new();
    ours.encode(&json::decode(ORDER.as_bytes()).unwrap(), ExtraFields::Reject, &mut bytes).unwrap();
    let value = ours.decode(&bytes).unwrap();
    let bare = reader.read_value(&mut bytes.as_slice()).unwrap();
    println!("the order has {} bytes as Avro", bytes.len());
    let (mut out, mut other) = (Vec::new(), Vec::new());
    compare(
        "avro decode / apache-avro decode",
        || drop(black_box(ours.decode(black_box(&bytes)).unwrap())),
        || drop(black_box(reader.read_value(&mut black_box(bytes.as_slice())).unwrap())),
    );
    compare(
        "avro encode / apache-avro encode",
        || {
            out.clear();
            ours.encode(black_box(&value), ExtraFields::Reject, &mut out).unwrap();
        },
        || {
            other.clear();
            writer.write_value_ref(&mut other, black_box(&bare)).unwrap();
        },
    );
    let newer = AVRO
        .replace(r#"{"name": "is_gift", "type": "boolean"},"#, "")
        .replace(r#""name": "count", "type": "int""#, r#""name": "count", "type": "long""#)
        .replace(
            r#"{"name": "codes""#,
            r#"{"name": "origin", "type": "string", "default": "web"}, {"name": "codes""#,
        );
    let resolved = avro::Resolved::new(ours.clone(), avro::Schema::parse(&newer, &[]).unwrap()).unwrap();
    let newer = apache_avro::Schema::parse_str(&newer).unwrap();
    let resolving = GenericDatumReader::builder(&parsed).reader_schema(&newer).build().unwrap();
    compare(
        "avro decode by a reader's schema / apache-avro",
        || drop(black_box(resolved.decode(black_box(&bytes)).unwrap())),
        || drop(black_box(resolving.read_value(&mut black_box(bytes.as_slice())).unwrap())),
    );
    compare(
        "the same / apache-avro decode alone",
        || drop(black_box(resolved.decode(black_box(&bytes)).unwrap())),
        || drop(black_box(reader.read_value(&mut black_box(bytes.as_slice())).unwrap())),
    );
    let described = described();
    let mut encoded = Vec::new();
    message.encode(&value, &mut encoded).unwrap();
    let dynamic = DynamicMessage::decode(described.clone(), encoded.as_slice()).unwrap();
    compare(
        "avro to protobuf / apache-avro and prost-reflect",
        || {
            out.clear();
            let value = ours.decode(black_box(&bytes)).unwrap();
            message.encode(&value, &mut out).unwrap();
        },
        || {
            other.clear();
            drop(black_box(reader.read_value(&mut black_box(bytes.as_slice())).unwrap()));
            black_box(&dynamic).encode(&mut other).unwrap();
        },
    );
    compare(
        "avro to msgpack / apache-avro and rmp",
        || {
            out.clear();
            let value = ours.decode(black_box(&bytes)).unwrap();
            msgpack::encode(&value, &mut out).unwrap();
        },
        || {
            other.clear();
            drop(black_box(reader.read_value(&mut black_box(bytes.as_slice())).unwrap()));
            bare_msgpack(black_box(&dynamic), &mut other);
        },
    );
    let typed = serde_json::from_str::<serde_json::Value>(ORDER).unwrap();
    let text = typed.to_string();
    compare(
        "json to avro / serde_json and apache-avro",
        || {
            out.clear();
            let value = json::decode(black_box(text.as_bytes())).unwrap();
            ours.encode(&value, ExtraFields::Reject, &mut out).unwrap();
        },
        || {
            other.clear();
            drop(black_box(serde_json::from_str::<serde_json::Value>(black_box(&text)).unwrap()));
            writer.write_value_ref(&mut other, black_box(&bare)).unwrap();
        },
    );
}

fn described() -> MessageDescriptor {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("shop.proto"), SCHEMA).unwrap();
    let set = protox::compile(["shop.proto"], [folder.path()]).unwrap();
    let pool = DescriptorPool::decode(set.encode_to_vec().as_slice()).unwrap();
    pool.get_message_by_name("shop.v1.Order").unwrap()
}

/// Prints how often longer the first takes than the second, and how long both take.
fn compare(name: &str, mut ours: impl FnMut(), mut bare: impl FnMut()) {
    let count = {
        let start = Instant::now();
        (0..100).for_each(|_| bare());
        (ROUND.as_nanos() * 100 / start.elapsed().as_nanos().max(1)).max(1) as u32
    };
    let time = |side: &mut dyn FnMut()| {
        let start = Instant::now();
        (0..count).for_each(|_| side());
        start.elapsed().as_nanos() as f64 / f64::from(count)
    };
    let mut rounds: Vec<(f64, f64, f64)> = (0..ROUNDS)
        .map(|_| {
            let (ours, bare) = (time(&mut ours), time(&mut bare));
            (ours / bare, ours, bare)
        })
        .collect();
    rounds.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (ratio, ours, bare) = rounds[ROUNDS / 2];
    println!("{name:49} {ratio:5.2}   {ours:7.0} ns / {bare:7.0} ns");
}

/// A message as MessagePack, by rmp and nothing else: what an adapter for these two formats alone would do.
fn bare_msgpack(message: &DynamicMessage, out: &mut Vec<u8>) {
    use prost_reflect::Value;
    fn write(value: &Value, kind: &prost_reflect::Kind, out: &mut Vec<u8>) {
        match value {
            Value::Bool(flag) => rmp::encode::write_bool(out, *flag).unwrap(),
            Value::I32(number) => drop(rmp::encode::write_sint(out, (*number).into()).unwrap()),
            Value::I64(number) => drop(rmp::encode::write_sint(out, *number).unwrap()),
            Value::U32(number) => drop(rmp::encode::write_uint(out, (*number).into()).unwrap()),
            Value::U64(number) => drop(rmp::encode::write_uint(out, *number).unwrap()),
            Value::F32(number) => rmp::encode::write_f32(out, *number).unwrap(),
            Value::F64(number) => rmp::encode::write_f64(out, *number).unwrap(),
            Value::String(text) => rmp::encode::write_str(out, text).unwrap(),
            Value::Bytes(bytes) => rmp::encode::write_bin(out, bytes).unwrap(),
            Value::EnumNumber(number) => {
                let symbol = kind.as_enum().unwrap().get_value(*number).unwrap();
                rmp::encode::write_str(out, symbol.name()).unwrap();
            }
            Value::Message(message) => bare_msgpack(message, out),
            Value::List(list) => {
                rmp::encode::write_array_len(out, list.len() as u32).unwrap();
                list.iter().for_each(|value| write(value, kind, out));
            }
            Value::Map(map) => {
                rmp::encode::write_map_len(out, map.len() as u32).unwrap();
                for (key, value) in map {
                    let MapKey::String(key) = key else { panic!("the keys of labels are texts") };
                    rmp::encode::write_str(out, key).unwrap();
                    write(value, kind, out);
                }
            }
        }
    }
    let descriptor = message.descriptor();
    let is_there =
        |field: &prost_reflect::FieldDescriptor| !field.supports_presence() || message.has_field(field);
    rmp::encode::write_map_len(out, descriptor.fields().filter(is_there).count() as u32).unwrap();
    for field in descriptor.fields().filter(is_there) {
        rmp::encode::write_str(out, field.name()).unwrap();
        write(&message.get_field(&field), &field.kind(), out);
    }
}

/// The same messages as types of Rust: the least that any way from the one format to the other takes, and of
/// this one schema only.
mod compiled {
    use std::collections::BTreeMap;

    use rmp::encode::*;

    #[derive(prost::Message)]
    pub struct Order {
        #[prost(string, tag = "1")]
        order_id: String,
        #[prost(int64, tag = "2")]
        created_at: i64,
        #[prost(int32, tag = "3")]
        state: i32,
        #[prost(string, tag = "4")]
        customer: String,
        #[prost(double, tag = "5")]
        total: f64,
        #[prost(bool, tag = "6")]
        is_gift: bool,
        #[prost(message, repeated, tag = "7")]
        lines: Vec<Line>,
        #[prost(btree_map = "string, string", tag = "8")]
        labels: BTreeMap<String, String>,
        #[prost(int32, repeated, tag = "9")]
        codes: Vec<i32>,
        #[prost(bytes = "vec", tag = "10")]
        signature: Vec<u8>,
        #[prost(string, optional, tag = "11")]
        note: Option<String>,
        #[prost(message, optional, tag = "12")]
        address: Option<Address>,
    }

    #[derive(prost::Message)]
    pub struct Line {
        #[prost(string, tag = "1")]
        sku: String,
        #[prost(int32, tag = "2")]
        count: i32,
        #[prost(double, tag = "3")]
        price: f64,
        #[prost(string, tag = "4")]
        title: String,
    }

    #[derive(prost::Message)]
    pub struct Address {
        #[prost(string, tag = "1")]
        street: String,
        #[prost(string, tag = "2")]
        city: String,
        #[prost(string, tag = "3")]
        country: String,
        #[prost(uint32, tag = "4")]
        code: u32,
    }

    impl Order {
        pub fn msgpack(&self, out: &mut Vec<u8>) {
            let text = |name: &str, value: &str, out: &mut Vec<u8>| {
                write_str(out, name).unwrap();
                write_str(out, value).unwrap();
            };
            let count = 10 + usize::from(self.note.is_some()) + usize::from(self.address.is_some());
            write_map_len(out, count as u32).unwrap();
            text("order_id", &self.order_id, out);
            write_str(out, "created_at").unwrap();
            write_sint(out, self.created_at).unwrap();
            text("state", ["UNSPECIFIED", "PAID", "SENT"][self.state as usize], out);
            text("customer", &self.customer, out);
            write_str(out, "total").unwrap();
            write_f64(out, self.total).unwrap();
            write_str(out, "is_gift").unwrap();
            write_bool(out, self.is_gift).unwrap();
            write_str(out, "lines").unwrap();
            write_array_len(out, self.lines.len() as u32).unwrap();
            for line in &self.lines {
                write_map_len(out, 4).unwrap();
                text("sku", &line.sku, out);
                write_str(out, "count").unwrap();
                write_sint(out, line.count.into()).unwrap();
                write_str(out, "price").unwrap();
                write_f64(out, line.price).unwrap();
                text("title", &line.title, out);
            }
            write_str(out, "labels").unwrap();
            write_map_len(out, self.labels.len() as u32).unwrap();
            self.labels.iter().for_each(|(name, value)| text(name, value, out));
            write_str(out, "codes").unwrap();
            write_array_len(out, self.codes.len() as u32).unwrap();
            for code in &self.codes {
                write_sint(out, (*code).into()).unwrap();
            }
            write_str(out, "signature").unwrap();
            write_bin(out, &self.signature).unwrap();
            if let Some(note) = &self.note {
                text("note", note, out);
            }
            if let Some(address) = &self.address {
                write_str(out, "address").unwrap();
                write_map_len(out, 4).unwrap();
                text("street", &address.street, out);
                text("city", &address.city, out);
                text("country", &address.country, out);
                write_str(out, "code").unwrap();
                write_uint(out, address.code.into()).unwrap();
            }
        }
    }
}
