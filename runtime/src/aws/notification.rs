//! Notifications of SNS as a queue gets them without raw delivery: an envelope of JSON around the
//! message, signed by SNS.
//!
//! <https://docs.aws.amazon.com/sns/latest/dg/sns-message-and-json-formats.html>

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::Url;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{
    AlgorithmIdentifier, CertificateDer, InvalidSignature, SignatureVerificationAlgorithm, alg_id,
};
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::sync::{Mutex, OnceCell};
use webpki::EndEntityCert;

use super::claim_check::NoPayload;
use super::{Failure, Kind};
use crate::config::problem::Problem;
use crate::tls;

/// Code of a message whose envelope cannot be trusted.
pub const SIGNATURE: &str = "sns-signature";

/// Notifications of SNS are taken out of their envelope: where a subscription has no raw delivery. Their
/// attributes become headers, their time that of the message. Anything else passes as it is, as from a
/// subscription with raw delivery; with `verify` it becomes a dead letter (`sns-signature`).
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NotificationSection {
    /// Check that SNS has signed the notification, for one of the `topics`.
    verify: bool,
    /// ARNs of the topics whose notifications are taken; needed with `verify`, for anybody can have a
    /// topic that SNS signs for.
    topics: Vec<String>,
    /// Host, and port, that certificates may come from in place of those of SNS
    /// (`sns.REGION.amazonaws.com`), always by `https`: for what stands in for SNS.
    certificate_host: Option<String>,
    /// Certificates (PEM, relative to the pipeline file) of those who may sign that host's; by default
    /// those that the system trusts.
    ca_file: Option<PathBuf>,
}

impl NotificationSection {
    /// Adds what is wrong with it, as the section `sns`.
    pub fn check(&self, base: &Path, problems: &mut Vec<Problem>) {
        if self.verify && self.topics.is_empty() {
            problems.push(
                Problem::new("/sns/topics", "with `verify` it must be said whose notifications are taken")
                    .help("topics = [\"arn:aws:sns:eu-central-1:123456789012:orders\"]"),
            );
        }
        for (index, topic) in self.topics.iter().enumerate().filter(|(_, topic)| !topic.starts_with("arn:")) {
            problems.push(
                Problem::new(format!("/sns/topics/{index}"), format!("{topic:?} is no ARN"))
                    .help("as in \"arn:aws:sns:eu-central-1:123456789012:orders\""),
            );
        }
        let of_verify =
            [("certificate_host", self.certificate_host.is_some()), ("ca_file", self.ca_file.is_some())];
        for (key, _) in of_verify.iter().filter(|(_, is_there)| *is_there && !self.verify) {
            problems.push(
                Problem::new(format!("/sns/{key}"), "without `verify` no certificate is needed")
                    .help("verify = true"),
            );
        }
        if let Some(file) = &self.ca_file
            && let Err(error) = tls::read_certificates(&base.join(file))
        {
            problems.push(
                Problem::new("/sns/ca_file", format!("{error:#}")).help("a PEM file with certificates"),
            );
        }
    }
}

/// What SNS puts around a message.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Notification {
    #[serde(rename = "Type")]
    kind: String,
    pub message_id: String,
    pub topic_arn: String,
    pub subject: Option<String>,
    /// The message itself.
    pub message: String,
    timestamp: String,
    #[serde(default)]
    signature_version: String,
    #[serde(default)]
    signature: String,
    #[serde(default, rename = "SigningCertURL")]
    signing_cert_url: String,
    #[serde(default)]
    message_attributes: BTreeMap<String, Attribute>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Attribute {
    #[serde(rename = "Type")]
    kind: String,
    value: String,
}

impl Notification {
    /// The notification that a body is, if it is one.
    pub fn read(body: &[u8]) -> Option<Notification> {
        // Most other bodies are told by their first byte.
        if !body.trim_ascii_start().starts_with(b"{") {
            return None;
        }
        serde_json::from_slice(body).ok().filter(|read: &Notification| read.kind == "Notification")
    }

    /// When it was published, milliseconds since 1970-01-01T00:00:00Z.
    pub fn published_ms(&self) -> Option<i64> {
        self.timestamp.parse().ok().map(jiff::Timestamp::as_millisecond)
    }

    /// Name, type and value of its attributes. One that says to be binary and is no base64 is as it
    /// stands there.
    pub fn attributes(&self) -> impl Iterator<Item = (&str, &str, Vec<u8>)> {
        self.message_attributes.iter().map(|(name, Attribute { kind, value })| {
            let binary = kind.starts_with("Binary").then(|| STANDARD.decode(value).ok()).flatten();
            (name.as_str(), kind.as_str(), binary.unwrap_or_else(|| value.clone().into_bytes()))
        })
    }

