use serde_json::{Value as Json, json};

use super::*;
use crate::avro::tests::{a_value_of_everything, as_json, everything, schema};
use crate::json;

fn file(schema: &Schema, values: &[Json]) -> (Vec<u8>, Vec<Vec<u8>>) {
    let blocks = values.iter().map(|json| {
        let mut out = Vec::new();
        let value = json::decode(json.to_string().as_bytes()).unwrap();
        block(schema, &value, ExtraFields::Reject, &mut out).unwrap();
        out
    });
    (head(schema), blocks.collect())
}

#[test]
fn container_files_are_read_by_us_and_by_the_crate() {
    let schema = schema(&everything());
    let (head, blocks) = file(&schema, &[a_value_of_everything(), a_value_of_everything()]);
    let container = Container::open(&head, None).unwrap();
    let read = container.block(&blocks[0]).unwrap();
    assert_eq!(read.iter().map(as_json).collect::<Vec<_>>(), [a_value_of_everything()]);
    let whole = [head.clone(), blocks.concat()].concat();
    assert_eq!(apache_avro::Reader::new(&whole[..]).unwrap().map(Result::unwrap).count(), 2);

    let mut broken = blocks[0].clone();
    *broken.last_mut().unwrap() ^= 1;
    assert!(container.block(&broken).unwrap_err().what().contains("marker"));
    assert!(container.block(&blocks[0][..20]).is_err());
    assert!(Container::open(b"Obj\x02", None).is_err());
    assert!(Container::open(&head[..head.len() - 20], None).is_err());
}

#[test]
fn compressed_blocks_are_unpacked_within_bounds() {
    let text = schema(&json!("string"));
    for codec in
        [apache_avro::Codec::Deflate(apache_avro::DeflateSettings::default()), apache_avro::Codec::Snappy]
    {
        let parsed = apache_avro::Schema::String;
        let mut writer = apache_avro::Writer::with_codec(&parsed, Vec::new(), codec).unwrap();
        for text in ["a", "b", "c"] {
            writer.append_value(text).unwrap();
        }
        let bytes = writer.into_inner().unwrap();
        let (head, blocks) = split(&bytes);
        let values = Container::open(head, Some(&text)).unwrap().block(blocks).unwrap();
        assert_eq!(values, ["a".into(), "b".into(), "c".into()] as [Value; 3]);
        let mut bomb = apache_avro::Writer::with_codec(&parsed, Vec::new(), codec).unwrap();
        bomb.append_value("x".repeat(MAX_UNPACKED_BYTES)).unwrap();
        let bytes = bomb.into_inner().unwrap();
        let (head, blocks) = split(&bytes);
        let error = Container::open(head, None).unwrap().block(blocks).unwrap_err();
        assert!(error.what().contains("at most 67108864 bytes"), "{error}");
    }
}

/// The head of a file, and all behind it.
fn split(file: &[u8]) -> (&[u8], &[u8]) {
    let marker = &file[file.len() - 16..];
    let end = file.windows(16).position(|window| window == marker).unwrap() + 16;
    file.split_at(end)
}
