//! A proxy in front of a stand-in that fails, by a seed, as services and networks do.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use reqwest::Url;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

use crate::services::aws::{REGION, StandIn};
use crate::support::http_client;

/// What a component is given to wait for an answer; those that never come cost so long.
pub const TIMEOUT: Duration = Duration::from_millis(700);

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Fault {
    /// Status 500, of the service or of something before it. Nothing is done.
    Status500,
    /// The same with 503.
    Status503,
    /// The service has too much to do, and says so in its protocol. Nothing is done.
    Throttled,
    /// No answer, and nothing is done.
    Hang,
    /// No answer, but it is done.
    HangAfter,
    /// The connection is reset, and nothing is done.
    Reset,
    /// The connection is reset, but it is done.
    ResetAfter,
    /// The answer breaks off; it is done.
    Torn,
    /// Some entries of a batch are not done, and the answer says so. Of a request without entries nothing
    /// comes of it.
    Partial,
}

impl Fault {
    pub const ALL: [Fault; 9] = [
        Fault::Status500,
        Fault::Status503,
        Fault::Throttled,
        Fault::Hang,
        Fault::HangAfter,
        Fault::Reset,
        Fault::ResetAfter,
        Fault::Torn,
        Fault::Partial,
    ];
}

/// Which faults there are, and how often.
#[derive(Clone)]
pub struct Faults {
    pub of: Vec<Fault>,
    /// Of a hundred requests so many have one.
    pub percent: u32,
    /// Actions that have some, as `SendMessageBatch`; empty for all.
    pub actions: Vec<&'static str>,
}

impl Faults {
    pub fn new(of: &[Fault], percent: u32) -> Faults {
        Faults { of: of.to_vec(), percent, actions: Vec::new() }
    }

    pub fn on(self, actions: &[&'static str]) -> Faults {
        Faults { actions: actions.to_vec(), ..self }
    }
}

/// A proxy on a port of its own. It ends with this.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    runtime: Option<Runtime>,
}

struct Shared {
    to: String,
    faults: Faults,
    random: Mutex<StdRng>,
    done: Mutex<BTreeMap<Fault, usize>>,
    client: reqwest::Client,
}

impl Proxy {
    pub fn start(stand_in: &StandIn, faults: Faults, seed: u64) -> Proxy {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(1).enable_all().build().expect("a runtime");
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared {
            to: stand_in.url(),
            faults,
            random: Mutex::new(StdRng::seed_from_u64(seed)),
            done: Mutex::default(),
            client: http_client(),
        });
        let of_server = Arc::clone(&shared);
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let shared = Arc::clone(&of_server);
                tokio::spawn(async move { shared.serve(stream).await });
            }
        });
        Proxy { address, shared, runtime: Some(runtime) }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// As a key of a pipeline.
    pub fn toml(&self) -> String {
        let (url, timeout) = (self.url(), TIMEOUT.as_millis());
        format!("aws = {{ region = {REGION:?}, endpoint = {url:?}, timeout = \"{timeout}ms\" }}")
    }

    /// How often it did what.
    pub fn done(&self) -> BTreeMap<Fault, usize> {
        self.shared.done.lock().expect("no panic").clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

struct Request {
    method: String,
    path: String,
    headers: HeaderMap,
    body: Vec<u8>,
}

struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Vec<u8>,
}

/// How a service speaks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Protocol {
    /// JSON, its version behind `application/x-amz-json-`.
    Json(&'static str),
    /// Forms, and answers in XML.
    Query,
}

impl Request {
    /// The operation, as `SendMessageBatch`.
    fn action(&self) -> String {
        let target = self.headers.get("x-amz-target").and_then(|value| value.to_str().ok());
        match target {
            Some(target) => target.rsplit('.').next().unwrap_or_default().to_owned(),
            None => form(&self.body).into_iter().find(|(key, _)| key == "Action").unwrap_or_default().1,
        }
    }

    fn protocol(&self) -> Protocol {
        let of = |name| self.headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        match of("x-amz-target") {
            None => Protocol::Query,
            Some(_) if of("content-type").is_some_and(|media| media.ends_with("1.1")) => {
                Protocol::Json("1.1")
            }
            Some(_) => Protocol::Json("1.0"),
        }
    }
}

