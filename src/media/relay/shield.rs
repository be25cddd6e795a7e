//! How the packets of one stream's end are protected, as the relay has it at hand. Layer: shell.

use std::time::Duration;

use super::super::core::Shield as Plan;
use super::super::core::protection::Keys;
use super::super::core::srtp::{Context, Mark, RTCP_AHEAD, SrtpError, is_rtcp};
use crate::clock::{self, Uptime};

/// SRTCP's index is at least the time since the call's first key was made, in this unit.
const RTCP_UNIT_MS: u64 = 4;
/// Whoever comes after another says nothing of RTCP for so long: then the other's indices are behind ([`RTCP_AHEAD`] in that unit), though its clock
/// may have been a second ahead.
const RTCP_WAITS: Duration = Duration::from_millis(RTCP_UNIT_MS * RTCP_AHEAD as u64 + 1000);

/// Of one end, for its RTP and its RTCP.
#[derive(Debug)]
pub(super) enum Shield {
    /// Packets are what they are.
    Plain,
    /// None pass: keys are not agreed yet.
    Closed,
    /// They are SRTP.
    Srtp(Box<Contexts>),
}

/// Both ways.
#[derive(Debug)]
pub(super) struct Contexts {
    keys: Keys,
    theirs: Context,
    /// By the key that the phone had before: what is on its way when it changes.
    former: Option<Context>,
    ours: Context,
    /// No SRTCP goes before.
    rtcp_from: Uptime,
}

impl Shield {
    /// As an actor wants it. What goes on by the same key goes on where it is.
    pub(super) fn set(&mut self, plan: Plan) {
        let keys = match plan {
            Plan::Plain => return *self = Self::Plain,
            Plan::Closed => return *self = Self::Closed,
            Plan::Srtp(keys) => *keys,
        };
        let rtcp_from = if keys.restored { clock::uptime() + RTCP_WAITS } else { Uptime::default() };
        if let Self::Srtp(contexts) = self {
            if contexts.keys.theirs != keys.theirs {
                contexts.former = Some(std::mem::replace(&mut contexts.theirs, Context::new(&keys.theirs)));
            }
            if contexts.keys.ours != keys.ours {
                contexts.ours = Context::new(&keys.ours);
                contexts.rtcp_from = rtcp_from;
            }
            contexts.keys = keys;
        } else {
            let (theirs, ours) = (Context::new(&keys.theirs), Context::new(&keys.ours));
            *self = Self::Srtp(Box::new(Contexts { keys, theirs, former: None, ours, rtcp_from }));
        }
        if let Self::Srtp(contexts) = self {
            let [theirs, ours] = &contexts.keys.marks;
            contexts.theirs.advance(theirs);
            contexts.ours.advance(ours);
        }
    }

    /// Opens what came from the end's phone; gives how long it is then.
    pub(super) fn open(&mut self, packet: &mut [u8], rtcp: bool) -> Result<usize, SrtpError> {
        match self {
            Self::Plain => Ok(packet.len()),
            Self::Closed => Err(SrtpError::Forged),
            Self::Srtp(contexts) => contexts.open(packet, rtcp),
        }
    }

    /// Protects what goes to the end's phone, the first `length` bytes of `buffer`; gives how long it is then.
    pub(super) fn seal(&mut self, buffer: &mut [u8], length: usize, rtcp: bool) -> Result<usize, SrtpError> {
        match self {
            Self::Plain => Ok(length),
            Self::Closed => Err(SrtpError::Forged),
            Self::Srtp(contexts) if rtcp || is_rtcp(&buffer[..length]) => {
                if clock::uptime() < contexts.rtcp_from {
                    return Err(SrtpError::UsedUp);
                }
                let since = clock::now().since(contexts.keys.since).as_millis();
                let floor = u32::try_from(since / u128::from(RTCP_UNIT_MS)).unwrap_or(u32::MAX);
                contexts.ours.protect_rtcp(buffer, length, floor)
            }
            Self::Srtp(contexts) => contexts.ours.protect(buffer, length),
        }
    }

    /// Whether whoever had the call before may have sent something by its keys.
    pub(super) fn is_restored(&self) -> bool {
        matches!(self, Self::Srtp(contexts) if contexts.keys.restored)
    }

    /// How far sources have come that whoever comes next should know of: one of the phone's, and one of ours toward it. With each, by which key.
    pub(super) fn news(&mut self) -> [Option<(u64, Mark)>; 2] {
        let Self::Srtp(contexts) = self else { return [None, None] };
        let Contexts { keys, theirs, ours, .. } = &mut **contexts;
        [theirs.news().map(|mark| (keys.theirs.mark(), mark)), ours.news().map(|mark| (keys.ours.mark(), mark))]
    }
}

impl Contexts {
    fn open(&mut self, packet: &mut [u8], rtcp: bool) -> Result<usize, SrtpError> {
        let is_rtcp = rtcp || is_rtcp(packet);
        let mut by = |context: &mut Context| if is_rtcp { context.unprotect_rtcp(packet) } else { context.unprotect(packet) };
        match (by(&mut self.theirs), &mut self.former) {
            (Err(SrtpError::Forged), Some(former)) => by(former),
            (Ok(length), former) => {
                *former = None;
                Ok(length)
            }
            (refused, _) => refused,
        }
    }
}
