//! The certificate in use, and creating one.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::RwLock;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;

/// How long a certificate of ours is good.
const LIFETIME: Duration = Duration::from_secs(90 * 24 * 3600);
/// When the next one is made.
pub const RENEW_AFTER: Duration = Duration::from_secs(60 * 24 * 3600);
/// Clocks of other nodes may be behind by this much.
pub const CLOCK_SKEW: Duration = Duration::from_secs(3600);

/// What connections are answered with: replaced while they run. Cheap to clone.
#[derive(Clone, Default)]
pub struct Certificate {
    /// What was read last: the text to compare, and what came of it.
    current: Arc<RwLock<Option<Arc<CertifiedKey>>>>,
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Certificate {{ is_there: {} }}", self.is_there())
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.current.read().clone()
    }
}

impl Certificate {
    /// Whether there is one yet.
    pub fn is_there(&self) -> bool {
        self.current.read().is_some()
    }

    /// Puts another one into force, for the connections to come.
    ///
    /// # Errors
    /// What is wrong with the texts; the old one stays.
    pub fn replace(&self, certificates: &[u8], key: &[u8]) -> Result<(), String> {
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(certificates)
            .collect::<Result<_, _>>()
            .map_err(|error| format!("the certificate cannot be read: {error}"))?;
        if chain.is_empty() {
            return Err("the certificate's file holds no certificate".to_owned());
        }
        let key = PrivateKeyDer::from_pem_slice(key)
            .map_err(|error| format!("the key cannot be read: {error}"))?;
        let certified = CertifiedKey::from_der(chain, key, &ring::default_provider())
            .map_err(|error| format!("certificate and key do not match: {error}"))?;
        *self.current.write() = Some(Arc::new(certified));
        Ok(())
    }

    /// TLS with whatever is in force when a connection comes.
    pub fn server_config(&self) -> Arc<ServerConfig> {
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring supports the protocol versions that rustls asks for")
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(self.clone()));
        Arc::new(config)
    }
}

/// Whether a certificate and a key can be served.
pub fn is_usable(certificates: &[u8], key: &[u8]) -> bool {
    Certificate::default().replace(certificates, key).is_ok()
}

/// A certificate of our own, with the authority that vouches for it and for nothing else: its key
/// is gone when this was made.
pub struct IssuedCertificate {
    pub authority_pem: String,
    pub certificate_pem: String,
    pub key_pem: String,
    /// When the next one is due.
    pub renew_at: SystemTime,
}

/// Makes one for a Service.
///
/// # Errors
/// What the library says; names that are no DNS names.
pub fn make(
    service: &str,
    namespace: &str,
    now: SystemTime,
) -> Result<IssuedCertificate, rcgen::Error> {
    let mut authority = CertificateParams::default();
    authority.distinguished_name.push(DnType::CommonName, "sidestream webhook authority");
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    limit(&mut authority, now);
    let authority_key = KeyPair::generate()?;
    let authority_pem = authority.self_signed(&authority_key)?.pem();
    let issuer = Issuer::new(authority, authority_key);

    let name = format!("{service}.{namespace}.svc");
    let mut leaf = CertificateParams::new(vec![name.clone(), format!("{name}.cluster.local")])?;
    leaf.distinguished_name.push(DnType::CommonName, service);
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    leaf.use_authority_key_identifier_extension = true;
    limit(&mut leaf, now);
    let key = KeyPair::generate()?;
    Ok(IssuedCertificate {
        authority_pem,
        certificate_pem: leaf.signed_by(&key, &issuer)?.pem(),
        key_pem: key.serialize_pem(),
        renew_at: now + RENEW_AFTER,
    })
}

fn limit(params: &mut CertificateParams, now: SystemTime) {
    params.not_before = (now - CLOCK_SKEW).into();
    params.not_after = (now + LIFETIME).into();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_can_be_used_and_nothing_else() {
        let now = SystemTime::now();
        let made = make("sidestream", "platform", now).unwrap();
        let other = make("sidestream", "platform", now).unwrap();
        let certificate = Certificate::default();
        assert!(!certificate.is_there());
        let replace =
            |chain: &str, key: &str| certificate.replace(chain.as_bytes(), key.as_bytes());
        for (chain, key) in [
            ("", made.key_pem.as_str()),
            ("x", "y"),
            (made.certificate_pem.as_str(), ""),
            (made.certificate_pem.as_str(), other.key_pem.as_str()),
        ] {
            let error = replace(chain, key).unwrap_err();
            assert!(!error.contains("PRIVATE"), "{error}");
            assert!(!certificate.is_there());
            assert!(!is_usable(chain.as_bytes(), key.as_bytes()));
        }
        replace(&made.certificate_pem, &made.key_pem).unwrap();
        assert!(certificate.is_there());
        assert!(made.renew_at > now && made.renew_at < now + LIFETIME);
    }
}
