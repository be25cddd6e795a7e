//! Built-in phones that talk through a cluster.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tandem::cli::demo::phone::Phone;
use tandem::cli::demo::talk::Talk;
use tandem::cli::demo::wire::Over;
use tokio::net::UdpSocket;

use super::cluster::{Cluster, DOMAIN};
use super::{TLS, WS, WSS};

/// A phone for one of the cluster's users, which speaks to the first vnode of a node.
pub async fn phone(cluster: &Cluster, user: usize, node: usize) -> (Phone, UdpSocket) {
    phone_at(cluster, user, cluster.sip_of(node)).await
}

/// A phone for one of the cluster's users, with a connection to the first vnode of a node.
pub async fn connected(cluster: &Cluster, over: &Over, user: usize, node: usize) -> (Phone, UdpSocket) {
    connected_at(cluster, over, user, cluster.sip_of(node)).await
}

/// The same, to a vnode's address.
pub async fn connected_at(cluster: &Cluster, over: &Over, user: usize, mut server: SocketAddr) -> (Phone, UdpSocket) {
    let media = UdpSocket::bind((own_toward(server), 0)).await.unwrap();
    let (name, password) = &cluster.users[user];
    server.set_port(match over {
        Over::Udp | Over::Tcp => server.port(),
        Over::Tls(_) => TLS,
        Over::Ws => WS,
        Over::Wss(_) => WSS,
    });
    let phone = Phone::over(over.clone(), name, password, DOMAIN, server, media.local_addr().unwrap());
    (phone.await.unwrap(), media)
}

/// A phone for one of the cluster's users, which speaks to a vnode's address.
pub async fn phone_at(cluster: &Cluster, user: usize, server: SocketAddr) -> (Phone, UdpSocket) {
    let media = UdpSocket::bind((own_toward(server), 0)).await.unwrap();
    let (name, password) = &cluster.users[user];
    (Phone::new(name, password, DOMAIN, server, media.local_addr().unwrap()).await.unwrap(), media)
}

/// The phones' address by which they reach a server.
fn own_toward(server: SocketAddr) -> IpAddr {
    if server.is_ipv6() { super::net::PHONES_V6.into() } else { super::phones().into() }
}

/// Lets one phone call the cluster's second user, who answers by the other; both talk until the talks are dropped.
pub async fn between(cluster: &Cluster, a: (&mut Phone, UdpSocket), b: (&mut Phone, UdpSocket)) -> [Talk; 2] {
    to(&cluster.users[1].0, a, b).await
}

/// Lets one phone call a user who answers by the other.
pub async fn to(callee: &str, a: (&mut Phone, UdpSocket), b: (&mut Phone, UdpSocket)) -> [Talk; 2] {
    let (a_to, b_to) = tokio::join!(a.0.call(callee), b.0.answer());
    [Talk::start(a.1, a_to.unwrap()), Talk::start(b.1, b_to.unwrap())]
}

/// Both hear each other, and were never without sound for as long as `gap`.
pub fn heard_each_other(talks: &[Talk; 2], gap: Duration) {
    for talk in talks {
        let heard = talk.heard();
        assert!(heard.gap < gap && heard.silence().is_some_and(|silence| silence < gap), "{:?} {:?}", heard.gap, heard.silence());
    }
}
