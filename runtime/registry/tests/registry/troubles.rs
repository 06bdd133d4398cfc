//! Servers that answer what a registry may answer on a bad day, or are none.

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use axum::http::header::{LOCATION, RETRY_AFTER};
use axum::response::IntoResponse;
use millstream_registry::registry::{Authentication, Registry, Settings};
use millstream_registry::schema::{Kind, Schema, Version};
use millstream_registry::{Error, Level};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::front::{Front, client, noting, registry, registry_with, settings};

#[tokio::test]
async fn each_status_says_who_has_to_do_something() {
    let table = [
        (401, "", "Refused"),
        (403, "{\"error_code\":40301,\"message\":\"not you\"}", "Refused"),
        (404, "{\"error_code\":40403,\"message\":\"Schema not found\"}", "NotFound"),
        (404, "{\"error_code\":404,\"message\":\"HTTP 404 Not Found\"}", "Invalid"),
        (404, "<html>", "Invalid"),
        (408, "", "Unavailable"),
        (409, "{\"error_code\":409,\"message\":\"incompatible\"}", "Rejected"),
        (422, "{\"error_code\":42201,\"message\":\"no schema\"}", "Rejected"),
        (429, "", "Unavailable"),
        (500, "{\"error_code\":50001,\"message\":\"store\"}", "Unavailable"),
        (503, "<html>", "Unavailable"),
        (400, "", "Invalid"),
        (418, "", "Invalid"),
        (200, "<html>", "Invalid"),
        (200, "{}", "Invalid"),
        (200, "{\"schema\":7}", "Invalid"),
        (200, "{\"schema\":\"x\",\"schemaType\":\"THRIFT\"}", "Invalid"),
    ];
    for (status, body, wanted) in table {
        let front = Front::answering(move |_| (StatusCode::from_u16(status).unwrap(), body));
        let error = registry(&front.url()).schema(7).await.unwrap_err();
        assert!(format!("{error:?}").starts_with(wanted), "{status} {body}: {error:?}");
        assert!(error.to_string().contains("schema 7"), "{error}");
        assert!(error.to_string().contains(&front.url()), "{error}");
    }
}

#[tokio::test]
async fn what_the_server_asks_for_is_told() {
    let front = Front::answering(|_| (StatusCode::TOO_MANY_REQUESTS, [(RETRY_AFTER, "7")]));
    let error = registry(&front.url()).schema(7).await.unwrap_err();
    assert_eq!(error.retry_after(), Some(Duration::from_secs(7)));

    let other = Front::answering(|_| "{\"schema\":\"secrets\"}");
    let location = other.url();
    let front = Front::answering(move |_| (StatusCode::FOUND, [(LOCATION, location.clone())]));
    let error = registry(&front.url()).schema(7).await.unwrap_err();
    assert!(error.to_string().contains("redirects are not followed"), "{error}");
    assert_eq!(other.asked(), [""; 0]);
}

#[tokio::test]
async fn requests_are_those_of_the_api() {
    let front = Front::answering(|path| match path {
        path if path.contains("config") => "{\"compatibilityLevel\":\"FULL\"}".to_owned(),
        path if path.contains("compatibility") => {
            "{\"is_compatible\":false,\"messages\":[\"a\",\"b\"]}".to_owned()
        }
        _ => "{\"subject\":\"s\",\"version\":3,\"id\":5,\"schema\":\"{}\"}".to_owned(),
    });
    // With a path of its own, as behind a gateway.
    let registry = registry(&format!("{}/gateway/", front.url()));
    let schema = Schema::new(Kind::Json, "{}");
    assert_eq!(registry.schema(5).await.unwrap().kind, Kind::Avro);
    assert_eq!(registry.register("s", &schema).await.unwrap(), 5);
    assert_eq!(registry.find("s", &schema).await.unwrap().schema, schema);
    assert_eq!(registry.version("s/1", Version::Latest).await.unwrap().version, 3);
    assert_eq!(registry.level("s").await.unwrap(), Level::Full);
    let judged = registry.compatibility("s", Version::Number(3), &schema).await.unwrap();
    assert_eq!((judged.compatible, judged.messages), (false, vec!["a".to_owned(), "b".to_owned()]));
    assert_eq!(
        front.asked(),
        [
            "GET /gateway/schemas/ids/5",
            "POST /gateway/subjects/s/versions",
            "POST /gateway/subjects/s",
            "GET /gateway/subjects/s%2F1/versions/latest",
            "GET /gateway/config/s?defaultToGlobal=true",
            "POST /gateway/compatibility/subjects/s/versions/3?verbose=true",
        ]
    );
    for subject in ["", ".", ".."] {
        let error = registry.version(subject, Version::Latest).await.unwrap_err();
        assert!(matches!(error, Error::Unusable { .. }), "{error}");
    }
    assert_eq!(front.asked().len(), 6);
}

#[tokio::test]
async fn an_answer_without_end_is_cut_off() {
    // Its length is not told beforehand.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endless = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (mut connection, _) = listener.accept().await.unwrap();
        connection.read_u8().await.unwrap();
        connection.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await.unwrap();
        let chunk = [b"10000\r\n".as_slice(), &[b' '; 0x10000], b"\r\n"].concat();
        while connection.write_all(&chunk).await.is_ok() {}
    });
    let error = registry(&endless).schema(7).await.unwrap_err();
    assert_eq!(error.to_string(), "schema 7 cannot be used: the answer has more than 4194304 bytes");

    let front = Front::answering(|_| format!("{{\"schema\":\"{}\"}}", "x".repeat(5 << 20)));
    let error = registry(&front.url()).schema(7).await.unwrap_err();
    assert!(matches!(error, Error::Unusable { .. }), "{error}");
}

