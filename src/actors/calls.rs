//! The calls of one vnode: makes their actors, makes them again when they fail, and wakes them. Layer: shell.
//!
//! A call on which nothing is open has no actors: it is its record, its media in the relay, and a line in the directory.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ractor::{Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};
use ractor_cluster::RactorMessage;

use super::alarm::Alarm;
use super::call::{Begin, CallActor, CallMsg, Incoming, Start as CallStart};
use super::dialog::DialogMsg;
use super::directory::InviteKey;
use super::media_leg::MediaLegMsg;
use super::records::{self, Glance, RestoreError, Site};
use super::router;
use super::services::Services;
use super::supervise::Budget;
use crate::clock::{self, Timestamp};
use crate::cluster::ProposeError;
use crate::cluster::state::VnodeCommand;
use crate::ids::{CallId, LegId, VnodeId};
use crate::media::ports::PortPool;
use crate::sip::b2bua::{CallState, Mutation};
use crate::sip::endpoint;

/// The pause between two attempts to commit something about a call that has no actor.
const COMMIT_AGAIN: Duration = Duration::from_secs(1);
/// At most this much waits for a call that is on its way to sleep.
const MAX_WAITING: usize = 32;

/// What it is told.
#[derive(RactorMessage, Debug)]
pub enum CallsMsg {
    /// The router: an INVITE begins a call, which is in the directory already.
    Begin(CallId, Box<Incoming>),
    /// Whoever has something for a call that has no actors at the moment.
    Errand(CallId, Errand),
    /// A call that was on its way to sleep.
    StaysAwake(CallId),
    /// The alarm: a call that sleeps has lingered long enough.
    Due,
}

/// What wakes a call.
#[derive(Debug)]
pub enum Errand {
    /// For a leg's dialog.
    Dialog(LegId, DialogMsg),
    /// For a leg's media.
    Media(LegId, MediaLegMsg),
    /// For the call.
    Call(CallMsg),
}

/// Brings something to a call's actors, and wakes them if they sleep. Gives it back when no such call is here.
pub fn tell(services: &Services, call: CallId, errand: Errand) -> Result<(), Errand> {
    let Err(errand) = hand(services, call, errand) else { return Ok(()) };
    let open = services.directory.vnode_of(call).and_then(|vnode| services.vnode(vnode));
    match open {
        Some(open) => {
            let _ = open.calls.cast(CallsMsg::Errand(call, errand));
            Ok(())
        }
        None => Err(errand),
    }
}

fn hand(services: &Services, call: CallId, errand: Errand) -> Result<(), Errand> {
    let directory = &services.directory;
    match errand {
        Errand::Dialog(leg, message) => directory.tell_dialog(call, leg, message).map_err(|message| Errand::Dialog(leg, message)),
        Errand::Media(leg, message) => directory.tell_media(call, leg, message).map_err(|message| Errand::Media(leg, message)),
        Errand::Call(message) => directory.tell_call(call, message).map_err(Errand::Call),
    }
}

/// What it is made with.
pub struct Start {
    /// The node's.
    pub services: Arc<Services>,
    /// Whose.
    pub vnode: VnodeId,
    /// The vnode's ports.
    pub ports: Arc<PortPool>,
    /// The calls of the records.
    pub known: Vec<Known>,
}

/// A call of the records, at a glance.
#[derive(Debug, Clone, Copy)]
pub struct Known {
    /// Which.
    pub call: CallId,
    /// Nothing is open on it: it can sleep.
    pub quiet: bool,
    /// When it is to be told that time has passed.
    pub deadline: Option<Timestamp>,
}

impl Known {
    /// Of a glance at its record.
    pub fn new(call: CallId, glance: &Glance, site: Site) -> Self {
        // Phones may have to be told that it is somewhere else now: the call itself has to look.
        Self { call, quiet: glance.quiet && (glance.ended || !site.moves), deadline: glance.deadline }
    }
}

/// The actor.
pub struct CallsActor;

/// What it has.
pub struct Running {
    start: Start,
    actors: HashMap<ActorId, CallId>,
    /// The calls that have actors, and what waits for those which are on their way to sleep.
    awake: HashMap<CallId, Vec<Errand>>,
    budgets: HashMap<CallId, Budget>,
    /// When calls that have ended and sleep are to be forgotten.
    deadlines: BTreeSet<(Timestamp, CallId)>,
    alarm: Alarm,
}

