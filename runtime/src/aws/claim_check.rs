//! Payloads that are kept aside in S3, in the format of Amazon's extended client libraries for SQS and
//! SNS: the message holds a pointer, and an attribute with the size of the payload says so.
//!
//! <https://github.com/awslabs/payload-offloading-java-common-lib-for-aws>,
//! <https://github.com/awslabs/amazon-sqs-java-extended-client-lib>

use std::path::Path;

use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Access, Connection, Failure, Kind};
use crate::config::problem::Problem;
use crate::config::units::ByteSize;

/// Attribute of a message whose body is a pointer: the bytes of its payload, a Number.
pub const SIZE_ATTRIBUTE: &str = "ExtendedPayloadSize";

/// The same, of libraries before version 2.
pub const LEGACY_SIZE_ATTRIBUTE: &str = "SQSLargePayloadSize";

const POINTER_CLASS: &str = "software.amazon.payloadoffloading.PayloadS3Pointer";
const LEGACY_POINTER_CLASS: &str = "com.amazon.sqs.javamessaging.MessageS3Pointer";

/// Code of a message whose payload cannot be had.
pub const CLAIM_CHECK: &str = "claim-check";

/// Payloads of received messages that are kept aside in S3, in the format of Amazon's extended client
/// libraries. They are fetched before the plugins. A message whose object is missing, is larger than
/// `max_message_bytes`, or is in another bucket becomes a dead letter (`claim-check`, `too-large`).
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FetchSection {
    /// Buckets that payloads are fetched from. Who writes to the queue could otherwise have us read
    /// whatever we may.
    buckets: Vec<String>,
    /// Remove the object once its message is settled and deleted from the queue. Not where others read
    /// the same messages, as with a topic that has several queues.
    #[serde(default)]
    delete: bool,
    /// How S3 is reached; what is not said here is as for the queue.
    #[serde(default)]
    aws: Access,
}

/// Payloads too large for a message are put into S3, in the format of Amazon's extended client
/// libraries. What is put there and then not sent stays there, as when a send is repeated: give the
/// bucket a rule that removes what is older than messages are kept.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PutSection {
    /// Bucket for the payloads.
    bucket: String,
    /// What their keys begin with, before a UUID.
    #[serde(default)]
    prefix: String,
    /// Payloads for which message and attributes together are larger go to S3; with `"0B"` all do.
    #[serde(default = "threshold_default")]
    threshold: ByteSize,
    /// How S3 is reached; what is not said here is as for the queue or topic.
    #[serde(default)]
    aws: Access,
}

/// As in the libraries.
fn threshold_default() -> ByteSize {
    ByteSize::kib(256)
}

impl FetchSection {
    /// Adds what is wrong with it, as the section `claim_check`.
    pub fn check(&self, base: &Path, problems: &mut Vec<Problem>) {
        if self.buckets.is_empty() {
            problems
                .push(Problem::new("/claim_check/buckets", "no bucket at all").help("buckets = [\"...\"]"));
        }
        for (index, bucket) in self.buckets.iter().enumerate() {
            check_bucket(&format!("/claim_check/buckets/{index}"), bucket, problems);
        }
        self.aws.check("/claim_check/aws", base, problems);
    }
}

impl PutSection {
    /// Adds what is wrong with it, as the section `claim_check`. `limit` is the largest message.
    pub fn check(&self, base: &Path, limit: ByteSize, problems: &mut Vec<Problem>) {
        check_bucket("/claim_check/bucket", &self.bucket, problems);
        if self.threshold > limit {
            problems.push(
                Problem::new("/claim_check/threshold", format!("{} is too much", self.threshold))
                    .help(format!("at most \"{limit}\", the largest message")),
            );
        }
        if !self.prefix.is_ascii() || self.prefix.chars().any(char::is_control) || self.prefix.len() > 500 {
            problems.push(
                Problem::new("/claim_check/prefix", format!("{:?} makes no good keys", self.prefix))
                    .help("up to 500 characters of ASCII, as in \"orders/\""),
            );
        }
        self.aws.check("/claim_check/aws", base, problems);
    }
}