impl Shared {
    /// Requests of a connection, until it ends.
    async fn serve(&self, stream: TcpStream) {
        let mut stream = BufReader::new(stream);
        while let Some(request) = read(&mut stream).await {
            let fault = self.fault(&request);
            let answer = match fault {
                None => self.forward(&request).await,
                Some(Fault::Status500) => self.failure(&request, 500),
                Some(Fault::Status503) => self.failure(&request, 503),
                Some(Fault::Throttled) => throttled(&request),
                Some(Fault::Partial) => self.partial(&request).await,
                Some(Fault::Hang | Fault::Reset) => None,
                Some(Fault::HangAfter | Fault::ResetAfter | Fault::Torn) => self.forward(&request).await,
            };
            match (fault, answer) {
                (Some(Fault::Hang | Fault::HangAfter), _) => {
                    // Until the other side has had enough.
                    let _ = stream.read_u8().await;
                    return;
                }
                (Some(Fault::Torn), Some(answer)) => {
                    let whole = written(&answer);
                    let _ =
                        stream.get_mut().write_all(&whole[..whole.len() - answer.body.len() / 2 - 1]).await;
                    return;
                }
                (Some(Fault::Reset | Fault::ResetAfter), _) | (_, None) => {
                    let _ = stream.get_ref().set_zero_linger();
                    return;
                }
                (_, Some(answer)) => {
                    if stream.get_mut().write_all(&written(&answer)).await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    /// What this request is to suffer.
    fn fault(&self, request: &Request) -> Option<Fault> {
        let Faults { of, percent, actions } = &self.faults;
        let action = request.action();
        if !actions.is_empty() && !actions.contains(&action.as_str()) {
            return None;
        }
        let mut random = self.random.lock().expect("no panic");
        if !random.random_bool(f64::from(*percent) / 100.0) {
            return None;
        }
        let fault = of[random.random_range(0..of.len())];
        if fault == Fault::Partial
            && !matches!(
                action.as_str(),
                "SendMessageBatch"
                    | "DeleteMessageBatch"
                    | "ChangeMessageVisibilityBatch"
                    | "PublishBatch"
                    | "PutRecords"
            )
        {
            return None;
        }
        *self.done.lock().expect("no panic").entry(fault).or_default() += 1;
        Some(fault)
    }

    /// Asks the stand-in; `None` if it does not answer.
    async fn forward(&self, request: &Request) -> Option<Answer> {
        let method = request.method.parse().expect("a method");
        let mut headers = request.headers.clone();
        for name in ["host", "content-length", "connection"] {
            headers.remove(name);
        }
        let url = format!("{}{}", self.to, request.path);
        let asked = self.client.request(method, url).headers(headers).body(request.body.clone());
        let answer = asked.send().await.ok()?;
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        Some(Answer { status, headers, body: answer.bytes().await.ok()?.to_vec() })
    }

    /// Of the service, or of something before it that speaks another language.
    fn failure(&self, request: &Request, status: u16) -> Option<Answer> {
        if self.random.lock().expect("no panic").random_bool(0.5) {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html"));
            return Some(Answer { status, headers, body: b"<html>bad luck</html>".to_vec() });
        }
        let code = if status == 500 { "InternalFailure" } else { "ServiceUnavailable" };
        Some(error(request, status, code, "Receiver"))
    }

    /// Which of so many entries fail: one at least.
    fn unlucky(&self, entries: usize) -> Vec<bool> {
        let mut random = self.random.lock().expect("no panic");
        let mut unlucky: Vec<bool> = (0..entries).map(|_| random.random_bool(0.4)).collect();
        if entries > 0 {
            unlucky[random.random_range(0..entries)] = true;
        }
        unlucky
    }

    async fn partial(&self, request: &Request) -> Option<Answer> {
        match request.protocol() {
            Protocol::Query => self.partial_form(request).await,
            Protocol::Json(_) => self.partial_json(request).await,
        }
    }

    async fn partial_json(&self, request: &Request) -> Option<Answer> {
        let mut body: Value = serde_json::from_slice(&request.body).expect("a request in JSON");
        let is_kinesis = request.action() == "PutRecords";
        let entries = body[if is_kinesis { "Records" } else { "Entries" }].as_array_mut().expect("entries");
        let unlucky = self.unlucky(entries.len());
        let (failed, rest): (Vec<_>, Vec<_>) =
            entries.drain(..).zip(&unlucky).partition(|(_, is_unlucky)| **is_unlucky);
        entries.extend(rest.into_iter().map(|(entry, _)| entry));
        let is_empty = entries.is_empty();
        let mut answer = match is_empty {
            true => Answer { status: 200, headers: HeaderMap::new(), body: b"{}".to_vec() },
            false => {
                let Request { method, path, headers, .. } = request;
                let (method, path, headers) = (method.clone(), path.clone(), headers.clone());
                let body = serde_json::to_vec(&body).expect("JSON");
                self.forward(&Request { method, path, headers, body }).await?
            }
        };
        if answer.status != 200 {
            return Some(answer);
        }
        let mut said: Value = serde_json::from_slice(&answer.body).expect("an answer in JSON");
        if is_kinesis {
            let mut done = said["Records"].as_array().cloned().unwrap_or_default().into_iter();
            let count = said["FailedRecordCount"].as_u64().unwrap_or(0) + failed.len() as u64;
            let records = unlucky.iter().enumerate().map(|(index, is_unlucky)| {
                let code = ["ProvisionedThroughputExceededException", "InternalFailure"]
                    [usize::from(index % 2 == 0)];
                match is_unlucky {
                    true => json!({ "ErrorCode": code, "ErrorMessage": "bad luck" }),
                    false => done.next().unwrap_or_default(),
                }
            });
            said = json!({ "Records": records.collect::<Vec<_>>(), "FailedRecordCount": count });
        } else {
            let failures = failed.iter().enumerate().map(|(index, (entry, _))| {
                let code = ["InternalError", "KmsThrottled", "RequestThrottled"][index % 3];
                json!({ "Id": entry["Id"], "Code": code, "SenderFault": false, "Message": "bad luck" })
            });
            let failures: Vec<Value> = failures.collect();
            if !said["Successful"].is_array() {
                said["Successful"] = json!([]);
            }
            match said["Failed"].as_array_mut() {
                Some(known) => known.extend(failures),
                None => said["Failed"] = failures.into(),
            }
        }
        answer.body = serde_json::to_vec(&said).expect("JSON");
        if let Protocol::Json(version) = request.protocol() {
            let media = format!("application/x-amz-json-{version}");
            answer.headers.insert(CONTENT_TYPE, HeaderValue::try_from(media).expect("a media type"));
        }
        Some(answer)
    }

    async fn partial_form(&self, request: &Request) -> Option<Answer> {
        const ENTRY: &str = "PublishBatchRequestEntries.member.";
        let fields = form(&request.body);
        let number = |key: &str| key.strip_prefix(ENTRY)?.split('.').next()?.parse::<usize>().ok();
        let entries = fields.iter().filter_map(|(key, _)| number(key)).max().unwrap_or(0);
        let unlucky = self.unlucky(entries);
        // The new number of each that goes on.
        let mut next = 0;
        let numbers: Vec<Option<usize>> = unlucky
            .iter()
            .map(|is_unlucky| {
                next += usize::from(!is_unlucky);
                (!is_unlucky).then_some(next)
            })
            .collect();
        let (mut kept, mut failures) = (Vec::new(), String::new());
        for (key, value) in fields {
            match number(&key) {
                None => kept.push((key, value)),
                Some(old) => match numbers[old - 1] {
                    Some(new) => {
                        let of = key[ENTRY.len()..].split_once('.').expect("a field of an entry").1;
                        kept.push((format!("{ENTRY}{new}.{of}"), value));
                    }
                    None if key.ends_with(".Id") => {
                        failures += &format!(
                            "<member><Id>{value}</Id><Code>InternalError</Code><Message>bad luck</Message>\
                             <SenderFault>false</SenderFault></member>"
                        );
                    }
                    None => {}
                },
            }
        }
        if next == 0 {
            let body = format!(
                "<PublishBatchResponse xmlns=\"http://sns.amazonaws.com/doc/2010-03-31/\"><PublishBatchResult>\
                 <Successful/><Failed>{failures}</Failed></PublishBatchResult></PublishBatchResponse>"
            );
            return Some(Answer { status: 200, headers: HeaderMap::new(), body: body.into_bytes() });
        }
        let mut url = Url::parse("http://form").expect("a url");
        url.query_pairs_mut().extend_pairs(kept);
        let Request { method, path, headers, .. } = request;
        let (method, path, headers) = (method.clone(), path.clone(), headers.clone());
        let body = url.query().unwrap_or_default().as_bytes().to_vec();
        let mut answer = self.forward(&Request { method, path, headers, body }).await?;
        let said = String::from_utf8(answer.body).expect("an answer in XML");
        let said = match said.contains("<Failed>") {
            true => said.replacen("<Failed>", &format!("<Failed>{failures}"), 1),
            false => {
                let said = said.replacen("<Failed/>", "", 1);
                let end = "</PublishBatchResult>";
                said.replacen(end, &format!("<Failed>{failures}</Failed>{end}"), 1)
            }
        };
        answer.body = said.into_bytes();
        Some(answer)
    }
}

/// That the service has too much to do.
fn throttled(request: &Request) -> Option<Answer> {
    let action = request.action();
    let target = request.headers.get("x-amz-target").and_then(|value| value.to_str().ok());
    let code = match target.and_then(|target| target.split('.').next()) {
        Some(kinesis) if kinesis.starts_with("Kinesis") => match action.as_str() {
            "PutRecords" | "GetRecords" => "ProvisionedThroughputExceededException",
            _ => "LimitExceededException",
        },
        Some(sqs) if sqs.ends_with("SQS") => "com.amazonaws.sqs#RequestThrottled",
        Some(_) => "com.amazonaws.dynamodb.v20120810#ThrottlingException",
        None => "Throttling",
    };
    Some(error(request, 400, code, "Sender"))
}

/// An error in the words of the service.
fn error(request: &Request, status: u16, code: &str, fault: &str) -> Answer {
    let mut headers = HeaderMap::new();
    let short = code.rsplit('#').next().unwrap_or(code);
    let (media, body) = match request.protocol() {
        Protocol::Json(version) => {
            let query = HeaderValue::try_from(format!("{short};{fault}")).expect("a code");
            headers.insert(HeaderName::from_static("x-amzn-query-error"), query);
            let body = json!({ "__type": code, "message": "bad luck" }).to_string();
            (format!("application/x-amz-json-{version}"), body)
        }
        Protocol::Query => {
            let body = format!(
                "<ErrorResponse xmlns=\"http://sns.amazonaws.com/doc/2010-03-31/\"><Error><Type>{fault}</Type>\
                 <Code>{short}</Code><Message>bad luck</Message></Error><RequestId>0</RequestId></ErrorResponse>"
            );
            ("text/xml".to_owned(), body)
        }
    };
    headers.insert(CONTENT_TYPE, HeaderValue::try_from(media).expect("a media type"));
    Answer { status, headers, body: body.into_bytes() }
}

fn form(body: &[u8]) -> Vec<(String, String)> {
    let mut url = Url::parse("http://form").expect("a url");
    url.set_query(std::str::from_utf8(body).ok());
    url.query_pairs().into_owned().collect()
}

/// The next request of a connection (HTTP/1.1, of known length, as the SDKs send it); `None` at its end.
async fn read(stream: &mut BufReader<TcpStream>) -> Option<Request> {
    let mut line = String::new();
    stream.read_line(&mut line).await.ok().filter(|&bytes| bytes > 0)?;
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, path) = (words.next()?, words.next()?);
    let mut headers = HeaderMap::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.ok().filter(|&bytes| bytes > 0)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        let name = HeaderName::try_from(name).expect("a header");
        headers.append(name, HeaderValue::try_from(value.trim()).expect("a value"));
    }
    let length = headers.get("content-length").and_then(|length| length.to_str().ok()?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body).await.ok()?;
    Some(Request { method, path, headers, body })
}

fn written(answer: &Answer) -> Vec<u8> {
    let mut bytes = format!("HTTP/1.1 {} Said\r\n", answer.status).into_bytes();
    for (name, value) in &answer.headers {
        if !["content-length", "transfer-encoding", "connection"].contains(&name.as_str()) {
            bytes.extend_from_slice(name.as_str().as_bytes());
            bytes.extend_from_slice(b": ");
            bytes.extend_from_slice(value.as_bytes());
            bytes.extend_from_slice(b"\r\n");
        }
    }
    bytes.extend_from_slice(format!("content-length: {}\r\n\r\n", answer.body.len()).as_bytes());
    bytes.extend_from_slice(&answer.body);
    bytes
}
