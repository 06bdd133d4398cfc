use proptest::prelude::*;

use super::*;
use crate::model::{Duration, Symbol, Timestamp, Unit};

mod schemas;

const SHOP: &str = r#"
    syntax = "proto3";
    package shop.v1;
    import "google/protobuf/any.proto";
    import "google/protobuf/duration.proto";
    import "google/protobuf/empty.proto";
    import "google/protobuf/field_mask.proto";
    import "google/protobuf/struct.proto";
    import "google/protobuf/timestamp.proto";
    import "google/protobuf/wrappers.proto";
    import "money.proto";

    enum State { STATE_UNSPECIFIED = 0; PAID = 1; SENT = 2; }
    message Order {
      string order_id = 1;
      int64 big = 3;
      uint64 bigger = 2;
      State state = 4;
      bytes raw = 5;
      optional int32 maybe = 6;
      Line first = 7;
      repeated Line lines = 8;
      repeated sint32 numbers = 9;
      map<int32, string> by_number = 10;
      map<bool, State> by_flag = 11;
      oneof payment { string card = 12; Line cash = 13; }
      double price = 14;
      float weight = 15;
      money.Amount amount = 16;
      map<string, Line> by_name = 17;
    }
    message Line {
      string sku = 1;
      int32 count = 2;
      Line inner = 3;
      message Detail { bool flag = 1; }
    }
    message Known {
      google.protobuf.Timestamp at = 1;
      google.protobuf.Duration lasts = 2;
      google.protobuf.StringValue text = 3;
      google.protobuf.Int64Value number = 4;
      google.protobuf.Struct object = 5;
      google.protobuf.Value any_json = 6;
      google.protobuf.ListValue list = 7;
      google.protobuf.Empty nothing = 8;
      google.protobuf.FieldMask mask = 9;
      google.protobuf.Any any = 10;
      repeated google.protobuf.BoolValue flags = 11;
      repeated google.protobuf.Value values = 12;
    }
    message Small { int32 a = 1; }
    message Many { repeated Wide wide = 1; repeated bool flags = 2; }
    message Wide { int32 a=1; int32 b=2; int32 c=3; int32 d=4; int32 e=5; int32 f=6; int32 g=7; int32 h=8; }
"#;

const MONEY: &str = r#"syntax = "proto3"; package money; message Amount { int64 cents = 1; }"#;

const OLD: &str = r#"
    syntax = "proto2";
    package old;
    enum Colour { RED = 3; BLUE = 5; AZURE = 5; option allow_alias = true; }
    message Thing {
      required string name = 1;
      optional Colour colour = 2 [default = BLUE];
      repeated int32 plain = 3;
      repeated int32 packed = 4 [packed = true];
      optional group Part = 5 { optional int32 size = 1; optional Thing thing = 2; }
      repeated group Parts = 6 { optional int32 size = 1; }
      repeated Colour colours = 7;
      map<string, Colour> named = 8;
      extensions 100 to 199;
    }
    extend Thing { optional int32 more = 100; }
"#;

fn shop(message: &str) -> Message {
    let shop = Descriptors::from_sources(SHOP, &[("money.proto", MONEY)]).unwrap();
    shop.message(&format!("shop.v1.{message}")).unwrap()
}

fn old() -> Message {
    Descriptors::from_sources(OLD, &[]).unwrap().message("old.Thing").unwrap()
}

/// A value as JSON would have it; schemas make more of it.
fn json(text: &str) -> Value {
    crate::json::decode(text.as_bytes()).unwrap()
}

