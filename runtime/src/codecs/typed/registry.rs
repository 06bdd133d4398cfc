//! Where a schema registry is, and how we are known to it.

use std::path::Path;
use std::time::Duration;

use millstream_registry::{Authentication, Keep, Registry, Settings, SubjectNames};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::problem::Problem;
use crate::config::units::Interval;
use crate::http_client::{self, Destination};
use crate::tls::ClientTls;

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
        let destination = Destination {
            url: &self.url,
            has_tls: self.tls.is_some(),
            allow_plaintext: self.allow_plaintext,
            example: "url = \"https://registry.example\"",
            plaintext: "schemas and credentials would go unencrypted to another machine",
        };
        let url = destination.check(&mut problems);
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
        let Some(url) = url.filter(|_| problems.is_empty()) else { return Err(problems) };
        let wrong = |error: String| vec![Problem::new("", error)];
        let client = http_client::builder(&url, &tls, base)
            .and_then(|builder| Ok(builder.timeout(self.timeout.0).build()?))
            .map_err(|error| wrong(format!("{error:#}")))?;
        let settings = Settings { timeout: self.timeout.0, ..Settings::default() };
        Registry::new(client, &[url], &authentication, settings).map_err(wrong)
    }
}
