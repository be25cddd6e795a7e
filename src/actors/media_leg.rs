//! The actor of one leg's media: stands in front of the relay's threads. Layer: shell.
//!
//! The sockets are the relay's: when this actor fails, packets go on, and its call makes another, which says
//! again what the leg needs.

use std::net::SocketAddr;
use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use ractor_cluster::RactorMessage;

use super::association::{Handshakes, Outcome};
use super::call::CallMsg;
use super::services::Services;
use crate::clock;
use crate::fence::Fence;
use crate::ids::{CallId, LegId, VnodeId};
use crate::media::core::Keyed;
use crate::media::core::srtp::Mark;
use crate::media::relay::{Counters, Sender, Want};

/// What is learned of a leg's stream while it flows.
#[derive(Debug, Clone)]
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
    /// What is played to the phone has times that go so.
    Plays {
        /// See [`crate::media::core::player::Music`].
        offset: u32,
    },
    /// Keys were agreed on in DTLS.
    HasKeys {
        /// By our certificate of this number.
        number: u32,
        /// With who has this one.
        certificate: Vec<u8>,
        /// The keys.
        keyed: Box<Keyed>,
    },
    /// The phone is stuck in a handshake by our certificate of this number: nobody knows its first half.
    Stuck {
        /// See [`Learned::HasKeys`].
        number: u32,
    },
}

/// What a media leg is told.
#[derive(RactorMessage, Debug)]
pub enum MediaLegMsg {
    /// The call: what the leg needs, stream by stream.
    Apply(Vec<Option<Want>>),
    /// The relay: what it has learned of a stream (an `m=` line).
    Learned(usize, Learned),
    /// The relay: DTLS has come to a stream's port.
    Dtls {
        /// Which `m=` line.
        stream: usize,
        /// From where.
        source: SocketAddr,
        /// Who that is.
        sender: Sender,
        /// What has come.
        datagram: Box<[u8]>,
    },
    /// A test: fail here and now.
    #[cfg(test)]
    Panic,
}

/// The actor.
pub struct MediaLegActor;

/// What it is made with.
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

/// Makes the actor of a call's leg.
pub(super) async fn spawn(
    services: &Arc<Services>,
    call: &ActorRef<CallMsg>,
    (vnode, id): (VnodeId, CallId),
    leg: LegId,
) -> Result<ActorRef<MediaLegMsg>, ActorProcessingErr> {
    let counters = services.directory.counters(id).map(|[caller, callee]| if leg == LegId::CALLER { caller } else { callee });
    let (counters, fence) = (counters.unwrap_or_default(), services.fence(vnode));
    let start = Start { services: services.clone(), call: call.clone(), id, leg, counters, fence };
    Ok(Actor::spawn_linked(None, MediaLegActor, start, call.get_cell()).await?.0)
}

/// What it has.
pub struct Running {
    start: Start,
    /// Stream by stream.
    handshakes: Vec<Handshakes>,
}

impl Actor for MediaLegActor {
    type Msg = MediaLegMsg;
    type State = Running;
    type Arguments = Start;

    async fn pre_start(&self, _: ActorRef<MediaLegMsg>, start: Start) -> Result<Running, ActorProcessingErr> {
        Ok(Running { start, handshakes: Vec::new() })
    }

    async fn handle(
        &self,
        _: ActorRef<MediaLegMsg>,
        message: MediaLegMsg,
        running: &mut Running,
    ) -> Result<(), ActorProcessingErr> {
        let Running { start, handshakes } = running;
        match message {
            MediaLegMsg::Apply(streams) => {
                handshakes.resize_with(streams.len(), Handshakes::default);
                let mut waiting = Vec::new();
                for (at, (handshakes, want)) in handshakes.iter_mut().zip(&streams).enumerate() {
                    let Outcome { send, learned } = handshakes.set(want.as_ref().and_then(|want| want.plan.dtls.as_deref()));
                    waiting.extend(send.map(|send| (at, send)));
                    if let Some(learned) = learned {
                        start.call.cast(CallMsg::Learned(start.leg, at, learned))?;
                    }
                }
                start.services.relay.apply(start.id, start.leg, streams, start.counters.clone(), start.fence.clone());
                // Only now may a phone have its keys: they can't be lost any more.
                for (at, (to, send)) in waiting {
                    start.services.relay.send(start.id, start.leg, at, to, send);
                }
            }
            MediaLegMsg::Learned(stream, what) => start.call.cast(CallMsg::Learned(start.leg, stream, what))?,
            MediaLegMsg::Dtls { stream, source, sender, datagram } => {
                let Some(handshakes) = handshakes.get_mut(stream) else { return Ok(()) };
                let Outcome { send, learned } = handshakes.hear((source, sender), &datagram, clock::uptime());
                if let Some((to, send)) = send {
                    start.services.relay.send(start.id, start.leg, stream, to, send);
                }
                if let Some(learned) = learned {
                    start.call.cast(CallMsg::Learned(start.leg, stream, learned))?;
                }
            }
            #[cfg(test)]
            MediaLegMsg::Panic => panic!("a test asked for it"),
        }
        Ok(())
    }
}
