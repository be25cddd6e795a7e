//! Descriptors that a dying process gives up first. Layer: shell.
//!
//! Linux closes the files of a killed process from the highest number down. A node opens its wire first, so without this its peers
//! would be refused, and know, only after all of its media sockets were closed: tens of milliseconds when there are thousands
//! (`make size`).

use std::os::fd::{AsFd, OwnedFd};

use nix::sys::resource::{Resource, getrlimit};
use rustix::io::fcntl_dupfd_cloexec;

/// The kernel's table of descriptors has eight bytes for each below the highest: 2 MiB at most.
const HIGHEST: u64 = 1 << 18;
/// So many are kept free for such descriptors.
const ROOM: u64 = 256;

/// The same socket by a number that is above those of other files; by its own if there is none.
pub(super) fn high<S: AsFd + From<OwnedFd>>(socket: S) -> S {
    let soft = getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft);
    let from = i32::try_from(soft.min(HIGHEST).saturating_sub(ROOM)).unwrap_or(0);
    fcntl_dupfd_cloexec(&socket, from).map_or(socket, S::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::os::fd::AsRawFd;

    #[test]
    fn a_socket_gets_a_high_number_and_stays_itself() {
        let low = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = low.local_addr().unwrap();
        let other = UdpSocket::bind("127.0.0.1:0").unwrap();
        let high = high(low);
        assert!(high.as_raw_fd() > other.as_raw_fd());
        assert_eq!(high.local_addr().unwrap(), address);
        drop(high);
        UdpSocket::bind(address).expect("nothing is left of it");
    }
}