impl Actor for CallsActor {
    type Msg = CallsMsg;
    type State = Running;
    type Arguments = Start;

    /// Begins with every call of the records on which something is open; the others sleep.
    async fn pre_start(&self, myself: ActorRef<CallsMsg>, start: Start) -> Result<Running, ActorProcessingErr> {
        let mut running = Running {
            start,
            actors: HashMap::new(),
            awake: HashMap::new(),
            budgets: HashMap::new(),
            deadlines: BTreeSet::new(),
            alarm: Alarm::default(),
        };
        let (mut awake, mut asleep) = (0_u32, 0_u32);
        for Known { call, quiet, deadline } in std::mem::take(&mut running.start.known) {
            let Start { services, vnode, .. } = &running.start;
            if quiet {
                services.directory.reserve(call, *vnode, None);
                running.deadlines.extend(deadline.map(|at| (at, call)));
                asleep += 1;
            } else if let Some(record) = running.record(call) {
                awake += u32::from(running.resume(&myself, call, &record, false).await?);
            }
        }
        if awake + asleep > 0 {
            tracing::info!(vnode = %running.start.vnode, awake, asleep, "calls go on");
        }
        running.set_alarm(&myself);
        Ok(running)
    }

    async fn handle(
        &self,
        myself: ActorRef<CallsMsg>,
        message: CallsMsg,
        running: &mut Running,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            CallsMsg::Begin(call, incoming) => running.spawn(&myself, call, Begin::New(incoming)).await,
            CallsMsg::Errand(call, errand) => running.errand(&myself, call, errand).await?,
            CallsMsg::StaysAwake(call) => {
                let waiting = running.awake.get_mut(&call).map(std::mem::take).unwrap_or_default();
                for errand in waiting {
                    running.errand(&myself, call, errand).await?;
                }
            }
            CallsMsg::Due => {
                while let Some((at, call)) = running.deadlines.first().copied().filter(|(at, _)| *at <= clock::now()) {
                    running.deadlines.remove(&(at, call));
                    running.due(&myself, call).await?;
                }
            }
        }
        running.set_alarm(&myself);
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
            SupervisionEvent::ActorTerminated(child, ..) => running.gone(&myself, &child).await?,
            SupervisionEvent::ActorFailed(child, error) => running.failed(&myself, &child, &error).await?,
            _ => {}
        }
        running.set_alarm(&myself);
        Ok(())
    }
}

impl Running {
    fn set_alarm(&mut self, myself: &ActorRef<CallsMsg>) {
        let next = self.deadlines.first().map(|(at, _)| *at);
        self.alarm.set(myself, next, || CallsMsg::Due);
    }

    /// Brings something to a call, which is woken if it sleeps.
    async fn errand(&mut self, myself: &ActorRef<CallsMsg>, call: CallId, errand: Errand) -> Result<(), ActorProcessingErr> {
        let services = self.start.services.clone();
        let Err(errand) = hand(&services, call, errand) else { return Ok(()) };
        if let Some(waiting) = self.awake.get_mut(&call) {
            if waiting.len() < MAX_WAITING {
                waiting.push(errand);
            }
            return Ok(());
        }
        let Some(record) = self.record(call) else {
            router::no_such_call(&services, call, errand);
            return Ok(());
        };
        // Nothing is to be heard of a call that is on hold.
        if matches!(errand, Errand::Call(CallMsg::MediaIdle))
            && records::glance(call, &record, self.site()?).is_ok_and(|glance| glance.media.is_silent_on_purpose())
        {
            return Ok(());
        }
        if self.resume(myself, call, &record, false).await?
            && let Err(errand) = hand(&services, call, errand)
            && let Some(waiting) = self.awake.get_mut(&call)
        {
            waiting.push(errand);
        }
        Ok(())
    }

    fn record(&self, call: CallId) -> Option<Bytes> {
        let Start { services, vnode, .. } = &self.start;
        services.cluster.read(*vnode, |state| state.call(call).map(|entry| entry.record.clone())).flatten()
    }

    fn site(&self) -> Result<Site, ActorProcessingErr> {
        Ok(self.start.services.site_of(self.start.vnode).ok_or("a vnode without an address")?)
    }