#[tokio::test]
async fn references_that_go_in_a_circle_are_refused() {
    let refers = |to: &str| {
        format!(
            "{{\"subject\":\"s\",\"version\":1,\"id\":1,\"schema\":\"{{}}\",\"references\":\
             [{{\"name\":\"{to}\",\"subject\":\"{to}\",\"version\":1}}]}}"
        )
    };
    let front = Front::answering(move |path| match path {
        path if path.starts_with("/subjects/a/") => refers("b"),
        path if path.starts_with("/subjects/b/") => refers("c"),
        path if path.starts_with("/subjects/c/") => refers("a"),
        _ => refers("a"),
    });
    let registry = registry(&front.url());
    let schema = registry.schema(1).await.unwrap();
    let error = registry.resolve("schema 1", schema).await.unwrap_err();
    let wanted = "schema 1 cannot be used: version 1 of subject \"a\" refers to itself";
    assert_eq!(error.to_string(), wanted);
    assert_eq!(front.asked().len(), 4);
}

#[tokio::test]
async fn one_name_stands_for_one_schema() {
    let referring = |references: &str| {
        format!(
            "{{\"subject\":\"s\",\"version\":1,\"id\":1,\"schema\":\"{{}}\",\"references\":[{references}]}}"
        )
    };
    let front = Front::answering(move |path| match path {
        "/schemas/ids/1" => referring(
            "{\"name\":\"x\",\"subject\":\"a\",\"version\":1},{\"name\":\"x\",\"subject\":\"a\",\"version\":2}",
        ),
        _ => referring(""),
    });
    let registry = registry(&front.url());
    let schema = registry.schema(1).await.unwrap();
    let error = registry.resolve("schema 1", schema).await.unwrap_err().to_string();
    assert!(error.contains("\"x\" stands for version 1 of subject \"a\" and for version 2"), "{error}");
}

#[tokio::test]
async fn of_several_urls_the_next_is_asked_when_one_is_away() {
    let away = Front::answering(|_| StatusCode::SERVICE_UNAVAILABLE);
    let there = Front::answering(|_| "{\"schema\":\"{}\"}");
    let urls = [away.url().parse().unwrap(), there.url().parse().unwrap()];
    let registry = Registry::new(client(), &urls, &Authentication::None, settings()).unwrap();
    registry.schema(1).await.unwrap();
    registry.schema(1).await.unwrap();
    assert_eq!((away.asked().len(), there.asked().len()), (1, 2), "the one that answered is kept to");

    let urls = [away.url().parse().unwrap(), away.url().parse().unwrap()];
    let registry = Registry::new(client(), &urls, &Authentication::None, settings()).unwrap();
    assert!(matches!(registry.schema(1).await, Err(Error::Unavailable { .. })));
    assert_eq!(away.asked().len(), 3, "each once");
}

#[tokio::test]
async fn a_server_that_takes_its_time_is_not_waited_for() {
    let front = Front::start(|_| std::future::pending());
    let settings = Settings { timeout: Duration::from_millis(50), ..settings() };
    let error = registry_with(&front.url(), &Authentication::None, settings).schema(7).await.unwrap_err();
    assert!(error.to_string().ends_with(": no answer in time"), "{error}");
}

#[test]
fn a_url_holds_no_credentials() {
    let make = |url: &str, authentication: &Authentication| {
        let registry = Registry::new(client(), &[url.parse().unwrap()], authentication, settings());
        registry.err().expect("it is refused")
    };
    let told = make("https://mill:s3cret@registry.example/", &Authentication::None);
    assert!(told.contains("registry.example") && !told.contains("s3cret"), "{told}");
    assert!(make("ftp://registry.example/", &Authentication::None).contains("ftp://"));
    let told = make("http://registry.example/", &Authentication::Bearer("s3cret\n".into()));
    assert!(told.contains("control character") && !told.contains("s3cret"), "{told}");
    assert!(Registry::new(client(), &[], &Authentication::None, settings()).is_err());
}

/// A registry whose certificate is of an authority of the test's own.
#[tokio::test]
async fn the_client_brings_its_tls_along() {
    let plain = client();
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let certificate = certificate.signed_by(&key, &authority).unwrap();
    let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
    let config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap()).parse().unwrap();
    let (router, _) = noting(|_| async { "{\"schema\":\"{}\"}".into_response() });
    let config = axum_server::tls_rustls::RustlsConfig::from_config(Arc::new(config));
    let server = axum_server::from_tcp_rustls(listener, config).unwrap();
    tokio::spawn(async move { server.serve(router.into_make_service()).await });

    let ca = reqwest::Certificate::from_der(authority.der()).unwrap();
    let trusting = reqwest::Client::builder().no_proxy().tls_certs_only([ca]).build().unwrap();
    let ask = async |client| {
        let registry = Registry::new(client, std::slice::from_ref(&url), &Authentication::None, settings());
        registry.unwrap().schema(1).await
    };
    assert_eq!(ask(trusting).await.unwrap().text, "{}");
    let error = ask(plain).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
    assert!(error.to_string().contains("certificate"), "{error}");
}
