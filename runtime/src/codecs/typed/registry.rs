//! Where a schema registry is, and how we are known to it.

use std::path::Path;
use std::time::Duration;

use millstream_registry::{Authentication, Keep, Registry, Settings, SubjectNames};
use reqwest::{Client, Url, redirect};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::problem::Problem;
use crate::config::units::Interval;
use crate::tls::{self, ClientTls};

/// A schema registry with the API of Confluent's. Schemas are kept by their id for as long as the process
/// runs. While the registry is away, messages whose schema is known go on, and those whose schema is not
/// wait, as does a sink that has not got its schema yet; an id that the registry does not know makes a
/// message a dead letter.
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RegistryKeys {
    /// Where it is, `https`, or `http` to this machine itself; its whole path, if it has one.
    url: String,
    /// The user of basic authentication.
    user: Option<String>,
    /// Its password.
    password: Option<String>,
    /// Sent as `Authorization: Bearer ...`.
    bearer_token: Option<String>,
    /// How long a request may take.
    #[serde(default = "timeout_default")]
    timeout: Interval,
    /// How long the newest version of a subject is taken for that. While the registry is away it stays.
    #[serde(default = "latest_for_default")]
    latest_for: Interval,
    /// How to trust the registry, and be trusted by it.
    tls: Option<ClientTls>,
    /// Ask unencrypted (`http`) also on other machines.
    #[serde(default)]
    allow_plaintext: bool,
}

fn timeout_default() -> Interval {
    Interval::secs(10)
}

fn latest_for_default() -> Interval {
    Interval::secs(300)
}

/// The subject of the schemas that a sink writes by.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Names {
    /// `TOPIC-value`.
    #[default]
    Topic,
    /// The full name of the record or message.
    Record,
    /// `TOPIC-` and the full name of the record or message.
    TopicRecord,
}

impl From<Names> for SubjectNames {
    fn from(names: Names) -> SubjectNames {
        match names {
            Names::Topic => SubjectNames::Topic,
            Names::Record => SubjectNames::Record,
            Names::TopicRecord => SubjectNames::TopicRecord,
        }
    }
}

impl RegistryKeys {
    /// How long what is kept.
    pub fn keep(&self) -> Keep {
        Keep { subject: self.latest_for.0, ..Keep::default() }
    }

    /// What asks it. Connects to nothing.
    pub fn open(&self, base: &Path) -> Result<Registry, Vec<Problem>> {
        let mut problems = Vec::new();
        let url = self.url(&mut problems);
        if self.timeout.0 < Duration::from_millis(1) {
            problems.push(Problem::new("/timeout", "no time at all").help("a time like \"10s\""));
        }
        let authentication = match (&self.user, &self.password, &self.bearer_token) {
            (None, None, None) => Authentication::None,
            (Some(user), Some(password), None) => {
                Authentication::Basic { user: user.clone(), password: password.clone() }
            }
            (None, None, Some(token)) => Authentication::Bearer(token.clone()),
            _ => {
                problems.push(
                    Problem::new("", "the credentials are neither of one kind nor of the other")
                        .help("`user` and `password`, or `bearer_token`, or none of them"),
                );
                Authentication::None
            }
        };
        let tls = self.tls.clone().unwrap_or_default();
        tls.check(base, &mut problems);
        if !problems.is_empty() {
            return Err(problems);
        }
        let wrong = |error: String| vec![Problem::new("", error)];
        let client = self.client(&url, &tls, base).map_err(|error| wrong(format!("{error:#}")))?;
        let settings = Settings { timeout: self.timeout.0, ..Settings::default() };
        Registry::new(client, &[url], &authentication, settings).map_err(wrong)
    }

    fn url(&self, problems: &mut Vec<Problem>) -> Url {
        let nowhere = || Url::parse("http://127.0.0.1").expect("a url");
        let url = match Url::parse(&self.url) {
            Ok(url) if matches!(url.scheme(), "http" | "https") => url,
            Ok(url) => {
                problems.push(
                    Problem::new("/url", format!("{:?} is not spoken here", url.scheme()))
                        .help("a url that begins with https:// or http://"),
                );
                return nowhere();
            }
            Err(error) => {
                problems.push(
                    Problem::new("/url", format!("not a url: {error}"))
                        .help("as in `url = \"https://registry.example\"`"),
                );
                return nowhere();
            }
        };
        if url.scheme() == "http" {
            if self.tls.is_some() {
                problems.push(
                    Problem::new("/tls", "the url begins with http://, so there is no TLS")
                        .help("url = \"https://...\""),
                );
            }
            if !self.allow_plaintext && !tls::is_loopback(url.host_str().unwrap_or_default()) {
                problems.push(
                    Problem::new("/url", "schemas and credentials would go unencrypted to another machine")
                        .help("begin it with https://, or say `allow_plaintext = true`"),
                );
            }
        }
        url
    }

    fn client(&self, url: &Url, tls: &ClientTls, base: &Path) -> anyhow::Result<Client> {
        tls::install_provider();
        let mut builder = Client::builder()
            .user_agent(concat!("millstream/", env!("CARGO_PKG_VERSION")))
            .redirect(redirect::Policy::none())
            .no_proxy()
            .timeout(self.timeout.0);
        if url.scheme() == "http" {
            // The system's certificates are not looked for, which may not be there.
            builder = builder.tls_certs_only([]);
        }
        if let Some(authorities) = tls.authorities(base)? {
            builder = builder.tls_certs_only(authorities);
        }
        if let Some(identity) = tls.identity(base)? {
            builder = builder.identity(identity);
        }
        Ok(builder.build()?)
    }
}
