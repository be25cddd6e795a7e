//! The certificate that phones see, which may be replaced while the node runs, and the one of `tandem dev`. Layer: shell.
//!
//! TLS 1.2 and 1.3 (RFC 3261 §26.2.1, RFC 8446). The files are looked at now and then: new ones are shown from the next handshake on;
//! those that can't be used are named, and what there was goes on being shown.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::client::ResolvesClientCert;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, ServerConfig, SignatureScheme};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use webpki::EndEntityCert;

use crate::config::SipTls;

/// The CAs that the system trusts.
const SYSTEM: &str = "/etc/ssl/certs/ca-certificates.crt";
/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(5);

/// Why TLS for phones could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file could not be read or is no PEM of the right kind.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    /// A file could not be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The certificate and its key don't fit, or are not what TLS wants.
    #[error("the certificate in {} is not usable", path.display())]
    Unusable {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls::Error,
    },
    /// The CA of the clients is not usable.
    #[error("the CA in {} is not usable", path.display())]
    Ca {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls::client::VerifierBuilderError,
    },
    /// Making the development certificate failed.
    #[error("cannot make a development certificate")]
    Make(#[from] rcgen::Error),
}

/// When the files were written.
type Written = [Option<SystemTime>; 2];

/// What phones are shown.
#[derive(Debug)]
pub struct Certificate {
    cert: PathBuf,
    key: PathBuf,
    shown: RwLock<Arc<CertifiedKey>>,
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.shown.read().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

impl ResolvesClientCert for Certificate {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.shown.read().unwrap_or_else(PoisonError::into_inner).clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Whether a certificate is for a name, among others perhaps (RFC 5922 §7.1). That it is of a CA of ours the handshake has seen to.
pub fn is_for(certificate: &CertificateDer<'_>, name: &str) -> bool {
    let Ok(name) = ServerName::try_from(name) else { return false };
    EndEntityCert::try_from(certificate).is_ok_and(|certificate| certificate.verify_is_valid_for_subject_name(&name).is_ok())
}

impl Certificate {
    /// Reads the files.
    pub fn load(files: &SipTls) -> Result<Arc<Self>, CertificateError> {
        let shown = RwLock::new(read_pair(&files.cert, &files.key)?);
        Ok(Arc::new(Self { cert: files.cert.clone(), key: files.key.clone(), shown }))
    }

    /// Takes the handshakes of phones; with a CA, those who show a certificate of it are known by it.
    pub fn acceptor(self: &Arc<Self>, files: &SipTls) -> Result<TlsAcceptor, CertificateError> {
        let unusable = |source| CertificateError::Unusable { path: files.cert.clone(), source };
        let builder = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS12, &rustls::version::TLS13])
            .map_err(unusable)?;
        let builder = match &files.ca {
            Some(ca) => {
                let mut roots = RootCertStore::empty();
                for certificate in read_chain(ca)? {
                    roots.add(certificate).map_err(|source| CertificateError::Unusable { path: ca.clone(), source })?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
                    .allow_unauthenticated()
                    .build()
                    .map_err(|source| CertificateError::Ca { path: ca.clone(), source })?;
                builder.with_client_cert_verifier(verifier)
            }
            None => builder.with_no_client_auth(),
        };
        Ok(TlsAcceptor::from(Arc::new(builder.with_cert_resolver(self.clone()))))
    }

