//! Any bytes as a message of a schema that has everything.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
mod formats;

#[cfg(fuzzing)]
mod target {
    use std::sync::OnceLock;

    use libfuzzer_sys::fuzz_target;
    use millstream_formats::protobuf::{Descriptors, Message, UnknownFields};

    use crate::formats;

    const SCHEMA: &str = r#"
        syntax = "proto2";
        package fuzz;
        import "google/protobuf/any.proto";
        import "google/protobuf/duration.proto";
        import "google/protobuf/struct.proto";
        import "google/protobuf/timestamp.proto";
        import "google/protobuf/wrappers.proto";
        import "implicit.proto";

        enum Closed { ONE = 1; TWO = 2; }
        message All {
          optional double double = 1;
          optional float float = 2;
          repeated int32 int32 = 3;
          repeated uint64 uint64 = 4 [packed = true];
          optional sint32 sint32 = 5;
          repeated sint64 sint64 = 6;
          repeated fixed32 fixed32 = 7 [packed = true];
          optional sfixed64 sfixed64 = 8;
          optional bool bool = 9;
          optional string string = 10;
          optional bytes bytes = 11;
          optional All all = 12;
          repeated group Group = 13 { optional int32 number = 1; optional All all = 2; }
          map<int32, All> by_number = 14;
          map<string, Closed> by_text = 15;
          oneof one { string text = 16; All member = 17; Closed symbol = 18; }
          optional google.protobuf.Timestamp timestamp = 19;
          optional google.protobuf.Duration duration = 20;
          optional google.protobuf.Struct object = 21;
          optional google.protobuf.Any any = 22;
          repeated google.protobuf.StringValue texts = 23;
          optional google.protobuf.Value value = 24;
          repeated Closed symbols = 25;
          optional implicit.Implicit implicit = 26;
          message Strict { required int32 number = 1; }
          optional Strict strict = 27;
          map<bool, google.protobuf.Value> values = 28;
        }
    "#;

    const IMPLICIT: &str = r#"
        syntax = "proto3";
        package implicit;
        enum Open { ZERO = 0; ONE = 1; }
        message Implicit { double double = 1; int64 number = 2; string text = 3; Open open = 4; bytes bytes = 5; }
    "#;

    fuzz_target!(|bytes: &[u8]| {
        static MESSAGES: OnceLock<[Message; 2]> = OnceLock::new();
        let messages = MESSAGES.get_or_init(|| {
            let descriptors = Descriptors::from_sources(SCHEMA, &[("implicit.proto", IMPLICIT)]).unwrap();
            let message = descriptors.message("fuzz.All").unwrap();
            [message.clone(), message.with_unknown_fields(UnknownFields::Drop)]
        });
        for message in messages {
            formats::there_and_back(
                bytes,
                |bytes| message.decode(bytes),
                |value, out| message.encode(value, out),
            );
        }
    });
}

#[cfg(not(fuzzing))]
fn main() {
    println!("runtime/fuzz/run.sh builds it as a fuzzer and runs it");
}
