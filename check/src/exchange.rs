//! One HTTP exchange with a server, in the steps that can fail each in its own way: name, TCP,
//! TLS, HTTP.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use authgear::resolver::endpoint::{Scheme, Url};
use http::{HeaderMap, Request, StatusCode, Uri};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_name, WebPkiServerVerifier};
use rustls::crypto::{aws_lc_rs, CryptoProvider};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore,
    SignatureScheme, StreamOwned,
};
use ureq::config::Config;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, Transport,
};

use crate::dns;

/// Largest body that is read, in bytes.
const MAX_BODY: u64 = 1024 * 1024;

/// A server and how it is reached.
#[derive(Debug)]
pub struct Server<'a> {
    /// Address.
    pub url: &'a Url,
    /// Name in the certificate.
    pub certificate_name: &'a str,
    /// Name servers, or none for those of the system.
    pub name_servers: &'a [&'a str],
    /// Longest time for one address.
    pub connect_timeout: Duration,
    /// Longest time for the answer.
    pub timeout: Duration,
}

/// The step that failed, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The host has no address.
    Dns(String),
    /// No address takes connections.
    Connect(String),
    /// The handshake failed, or the certificate is not trusted.
    Tls(String),
    /// No answer, or one that is not HTTP.
    Http(String),
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// Status.
    pub status: StatusCode,
    /// Headers.
    pub headers: HeaderMap,
    /// Body, up to a limit.
    pub body: Vec<u8>,
    /// When the answer came.
    pub at: SystemTime,
}

/// Trust of a project in certificates, as the module's: the system's, those of a file, or any.
#[derive(Debug)]
pub struct Trust(Arc<ClientConfig>);

impl Trust {
    /// Reads the certificates. No list of certificates is built in.
    ///
    /// # Errors
    ///
    /// The file cannot be read or has no certificate, or the system has none.
    pub fn new(verify: bool, file: Option<&Path>) -> Result<Self, String> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier: Arc<dyn ServerCertVerifier> = if verify {
            let trusted = file.map(certificates).transpose()?.unwrap_or_default();
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            roots.add_parsable_certificates(trusted.iter().cloned());
            if roots.is_empty() {
                return Err("neither the system nor the project has trusted certificates".into());
            }
            let chain = WebPkiServerVerifier::builder_with_provider(roots.into(), provider.clone());
            let chain = chain.build().map_err(|error| error.to_string())?;
            Arc::new(Verifier { chain: Some(chain), trusted, provider: provider.clone() })
        } else {
            let provider = provider.clone();
            Arc::new(Verifier { chain: None, trusted: Vec::new(), provider })
        };
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        Ok(Self(Arc::new(config)))
    }
}

/// Certificates in a PEM file.
///
/// # Errors
///
/// The file cannot be read, or has no certificate.
pub fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let pem = fs::read(file).map_err(|error| error.to_string())?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let found = found.map_err(|error| format!("it is not PEM: {error:?}"))?;
    if found.is_empty() {
        Err("it has no certificate in PEM".into())
    } else {
        Ok(found)
    }
}

