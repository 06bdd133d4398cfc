//! The requests to a registry.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use reqwest::{Client, Method, Url};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::answers::Asked;
use crate::schema::{Compatibility, Level, Registered, Schema, Version};
use crate::{Error, Kind};

const MEDIA_TYPE: &str = "application/vnd.schemaregistry.v1+json";

/// Some registries answer in their own JSON to whoever asks for Confluent's alone.
const ACCEPTED: &str = "application/vnd.schemaregistry.v1+json, application/json";

/// How we say who we are.
#[derive(Clone, Default)]
pub enum Authentication {
    #[default]
    None,
    Basic {
        user: String,
        password: String,
    },
    Bearer(String),
}

/// Without what is secret.
impl fmt::Debug for Authentication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Authentication::None => f.write_str("None"),
            Authentication::Basic { user, .. } => write!(f, "Basic {{ user: {user:?}, .. }}"),
            Authentication::Bearer(_) => f.write_str("Bearer(..)"),
        }
    }
}

/// The limits of a [`Registry`].
#[derive(Clone, Debug)]
pub struct Settings {
    /// What a request may take, from connecting to the end of the answer.
    pub timeout: Duration,
    /// What an answer may have.
    pub max_answer_bytes: usize,
    /// Schemas that a schema may refer to, directly or through others.
    pub max_references: usize,
    /// How far references may go on from one to the next.
    pub max_reference_depth: usize,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            timeout: Duration::from_secs(10),
            max_answer_bytes: 4 << 20,
            max_references: 200,
            max_reference_depth: 16,
        }
    }
}

/// A schema registry.
pub struct Registry {
    client: Client,
    /// Of servers with the same schemas, as they are asked, and as they are told in errors.
    servers: Vec<(Url, String)>,
    /// The one that answered last.
    current: AtomicUsize,
    authorization: Option<HeaderValue>,
    secrets: Vec<String>,
    pub(crate) settings: Settings,
}

impl Registry {
    /// The client brings its TLS along, and follows no redirects: credentials would go with them. Of
    /// several urls those behind the first are asked when one is not available.
    ///
    /// # Errors
    /// There is no url, one is not of http or https, or holds credentials; or the credentials hold a
    /// control character.
    pub fn new(
        client: Client,
        urls: &[Url],
        authentication: &Authentication,
        settings: Settings,
    ) -> Result<Registry, String> {
        if urls.is_empty() {
            return Err("there is no url of a registry".to_owned());
        }
        let servers = urls.iter().map(server).collect::<Result<_, _>>()?;
        let (authorization, secrets) = match authentication {
            Authentication::None => (None, Vec::new()),
            Authentication::Basic { user, password } => {
                if user.contains(':') {
                    return Err("the user of a registry cannot have a colon in its name".to_owned());
                }
                let both = BASE64_STANDARD.encode(format!("{user}:{password}"));
                (Some(format!("Basic {both}")), vec![both, password.clone()])
            }
            Authentication::Bearer(token) => (Some(format!("Bearer {token}")), vec![token.clone()]),
        };
        let authorization = match authorization {
            Some(text) => {
                let value = HeaderValue::try_from(text);
                let mut value = value.map_err(|_| "the credentials hold a control character".to_owned())?;
                value.set_sensitive(true);
                Some(value)
            }
            None => None,
        };
        let secrets = secrets.into_iter().filter(|secret| !secret.is_empty()).collect();
        Ok(Registry { client, servers, current: AtomicUsize::new(0), authorization, secrets, settings })
    }

    /// The schema that messages are marked with.
    ///
    /// # Errors
    /// See [`Error`]; [`Error::NotFound`] if there is none.
    pub async fn schema(&self, id: u32) -> Result<Schema, Error> {
        self.get(&format!("schema {id}"), &["schemas", "ids", &id.to_string()], &[]).await
    }

    /// A version of a subject.
    ///
    /// # Errors
    /// See [`Error`]; [`Error::NotFound`] if there is no such subject or version.
    pub async fn version(&self, subject: &str, version: Version) -> Result<Registered, Error> {
        let what = format!("version {version} of subject {subject:?}");
        self.get(&what, &["subjects", subject, "versions", &version.to_string()], &[]).await
    }

    /// As [`Registry::version`], also if it has been deleted since: what refers to it still needs it.
    pub(crate) async fn referred(
        &self,
        what: &str,
        subject: &str,
        version: u32,
    ) -> Result<Registered, Error> {
        let path = ["subjects", subject, "versions", &version.to_string()];
        self.get(what, &path, &[("deleted", "true")]).await
    }

    /// Makes a schema the newest version of a subject, if it is none yet, and returns its id. The same
    /// schema has the same id every time.
    ///
    /// # Errors
    /// See [`Error`]; [`Error::Rejected`] if the registry does not take it, and why.
    pub async fn register(&self, subject: &str, schema: &Schema) -> Result<u32, Error> {
        #[derive(Deserialize)]
        struct Answer {
            id: u32,
        }
        let what = format!("a schema for subject {subject:?}");
        let answer: Answer = self.post(&what, &["subjects", subject, "versions"], &[], schema).await?;
        Ok(answer.id)
    }

