//! How the packets of one stream's end are protected, as the relay has it at hand. Layer: shell.

use super::super::core::Shield as Plan;
use super::super::core::protection::Keys;
use super::super::core::srtp::{Context, Done, SrtpError, is_rtcp};
use crate::clock;

/// SRTCP's index is no smaller than the time since the call's first key was made, in this unit: no former owner has come so far, since none sends so
/// many packets.
const RTCP_UNIT_MS: u64 = 4;

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
    ours: Context,
}

impl Shield {
    /// As an actor wants it. What goes on by the same key goes on where it is.
    pub(super) fn set(&mut self, plan: Plan) {
        let keys = match plan {
            Plan::Plain => return *self = Self::Plain,
            Plan::Closed => return *self = Self::Closed,
            Plan::Srtp(keys) => *keys,
        };
        if let Self::Srtp(contexts) = self {
            if contexts.keys.theirs != keys.theirs {
                contexts.theirs = Context::new(&keys.theirs);
            }
            if contexts.keys.ours != keys.ours {
                contexts.ours = Context::new(&keys.ours);
            }
            contexts.keys = keys;
        } else {
            let (theirs, ours) = (Context::new(&keys.theirs), Context::new(&keys.ours));
            *self = Self::Srtp(Box::new(Contexts { keys, theirs, ours }));
        }
        if let Self::Srtp(contexts) = self {
            let [theirs, ours] = &contexts.keys.marks;
            contexts.theirs.advance(theirs);
            contexts.ours.advance(ours);
        }
    }

    /// Opens what came from the end's phone.
    pub(super) fn open(&mut self, packet: &mut [u8], rtcp: bool) -> Result<Done, SrtpError> {
        match self {
            Self::Plain => Ok(Done { length: packet.len(), mark: None }),
            Self::Closed => Err(SrtpError::Forged),
            Self::Srtp(contexts) if rtcp || is_rtcp(packet) => {
                Ok(Done { length: contexts.theirs.unprotect_rtcp(packet)?, mark: None })
            }
            Self::Srtp(contexts) => contexts.theirs.unprotect(packet),
        }
    }

    /// Protects what goes to the end's phone: the first `length` bytes of `buffer`.
    pub(super) fn seal(&mut self, buffer: &mut [u8], length: usize, rtcp: bool) -> Result<Done, SrtpError> {
        match self {
            Self::Plain => Ok(Done { length, mark: None }),
            Self::Closed => Err(SrtpError::Forged),
            Self::Srtp(contexts) if rtcp || is_rtcp(&buffer[..length]) => {
                let since = clock::now().since(contexts.keys.since).as_millis();
                let floor = u32::try_from(since / u128::from(RTCP_UNIT_MS)).unwrap_or(u32::MAX);
                Ok(Done { length: contexts.ours.protect_rtcp(buffer, length, floor)?, mark: None })
            }
            Self::Srtp(contexts) => contexts.ours.protect(buffer, length),
        }
    }
}
