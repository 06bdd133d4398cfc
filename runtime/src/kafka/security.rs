//! How a cluster is trusted, and trusts us.

use std::path::{Path, PathBuf};

use anyhow::Context;
use rdkafka::ClientConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::token::{TokenSource, Tokens};
use crate::config::problem::Problem;
use crate::tls;

/// How a cluster is trusted, and trusts us.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Security {
    /// What a connection is made with. By default that which the other keys call for: `sasl-ssl` with
    /// `sasl`, `ssl` with `tls`, `plaintext` without both.
    protocol: Option<Protocol>,
    /// Who we are, by a password or a token.
    sasl: Option<Sasl>,
    /// Which certificates are trusted, and our own.
    tls: Option<Tls>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Protocol {
    /// Neither encrypted nor signed in.
    Plaintext,
    /// Encrypted.
    Ssl,
    /// Signed in over a connection that is not encrypted: who listens reads the messages, and with
    /// PLAIN and OAUTHBEARER the credentials too.
    SaslPlaintext,
    /// Encrypted and signed in.
    SaslSsl,
}

/// Who we are, by a password or a token.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Sasl {
    /// How we sign in.
    mechanism: Mechanism,
    /// For PLAIN and SCRAM.
    username: Option<String>,
    /// For PLAIN and SCRAM.
    password: Option<String>,
    /// For OAUTHBEARER: where a token is asked for, with the grant `client_credentials` (RFC 6749,
    /// section 4.4). `https`, or `http` to this machine itself.
    token_url: Option<String>,
    /// For OAUTHBEARER.
    client_id: Option<String>,
    /// For OAUTHBEARER.
    client_secret: Option<String>,
    /// For OAUTHBEARER: asked for with the token, if given.
    scope: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
enum Mechanism {
    #[serde(rename = "PLAIN")]
    Plain,
    #[serde(rename = "SCRAM-SHA-256")]
    ScramSha256,
    #[serde(rename = "SCRAM-SHA-512")]
    ScramSha512,
    #[serde(rename = "OAUTHBEARER")]
    OAuthBearer,
}

impl Mechanism {
    fn as_str(self) -> &'static str {
        match self {
            Mechanism::Plain => "PLAIN",
            Mechanism::ScramSha256 => "SCRAM-SHA-256",
            Mechanism::ScramSha512 => "SCRAM-SHA-512",
            Mechanism::OAuthBearer => "OAUTHBEARER",
        }
    }
}

/// Files are PEM, relative to the pipeline file.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Tls {
    /// Certificates of those who may sign the brokers'; by default those that the system trusts.
    ca_file: Option<PathBuf>,
    /// Our certificate, and those between it and its authority.
    cert_file: Option<PathBuf>,
    /// The private key of our certificate.
    key_file: Option<PathBuf>,
    /// With which the private key is encrypted, if it is.
    key_password: Option<String>,
}

impl Security {
    fn protocol(&self) -> Protocol {
        self.protocol.unwrap_or(match (&self.sasl, &self.tls) {
            (Some(_), _) => Protocol::SaslSsl,
            (None, Some(_)) => Protocol::Ssl,
            (None, None) => Protocol::Plaintext,
        })
    }

    pub fn check(&self, base: &Path, brokers: &[String], problems: &mut Vec<Problem>) {
        if self.protocol.is_none() && self.protocol() == Protocol::Plaintext {
            let host = |broker: &String| broker.rsplit_once(':').map(|(host, _)| host.to_owned());
            let remote = |broker: &&String| host(broker).is_some_and(|host| !tls::is_loopback(&host));
            if let Some(broker) = brokers.iter().find(remote) {
                let message = format!("messages would go unencrypted to another machine ({broker})");
                let help = "security = { protocol = \"ssl\" }, or \"plaintext\" if that is meant";
                problems.push(Problem::new("/brokers", message).help(help));
            }
        }
        let protocol = self.protocol();
        let with_sasl = matches!(protocol, Protocol::SaslPlaintext | Protocol::SaslSsl);
        let at = "/security/protocol";
        match &self.sasl {
            None if with_sasl => {
                let help = "a section with it: [source.security.sasl]\nmechanism = \"SCRAM-SHA-512\"";
                problems.push(Problem::new(at, "this protocol needs `sasl`").help(help));
            }
            Some(_) if !with_sasl => {
                problems.push(Problem::new(at, "with this protocol `sasl` is not used").help("\"sasl-ssl\""));
            }
            Some(sasl) => sasl.check(problems),
            None => {}
        }
        let Some(tls) = &self.tls else { return };
        if matches!(protocol, Protocol::Plaintext | Protocol::SaslPlaintext) {
            problems.push(
                Problem::new(at, "with this protocol `tls` is not used").help("\"ssl\" or \"sasl-ssl\""),
            );
        }
        tls.check(base, problems);
    }

