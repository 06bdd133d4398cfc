//! Against a real registry.

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use axum::http::header::AUTHORIZATION;
use axum::response::IntoResponse;
use millstream_registry::cache::{Cache, Keep};
use millstream_registry::registry::{Authentication, Settings};
use millstream_registry::schema::{Dependency, Kind, Level, Reference, Schema, Version};
use millstream_registry::{Error, SubjectNames};

use crate::front::{self, Front, client, registry, registry_with, settings};
use crate::services::registry::SchemaRegistry;

const ORDER: &str =
    r#"{"type":"record","name":"Order","namespace":"shop","fields":[{"name":"id","type":"string"}]}"#;

fn avro(text: &str) -> Schema {
    Schema::new(Kind::Avro, text)
}

fn referring(kind: Kind, text: &str, references: &[(&str, &str)]) -> Schema {
    let reference = |&(name, subject): &(&str, &str)| Reference {
        name: name.to_owned(),
        subject: subject.to_owned(),
        version: 1,
    };
    Schema { references: references.iter().map(reference).collect(), ..Schema::new(kind, text) }
}

fn dependency(name: &str, text: &str) -> Dependency {
    Dependency { name: name.to_owned(), text: text.to_owned() }
}

/// What only an administrator does.
pub async fn demand(url: &str, subject: &str, level: &str) {
    let body = format!("{{\"compatibility\": {level:?}}}");
    let request = client().put(format!("{url}/config/{subject}")).header("content-type", "application/json");
    assert!(request.body(body).send().await.unwrap().status().is_success());
}

/// The shared one, started where no runtime is in the way of what it waits for.
pub async fn shared() -> String {
    tokio::task::spawn_blocking(|| SchemaRegistry::shared().url()).await.unwrap()
}

