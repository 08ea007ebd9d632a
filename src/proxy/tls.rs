//! TLS on the public port, and to the app.
//!
//! The certificate of the public port is read again when the contents of its files change, whether
//! they were overwritten, renamed, or replaced through a symbolic link as Kubernetes does. Open
//! connections keep the certificate with which they were established.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hyper_rustls::ConfigBuilderExt;
use parking_lot::RwLock;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tracing::{info, warn};

use crate::config::Tls;
use crate::watched::{Watched, finished};

/// Why TLS cannot be served on the public port.
#[derive(Debug, thiserror::Error)]
#[error("tls: {path}: {reason}")]
pub struct TlsError {
    path: PathBuf,
    reason: String,
}

/// The certificate of the public port, as it was read last.
#[derive(Debug)]
pub struct Certificates {
    files: Tls,
    config: Arc<ServerConfig>,
    current: Arc<Current>,
    /// The files as they were read first.
    watched: Watched,
}

#[derive(Debug)]
struct Current {
    key: RwLock<Arc<CertifiedKey>>,
}

impl ResolvesServerCert for Current {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.key.read().clone())
    }
}

impl Certificates {
    /// Reads certificate and key.
    ///
    /// # Errors
    /// A file that cannot be read, holds no certificate or key, or does not fit the other.
    pub fn read(files: &Tls) -> Result<Arc<Certificates>, TlsError> {
        let watched = Watched::new(vec![files.cert_file.clone(), files.key_file.clone()]);
        let current = Arc::new(Current { key: RwLock::new(read_key(files)?) });
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|reason| error(&files.cert_file, reason.to_string()))?
            .with_no_client_auth()
            .with_cert_resolver(current.clone());
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let config = Arc::new(config);
        Ok(Arc::new(Certificates { files: files.clone(), config, current, watched }))
    }

    /// For new connections; each handshake takes the newest certificate.
    pub fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.config.clone())
    }

    /// Reads the files again whenever they have changed; runs until it is dropped. Files that do not
    /// fit each other, as between two writes, and files that cannot be read change nothing, and are told
    /// of once.
    pub async fn follow(&self) {
        let mut watched = self.watched.clone();
        loop {
            watched.changed().await;
            self.renew().await;
        }
    }

    async fn renew(&self) {
        let files = self.files.clone();
        match finished(tokio::task::spawn_blocking(move || read_key(&files))).await {
            Some(Ok(key)) => {
                *self.current.key.write() = key;
                info!(cert_file = %self.files.cert_file.display(), "the certificate was read again");
            }
            Some(Err(error)) => warn!(%error, "the old certificate stays in use"),
            None => {}
        }
    }
}

fn error(path: &Path, reason: String) -> TlsError {
    TlsError { path: path.to_path_buf(), reason }
}

fn read_key(files: &Tls) -> Result<Arc<CertifiedKey>, TlsError> {
    let certificates: Vec<CertificateDer<'static>> =
        CertificateDer::pem_file_iter(&files.cert_file)
            .and_then(Iterator::collect)
            .map_err(|reason| error(&files.cert_file, reason.to_string()))?;
    if certificates.is_empty() {
        return Err(error(&files.cert_file, "the file holds no certificate".to_string()));
    }
    let key = PrivateKeyDer::from_pem_file(&files.key_file).map_err(|reason| {
        error(
            &files.key_file,
            match reason {
                pem::Error::NoItemsFound => "the file holds no private key in PEM form".to_string(),
                other => other.to_string(),
            },
        )
    })?;
    CertifiedKey::from_der(certificates, key, &ring::default_provider()).map(Arc::new).map_err(
        |reason| {
            error(
                &files.cert_file,
                match reason {
                    tokio_rustls::rustls::Error::InconsistentKeys(_) => format!(
                        "the certificate is not that of the key in {}",
                        files.key_file.display()
                    ),
                    other => other.to_string(),
                },
            )
        },
    )
}

/// TLS to the app. Trusts the system's roots, or those that `SSL_CERT_FILE` and `SSL_CERT_DIR` name.
#[derive(Debug, Clone)]
pub struct Secure {
    config: Arc<ClientConfig>,
    host: Arc<str>,
}

impl Secure {
    /// `host` is the name that the app's certificate must have. Without readable roots, no
    /// certificate is trusted.
    pub fn new(host: &str) -> Secure {
        let builder = || {
            ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
                .with_safe_default_protocol_versions()
                .expect("ring supports the protocol versions that rustls asks for")
        };
        let rooted = builder()
            .with_native_roots()
            .unwrap_or_else(|_| builder().with_root_certificates(RootCertStore::empty()));
        let mut config = rooted.with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Secure { config: Arc::new(config), host: host.into() }
    }

    /// # Errors
    /// The app does not prove that it is the host.
    pub async fn connect(&self, socket: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from(self.host.to_string()).map_err(io::Error::other)?;
        TlsConnector::from(self.config.clone()).connect(name, socket).await
    }
}
