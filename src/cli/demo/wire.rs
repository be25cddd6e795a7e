//! What a scripted phone talks by: datagrams, or a connection that it made. Layer: program.

use std::io;
use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use tokio::net::{TcpSocket, TcpStream, UdpSocket};

use crate::sip::framing::{Frame, Framer};

/// The longest datagram there can be.
const DATAGRAM: usize = 65_536;

/// A phone's way out.
#[derive(Debug)]
pub(super) enum Wire {
    /// UDP: anybody may be at the other end.
    Datagrams(UdpSocket),
    /// TCP, to one server.
    Connection(TcpStream, Framer),
}

impl Wire {
    /// A port for datagrams at `own`.
    pub(super) async fn datagrams(own: IpAddr) -> io::Result<Self> {
        Ok(Self::Datagrams(UdpSocket::bind((own, 0)).await?))
    }

    /// A connection from `own` to `server`.
    pub(super) async fn connection(own: IpAddr, server: SocketAddr) -> io::Result<Self> {
        let socket = if own.is_ipv6() { TcpSocket::new_v6()? } else { TcpSocket::new_v4()? };
        socket.bind((own, 0).into())?;
        let stream = socket.connect(server).await?;
        stream.set_nodelay(true)?;
        Ok(Self::Connection(stream, Framer::default()))
    }

    /// Our end.
    pub(super) fn local(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Datagrams(socket) => socket.local_addr(),
            Self::Connection(stream, _) => stream.local_addr(),
        }
    }

    /// As it stands in a Via.
    pub(super) fn transport(&self) -> &'static str {
        match self {
            Self::Datagrams(_) => "UDP",
            Self::Connection(..) => "TCP",
        }
    }

    /// Whether nothing that is sent needs to be sent again.
    pub(super) fn is_reliable(&self) -> bool {
        matches!(self, Self::Connection(..))
    }

    /// Sends a message. That a connection has ended is heard where it is read.
    pub(super) async fn send(&self, mut bytes: &[u8], to: SocketAddr) -> io::Result<()> {
        match self {
            Self::Datagrams(socket) => drop(socket.send_to(bytes, to).await?),
            Self::Connection(stream, _) => {
                while !bytes.is_empty() && stream.writable().await.is_ok() {
                    match stream.try_write(bytes) {
                        Ok(written) => bytes = &bytes[written..],
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                        Err(_) => break,
                    }
                }
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
            Self::Connection(stream, framer) => loop {
                match framer.next_frame().map_err(io::Error::other)? {
                    Some(Frame::Message(bytes)) => return Ok((bytes, stream.peer_addr()?)),
                    Some(Frame::Ping | Frame::Pong) => continue,
                    None => {}
                }
                stream.readable().await?;
                let mut buffer = [0; 4096];
                match stream.try_read(&mut buffer) {
                    Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                    Ok(length) => framer.push(&buffer[..length]),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error),
                }
            },
        }
    }
}
