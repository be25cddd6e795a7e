//! The actor in front of the media threads: passes on what they tell. Layer: shell.

use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use ractor_cluster::RactorMessage;
use tokio::sync::mpsc;

use super::call::CallMsg;
use super::calls::{self, Errand};
use super::media_leg::{Learned, MediaLegMsg};
use super::quality;
use super::services::Services;
use crate::ids::{CallId, LegId, VnodeId};
use crate::media::core::Session;
use crate::media::relay::{Counters, Event, Want};

/// What it is told.
#[derive(RactorMessage, Debug)]
pub enum MediaMsg {
    /// The relay's threads.
    Event(Event),
}

/// The actor.
pub struct MediaActor;

impl Actor for MediaActor {
    type Msg = MediaMsg;
    type State = Arc<Services>;
    type Arguments = Arc<Services>;

    async fn pre_start(&self, _: ActorRef<MediaMsg>, services: Arc<Services>) -> Result<Arc<Services>, ActorProcessingErr> {
        Ok(services)
    }

    async fn handle(
        &self,
        _: ActorRef<MediaMsg>,
        message: MediaMsg,
        services: &mut Arc<Services>,
    ) -> Result<(), ActorProcessingErr> {
        let MediaMsg::Event(event) = message;
        // A call that has ended meanwhile wants to hear nothing.
        let (call, errand) = match event {
            Event::Latched { call, leg, stream, rtcp, source } => {
                (call, Errand::Media(leg, MediaLegMsg::Learned(stream, Learned::From { rtcp, source })))
            }
            Event::CameTo { call, leg, stream, ours, key, mark } => {
                (call, Errand::Media(leg, MediaLegMsg::Learned(stream, Learned::CameTo { ours, key, mark })))
            }
            Event::Dtls { call, leg, stream, source, sender, datagram } => {
                (call, Errand::Media(leg, MediaLegMsg::Dtls { stream, source, sender, datagram }))
            }
            Event::Silent { call, leg, sends } => {
                quality::silent(call, leg, sends);
                return Ok(());
            }
            Event::Plays { call, leg, stream, offset } => {
                (call, Errand::Media(leg, MediaLegMsg::Learned(stream, Learned::Plays { offset })))
            }
            Event::Idle { call } => (call, Errand::Call(CallMsg::MediaIdle)),
        };
        let _ = calls::tell(services, call, errand);
        Ok(())
    }
}

/// Tells the relay what a call needs, as its record says: sockets, and where everything goes.
pub fn tell_relay(services: &Services, vnode: VnodeId, call: CallId, session: &Session, counters: [Arc<Counters>; 2]) {
    for (leg, counters) in [LegId::CALLER, LegId::CALLEE].into_iter().zip(counters) {
        let wants = session.plan(usize::from(leg.0)).into_iter();
        let wants = wants.map(|plan| plan.map(|plan| Want { plan, sockets: None })).collect();
        services.relay.apply(call, leg, wants, counters, services.fence(vnode));
    }
}

/// Brings the threads' events to the actor, through whichever actor bears its name at the moment.
pub fn feed(mut events: mpsc::Receiver<Event>, actor: impl Fn() -> Option<ActorRef<MediaMsg>> + Send + 'static) {
    tokio::spawn(async move {
        while let Some(event) = events.recv().await {
            if let Some(actor) = actor() {
                let _ = actor.cast(MediaMsg::Event(event));
            }
        }
    });
}