    /// What SNS has signed:
    /// <https://docs.aws.amazon.com/sns/latest/dg/sns-verify-signature-of-message-verify-message-signature.html>.
    fn signed(&self) -> String {
        let subject = self.subject.as_deref();
        [
            ("Message", Some(self.message.as_str())),
            ("MessageId", Some(&self.message_id)),
            ("Subject", subject),
            ("Timestamp", Some(&self.timestamp)),
            ("TopicArn", Some(&self.topic_arn)),
            ("Type", Some(&self.kind)),
        ]
        .into_iter()
        .filter_map(|(name, value)| value.map(|value| format!("{name}\n{value}\n")))
        .collect()
    }
}

/// How long the server of the certificates may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A certificate has some KiB.
const MAX_CERTIFICATE_BYTES: usize = 64 << 10;

/// SNS has one a region, and changes it about once a year.
const MAX_CERTIFICATES: usize = 16;

/// Checks that notifications are of SNS. Its certificate is trusted because it comes, by TLS, from a
/// host of SNS; it names no authority that could be asked.
pub struct Verifier {
    section: NotificationSection,
    base: PathBuf,
    client: OnceCell<reqwest::Client>,
    /// By their urls.
    certificates: Mutex<HashMap<String, CertificateDer<'static>>>,
}

impl Verifier {
    /// None if the section does not ask for it.
    pub fn new(section: &NotificationSection, base: &Path) -> Option<Verifier> {
        section.verify.then(|| Verifier {
            section: section.clone(),
            base: base.to_owned(),
            client: OnceCell::new(),
            certificates: Mutex::default(),
        })
    }

    /// Whether one of the topics has sent it.
    ///
    /// # Errors
    /// The inner ones as [`NoPayload`] says; the outer one is of the configuration, and no waiting helps.
    pub async fn verify(&self, notification: &Notification) -> anyhow::Result<Result<(), NoPayload>> {
        if let Err(reason) = self.check_origin(notification) {
            return Ok(Err(untrusted(reason)));
        }
        let certificate = match self.certificate(&notification.signing_cert_url).await? {
            Ok(certificate) => certificate,
            Err(none) => return Ok(Err(none)),
        };
        Ok(check_signature(notification, &certificate).map_err(untrusted))
    }

    fn check_origin(&self, notification: &Notification) -> Result<(), String> {
        let Notification { topic_arn, signing_cert_url: url, .. } = notification;
        if !self.section.topics.contains(topic_arn) {
            return Err(format!("it is of the topic {topic_arn:?}, which is not among `topics`"));
        }
        let parsed = Url::parse(url).ok().filter(|url| url.scheme() == "https");
        let host = parsed.as_ref().and_then(Url::host_str).unwrap_or_default();
        let authority = match parsed.as_ref().and_then(Url::port) {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        };
        let is_trusted = match &self.section.certificate_host {
            Some(trusted) => *trusted == authority,
            None => is_host_of_sns(&authority),
        };
        match is_trusted {
            true => Ok(()),
            false => Err(format!("its certificate is at {url:?}, which is none of SNS")),
        }
    }

    async fn certificate(&self, url: &str) -> anyhow::Result<Result<CertificateDer<'static>, NoPayload>> {
        // Held while one is fetched, so that it is fetched once.
        let mut certificates = self.certificates.lock().await;
        if let Some(known) = certificates.get(url) {
            return Ok(Ok(known.clone()));
        }
        let client = self.client.get_or_try_init(|| async { self.client() }).await?;
        let pem = match fetch(client, url).await {
            Ok(pem) => pem,
            Err(error) => {
                let reason = format!("cannot fetch the certificate of SNS: {error:#}");
                let failure = Failure { kind: Kind::Unavailable, code: String::new(), reason };
                return Ok(Err(NoPayload::Now(failure)));
            }
        };
        let certificate = match CertificateDer::from_pem_slice(&pem) {
            Ok(certificate) => certificate,
            Err(error) => return Ok(Err(untrusted(format!("at {url:?} is no certificate: {error}")))),
        };
        if certificates.len() >= MAX_CERTIFICATES {
            certificates.clear();
        }
        certificates.insert(url.to_owned(), certificate.clone());
        Ok(Ok(certificate))
    }

    fn client(&self) -> anyhow::Result<reqwest::Client> {
        tls::install_provider();
        let mut builder = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .https_only(true)
            .timeout(TIMEOUT);
        if let Some(file) = &self.section.ca_file {
            let path = self.base.join(file);
            let authorities = tls::read_certificates(&path)?
                .iter()
                .map(|certificate| reqwest::Certificate::from_der(certificate))
                .collect::<Result<Vec<_>, _>>()
                .with_context(|| format!("cannot use the certificates of {}", path.display()))?;
            builder = builder.tls_certs_only(authorities);
        }
        builder.build().context("cannot set up the client for certificates")
    }
}

