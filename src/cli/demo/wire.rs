//! What a scripted phone talks by: datagrams, or a connection that it makes. Layer: program.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::{TcpSocket, UdpSocket};
use tokio::sync::Mutex;
use tokio_rustls::TlsConnector;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::protocol::Message;
use tokio_tungstenite::{WebSocketStream, client_async};

use crate::sip::framing::{Frame, Framer};

/// The longest datagram there can be.
const DATAGRAM: usize = 65_536;

/// What a phone talks over. TLS is checked against the CA in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the transports")]
pub enum Over {
    Udp,
    Tcp,
    Tls(PathBuf),
    Ws,
    Wss(PathBuf),
}

impl Over {
    /// As it stands in a Via.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Udp => "UDP",
            Self::Tcp => "TCP",
            Self::Tls(_) => "TLS",
            Self::Ws => "WS",
            Self::Wss(_) => "WSS",
        }
    }

    /// As it stands behind a URI of the phone's.
    pub(super) fn param(&self) -> &'static str {
        match self {
            Self::Udp => "",
            Self::Tcp => ";transport=tcp",
            Self::Tls(_) => ";transport=tls",
            Self::Ws | Self::Wss(_) => ";transport=ws",
        }
    }

    /// Whether nothing that is sent needs to be sent again.
    pub(super) fn is_reliable(&self) -> bool {
        *self != Self::Udp
    }
}

pub(super) trait Duplex: AsyncRead + AsyncWrite + Unpin + Send + Sync {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send + Sync> Duplex for S {}
pub(super) type Stream = Box<dyn Duplex>;

/// A phone's way out.
pub(super) enum Wire {
    /// Anybody may be at the other end.
    Datagrams(UdpSocket),
    /// To one server.
    Connection { read: ReadHalf<Stream>, write: Mutex<WriteHalf<Stream>>, framer: Framer, ends: [SocketAddr; 2] },
    /// The same, a frame for a message.
    Frames {
        read: SplitStream<WebSocketStream<Stream>>,
        write: Mutex<SplitSink<WebSocketStream<Stream>, Message>>,
        ends: [SocketAddr; 2],
    },
}

impl Wire {
    /// A way from `own` to `server`.
    pub(super) async fn make(over: &Over, own: IpAddr, server: SocketAddr) -> io::Result<Self> {
        if *over == Over::Udp {
            return Ok(Self::Datagrams(UdpSocket::bind((own, 0)).await?));
        }
        let socket = if own.is_ipv6() { TcpSocket::new_v6()? } else { TcpSocket::new_v4()? };
        socket.bind((own, 0).into())?;
        let plain = socket.connect(server).await?;
        plain.set_nodelay(true)?;
        let ends = [plain.local_addr()?, server];
        let stream: Stream = match over {
            Over::Tls(ca) | Over::Wss(ca) => Box::new(connector(ca)?.connect(ServerName::from(server.ip()), plain).await?),
            Over::Udp | Over::Tcp | Over::Ws => Box::new(plain),
        };
        if matches!(over, Over::Ws | Over::Wss(_)) {
            let mut request = format!("ws://{server}/").into_client_request().map_err(io::Error::other)?;
            request.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static("sip"));
            let (socket, _) = client_async(request, stream).await.map_err(io::Error::other)?;
            let (write, read) = socket.split();
            return Ok(Self::Frames { read, write: Mutex::new(write), ends });
        }
        let (read, write) = tokio::io::split(stream);
        Ok(Self::Connection { read, write: Mutex::new(write), framer: Framer::default(), ends })
    }

    /// Our end.
    pub(super) fn local(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Datagrams(socket) => socket.local_addr(),
            Self::Connection { ends, .. } | Self::Frames { ends, .. } => Ok(ends[0]),
        }
    }

    /// Sends a message. That a connection has ended is heard where it is read.
    pub(super) async fn send(&self, bytes: &[u8], to: SocketAddr) -> io::Result<()> {
        match self {
            Self::Datagrams(socket) => drop(socket.send_to(bytes, to).await?),
            Self::Connection { write, .. } => {
                let mut write = write.lock().await;
                if write.write_all(bytes).await.is_ok() {
                    let _ = write.flush().await;
                }
            }
            Self::Frames { write, .. } => {
                let text = String::from_utf8_lossy(bytes).into_owned();
                let _ = write.lock().await.send(Message::text(text)).await;
            }
        }
        Ok(())
    }

    /// Waits for a message, and tells where it came from. An error is the end of a connection.
    pub(super) async fn receive(&mut self) -> io::Result<(Bytes, SocketAddr)> {
        match self {
            Self::Datagrams(socket) => {
                let mut buffer = vec![0; DATAGRAM];
                let (length, source) = socket.recv_from(&mut buffer).await?;
                Ok((Bytes::copy_from_slice(&buffer[..length]), source))
            }
            Self::Connection { read, framer, ends, .. } => loop {
                match framer.next_frame().map_err(io::Error::other)? {
                    Some(Frame::Message(bytes)) => return Ok((bytes, ends[1])),
                    Some(Frame::Ping | Frame::Pong) => continue,
                    None => {}
                }
                let mut buffer = [0; 4096];
                match read.read(&mut buffer).await? {
                    0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                    length => framer.push(&buffer[..length]),
                }
            },
            Self::Frames { read, ends, .. } => loop {
                match read.next().await {
                    Some(Ok(Message::Text(text))) => return Ok((Bytes::from(text), ends[1])),
                    Some(Ok(Message::Binary(bytes))) => return Ok((bytes, ends[1])),
                    Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                    Some(Ok(Message::Close(_))) | None => return Err(io::ErrorKind::UnexpectedEof.into()),
                    Some(Err(error)) => return Err(io::Error::other(error)),
                }
            },
        }
    }
}

fn connector(ca: &Path) -> io::Result<TlsConnector> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca).map_err(io::Error::other)? {
        roots.add(certificate.map_err(io::Error::other)?).map_err(io::Error::other)?;
    }
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS12, &rustls::version::TLS13])
        .map_err(io::Error::other)?;
    Ok(TlsConnector::from(Arc::new(config.with_root_certificates(roots).with_no_client_auth())))
}
