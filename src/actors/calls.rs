//! The calls of one vnode: makes their actors, and makes them again when they fail. Layer: shell.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};
use ractor_cluster::RactorMessage;

use super::call::{Begin, CallActor, Incoming, Start as CallStart};
use super::directory::InviteKey;
use super::records::{self, RestoreError};
use super::services::Services;
use super::supervise::Budget;
use crate::clock;
use crate::cluster::ProposeError;
use crate::cluster::state::VnodeCommand;
use crate::ids::{CallId, VnodeId};
use crate::media::ports::PortPool;
use crate::sip::b2bua::{CallState, Mutation};
use crate::sip::endpoint;

/// The pause between two attempts to end a call without its actor.
const BURY_AGAIN: Duration = Duration::from_secs(1);

/// What it is told.
#[derive(RactorMessage, Debug)]
pub enum CallsMsg {
    /// The router: an INVITE begins a call, which is in the directory already.
    Begin(CallId, Box<Incoming>),
}

/// What it is made with.
pub struct Start {
    /// The node's.
    pub services: Arc<Services>,
    /// Whose.
    pub vnode: VnodeId,
    /// The vnode's ports.
    pub ports: Arc<PortPool>,
}

/// The actor.
pub struct CallsActor;

/// What it has.
pub struct Running {
    start: Start,
    actors: HashMap<ActorId, CallId>,
    budgets: HashMap<CallId, Budget>,
}

impl Actor for CallsActor {
    type Msg = CallsMsg;
    type State = Running;
    type Arguments = Start;

    /// Begins with every call that the records hold.
    async fn pre_start(&self, myself: ActorRef<CallsMsg>, start: Start) -> Result<Running, ActorProcessingErr> {
        let mut running = Running { start, actors: HashMap::new(), budgets: HashMap::new() };
        let records = running.start.services.cluster.read(running.start.vnode, |state| {
            state.calls().map(|(call, entry)| (*call, entry.record.clone())).collect::<Vec<_>>()
        });
        let mut resumed = 0_u32;
        for (call, record) in records.unwrap_or_default() {
            if running.resume(&myself, call, &record, false).await? {
                resumed += 1;
            }
        }
        if resumed > 0 {
            tracing::info!(vnode = %running.start.vnode, calls = resumed, "calls go on");
        }
        Ok(running)
    }

    async fn handle(
        &self,
        myself: ActorRef<CallsMsg>,
        message: CallsMsg,
        running: &mut Running,
    ) -> Result<(), ActorProcessingErr> {
        let CallsMsg::Begin(call, incoming) = message;
        running.spawn(&myself, call, Begin::New(incoming)).await;
        Ok(())
    }

    #[allow(clippy::wildcard_enum_match_arm, reason = "ractor's other events are none of ours")]
    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<CallsMsg>,
        event: SupervisionEvent,
        running: &mut Running,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorTerminated(child, ..) => running.gone(&child),
            SupervisionEvent::ActorFailed(child, error) => running.failed(&myself, &child, &error).await?,
            _ => {}
        }
        Ok(())
    }
}

impl Running {
    async fn spawn(&mut self, myself: &ActorRef<CallsMsg>, id: CallId, begin: Begin) {
        let Start { services, vnode, ports } = &self.start;
        let state = match &begin {
            Begin::New(_) => None,
            Begin::Resume(state, media) | Begin::Bury(state, media) => Some((state.clone(), media.clone())),
        };
        let start = CallStart { services: services.clone(), id, vnode: *vnode, ports: ports.clone(), begin };
        match Actor::spawn_linked(None, CallActor, start, myself.get_cell()).await {
            Ok((actor, _)) => {
                self.actors.insert(actor.get_id(), id);
            }
            Err(error) => {
                tracing::error!(call_id = %id, trace_id = %id, %error, "a call's actor did not start");
                services.directory.remove(id);
                services.relay.close(id);
                if let Some((state, media)) = state {
                    let command = if state.ended.is_some() {
                        VnodeCommand::ForgetCall { call: id }
                    } else {
                        let (state, cdr) = state.given_up(clock::now());
                        records::command(&Mutation::End(Box::new(state), Box::new(cdr)), &media)
                    };
                    tokio::spawn(bury(services.clone(), *vnode, command));
                }
            }
        }
    }

    /// Makes a call's actor from its record; false when the record can't be read.
    async fn resume(
        &mut self,
        myself: &ActorRef<CallsMsg>,
        call: CallId,
        record: &[u8],
        bury: bool,
    ) -> Result<bool, ActorProcessingErr> {
        let services = self.start.services.clone();
        let ip = services.config.address_of(self.start.vnode).ok_or("a vnode without an address")?;
        let (state, media) = match records::restore(record, ip) {
            Ok(restored) => restored,
            Err(error @ (RestoreError::Record(_) | RestoreError::Message | RestoreError::Value(_))) => {
                // Left as it is: a later release may read it.
                tracing::error!(call_id = %call, trace_id = %call, %error, "a call that can't be restored");
                return Ok(false);
            }
        };
        services.directory.reserve(call, self.start.vnode, invite_key(&state));
        let state = Box::new(state);
        let begin = if bury { Begin::Bury(state, media) } else { Begin::Resume(state, media) };
        self.spawn(myself, call, begin).await;
        Ok(true)
    }

    fn gone(&mut self, child: &ActorCell) {
        if let Some(call) = self.actors.remove(&child.get_id()) {
            self.budgets.remove(&call);
        }
    }

    async fn failed(
        &mut self,
        myself: &ActorRef<CallsMsg>,
        child: &ActorCell,
        error: &ActorProcessingErr,
    ) -> Result<(), ActorProcessingErr> {
        let Some(call) = self.actors.remove(&child.get_id()) else { return Ok(()) };
        tracing::error!(call_id = %call, trace_id = %call, %error, "call failed");
        metrics::counter!("tandem_actor_restarts_total", "actor" => "call").increment(1);
        let again = self.budgets.entry(call).or_default().failed(clock::now());
        self.start.services.directory.remove(call);
        let record =
            self.start.services.cluster.read(self.start.vnode, |state| state.call(call).map(|entry| entry.record.clone()));
        // Without a record nothing was promised: the phone's next retransmission begins anew.
        if let Some(record) = record.flatten() {
            if !again {
                tracing::error!(call_id = %call, trace_id = %call, "failed too often: ending the call");
                metrics::counter!("tandem_calls_given_up_total").increment(1);
            }
            self.resume(myself, call, &record, !again).await?;
        }
        Ok(())
    }
}

/// Ends a call whose actor can't even begin: nobody is told, but there is a CDR, and nothing is left of it.
async fn bury(services: Arc<Services>, vnode: VnodeId, command: VnodeCommand) {
    while let Err(ProposeError::NoMajority | ProposeError::Late) = services.cluster.propose(vnode, command.clone()).await {
        tokio::time::sleep(BURY_AGAIN).await;
    }
}

/// What the caller's INVITE and its CANCEL are known by.
fn invite_key(state: &CallState) -> Option<InviteKey> {
    state.leg(crate::ids::LegId::CALLER).inbound.as_ref().map(|inbound| endpoint::invite_key(&inbound.request))
}
