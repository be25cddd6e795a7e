//! A call goes on: on a new owner, or in an actor made anew after a panic. Layer: pure.
//!
//! Whatever the former owner may have been doing, the committed state says what phones may have seen, and
//! this tells fresh legs what is open. All of it may reach phones a second time; each message is one that
//! SIP lets be repeated, with the branch and number it had.

use super::{Call, CallState, Effect, StageIn, StageOut};
use crate::ids::LegId;
use crate::sip::leg::LegCommand;

impl Call {
    /// Goes on from what was committed: its CSeq numbers are past whatever a former owner may have used.
    pub fn resume(state: CallState, incarnation: u32) -> (Self, Vec<Effect>) {
        let mut state = state;
        for leg in &mut state.legs {
            (leg.reserved, leg.asked) = (leg.dialog.local_cseq, leg.dialog.local_cseq);
            leg.pracked = None;
        }
        let call = Self { committed: state.clone(), state, incarnation, branches: 0 };
        let mut effects: Vec<Effect> = call.state.leg_ids().into_iter().flat_map(|leg| call.resume_leg(leg)).collect();
        if !call.state.locating.is_empty() {
            effects.push(Effect::Locate(call.state.locating.clone()));
        }
        (call, effects)
    }

    /// What a leg that was made anew, while its call lives, must take up.
    pub fn remake_leg(&mut self, leg: LegId) -> Vec<Effect> {
        // Its PRACKs have gone with it.
        self.state.leg_mut(leg).pracked = None;
        self.committed.legs.iter_mut().filter(|own| own.id == leg).for_each(|own| own.pracked = None);
        self.resume_leg(leg)
    }

    /// What a leg that was just made must take up.
    fn resume_leg(&self, leg: LegId) -> Vec<Effect> {
        let mut commands = Vec::new();
        let this = self.state.leg(leg);
        let flow = this.dialog.flow;
        if let Some(inbound) = &this.inbound {
            commands.push(LegCommand::Accept(inbound.request.clone(), inbound.came_by));
        }
        if let Some(out) = &this.out {
            match out.stage {
                StageOut::Calling => commands.push(LegCommand::Send(out.request.clone(), flow)),
                // Nobody repeats its refusal on a connection, and asked again it would ring again.
                StageOut::Refused if flow.transport.is_reliable() => {}
                StageOut::Proceeding | StageOut::Refused => commands.push(LegCommand::Adopt(out.request.clone(), flow)),
                StageOut::Cancelling => {
                    commands.push(LegCommand::Adopt(out.request.clone(), flow));
                    commands.push(LegCommand::Cancel);
                }
                // The callee repeats its 200 until our ACK comes.
                StageOut::AckWaits => {}
            }
        }
        if let Some(bye) = &this.bye {
            commands.push(LegCommand::Send(bye.clone(), flow));
        }
        if let Some(reinvite) = this.reinvite.as_ref().filter(|_| self.state.ended.is_none()) {
            commands.push(LegCommand::Send(reinvite.clone(), flow));
            let taken = self.state.referral.as_ref().and_then(|referral| referral.taken.as_ref());
            let cancelled = taken.is_some_and(|taken| taken.cancelled) && self.state.transferee() == Some(leg);
            commands.extend(cancelled.then_some(LegCommand::Cancel));
        }
        if let Some(notify) = self.state.referral.as_ref().filter(|own| own.by == leg).and_then(|own| own.notify.clone()) {
            commands.push(LegCommand::Send(notify, flow));
        }
        for relay in &self.state.relays {
            if relay.from == leg {
                commands.push(LegCommand::Accept(relay.request.clone(), relay.came_by));
            } else if relay.answer.is_none() && relay.to == leg {
                commands.push(LegCommand::Send(relay.onward.clone(), flow));
                commands.extend(relay.cancelled.then_some(LegCommand::Cancel));
            }
        }
        let mut effects: Vec<_> = commands.into_iter().map(|command| Effect::Leg(leg, command)).collect();
        let waiting = this.inbound.as_ref().is_some_and(|inbound| inbound.stage != StageIn::Pending && !inbound.is_heard());
        effects.extend(self.inbound_response(leg).filter(|_| waiting));
        for relay in self.state.relays.iter().filter(|relay| relay.from == leg && relay.answer.is_some()) {
            effects.push(self.relay_answer(relay));
        }
        effects
    }
}
