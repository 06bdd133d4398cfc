//! Requests to servers that a pipeline grants.

use std::sync::{Arc, LazyLock, mpsc};
use std::time::Duration;

use reqwest::header::{
    CONNECTION, CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING,
};
use reqwest::{Client, Method, Url, redirect};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::super::bindings::http::{self, HttpError, Request, RequestError, Response};
use super::super::grants::HttpServer;
use super::super::guest::{Clock, Guest};
use super::{line_to_add, malformed, quoted};
use crate::config::problem::Problem;
use crate::config::units::{ByteSize, Interval};

/// Requests of one call, at most.
const MAX_REQUESTS: usize = 1024;
/// Headers that the host writes.
const OURS: [HeaderName; 4] = [HOST, CONTENT_LENGTH, TRANSFER_ENCODING, CONNECTION];

/// A plugin call blocks the thread of its lane, so its requests run on threads of their own.
static RUNTIME: LazyLock<std::io::Result<tokio::runtime::Runtime>> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("plugin-http")
        .enable_all()
        .build()
});

/// A server that is granted.
#[derive(Debug)]
pub struct Server {
    url: Url,
    methods: Vec<Method>,
    headers: HeaderMap,
    timeout: Duration,
    max_response: ByteSize,
    concurrency: usize,
    client: Client,
}

impl Server {
    /// # Errors
    /// What is wrong with the grant, each with its place within the `[[plugin]]`.
    pub fn open(name: &str, granted: &HttpServer) -> Result<Server, Vec<Problem>> {
        let at = |key: &str| format!("/grants/http/{}/{key}", name.replace('~', "~0").replace('/', "~1"));
        let mut problems = Vec::new();
        let url = Url::parse(&granted.url)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https") && url.query().is_none());
        if url.is_none() {
            let message = format!("{:?} is not the URL of a server", granted.url);
            problems.push(Problem::new(at("url"), message).help("write url = \"https://HOST/PATH\""));
        }
        if granted.methods.is_empty() {
            let problem = Problem::new(at("methods"), "no method is allowed");
            problems.push(problem.help("methods = [\"GET\"], for instance"));
        }
        let mut methods = Vec::new();
        for method in &granted.methods {
            match Method::from_bytes(method.as_bytes()) {
                Ok(known) if method.bytes().all(|byte| byte.is_ascii_uppercase()) => methods.push(known),
                _ => problems.push(
                    Problem::new(at("methods"), format!("{method:?} is no method"))
                        .help("write them as \"GET\", \"POST\", \"PUT\""),
                ),
            }
        }
        let mut headers = HeaderMap::new();
        for (header, value) in &granted.headers {
            match (HeaderName::from_bytes(header.as_bytes()), HeaderValue::from_str(value)) {
                (Ok(header), Ok(mut value)) if !OURS.contains(&header) => {
                    value.set_sensitive(true);
                    headers.insert(header, value);
                }
                // The value may be a secret.
                _ => problems.push(Problem::new(
                    at(&format!("headers/{header}")),
                    format!("{header:?} with its value is no header that can be set"),
                )),
            }
        }
        for (key, wrong) in [
            ("timeout", granted.timeout.0.is_zero()),
            ("max_response", granted.max_response.0 == 0),
            ("concurrency", granted.concurrency == 0),
        ] {
            if wrong {
                problems.push(Problem::new(at(key), format!("`{key}` must be more than 0")));
            }
        }
        let Some(url) = url.filter(|_| problems.is_empty()) else { return Err(problems) };
        crate::tls::install_provider();
        let mut client = Client::builder()
            .user_agent(concat!("millstream/", env!("CARGO_PKG_VERSION")))
            .redirect(redirect::Policy::none())
            .no_proxy()
            .timeout(granted.timeout.0)
            .pool_max_idle_per_host(granted.concurrency);
        if url.scheme() == "http" {
            // The system's certificates are not looked for, which may not be there.
            client = client.tls_certs_only([]);
        }
        let client = client.build().map_err(|error| {
            vec![Problem::new(at("url"), format!("the http client cannot be set up: {error}"))]
        })?;
        Ok(Server {
            url,
            methods,
            headers,
            timeout: granted.timeout.0,
            max_response: granted.max_response,
            concurrency: granted.concurrency,
            client,
        })
    }

