//! TLS on the public port: a certificate, its files, and a client that trusts nobody else.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{CertifiedKey, KeyPair, generate_simple_self_signed};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// A certificate for `localhost`, signed by itself.
pub struct Authority {
    signed: CertifiedKey<KeyPair>,
    dir: tempfile::TempDir,
}

impl Authority {
    pub fn new() -> Authority {
        let authority =
            Authority { signed: sign(), dir: tempfile::tempdir().expect("a directory") };
        authority.write();
        authority
    }

    pub fn cert_file(&self) -> PathBuf {
        self.dir.path().join("cert.pem")
    }

    pub fn key_file(&self) -> PathBuf {
        self.dir.path().join("key.pem")
    }

    pub fn cert_pem(&self) -> String {
        self.signed.cert.pem()
    }

    pub fn key_pem(&self) -> String {
        self.signed.signing_key.serialize_pem()
    }

    fn write(&self) {
        std::fs::write(self.cert_file(), self.cert_pem()).expect("a file");
        std::fs::write(self.key_file(), self.key_pem()).expect("a file");
    }

    /// The variables that make the public port show this certificate.
    pub fn settings(&self) -> [(&'static str, String); 2] {
        [
            ("SIDESTREAM_TLS__CERT_FILE", self.cert_file().display().to_string()),
            ("SIDESTREAM_TLS__KEY_FILE", self.key_file().display().to_string()),
        ]
    }

    /// # Errors
    /// Another certificate is shown, or none.
    pub async fn connect(&self, address: SocketAddr) -> std::io::Result<TlsStream<TcpStream>> {
        let tcp = TcpStream::connect(address).await?;
        connector(self.signed.cert.der().clone())
            .connect("localhost".try_into().expect("a name"), tcp)
            .await
    }

    /// The answer to a request, as far as it comes in one piece; nothing for a connection that ends.
    pub async fn ask(&self, address: SocketAddr, request: &str) -> String {
        let mut answer = vec![0; 4096];
        let Ok(mut socket) = self.connect(address).await else { return String::new() };
        if socket.write_all(request.as_bytes()).await.is_err() {
            return String::new();
        }
        let length = socket.read(&mut answer).await.unwrap_or(0);
        String::from_utf8_lossy(&answer[..length]).into_owned()
    }
}

fn sign() -> CertifiedKey<KeyPair> {
    generate_simple_self_signed(["localhost".to_string()]).expect("a certificate")
}

fn connector(root: CertificateDer<'static>) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(root).expect("a root");
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    TlsConnector::from(Arc::new(config))
}