    /// The id and version under which a subject has this schema.
    ///
    /// # Errors
    /// See [`Error`]; [`Error::NotFound`] if there is no such subject, or it does not have the schema.
    pub async fn find(&self, subject: &str, schema: &Schema) -> Result<Registered, Error> {
        let what = format!("this schema in subject {subject:?}");
        let mut found: Registered = self.post(&what, &["subjects", subject], &[], schema).await?;
        // Not every registry repeats it.
        found.schema.kind = schema.kind;
        Ok(found)
    }

    /// Whether a schema could be registered, as far as this version of the subject is concerned.
    ///
    /// # Errors
    /// See [`Error`]; most registries say [`Error::NotFound`] if there is no such subject or version.
    pub async fn compatibility(
        &self,
        subject: &str,
        version: Version,
        schema: &Schema,
    ) -> Result<Compatibility, Error> {
        #[derive(Deserialize)]
        struct Answer {
            is_compatible: bool,
            #[serde(default)]
            messages: Option<Vec<String>>,
        }
        let what = format!("compatibility with version {version} of subject {subject:?}");
        let path = ["compatibility", "subjects", subject, "versions", &version.to_string()];
        let answer: Answer = self.post(&what, &path, &[("verbose", "true")], schema).await?;
        Ok(Compatibility { compatible: answer.is_compatible, messages: answer.messages.unwrap_or_default() })
    }

    /// What is asked of a new version of a subject, be it by its own rule or by that of all.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn level(&self, subject: &str) -> Result<Level, Error> {
        #[derive(Deserialize)]
        struct Answer {
            #[serde(rename = "compatibilityLevel")]
            level: Level,
        }
        let what = format!("the compatibility level of subject {subject:?}");
        let query = [("defaultToGlobal", "true")];
        let answer: Answer = self.get(&what, &["config", subject], &query).await?;
        Ok(answer.level)
    }

    async fn get<A: DeserializeOwned>(
        &self,
        what: &str,
        path: &[&str],
        query: &[(&str, &str)],
    ) -> Result<A, Error> {
        self.ask(what, path, query, None).await
    }

    async fn post<A: DeserializeOwned>(
        &self,
        what: &str,
        path: &[&str],
        query: &[(&str, &str)],
        schema: &Schema,
    ) -> Result<A, Error> {
        self.ask(what, path, query, Some(schema)).await
    }

    /// Asks the servers in turn, from the one that answered last, until one is available.
    async fn ask<A: DeserializeOwned>(
        &self,
        what: &str,
        path: &[&str],
        query: &[(&str, &str)],
        schema: Option<&Schema>,
    ) -> Result<A, Error> {
        if path.iter().any(|segment| matches!(*segment, "" | "." | "..")) {
            let reason = "its name cannot stand in a url".to_owned();
            return Err(Error::Unusable { what: what.to_owned(), reason });
        }
        let first = self.current.load(Ordering::Relaxed);
        let mut tried = 0;
        loop {
            let index = (first + tried) % self.servers.len();
            let answer = self.ask_one(index, what, path, query, schema).await;
            tried += 1;
            match answer {
                Err(Error::Unavailable { .. }) if tried < self.servers.len() => {}
                answer => {
                    self.current.store(index, Ordering::Relaxed);
                    return answer;
                }
            }
        }
    }

    async fn ask_one<A: DeserializeOwned>(
        &self,
        index: usize,
        what: &str,
        path: &[&str],
        query: &[(&str, &str)],
        schema: Option<&Schema>,
    ) -> Result<A, Error> {
        let (url, registry) = &self.servers[index];
        let asked = Asked { what, registry, secrets: &self.secrets };
        let mut url = url.clone();
        url.path_segments_mut().expect("checked in `server`").pop_if_empty().extend(path);
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let method = if schema.is_some() { Method::POST } else { Method::GET };
        let mut request =
            self.client.request(method, url).timeout(self.settings.timeout).header(ACCEPT, ACCEPTED);
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization.clone());
        }
        if let Some(schema) = schema {
            request = request.header(CONTENT_TYPE, MEDIA_TYPE).body(written(schema));
        }
        let response = request.send().await.map_err(|error| asked.failed(error))?;
        let body = asked.body(response, self.settings.max_answer_bytes).await?;
        serde_json::from_slice(&body).map_err(|error| asked.not_understood(&error, &body))
    }
}

/// A schema as a request holds it.
fn written(schema: &Schema) -> Vec<u8> {
    let mut value = serde_json::to_value(schema).expect("text, numbers and lists");
    // The default, and what registries of before 2019 do not know.
    if schema.kind == Kind::Avro {
        value.as_object_mut().expect("a struct").remove("schemaType");
    }
    value.to_string().into_bytes()
}

/// A url as it is asked, and without its query as it is told.
fn server(url: &Url) -> Result<(Url, String), String> {
    let mut told = url.clone();
    told.set_query(None);
    told.set_fragment(None);
    if !matches!(url.scheme(), "http" | "https") {
        return Err(format!(
            "the url of a registry begins with https:// or http://, not {}://",
            url.scheme()
        ));
    }
    if !url.username().is_empty() || url.password().is_some() {
        let host = url.host_str().unwrap_or_default();
        return Err(format!(
            "the url of the registry at {host} holds credentials; give them apart from the url"
        ));
    }
    let told = told.as_str().trim_end_matches('/').to_owned();
    Ok((url.clone(), told))
}
