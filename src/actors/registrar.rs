//! The registrar of one vnode: an actor for each address-of-record that has something to do. Layer: shell.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use ractor_cluster::RactorMessage;

use super::keepalive::Round;
use super::records;
use super::registration::{RegistrationActor, RegistrationMsg, Start as RegistrationStart, unavailable};
use super::services::Services;
use super::transport;
use crate::clock;
use crate::ids::{Aor, VnodeId};
use crate::sip::dialog::Flow;
use crate::sip::message::Request;

/// How often expired bindings are swept out of the record.
const SWEEP: Duration = Duration::from_secs(30);
/// How often some of the phones behind NAT have their turn.
const TURN: Duration = Duration::from_secs(1);
/// At most this many are swept at once.
const SWEPT: usize = 500;
/// At most this many REGISTERs of one AoR wait; more get 503.
const WAITING: usize = 16;

/// What it is told.
#[derive(RactorMessage, Debug)]
pub enum RegistrarMsg {
    /// The router: a REGISTER whose user is known.
    Register(Aor, Box<Request>, Flow),
    /// A registration has answered one.
    Done(Aor),
    /// The clock.
    Sweep,
    /// The clock: phones behind NAT have their turn.
    KeepAlive,
}

/// What it is made with.
#[derive(Clone)]
pub struct Start {
    /// The node's.
    pub services: Arc<Services>,
    /// Whose.
    pub vnode: VnodeId,
}

/// The actor.
pub struct RegistrarActor;

/// What it has.
pub struct Running {
    start: Start,
    awake: HashMap<Aor, Awake>,
    round: Round,
}

struct Awake {
    actor: ActorRef<RegistrationMsg>,
    waiting: usize,
}

impl Actor for RegistrarActor {
    type Msg = RegistrarMsg;
    type State = Running;
    type Arguments = Start;

    async fn pre_start(&self, myself: ActorRef<RegistrarMsg>, start: Start) -> Result<Running, ActorProcessingErr> {
        myself.send_interval(SWEEP, || RegistrarMsg::Sweep);
        if start.services.config.sip.nat_keepalive > 0 {
            myself.send_interval(TURN, || RegistrarMsg::KeepAlive);
        }
        Ok(Running { start, awake: HashMap::new(), round: Round::default() })
    }

    async fn handle(
        &self,
        myself: ActorRef<RegistrarMsg>,
        message: RegistrarMsg,
        running: &mut Running,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            RegistrarMsg::Register(aor, request, flow) => running.register(&myself, aor, request, flow).await?,
            RegistrarMsg::Done(aor) => {
                if let Some(awake) = running.awake.get_mut(&aor) {
                    awake.waiting = awake.waiting.saturating_sub(1);
                    if awake.waiting == 0 {
                        awake.actor.stop(None);
                        running.awake.remove(&aor);
                    }
                }
            }
            RegistrarMsg::KeepAlive => {
                let Start { services, vnode } = &running.start;
                running.round.turn(services, *vnode, services.config.sip.nat_keepalive);
            }
            RegistrarMsg::Sweep => {
                for aor in expired(&running.start) {
                    running.tell(&myself, &aor, RegistrationMsg::Sweep).await?;
                }
            }
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<RegistrarMsg>,
        event: SupervisionEvent,
        running: &mut Running,
    ) -> Result<(), ActorProcessingErr> {
        if let SupervisionEvent::ActorFailed(child, error) = event {
            // The phone's next retransmission finds a new one.
            tracing::error!(vnode = %running.start.vnode, %error, "registration failed");
            metrics::counter!("tandem_actor_restarts_total", "actor" => "registration").increment(1);
            running.awake.retain(|_, awake| awake.actor.get_id() != child.get_id());
        }
        Ok(())
    }
}

impl Running {
    async fn register(
        &mut self,
        myself: &ActorRef<RegistrarMsg>,
        aor: Aor,
        request: Box<Request>,
        flow: Flow,
    ) -> Result<(), ActorProcessingErr> {
        if self.awake.get(&aor).is_some_and(|awake| awake.waiting >= WAITING) {
            transport::respond(&self.start.services, flow, unavailable(&request));
            return Ok(());
        }
        self.tell(myself, &aor, RegistrationMsg::Register(request, flow)).await
    }

    /// Tells the AoR's actor, which is made if it sleeps.
    async fn tell(
        &mut self,
        myself: &ActorRef<RegistrarMsg>,
        aor: &Aor,
        message: RegistrationMsg,
    ) -> Result<(), ActorProcessingErr> {
        if !self.awake.contains_key(aor) {
            let start = RegistrationStart {
                services: self.start.services.clone(),
                vnode: self.start.vnode,
                aor: aor.clone(),
                registrar: myself.clone(),
            };
            let (actor, _) = Actor::spawn_linked(None, RegistrationActor, start, myself.get_cell()).await?;
            self.awake.insert(aor.clone(), Awake { actor, waiting: 0 });
        }
        if let Some(awake) = self.awake.get_mut(aor) {
            awake.waiting += 1;
            let _ = awake.actor.cast(message);
        }
        Ok(())
    }
}

/// The AoRs whose every binding has expired. They count for nothing already: this makes the record smaller.
fn expired(start: &Start) -> Vec<Aor> {
    let now = clock::now();
    let is_dead = |record: &[u8]| {
        records::decode_bindings(record).is_ok_and(|bindings| bindings.iter().all(|binding| binding.expires <= now))
    };
    let dead = start.services.cluster.read(start.vnode, |state| {
        state.all_bindings().filter(|(_, record)| is_dead(record)).map(|(aor, _)| aor.clone()).take(SWEPT).collect()
    });
    dead.unwrap_or_default()
}
