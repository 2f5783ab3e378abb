//! Certificates for the fakes and for nginx.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    date_time_ymd, BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use tokio::net::TcpStream;
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::Acceptor;
use tokio_rustls::rustls::{
    ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion, DEFAULT_VERSIONS,
};
use tokio_rustls::server::TlsStream;
use tokio_rustls::LazyConfigAcceptor;

use crate::random;

/// A certificate authority for one test.
pub struct Ca {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    #[allow(clippy::new_without_default)] // Two defaults would not be equal.
    pub fn new() -> Self {
        let key = key();
        // libssl takes the first of two authorities with the same name, whichever signed.
        let mut params = params(&[], &format!("Test CA {}", random::uuid()));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let pem = params.self_signed(&key).expect("a CA certificate").pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Writes the certificate into the directory and returns its path.
    pub fn pem_path(&self, dir: impl AsRef<Path>) -> PathBuf {
        let path = dir.as_ref().join("ca.pem");
        fs::write(&path, &self.pem).expect("the CA's file");
        path
    }

    /// The identity of a server with these DNS names and addresses.
    pub fn leaf(&self, names: &[&str]) -> ServerIdentity {
        self.issue(params(names, "leaf"))
    }

    /// An identity whose certificate has expired.
    pub fn expired(&self, names: &[&str]) -> ServerIdentity {
        let mut params = params(names, "expired");
        params.not_after = date_time_ymd(2020, 1, 1);
        self.issue(params)
    }

    fn issue(&self, params: CertificateParams) -> ServerIdentity {
        let key = key();
        let cert = params.signed_by(&key, &self.issuer).expect("a certificate");
        ServerIdentity { cert_pem: cert.pem(), key_pem: key.serialize_pem() }
    }

    /// A client that trusts this authority only.
    pub(crate) fn client_config(&self) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        let cert = CertificateDer::from_pem_slice(self.pem.as_bytes()).expect("the CA");
        roots.add(cert).expect("the CA");
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .expect("TLS versions");
        Arc::new(config.with_root_certificates(roots).with_no_client_auth())
    }
}

impl fmt::Debug for Ca {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ca").finish_non_exhaustive()
    }
}

/// A certificate and its key, in PEM.
#[derive(Clone, Debug)]
pub struct ServerIdentity {
    pub cert_pem: String,
    pub key_pem: String,
}

impl ServerIdentity {
    /// An identity without an authority.
    pub fn self_signed(names: &[&str]) -> Self {
        let key = key();
        let cert = params(names, "self-signed").self_signed(&key).expect("a certificate");
        Self { cert_pem: cert.pem(), key_pem: key.serialize_pem() }
    }

    fn config(&self) -> Arc<ServerConfig> {
        self.config_for(DEFAULT_VERSIONS)
    }

    /// A configuration of these versions.
    pub(crate) fn config_for(
        &self,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Arc<ServerConfig> {
        let chain = CertificateDer::pem_slice_iter(self.cert_pem.as_bytes())
            .collect::<Result<_, _>>()
            .expect("the chain");
        let key = PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes()).expect("the key");
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(versions)
            .expect("TLS versions")
            .with_no_client_auth()
            .with_single_cert(chain, key);
        Arc::new(config.expect("a server's certificate"))
    }
}

/// Accepts TLS with one identity.
#[derive(Debug)]
pub(crate) struct TlsAcceptor(Arc<ServerConfig>);

impl TlsAcceptor {
    pub(crate) fn new(identity: &ServerIdentity) -> Self {
        Self(identity.config())
    }

    /// Accepts a handshake. `seen` gets the requested name before the handshake goes on.
    pub(crate) async fn accept(
        &self,
        stream: TcpStream,
        seen: impl FnOnce(Option<String>),
    ) -> io::Result<TlsStream<TcpStream>> {
        let start = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
        seen(start.client_hello().server_name().map(str::to_owned));
        start.into_stream(self.0.clone()).await
    }
}

fn key() -> KeyPair {
    KeyPair::generate().expect("a key")
}

fn params(names: &[&str], common_name: &str) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let mut params = CertificateParams::new(names).expect("names");
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.not_before = date_time_ymd(2019, 1, 1);
    params.not_after = date_time_ymd(2099, 1, 1);
    params
}
