//! Servers of the tests' own, and clients for them.

use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::Request;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use millstream_registry::registry::{Authentication, Registry, Settings};
use reqwest::Client;
use tokio::task::AbortHandle;

/// A client that trusts nobody, for servers without TLS.
pub fn client() -> Client {
    // It fails only where another test was first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = Client::builder().no_proxy().tls_certs_only([]).redirect(reqwest::redirect::Policy::none());
    client.build().unwrap()
}

pub fn registry(url: &str) -> Registry {
    registry_with(url, &Authentication::None, settings())
}

pub fn registry_with(url: &str, authentication: &Authentication, settings: Settings) -> Registry {
    Registry::new(client(), &[url.parse().unwrap()], authentication, settings).unwrap()
}

/// No test of what is not about time ends by this.
pub fn settings() -> Settings {
    Settings { timeout: Duration::from_secs(60), ..Settings::default() }
}

/// A server that answers as a function says, and notes what it was asked. Ends with the test.
pub struct Front {
    pub address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
    task: AbortHandle,
}

impl Front {
    pub fn start<F>(answer: impl Fn(Request) -> F + Clone + Send + Sync + 'static) -> Front
    where
        F: Future<Output = Response> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (router, asked) = noting(answer);
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Front { address, asked, task: task.abort_handle() }
    }

    /// Answers at once.
    pub fn answering<R: IntoResponse>(answer: impl Fn(&str) -> R + Clone + Send + Sync + 'static) -> Front {
        Front::start(move |request| {
            let path = request.uri().path_and_query().unwrap().to_string();
            std::future::ready(answer(&path).into_response())
        })
    }

    /// Passes on to another server what `refused` does not answer.
    pub fn before(
        url: String,
        refused: impl Fn(&Request) -> Option<Response> + Clone + Send + Sync + 'static,
    ) -> Front {
        let client = client();
        Front::start(move |request| {
            let refused = refused(&request);
            let (client, url) = (client.clone(), url.clone());
            async move {
                match refused {
                    None => pass_on(&client, &url, request).await,
                    Some(answer) => answer,
                }
            }
        })
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What was asked: method and path.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub fn noting<F>(
    answer: impl Fn(Request) -> F + Clone + Send + Sync + 'static,
) -> (Router, Arc<Mutex<Vec<String>>>)
where
    F: Future<Output = Response> + Send + 'static,
{
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let notes = Arc::clone(&asked);
    let router = Router::new().fallback(move |request: Request| {
        notes.lock().unwrap().push(format!("{} {}", request.method(), request.uri()));
        answer(request)
    });
    (router, asked)
}

async fn pass_on(client: &Client, url: &str, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body: Bytes = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    let onward = client
        .request(parts.method, format!("{url}{}", parts.uri.path_and_query().unwrap()))
        .header(
            CONTENT_TYPE,
            parts.headers.get(CONTENT_TYPE).map_or("text/plain", |kind| kind.to_str().unwrap()),
        )
        .body(body);
    let answer = onward.send().await.unwrap();
    let status = answer.status();
    (status, [(CONTENT_TYPE, "application/json")], answer.bytes().await.unwrap()).into_response()
}