    async fn spawn(&mut self, myself: &ActorRef<CallsMsg>, id: CallId, begin: Begin) {
        let Start { services, vnode, ports, .. } = &self.start;
        let state = match &begin {
            Begin::New(_) => None,
            Begin::Resume(state, media) | Begin::Bury(state, media) => Some((state.clone(), media.clone())),
        };
        let calls = myself.clone();
        let start = CallStart { services: services.clone(), id, vnode: *vnode, calls, ports: ports.clone(), begin };
        match Actor::spawn_linked(None, CallActor, start, myself.get_cell()).await {
            Ok((actor, _)) => {
                self.actors.insert(actor.get_id(), id);
                self.awake.insert(id, Vec::new());
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
                    // Nobody is told, but there is a CDR, and nothing is left of it.
                    tokio::spawn(commit(services.clone(), *vnode, command));
                }
            }
        }
    }

    /// A call that sleeps has slept long enough: it has something to do, or has lingered and is forgotten.
    async fn due(&mut self, myself: &ActorRef<CallsMsg>, call: CallId) -> Result<(), ActorProcessingErr> {
        // One that is awake has an alarm of its own.
        let Some(record) = self.record(call).filter(|_| !self.awake.contains_key(&call)) else { return Ok(()) };
        match records::glance(call, &record, self.site()?) {
            Ok(glance) if glance.ended => self.forget(call),
            Ok(_) => self.errand(myself, call, Errand::Call(CallMsg::Due)).await?,
            // Left as it is: a later release may read it.
            Err(error) => tracing::error!(call_id = %call, trace_id = %call, %error, "a call that can't be read"),
        }
        Ok(())
    }

    /// Nobody repeats anything any more to a call that sleeps.
    fn forget(&self, call: CallId) {
        let Start { services, vnode, .. } = &self.start;
        services.directory.remember_end(call, clock::now());
        services.directory.remove(call);
        tokio::spawn(commit(services.clone(), *vnode, VnodeCommand::ForgetCall { call }));
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
        let site = self.site()?;
        let (state, media) = match records::restore(record, site) {
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

    /// A call's actor has ended: the call is over, or asleep.
    async fn gone(&mut self, myself: &ActorRef<CallsMsg>, child: &ActorCell) -> Result<(), ActorProcessingErr> {
        let Some(call) = self.actors.remove(&child.get_id()) else { return Ok(()) };
        self.budgets.remove(&call);
        let waiting = self.awake.remove(&call).unwrap_or_default();
        if self.start.services.directory.fall_asleep(call) {
            let site = self.site()?;
            let deadline = self.record(call).and_then(|record| records::glance(call, &record, site).ok()?.deadline);
            self.deadlines.extend(deadline.map(|at| (at, call)));
        }
        for errand in waiting {
            self.errand(myself, call, errand).await?;
        }
        Ok(())
    }

    async fn failed(
        &mut self,
        myself: &ActorRef<CallsMsg>,
        child: &ActorCell,
        error: &ActorProcessingErr,
    ) -> Result<(), ActorProcessingErr> {
        let Some(call) = self.actors.remove(&child.get_id()) else { return Ok(()) };
        let waiting = self.awake.remove(&call).unwrap_or_default();
        tracing::error!(call_id = %call, trace_id = %call, %error, "call failed");
        metrics::counter!("tandem_actor_restarts_total", "actor" => "call").increment(1);
        let again = self.budgets.entry(call).or_default().failed(clock::now());
        self.start.services.directory.fall_asleep(call);
        // Without a record nothing was promised: the phone's next retransmission begins anew.
        let Some(record) = self.record(call) else {
            self.start.services.directory.remove(call);
            return Ok(());
        };
        if !again {
            tracing::error!(call_id = %call, trace_id = %call, "failed too often: ending the call");
            metrics::counter!("tandem_calls_given_up_total").increment(1);
        }
        self.resume(myself, call, &record, !again).await?;
        for errand in waiting {
            self.errand(myself, call, errand).await?;
        }
        Ok(())
    }
}

/// Commits something about a call that has no actor, as often as it takes while the vnode is ours.
async fn commit(services: Arc<Services>, vnode: VnodeId, command: VnodeCommand) {
    while let Err(ProposeError::NoMajority | ProposeError::Late) = services.cluster.propose(vnode, command.clone()).await {
        tokio::time::sleep(COMMIT_AGAIN).await;
    }
}

/// What the caller's INVITE and its CANCEL are known by, as long as the caller is there.
fn invite_key(state: &CallState) -> Option<InviteKey> {
    let caller = state.legs.iter().find(|leg| leg.id == LegId::CALLER)?;
    caller.inbound.as_ref().map(|inbound| endpoint::invite_key(&inbound.request))
}
