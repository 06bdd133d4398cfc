//! TLS: rustls with the provider ring, and PEM files.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, ensure};
use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

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
