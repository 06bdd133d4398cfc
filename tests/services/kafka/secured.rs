//! A broker that encrypts, asks who a client is in each way that Kafka has, and lets it do only what it
//! may.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::{KeyPair, PublicKeyData, SigningKey};
use serde_json::json;
use tempfile::TempDir;

use super::Kafka;
use super::broker::Plan;
use crate::services::certificates::{authority, certificate};

/// Signed in with PLAIN or SCRAM, clients are this user, with [`Secured::PASSWORD`].
const USER: &str = "orders";
const PASSWORD: &str = "an open secret";

/// A way in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// Encrypted. Everybody is `User:ANONYMOUS`.
    Tls,
    /// Encrypted, with a certificate of the client's. It is `User:CN=millstream`.
    MutualTls,
    /// Encrypted, with any of the mechanisms of SASL.
    SaslTls,
    /// Not encrypted, with any of the mechanisms of SASL.
    SaslPlaintext,
}

impl Way {
    /// The name of its listener, and that of its protocol.
    fn listener(self) -> (&'static str, &'static str) {
        match self {
            Way::Tls => ("TLS", "SSL"),
            Way::MutualTls => ("MTLS", "SSL"),
            Way::SaslTls => ("SASLTLS", "SASL_SSL"),
            Way::SaslPlaintext => ("SASLPLAIN", "SASL_PLAINTEXT"),
        }
    }
}

const WAYS: [Way; 4] = [Way::Tls, Way::MutualTls, Way::SaslTls, Way::SaslPlaintext];

/// Tests themselves come in through the listener that has no security, and there may do everything.
pub struct Secured {
    pub kafka: Kafka,
    /// Signs tokens.
    token_key: KeyPair,
    files: TempDir,
}

impl Secured {
    pub const USER: &str = USER;
    pub const PASSWORD: &str = PASSWORD;
    const ISSUER: &str = "https://issuer.example";
    const AUDIENCE: &str = "kafka";

    /// The one that the tests of a process share; it ends with the process.
    pub fn shared() -> &'static Secured {
        static SHARED: OnceLock<Secured> = OnceLock::new();
        SHARED.get_or_init(Secured::start)
    }

    /// One of the test's own.
    pub fn start() -> Secured {
        let files = tempfile::tempdir().expect("a folder for certificates");
        write_certificates(files.path());
        let token_key = KeyPair::generate().expect("a key of the curve P-256");
        let keys = files.path().join("jwks.json");
        std::fs::write(&keys, key_set(&token_key).to_string()).expect("the key of tokens can be written");

        let mut plan = Plan::new(1);
        plan.listeners = WAYS.iter().map(|way| way.listener()).collect();
        for (key, value) in properties(files.path(), &keys) {
            plan.properties.insert(key, value);
        }
        for mechanism in ["SCRAM-SHA-256", "SCRAM-SHA-512"] {
            plan.format.push("--add-scram".to_owned());
            plan.format.push(format!("{mechanism}=[name={USER},password={PASSWORD}]"));
        }
        plan.jvm.push(format!("-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls=file://{}", keys.display()));
        let kafka = Kafka::planned(plan);
        kafka.start_broker(0);
        kafka.wait_until_ready(1);
        Secured { kafka, token_key, files }
    }

    /// Where a way in is.
    pub fn address(&self, way: Way) -> String {
        self.kafka.brokers[0].address_of(way.listener().0)
    }

    /// `ca.pem`; `client.pem` and `client.key` of a client, `client-encrypted.key` the same with
    /// [`Secured::PASSWORD`]; `stranger-ca.pem`, `stranger.pem` and `stranger.key` of somebody whom the
    /// broker does not know.
    pub fn file(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    /// A token for OAUTHBEARER that the broker takes, of `User:subject`.
    pub fn token(&self, subject: &str, valid_s: i64) -> String {
        let now = jiff::Timestamp::now().as_second();
        let claims = json!({
            "iss": Secured::ISSUER, "aud": Secured::AUDIENCE, "sub": subject,
            "iat": now, "exp": now + valid_s, "scope": "kafka",
        });
        let part = |value: serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed =
            format!("{}.{}", part(json!({ "alg": "ES256", "kid": "test", "typ": "JWT" })), part(claims));
        let signature = self.token_key.sign(signed.as_bytes()).expect("it signs");
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(raw_signature(&signature)))
    }

    /// Adds or removes rules of who may do what, with the arguments of `kafka-acls`. What has no rule is
    /// allowed to all; what has one, only to those whom one allows it.
    pub fn acl(&self, arguments: &[&str]) {
        let arguments = [&["--force"], arguments].concat();
        self.kafka.tool("org.apache.kafka.tools.AclCommand", &arguments, "");
    }
}