impl PutSection {
    /// Fetches, and removes, what it puts. `access` is that of the queue.
    pub fn fetcher(&self, access: &Access, base: &Path) -> Fetcher {
        let store = store(&self.aws, access, base);
        Fetcher { store, buckets: vec![self.bucket.clone()], delete: true }
    }
}

/// Names of buckets: <https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html>.
/// Also the ARN of an access point.
fn check_bucket(at: &str, bucket: &str, problems: &mut Vec<Problem>) {
    let is_name = (3..=63).contains(&bucket.len())
        && bucket.bytes().all(|byte| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'-' | b'_')
        });
    if !is_name && !bucket.starts_with("arn:") {
        problems.push(
            Problem::new(at, format!("{bucket:?} is not the name of a bucket"))
                .help("3 to 63 lowercase letters, digits, `.` and `-`"),
        );
    }
}

/// Where a payload is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Pointer {
    #[serde(rename = "s3BucketName")]
    pub bucket: String,
    #[serde(rename = "s3Key")]
    pub key: String,
}

impl Pointer {
    /// The pointer that a body is.
    ///
    /// # Errors
    /// It is none; says what is wrong with it.
    pub fn read(body: &[u8]) -> Result<Pointer, String> {
        let (class, pointer): (String, Pointer) = serde_json::from_slice(body).map_err(|error| {
            format!("it has the attribute {SIZE_ATTRIBUTE}, and its body is no pointer into S3: {error}")
        })?;
        match class.as_str() {
            POINTER_CLASS | LEGACY_POINTER_CLASS => Ok(pointer),
            _ => Err(format!("its body is a pointer of an unknown class, {class:?}")),
        }
    }

    /// As the body of a message.
    fn body(&self) -> String {
        serde_json::json!([POINTER_CLASS, self]).to_string()
    }
}

impl std::fmt::Display for Pointer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "s3://{}/{}", self.bucket, self.key)
    }
}

/// Why there is no payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoPayload {
    /// It never comes: code and reason of a dead letter.
    Never { code: &'static str, reason: String },
    /// It may come later.
    Now(Failure),
}

/// S3, as a queue or topic with this `access` reaches it where `ours` says nothing else.
fn store(ours: &Access, access: &Access, base: &Path) -> Connection<Client> {
    Connection::new(ours.or(access), base, |config| {
        let mut s3 = aws_sdk_s3::config::Builder::from(config);
        // The bucket in the name of the host is for Amazon's own.
        s3.set_force_path_style(Some(config.endpoint_url().is_some()));
        Client::from_conf(s3.build())
    })
}

/// Fetches payloads that messages point to.
pub struct Fetcher {
    store: Connection<Client>,
    buckets: Vec<String>,
    delete: bool,
}

impl Fetcher {
    /// `access` is that of the queue.
    pub fn new(section: &FetchSection, access: &Access, base: &Path) -> Fetcher {
        let store = store(&section.aws, access, base);
        Fetcher { store, buckets: section.buckets.clone(), delete: section.delete }
    }

    /// Whether objects are to be removed once their messages are.
    pub fn deletes(&self) -> bool {
        self.delete
    }

    /// The payload, if it has at most `limit` bytes.
    ///
    /// # Errors
    /// The inner ones as [`NoPayload`] says; the outer one is of the configuration, and no waiting helps.
    pub async fn fetch(&self, pointer: &Pointer, limit: usize) -> anyhow::Result<Result<Bytes, NoPayload>> {
        let never = |code, reason| Ok(Err(NoPayload::Never { code, reason }));
        if !self.buckets.contains(&pointer.bucket) {
            let reason = format!("its payload is in {pointer}, and that bucket is not among `buckets`");
            return never(CLAIM_CHECK, reason);
        }
        let request = self.store.client().await?.get_object().bucket(&pointer.bucket).key(&pointer.key);
        let object = match request.send().await {
            Ok(object) => object,
            Err(error) => {
                let failure = Failure::of(&format!("GetObject of {pointer}"), &error);
                // Without the right to list a bucket S3 says 403 of an object that is not there; that is
                // waited for, for it can also be the right to read that is missing.
                return match (failure.kind, failure.code.as_str()) {
                    (Kind::Missing, "NoSuchKey") => never(CLAIM_CHECK, failure.reason),
                    (Kind::Refused, _) => never(CLAIM_CHECK, failure.reason),
                    _ => Ok(Err(NoPayload::Now(failure))),
                };
            }
        };
        let bytes = object.content_length().and_then(|length| usize::try_from(length).ok());
        if bytes.is_none_or(|bytes| bytes > limit) {
            let bytes = bytes.map_or_else(|| "an unknown number of".to_owned(), |bytes| bytes.to_string());
            let reason = format!("its payload, {pointer}, has {bytes} bytes; at most {limit} are taken");
            return never("too-large", reason);
        }
        match object.body.collect().await {
            Ok(body) => Ok(Ok(body.into_bytes())),
            Err(error) => Ok(Err(NoPayload::Now(Failure {
                kind: Kind::Unavailable,
                code: String::new(),
                reason: format!("GetObject of {pointer} broke off: {error}"),
            }))),
        }
    }

