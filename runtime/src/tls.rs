//! TLS: rustls with the provider ring, and PEM files.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, ensure};
use reqwest::{Certificate, Identity};
use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::problem::Problem;

/// Makes ring the provider of this process, if none is yet. To be called before TLS is used.
pub fn install_provider() {
    // It fails only where another call was first.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// The certificates of a PEM file, at least one.
///
/// # Errors
/// The file cannot be read, is no PEM, or holds no certificate; names it.
pub fn read_certificates(path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let certificates = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .with_context(|| format!("cannot read certificates from {}", path.display()))?;
    ensure!(!certificates.is_empty(), "there is no certificate in {}", path.display());
    Ok(certificates)
}

/// The private key of a PEM file.
///
/// # Errors
/// The file cannot be read, is no PEM, or holds no key that is not encrypted; names it.
pub fn read_key(path: &Path) -> anyhow::Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_file(path)
        .with_context(|| format!("cannot read a private key from {}", path.display()))
}

/// What a server of HTTP/1.1 needs to be trusted: its certificate and those up to its authority,
/// and its key.
///
/// # Errors
/// As for [`read_certificates`] and [`read_key`], or the two do not go together.
pub fn server_config(certificates: &Path, key: &Path) -> anyhow::Result<Arc<ServerConfig>> {
    install_provider();
    let mut config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(read_certificates(certificates)?, read_key(key)?)
        .with_context(|| format!("{} and {} do not go together", certificates.display(), key.display()))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config.into())
}

/// How a client trusts a server, and is trusted by it. Files are PEM, relative to the pipeline file.
#[derive(Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClientTls {
    /// Certificates of those who may sign the server's; by default those that the system trusts.
    ca_file: Option<PathBuf>,
    /// Our certificate, and those between it and its authority.
    cert_file: Option<PathBuf>,
    /// The private key of our certificate.
    key_file: Option<PathBuf>,
}

impl ClientTls {
    /// Adds what is wrong with the table `tls` of a section.
    pub fn check(&self, base: &Path, problems: &mut Vec<Problem>) {
        if let Err(error) = self.authorities(base) {
            problems.push(
                Problem::new("/tls/ca_file", format!("{error:#}")).help("a PEM file with certificates"),
            );
        }
        if self.cert_file.is_some() != self.key_file.is_some() {
            problems.push(
                Problem::new("/tls", "a certificate needs its key")
                    .help("cert_file and key_file, or neither"),
            );
        } else if let Err(error) = self.identity(base) {
            problems.push(
                Problem::new("/tls/cert_file", format!("{error:#}"))
                    .help("PEM files with a certificate and its key"),
            );
        }
    }

    /// Those who may sign the server's certificate, if not those that the system trusts.
    ///
    /// # Errors
    /// The file is not what it should be; names it.
    pub fn authorities(&self, base: &Path) -> anyhow::Result<Option<Vec<Certificate>>> {
        let Some(file) = &self.ca_file else { return Ok(None) };
        let path = base.join(file);
        let certificates = read_certificates(&path)?;
        let read = certificates
            .iter()
            .map(|certificate| Certificate::from_der(certificate))
            .collect::<Result<_, _>>();
        Ok(Some(read.with_context(|| format!("cannot use the certificates of {}", path.display()))?))
    }

    /// Our certificate and its key, if there are any.
    ///
    /// # Errors
    /// The files are not what they should be; names them.
    pub fn identity(&self, base: &Path) -> anyhow::Result<Option<Identity>> {
        let (Some(certificate), Some(key)) = (&self.cert_file, &self.key_file) else { return Ok(None) };
        let mut pem = Vec::new();
        read_certificates(&base.join(certificate))?;
        read_key(&base.join(key))?;
        for file in [certificate, key] {
            let path = base.join(file);
            pem.extend(std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?);
            pem.push(b'\n');
        }
        let identity = Identity::from_pem(&pem)
            .with_context(|| format!("{} and {} do not go together", certificate.display(), key.display()))?;
        Ok(Some(identity))
    }
}

/// Whether a host, as it stands in a url, is this machine itself.
pub fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// An authority and the certificates it has signed, as PEM files in a folder.
#[cfg(test)]
pub mod testing {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

    pub struct Certificates {
        pub folder: tempfile::TempDir,
    }

    impl Certificates {
        /// `ca.pem`; `server.pem` and `server.key` for 127.0.0.1; `client.pem` and `client.key`.
        pub fn make() -> Certificates {
            let folder = tempfile::tempdir().unwrap();
            let write = |name: &str, pem: String| std::fs::write(folder.path().join(name), pem).unwrap();
            let mut authority = CertificateParams::new(Vec::new()).unwrap();
            authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
            write("ca.pem", authority.pem());
            for (name, subject) in [("server", "127.0.0.1"), ("client", "client.example")] {
                let key = KeyPair::generate().unwrap();
                let params = CertificateParams::new(vec![subject.to_owned()]).unwrap();
                write(&format!("{name}.pem"), params.signed_by(&key, &authority).unwrap().pem());
                write(&format!("{name}.key"), key.serialize_pem());
            }
            Certificates { folder }
        }
    }
}
