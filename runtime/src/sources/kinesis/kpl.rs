//! Aggregated records: many user records in one record of a stream, as the Kinesis Producer Library (KPL)
//! writes them.
//!
//! Four bytes of magic, a protobuf message, the MD5 digest of that message
//! (<https://github.com/awslabs/amazon-kinesis-producer/blob/master/aggregation-format.md>). What only looks
//! like one, because digest or message are wrong, is a plain record.

use bytes::Bytes;
use md5::{Digest, Md5};
use prost::Message;

const MAGIC: &[u8] = &[0xF3, 0x89, 0x9A, 0xC2];

const DIGEST_BYTES: usize = 16;

/// Fields that nobody reads are left out.
#[derive(Clone, PartialEq, Message)]
struct Aggregated {
    #[prost(string, repeated, tag = "1")]
    partition_keys: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    explicit_hash_keys: Vec<String>,
    #[prost(message, repeated, tag = "3")]
    records: Vec<Entry>,
}

#[derive(Clone, PartialEq, Message)]
struct Entry {
    #[prost(uint64, required, tag = "1")]
    partition_key: u64,
    #[prost(uint64, optional, tag = "2")]
    explicit_hash_key: Option<u64>,
    #[prost(bytes = "bytes", required, tag = "3")]
    data: Bytes,
}

/// The user records of an aggregated record.
#[derive(Debug)]
pub struct UserRecords(Aggregated);

/// One of them.
#[derive(Debug, PartialEq, Eq)]
pub struct UserRecord<'a> {
    pub partition_key: &'a str,
    pub data: &'a Bytes,
    hash_key: Option<u128>,
}

impl UserRecords {
    /// Of an aggregated record; `None` of a plain one.
    pub fn of(data: &Bytes) -> Option<UserRecords> {
        let rest = data.len().checked_sub(MAGIC.len() + DIGEST_BYTES)?;
        if !data.starts_with(MAGIC) {
            return None;
        }
        let (body, digest) = (data.slice(MAGIC.len()..MAGIC.len() + rest), &data[MAGIC.len() + rest..]);
        if Md5::digest(&body)[..] != *digest {
            return None;
        }
        let aggregated = Aggregated::decode(body).ok()?;
        let has_keys = |entry: &Entry| {
            let has = |keys: &[String], index: u64| usize::try_from(index).is_ok_and(|at| at < keys.len());
            has(&aggregated.partition_keys, entry.partition_key)
                && entry.explicit_hash_key.is_none_or(|index| has(&aggregated.explicit_hash_keys, index))
        };
        aggregated.records.iter().all(has_keys).then(|| UserRecords(aggregated))
    }

    pub fn len(&self) -> usize {
        self.0.records.len()
    }

    pub fn get(&self, index: usize) -> UserRecord<'_> {
        let entry = &self.0.records[index];
        UserRecord {
            partition_key: &self.0.partition_keys[entry.partition_key as usize],
            data: &entry.data,
            // One that is no number is as none at all.
            hash_key: entry
                .explicit_hash_key
                .and_then(|index| self.0.explicit_hash_keys[index as usize].parse().ok()),
        }
    }
}

impl UserRecord<'_> {
    /// What decides the shard that it belongs to: the MD5 digest of its key, as a number, unless its
    /// producer said otherwise.
    pub fn hash_key(&self) -> u128 {
        self.hash_key.unwrap_or_else(|| u128::from_be_bytes(Md5::digest(self.partition_key).into()))
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn aggregated(records: &[(&str, Option<&str>, &str)]) -> Vec<u8> {
        let mut all = Aggregated::default();
        for (index, (key, hash_key, data)) in records.iter().enumerate() {
            all.partition_keys.push((*key).to_owned());
            let explicit_hash_key = hash_key.map(|hash_key| {
                all.explicit_hash_keys.push(hash_key.to_owned());
                all.explicit_hash_keys.len() as u64 - 1
            });
            let data = Bytes::from(data.as_bytes().to_vec());
            all.records.push(Entry { partition_key: index as u64, explicit_hash_key, data });
        }
        sealed(&all.encode_to_vec())
    }

    fn sealed(body: &[u8]) -> Vec<u8> {
        [MAGIC, body, &Md5::digest(body)].concat()
    }

    #[test]
    fn user_records_come_out_as_they_went_in() {
        let data =
            Bytes::from(aggregated(&[("a", None, "one"), ("b", Some("17"), ""), ("a", None, "three")]));
        let records = UserRecords::of(&data).unwrap();
        let got: Vec<(&str, &[u8])> = (0..records.len())
            .map(|n| records.get(n))
            .map(|one| (one.partition_key, &one.data[..]))
            .collect();
        assert_eq!(got, [("a", &b"one"[..]), ("b", b""), ("a", b"three")]);
        assert_eq!(records.get(1).hash_key(), 17);
        assert_eq!(records.get(0).hash_key(), 0x0cc1_75b9_c0f1_b6a8_31c3_99e2_6977_2661, "the MD5 of `a`");
    }

    #[test]
    fn what_only_looks_like_one_is_a_plain_record() {
        let good = aggregated(&[("a", None, "one")]);
        assert!(UserRecords::of(&good.clone().into()).is_some());
        for place in 0..good.len() {
            let mut damaged = good.clone();
            damaged[place] ^= 1;
            assert!(UserRecords::of(&damaged.into()).is_none(), "byte {place}");
        }
        for length in 0..good.len() {
            assert!(UserRecords::of(&Bytes::copy_from_slice(&good[..length])).is_none(), "{length} bytes");
        }
        assert!(UserRecords::of(&sealed(b"\xff\xff").into()).is_none(), "no protobuf");
        let lost = Aggregated {
            records: vec![Entry { partition_key: 1, ..Entry::default() }],
            ..Default::default()
        };
        assert!(UserRecords::of(&sealed(&lost.encode_to_vec()).into()).is_none(), "a key that is not there");
    }
}
