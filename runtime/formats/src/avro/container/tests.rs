use serde_json::{Value as Json, json};

use super::*;
use crate::avro::tests::{a_value_of_everything, as_json, everything, schema};
use crate::json;

fn file(schema: &Schema, values: &[Json]) -> (Vec<u8>, Vec<Vec<u8>>) {
    let blocks = values.iter().map(|json| {
        let mut out = Vec::new();
        let value = json::decode(json.to_string().as_bytes()).unwrap();
        block(schema, Compression::Null, &value, ExtraFields::Reject, &mut out).unwrap();
        out
    });
    (head(schema, Compression::Null), blocks.collect())
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

const WRITTEN: [Compression; 4] =
    [Compression::Null, Compression::Deflate, Compression::Snappy, Compression::Zstandard];

/// A file of a schema that blocks of this codec are in.
fn container(schema: &Schema, codec: Codec) -> (Container, Vec<u8>) {
    let head = head(schema, Compression::Null);
    let marker = head[head.len() - MARKER_BYTES..].to_vec();
    (Container { codec, ..Container::open(&head, None).unwrap() }, marker)
}

#[test]
fn what_is_written_compressed_is_read() {
    let text = schema(&json!("string"));
    let value = Value::Text("x".repeat(10_000));
    for compression in WRITTEN {
        let head = head(&text, compression);
        let mut out = Vec::new();
        block(&text, compression, &value, ExtraFields::Reject, &mut out).unwrap();
        assert_eq!(out.len() > 1000, compression == Compression::Null, "{compression:?}: {}", out.len());
        let container = Container::open(&head, Some(&text)).unwrap();
        assert_eq!(container.block(&out).unwrap(), std::slice::from_ref(&value));
        let file = [head, out].concat();
        let theirs = apache_avro::Reader::new(&file[..]);
        // It is built here with these codecs alone.
        if matches!(compression, Compression::Null | Compression::Deflate | Compression::Snappy) {
            assert_eq!(theirs.unwrap().map(Result::unwrap).count(), 1, "{compression:?}");
        }
    }
}

#[test]
fn an_unknown_compression_is_told_with_those_that_are_known() {
    let head = head(&schema(&json!("string")), Compression::Deflate);
    let at = head.windows(7).position(|name| name == b"deflate").unwrap();
    let other = [&head[..at], b"inflate", &head[at + 7..]].concat();
    assert_eq!(
        Container::open(&other, None).err().unwrap().what(),
        "no head of an Avro container file: compressed by \"inflate\"; known are null, deflate, snappy, zstandard, \
         bzip2, xz"
    );
}

/// A block of one text of this many letters, much smaller than that.
fn bomb(codec: Codec, letters: usize, marker: &[u8]) -> Vec<u8> {
    let mut data = Vec::new();
    write::bytes(&vec![b'x'; letters], &mut data);
    let packed = match codec {
        Codec::Written(compression) => compression.packed(data),
        Codec::Bzip2 => {
            let mut packed = Vec::new();
            let encoder = bzip2::read::BzEncoder::new(&data[..], bzip2::Compression::fast());
            std::io::copy(&mut { encoder }, &mut packed).unwrap();
            packed
        }
        Codec::Xz => {
            let mut encoder =
                lzma_rust2::XzWriter::new(Vec::new(), lzma_rust2::XzOptions::with_preset(0)).unwrap();
            std::io::Write::write_all(&mut encoder, &data).unwrap();
            encoder.finish().unwrap()
        }
    };
    let mut block = vec![2];
    write::bytes(&packed, &mut block);
    block.extend_from_slice(marker);
    block
}

#[test]
fn compressed_blocks_are_unpacked_within_bounds() {
    let text = schema(&json!("string"));
    for compression in &WRITTEN[1..] {
        unpacks_within_bounds(&text, Codec::Written(*compression));
    }
    unpacks_within_bounds(&text, Codec::Bzip2);
    unpacks_within_bounds(&text, Codec::Xz);
}

fn unpacks_within_bounds(text: &Schema, codec: Codec) {
    let (container, marker) = container(text, codec);
    assert_eq!(container.block(&bomb(codec, 3, &marker)).unwrap(), ["xxx".into()] as [Value; 1]);
    let block = bomb(codec, 64 << 20, &marker);
    assert!(block.len() < 4 << 20, "{codec:?}: {} bytes", block.len());
    let error = container.block(&block).unwrap_err();
    let wanted = "it cannot be unpacked into at most 67108864 bytes: it holds more";
    assert!(error.what().ends_with(wanted), "{codec:?}: {error}");
    // What is cut or garbled is an error, of whatever kind.
    let mut block = bomb(codec, 1000, &marker);
    let middle = block.len() / 2;
    block[middle] ^= 0xff;
    assert!(container.block(&block).is_err(), "{codec:?}");
}
