use millstream_sdk::testing::{Harness, Outcome, Record, check_fixtures};
use serde_json::{Value, json};

use super::*;

/// Payload, secret and signature of the example in GitHub's documentation, "Validating webhook
/// deliveries".
const PAYLOAD: &str = "Hello, World!";
const SECRET: &str = "It's a Secret to Everybody";
const SIGNATURE: &str = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";

fn github(config: Value) -> Harness {
    let mut all = json!({ "header": "X-Hub-Signature-256", "prefix": "sha256=" });
    all.as_object_mut().unwrap().extend(config.as_object().unwrap().clone());
    Harness::new::<VerifySignature, _>(all).unwrap()
}

fn signed(signature: &str) -> Record {
    Record::text(PAYLOAD).header("x-hub-signature-256", signature)
}

fn error(config: Value) -> ConfigError {
    match Harness::new::<VerifySignature, _>(config) {
        Ok(_) => panic!("the configuration was taken"),
        Err(error) => error,
    }
}

#[test]
fn the_example_of_github_is_valid() {
    let mut plugin = github(json!({ "secret": SECRET }));
    assert_eq!(plugin.run_one(signed(SIGNATURE)), Outcome::Pass);
    assert_eq!(plugin.run_one(signed(&SIGNATURE.to_uppercase().replace("SHA", "sha"))), Outcome::Pass);
}

#[test]
fn a_changed_payload_signature_or_secret_is_a_mismatch() {
    let mut plugin = github(json!({ "secret": SECRET }));
    let changed = Record::text("Hello, World?").header("X-Hub-Signature-256", SIGNATURE);
    assert_eq!(plugin.run_one(changed).code(), Some("signature-mismatch"));
    let other = SIGNATURE.replace("757107", "757108");
    assert_eq!(plugin.run_one(signed(&other)).code(), Some("signature-mismatch"));
    let mut plugin = github(json!({ "secret": "another" }));
    assert_eq!(plugin.run_one(signed(SIGNATURE)).code(), Some("signature-mismatch"));
}

#[test]
fn a_missing_or_malformed_signature_has_a_code_of_its_own() {
    let mut plugin = github(json!({ "secret": SECRET }));
    assert_eq!(plugin.run_one(Record::text(PAYLOAD)).code(), Some("signature-missing"));
    for malformed in
        ["", "sha256=", "sha1=757107ea", &SIGNATURE[7..], &SIGNATURE[..70], &format!("{SIGNATURE}00")]
    {
        assert_eq!(plugin.run_one(signed(malformed)).code(), Some("signature-malformed"), "{malformed}");
    }
}

#[test]
fn any_of_several_secrets_is_good() {
    let mut plugin = github(json!({ "secrets": ["new", SECRET] }));
    assert_eq!(plugin.run_one(signed(SIGNATURE)), Outcome::Pass);
    let mut plugin = github(json!({ "secret": "new", "secrets": [SECRET] }));
    assert_eq!(plugin.run_one(signed(SIGNATURE)), Outcome::Pass);
}

#[test]
fn a_signature_may_be_base64() {
    let config = json!({ "header": "signature", "secret": SECRET, "encoding": "base64" });
    let mut plugin = Harness::new::<VerifySignature, _>(config).unwrap();
    let mut run = |signature: &str| plugin.run_one(Record::text(PAYLOAD).header("Signature", signature));
    assert_eq!(run("dXEH6g6yUJ/CESIczphLijdXC211hsIsRvQ3nIsEPhc="), Outcome::Pass);
    assert_eq!(run("dXEH6g6yUJ/CESIczphLijdXC211hsIsRvQ3nIsEPhd=").code(), Some("signature-malformed"));
    assert_eq!(run("eXEH6g6yUJ/CESIczphLijdXC211hsIsRvQ3nIsEPhc=").code(), Some("signature-mismatch"));
    assert_eq!(run("dXEH").code(), Some("signature-malformed"));
}

#[test]
fn a_null_payload_is_signed_as_an_empty_one() {
    // HMAC-SHA-256 of nothing, by `openssl dgst -sha256 -hmac key`.
    let signature = "5d5d139563c95b5967b9bd9a8c9b233a9dedb45072794cd232dc1b74832607d0";
    let config = json!({ "header": "signature", "secret": "key" });
    let mut plugin = Harness::new::<VerifySignature, _>(config).unwrap();
    assert_eq!(plugin.run_one(Record::null().header("signature", signature)), Outcome::Pass);
    assert_eq!(plugin.run_one(Record::text("").header("signature", signature)), Outcome::Pass);
}

#[test]
fn a_bad_configuration_names_the_field() {
    assert_eq!(error(json!({ "header": "h" })).field, "/secret");
    assert_eq!(error(json!({ "secret": "s" })).field, "/header");
    assert_eq!(error(json!({ "header": "", "secret": "s" })).field, "/header");
    assert_eq!(error(json!({ "header": "h", "secret": "" })).field, "/secret");
    assert_eq!(error(json!({ "header": "h", "secrets": ["a", ""] })).field, "/secrets/1");
    assert_eq!(error(json!({ "header": "h", "secret": "s", "encoding": "hexx" })).field, "/encoding");
    assert_eq!(error(json!({ "header": "h", "sekret": "s" })).field, "/sekret");
}

#[test]
fn the_secret_is_in_no_error_and_no_reason() {
    let secret = "hunter2";
    for config in [
        json!({ "header": "h", "secret": [secret] }),
        json!({ "header": "h", "secrets": secret }),
        json!({ "header": "h", "secret": secret, "x": 1 }),
        json!({ "header": ["h"], "secret": secret }),
    ] {
        let error = error(config);
        assert!(!format!("{error:?} {error}").contains(secret), "{error:?}");
    }
    let mut plugin = github(json!({ "secret": secret }));
    for record in [Record::text(PAYLOAD), signed(SIGNATURE), signed("sha256=")] {
        let outcome = plugin.run_one(record);
        assert!(outcome.code().is_some());
        assert!(!format!("{outcome:?}").contains(secret), "{outcome:?}");
    }
}

#[test]
fn the_example_does_what_the_fixtures_say() {
    let folder = env!("CARGO_MANIFEST_DIR");
    check_fixtures(folder, || {
        Harness::of_example::<VerifySignature, _>(folder, &[("WEBHOOK_SECRET", SECRET)])
    });
}
