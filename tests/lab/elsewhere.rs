//! Another domain: its name server, and its SIP servers, which answer every call.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tandem::cli::demo::talk::Talk;
use tandem::sip::encode::encode_response;
use tandem::sip::framing::{Frame, Framer};
use tandem::sip::{Message, Method, Name, Request, Response, StatusCode, parse};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};
use tokio::task::JoinHandle;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::{SIP, TLS, own_address};

/// A name server for a few names.
pub struct Dns {
    pub address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn name(text: &str) -> Vec<u8> {
    let labels = text.split('.').filter(|label| !label.is_empty());
    let mut bytes: Vec<u8> =
        labels.flat_map(|label| [&[u8::try_from(label.len()).unwrap()], label.as_bytes()].concat()).collect();
    bytes.push(0);
    bytes
}

fn string(text: &str) -> Vec<u8> {
    [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat()
}

fn numbers(numbers: &[&str]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.parse::<u16>().unwrap().to_be_bytes()).collect()
}

/// Its name, its kind, and what it holds.
type Record = (Vec<u8>, u16, Vec<u8>);

/// `A name address`, `SRV name priority weight port target`, or `NAPTR name order preference flags service replacement`.
fn record(line: &str) -> Record {
    match line.split_whitespace().collect::<Vec<_>>()[..] {
        ["A", own, ip] => (name(own), 1, ip.parse::<Ipv4Addr>().unwrap().octets().to_vec()),
        ["SRV", own, priority, weight, port, target] => {
            (name(own), 33, [numbers(&[priority, weight, port]), name(target)].concat())
        }
        ["NAPTR", own, order, preference, flags, service, replacement] => {
            let rest = [string(flags), string(service), string(""), name(replacement)].concat();
            (name(own), 35, [numbers(&[order, preference]), rest].concat())
        }
        _ => panic!("{line}"),
    }
}

fn answer(records: &[Record], question: &[u8]) -> Option<Vec<u8>> {
    let asked = question.get(12..)?;
    let end = asked.iter().position(|byte| *byte == 0)? + 1;
    let (wanted, kind) = (asked[..end].to_ascii_lowercase(), u16::from_be_bytes([asked[end], asked[end + 1]]));
    let found: Vec<_> = records.iter().filter(|(own, own_kind, _)| *own == wanted && *own_kind == kind).collect();
    let known = records.iter().any(|(own, ..)| *own == wanted);
    let mut reply = question[..2].to_vec();
    reply.extend([0x84, if known { 0x80 } else { 0x83 }, 0, 1, 0, u8::try_from(found.len()).unwrap(), 0, 0, 0, 0]);
    reply.extend(&asked[..end + 4]);
    for (_, kind, data) in found {
        reply.extend([0xc0, 12]);
        reply.extend(kind.to_be_bytes());
        reply.extend([0, 1, 0, 0, 0, 60]);
        reply.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
        reply.extend(data);
    }
    Some(reply)
}

impl Dns {
    pub async fn start(lines: &[String]) -> Self {
        let socket = UdpSocket::bind((own_address(), 53)).await.unwrap();
        let records: Vec<_> = lines.iter().map(|line| record(line)).collect();
        let address = socket.local_addr().unwrap();
        let task = tokio::spawn(async move {
            let mut buffer = [0; 1500];
            while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                if let Some(reply) = answer(&records, &buffer[..length]) {
                    let _ = socket.send_to(&reply, from).await;
                }
            }
        });
        Self { address, task }
    }
}

/// A CA, and certificates of it for whoever is at this name.
pub struct Ca {
    dir: tempfile::TempDir,
}

