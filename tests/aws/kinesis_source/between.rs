//! Something between a member and a service, that answers now and then in its place.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::Value;
use tokio::runtime::Runtime;

use super::world::runtime;
use crate::services::aws::{REGION, StandIn};
use crate::support::http_client;

#[derive(Clone)]
pub struct Between {
    client: reqwest::Client,
    url: String,
    state: Arc<Mutex<Told>>,
}

/// What it is told to do, and what it has seen.
#[derive(Default)]
pub struct Told {
    /// Error codes by what they answer, in order.
    pub faults: HashMap<&'static str, Vec<&'static str>>,
    /// Calls that are refused, each time.
    pub refused: HashSet<&'static str>,
    /// Calls that are answered as they were the first time.
    pub frozen: HashSet<&'static str>,
    /// What is answered to calls, whatever the service would say.
    pub answers: HashMap<&'static str, &'static str>,
    /// How far behind answers with records say that they are, in milliseconds; as they say if none.
    pub behind: Option<u64>,
    /// When records were asked for.
    pub asked: Vec<Instant>,
    /// How often a call was passed on.
    pub passed_on: HashMap<String, usize>,
    last: HashMap<String, Vec<u8>>,
}

impl Told {
    /// What is answered in place of the service, if anything is.
    fn answer(&mut self, call: &str) -> Option<Response> {
        if call == "GetRecords" {
            self.asked.push(Instant::now());
        }
        let fault = self.faults.get_mut(call).and_then(|codes| (!codes.is_empty()).then(|| codes.remove(0)));
        let fault = fault.or(self.refused.contains(call).then_some("InternalFailure"));
        if let Some(code) = fault {
            let body = format!(r#"{{"__type":"{code}","message":"because of the test"}}"#);
            let status = match code {
                "InternalFailure" => StatusCode::INTERNAL_SERVER_ERROR,
                _ => StatusCode::BAD_REQUEST,
            };
            return Some((status, [("content-type", "application/x-amz-json-1.1")], body).into_response());
        }
        if let Some(answer) = self.answers.get(call) {
            *self.passed_on.entry(call.to_owned()).or_default() += 1;
            return Some((StatusCode::OK, *answer).into_response());
        }
        let frozen = self.frozen.contains(call).then(|| self.last.get(call).cloned()).flatten();
        frozen.map(|body| (StatusCode::OK, body).into_response())
    }

    /// What the service answered is passed on, but for what is told otherwise.
    fn passes(&mut self, call: &str, body: Vec<u8>) -> Vec<u8> {
        self.last.insert(call.to_owned(), body.clone());
        let Some(behind) = self.behind.filter(|_| call == "GetRecords") else { return body };
        let mut answer: Value = serde_json::from_slice(&body).expect("JSON");
        answer["MillisBehindLatest"] = behind.into();
        answer.to_string().into_bytes()
    }
}

async fn pass_on(State(between): State<Between>, headers: HeaderMap, body: Bytes) -> Response {
    let target = headers.get("x-amz-target").and_then(|target| target.to_str().ok()).unwrap_or_default();
    let call = target.rsplit('.').next().unwrap_or_default().to_owned();
    if let Some(response) = between.tell(|told| told.answer(&call)) {
        return response;
    }
    let mut headers = headers;
    headers.remove("host");
    let sent = between.client.post(&between.url).headers(headers).body(body).send().await;
    let answer = sent.expect("the stand-in answers");
    let (status, headers) = (answer.status(), answer.headers().clone());
    let mut body = answer.bytes().await.expect("a body").to_vec();
    between.tell(|told| {
        if status.is_success() {
            body = told.passes(&call, std::mem::take(&mut body));
        }
        *told.passed_on.entry(call).or_default() += 1;
    });
    let mut response = (status, body).into_response();
    if let Some(kind) = headers.get("content-type") {
        response.headers_mut().insert("content-type", kind.clone());
    }
    response
}

impl Between {
    /// One in front of a stand-in, and how it is reached, as a key of a pipeline.
    pub fn start(stand_in: &StandIn) -> (Between, String, Runtime) {
        let runtime = runtime();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let between = Between { client: http_client(), url: stand_in.url(), state: Arc::default() };
        let server = Router::new().fallback(pass_on).with_state(between.clone());
        runtime.spawn(async move { axum::serve(listener, server).await });
        (between, format!("aws = {{ region = {REGION:?}, endpoint = {url:?} }}"), runtime)
    }

    pub fn tell<T>(&self, what: impl FnOnce(&mut Told) -> T) -> T {
        what(&mut self.state.lock().expect("no panic"))
    }

    /// How often a call was passed on.
    pub fn passed_on(&self, call: &str) -> usize {
        self.tell(|told| told.passed_on.get(call).copied().unwrap_or_default())
    }
}
