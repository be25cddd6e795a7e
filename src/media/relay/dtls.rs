//! What comes to a port with an association and is no media: ICE's checks are answered here, and DTLS is handed on until there are keys. Layer: shell.

use std::net::SocketAddr;
use std::time::Duration;

use super::super::core::dtls::Dtls;
use super::super::core::ice::{ANSWER, Check};
use super::super::dtls::{Dealing, dealing};
use crate::clock::Uptime;

/// So many datagrams of DTLS are handed on in a second, of those that come from where the phone is known to be, and as many of others: a handshake has
/// fewer, and nobody's flood reaches an actor.
const HANDED_ON: u32 = 16;
/// The last flight is repeated so often at most.
const REPEATED: Duration = Duration::from_millis(50);

/// What a datagram is by its first byte (RFC 7983 §7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Stun,
    Dtls,
    Media,
    Other,
}

impl Kind {
    pub(super) fn of(datagram: &[u8]) -> Self {
        match datagram.first() {
            Some(0..=3) => Self::Stun,
            Some(20..=63) => Self::Dtls,
            Some(128..=191) => Self::Media,
            Some(_) | None => Self::Other,
        }
    }
}

/// One end's.
#[derive(Debug)]
pub(super) struct Association {
    plan: Dtls,
    /// When a second began, and what was handed on in it: of others, and of the phone.
    handed_on: [(Uptime, u32); 2],
    /// When the last flight was repeated, to others, and to the phone.
    repeated: [Option<Uptime>; 2],
}

/// What to do with a datagram of DTLS.
pub(super) enum Heard<'a> {
    /// Its sender has not had our last flight: here it is.
    Repeat(&'a [bytes::Bytes]),
    /// Somebody has to take it.
    HandOn,
    /// Nothing.
    Nothing,
}

impl Association {
    pub(super) fn new(plan: Dtls) -> Self {
        Self { plan, handed_on: Default::default(), repeated: [None; 2] }
    }

    /// As an actor wants it.
    pub(super) fn set(&mut self, plan: Dtls) {
        self.plan = plan;
    }

    pub(super) fn has_ice(&self) -> bool {
        self.plan.agent.is_some()
    }

    /// Whether its phone has RTCP on the same port. If it hasn't, there are no keys for it.
    pub(super) fn is_muxed(&self) -> bool {
        self.plan.association.is_muxed
    }

    /// Whether its phone is one with which keys are agreed on, and not only may be.
    pub(super) fn is_certain(&self) -> bool {
        !self.plan.association.prints.is_empty()
    }

    /// A check of ICE's.
    pub(super) fn check(&self, datagram: &[u8], source: SocketAddr, answer: &mut [u8; ANSWER]) -> Check {
        self.plan.agent.as_ref().map_or(Check::Dropped, |agent| agent.check(datagram, source, answer))
    }

    /// DTLS, from where the phone is known to be, or from one who may be it.
    pub(super) fn hear(&mut self, datagram: &[u8], is_known: bool, now: Uptime) -> Heard<'_> {
        let (dealing, whose) = (dealing(datagram), usize::from(is_known));
        if let Some(keyed) = &self.plan.association.keyed {
            let may = self.repeated[whose].is_none_or(|repeated| now.since(repeated) >= REPEATED);
            if dealing != Dealing::Again || !may {
                return Heard::Nothing;
            }
            self.repeated[whose] = Some(now);
            return Heard::Repeat(&keyed.last_flight);
        }
        let (began, count) = &mut self.handed_on[whose];
        if now.since(*began) >= Duration::from_secs(1) {
            (*began, *count) = (now, 0);
        }
        *count += 1;
        if *count > HANDED_ON { Heard::Nothing } else { Heard::HandOn }
    }
}