    pub(super) fn configure(&self, base: &Path, config: &mut ClientConfig) {
        config.set(
            "security.protocol",
            match self.protocol() {
                Protocol::Plaintext => "plaintext",
                Protocol::Ssl => "ssl",
                Protocol::SaslPlaintext => "sasl_plaintext",
                Protocol::SaslSsl => "sasl_ssl",
            },
        );
        if let Some(sasl) = &self.sasl {
            config.set("sasl.mechanisms", sasl.mechanism.as_str());
            for (key, value) in [("sasl.username", &sasl.username), ("sasl.password", &sasl.password)] {
                if let Some(value) = value {
                    config.set(key, value);
                }
            }
        }
        let Some(tls) = &self.tls else { return };
        for (key, file) in [
            ("ssl.ca.location", &tls.ca_file),
            ("ssl.certificate.location", &tls.cert_file),
            ("ssl.key.location", &tls.key_file),
        ] {
            if let Some(file) = file {
                config.set(key, base.join(file).to_string_lossy());
            }
        }
        if let Some(password) = &tls.key_password {
            config.set("ssl.key.password", password);
        }
    }

    /// Where tokens for OAUTHBEARER come from, if that is the mechanism.
    pub(super) fn tokens(&self) -> anyhow::Result<Option<Tokens>> {
        let Some(sasl) = self.sasl.as_ref().filter(|sasl| sasl.mechanism == Mechanism::OAuthBearer) else {
            return Ok(None);
        };
        let given =
            |value: &Option<String>, key: &str| value.clone().with_context(|| format!("`{key}` is missing"));
        let source = TokenSource {
            url: given(&sasl.token_url, "token_url")?,
            client_id: given(&sasl.client_id, "client_id")?,
            client_secret: given(&sasl.client_secret, "client_secret")?,
            scope: sasl.scope.clone(),
        };
        Tokens::new(source).map(Some)
    }
}

impl Sasl {
    fn check(&self, problems: &mut Vec<Problem>) {
        let by_password = [("username", &self.username), ("password", &self.password)];
        let by_token = [
            ("token_url", &self.token_url),
            ("client_id", &self.client_id),
            ("client_secret", &self.client_secret),
        ];
        let (needed, unused): (&[_], &[_]) = match self.mechanism {
            Mechanism::OAuthBearer => (&by_token, &by_password),
            _ => (&by_password, &by_token),
        };
        let mechanism = self.mechanism.as_str();
        for (key, _) in needed.iter().filter(|(_, value)| value.is_none()) {
            let help = format!("add: {key} = \"...\"");
            problems.push(Problem::new("/security/sasl", format!("{mechanism} needs `{key}`")).help(help));
        }
        for (key, _) in unused.iter().filter(|(_, value)| value.is_some()) {
            let at = format!("/security/sasl/{key}");
            problems.push(Problem::new(at, format!("{mechanism} has no `{key}`")).help("remove it"));
        }
        if let Some(url) = &self.token_url
            && let Err(reason) = TokenSource::check_url(url)
        {
            problems.push(Problem::new("/security/sasl/token_url", reason).help("an `https` url"));
        }
    }
}

impl Tls {
    fn check(&self, base: &Path, problems: &mut Vec<Problem>) {
        let mut read = |key: &str, file: &Option<PathBuf>| {
            let Some(file) = file else { return };
            if let Err(error) = tls::read_certificates(&base.join(file)) {
                problems.push(Problem::new(format!("/security/tls/{key}"), format!("{error:#}")));
            }
        };
        read("ca_file", &self.ca_file);
        read("cert_file", &self.cert_file);
        if let Some(file) = &self.key_file
            && let Err(error) = std::fs::File::open(base.join(file))
        {
            let message = format!("cannot read {}: {error}", base.join(file).display());
            problems.push(Problem::new("/security/tls/key_file", message));
        }
        if self.cert_file.is_some() != self.key_file.is_some() {
            let message = "`cert_file` and `key_file` go together";
            problems.push(Problem::new("/security/tls", message).help("name both, or none"));
        }
        if self.key_password.is_some() && self.key_file.is_none() {
            problems
                .push(Problem::new("/security/tls/key_password", "there is no `key_file` that it is for"));
        }
    }
}