    /// Makes the handshakes with servers: they must prove who they are by a CA that is trusted, and are shown the same certificate as phones.
    pub fn connector(self: &Arc<Self>, files: &SipTls) -> Result<TlsConnector, CertificateError> {
        let unusable = |source| CertificateError::Unusable { path: files.cert.clone(), source };
        let mut roots = RootCertStore::empty();
        match files.trust.as_ref().or(files.ca.as_ref()) {
            Some(path) => {
                for certificate in read_chain(path)? {
                    roots.add(certificate).map_err(|source| CertificateError::Unusable { path: path.clone(), source })?;
                }
            }
            // Without one nobody is trusted.
            None => drop(read_chain(Path::new(SYSTEM)).map(|all| roots.add_parsable_certificates(all))),
        }
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS12, &rustls::version::TLS13])
            .map_err(unusable)?;
        let config = builder.with_root_certificates(roots).with_client_cert_resolver(self.clone());
        Ok(TlsConnector::from(Arc::new(config)))
    }

    /// Looks at the files for ever, and shows what is new.
    pub async fn follow(self: Arc<Self>) {
        let mut known = self.written();
        loop {
            tokio::time::sleep(LOOK).await;
            self.look(&mut known);
        }
    }

    /// Shows what has been written since the files were known to be as `known` says, if it can be used.
    fn look(&self, known: &mut Written) {
        let now = self.written();
        if now == *known {
            return;
        }
        // Certificate and key are two files: between them they don't fit.
        match read_pair(&self.cert, &self.key) {
            Ok(pair) => {
                *self.shown.write().unwrap_or_else(PoisonError::into_inner) = pair;
                *known = now;
                tracing::info!(file = %self.cert.display(), "a new certificate is shown");
            }
            Err(error) => {
                let reason = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                tracing::error!(%error, reason, "the new certificate is not shown");
            }
        }
    }

    fn written(&self) -> Written {
        [&self.cert, &self.key].map(|path| std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok())
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let failed = |source| CertificateError::Read { path: path.to_owned(), source };
    CertificateDer::pem_file_iter(path).map_err(failed)?.collect::<Result<_, _>>().map_err(failed)
}

fn read_pair(cert: &Path, key: &Path) -> Result<Arc<CertifiedKey>, CertificateError> {
    let chain = read_chain(cert)?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(|source| CertificateError::Read { path: key.to_owned(), source })?;
    let pair = CertifiedKey::from_der(chain, key, &provider());
    pair.map(Arc::new).map_err(|source| CertificateError::Unusable { path: cert.to_owned(), source })
}

/// Makes a CA for phones to know us by and a certificate of it for these names and addresses in `dir`, unless they are there.
pub fn development(dir: &Path, names: &[String], addresses: &[IpAddr]) -> Result<(PathBuf, PathBuf), CertificateError> {
    let [ca_file, cert, key] = ["sip-ca.pem", "sip.pem", "sip.key"].map(|name| dir.join(name));
    if ca_file.exists() && cert.exists() && key.exists() {
        return Ok((cert, key));
    }
    let write = |path: &Path, text: &str| {
        let written = std::fs::create_dir_all(dir).and_then(|()| std::fs::write(path, text)).and_then(|()| private(path));
        written.map_err(|source| CertificateError::Write { path: path.to_owned(), source })
    };
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.distinguished_name.push(DnType::CommonName, "tandem development CA for phones");
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let ca_key = KeyPair::generate()?;
    write(&ca_file, &params.self_signed(&ca_key)?.pem())?;
    let ca = Issuer::new(params, ca_key);
    let mut params = CertificateParams::new(names.to_vec())?;
    params.subject_alt_names.extend(addresses.iter().map(|ip| rcgen::SanType::IpAddress(*ip)));
    params.distinguished_name.push(DnType::CommonName, names.first().map_or("tandem", String::as_str));
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let own = KeyPair::generate()?;
    write(&cert, &params.signed_by(&own, &ca)?.pem())?;
    write(&key, &own.serialize_pem())?;
    Ok((cert, key))
}

fn private(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(dir: &Path) -> SipTls {
        let (cert, key) = development(dir, &["x.test".into()], &[]).unwrap();
        SipTls { port: 5061, wss_port: 0, cert, key, ca: None, trust: None }
    }

    #[test]
    fn a_certificate_is_replaced_while_it_is_shown_and_a_bad_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let files = files(dir.path());
        let certificate = Certificate::load(&files).unwrap();
        certificate.acceptor(&files).unwrap();
        let shown = |certificate: &Certificate| certificate.shown.read().unwrap().cert.clone();
        let (before, mut known) = (shown(&certificate), certificate.written());
        let written = known[0].unwrap();
        let later = |path: &Path, seconds: u64| {
            let file = std::fs::File::options().write(true).open(path).unwrap();
            file.set_modified(written + Duration::from_secs(seconds)).unwrap();
        };
        std::fs::write(&files.key, "no key").unwrap();
        later(&files.key, 10);
        certificate.look(&mut known);
        assert_eq!(shown(&certificate), before);
        std::fs::remove_file(&files.cert).unwrap();
        development(dir.path(), &["x.test".into()], &[]).unwrap();
        later(&files.cert, 20);
        certificate.look(&mut known);
        assert_ne!(shown(&certificate), before);
    }
}