impl Ca {
    pub fn new(name: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        std::fs::write(dir.path().join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        let ca = Issuer::new(params, key);
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let own = KeyPair::generate().unwrap();
        std::fs::write(dir.path().join("own.pem"), params.signed_by(&own, &ca).unwrap().pem()).unwrap();
        std::fs::write(dir.path().join("own.key"), own.serialize_pem()).unwrap();
        Self { dir }
    }

    pub fn file(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    fn pair(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let chain = CertificateDer::pem_file_iter(self.dir.path().join("own.pem")).unwrap().map(Result::unwrap).collect();
        (chain, PrivateKeyDer::from_pem_file(self.dir.path().join("own.key")).unwrap())
    }

    /// Takes the handshakes of those who show a certificate of this CA.
    fn acceptor(&self, clients: &Path) -> TlsAcceptor {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(clients)), provider.clone()).build().unwrap();
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let (chain, key) = self.pair();
        TlsAcceptor::from(Arc::new(builder.with_client_cert_verifier(clients).with_single_cert(chain, key).unwrap()))
    }

    /// Connects to somebody of that CA, and shows its own certificate if it has to.
    fn connector(&self, servers: &Path, shows: bool) -> TlsConnector {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let builder = builder.with_root_certificates(roots(servers));
        let (chain, key) = self.pair();
        TlsConnector::from(Arc::new(if shows {
            builder.with_client_auth_cert(chain, key).unwrap()
        } else {
            builder.with_no_client_auth()
        }))
    }

    /// What a request is answered with first that comes over TLS, with the certificate or without.
    pub async fn asks(&self, server: SocketAddr, servers: &Path, shows: bool, request: &str) -> Response {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((own_address(), 0).into()).unwrap();
        let plain = socket.connect(server).await.unwrap();
        let name = ServerName::from(server.ip());
        let mut stream = self.connector(servers, shows).connect(name, plain).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut framer = Framer::default();
        let mut buffer = [0; 4096];
        loop {
            let read = tokio::time::timeout(Duration::from_secs(10), stream.read(&mut buffer));
            let length = read.await.unwrap().unwrap();
            framer.push(&buffer[..length]);
            if let Some(Frame::Message(bytes)) = framer.next_frame().unwrap()
                && let Message::Response(response) = parse::datagram(&bytes).unwrap()
            {
                return response;
            }
        }
    }
}

/// What a server sends by a connection of its own, and hears.
pub struct Line {
    stream: TcpStream,
    framer: Framer,
}

impl Line {
    pub async fn to(server: SocketAddr, own: IpAddr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((own, 0).into()).unwrap();
        Self { stream: socket.connect(server).await.unwrap(), framer: Framer::default() }
    }

    pub async fn say(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.unwrap();
    }

    /// The next response with a final status.
    pub async fn hear(&mut self) -> Response {
        let mut buffer = [0; 4096];
        loop {
            if let Some(Frame::Message(bytes)) = self.framer.next_frame().unwrap() {
                if let Message::Response(response) = parse::datagram(&bytes).unwrap()
                    && response.status.is_final()
                {
                    return response;
                }
                continue;
            }
            let length = tokio::time::timeout(Duration::from_secs(10), self.stream.read(&mut buffer)).await.unwrap().unwrap();
            self.framer.push(&buffer[..length]);
        }
    }
}

fn roots(file: &Path) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    CertificateDer::pem_file_iter(file).unwrap().for_each(|certificate| roots.add(certificate.unwrap()).unwrap());
    roots
}

/// How a server is spoken with.
#[derive(Clone, Copy)]
pub enum By<'a> {
    Udp,
    Tcp,
    /// Its own certificate, and the CA of those who may come.
    Tls(&'a Ca, &'a Path),
}

/// What it says to an INVITE.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Says {
    Yes,
    Nothing,
    This(StatusCode),
}

/// A SIP server.
pub struct Server {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    says: Says,
    contact: String,
    /// The methods of the requests that came.
    saw: Mutex<Vec<Method>>,
    media: IpAddr,
    talk: Mutex<Option<Talk>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    /// One at an address of its own.
    pub async fn start(by: By<'_>, says: Says) -> Self {
        let port = if matches!(by, By::Tls(..)) { TLS } else { SIP };
        Self::start_at((own_address(), port).into(), by, says).await
    }

