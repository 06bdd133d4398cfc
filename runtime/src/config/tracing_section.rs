//! `[tracing]`: which messages are traced, and where their spans go.

use std::collections::BTreeMap;
use std::path::PathBuf;

use percent_encoding::percent_decode_str;
use reqwest::Url;
use reqwest::header::{HeaderName, HeaderValue};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::assemble::Folders;
use super::document::{Document, Mark};
use super::escape;
use super::problem::Problem;
use super::secrets::{Redactor, Secrets};
use super::sections;
use super::units::Interval;
use super::validate::Section;
use super::variables::Environment;
use crate::tls::{self, ClientTls};

/// Where a collector on this machine listens (<https://opentelemetry.io/docs/specs/otlp/>).
const DEFAULT_ENDPOINT: &str = "http://127.0.0.1:4318";

/// Variables of OpenTelemetry (<https://opentelemetry.io/docs/specs/otel/protocol/exporter/>).
const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
const HEADERS: &str = "OTEL_EXPORTER_OTLP_HEADERS";
const SERVICE_NAME: &str = "OTEL_SERVICE_NAME";

/// Keys of `[tracing]`. Its defaults may come from the variables that every program with OpenTelemetry
/// knows; what the file says wins.
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TracingKeys {
    /// Where a receiver of OTLP listens (HTTP, binary), without the `/v1/traces` that is added. By default
    /// what `OTEL_EXPORTER_OTLP_ENDPOINT` says, or `http://127.0.0.1:4318`. `https`, or `http` to this
    /// machine itself.
    endpoint: Option<String>,
    /// Headers of every request, as for credentials. By default what `OTEL_EXPORTER_OTLP_HEADERS` says.
    headers: Option<BTreeMap<String, String>>,
    /// What the receiver calls this program (`service.name`). By default what `OTEL_SERVICE_NAME` says, or
    /// `millstream`.
    service_name: Option<String>,
    /// Share of the messages without a parent that are traced, between 0 and 1. Where a message has a
    /// parent its sampled flag decides; where nothing says it, this share of the traces.
    #[schemars(range(min = 0, max = 1))]
    ratio: f64,
    /// How long a request may take, and at most what a stop waits for the last ones.
    timeout: Interval,
    /// Spans that wait to be exported, at most. More of them are dropped and counted.
    #[schemars(range(min = 1, max = 1_000_000))]
    queue: usize,
    /// How to trust the receiver, and be trusted by it.
    tls: Option<ClientTls>,
    /// Send unencrypted (`http`) also to other machines.
    allow_plaintext: bool,
}

impl Default for TracingKeys {
    fn default() -> TracingKeys {
        TracingKeys {
            endpoint: None,
            headers: None,
            service_name: None,
            ratio: 0.01,
            timeout: Interval::secs(10),
            queue: 4096,
            tls: None,
            allow_plaintext: false,
        }
    }
}

/// `[tracing]`, checked, with its defaults in place.
#[derive(Clone)]
pub struct Tracing {
    /// Whole, with its path.
    pub url: Url,
    pub headers: BTreeMap<String, String>,
    pub service_name: String,
    pub ratio: f64,
    pub timeout: Interval,
    pub queue: usize,
    pub tls: ClientTls,
    /// Folder of the pipeline file, where the paths of `tls` start.
    pub base: PathBuf,
}