/// Verifies as libssl does: a certificate that is itself trusted needs no chain.
#[derive(Debug)]
struct Verifier {
    /// Absent where nothing is verified.
    chain: Option<Arc<WebPkiServerVerifier>>,
    trusted: Vec<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(chain) = &self.chain else { return Ok(ServerCertVerified::assertion()) };
        let result = chain.verify_server_cert(leaf, others, name, ocsp, now);
        let is_authority =
            matches!(&result, Err(rustls::Error::InvalidCertificate(CertificateError::Other(_))));
        if is_authority && self.trusted.iter().any(|own| own.as_ref() == leaf.as_ref()) {
            verify_server_name(&ParsedCertificate::try_from(leaf)?, name)?;
            return Ok(ServerCertVerified::assertion());
        }
        result
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Sends a request over a connection of its own, and reads the answer. Redirects are answers.
///
/// # Errors
///
/// See [`Failure`].
pub fn exchange(
    server: &Server<'_>,
    trust: &Trust,
    mut request: Request<()>,
) -> Result<Answer, Failure> {
    let addresses = dns::addresses(server.url, server.name_servers, server.connect_timeout)
        .map_err(Failure::Dns)?;
    let (address, tcp) = connect(&addresses, server.connect_timeout)?;
    let timeout = Some(server.timeout.max(Duration::from_millis(1)));
    let configured = tcp.set_read_timeout(timeout).and_then(|()| tcp.set_write_timeout(timeout));
    configured.map_err(|error| Failure::Connect(error.to_string()))?;
    let stream = match server.url.scheme() {
        Scheme::Http => Stream::Plain(tcp),
        Scheme::Https => Stream::Tls(Box::new(handshake(server, trust, tcp)?)),
    };
    // The scheme is that of the stream below, which is not to be encrypted again.
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    let uri = Uri::builder().scheme("http").authority(server.url.authority());
    let uri = uri.path_and_query(path).build().map_err(|error| Failure::Http(error.to_string()))?;
    *request.uri_mut() = uri;
    let config = Config::builder()
        .max_redirects(0)
        .max_redirects_will_error(false)
        .http_status_as_error(false)
        .timeout_global(timeout)
        .proxy(None)
        .build();
    let connector = Established(Mutex::new(Some(stream)));
    let agent = ureq::Agent::with_parts(config, connector, Known(address));
    let failed = |error: ureq::Error| Failure::Http(error.to_string());
    let answer = agent.run(request).map_err(failed)?;
    let at = SystemTime::now();
    let (parts, mut body) = answer.into_parts();
    let body = body.with_config().limit(MAX_BODY).read_to_vec().map_err(failed)?;
    Ok(Answer { status: parts.status, headers: parts.headers, body, at })
}

fn connect(
    addresses: &[SocketAddr],
    timeout: Duration,
) -> Result<(SocketAddr, TcpStream), Failure> {
    let mut failures = BTreeMap::new();
    for address in addresses {
        match TcpStream::connect_timeout(address, timeout.max(Duration::from_millis(1))) {
            Ok(tcp) => return Ok((*address, tcp)),
            Err(error) => failures.insert(address, error.to_string()),
        };
    }
    let each = failures.iter().map(|(address, error)| format!("{address}: {error}"));
    Err(Failure::Connect(each.collect::<Vec<_>>().join("; ")))
}

fn handshake(
    server: &Server<'_>,
    trust: &Trust,
    mut tcp: TcpStream,
) -> Result<StreamOwned<ClientConnection, TcpStream>, Failure> {
    let name = server.certificate_name;
    let wrong = |error: &dyn std::fmt::Display| Failure::Tls(format!("{error} (for \"{name}\")"));
    let parsed = ServerName::try_from(name.to_owned()).map_err(|error| wrong(&error))?;
    let mut tls = ClientConnection::new(Arc::clone(&trust.0), parsed).map_err(|e| wrong(&e))?;
    while tls.is_handshaking() {
        tls.complete_io(&mut tcp).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => wrong(&"no answer in time"),
            _ => wrong(&error),
        })?;
    }
    Ok(StreamOwned::new(tls, tcp))
}

#[derive(Debug)]
enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Stream {
    fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(tcp) => tcp,
            Self::Tls(tls) => &tls.sock,
        }
    }

    fn io(&mut self) -> &mut dyn ReadWrite {
        match self {
            Self::Plain(tcp) => tcp,
            Self::Tls(tls) => tls.as_mut(),
        }
    }
}

trait ReadWrite: Read + Write {}
impl<T: Read + Write> ReadWrite for T {}

/// Hands ureq the stream that is connected already.
#[derive(Debug)]
struct Established(Mutex<Option<Stream>>);

impl Connector for Established {
    type Out = Connection;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        _: Option<()>,
    ) -> Result<Option<Connection>, ureq::Error> {
        let stream = self.0.lock().ok().and_then(|mut stream| stream.take());
        let config = details.config;
        let buffers = || LazyBuffers::new(config.input_buffer_size(), config.output_buffer_size());
        Ok(stream.map(|stream| Connection { stream, buffers: buffers() }))
    }
}

struct Connection {
    stream: Stream,
    buffers: LazyBuffers,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").finish_non_exhaustive()
    }
}

fn named(error: io::Error, timeout: NextTimeout) -> ureq::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => ureq::Error::Timeout(timeout.reason),
        _ => error.into(),
    }
}

impl Transport for Connection {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        let output = self.buffers.output().get(..amount).unwrap_or_default();
        let io = self.stream.io();
        io.write_all(output).and_then(|()| io.flush()).map_err(|error| named(error, timeout))
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        if timeout.after.is_zero() {
            return Err(ureq::Error::Timeout(timeout.reason));
        }
        self.stream.tcp().set_read_timeout(timeout.not_zero().map(|after| *after))?;
        let input = self.buffers.input_append_buf();
        let amount = match self.stream.io().read(input) {
            Ok(amount) => amount,
            // Servers may close TLS without saying so; the framing of HTTP tells what is missing.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => 0,
            Err(error) => return Err(named(error, timeout)),
        };
        self.buffers.input_appended(amount);
        Ok(amount > 0)
    }

    fn is_open(&mut self) -> bool {
        false
    }
}

/// The address that is connected already.
#[derive(Debug)]
struct Known(SocketAddr);

impl Resolver for Known {
    fn resolve(
        &self,
        _: &Uri,
        _: &Config,
        _: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let mut found = self.empty();
        found.push(self.0);
        Ok(found)
    }
}
