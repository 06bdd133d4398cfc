//! Any bytes are a record or refused as none; what is read reads the same once it is written.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
mod target {
    use libfuzzer_sys::fuzz_target;
    use millstream::codecs::{Around, CODECS, CodecSpec, FrameMeta};
    use millstream::message::{BatchBuilder, Message, Position, Span};
    use serde_json::{Map, Value};

    fuzz_target!(|bytes: &[u8]| {
        if let Some(message) = read(bytes) {
            let written = write(&message);
            assert!(!written.contains(&b'\n'), "a record is one line");
            assert_eq!(read(&written).as_ref(), Some(&message));
        }
    });

    fn codec() -> &'static CodecSpec {
        CODECS.iter().find(|codec| codec.name == "record").expect("there is a codec `record`")
    }

    fn read(bytes: &[u8]) -> Option<Message> {
        let Ok(config) = (codec().decoder)(Value::Object(Map::new()), Around::nothing()) else {
            panic!("it has no settings")
        };
        let mut out = BatchBuilder::new();
        let arena = out.arena(bytes.to_vec().into());
        let frame = Span::new(arena, 0, bytes.len() as u32);
        let meta =
            FrameMeta { key: Span::ABSENT, headers: &[], timestamp_ms: 7, position: Position::default() };
        config.decoder().decode(bytes, frame, &meta, &mut out).ok()?;
        let batch = out.finish();
        assert_eq!(batch.len(), 1);
        Some(batch.message(0).to_owned())
    }

    fn write(message: &Message) -> Vec<u8> {
        let Ok(encoder) = (codec().encoder)(Value::Object(Map::new()), Around::nothing()) else {
            panic!("it has no settings")
        };
        let mut builder = BatchBuilder::new();
        builder.push_message(message, Position::default());
        let batch = builder.finish();
        let mut written = Vec::new();
        encoder.encode(&batch.message(0), &mut written).expect("any message can be written");
        written
    }
}

#[cfg(not(fuzzing))]
fn main() {
    println!("runtime/fuzz/run.sh builds it as a fuzzer and runs it");
}
