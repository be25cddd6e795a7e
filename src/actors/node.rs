//! The root of one node's tree. Layer: shell.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};
use ractor_cluster::RactorMessage;
use tokio::sync::mpsc;

use super::figures::FiguresActor;
use super::gateway::{self, Gateway, LinkSettings};
use super::media::{self, MediaActor, MediaMsg};
use super::services::Services;
use super::standby::StandbyActor;
use super::vnode::{self, VnodeActor};
use crate::ids::VnodeId;
use crate::media::relay::Event;

/// A child that failed is made again after this.
const PAUSE: Duration = Duration::from_millis(10);

/// What it is told.
#[derive(RactorMessage, Debug)]
pub enum NodeMsg {
    /// Itself: make a child again.
    Restart(Child),
}

/// What the root supervises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Child {
    /// The gateway.
    Gateway,
    /// The relay's events.
    Media,
    /// The media of others' calls.
    Standby,
    /// What is measured of ours.
    Figures,
    /// A vnode.
    Vnode(VnodeId),
}

/// What it is made with.
pub struct Start {
    /// The node's.
    pub services: Arc<Services>,
    /// What the relay's threads tell.
    pub events: mpsc::Receiver<Event>,
    /// The links to the others.
    pub links: LinkSettings,
}

/// The actor.
pub struct NodeActor;

/// What it has.
pub struct Running {
    services: Arc<Services>,
    media: Arc<Mutex<Option<ActorRef<MediaMsg>>>>,
    children: Vec<(ActorId, Child)>,
}

impl Actor for NodeActor {
    type Msg = NodeMsg;
    type State = Running;
    type Arguments = Start;

    async fn pre_start(&self, myself: ActorRef<NodeMsg>, start: Start) -> Result<Running, ActorProcessingErr> {
        let Start { services, events, links } = start;
        let media: Arc<Mutex<Option<ActorRef<MediaMsg>>>> = Arc::default();
        let current = media.clone();
        media::feed(events, move || current.lock().unwrap_or_else(PoisonError::into_inner).clone());
        let mut running = Running { services, media, children: Vec::new() };
        running.spawn(&myself, Child::Gateway).await?;
        running.spawn(&myself, Child::Media).await?;
        running.spawn(&myself, Child::Standby).await?;
        running.spawn(&myself, Child::Figures).await?;
        gateway::link(&running.services, links, myself.get_cell()).await?;
        for vnode in running.services.cluster.vnodes() {
            running.spawn(&myself, Child::Vnode(vnode)).await?;
        }
        Ok(running)
    }

    async fn handle(&self, myself: ActorRef<NodeMsg>, message: NodeMsg, running: &mut Running) -> Result<(), ActorProcessingErr> {
        let NodeMsg::Restart(child) = message;
        if let Err(error) = running.spawn(&myself, child).await {
            tracing::error!(?child, %error, "did not start");
            myself.send_after(PAUSE * 100, move || NodeMsg::Restart(child));
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<NodeMsg>,
        event: SupervisionEvent,
        running: &mut Running,
    ) -> Result<(), ActorProcessingErr> {
        if let SupervisionEvent::ActorFailed(cell, error) = event {
            let Some(at) = running.children.iter().position(|(id, _)| *id == cell.get_id()) else {
                // The actor link: without it this node is half a node, and whoever started it starts it again.
                return Err(error);
            };
            let (_, child) = running.children.swap_remove(at);
            tracing::error!(?child, %error, "failed");
            metrics::counter!("tandem_actor_restarts_total", "actor" => "node").increment(1);
            myself.send_after(PAUSE, move || NodeMsg::Restart(child));
        }
        Ok(())
    }
}

impl Running {
    async fn spawn(&mut self, myself: &ActorRef<NodeMsg>, child: Child) -> Result<(), ActorProcessingErr> {
        let supervisor = myself.get_cell();
        let services = self.services.clone();
        let id = match child {
            Child::Gateway => Actor::spawn_linked(None, Gateway { services }, (), supervisor).await?.0.get_id(),
            Child::Media => {
                let (actor, _) = Actor::spawn_linked(None, MediaActor, services, supervisor).await?;
                *self.media.lock().unwrap_or_else(PoisonError::into_inner) = Some(actor.clone());
                actor.get_id()
            }
            Child::Figures => Actor::spawn_linked(None, FiguresActor, services, supervisor).await?.0.get_id(),
            Child::Standby => Actor::spawn_linked(None, StandbyActor, services, supervisor).await?.0.get_id(),
            Child::Vnode(vnode) => {
                let start = vnode::Start { services, vnode };
                Actor::spawn_linked(None, VnodeActor, start, supervisor).await?.0.get_id()
            }
        };
        self.children.push((id, child));
        Ok(())
    }
}
