//! How services of AWS are reached, and who we are to them.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;

use anyhow::{Context, bail};
use aws_config::sts::AssumeRoleProvider;
use aws_config::timeout::TimeoutConfig;
use aws_config::{AppName, BehaviorVersion, Region, SdkConfig};
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider, future};
use aws_smithy_http_client::Builder;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore, rustls_provider::CryptoMode};
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use aws_smithy_types::retry::RetryConfig;
use reqwest::Url;
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::sync::OnceCell;

use crate::config::problem::Problem;
use crate::config::secrets::{Redactor, Secrets};
use crate::config::units::Interval;
use crate::tls;

/// How the services are reached, and who we are to them. Credentials are looked for as all SDKs of
/// AWS do, by default: in the environment (`AWS_ACCESS_KEY_ID` and so on), the files of the profile
/// (`~/.aws/config`, `~/.aws/credentials`, single sign-on too), the token of a web identity (as
/// Kubernetes gives it), the role of the container, the role of the instance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Access {
    /// The region, as `eu-central-1`. By default that of the environment (`AWS_REGION`), the profile,
    /// or the instance.
    region: Option<String>,
    /// A url that is asked in place of the service's own, as of a VPC endpoint.
    endpoint: Option<String>,
    /// A profile of the files in `~/.aws`, with which credentials and region are looked for.
    profile: Option<String>,
    /// ARN of a role that is assumed with the credentials found.
    role: Option<String>,
    /// What that role asks for to be assumed from another account.
    external_id: Option<String>,
    /// Certificates (PEM, relative to the pipeline file) of those who may sign the services'; by
    /// default those that the system trusts.
    ca_file: Option<PathBuf>,
    /// How long a service may take to answer, beyond what it was asked to wait.
    timeout: Option<Interval>,
    /// Use an `endpoint` without TLS (`http`) also on other machines.
    allow_plaintext: bool,
}

/// A service answers most requests within a fraction of a second.
const TIMEOUT: Duration = Duration::from_secs(30);

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

impl Access {
    /// Adds what is wrong with it, whose section is `at` (as `/aws`). Looks at files, connects to nothing.
    pub fn check(&self, at: &str, base: &Path, problems: &mut Vec<Problem>) {
        if let Some(endpoint) = &self.endpoint {
            self.check_endpoint(&format!("{at}/endpoint"), endpoint, problems);
        }
        let named = [
            ("region", &self.region),
            ("profile", &self.profile),
            ("role", &self.role),
            ("external_id", &self.external_id),
        ];
        for (key, _) in named.iter().filter(|(_, value)| value.as_ref().is_some_and(String::is_empty)) {
            problems.push(Problem::new(format!("{at}/{key}"), "it is empty").help("a value, or no such key"));
        }
        if let Some(role) = self.role.as_ref().filter(|role| !role.is_empty() && !role.starts_with("arn:")) {
            problems.push(
                Problem::new(format!("{at}/role"), format!("{role:?} is no ARN"))
                    .help("as in `role = \"arn:aws:iam::123456789012:role/orders\"`"),
            );
        }
        if self.external_id.is_some() && self.role.is_none() {
            problems.push(
                Problem::new(format!("{at}/external_id"), "there is no role that asks for it")
                    .help("role = \"arn:aws:iam::123456789012:role/...\""),
            );
        }
        if let Some(file) = &self.ca_file
            && let Err(error) = tls::read_certificates(&base.join(file))
        {
            problems.push(
                Problem::new(format!("{at}/ca_file"), format!("{error:#}"))
                    .help("a PEM file with certificates"),
            );
        }
        if self.timeout.is_some_and(|timeout| timeout.0.is_zero()) {
            problems
                .push(Problem::new(format!("{at}/timeout"), "no time at all").help("a time like \"30s\""));
        }
    }

    fn check_endpoint(&self, at: &str, endpoint: &str, problems: &mut Vec<Problem>) {
        match Url::parse(endpoint) {
            Ok(url) if url.scheme() == "https" => {}
            Ok(url) if url.scheme() == "http" => {
                if !self.allow_plaintext && !tls::is_loopback(url.host_str().unwrap_or_default()) {
                    problems.push(
                        Problem::new(at, "messages would go unencrypted to another machine")
                            .help("begin it with https://, or say `allow_plaintext = true`"),
                    );
                }
            }
            _ => problems.push(
                Problem::new(at, format!("{endpoint:?} is no url that can be asked"))
                    .help("as in `endpoint = \"https://vpce-0a1b.sqs.eu-central-1.vpce.amazonaws.com\"`"),
            ),
        }
    }

    /// What is not said here is as in `other`.
    #[must_use]
    pub fn or(&self, other: &Access) -> Access {
        let or = |ours: &Option<String>, theirs: &Option<String>| ours.clone().or_else(|| theirs.clone());
        Access {
            region: or(&self.region, &other.region),
            endpoint: or(&self.endpoint, &other.endpoint),
            profile: or(&self.profile, &other.profile),
            role: or(&self.role, &other.role),
            external_id: or(&self.external_id, &other.external_id),
            ca_file: self.ca_file.clone().or_else(|| other.ca_file.clone()),
            timeout: self.timeout.or(other.timeout),
            allow_plaintext: self.allow_plaintext || other.allow_plaintext,
        }
    }