#[tokio::test]
async fn a_schema_is_registered_and_found_by_id_and_by_subject() {
    let registry = registry(&shared().await);
    let texts = [
        (Kind::Avro, ORDER.replace("Order", "Found")),
        (Kind::Protobuf, "syntax = \"proto3\";\nmessage Found { string id = 1; }\n".to_owned()),
        (Kind::Json, r#"{"title":"Found","type":"object","properties":{"id":{}}}"#.to_owned()),
    ];
    for (kind, text) in texts {
        let schema = Schema::new(kind, text);
        // A name with what has a meaning in a url.
        let subject = SubjectNames::Topic.subject(&format!("a/b c%2F?#{kind}"), "");
        let id = registry.register(&subject, &schema).await.unwrap();
        assert_eq!(registry.register(&subject, &schema).await.unwrap(), id, "it is there already");
        assert_eq!(registry.schema(id).await.unwrap(), schema);
        for version in [Version::Latest, Version::Number(1)] {
            let found = registry.version(&subject, version).await.unwrap();
            assert_eq!((found.id, found.version, &found.subject, &found.schema), (id, 1, &subject, &schema));
        }
        let found = registry.find(&subject, &schema).await.unwrap();
        assert_eq!((found.id, found.version, &found.schema), (id, 1, &schema));
    }
}

#[tokio::test]
async fn what_is_not_there_is_told_apart_from_a_wrong_url() {
    let url = shared().await;
    let registry = registry(&url);
    registry.register("there", &avro(ORDER)).await.unwrap();
    let code = |error: Error| match error {
        Error::NotFound { code, .. } => code,
        other => panic!("{other}"),
    };
    assert_eq!(code(registry.schema(4_000_000).await.unwrap_err()), 40403);
    assert_eq!(code(registry.schema(u32::MAX).await.unwrap_err()), 40403);
    assert_eq!(code(registry.version("nowhere", Version::Latest).await.unwrap_err()), 40401);
    assert_eq!(code(registry.version("there", Version::Number(9)).await.unwrap_err()), 40402);
    assert_eq!(code(registry.find("there", &avro("\"string\"")).await.unwrap_err()), 40403);
    assert_eq!(code(registry.find("nowhere", &avro(ORDER)).await.unwrap_err()), 40401);
    let told = registry.schema(4_000_000).await.unwrap_err().to_string();
    assert!(told.starts_with(&format!("schema 4000000 is not in the registry {url}: ")), "{told}");

    let wrong = url.replace("/ccompat/v7", "/no/such/api");
    let error = front::registry(&wrong).schema(1).await.unwrap_err();
    assert!(matches!(error, Error::Invalid { .. }), "{error}");
    assert!(error.to_string().contains("is the url right?"), "{error}");
}

#[tokio::test]
async fn what_is_incompatible_or_no_schema_is_refused_with_the_reason() {
    let url = shared().await;
    let registry = registry(&url);
    let subject = "evolves-value";
    let more = ORDER.replace("}]", "},{\"name\":\"amount\",\"type\":\"int\"}]");
    registry.register(subject, &avro(ORDER)).await.unwrap();
    assert_eq!(registry.level(subject).await.unwrap(), Level::None);
    demand(&url, subject, "BACKWARD_TRANSITIVE").await;
    assert_eq!(registry.level(subject).await.unwrap(), Level::BackwardTransitive);

    let judge =
        async |text: &str| registry.compatibility(subject, Version::Latest, &avro(text)).await.unwrap();
    assert!(!judge(&more).await.compatible);
    assert!(judge(&more.replace("\"int\"", "\"int\",\"default\":0")).await.compatible);
    let refused = registry.register(subject, &avro(&more)).await.unwrap_err();
    assert!(matches!(refused, Error::Rejected { code: 409, .. }), "{refused}");
    assert!(refused.to_string().contains("amount at /fields/1"), "{refused}");
    assert!(refused.is_of_the_schema());

    let refused = registry.register("broken", &avro("{nope")).await.unwrap_err();
    assert!(matches!(refused, Error::Rejected { code: 42201, .. }), "{refused}");
}

#[tokio::test]
async fn references_come_with_what_they_refer_to_each_once_and_first() {
    let registry = registry(&shared().await);
    let money = r#"{"type":"fixed","name":"Money","namespace":"ref","size":8}"#;
    let line =
        r#"{"type":"record","name":"Line","namespace":"ref","fields":[{"name":"m","type":"ref.Money"}]}"#;
    let doc = "long ".repeat(200);
    let bill = &format!(
        r#"{{"type":"record","name":"Bill","namespace":"ref","doc":"{doc}","fields":[{{"name":"l","type":"ref.Line"}},{{"name":"m","type":"ref.Money"}}]}}"#
    );
    registry.register("ref-money", &avro(money)).await.unwrap();
    let line_refers = [("ref.Money", "ref-money")];
    registry.register("ref-line", &referring(Kind::Avro, line, &line_refers)).await.unwrap();
    let bill_refers = [("ref.Line", "ref-line"), ("ref.Money", "ref-money")];
    let id = registry.register("ref-bill", &referring(Kind::Avro, bill, &bill_refers)).await.unwrap();

    let schema = registry.schema(id).await.unwrap();
    let resolved = registry.resolve("the bill", schema.clone()).await.unwrap();
    assert_eq!(&resolved.schema.text, bill);
    assert_eq!(resolved.dependencies, [dependency("ref.Money", money), dependency("ref.Line", line)]);

    let refusing = |settings| registry_with(&SchemaRegistry::shared().url(), &Authentication::None, settings);
    for (settings, reason) in [
        (Settings { max_references: 1, ..settings() }, "it refers to more than 1 schemas"),
        (Settings { max_reference_depth: 1, ..settings() }, "its references go on for more than 1 steps"),
        (Settings { max_answer_bytes: 1000, ..settings() }, "with all that it refers to it has more than"),
    ] {
        let error = refusing(settings).resolve("the bill", schema.clone()).await.unwrap_err();
        assert!(error.to_string().starts_with(&format!("the bill cannot be used: {reason}")), "{error}");
    }
}

#[tokio::test]
async fn imports_of_protocol_buffers_are_references() {
    let registry = registry(&shared().await);
    let money = "syntax = \"proto3\";\npackage ref;\nmessage Money { int64 cents = 1; }\n";
    let bill =
        "syntax = \"proto3\";\npackage ref;\nimport \"ref/money.proto\";\nmessage Bill { Money all = 1; }\n";
    registry.register("ref/money.proto", &Schema::new(Kind::Protobuf, money)).await.unwrap();
    let schema = referring(Kind::Protobuf, bill, &[("ref/money.proto", "ref/money.proto")]);
    let id = registry.register("bill-value", &schema).await.unwrap();
    let resolved = registry.resolve("the bill", registry.schema(id).await.unwrap()).await.unwrap();
    assert_eq!(resolved.schema, schema);
    assert_eq!(resolved.dependencies, [dependency("ref/money.proto", money)]);
}

#[tokio::test]
async fn credentials_are_sent_and_never_told() {
    const PASSWORD: &str = "cGFzc3dvcmQ-secret";
    let wanted = ["Basic bWlsbDpjR0Z6YzNkdmNtUS1zZWNyZXQ=", "Bearer cGFzc3dvcmQ-secret"];
    let front = Front::before(shared().await, move |request| {
        let given = request.headers().get(AUTHORIZATION).map(|value| value.to_str().unwrap().to_owned());
        if given.as_ref().is_some_and(|given| wanted.contains(&given.as_str())) {
            return None;
        }
        // As badly as a server may.
        let told = format!(r#"{{"error_code":40101,"message":"not {}"}}"#, given.unwrap_or_default());
        Some((StatusCode::UNAUTHORIZED, told).into_response())
    });
    let ask = async |authentication: &Authentication| {
        registry_with(&front.url(), authentication, settings()).schema(4_000_000).await.unwrap_err()
    };
    let basic = |password: &str| Authentication::Basic { user: "mill".into(), password: password.into() };
    for right in [basic(PASSWORD), Authentication::Bearer(PASSWORD.into())] {
        let error = ask(&right).await;
        assert!(matches!(error, Error::NotFound { .. }), "{error}");
        assert!(!format!("{right:?}").contains(PASSWORD), "{right:?}");
    }
    for wrong in [Authentication::None, basic("other-secret"), Authentication::Bearer("other-secret".into())]
    {
        let error = ask(&wrong).await;
        assert!(matches!(error, Error::Refused { .. }) && !error.is_of_the_schema(), "{error}");
        for secret in ["other-secret", "bWlsbDpvdGhlci1zZWNyZXQ="] {
            assert!(!error.to_string().contains(secret) && !format!("{error:?}").contains(secret), "{error}");
        }
    }
}

/// Down before anything is known; then there; then away with what is known and what is not; then
/// connected to and silent; then back.
#[tokio::test(flavor = "multi_thread")]
async fn a_registry_may_be_away_at_any_time() {
    let server = SchemaRegistry::prepared();
    let settings = Settings { timeout: Duration::from_secs(2), ..Settings::default() };
    let registry = Arc::new(registry_with(&server.url(), &Authentication::None, settings));
    let keep =
        Keep { subject: Duration::ZERO, away: Duration::ZERO, missing: Duration::ZERO, ..Keep::default() };
    let cache = Cache::new(Arc::clone(&registry), keep, |resolved| Ok(resolved.schema.text.clone()));
    let unavailable = |error: Error| assert!(matches!(error, Error::Unavailable { .. }), "{error}");
    unavailable(cache.fetch(1).await.unwrap_err());
    unavailable(cache.latest("orders-value").await.unwrap_err());

    let run = async |mut server: SchemaRegistry| {
        let running = move || {
            server.run();
            server
        };
        tokio::task::spawn_blocking(running).await.unwrap()
    };
    let mut server = run(server).await;
    // The first request of a registry that has just begun may take longer than the others.
    let id = loop {
        match registry.register("orders-value", &avro(ORDER)).await {
            Ok(id) => break id,
            Err(error) => unavailable(error),
        }
    };
    let fetched = cache.fetch(id).await.unwrap();
    assert_eq!(*fetched, ORDER);
    assert_eq!(cache.latest("orders-value").await.unwrap().stale, None);

    server.pause();
    assert!(Arc::ptr_eq(&cache.fetch(id).await.unwrap(), &fetched));
    let silent = cache.fetch(id + 1).await.unwrap_err();
    assert!(silent.to_string().ends_with(": no answer in time"), "{silent}");
    server.resume();
    server.kill();
    assert!(Arc::ptr_eq(&cache.get(id).unwrap(), &fetched));
    unavailable(cache.fetch(id + 1).await.unwrap_err());
    let latest = cache.latest("orders-value").await.unwrap();
    assert_eq!((latest.id, latest.version), (id, 1));
    unavailable(latest.stale.unwrap());

    let server = run(server).await;
    loop {
        match registry.register("orders-value", &avro("\"string\"")).await {
            Ok(_) => break,
            Err(error) => unavailable(error),
        }
    }
    let latest = cache.latest("orders-value").await.unwrap();
    assert_eq!(latest.stale, None);
    drop(server);
}