async fn fetch(client: &reqwest::Client, url: &str) -> anyhow::Result<Vec<u8>> {
    let mut response = client.get(url).send().await?.error_for_status()?;
    let mut pem = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        pem.extend_from_slice(&chunk);
        anyhow::ensure!(pem.len() <= MAX_CERTIFICATE_BYTES, "it has more than {MAX_CERTIFICATE_BYTES} bytes");
    }
    Ok(pem)
}

fn untrusted(reason: String) -> NoPayload {
    NoPayload::Never { code: SIGNATURE, reason }
}

/// `sns.REGION.amazonaws.com`, in China with `.cn`.
fn is_host_of_sns(host: &str) -> bool {
    let region = host.strip_prefix("sns.").and_then(|rest| {
        rest.strip_suffix(".amazonaws.com").or_else(|| rest.strip_suffix(".amazonaws.com.cn"))
    });
    region.is_some_and(|region| {
        region.len() >= 3 && region.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    })
}

fn check_signature(notification: &Notification, certificate: &CertificateDer<'_>) -> Result<(), String> {
    let algorithm: &dyn SignatureVerificationAlgorithm = match notification.signature_version.as_str() {
        "1" => &RSA_SHA1,
        "2" => webpki::ring::RSA_PKCS1_2048_8192_SHA256,
        other => return Err(format!("its signature is of the unknown version {other:?}")),
    };
    let signature = STANDARD
        .decode(&notification.signature)
        .map_err(|error| format!("its signature is no base64: {error}"))?;
    EndEntityCert::try_from(certificate)
        .and_then(|certificate| {
            certificate.verify_signature(algorithm, notification.signed().as_bytes(), &signature)
        })
        .map_err(|error| format!("SNS has not signed it: {error}"))
}

/// RSA with SHA-1, which topics sign with if nothing else is set, and which TLS has no more.
#[derive(Debug)]
struct RsaSha1;

static RSA_SHA1: RsaSha1 = RsaSha1;

impl SignatureVerificationAlgorithm for RsaSha1 {
    fn verify_signature(
        &self,
        public_key: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), InvalidSignature> {
        let algorithm = &ring::signature::RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY;
        ring::signature::UnparsedPublicKey::new(algorithm, public_key)
            .verify(message, signature)
            .map_err(|_| InvalidSignature)
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        alg_id::RSA_ENCRYPTION
    }

    /// Asked for where certificates are checked, which are never checked with it: none that there is.
    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        AlgorithmIdentifier::from_slice(&[])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notification() -> Notification {
        let body = serde_json::json!({
            "Type": "Notification", "MessageId": "m", "TopicArn": "arn:aws:sns:eu-central-1:1:t",
            "Message": "{\"a\":1}\n", "Timestamp": "2026-11-26T09:00:00.250Z", "SignatureVersion": "1",
            "Signature": "", "SigningCertURL": "https://sns.eu-central-1.amazonaws.com/x.pem",
            "MessageAttributes": {
                "n": { "Type": "Number", "Value": "7" }, "b": { "Type": "Binary", "Value": "AAE=" },
            },
        });
        Notification::read(body.to_string().as_bytes()).expect("it is one")
    }

    #[test]
    fn it_is_taken_out_of_its_envelope() {
        let read = notification();
        assert_eq!((read.message.as_str(), read.published_ms()), ("{\"a\":1}\n", Some(1_795_683_600_250)));
        let attributes: Vec<_> = read.attributes().collect();
        assert_eq!(attributes, [("b", "Binary", vec![0, 1]), ("n", "Number", b"7".to_vec())]);
        for body in
            [&b"[1]"[..], b"{\"Type\":\"Notification\"}", b"{\"Type\":\"SubscriptionConfirmation\"}", b""]
        {
            assert_eq!(Notification::read(body), None);
        }
    }

    #[test]
    fn what_is_signed_leaves_out_a_subject_that_is_not_there() {
        let mut read = notification();
        let text = "Message\n{\"a\":1}\n\nMessageId\nm\nTimestamp\n2026-11-26T09:00:00.250Z\n\
                    TopicArn\narn:aws:sns:eu-central-1:1:t\nType\nNotification\n";
        assert_eq!(read.signed(), text);
        read.subject = Some("s".to_owned());
        assert_eq!(read.signed(), text.replace("Timestamp", "Subject\ns\nTimestamp"));
    }

    #[test]
    fn certificates_come_from_sns_alone() {
        for host in ["sns.eu-central-1.amazonaws.com", "sns.cn-north-1.amazonaws.com.cn"] {
            assert!(is_host_of_sns(host), "{host}");
        }
        for host in [
            "sns.eu-central-1.amazonaws.com.example",
            "sns.evil.example/.amazonaws.com",
            "sns.a.b.amazonaws.com",
            "s3.eu-central-1.amazonaws.com",
            "sns.eu-central-1.amazonaws.com:444",
            "sns..amazonaws.com",
        ] {
            assert!(!is_host_of_sns(host), "{host}");
        }
    }
}
