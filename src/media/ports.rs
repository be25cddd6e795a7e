//! The ports of one vnode's addresses, taken in pairs: RTP on an even one, RTCP above it (RFC 3550 §11).
//! Layer: shell.
//!
//! A pair is free only when both sockets could be bound, so somebody else's socket costs one attempt and no
//! call. Ports are given out in the order in which they came back: a late packet finds nobody for long.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::{Mutex, PoisonError};

use crate::ids::CallId;
use socket2::{Domain, Protocol, Socket, Type};

/// So many pairs that turn out to be somebody else's are tried for one call.
const ATTEMPTS: usize = 64;

/// The sockets of one end of one stream.
#[derive(Debug)]
pub struct Pair {
    /// On the even port.
    pub rtp: UdpSocket,
    /// On the port above.
    pub rtcp: UdpSocket,
}

impl Pair {
    /// Binds both.
    pub fn bind(rtp: SocketAddr) -> std::io::Result<Self> {
        let above = rtp.port().checked_add(1).ok_or(std::io::ErrorKind::InvalidInput)?;
        Ok(Self { rtp: bind(rtp)?, rtcp: bind(SocketAddr::new(rtp.ip(), above))? })
    }
}

/// Binds a socket that doesn't block. The address needn't be here yet (`IP_FREEBIND`): sockets are ready before it comes.
pub fn bind(local: SocketAddr) -> std::io::Result<UdpSocket> {
    bound(local, false)
}

/// Binds one beside another, which has to allow it at this moment (`SO_REUSEADDR`).
pub fn bind_beside(local: SocketAddr) -> std::io::Result<UdpSocket> {
    bound(local, true)
}

fn bound(local: SocketAddr, beside: bool) -> std::io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(local), Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
    if local.is_ipv6() {
        socket.set_freebind_v6(true)?
    } else {
        socket.set_freebind_v4(true)?
    }
    socket.set_reuse_address(beside)?;
    socket.bind(&local.into())?;
    Ok(socket.into())
}

/// The pool.
#[derive(Debug)]
pub struct PortPool {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    free: VecDeque<u16>,
    /// Whose they are: a call that ended long ago has no say any more.
    used: BTreeMap<u16, CallId>,
}

impl PortPool {
    /// Every even port of the range with its odd neighbour.
    pub fn new(first: u16, last: u16) -> Self {
        let free = (first..last).filter(|port| port % 2 == 0).collect();
        Self { inner: Mutex::new(Inner { free, used: BTreeMap::new() }) }
    }

    /// Takes a pair for a call, for all addresses, and binds it at this one; `None` when there is none left.
    pub fn take(&self, ip: IpAddr, call: CallId) -> Option<(u16, Pair)> {
        for _ in 0..ATTEMPTS {
            let port = {
                let mut inner = self.inner();
                let port = inner.free.pop_front()?;
                inner.used.insert(port, call);
                port
            };
            match Pair::bind(SocketAddr::new(ip, port)) {
                Ok(pair) => return Some((port, pair)),
                Err(_) => self.give_back(port, call),
            }
        }
        None
    }

    /// Marks the ports of calls that a former owner set up.
    pub fn adopt(&self, ports: impl IntoIterator<Item = (u16, CallId)>) {
        let mut inner = self.inner();
        inner.used.extend(ports);
        let Inner { free, used } = &mut *inner;
        free.retain(|free| !used.contains_key(free));
    }

    /// The port may be given to another call, if it is this one's.
    pub fn give_back(&self, port: u16, call: CallId) {
        let mut inner = self.inner();
        if inner.used.get(&port) == Some(&call) {
            inner.used.remove(&port);
            inner.free.push_back(port);
        }
    }

    /// How many pairs are in use.
    pub fn used(&self) -> usize {
        self.inner().used.len()
    }

    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_even_bound_once_and_come_back() {
        let ip: IpAddr = "127.0.0.9".parse().unwrap();
        let somebody_else = UdpSocket::bind(SocketAddr::new(ip, 20_003)).unwrap();
        let pool = PortPool::new(20_001, 20_006);
        let (port, pair) = pool.take(ip, CallId(1)).unwrap();
        assert_eq!((port, pair.rtcp.local_addr().unwrap().port()), (20_004, 20_005));
        assert!(pool.take(ip, CallId(2)).is_none(), "20002 is half taken, 20006 has no neighbour in the range");
        drop((pair, somebody_else));
        pool.give_back(port, CallId(2));
        assert_eq!(pool.used(), 1, "it isn't that call's");
        pool.give_back(port, CallId(1));
        assert_eq!(pool.used(), 0);
        pool.adopt([(20_002, CallId(3))]);
        assert_eq!(pool.take(ip, CallId(1)).unwrap().0, 20_004);
        assert_eq!(pool.used(), 2);
    }
}
