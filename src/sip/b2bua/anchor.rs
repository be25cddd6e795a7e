//! Where addresses are fixed, a new owner is at another one, and asks the phones to come along. Layer: pure.
//!
//! ```text
//!  moved ──re-INVITE──▶ asked ──2xx──▶ here
//!    ▲                    ├─ 491, 500 ──▶ moved, a while later
//!    │                    └─ it won't, or is gone
//!  another owner
//! ```

use super::{ALLOW, Body, Call, Effect, EndedBy, Step, set_body};
use crate::clock::Timestamp;
use crate::ids::LegId;
use crate::sip::leg::LegCommand;
use crate::sip::message::Response;
use crate::sip::status::Class;
use crate::sip::{Method, Name, StatusCode};

impl Call {
    /// Whether a leg's phone can be told once more what it was told: it isn't being asked for anything.
    pub fn may_be_told_again(&self, leg: LegId) -> bool {
        let this = self.state.leg(leg);
        this.reinvite.is_none() && !this.moved && self.state.is_talking()
    }

    /// A leg's phone is to be told once more what it was told, since that means something else now: as soon as it is
    /// [`movable`](super::CallState::movable).
    pub fn tell_again(&mut self, leg: LegId) {
        self.state.leg_mut(leg).moved = true;
    }

    /// A re-INVITE of our own (RFC 3261 §14.1): the phone sends its requests to our Contact and its media to our description from
    /// then on. Phones follow it where they don't follow UPDATE.
    pub(super) fn anchor(&mut self, leg: LegId, body: Option<Body>) -> Step {
        let this = self.state.leg_mut(leg);
        this.moved = false;
        let Some(body) = body else { return Step::default() };
        let token = self.state.token(leg);
        let here = self.state.leg(leg).dialog.flow.contact(&token);
        let known = std::mem::replace(&mut self.state.leg_mut(leg).dialog.contact, here);
        let mut invite = self.dialog_request(leg, Method::Invite);
        // Until it has answered it knows what it knew.
        self.state.leg_mut(leg).dialog.contact = known;
        invite.headers.push_text(Name::Allow, ALLOW);
        set_body(&mut invite, Some(&body));
        self.state.leg_mut(leg).reinvite = Some(invite.clone());
        let flow = self.state.leg(leg).dialog.flow;
        self.put(vec![Effect::Leg(leg, LegCommand::Send(invite, flow))])
    }

    #[allow(clippy::wildcard_enum_match_arm, reason = "every other status is treated alike")]
    pub(super) fn anchored(&mut self, leg: LegId, response: &Response, now: Timestamp) -> Step {
        if !response.status.is_final() {
            return Step::default();
        }
        let Some(invite) = self.state.leg_mut(leg).reinvite.take() else { return Step::default() };
        let token = self.state.token(leg);
        let acknowledge = Effect::Leg(leg, LegCommand::Acknowledge);
        if response.status.class() == Class::Success {
            let dialog = &mut self.state.leg_mut(leg).dialog;
            dialog.contact = dialog.flow.contact(&token);
            dialog.retarget(&response.headers);
            self.timer_of_client(leg, &response.headers, now);
            let ack = self.acknowledge(leg, &invite, None);
            return self.put(vec![ack]);
        }
        match response.status {
            StatusCode::CALL_DOES_NOT_EXIST | StatusCode::REQUEST_TIMEOUT => {
                self.state.leg_mut(leg).gone = true;
                self.end(StatusCode::CALL_DOES_NOT_EXIST, EndedBy::System, now, vec![acknowledge])
            }
            // It has an INVITE of its own open, or one that it thinks is, and soon hasn't; or it is refreshed too often.
            StatusCode::REQUEST_PENDING | StatusCode::SERVER_INTERNAL_ERROR | StatusCode::SESSION_INTERVAL_TOO_SMALL => {
                self.refresh_less_often(leg, response);
                self.put_off(leg, now);
                let this = self.state.leg_mut(leg);
                this.moved = this.dialog.contact != this.dialog.flow.contact(&token);
                self.put(vec![acknowledge])
            }
            // It won't come. Whatever it sends may find us, or not: that is not for us to end.
            _ => {
                let dialog = &mut self.state.leg_mut(leg).dialog;
                dialog.contact = dialog.flow.contact(&token);
                self.still_there(leg, now);
                self.put(vec![acknowledge])
            }
        }
    }
}