/// Reads the section, and what it leaves to the environment.
pub fn tracing(
    document: &mut Document,
    folders: &Folders,
    environment: &Environment,
    value: Value,
) -> Option<Tracing> {
    let section = Section { at: "/tracing", label: "[tracing]", example: "" };
    let keys: TracingKeys = sections::read(document, section, value)?;
    let mut variable = |name: &str| match environment.variable(name) {
        Ok(value) => value.filter(|value| !value.is_empty()),
        Err(error) => {
            document.problem(section.at, Mark::Key, error.to_string(), Some(error.help()));
            None
        }
    };
    let from_variable = keys.headers.is_none();
    let headers = match keys.headers {
        Some(headers) => headers,
        None => variable(HEADERS).map_or_else(BTreeMap::new, |text| headers_of(&text)),
    };
    let service_name = keys.service_name.or_else(|| variable(SERVICE_NAME));
    let endpoint_variable = if keys.endpoint.is_none() { variable(ENDPOINT) } else { None };
    let mut problems = Vec::new();
    let place = match endpoint_variable {
        Some(_) => "",
        None => "/endpoint",
    };
    let endpoint = keys.endpoint.or(endpoint_variable).unwrap_or_else(|| DEFAULT_ENDPOINT.to_owned());
    let url = url_of(&endpoint, keys.allow_plaintext, keys.tls.is_some(), place, &mut problems);
    for (name, value) in &headers {
        let at = if from_variable { String::new() } else { format!("/headers/{}", escape(name)) };
        let of = if from_variable { format!(" (from {HEADERS})") } else { String::new() };
        if HeaderName::try_from(name).is_err() {
            problems.push(Problem::new(&at, format!("{name:?} is not the name of a header{of}")));
        } else if HeaderValue::try_from(value).is_err() {
            problems.push(Problem::new(&at, format!("the value of {name:?} holds a control character{of}")));
        }
    }
    if let Some(tls) = &keys.tls {
        tls.check(&folders.base, &mut problems);
    }
    if service_name.as_deref() == Some("") {
        problems.push(Problem::new("/service_name", "it is empty").help("leave it out for `millstream`"));
    }
    if keys.timeout == Interval::millis(0) {
        problems.push(Problem::new("/timeout", "no request takes no time"));
    }
    if from_variable {
        let mut secrets = Secrets::default();
        headers.values().for_each(|value| secrets.add(value, &format!("(from ${{{HEADERS}}})")));
        Redactor::global().add(&secrets);
    }
    let is_right = problems.is_empty();
    sections::foreign(document, section.at, problems);
    Some(Tracing {
        url: url.filter(|_| is_right)?,
        headers,
        service_name: service_name.unwrap_or_else(|| "millstream".to_owned()),
        ratio: keys.ratio,
        timeout: keys.timeout,
        queue: keys.queue,
        tls: keys.tls.unwrap_or_default(),
        base: folders.base.clone(),
    })
}

fn url_of(
    endpoint: &str,
    allow_plaintext: bool,
    has_tls: bool,
    at: &str,
    problems: &mut Vec<Problem>,
) -> Option<Url> {
    let example = "as in `endpoint = \"https://collector.example:4318\"`";
    let mut url = match Url::parse(endpoint) {
        Ok(url) if matches!(url.scheme(), "http" | "https") => url,
        Ok(url) => {
            let message = format!("{:?} is not spoken here, only OTLP over HTTP", url.scheme());
            problems.push(Problem::new(at, message).help(example));
            return None;
        }
        Err(error) => {
            problems.push(Problem::new(at, format!("not a url: {error}")).help(example));
            return None;
        }
    };
    if url.scheme() == "http" && has_tls {
        problems.push(
            Problem::new("/tls", "the endpoint begins with http://, so there is no TLS")
                .help("endpoint = \"https://...\""),
        );
    }
    if url.scheme() == "http" && !allow_plaintext && !tls::is_loopback(url.host_str().unwrap_or_default()) {
        problems.push(
            Problem::new(at, "spans would be sent unencrypted to another machine")
                .help("begin it with https://, or say `allow_plaintext = true`"),
        );
    }
    let path = format!("{}/v1/traces", url.path().trim_end_matches('/'));
    url.set_path(&path);
    Some(url)
}

/// `name=value,name=value`, values as in a url.
fn headers_of(text: &str) -> BTreeMap<String, String> {
    let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
    let decoded = |text: &str| percent_decode_str(text.trim()).decode_utf8_lossy().into_owned();
    pairs.map(|(name, value)| (name.trim().to_owned(), decoded(value))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_come_as_the_variable_has_them() {
        let headers = headers_of("api-key=a%20b=, x-tenant = t");
        let expected = [("api-key", "a b="), ("x-tenant", "t")];
        assert_eq!(headers, expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
    }

    #[test]
    fn the_path_of_traces_is_added() {
        let url = |endpoint| url_of(endpoint, false, false, "", &mut Vec::new()).unwrap().to_string();
        assert_eq!(url("http://127.0.0.1:4318"), "http://127.0.0.1:4318/v1/traces");
        assert_eq!(url("https://otlp.example/in/"), "https://otlp.example/in/v1/traces");
    }
}