fn to_json(value: &Value) -> String {
    let mut out = Vec::new();
    crate::json::encode(value, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

fn encoded(message: &Message, value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    message.encode(value, &mut out).unwrap();
    out
}

fn refused(message: &Message, value: &Value) -> String {
    message.encode(value, &mut Vec::new()).unwrap_err().to_string()
}

fn through(message: &Message, text: &str) -> Value {
    message.decode(&encoded(message, &json(text))).unwrap()
}

fn record(fields: &[(&str, Value)]) -> Value {
    Value::Record(fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect())
}

fn field(value: &Value, name: &str) -> Value {
    let Value::Record(fields) = value else { panic!("{value:?}") };
    fields.iter().find(|(field, _)| field == name).unwrap_or_else(|| panic!("{name} in {value:?}")).1.clone()
}

#[test]
fn fields_without_presence_have_defaults_and_the_others_are_left_out() {
    let empty = shop("Order").decode(&[]).unwrap();
    let unspecified = Value::Enum(Symbol { name: "STATE_UNSPECIFIED".into(), number: Some(0) });
    let expected = record(&[
        ("order_id", "".into()),
        ("big", Value::Int(0)),
        ("bigger", Value::Int(0)),
        ("state", unspecified),
        ("raw", Value::Bytes(vec![])),
        ("lines", Value::List(vec![])),
        ("numbers", Value::List(vec![])),
        ("by_number", Value::Map(vec![])),
        ("by_flag", Value::Map(vec![])),
        ("price", Value::Double(0.0)),
        ("weight", Value::Float(0.0)),
        ("by_name", Value::Map(vec![])),
    ]);
    assert_eq!(empty, expected);
    // What is the default is not sent, and missing or null is the same.
    assert_eq!(encoded(&shop("Order"), &expected), b"");
    assert_eq!(encoded(&shop("Order"), &json(r#"{"maybe": null, "big": null, "lines": null}"#)), b"");
    // With presence the default is sent.
    assert_eq!(encoded(&shop("Order"), &json(r#"{"maybe": 0}"#)), [6 << 3, 0]);
    assert_eq!(encoded(&shop("Order"), &json(r#"{"card": ""}"#)), [12 << 3 | 2, 0]);
    assert_eq!(encoded(&shop("Order"), &json(r#"{"price": -0.0}"#)), [14 << 3 | 1, 0, 0, 0, 0, 0, 0, 0, 128]);
}

#[test]
fn names_of_json_are_accepted_and_names_of_the_schema_given() {
    let value = through(&shop("Order"), r#"{"orderId": "7", "byNumber": {"-1": "x"}}"#);
    assert_eq!(field(&value, "order_id"), "7".into());
    assert_eq!(field(&value, "by_number"), Value::Map(vec![(Value::Int(-1), "x".into())]));
    assert_eq!(
        refused(&shop("Order"), &json(r#"{"orderId": "7", "order_id": "7"}"#)),
        "field \"order_id\" is given twice"
    );
}

#[test]
fn numbers_keep_their_size() {
    let order = shop("Order");
    let value = record(&[("big", Value::Int(i64::MIN)), ("bigger", Value::UInt(u64::MAX))]);
    let back = order.decode(&encoded(&order, &value)).unwrap();
    assert_eq!((field(&back, "big"), field(&back, "bigger")), (Value::Int(i64::MIN), Value::UInt(u64::MAX)));
    assert!(refused(&order, &json(r#"{"bigger": -1}"#)).starts_with("/bigger: -1 where an unsigned integer"));
    assert!(refused(&order, &json(r#"{"maybe": 2147483648}"#)).contains("from -2147483648 to 2147483647"));
    assert_eq!(field(&through(&order, r#"{"big": "9223372036854775807"}"#), "big"), Value::Int(i64::MAX));
}

#[test]
fn symbols_have_numbers_and_numbers_without_symbols_stay() {
    let order = shop("Order");
    let paid = Value::Enum(Symbol { name: "PAID".into(), number: Some(1) });
    assert_eq!(field(&through(&order, r#"{"state": "PAID"}"#), "state"), paid);
    assert_eq!(field(&through(&order, r#"{"state": 1}"#), "state"), paid);
    assert_eq!(field(&through(&order, r#"{"state": 77}"#), "state"), Value::Int(77));
    assert_eq!(
        refused(&order, &json(r#"{"state": "LOST"}"#)),
        "/state: \"LOST\" is no symbol of the enum shop.v1.State; it has STATE_UNSPECIFIED, PAID, SENT"
    );
}

#[test]
fn a_closed_enum_has_no_other_numbers() {
    let thing = old();
    assert!(refused(&thing, &json(r#"{"name": "x", "colour": 4}"#)).starts_with("/colour: 4 is no symbol"));
    let message = [10, 1, b'x', 2 << 3, 4, 7 << 3, 4, 7 << 3, 3, 8 << 3 | 2, 5, 10, 1, b'k', 16, 4];
    let error = thing.decode(&message).unwrap_err().to_string();
    assert!(error.starts_with("/colour: 4 is no symbol of the enum old.Colour, which is closed"), "{error}");
    let dropped = thing.with_unknown_fields(UnknownFields::Drop).decode(&message).unwrap();
    assert_eq!(
        to_json(&dropped),
        r#"{"name":"x","plain":[],"packed":[],"parts":[],"colours":["RED"],"named":{}}"#
    );
    // Of two names of a number it is the first.
    assert_eq!(
        field(&through(&old(), r#"{"name":"x","colour":"AZURE"}"#), "colour"),
        Value::Enum(Symbol { name: "BLUE".into(), number: Some(5) })
    );
}

#[test]
fn a_oneof_has_one_member() {
    let order = shop("Order");
    assert_eq!(
        refused(&order, &json(r#"{"card": "1", "cash": {}}"#)),
        "both \"card\" and \"cash\" are given, of which oneof \"payment\" has one"
    );
    let value = through(&order, r#"{"card": null, "cash": {"sku": "x"}}"#);
    assert_eq!(field(&field(&value, "cash"), "sku"), "x".into());
    // Of a message the last one counts.
    let mut both = encoded(&order, &json(r#"{"cash": {}}"#));
    both.extend(encoded(&order, &json(r#"{"card": "2"}"#)));
    let value = order.decode(&both).unwrap();
    assert_eq!(field(&value, "card"), "2".into());
    assert!(!to_json(&value).contains("cash"));
}

#[test]
fn maps_have_keys_of_their_type() {
    let order = shop("Order");
    let value = through(&order, r#"{"by_number": {"5": "a", "-6": "b"}, "by_flag": {"true": "PAID"}}"#);
    assert_eq!(
        field(&value, "by_number"),
        Value::Map(vec![(Value::Int(5), "a".into()), (Value::Int(-6), "b".into())])
    );
    let Value::Map(flags) = field(&value, "by_flag") else { panic!() };
    assert_eq!(flags[0].0, Value::Bool(true));
    assert!(
        refused(&order, &json(r#"{"by_flag": {"yes": 1}}"#)).contains("/by_flag/yes: \"yes\" where true")
    );
    assert!(refused(&order, &json(r#"{"by_number": {"1": "a", "01": "b"}}"#)).contains("the same"));
    // A key that comes twice has its last value, in its first place; what is missing is the default.
    let twice = [10 << 3 | 2, 2, 8, 1, 10 << 3 | 2, 2, 8, 2, 10 << 3 | 2, 5, 8, 1, 18, 1, b'z', 90, 0];
    let value = order.decode(&twice).unwrap();
    assert_eq!(to_json(&field(&value, "by_number")), r#"{"1":"z","2":""}"#);
    assert_eq!(to_json(&field(&value, "by_flag")), r#"{"false":"STATE_UNSPECIFIED"}"#);
    let many: String = (0..20).map(|key| format!("\"{key}\": \"{key}\",")).collect();
    let many = encoded(&order, &json(&format!("{{\"by_number\": {{{}}}}}", many.trim_end_matches(','))));
    let value = order.decode(&[&many[..], &twice[..]].concat()).unwrap();
    let text = to_json(&field(&value, "by_number"));
    assert!(
        text.starts_with(r#"{"0":"0","1":"z","2":"","3":"3""#) && text.ends_with(r#""19":"19"}"#),
        "{text}"
    );
}

#[test]
fn parts_of_a_message_are_merged() {
    let order = shop("Order");
    let mut parts = encoded(&order, &json(r#"{"first": {"sku": "a", "inner": {"sku": "b"}}}"#));
    parts.extend(encoded(&order, &json(r#"{"first": {"count": 2, "inner": {"count": 3}}}"#)));
    parts.extend(encoded(&order, &json(r#"{"first": {"sku": "c"}, "lines": [{}, {"sku": "d"}]}"#)));
    let value = order.decode(&parts).unwrap();
    assert_eq!(to_json(&field(&value, "first")), r#"{"sku":"c","count":2,"inner":{"sku":"b","count":3}}"#);
    let Value::List(lines) = field(&value, "lines") else { panic!() };
    assert_eq!(lines.len(), 2);
}

#[test]
fn unknown_fields_are_refused_or_dropped() {
    let small = shop("Small");
    let line = encoded(&shop("Line"), &json(r#"{"count": 1, "inner": {"sku": "x"}}"#));
    assert_eq!(
        small.decode(&line).unwrap_err().to_string(),
        "message shop.v1.Small has no field 2; unknown_fields = \"drop\" drops it"
    );
    let dropped = small.with_unknown_fields(UnknownFields::Drop).decode(&line).unwrap();
    assert_eq!(dropped, record(&[("a", Value::Int(0))]));
    let nested = encoded(&shop("Order"), &json(r#"{"by_name": {"k": {}}, "lines": [{}]}"#));
    let at = nested.iter().position(|byte| *byte == 8 << 3 | 2).unwrap();
    let unknown = [&nested[..at], &[8 << 3 | 2, 3, 15 << 3, 1, 0][..1], &[2, 15 << 3, 1]].concat();
    assert_eq!(
        shop("Order").decode(&unknown).unwrap_err().to_string(),
        "/lines/0: message shop.v1.Line has no field 15; unknown_fields = \"drop\" drops it"
    );
    let extension = [10, 1, b'x', 0xa0, 6, 1];
    let error = old().decode(&extension).unwrap_err().to_string();
    assert!(error.starts_with("field 100 is an extension of message old.Thing"), "{error}");
}

#[test]
fn extra_fields_are_refused_or_dropped() {
    let value = json(r#"{"lines": [{"colour": "red", "count": 1}]}"#);
    assert_eq!(
        refused(&shop("Order"), &value),
        "/lines/0: message shop.v1.Line has no field \"colour\"; extra_fields = \"drop\" drops it"
    );
    let dropping = shop("Order").with_extra_fields(ExtraFields::Drop);
    assert_eq!(encoded(&dropping, &value), [8 << 3 | 2, 2, 16, 1]);
}

#[test]
fn what_a_field_cannot_have_is_named() {
    let order = shop("Order");
    for (value, expected) in [
        (r#"{"lines": {}}"#, "/lines: a record where a list is wanted"),
        (r#"{"lines": [null]}"#, "/lines/0: null where message shop.v1.Line is wanted"),
        (r#"{"numbers": [1, "x"]}"#, "/numbers/1: \"x\" where an integer of 32 bits is wanted"),
        (r#"{"by_name": {"k": 1}}"#, "/by_name/k: an integer where message shop.v1.Line is wanted"),
        (r#"{"by_name": 1}"#, "/by_name: an integer where a map is wanted"),
        (r#"{"order_id": 1}"#, "/order_id: an integer where a text is wanted"),
        (r#"{"weight": 0.123456789}"#, "/weight: 0.123456789 has more digits than a float of 32 bits holds"),
        ("[]", "a list where message shop.v1.Order is wanted"),
    ] {
        assert_eq!(refused(&order, &json(value)), expected);
    }
    let by_number = Value::Map(vec![(Value::Int(1), Value::Null)]);
    assert!(refused(&order, &by_number).contains("a map with an integer as a key"));
    // A map with texts for keys and a branch of a union are as good as a record.
    let map = Value::Map(vec![("card".into(), "1".into())]);
    let branch = crate::model::Branch { name: "card".into(), value: Box::new("1".into()) };
    assert_eq!(encoded(&order, &map), encoded(&order, &Value::Union(branch)));
}

#[test]
fn what_is_no_message_is_refused() {
    let order = shop("Order");
    let cut = encoded(
        &order,
        &json(r#"{"order_id": "12345", "first": {"sku": "a"}, "price": 1.5, "numbers": [1]}"#),
    );
    let whole = (0..cut.len()).filter(|&end| order.decode(&cut[..end]).is_ok()).count();
    // At the end of each field it is whole, before it never.
    assert_eq!(whole, 4);
    for (message, expected) in [
        (&[10, 2, b'a'][..], "/order_id: 2 bytes are wanted, and 1 are left"),
        (&[10, 1, 0xff], "/order_id: a text: invalid utf-8"),
        (&[8, 1], "/order_id: it is sent as Varint where the schema wants LengthDelimited"),
        (&[0], "no key of a field"),
        (&[24, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1], "/big: no number"),
        (&[14 << 3 | 1, 0], "/price: 8 bytes are wanted, and 1 are left"),
        (&[58, 3, 10, 2, 0], "/first/sku: 2 bytes are wanted, and 1 are left"),
        (&[74, 1, 0x80], "/numbers/0: no number"),
    ] {
        let error = order.decode(message).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
    }
}

#[test]
fn proto2_has_groups_and_required_fields() {
    let thing = old();
    assert_eq!(refused(&thing, &json("{}")), "/name: a required field is missing");
    assert_eq!(refused(&thing, &json(r#"{"name": null}"#)), "/name: a required field is missing");
    assert_eq!(thing.decode(&[]).unwrap_err().to_string(), "/name: a required field is missing");
    let text = r#"{"name":"x","plain":[1,-1],"packed":[1,300],"part":{"size":7,"thing":{"name":"y","plain":[],"packed":[],"part":{},"parts":[],"colours":[],"named":{}}},"parts":[{},{"size":8}],"colours":[],"named":{"k":"RED"}}"#;
    assert_eq!(to_json(&through(&thing, text)), text);
    let bytes = encoded(&thing, &json(r#"{"name":"x","packed":[1,300],"plain":[1],"part":{"size":7}}"#));
    assert_eq!(bytes, [10, 1, b'x', 24, 1, 34, 3, 1, 0xac, 2, 43, 8, 7, 44]);
    // Packed and not packed are read whatever the schema says.
    let other = [10, 1, b'x', 26, 2, 1, 2, 32, 3, 24, 4];
    assert_eq!(
        to_json(&thing.decode(&other).unwrap()),
        r#"{"name":"x","plain":[1,2,4],"packed":[3],"parts":[],"colours":[],"named":{}}"#
    );
    for bad in [
        &[10, 1, b'x', 43, 8, 7][..],
        &[10, 1, b'x', 43, 52],
        &[10, 1, b'x', 44],
        &[10, 1, b'x', 43, 8, 7, 44, 44],
    ] {
        thing.decode(bad).unwrap_err();
    }
}

#[test]
fn messages_of_google_have_forms_of_their_own() {
    let known = shop("Known");
    let text = r#"{"at":"2026-01-31T12:00:00.000000001Z","lasts":"-1.500s","text":"","number":9007199254740993,"object":{"b":1.0,"a":[null,true,{"c":"d"}]},"any_json":null,"list":[1.5,"x"],"nothing":{},"mask":{"paths":["a.b"]},"any":{"@type":"type.googleapis.com/shop.v1.Small","a":5},"flags":[true,false],"values":[null,1.0]}"#;
    let value = through(&known, text);
    assert_eq!(to_json(&value), text);
    assert_eq!(
        field(&value, "at"),
        Value::Timestamp(Timestamp { seconds: 1_769_860_800, nanos: 1, unit: Unit::Nanos, is_local: false })
    );
    assert_eq!(field(&value, "lasts"), Value::Duration(Duration { seconds: -1, nanos: -500_000_000 }));
    // A wrapper that is null is not there.
    assert_eq!(to_json(&through(&known, r#"{"text": null}"#)), r#"{"flags":[],"values":[]}"#);
    let any_of_known =
        r#"{"any":{"@type":"x/google.protobuf.Duration","value":"1s"},"flags":[],"values":[]}"#;
    assert_eq!(to_json(&through(&known, any_of_known)), any_of_known);
    assert_eq!(to_json(&field(&through(&known, r#"{"any":{}}"#), "any")), "{}");
    let float = Value::Float(0.5);
    let value = record(&[("any_json", float), ("values", Value::List(vec![Value::Bytes(vec![255])]))]);
    let back = known.decode(&encoded(&known, &value)).unwrap();
    assert_eq!(to_json(&back), r#"{"any_json":0.5,"flags":[],"values":["/w=="]}"#);
}

#[test]
fn messages_of_google_hold_what_they_should() {
    let known = shop("Known");
    for (value, expected) in [
        (r#"{"flags": [null]}"#, "/flags/0: null where a boolean is wanted"),
        (r#"{"any": {"a": 1}}"#, "/any: \"@type\" must say the type URL of a google.protobuf.Any"),
        (r#"{"any": {"@type": "x/y.Z"}}"#, "/any: a google.protobuf.Any of type \"x/y.Z\""),
        (
            r#"{"any": {"@type": "google.protobuf.Duration", "other": "1s"}}"#,
            "/any: \"other\" where \"value\"",
        ),
        (r#"{"lasts": "315576000001s"}"#, "/lasts: 315576000001 s and 0 ns are no duration"),
        (r#"{"object": {"a": 9007199254740993}}"#, "/object/a: 9007199254740993 has more digits"),
        (r#"{"object": [1]}"#, "/object: a list where a map is wanted"),
    ] {
        let error = refused(&known, &json(value));
        assert!(error.starts_with(expected), "{error}");
    }
    for (message, expected) in [
        (&[10, 11, 8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 16][..], "/at/nanos: no number"),
        (&[10, 6, 16, 0x80, 0x94, 0xeb, 0xdc, 3], "/at: 0 s and 1000000000 ns after 1970 are no timestamp"),
        (&[18, 13, 8, 1, 16, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1], "/lasts: 1 s and -1 ns are no"),
        (&[50, 0], "/any_json: a google.protobuf.Value without a value"),
        (&[82, 3, 10, 1, b'x'], "/any: a google.protobuf.Any of type \"x\", which is none of the schema's"),
    ] {
        let error = known.decode(message).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
    }
    // One that has the name alone is a message like others.
    let other = r#"syntax = "proto3"; package google.protobuf; message Timestamp { string text = 1; }"#;
    let other = Descriptors::from_sources(other, &[]).unwrap().message("google.protobuf.Timestamp").unwrap();
    assert_eq!(to_json(&through(&other, r#"{"text":"x"}"#)), r#"{"text":"x"}"#);
}

#[test]
fn depth_and_memory_have_bounds() {
    let line = shop("Line");
    let nested = |levels: usize| {
        let mut value = record(&[]);
        for _ in 1..levels {
            value = record(&[("inner", value)]);
        }
        value
    };
    let deepest = encoded(&line, &nested(MAX_DEPTH));
    line.decode(&deepest).unwrap();
    let mut out = Vec::new();
    let error = line.encode(&nested(MAX_DEPTH + 1), &mut out).unwrap_err();
    assert!(error.what().contains("deeper than 100 levels"), "{error}");
    let mut message: Vec<u8> = Vec::new();
    for _ in 0..20_000 {
        let mut outer = vec![3 << 3 | 2];
        prost::encoding::encode_varint(message.len() as u64, &mut outer);
        outer.extend(&message);
        message = outer;
    }
    assert!(line.decode(&message).unwrap_err().what().contains("deeper than 100 levels"));
    // Groups that are not of the schema neither.
    let groups = [vec![15 << 3 | 3; 100_000], vec![15 << 3 | 4; 100_000]].concat();
    shop("Small").with_unknown_fields(UnknownFields::Drop).decode(&groups).unwrap_err();
    old().decode(&vec![43; 100_000]).unwrap_err();

    // Two bytes for eight fields.
    let many = shop("Many");
    let wide = [10, 0].repeat(1_000_000);
    let error = many.decode(&wide).unwrap_err().to_string();
    assert!(error.contains("more than 256 times its length"), "{error}");
    many.decode(&wide[..2000]).unwrap();
    let mut flags = vec![18];
    prost::encoding::encode_varint(1_000_000, &mut flags);
    flags.resize(flags.len() + 1_000_000, 1);
    many.decode(&flags).unwrap();
}

#[test]
fn handles_go_to_other_threads() {
    fn goes_anywhere<T: Send + Sync + Clone + 'static>(_: &T) {}
    goes_anywhere(&shop("Order"));
}

proptest! {
    #[test]
    fn bytes_are_refused_or_read_the_same_twice(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        for message in [shop_once("Order"), shop_once("Known")] {
            if let Ok(value) = message.decode(&bytes) {
                let written = encoded(&message, &value);
                prop_assert_eq!(format!("{:?}", message.decode(&written).unwrap()), format!("{value:?}"));
            }
        }
    }
}

/// Compiled once, as it takes longer than a case.
fn shop_once(message: &str) -> Message {
    static SHOP_ONCE: std::sync::OnceLock<Descriptors> = std::sync::OnceLock::new();
    let shop = SHOP_ONCE.get_or_init(|| Descriptors::from_sources(SHOP, &[("money.proto", MONEY)]).unwrap());
    shop.message(&format!("shop.v1.{message}")).unwrap().with_unknown_fields(UnknownFields::Drop)
}