    pub async fn start_at(address: SocketAddr, by: By<'_>, says: Says) -> Self {
        let param = match by {
            By::Udp => "",
            By::Tcp => ";transport=tcp",
            By::Tls(..) => ";transport=tls",
        };
        let contact = format!("<sip:server@{address}{param}>");
        let (saw, talk) = (Mutex::default(), Mutex::default());
        let shared = Arc::new(Shared { says, contact, saw, media: address.ip(), talk });
        let task = match by {
            By::Udp => tokio::spawn(datagrams(shared.clone(), UdpSocket::bind(address).await.unwrap())),
            By::Tcp => tokio::spawn(connections(shared.clone(), TcpListener::bind(address).await.unwrap(), None)),
            By::Tls(ca, clients) => {
                let listener = TcpListener::bind(address).await.unwrap();
                tokio::spawn(connections(shared.clone(), listener, Some(ca.acceptor(clients))))
            }
        };
        Self { address, shared, task }
    }

    /// How often it was asked this.
    pub fn saw(&self, method: &Method) -> usize {
        self.shared.saw.lock().unwrap().iter().filter(|saw| *saw == method).count()
    }

    /// The sound of its call.
    pub fn talk(&self) -> Talk {
        self.shared.talk.lock().unwrap().take().expect("it has been called")
    }
}

impl Shared {
    async fn answer(&self, request: &Request) -> Option<Bytes> {
        self.saw.lock().unwrap().push(request.method.clone());
        let response = match (&request.method, self.says) {
            (Method::Ack, _) | (_, Says::Nothing) => return None,
            (Method::Invite, Says::This(status)) => request.response(status, Some("server")),
            (Method::Invite, _) => {
                let socket = UdpSocket::bind((self.media, 0)).await.unwrap();
                let media = socket.local_addr().unwrap();
                let sdp = format!(
                    "v=0\r\no=- 1 1 IN IP4 {0}\r\ns=-\r\nc=IN IP4 {0}\r\nt=0 0\r\nm=audio {1} RTP/AVP 0\r\n",
                    media.ip(),
                    media.port()
                );
                *self.talk.lock().unwrap() = Some(Talk::start(socket, rtp_of(&request.body)));
                let ok = request.response(StatusCode::OK, Some("server")).with(Name::Contact, &self.contact);
                ok.with_body("application/sdp", sdp.into())
            }
            _ => request.response(StatusCode::OK, Some("server")),
        };
        Some(encode_response(&response))
    }
}

fn rtp_of(sdp: &[u8]) -> SocketAddr {
    let text = String::from_utf8_lossy(sdp).into_owned();
    let after =
        |start: &str| text.lines().find_map(|line| line.strip_prefix(start)).unwrap().split(' ').next().unwrap().to_owned();
    SocketAddr::new(after("c=IN IP4 ").parse().unwrap(), after("m=audio ").parse().unwrap())
}

async fn datagrams(shared: Arc<Shared>, socket: UdpSocket) {
    let mut buffer = vec![0; 65_536];
    let mut answered: Option<(Bytes, Bytes)> = None;
    while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
        let bytes = Bytes::copy_from_slice(&buffer[..length]);
        let Ok(Message::Request(request)) = parse::datagram(&bytes) else { continue };
        let again = answered.as_ref().filter(|(asked, _)| *asked == bytes).map(|(_, answer)| answer.clone());
        let Some(answer) = (if again.is_some() { again } else { shared.answer(&request).await }) else { continue };
        let _ = socket.send_to(&answer, from).await;
        answered = Some((bytes, answer));
    }
}

async fn connections(shared: Arc<Shared>, listener: TcpListener, tls: Option<TlsAcceptor>) {
    while let Ok((stream, _)) = listener.accept().await {
        let (shared, tls) = (shared.clone(), tls.clone());
        tokio::spawn(async move {
            match tls {
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        carry(&shared, stream).await;
                    }
                }
                None => carry(&shared, stream).await,
            }
        });
    }
}

async fn carry(shared: &Shared, mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let mut framer = Framer::default();
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = stream.read(&mut buffer).await {
        framer.push(&buffer[..length]);
        while let Ok(Some(frame)) = framer.next_frame() {
            let Frame::Message(bytes) = frame else { continue };
            let Ok(Message::Request(request)) = parse::datagram(&bytes) else { continue };
            if let Some(answer) = shared.answer(&request).await {
                let _ = stream.write_all(&answer).await;
            }
        }
    }
}
