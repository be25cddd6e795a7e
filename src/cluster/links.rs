//! The links to the other nodes, which come and go with the membership. Layer: shell.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};

use super::wire::{Link, Reach};
use crate::clock::Uptime;
use crate::ids::NodeId;

/// The links by peer.
#[derive(Default)]
pub struct Links {
    all: RwLock<BTreeMap<NodeId, (SocketAddr, Arc<Link>)>>,
}

impl Links {
    /// The link to a peer.
    pub fn get(&self, peer: NodeId) -> Option<Arc<Link>> {
        self.all.read().unwrap_or_else(PoisonError::into_inner).get(&peer).map(|(_, link)| link.clone())
    }

    /// Every peer, in order.
    pub fn peers(&self) -> Vec<NodeId> {
        self.all.read().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
    }

    /// Where the peers are.
    pub fn addresses(&self) -> BTreeMap<NodeId, SocketAddr> {
        self.all.read().unwrap_or_else(PoisonError::into_inner).iter().map(|(peer, (address, _))| (*peer, *address)).collect()
    }

    /// Every link, in the order of the peers.
    pub fn all(&self) -> Vec<(NodeId, Arc<Link>)> {
        self.all.read().unwrap_or_else(PoisonError::into_inner).iter().map(|(peer, (_, link))| (*peer, link.clone())).collect()
    }

    /// How a peer looks; one to which there is no link is unknown.
    pub fn reach(&self, peer: NodeId) -> Reach {
        self.get(peer).map_or(Reach::Unknown, |link| *link.reach().borrow())
    }

    /// As [`Link::refused`].
    pub fn refused(&self, peer: NodeId) -> Option<Uptime> {
        self.get(peer)?.refused()
    }

    /// From now on these are the peers: links to others end, and `start` makes those that are missing.
    pub fn set(&self, peers: &BTreeMap<NodeId, SocketAddr>, start: impl Fn(NodeId, SocketAddr) -> Arc<Link>) {
        let mut all = self.all.write().unwrap_or_else(PoisonError::into_inner);
        all.retain(|peer, (address, link)| {
            let stays = peers.get(peer) == Some(address);
            if !stays {
                link.close();
            }
            stays
        });
        for (peer, address) in peers {
            all.entry(*peer).or_insert_with(|| (*address, start(*peer, *address)));
        }
    }
}
