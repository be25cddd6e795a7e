//! A phone is at the end of another flow than before: its connection had ended, and it has made another. Layer: pure.
//!
//! Either it has registered again (RFC 5626 §5.3: the same instance is the same phone), or it says something in the dialog, whose tags
//! nobody else knows. What is open on its leg goes on there ([`crate::sip::leg::LegCommand::Rebind`]).

use super::{Call, Effect, Mutation, Step};
use crate::ids::LegId;
use crate::sip::dialog::Flow;
use crate::sip::leg::LegCommand;
use crate::sip::message::Request;

impl Call {
    pub(super) fn rebind(&mut self, leg: LegId, flow: Flow) -> Step {
        if self.state.leg(leg).dialog.flow == flow {
            return Step::default();
        }
        self.and_rebind(leg, flow, Step::default())
    }

    /// A step that also takes the leg to another flow.
    pub(super) fn and_rebind(&mut self, leg: LegId, flow: Flow, mut step: Step) -> Step {
        let this = self.state.leg_mut(leg);
        let former = std::mem::replace(&mut this.dialog.flow, flow);
        // Its answers went by the connection that is gone.
        if let Some(inbound) = this.inbound.as_mut().filter(|inbound| inbound.came_by == former) {
            inbound.came_by = flow;
        }
        for relay in self.state.relays.iter_mut().filter(|relay| relay.from == leg && relay.came_by == former) {
            relay.came_by = flow;
        }
        step.then.insert(0, Effect::Leg(leg, LegCommand::Rebind(flow)));
        step.commit = Some(match step.commit {
            Some(Mutation::End(_, cdr)) => Mutation::End(self.record(), cdr),
            Some(Mutation::Put(_)) | None => Mutation::Put(self.record()),
            Some(forget @ Mutation::Forget(_)) => forget,
        });
        step
    }

    /// Whether a request of the peer's came by another connection than the one that the leg knows.
    pub(super) fn comes_back(&self, leg: LegId, request: &Request, flow: Flow) -> bool {
        let known = &self.state.leg(leg).dialog;
        // Whom we connect to we reach as ever, however they come to us.
        flow.transport.is_reliable() && known.flow != flow && !known.flow.is_dialed() && known.is_from_peer(request)
    }
}