    /// Removes an object. One that is not there is none any more.
    ///
    /// # Errors
    /// The inner one of S3; the outer one of the configuration.
    pub async fn remove(&self, pointer: &Pointer) -> anyhow::Result<Result<(), Failure>> {
        let request = self.store.client().await?.delete_object().bucket(&pointer.bucket).key(&pointer.key);
        match request.send().await {
            Ok(_) => Ok(Ok(())),
            Err(error) => {
                let failure = Failure::of(&format!("DeleteObject of {pointer}"), &error);
                Ok(if failure.kind == Kind::Missing { Ok(()) } else { Err(failure) })
            }
        }
    }
}

/// Puts payloads into S3.
pub struct Putter {
    store: Connection<Client>,
    bucket: String,
    prefix: String,
    threshold: usize,
}

impl Putter {
    /// `access` is that of the queue or topic.
    pub fn new(section: &PutSection, access: &Access, base: &Path) -> Putter {
        Putter {
            store: store(&section.aws, access, base),
            bucket: section.bucket.clone(),
            prefix: section.prefix.clone(),
            threshold: section.threshold.as_usize(),
        }
    }

    /// Whether a message of so many bytes, attributes included, is one whose payload goes to S3.
    pub fn wants(&self, bytes: usize) -> bool {
        bytes > self.threshold || self.threshold == 0
    }

    /// Puts a payload there and returns the body that points to it.
    ///
    /// # Errors
    /// The inner one of S3; the outer one of the configuration.
    pub async fn put(&self, payload: Bytes) -> anyhow::Result<Result<String, Failure>> {
        let pointer =
            Pointer { bucket: self.bucket.clone(), key: format!("{}{}", self.prefix, Uuid::new_v4()) };
        let request = self.store.client().await?.put_object().bucket(&pointer.bucket).key(&pointer.key);
        Ok(match request.body(ByteStream::from(payload)).send().await {
            Ok(_) => Ok(pointer.body()),
            Err(error) => Err(Failure::of(&format!("PutObject of {pointer}"), &error)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pointer_is_as_the_libraries_write_it() {
        let pointer = Pointer { bucket: "orders".to_owned(), key: "a/b".to_owned() };
        let body = r#"["software.amazon.payloadoffloading.PayloadS3Pointer",{"s3BucketName":"orders","s3Key":"a/b"}]"#;
        assert_eq!(pointer.body(), body);
        assert_eq!(Pointer::read(body.as_bytes()).as_ref(), Ok(&pointer));
        let legacy = body.replace(POINTER_CLASS, LEGACY_POINTER_CLASS);
        assert_eq!(Pointer::read(legacy.as_bytes()), Ok(pointer));
    }

    #[test]
    fn what_is_no_pointer_says_why() {
        let error = Pointer::read(b"{\"s3BucketName\":1}").unwrap_err();
        assert!(error.contains("no pointer into S3"), "{error}");
        let error = Pointer::read(br#"["a.B",{"s3BucketName":"b","s3Key":"k"}]"#).unwrap_err();
        assert!(error.contains("unknown class, \"a.B\""), "{error}");
    }
}
