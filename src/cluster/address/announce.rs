//! Telling a network who has an address now: gratuitous ARP (RFC 5227 §3) and unsolicited neighbour advertisements
//! (RFC 4861 §7.2.6). Layer: shell.
//!
//! A thread of its own: closing a packet socket may take the kernel longer than a lease may wait. What is said once may be
//! lost, and a host that is frozen goes on answering for what it had until its kernel drops it: so it is said again.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV6};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pnet_datalink::{Channel, Config, DataLinkSender, MacAddr, NetworkInterface};
use socket2::{Domain, Protocol, Socket, Type};

use super::interface;
use crate::clock::{self, Uptime};
use crate::cluster::priority::before_others;

/// When an address is announced: milliseconds after it was taken.
const AGAIN: [u64; 8] = [0, 10, 50, 150, 400, 1000, 2000, 3000];
/// ARP (RFC 826) in an Ethernet frame.
const ETHERTYPE_ARP: [u8; 2] = [0x08, 0x06];
const ARP_REQUEST: u8 = 1;
const ARP_REPLY: u8 = 2;
/// An ARP frame for Ethernet and IPv4.
const ARP_FRAME: usize = 42;
/// ICMPv6: neighbour advertisement, target's link-layer address.
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const OVERRIDE: u8 = 0x20;
const TARGET_LINK_LAYER_ADDRESS: u8 = 2;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// Neighbour discovery is believed only with this hop limit.
const HOPS: u32 = 255;

/// Until when each address is held. Whoever was frozen and wakes up looks here before it says anything.
#[derive(Clone, Default)]
pub(super) struct Deadlines(Arc<Mutex<BTreeMap<IpAddr, Uptime>>>);

impl Deadlines {
    /// Held from now on.
    pub(super) fn hold(&self, ip: IpAddr, until: Uptime) {
        self.all().insert(ip, until);
    }

    /// A lease that goes on; nothing if the address is not held.
    pub(super) fn extend(&self, ip: IpAddr, until: Uptime) {
        if let Some(held) = self.all().get_mut(&ip) {
            *held = until.max(*held);
        }
    }

    /// Not held any more.
    pub(super) fn drop(&self, ip: IpAddr) {
        self.all().remove(&ip);
    }

    /// Whether it is held at this moment.
    fn holds(&self, ip: IpAddr) -> bool {
        self.all().get(&ip).is_some_and(|until| *until > clock::uptime())
    }

    /// The addresses that are over.
    pub(super) fn lapsed(&self, now: Uptime) -> Vec<IpAddr> {
        self.all().iter().filter(|(_, until)| **until <= now).map(|(ip, _)| *ip).collect()
    }

    /// The first end.
    pub(super) fn next(&self) -> Option<Uptime> {
        self.all().values().min().copied()
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<IpAddr, Uptime>> {
        // Nothing is left half done under this lock, so a panic elsewhere doesn't spoil it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The handle.
pub(super) struct Announcer {
    orders: Sender<IpAddr>,
}

struct Thread {
    orders: Receiver<IpAddr>,
    deadlines: Deadlines,
    interface: NetworkInterface,
    /// Only while there is something to announce: every packet of the interface comes to it too.
    frames: Option<Box<dyn DataLinkSender>>,
    v6: Option<Socket>,
    mac: MacAddr,
    index: u32,
    /// When each is next announced, and how often it was.
    due: BTreeMap<IpAddr, (Uptime, usize)>,
}

impl Announcer {
    /// Starts the thread for an interface.
    pub(super) fn start(name: &str, deadlines: Deadlines) -> io::Result<Self> {
        let index = interface::index(name)?;
        let interface = pnet_datalink::interfaces().into_iter().find(|own| own.name == name);
        let interface = interface.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        let mac = interface.mac.unwrap_or_default();
        // So that a node that may not do this says so at once, and not when it has a vnode.
        open(&interface)?;
        let (sender, orders) = channel();
        let v6 = neighbour_socket(index).ok();
        let thread = Thread { orders, deadlines, interface, frames: None, v6, mac, index, due: BTreeMap::new() };
        std::thread::Builder::new().name("announce".into()).spawn(move || thread.run())?;
        Ok(Self { orders: sender })
    }

    /// Announces an address, now and some times more while it is held.
    pub(super) fn announce(&self, ip: IpAddr) {
        let _ = self.orders.send(ip);
    }
}

fn open(interface: &NetworkInterface) -> io::Result<Box<dyn DataLinkSender>> {
    match pnet_datalink::channel(interface, Config { promiscuous: false, ..Config::default() })? {
        Channel::Ethernet(frames, _) => Ok(frames),
        _ => Err(io::Error::other(format!("{} is no Ethernet interface", interface.name))),
    }
}

fn neighbour_socket(index: u32) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))?;
    socket.set_multicast_hops_v6(HOPS)?;
    socket.set_multicast_if_v6(index)?;
    Ok(socket)
}

