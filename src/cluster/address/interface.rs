//! Addresses of a network interface, by netlink (rtnetlink(7)). Layer: shell.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, CacheInfo};
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteScope, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

/// The table of what is delivered here (rtnetlink(7)).
const RT_TABLE_LOCAL: u8 = 255;

/// One interface.
pub(super) struct Interface {
    socket: Socket,
    index: u32,
    /// Of what was asked last.
    number: u32,
    /// What has come and was not read yet.
    answers: Vec<u8>,
}

impl Interface {
    /// The interface of this name in this network namespace.
    pub(super) fn open(name: &str) -> io::Result<Self> {
        let index = index(name)?;
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, index, number: 0, answers: Vec::new() })
    }

    /// Puts an address on the interface, or renews it: it goes by itself after `lifetime`, in whole seconds.
    pub(super) fn put_address(&mut self, ip: IpAddr, lifetime: Duration) -> io::Result<()> {
        let mut message = self.message(ip);
        let mut life = CacheInfo::default();
        life.ifa_valid = u32::try_from(lifetime.as_secs()).unwrap_or(u32::MAX);
        life.ifa_preferred = life.ifa_valid;
        message.attributes.push(AddressAttribute::CacheInfo(life));
        if ip.is_ipv6() {
            // Nobody else has it: that is what the lease is for. Looking for a double would take a second.
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        self.ask(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_REPLACE)
    }

    /// Takes an address off the interface.
    pub(super) fn drop_address(&mut self, ip: IpAddr) -> io::Result<()> {
        let message = self.message(ip);
        self.ask(RouteNetlinkMessage::DelAddress(message), 0)
    }

    /// Nothing comes to an address of the interface any more; what leaves from it may. (Only IPv4 is forwarded.)
    pub(super) fn drop_local_route(&mut self, ip: IpAddr) -> io::Result<()> {
        let IpAddr::V4(ip) = ip else { return Err(io::ErrorKind::Unsupported.into()) };
        let mut route = RouteMessage::default();
        route.header.address_family = AddressFamily::Inet;
        route.header.destination_prefix_length = 32;
        route.header.table = RT_TABLE_LOCAL;
        route.header.kind = RouteType::Local;
        route.header.scope = RouteScope::Host;
        route.attributes = vec![RouteAttribute::Destination(RouteAddress::Inet(ip)), RouteAttribute::Oif(self.index)];
        self.ask(RouteNetlinkMessage::DelRoute(route), 0)
    }

    /// Forgets the neighbours that the kernel is still looking for, and with them what waits to be sent there: it would be sent
    /// when they are found, a second later or three, from an address that may be another host's by then. What waits for `dropped`,
    /// which have only now become somebody else's, is what others send there.
    pub(super) fn drop_what_waits(&mut self, dropped: &[IpAddr]) -> io::Result<()> {
        let mut all = NeighbourMessage::default();
        all.header.ifindex = self.index;
        self.send(RouteNetlinkMessage::GetNeighbour(all), NLM_F_DUMP)?;
        let mut sought = Vec::new();
        while let Some(answer) = self.receive()? {
            if let RouteNetlinkMessage::NewNeighbour(neighbour) = answer
                && neighbour.header.ifindex == self.index
                && neighbour.header.state == NeighbourState::Incomplete
                && !neighbour.attributes.iter().any(|attribute| dropped.iter().any(|ip| *attribute == destination(*ip)))
            {
                sought.push(neighbour);
            }
        }
        for neighbour in sought {
            // One that has been found meanwhile is looked for again when it is needed.
            let _ = self.ask(RouteNetlinkMessage::DelNeighbour(neighbour), 0);
        }
        Ok(())
    }

    /// Forgets which host an address is at: it is looked for again.
    pub(super) fn forget_neighbour(&mut self, ip: IpAddr) -> io::Result<()> {
        let mut neighbour = NeighbourMessage::default();
        neighbour.header.ifindex = self.index;
        neighbour.header.family = if ip.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
        neighbour.attributes.push(destination(ip));
        self.ask(RouteNetlinkMessage::DelNeighbour(neighbour), 0)
    }

    fn message(&self, ip: IpAddr) -> AddressMessage {
        let mut message = AddressMessage::default();
        message.header.family = if ip.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
        message.header.prefix_len = if ip.is_ipv6() { 128 } else { 32 };
        message.header.index = self.index;
        message.attributes = vec![AddressAttribute::Local(ip), AddressAttribute::Address(ip)];
        message
    }

    fn ask(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.send(message, NLM_F_ACK | flags)?;
        while self.receive()?.is_some() {}
        Ok(())
    }

    fn send(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.number = self.number.wrapping_add(1);
        self.answers.clear();
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.number;
        let mut packet = NetlinkMessage::new(header, NetlinkPayload::from(message));
        packet.finalize();
        let mut buffer = vec![0; packet.buffer_len()];
        packet.serialize(&mut buffer);
        self.socket.send(&buffer, 0).map(drop)
    }

    /// The next answer to what was sent last; none after the last.
    fn receive(&mut self) -> io::Result<Option<RouteNetlinkMessage>> {
        loop {
            while self.answers.is_empty() {
                self.answers = self.socket.recv_from_full()?.0;
            }
            let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&self.answers).map_err(io::Error::other)?;
            // Several come in one datagram, each on a boundary of four.
            let length = usize::try_from(answer.header.length).map_err(io::Error::other)?.next_multiple_of(4);
            self.answers.drain(..length.min(self.answers.len()));
            if answer.header.sequence_number != self.number {
                continue;
            }
            return match answer.payload {
                NetlinkPayload::InnerMessage(message) => Ok(Some(message)),
                NetlinkPayload::Error(error) if error.code.is_some() => Err(error.to_io()),
                NetlinkPayload::Error(_) | NetlinkPayload::Done(_) | NetlinkPayload::Noop | NetlinkPayload::Overrun(_) | _ => {
                    Ok(None)
                }
            };
        }
    }
}

/// Which neighbour.
fn destination(ip: IpAddr) -> NeighbourAttribute {
    NeighbourAttribute::Destination(match ip {
        IpAddr::V4(ip) => NeighbourAddress::Inet(ip),
        IpAddr::V6(ip) => NeighbourAddress::Inet6(ip),
    })
}

/// The number of an interface.
pub(super) fn index(name: &str) -> io::Result<u32> {
    let text = std::fs::read_to_string(format!("/sys/class/net/{name}/ifindex"));
    let text = text.map_err(|_| io::Error::new(io::ErrorKind::NotFound, format!("there is no interface {name}")))?;
    text.trim().parse().map_err(io::Error::other)
}
