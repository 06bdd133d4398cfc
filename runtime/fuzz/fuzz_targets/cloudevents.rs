//! Any headers and payload as a CloudEvent. The envelope of one that is read is written in each mode, or refused
//! there, and reads the same again.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
mod target {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use libfuzzer_sys::arbitrary::{Result, Unstructured};
    use libfuzzer_sys::fuzz_target;
    use millstream::codecs::{Around, Body, CODECS, CodecSpec, Protocol};
    use millstream::message::{BatchBuilder, Message, Position};
    use serde_json::{Value, json};

    const HEADERS: [&str; 12] = [
        "ce-specversion",
        "ce_specversion",
        "ce-id",
        "ce_id",
        "ce-source",
        "ce_source",
        "ce-type",
        "ce_type",
        "ce-subject",
        "ce_time",
        "ce-traceparent",
        "content-type",
    ];

    const VALUES: [&str; 8] = [
        "1.0",
        "2024-02-29T12:00:00Z",
        "application/json",
        "text/plain",
        "image/png",
        "application/cloudevents+json",
        "%41",
        "\"a\\\"b\"",
    ];

    fuzz_target!(|bytes: &[u8]| {
        let Ok(message) = message(&mut Unstructured::new(bytes)) else { return };
        let Some(envelope) = read(&message) else { return };
        for (mode, protocol) in
            [("structured", Protocol::Http), ("binary", Protocol::Http), ("binary", Protocol::Kafka)]
        {
            if let Some(written) = write(&envelope, mode, protocol) {
                let again = read(&written).unwrap_or_else(|| panic!("{written:?} is written and not read"));
                assert_eq!(texts(&again), texts(&envelope), "{mode} {protocol:?}");
            }
        }
    });

    fn message(given: &mut Unstructured<'_>) -> Result<Message> {
        let mut headers = Vec::new();
        for _ in 0..given.int_in_range(0..=6)? {
            let name = given.choose(&HEADERS)?.as_bytes().to_vec();
            let value = match given.arbitrary()? {
                true => given.choose(&VALUES)?.as_bytes().to_vec(),
                false => given.arbitrary::<&str>()?.as_bytes().to_vec(),
            };
            headers.push((name, value));
        }
        let has_payload = given.ratio(7, 8)?;
        let payload = given.bytes(given.len())?.to_vec();
        Ok(Message { payload: has_payload.then_some(payload), headers, key: None, timestamp_ms: 7 })
    }

    fn codec() -> &'static CodecSpec {
        CODECS.iter().find(|codec| codec.name == "cloudevents").expect("there is such a codec")
    }

    /// The envelope of an event.
    fn read(message: &Message) -> Option<Vec<u8>> {
        let Ok(config) = (codec().decoder)(json!({}), Around::nothing()) else { panic!("no key is needed") };
        let mut out = BatchBuilder::new();
        out.push_message(message, Position::default());
        let mut envelope = Vec::new();
        let conversion = config.conversion().expect("it has one");
        conversion.convert(&out.finish().message(0), &mut envelope).ok()?.then_some(envelope)
    }

    fn write(envelope: &[u8], mode: &str, protocol: Protocol) -> Option<Message> {
        let Ok(encoder) = (codec().encoder)(json!({ "mode": mode }), Around::nothing()) else {
            panic!("it has these modes")
        };
        let mut batch = BatchBuilder::new();
        let message = Message { payload: Some(envelope.to_vec()), ..Message::default() };
        batch.push_message(&message, Position::default());
        let (mut body, mut given) = (Vec::new(), Vec::new());
        let written =
            encoder.encode_with_headers(&batch.finish().message(0), protocol, &mut body, &mut given).ok()?;
        let mut headers: Vec<(Vec<u8>, Vec<u8>)> = given
            .iter()
            .map(|header| (header.name.as_bytes().into(), header.value.as_bytes().into()))
            .collect();
        if mode == "structured" {
            headers.push((b"content-type".to_vec(), encoder.media_type().into()));
        }
        let is_null = written == Body::Nothing && protocol == Protocol::Kafka;
        Some(Message { payload: (!is_null).then_some(body), headers, key: None, timestamp_ms: 7 })
    }

    /// What is the same in all modes: in headers attributes are texts, JSON without a content type gets one, and
    /// a text that is neither JSON nor of a text's content type is bytes.
    fn texts(envelope: &[u8]) -> Value {
        let mut envelope: Value = serde_json::from_slice(envelope).expect("an envelope is JSON");
        let metadata = envelope["metadata"].as_object_mut().expect("an object");
        for value in metadata.values_mut().filter(|value| !value.is_string()) {
            *value = value.to_string().into();
        }
        metadata.remove("datacontenttype");
        if metadata.remove("dataEncoding").is_none()
            && let Value::String(text) = &envelope["data"]
        {
            envelope["data"] = STANDARD.encode(text).into();
        }
        envelope
    }
}

#[cfg(not(fuzzing))]
fn main() {
    println!("runtime/fuzz/run.sh builds it as a fuzzer and runs it");
}