fn properties(files: &Path, keys: &Path) -> Vec<(String, String)> {
    let file = |name: &str| files.join(name).display().to_string();
    let mut properties = vec![
        ("ssl.keystore.type", "PEM".to_owned()),
        ("ssl.keystore.location", file("broker.pem")),
        ("ssl.truststore.type", "PEM".to_owned()),
        ("ssl.truststore.location", file("ca.pem")),
        ("listener.name.mtls.ssl.client.auth", "required".to_owned()),
        ("sasl.enabled.mechanisms", "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER".to_owned()),
        ("authorizer.class.name", "org.apache.kafka.metadata.authorizer.StandardAuthorizer".to_owned()),
        ("super.users", "User:ANONYMOUS".to_owned()),
        ("allow.everyone.if.no.acl.found", "true".to_owned()),
    ];
    let mut add = |key: String, value: String| properties.push((key.leak(), value));
    for way in [Way::SaslTls, Way::SaslPlaintext] {
        let of = format!("listener.name.{}", way.listener().0.to_lowercase());
        let module = "org.apache.kafka.common.security";
        let plain = format!("{module}.plain.PlainLoginModule required user_{USER}='{PASSWORD}';");
        add(format!("{of}.plain.sasl.jaas.config"), plain);
        for mechanism in ["scram-sha-256", "scram-sha-512"] {
            let scram = format!("{module}.scram.ScramLoginModule required;");
            add(format!("{of}.{mechanism}.sasl.jaas.config"), scram);
        }
        let of = format!("{of}.oauthbearer");
        let handler = format!("{module}.oauthbearer.OAuthBearerValidatorCallbackHandler");
        let login = format!("{module}.oauthbearer.OAuthBearerLoginModule required;");
        add(format!("{of}.sasl.jaas.config"), login);
        add(format!("{of}.sasl.server.callback.handler.class"), handler);
        add(format!("{of}.sasl.oauthbearer.jwks.endpoint.url"), format!("file://{}", keys.display()));
        add(format!("{of}.sasl.oauthbearer.expected.issuer"), Secured::ISSUER.to_owned());
        add(format!("{of}.sasl.oauthbearer.expected.audience"), Secured::AUDIENCE.to_owned());
    }
    properties.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

fn write_certificates(files: &Path) {
    let write = |name: &str, text: &str| std::fs::write(files.join(name), text).expect("it can be written");
    for (prefix, own) in [("", true), ("stranger-", false)] {
        let authority = authority(&format!("{prefix}authority"));
        write(&format!("{prefix}ca.pem"), &authority.pem());
        let (pem, key) = certificate("millstream", &authority);
        let name = if own { "client" } else { "stranger" };
        write(&format!("{name}.pem"), &pem);
        write(&format!("{name}.key"), &key);
        if own {
            let (pem, key) = certificate("broker", &authority);
            write("broker.pem", &(key + &pem));
        }
    }
    let encrypted = std::process::Command::new("openssl")
        .args(["pkcs8", "-topk8", "-v2", "aes-256-cbc", "-in"])
        .arg(files.join("client.key"))
        .arg("-out")
        .arg(files.join("client-encrypted.key"))
        .args(["-passout", &format!("pass:{PASSWORD}")])
        .output()
        .expect("this test needs the command openssl: apt-get install openssl");
    assert!(encrypted.status.success(), "{}", String::from_utf8_lossy(&encrypted.stderr));
}

/// The public key as RFC 7517 and RFC 7518, section 6.2.1, have it.
fn key_set(key: &KeyPair) -> serde_json::Value {
    // An uncompressed point: 4, and twice 32 bytes.
    let point = key.der_bytes();
    assert_eq!((point[0], point.len()), (4, 65), "a point of P-256");
    let (x, y) = (URL_SAFE_NO_PAD.encode(&point[1..33]), URL_SAFE_NO_PAD.encode(&point[33..]));
    json!({ "keys": [{ "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": "test", "x": x, "y": y }] })
}

/// The two numbers of a DER signature, 32 bytes each (RFC 7518, section 3.4).
fn raw_signature(der: &[u8]) -> Vec<u8> {
    let mut raw = Vec::new();
    // A sequence of two integers, all shorter than 128 bytes.
    let mut rest = &der[2..];
    while let [2, length, after @ ..] = rest {
        let (number, next) = after.split_at(usize::from(*length));
        let number = number.strip_prefix(&[0]).unwrap_or(number);
        raw.resize(raw.len() + 32 - number.len(), 0);
        raw.extend_from_slice(number);
        rest = next;
    }
    raw
}
