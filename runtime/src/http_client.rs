//! Clients of HTTP: where they may send to, and what is the same for all of them.

use std::path::Path;

use reqwest::{Client, ClientBuilder, Url, redirect};

use crate::config::problem::Problem;
use crate::tls::{self, ClientTls};

/// The key `url` of a section, with those that go with it.
pub struct Destination<'a> {
    pub url: &'a str,
    pub has_tls: bool,
    pub allow_plaintext: bool,
    /// A url as it should be, as a line of the section.
    pub example: &'a str,
    /// What is wrong with sending unencrypted to another machine.
    pub plaintext: &'a str,
}

impl Destination<'_> {
    /// The url; what is wrong with it is added.
    pub fn check(&self, problems: &mut Vec<Problem>) -> Option<Url> {
        let url = match Url::parse(self.url) {
            Ok(url) if matches!(url.scheme(), "http" | "https") => url,
            Ok(url) => {
                problems.push(
                    Problem::new("/url", format!("{:?} is not spoken here", url.scheme()))
                        .help("a url that begins with https:// or http://"),
                );
                return None;
            }
            Err(error) => {
                problems.push(
                    Problem::new("/url", format!("not a url: {error}"))
                        .help(format!("as in `{}`", self.example)),
                );
                return None;
            }
        };
        if url.scheme() == "http" {
            if self.has_tls {
                problems.push(
                    Problem::new("/tls", "the url begins with http://, so there is no TLS")
                        .help("url = \"https://...\""),
                );
            }
            if !self.allow_plaintext && !tls::is_loopback(url.host_str().unwrap_or_default()) {
                problems.push(
                    Problem::new("/url", self.plaintext)
                        .help("begin it with https://, or say `allow_plaintext = true`"),
                );
            }
        }
        Some(url)
    }
}

/// A client for one server, to which limits can be added: it follows no redirects, so that credentials go
/// nowhere else, and uses no proxy. `base` is where the paths of `tls` start.
///
/// # Errors
/// A file of `tls` is not what it should be; names it.
pub fn builder(url: &Url, tls: &ClientTls, base: &Path) -> anyhow::Result<ClientBuilder> {
    tls::install_provider();
    let mut builder = Client::builder()
        .user_agent(concat!("millstream/", env!("CARGO_PKG_VERSION")))
        .redirect(redirect::Policy::none())
        .no_proxy();
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
    Ok(builder)
}
