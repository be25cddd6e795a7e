//! Addresses of a network interface, by netlink (rtnetlink(7)). Layer: shell.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, CacheInfo};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

/// One interface.
pub(super) struct Interface {
    socket: Socket,
    index: u32,
    number: u32,
}

impl Interface {
    /// The interface of this name in this network namespace.
    pub(super) fn open(name: &str) -> io::Result<Self> {
        let index = index(name)?;
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, index, number: 0 })
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

    fn message(&self, ip: IpAddr) -> AddressMessage {
        let mut message = AddressMessage::default();
        message.header.family = if ip.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
        message.header.prefix_len = if ip.is_ipv6() { 128 } else { 32 };
        message.header.index = self.index;
        message.attributes = vec![AddressAttribute::Local(ip), AddressAttribute::Address(ip)];
        message
    }

    fn ask(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.number = self.number.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        header.sequence_number = self.number;
        let mut packet = NetlinkMessage::new(header, NetlinkPayload::from(message));
        packet.finalize();
        let mut buffer = vec![0; packet.buffer_len()];
        packet.serialize(&mut buffer);
        self.socket.send(&buffer, 0)?;
        loop {
            let (answer, _) = self.socket.recv_from_full()?;
            let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer).map_err(io::Error::other)?;
            if answer.header.sequence_number == self.number {
                let NetlinkPayload::Error(error) = answer.payload else { return Ok(()) };
                return if error.code.is_some() { Err(error.to_io()) } else { Ok(()) };
            }
        }
    }
}

/// The number of an interface.
pub(super) fn index(name: &str) -> io::Result<u32> {
    let text = std::fs::read_to_string(format!("/sys/class/net/{name}/ifindex"));
    let text = text.map_err(|_| io::Error::new(io::ErrorKind::NotFound, format!("there is no interface {name}")))?;
    text.trim().parse().map_err(io::Error::other)
}
