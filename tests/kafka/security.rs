//! Source and sink against a broker that requires TLS, certificates, passwords or tokens.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::{Copy, Member};
use crate::services::kafka::{Record, Secured, Way};

const MESSAGES: i64 = 50;

/// A pipeline that goes in by one way, with these keys in the sections `security` of source and sink.
fn copy(secured: &Secured, way: Way, security: &str, to: &str) -> Copy {
    let kafka = &secured.kafka;
    let (from, to) = (kafka.topic("secured", 2), kafka.topic(to, 2));
    kafka.produce(&from, (0..MESSAGES).map(|n| Record::new(&n.to_string(), "x")));
    let mut copy = Copy::new(kafka, &from, &to);
    copy.brokers = format!("brokers = [\"{}\"]", secured.address(way));
    let of = |section: &str| security.replace("[security", &format!("[{section}.security"));
    (copy.source, copy.sink) = (of("source"), of("sink"));
    copy
}

/// What topics begin with that only this user may write. Without a user, everybody may.
fn topics_of(user: Option<&str>) -> String {
    static RULES: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let Some(user) = user else { return "everybody".to_owned() };
    let prefix = format!("only-{}", user.trim_start_matches("CN="));
    if RULES.lock().expect("no panic").insert(user.to_owned()) {
        let principal = format!("User:{user}");
        let rule = ["--add", "--allow-principal", &principal, "--topic", &prefix];
        let operations =
            ["--operation", "Write", "--operation", "Describe", "--operation", "DescribeConfigs"];
        Secured::shared().acl(&[&rule, &operations[..], &["--resource-pattern-type", "prefixed"]].concat());
    }
    prefix
}

/// Everything arrives, written by this user.
fn assert_goes_through(way: Way, security: &str, user: Option<&str>) {
    let secured = Secured::shared();
    let copy = copy(secured, way, security, &topics_of(user));
    let mut member = Member::start(&copy);
    member.wait_for_messages(&secured.kafka, &copy.to, MESSAGES);
    assert_eq!(secured.kafka.count(&copy.to), MESSAGES);
    assert!(member.stop().dead_letters().is_empty());
}

/// Nobody is let in: the source waits, and says so.
fn assert_waits(way: Way, security: &str, why: &str) {
    let secured = Secured::shared();
    let copy = copy(secured, way, security, "nobody");
    let mut member = Member::start(&copy);
    member.wait_until_ready(false, why);
    assert_eq!(secured.kafka.count(&copy.to), 0);
    assert!(member.stop().dead_letters().is_empty());
}

/// Keys of TLS: whom to trust, and our own certificate and key.
fn tls(ca: &str, own: Option<(&str, &str)>) -> String {
    let file = |name: &str| Secured::shared().file(name).display().to_string();
    let own = own.map_or_else(String::new, |(certificate, key)| {
        format!("cert_file = {:?}\nkey_file = {:?}\n", file(certificate), file(key))
    });
    format!("[security.tls]\nca_file = {:?}\n{own}", file(ca))
}

fn password(mechanism: &str, password: &str) -> String {
    let user = Secured::USER;
    format!(
        "[security.sasl]\nmechanism = \"{mechanism}\"\nusername = \"{user}\"\npassword = \"{password}\"\n"
    )
}

#[test]
fn tls_goes_through_and_a_broker_that_is_not_trusted_is_not_spoken_to() {
    assert_goes_through(Way::Tls, &tls("ca.pem", None), None);
    assert_waits(Way::Tls, &tls("stranger-ca.pem", None), "certificate");
}

#[test]
fn mutual_tls_goes_through_and_a_certificate_of_a_stranger_does_not() {
    let client = ("client.pem", "client.key");
    assert_goes_through(Way::MutualTls, &tls("ca.pem", Some(client)), Some("CN=millstream"));
    let encrypted = tls("ca.pem", Some(("client.pem", "client-encrypted.key")));
    let encrypted = format!("{encrypted}key_password = \"{}\"\n", Secured::PASSWORD);
    assert_goes_through(Way::MutualTls, &encrypted, Some("CN=millstream"));
    let stranger = ("stranger.pem", "stranger.key");
    assert_waits(Way::MutualTls, &tls("ca.pem", Some(stranger)), "");
}

#[test]
fn passwords_go_through_by_each_mechanism_and_a_wrong_one_does_not() {
    for mechanism in ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] {
        let security = tls("ca.pem", None) + &password(mechanism, Secured::PASSWORD);
        assert_goes_through(Way::SaslTls, &security, Some(Secured::USER));
    }
    let in_the_clear = "[security]\nprotocol = \"sasl-plaintext\"\n".to_owned()
        + &password("SCRAM-SHA-512", Secured::PASSWORD);
    assert_goes_through(Way::SaslPlaintext, &in_the_clear, Some(Secured::USER));
    assert_waits(Way::SaslTls, &(tls("ca.pem", None) + &password("PLAIN", "wrong")), "uthentication");
}

/// Gives tokens to a client that shows its secret (RFC 6749, section 4.4); how many it gave is counted.
async fn token(State(given): State<Arc<AtomicU64>>, headers: HeaderMap) -> Result<String, StatusCode> {
    let expected = format!("Basic {}", STANDARD.encode("orders-client:its secret"));
    if headers.get("authorization").is_none_or(|shown| shown.as_bytes() != expected.as_bytes()) {
        return Err(StatusCode::UNAUTHORIZED);
    }
    given.fetch_add(1, Ordering::Relaxed);
    let token = Secured::shared().token("orders-service", 5);
    Ok(json!({ "access_token": token, "token_type": "Bearer", "expires_in": 5 }).to_string())
}

#[test]
fn tokens_go_through_and_are_renewed_and_without_one_nobody_comes_in() {
    let given = Arc::new(AtomicU64::new(0));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.expect("a runtime");
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).expect("a port");
    let url = format!("http://{}/token", listener.local_addr().expect("an address"));
    let server = Router::new().route("/token", post(token)).with_state(Arc::clone(&given));
    runtime.spawn(async move { axum::serve(listener, server).await });
    let with_secret = |secret: &str| {
        tls("ca.pem", None)
            + &format!(
                "[security.sasl]\nmechanism = \"OAUTHBEARER\"\ntoken_url = \"{url}\"\n\
                 client_id = \"orders-client\"\nclient_secret = \"{secret}\"\n"
            )
    };
    let secured = Secured::shared();
    let copy = copy(secured, Way::SaslTls, &with_secret("its secret"), &topics_of(Some("orders-service")));
    let mut member = Member::start(&copy);
    member.wait_for_messages(&secured.kafka, &copy.to, MESSAGES);
    let before = given.load(Ordering::Relaxed);
    member.wait_for("tokens are renewed", || given.load(Ordering::Relaxed) >= before + 2);
    secured.kafka.produce(&copy.from, (0..MESSAGES).map(|n| Record::new(&n.to_string(), "x")));
    member.wait_for_messages(&secured.kafka, &copy.to, 2 * MESSAGES);
    assert!(member.stop().dead_letters().is_empty());
    assert_waits(Way::SaslTls, &with_secret("another"), "401");
}
