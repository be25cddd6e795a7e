//! Tickling: telling a phone whose connection died with a former owner (design, *What phones do*). Layer: shell.
//!
//! The kernel here knows nothing of the connections that a moved address had elsewhere, and a phone that has nothing to say notices
//! nothing for a minute. One stray ACK from the moved address to the connection's far end makes the phone's kernel answer (RFC 9293
//! §3.10.7.4: an unacceptable segment is acknowledged), that answer makes ours reset (§3.10.7.1), and the phone, whose connection is reset,
//! makes another. Where raw sockets are not allowed phones notice by themselves.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::services::Services;
use super::{lookup, records};
use crate::clock;
use crate::families::Families;
use crate::ids::VnodeId;
use crate::sip::dialog::Flow;

/// A phone is tickled after each of these, until it is registered by another flow: packets get lost, and Linux answers only one stray
/// segment in half a second.
const PASSES: [Duration; 4] = [Duration::ZERO, Duration::from_millis(700), Duration::from_secs(2), Duration::from_secs(4)];
/// So many at once, and this pause between: they all come back, and their handshakes cost more than this.
const AT_ONCE: usize = 500;
const PAUSE: Duration = Duration::from_millis(20);
/// A TCP header without options.
const HEADER: usize = 20;

/// Tickles every phone whose registration came by a connection to this vnode that isn't here.
pub async fn all(services: Arc<Services>, vnode: VnodeId) {
    let Some(ips) = services.config.addresses_of(vnode) else { return };
    let sockets = ips.all().map(|ip| Ok((ip, raw(ip)?))).collect::<std::io::Result<Vec<_>>>();
    let sockets = match sockets {
        Ok(sockets) => sockets,
        Err(error) => return tracing::debug!(%vnode, %error, "phones are not tickled"),
    };
    for pause in PASSES {
        tokio::time::sleep(pause).await;
        let (lost, all_asked) = lost(&services, vnode, ips).await;
        if lost.is_empty() {
            if all_asked {
                return;
            }
            continue;
        }
        tracing::info!(%vnode, phones = lost.len(), "tickled");
        for some in lost.chunks(AT_ONCE) {
            if !services.ownership(vnode).is_active() {
                return;
            }
            for flow in some {
                let segment = stray_ack(flow.local, flow.remote);
                for (_, socket) in sockets.iter().filter(|(ip, _)| *ip == flow.local.ip()) {
                    // One that doesn't leave is as good as lost.
                    let _ = socket.send_to(&segment, &SockAddr::from(SocketAddr::new(flow.remote.ip(), 0)));
                }
            }
            metrics::counter!("tandem_tickled_total").increment(some.len() as u64);
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// The connections to a vnode's address that phones are registered by and that are not here; and whether every registrar could be asked.
async fn lost(services: &Services, vnode: VnodeId, ips: Families) -> (Vec<Flow>, bool) {
    let (mut flows, mut all_asked) = (Vec::new(), true);
    for home in services.cluster.vnodes() {
        // Whoever can't be asked now has it in the next pass.
        let Ok(bindings) = lookup::bindings(services, home).await else {
            all_asked = false;
            continue;
        };
        let now = clock::now();
        let read = tokio::task::spawn_blocking(move || {
            let all = bindings.iter().filter_map(|(_, record)| records::decode_bindings(record).ok()).flatten();
            let live = all.filter(|binding| binding.expires > now).map(|binding| binding.flow);
            // Where addresses stay, those of another node are none that we can speak for.
            let ours = |flow: &Flow| {
                flow.vnode == vnode && flow.transport.is_reliable() && ips.toward(flow.local.ip()) == Some(flow.local.ip())
            };
            live.filter(ours).collect::<Vec<_>>()
        });
        flows.extend(read.await.unwrap_or_default());
    }
    flows.retain(|flow| services.sockets.has(flow) == Some(false));
    (flows, all_asked)
}

fn raw(local: IpAddr) -> std::io::Result<Socket> {
    let local = SocketAddr::new(local, 0);
    let socket = Socket::new(Domain::for_address(local), Type::RAW, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    if local.is_ipv6() {
        socket.set_freebind_v6(true)?;
    } else {
        socket.set_freebind_v4(true)?;
    }
    // It hears every segment that comes here, and we listen to none.
    let _ = socket.set_recv_buffer_size(1);
    socket.bind(&local.into())?;
    Ok(socket)
}

/// A segment with nothing but an ACK of nothing that was ever sent (RFC 9293 §3.1).
fn stray_ack(from: SocketAddr, to: SocketAddr) -> [u8; HEADER] {
    let mut segment = [0; HEADER];
    segment[0..2].copy_from_slice(&from.port().to_be_bytes());
    segment[2..4].copy_from_slice(&to.port().to_be_bytes());
    segment[4..8].copy_from_slice(&rand::random::<u32>().to_be_bytes());
    segment[8..12].copy_from_slice(&rand::random::<u32>().to_be_bytes());
    // Five words of header, and the ACK bit.
    (segment[12], segment[13]) = (5 << 4, 0x10);
    let sum = checksum(from.ip(), to.ip(), &segment);
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    segment
}

/// The checksum over pseudo header and segment (RFC 9293 §3.1; RFC 8200 §8.1).
fn checksum(from: IpAddr, to: IpAddr, segment: &[u8; HEADER]) -> u16 {
    let words = |bytes: &[u8]| bytes.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum::<u32>();
    let address = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => words(&ip.octets()),
        IpAddr::V6(ip) => words(&ip.octets()),
    };
    // Protocol 6 and the segment's length stand in both kinds of pseudo header.
    let mut sum = address(from) + address(to) + 6 + 20 + words(segment);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A receiver's sum over all of it, checksum included, is zero.
    #[test]
    fn the_checksum_is_right() {
        for (from, to) in [("192.0.2.1:5060", "198.51.100.7:43210"), ("[2001:db8::1]:5061", "[2001:db8::ffff]:65535")] {
            let (from, to): (SocketAddr, SocketAddr) = (from.parse().unwrap(), to.parse().unwrap());
            let segment = stray_ack(from, to);
            assert_eq!(checksum(from.ip(), to.ip(), &segment), 0);
        }
    }
}
