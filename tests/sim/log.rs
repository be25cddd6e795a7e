//! A vnode's log over three replicas: the real records and the real `apply`, committed in one step or not at all.

use std::net::SocketAddr;

use tandem::actors::records::{self, Site};
use tandem::cluster::state::records::CdrRecord;
use tandem::cluster::state::{VnodeCommand, VnodeState};
use tandem::media::core::Session;
use tandem::sip::b2bua::{CallState, Mutation};

/// Where an owner is: one after another, if the address doesn't come along.
pub fn address(owner: u8) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 11 + owner], 5060))
}

#[derive(Debug, Default, Clone)]
pub struct Log {
    replicas: [VnodeState; 3],
    /// What meta has got.
    pub cdrs: Vec<CdrRecord>,
}

impl Log {
    pub fn commit(&mut self, mutation: &Mutation) {
        let id = match mutation {
            Mutation::Put(state) | Mutation::End(state, _) => state.id,
            Mutation::Forget(id) => *id,
        };
        let command = records::command(mutation, &Session::new(address(0).ip().into(), records::media_id(id)));
        for replica in &mut self.replicas {
            replica.apply(&command);
        }
        assert!(self.replicas.iter().all(|replica| *replica == self.replicas[0]), "replicas are alike");
        for (call, entry) in self.replicas[0].calls() {
            let site = Site::of(address(0));
            let glance = records::glance(*call, &entry.record, site).unwrap();
            let (state, _) = records::restore(&entry.record, site).unwrap();
            let waits = |quiet: bool, deadline| (quiet, if quiet { deadline } else { None });
            let (at_a_glance, looked) = (waits(glance.quiet, glance.deadline), waits(state.is_quiet(), state.deadline()));
            assert_eq!(at_a_glance, looked, "at a glance as at a look");
        }
        // Shipped now or later: it is in the entry that ended the call.
        let shipped = self.replicas[0].outbox(usize::MAX);
        let calls: Vec<_> = shipped.iter().map(|cdr| cdr.call).collect();
        self.cdrs.extend(shipped);
        for replica in &mut self.replicas {
            replica.apply(&VnodeCommand::CdrsShipped { calls: calls.clone() });
        }
    }

    /// The calls that a new owner finds, who is there.
    pub fn calls(&self, site: Site) -> Vec<CallState> {
        self.replicas[2].calls().map(|(_, entry)| records::restore(&entry.record, site).unwrap().0).collect()
    }
}
