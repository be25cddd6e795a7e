//! Mutual TLS between nodes, and the development CA behind `tandem dev`. Layer: shell.
//!
//! Every node has a certificate of the cluster's own CA, and shows it both ways: whoever holds one is a
//! node. Names are not checked beyond that, so that a node may move to another address.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// The name in every node's certificate.
const NODE_NAME: &str = "node.tandem";

/// Where a node's certificate lies.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// The cluster's CA.
    pub ca: PathBuf,
    /// This node's certificate.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// Why TLS could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file could not be read or is no PEM of the right kind.
    #[error("cannot read {}", path.display())]
    File {
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
    #[error("the node's certificate is not usable")]
    Unusable(#[source] rustls::Error),
    /// The CA is not usable.
    #[error("the cluster's CA is not usable")]
    Ca(#[source] rustls::client::VerifierBuilderError),
    /// Making the development certificates failed.
    #[error("cannot make a development certificate")]
    Make(#[from] rcgen::Error),
}

/// Both ends of the links between nodes.
#[derive(Clone)]
pub struct NodeTls {
    /// For connections that come in.
    pub acceptor: TlsAcceptor,
    /// For connections that we make.
    pub connector: TlsConnector,
}

impl NodeTls {
    /// Reads the files.
    pub fn load(files: &TlsFiles) -> Result<Self, TlsError> {
        let read = |path: &Path| {
            let of = |source| TlsError::File { path: path.to_owned(), source };
            CertificateDer::pem_file_iter(path).map_err(of)?.collect::<Result<Vec<_>, _>>().map_err(of)
        };
        let mut roots = RootCertStore::empty();
        for certificate in read(&files.ca)? {
            roots.add(certificate).map_err(TlsError::Unusable)?;
        }
        let chain = read(&files.cert)?;
        let key =
            PrivateKeyDer::from_pem_file(&files.key).map_err(|source| TlsError::File { path: files.key.clone(), source })?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let roots = Arc::new(roots);
        let verifier =
            WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone()).build().map_err(TlsError::Ca)?;
        let server = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .and_then(|builder| builder.with_client_cert_verifier(verifier).with_single_cert(chain.clone(), key.clone_key()))
            .map_err(TlsError::Unusable)?;
        let client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .and_then(|builder| builder.with_root_certificates(roots).with_client_auth_cert(chain, key))
            .map_err(TlsError::Unusable)?;
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(server)), connector: TlsConnector::from(Arc::new(client)) })
    }

    /// What a node's certificate is checked against.
    pub fn server_name() -> ServerName<'static> {
        ServerName::try_from(NODE_NAME).expect("a valid name")
    }
}

/// Makes a CA and a certificate for each node in `dir`, unless they are there. Gives each node's files.
pub fn development_ca(dir: &Path, nodes: &[u64]) -> Result<Vec<TlsFiles>, TlsError> {
    let write = |name: &str, text: &str| {
        let path = dir.join(name);
        let written = std::fs::create_dir_all(dir).and_then(|()| std::fs::write(&path, text));
        written.and_then(|()| private(&path)).map_err(|source| TlsError::Write { path, source })
    };
    let files = |node: &u64| TlsFiles {
        ca: dir.join("ca.pem"),
        cert: dir.join(format!("node{node}.pem")),
        key: dir.join(format!("node{node}.key")),
    };
    let all: Vec<TlsFiles> = nodes.iter().map(files).collect();
    if all.iter().all(|files| files.ca.exists() && files.cert.exists() && files.key.exists()) {
        return Ok(all);
    }
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.distinguished_name.push(DnType::CommonName, "tandem development CA");
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let ca_key = KeyPair::generate()?;
    write("ca.pem", &params.self_signed(&ca_key)?.pem())?;
    let ca = Issuer::new(params, ca_key);
    for node in nodes {
        let mut params = CertificateParams::new(vec![NODE_NAME.to_owned()])?;
        params.distinguished_name.push(DnType::CommonName, format!("tandem node {node}"));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate()?;
        write(&format!("node{node}.pem"), &params.signed_by(&key, &ca)?.pem())?;
        write(&format!("node{node}.key"), &key.serialize_pem())?;
    }
    Ok(all)
}

fn private(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
}
