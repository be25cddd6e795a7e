//! The actor of one leg's media: stands in front of the relay's threads. Layer: shell.
//!
//! The sockets are the relay's: when this actor fails, packets go on, and its call makes another, which says
//! again what the leg needs.

use std::net::SocketAddr;
use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use ractor_cluster::RactorMessage;

use super::call::CallMsg;
use super::services::Services;
use crate::fence::Fence;
use crate::ids::{CallId, LegId};
use crate::media::core::srtp::Mark;
use crate::media::relay::{Counters, Want};

/// What is learned of a leg's stream while it flows.
#[derive(Debug, Clone, Copy)]
pub enum Learned {
    /// Where the phone's packets come from.
    From {
        /// RTCP, not RTP.
        rtcp: bool,
        /// From where.
        source: SocketAddr,
    },
    /// How far a protected source has come.
    CameTo {
        /// It is in what goes to the phone, and not in what comes from it.
        ours: bool,
        /// By which key.
        key: u64,
        /// How far.
        mark: Mark,
    },
}

/// What a media leg is told.
#[derive(RactorMessage, Debug)]
pub enum MediaLegMsg {
    /// The call: what the leg needs, stream by stream.
    Apply(Vec<Option<Want>>),
    /// The relay: what it has learned of a stream (an `m=` line).
    Learned(usize, Learned),
    /// A test: fail here and now.
    #[cfg(test)]
    Panic,
}

/// The actor.
pub struct MediaLegActor;

/// What it is made with, and has.
pub struct Start {
    /// The node's.
    pub services: Arc<Services>,
    /// Whom to tell.
    pub call: ActorRef<CallMsg>,
    /// Which call.
    pub id: CallId,
    /// Which leg.
    pub leg: LegId,
    /// What passes.
    pub counters: Arc<Counters>,
    /// Its vnode's.
    pub fence: Fence,
}

impl Actor for MediaLegActor {
    type Msg = MediaLegMsg;
    type State = Start;
    type Arguments = Start;

    async fn pre_start(&self, _: ActorRef<MediaLegMsg>, start: Start) -> Result<Start, ActorProcessingErr> {
        Ok(start)
    }

    async fn handle(&self, _: ActorRef<MediaLegMsg>, message: MediaLegMsg, start: &mut Start) -> Result<(), ActorProcessingErr> {
        match message {
            MediaLegMsg::Apply(streams) => {
                start.services.relay.apply(start.id, start.leg, streams, start.counters.clone(), start.fence.clone());
            }
            MediaLegMsg::Learned(stream, what) => start.call.cast(CallMsg::Learned(start.leg, stream, what))?,
            #[cfg(test)]
            MediaLegMsg::Panic => panic!("a test asked for it"),
        }
        Ok(())
    }
}