impl Thread {
    fn run(mut self) {
        before_others();
        loop {
            let now = clock::uptime();
            let pause = self.due.values().map(|(at, _)| at.since(now)).min().unwrap_or(Duration::from_secs(3600));
            match self.orders.recv_timeout(pause) {
                Ok(ip) => drop(self.due.insert(ip, (clock::uptime(), 0))),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            let now = clock::uptime();
            let due: Vec<(IpAddr, usize)> =
                self.due.iter().filter(|(_, (at, _))| *at <= now).map(|(ip, (_, times))| (*ip, *times)).collect();
            for (ip, times) in due {
                let held = self.deadlines.holds(ip);
                if held {
                    self.say(ip);
                }
                match AGAIN.get(times + 1).filter(|_| held) {
                    Some(after) => drop(self.due.insert(ip, (now + Duration::from_millis(after - AGAIN[times]), times + 1))),
                    None => drop(self.due.remove(&ip)),
                }
            }
            if self.due.is_empty() {
                self.frames = None;
            }
        }
    }

    fn say(&mut self, ip: IpAddr) {
        match ip {
            IpAddr::V4(ip) => {
                // Some hosts learn from the one, some from the other.
                if self.frames.is_none() {
                    self.frames = open(&self.interface).ok();
                }
                for operation in [ARP_REQUEST, ARP_REPLY] {
                    if let Some(frames) = &mut self.frames {
                        let _ = frames.send_to(&arp(operation, self.mac, ip), None);
                    }
                }
            }
            IpAddr::V6(ip) => {
                if let Some(socket) = &self.v6 {
                    let all = SocketAddrV6::new(ALL_NODES, 0, 0, self.index);
                    let _ = socket.send_to(&advertisement(self.mac, ip), &all.into());
                }
            }
        }
    }
}

/// To all, from this host, about its own address.
fn arp(operation: u8, mac: MacAddr, ip: Ipv4Addr) -> [u8; ARP_FRAME] {
    let mut frame = [0; ARP_FRAME];
    let target = if operation == ARP_REQUEST { [0; 6] } else { mac.octets() };
    let parts: [&[u8]; 9] = [
        &[0xff; 6],
        &mac.octets(),
        &ETHERTYPE_ARP,
        // Ethernet, IPv4, and how long their addresses are.
        &[0, 1, 0x08, 0, 6, 4],
        &[0, operation],
        &mac.octets(),
        &ip.octets(),
        &target,
        &ip.octets(),
    ];
    for (to, from) in frame.iter_mut().zip(parts.into_iter().flatten()) {
        *to = *from;
    }
    frame
}

/// The kernel fills the checksum in.
fn advertisement(mac: MacAddr, ip: Ipv6Addr) -> Vec<u8> {
    let mut message = vec![NEIGHBOUR_ADVERTISEMENT, 0, 0, 0, OVERRIDE, 0, 0, 0];
    message.extend_from_slice(&ip.octets());
    message.extend_from_slice(&[TARGET_LINK_LAYER_ADDRESS, 1]);
    message.extend_from_slice(&mac.octets());
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gratuitous_arp_says_who_has_the_address() {
        let mac = MacAddr::new(2, 0, 0, 0, 0, 9);
        let frame = arp(ARP_REQUEST, mac, Ipv4Addr::new(10, 0, 0, 1));
        assert_eq!(
            hex::encode(frame),
            "ffffffffffff02000000000908060001080006040001\
                                        0200000000090a000001\
                                        0000000000000a000001"
        );
        assert_eq!(frame[20..22], [0, ARP_REQUEST]);
        assert_eq!(arp(ARP_REPLY, mac, Ipv4Addr::new(10, 0, 0, 1))[32..38], mac.octets());
    }

    #[test]
    fn an_advertisement_overrides_what_was_known() {
        let message = advertisement(MacAddr::new(2, 0, 0, 0, 0, 9), "fe80::7".parse().unwrap());
        assert_eq!(hex::encode(message), "8800000020000000fe8000000000000000000000000000070201020000000009");
    }
}
