//! What a call is told while it can't commit. Layer: shell.

use crate::ids::LegId;
use crate::sip::b2bua::EndedBy;
use crate::sip::leg::{LegEvent, TxKey};
use crate::sip::message::Request;
use crate::sip::{Method, StatusCode};

/// An input of the core that may have to wait for a commit.
#[allow(clippy::large_enum_variant, reason = "nearly all are the large one")]
#[derive(Debug, Clone)]
pub(super) enum Unsaid {
    /// A leg's event.
    Event(LegId, LegEvent),
    /// Somebody who is no phone hangs up.
    HangUp(StatusCode, EndedBy),
}

impl Unsaid {
    /// Whether nobody says it again: a phone repeats its requests, save for the BYE after which it is gone.
    pub(super) fn is_said_once(&self) -> bool {
        match self {
            Self::Event(_, LegEvent::Request(_, request, _)) => request.method == Method::Bye,
            Self::Event(
                _,
                LegEvent::Cancelled { .. }
                | LegEvent::Acked(_)
                | LegEvent::Response(_)
                | LegEvent::NoResponse(_)
                | LegEvent::NoAck,
            )
            | Self::HangUp(..) => true,
        }
    }
}

/// The request whose sender must be told when it can't be taken.
pub(super) fn asks_for_an_answer(event: &LegEvent) -> Option<(&TxKey, &Request)> {
    match event {
        LegEvent::Request(key, request, _) => Some((key, request)).filter(|(_, request)| request.method != Method::Bye),
        LegEvent::Cancelled { .. } | LegEvent::Acked(_) | LegEvent::Response(_) | LegEvent::NoResponse(_) | LegEvent::NoAck => {
            None
        }
    }
}