    /// The same, as another service is reached.
    #[must_use]
    pub fn without_endpoint(&self) -> Access {
        Access { endpoint: None, ..self.clone() }
    }
}

/// The client of a service, made when it is first needed: the region may have to be asked for.
pub struct Connection<C> {
    access: Access,
    base: PathBuf,
    /// What a service may be asked to wait before it answers.
    waits: Duration,
    make: fn(&SdkConfig) -> C,
    client: OnceCell<C>,
}

impl<C> Connection<C> {
    /// `make` is that of the client, as `aws_sdk_sqs::Client::new`.
    pub fn new(access: Access, base: &Path, make: fn(&SdkConfig) -> C) -> Connection<C> {
        let (base, waits, client) = (base.to_owned(), Duration::ZERO, OnceCell::new());
        Connection { access, base, waits, make, client }
    }

    /// `waits` is the longest time that the service is asked to wait before it answers (long polling).
    #[must_use]
    pub fn that_waits(self, waits: Duration) -> Connection<C> {
        Connection { waits, ..self }
    }

    /// The client. It does not repeat what fails: who asks knows better what to do then.
    ///
    /// # Errors
    /// No region can be found, or a certificate cannot be read: no waiting helps.
    pub async fn client(&self) -> anyhow::Result<&C> {
        self.client.get_or_try_init(|| async { self.load().await.map(|config| (self.make)(&config)) }).await
    }

    async fn load(&self) -> anyhow::Result<SdkConfig> {
        let access = &self.access;
        let timeout = access.timeout.map_or(TIMEOUT, |timeout| timeout.0) + self.waits;
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(CONNECT_TIMEOUT.min(timeout))
            .operation_attempt_timeout(timeout)
            .operation_timeout(timeout)
            .build();
        let client = match &access.ca_file {
            Some(file) => client_that_trusts(&self.base.join(file))?,
            None => CLIENT.clone(),
        };
        let mut loader = aws_config::defaults(BehaviorVersion::v2026_01_12())
            .app_name(AppName::new("millstream").context("the name of the program")?)
            .http_client(client)
            .retry_config(RetryConfig::disabled())
            .timeout_config(timeouts);
        if let Some(region) = &access.region {
            loader = loader.region(Region::new(region.clone()));
        }
        if let Some(profile) = &access.profile {
            loader = loader.profile_name(profile);
        }
        let config = with_role(access, loader.load().await).await;
        if config.region().is_none() {
            bail!("no region is known; say `aws = {{ region = \"...\" }}` or set AWS_REGION");
        }
        let mut builder = config.to_builder();
        if let Some(endpoint) = &access.endpoint {
            builder.set_endpoint_url(Some(endpoint.clone()));
        }
        if let Some(credentials) = config.credentials_provider() {
            builder.set_credentials_provider(Some(SharedCredentialsProvider::new(Redacted(credentials))));
        }
        Ok(builder.build())
    }
}

/// The service of roles is asked at its own address, not at that of `endpoint`.
async fn with_role(access: &Access, config: SdkConfig) -> SdkConfig {
    let Some(role) = &access.role else { return config };
    let mut provider = AssumeRoleProvider::builder(role).configure(&config).session_name("millstream");
    if let Some(id) = &access.external_id {
        provider = provider.external_id(id);
    }
    let provider = match config.credentials_provider() {
        Some(credentials) => provider.build_from_provider(credentials).await,
        None => provider.build().await,
    };
    config.into_builder().credentials_provider(SharedCredentialsProvider::new(provider)).build()
}

/// Shared, with its connections, by all clients of the process.
static CLIENT: LazyLock<SharedHttpClient> =
    LazyLock::new(|| Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https());

fn client_that_trusts(file: &Path) -> anyhow::Result<SharedHttpClient> {
    // Names the file if it holds none, which the client would not.
    tls::read_certificates(file)?;
    let pem = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let context = TlsContext::builder()
        .with_trust_store(TrustStore::empty().with_pem_certificate(pem))
        .build()
        .with_context(|| format!("cannot use the certificates of {}", file.display()))?;
    let builder = Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring));
    Ok(builder.tls_context(context).build_https())
}

/// Credentials whose secret parts are blanked out of whatever is printed: a service that refuses a
/// signature tells what it had to sign, the session's token too.
#[derive(Debug)]
struct Redacted(SharedCredentialsProvider);

impl ProvideCredentials for Redacted {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async {
            let credentials = self.0.provide_credentials().await?;
            let mut secrets = Secrets::default();
            secrets.add(credentials.secret_access_key(), "(the secret key)");
            if let Some(token) = credentials.session_token() {
                secrets.add(token, "(the session's token)");
            }
            Redactor::global().add(&secrets);
            Ok(credentials)
        })
    }

    fn fallback_on_interrupt(&self) -> Option<aws_credential_types::Credentials> {
        self.0.fallback_on_interrupt()
    }
}
