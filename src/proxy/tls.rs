//! TLS on the public port, and to the app.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hyper_rustls::ConfigBuilderExt;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::config::Tls;

/// Why TLS cannot be served on the public port.
#[derive(Debug, thiserror::Error)]
#[error("tls: {path}: {reason}")]
pub struct TlsError {
    path: PathBuf,
    reason: String,
}

/// Reads certificate and key, where TLS is wanted.
///
/// # Errors
/// A file that cannot be read, holds no certificate or key, or does not fit the other.
pub fn acceptor(tls: Option<&Tls>) -> Result<Option<TlsAcceptor>, TlsError> {
    let Some(tls) = tls else {
        return Ok(None);
    };
    let error = |path: &Path, reason: String| TlsError { path: path.to_path_buf(), reason };
    let certificates: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(&tls.cert_file)
        .and_then(Iterator::collect)
        .map_err(|reason| error(&tls.cert_file, reason.to_string()))?;
    if certificates.is_empty() {
        return Err(error(&tls.cert_file, "the file holds no certificate".to_string()));
    }
    let key = PrivateKeyDer::from_pem_file(&tls.key_file)
        .map_err(|reason| error(&tls.key_file, reason.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|config| config.with_no_client_auth().with_single_cert(certificates, key))
        .map_err(|reason| error(&tls.cert_file, reason.to_string()))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Some(TlsAcceptor::from(Arc::new(config))))
}

/// TLS to the app. Trusts the system's roots, or those that `SSL_CERT_FILE` and `SSL_CERT_DIR` name.
#[derive(Debug, Clone)]
pub struct Secure {
    config: Arc<ClientConfig>,
    host: Arc<str>,
}

impl Secure {
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