    fn prepare(&self, request: Request) -> Result<reqwest::Request, RequestError> {
        let Request { method, path, headers, body } = request;
        let refused = |text: String| RequestError::Refused(text);
        let method = self.methods.iter().find(|allowed| allowed.as_str() == method).ok_or_else(|| {
            let allowed: Vec<&str> = self.methods.iter().map(Method::as_str).collect();
            refused(format!("the method {method:?} is not granted; granted are {}", allowed.join(", ")))
        })?;
        let url = self.below(&path).ok_or_else(|| {
            let below = self.url.path().trim_end_matches('/');
            refused(format!("the path {path:?} is not granted; it must begin with \"{below}/\""))
        })?;
        let mut sent = HeaderMap::new();
        for (name, value) in headers {
            let name = HeaderName::from_bytes(name.as_bytes());
            let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(&value)) else {
                return Err(refused("a header is malformed".to_owned()));
            };
            if OURS.contains(&name) || self.headers.contains_key(&name) {
                return Err(refused(format!("the header {name:?} is set by the host")));
            }
            sent.append(name, value);
        }
        sent.extend(self.headers.clone());
        let mut request = reqwest::Request::new(method.clone(), url);
        *request.headers_mut() = sent;
        if !body.is_empty() {
            *request.body_mut() = Some(body.into());
        }
        Ok(request)
    }

    /// The URL of a path, if it is one of this server and below the path that is granted, also once
    /// its dots are taken out.
    fn below(&self, path: &str) -> Option<Url> {
        if !path.starts_with('/') {
            return None;
        }
        let origin = self.url.origin();
        let url = Url::parse(&format!("{}{path}", origin.ascii_serialization())).ok()?;
        let granted = self.url.path().trim_end_matches('/');
        let rest = url.path().strip_prefix(granted)?;
        (url.origin() == origin && (rest.is_empty() || rest.starts_with('/'))).then_some(url)
    }

    async fn exchange(self: Arc<Server>, request: reqwest::Request) -> Result<Response, RequestError> {
        let mut answer = self.client.execute(request).await.map_err(|error| self.told(&error))?;
        let too_large = || {
            let most = self.max_response;
            RequestError::TooLarge(format!(
                "the answer is larger than {most}; raise `max_response` in the grant"
            ))
        };
        let max = self.max_response.as_usize();
        if answer.content_length().is_some_and(|len| len > self.max_response.0) {
            return Err(too_large());
        }
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(|error| self.told(&error))? {
            if body.len() + chunk.len() > max {
                return Err(too_large());
            }
            body.extend_from_slice(&chunk);
        }
        let headers = answer.headers().iter();
        let headers = headers.map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())).collect();
        Ok(Response { status: answer.status().as_u16(), headers, body })
    }

    fn told(&self, error: &reqwest::Error) -> RequestError {
        if error.is_timeout() {
            let timeout = Interval(self.timeout);
            return RequestError::Timeout(format!(
                "no answer within {timeout}; raise `timeout` in the grant"
            ));
        }
        let mut text = String::new();
        let mut cause: Option<&dyn std::error::Error> = std::error::Error::source(error);
        while let Some(error) = cause {
            text = error.to_string();
            cause = error.source();
        }
        RequestError::Unreachable(format!(
            "{} cannot be reached: {text}",
            self.url.origin().ascii_serialization()
        ))
    }

    /// Sends all, so many at a time; blocks.
    fn send(
        self: &Arc<Server>,
        requests: Vec<Request>,
    ) -> anyhow::Result<Vec<Result<Response, RequestError>>> {
        let runtime = RUNTIME
            .as_ref()
            .map_err(|error| anyhow::anyhow!("the threads for requests cannot be started: {error}"))?;
        let (sender, answers) = mpsc::channel();
        let server = Arc::clone(self);
        runtime.spawn(async move {
            let slots = Arc::new(Semaphore::new(server.concurrency));
            let mut results: Vec<Option<Result<Response, RequestError>>> = Vec::new();
            results.resize_with(requests.len(), || None);
            let mut running = JoinSet::new();
            for (index, request) in requests.into_iter().enumerate() {
                match server.prepare(request) {
                    Err(refused) => results[index] = Some(Err(refused)),
                    Ok(request) => {
                        let (server, slots) = (Arc::clone(&server), Arc::clone(&slots));
                        running.spawn(async move {
                            let _slot = slots.acquire_owned().await;
                            (index, server.exchange(request).await)
                        });
                    }
                }
            }
            while let Some(done) = running.join_next().await {
                match done {
                    Ok((index, result)) => results[index] = Some(result),
                    // The caller sees that an answer is missing.
                    Err(error) => tracing::error!(%error, "a request of a plugin was given up"),
                }
            }
            // Nobody listens any more if the lane has panicked.
            let _ = sender.send(results);
        });
        let results = answers.recv()?;
        let given_up = || Err(RequestError::Unreachable("the request was given up; see the log".to_owned()));
        Ok(results.into_iter().map(|result| result.unwrap_or_else(given_up)).collect())
    }
}

impl http::Host for Guest {
    fn send_many(
        &mut self,
        server: String,
        requests: Vec<Request>,
    ) -> wasmtime::Result<Result<Vec<Result<Response, RequestError>>, HttpError>> {
        Clock::waiting(self, |guest| {
            let Some(server) = guest.capabilities.servers.get(&server) else {
                let line = format!(
                    "grants.http.{} = {{ url = \"https://HOST\", methods = [\"GET\"] }}",
                    quoted(&server)
                );
                let text = line_to_add(&format!("the server {server:?} is"), &line);
                return Ok(Err(HttpError::NotGranted(text)));
            };
            if requests.len() > MAX_REQUESTS {
                let text =
                    format!("sent {} requests in one call; {MAX_REQUESTS} are the most", requests.len());
                return Err(malformed(&text).into());
            }
            Ok(Ok(server.send(requests).map_err(wasmtime::Error::from_anyhow)?))
        })
    }
}
