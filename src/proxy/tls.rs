//! TLS on the public port.

use std::path::Path;
use std::sync::Arc;

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::StartError;
use crate::config::Tls;

/// Reads certificate and key, where TLS is wanted.
///
/// # Errors
/// A file that cannot be read, holds no certificate or key, or does not fit the other.
pub fn acceptor(tls: Option<&Tls>) -> Result<Option<TlsAcceptor>, StartError> {
    let Some(tls) = tls else {
        return Ok(None);
    };
    let error = |path: &Path, reason: String| StartError::Tls { path: path.to_path_buf(), reason };
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
