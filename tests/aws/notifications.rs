//! Notifications of SNS in a queue: taken out of their envelope, their signature checked.

use std::net::TcpListener;
use std::process::Command;

use axum_server::tls_rustls::RustlsConfig;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::{Value, json};

use super::around::FromQueue;
use super::queues::Queue;
use super::sinks::{pipeline, run_to_end, unique};
use crate::services::aws::{StandIn, python};
use crate::support::Folder;

const TOPIC: &str = "arn:aws:sns:eu-central-1:123456789012:orders";

#[test]
fn an_envelope_is_taken_off_and_raw_messages_pass() {
    for stand_in in [StandIn::fauxqs(), StandIn::moto()] {
        let queue = Queue::standard(stand_in);
        let setup = "sns = client('sns')\n\
                     arn = sns.create_topic(Name=sys.argv[1])['TopicArn']\n\
                     sns.subscribe(TopicArn=arn, Protocol='sqs', Endpoint=sys.argv[2])\n\
                     print(arn)";
        let topic = python(stand_in, setup, &[&unique("topic"), &queue.arn()]).trim().to_owned();
        let of = FromQueue::of(stand_in, queue, "sns = {}");
        // What we publish, with what a filter could choose by; and one that does not come from SNS.
        let folder = Folder::new();
        let records =
            json!({ "payload": "{\"n\":1}", "headers": { "kind": "a", "price": "7.5" } }).to_string() + "\n";
        let sink = format!(
            "type = \"sns\"\ntopic = \"{topic}\"\nsubject = \"an order\"\nattribute_types = {{ price = \"Number\" }}\n{}",
            stand_in.toml()
        );
        run_to_end(&folder, &pipeline(&folder, &records, &sink));
        let send = "client('sqs').send_message(QueueUrl=sys.argv[1], MessageBody='{\"raw\": true}')";
        python(stand_in, send, &[&of.queue.url]);
        let (records, _) = of.run(2, 0);
        let find = |part: &str| {
            let is_it = |record: &&Value| record["payload"].as_str().is_some_and(|text| text.contains(part));
            records.iter().find(is_it).unwrap_or_else(|| panic!("no {part:?} in {records:?}"))
        };
        find("raw");
        let published = find("\"n\":1");
        assert_eq!(published["payload"], "{\"n\":1}");
        let headers = &published["headers"];
        for (name, value) in [
            ("kind", "a"),
            ("price", "7.5"),
            ("millstream-sqs-type-price", "Number"),
            ("sns-subject", "an order"),
        ] {
            assert_eq!(headers[name], value, "{headers}");
        }
        assert_eq!(headers["sns-topic-arn"], topic);
    }
}

/// What signs as SNS does, by openssl, and gives out its certificate over TLS.
struct Signer {
    folder: Folder,
    /// Of the server of the certificate.
    host: String,
}

impl Signer {
    fn start() -> Signer {
        let folder = Folder::new();
        openssl(
            &folder,
            &[
                "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "key.pem", "-out", "cert.pem",
                "-subj", "/CN=sns",
            ],
        );
        let key = || KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, key()).expect("a certificate");
        folder.write("ca.pem", &authority.pem());
        let server_key = key();
        let names = vec!["127.0.0.1".to_owned()];
        let signed = CertificateParams::new(names).expect("a name").signed_by(&server_key, &authority);
        let chain = signed.expect("a certificate").pem();

        millstream::tls::install_provider();
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("it can be");
        let host = listener.local_addr().expect("it listens").to_string();
        let cert = std::fs::read_to_string(folder.path("cert.pem")).expect("a certificate");
        std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let tls = RustlsConfig::from_pem(chain.into(), server_key.serialize_pem().into());
                let tls = tls.await.expect("TLS");
                let app = axum::Router::new().fallback(move || async move { cert });
                let server = axum_server::from_tcp_rustls(listener, tls).expect("a server");
                server.serve(app.into_make_service()).await.expect("it serves");
            });
        });
        Signer { folder, host }
    }

    fn notification(&self, version: &str, message: &str) -> Value {
        let mut body = json!({
            "Type": "Notification", "MessageId": unique("m"), "TopicArn": TOPIC, "Subject": "s",
            "Message": message, "Timestamp": "2026-01-31T12:00:00.000Z", "SignatureVersion": version,
            "SigningCertURL": format!("https://{}/SimpleNotificationService.pem", self.host),
        });
        let text: String = ["Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type"]
            .iter()
            .map(|name| format!("{name}\n{}\n", body[name].as_str().expect("a text")))
            .collect();
        self.folder.write("text", &text);
        let hash = if version == "1" { "-sha1" } else { "-sha256" };
        openssl(&self.folder, &["dgst", hash, "-sign", "key.pem", "-out", "signature", "text"]);
        openssl(&self.folder, &["base64", "-A", "-in", "signature", "-out", "base64"]);
        let signature = std::fs::read_to_string(self.folder.path("base64")).expect("a signature");
        body["Signature"] = signature.trim().into();
        body
    }
}

fn openssl(folder: &Folder, arguments: &[&str]) {
    let done = Command::new("openssl").args(arguments).current_dir(folder.path("")).output();
    let done = done.expect("this test needs openssl: apt-get install openssl");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

#[test]
fn with_verify_only_what_sns_has_signed_for_our_topics_passes() {
    let (stand_in, signer) = (StandIn::fauxqs(), Signer::start());
    let keys = format!(
        "[source.sns]\nverify = true\ntopics = [\"{TOPIC}\"]\ncertificate_host = \"{}\"\nca_file = \"ca.pem\"",
        signer.host
    );
    let of = FromQueue::new(stand_in, &keys);
    std::fs::copy(signer.folder.path("ca.pem"), of.folder.path("ca.pem")).expect("a copy");
    let good = [signer.notification("1", "one"), signer.notification("2", "two\n{\"a\": \"ü\"}")];
    let changed = |name: &str, value: &str| {
        let mut body = signer.notification("2", "bad");
        body[name] = value.into();
        body
    };
    let bad = [
        (changed("Message", "other"), "has not signed it"),
        (changed("TopicArn", "arn:aws:sns:eu-central-1:123456789012:others"), "not among `topics`"),
        (changed("SigningCertURL", "https://127.0.0.1:1/x.pem"), "none of SNS"),
        (changed("SignatureVersion", "3"), "unknown version"),
        (json!({ "raw": true }), "no notification"),
    ];
    let bodies: Vec<String> =
        good.iter().chain(bad.iter().map(|(body, _)| body)).map(Value::to_string).collect();
    let send = "for body in json.loads(sys.argv[2]): client('sqs').send_message(QueueUrl=sys.argv[1], MessageBody=body)";
    python(stand_in, send, &[&of.queue.url, &json!(bodies).to_string()]);
    let (records, letters) = of.run(2, bad.len());
    let mut messages: Vec<&str> = records.iter().filter_map(|record| record["payload"].as_str()).collect();
    messages.sort_unstable();
    assert_eq!(messages, ["one", "two\n{\"a\": \"ü\"}"]);
    for (body, reason) in &bad {
        let is_it = |letter: &&Value| letter["reason"].as_str().is_some_and(|text| text.contains(reason));
        let letter = letters.iter().find(is_it).unwrap_or_else(|| panic!("no {reason:?} in {letters:?}"));
        assert_eq!(
            (&letter["code"], &letter["payload"]),
            (&json!("sns-signature"), &json!(body.to_string()))
        );
    }
}
