//! The actor of one vnode on this node: follows its ownership. Layer: shell.
//!
//! ```text
//!  closed ──owner or custodian──▶ open ──nothing any more──▶ closed
//!                                  │ ▲
//!                                  └─┘ another epoch, or a child failed: the actors are made again, media stays
//! ```
//!
//! Opening: SIP's socket, by which the calls will speak; media sockets, so that packets flow; then calls from their records;
//! SIP's socket is read last, so that nobody is told 481 meanwhile. The address comes when everything that is sent there finds a
//! socket: at once, if they stood by ([`super::standby`]). Closing goes the other way, sound last, and only then may the address
//! move.

use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, SupervisionEvent};
use ractor_cluster::RactorMessage;
use tokio::task::JoinHandle;

use super::calls::Known;
use super::records::Site;
use super::services::{OpenVnode, Services};
use super::supervise::Budget;
use super::{calls, edge, outbox, records, registrar, standby};
use crate::clock;
use crate::cluster::Ownership;
use crate::ids::{CallId, LegId, VnodeId};
use crate::media::core::{LegPlan, Session};
use crate::media::ports::PortPool;
use crate::media::relay::Want;
use crate::media::standby::Ready;

/// A vnode whose actors keep failing is opened again after this pause.
const PAUSE: Duration = Duration::from_secs(1);
/// An address that didn't come is asked for again after this.
const AGAIN: Duration = Duration::from_millis(200);
/// An actor that is told to end has this long.
const END: Duration = Duration::from_secs(1);

/// What it is told.
#[derive(RactorMessage, Debug)]
pub enum VnodeMsg {
    /// The cluster: what this node is to the vnode now.
    Ownership(Ownership),
    /// Itself: make the actors again.
    Reopen,
}

/// What it is made with.
pub struct Start {
    /// The node's.
    pub services: Arc<Services>,
    /// Which.
    pub vnode: VnodeId,
}

/// The actor.
pub struct VnodeActor;

/// What it has.
pub struct Running {
    start: Start,
    site: Site,
    ownership: Ownership,
    open: Option<Children>,
    budget: Budget,
    watching: Option<JoinHandle<()>>,
}

struct Children {
    cells: Vec<ActorCell>,
    calls: ActorCell,
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(watching) = self.watching.take() {
            watching.abort();
        }
    }
}

impl Actor for VnodeActor {
    type Msg = VnodeMsg;
    type State = Running;
    type Arguments = Start;

    async fn pre_start(&self, myself: ActorRef<VnodeMsg>, start: Start) -> Result<Running, ActorProcessingErr> {
        let site = start.services.site_of(start.vnode).ok_or("a vnode without an address")?;
        let mut ownership = start.services.cluster.ownership(start.vnode).ok_or("a vnode without a group")?;
        // What a former actor of this vnode may have left open.
        let mut running =
            Running { start, site, ownership: Ownership::None, open: None, budget: Budget::default(), watching: None };
        running.close().await;
        running.watching = Some(tokio::spawn(async move {
            loop {
                let now = *ownership.borrow_and_update();
                if myself.cast(VnodeMsg::Ownership(now)).is_err() || ownership.changed().await.is_err() {
                    return;
                }
            }
        }));
        Ok(running)
    }

    async fn handle(
        &self,
        myself: ActorRef<VnodeMsg>,
        message: VnodeMsg,
        running: &mut Running,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            VnodeMsg::Ownership(now) => {
                let before = std::mem::replace(&mut running.ownership, now);
                match (running.open.is_some(), now) {
                    (true, Ownership::None) => running.close().await,
                    (false, Ownership::Owner { .. } | Ownership::Custodian) => running.open(&myself).await?,
                    // Somebody else may have committed in between: the records are the truth.
                    (true, Ownership::Owner { .. }) if before != now => {
                        running.end_actors().await;
                        running.open(&myself).await?;
                    }
                    (true, Ownership::Owner { .. } | Ownership::Custodian) | (false, Ownership::None) => {}
                }
            }
            VnodeMsg::Reopen => {
                running.end_actors().await;
                if running.ownership.is_active() {
                    running.open(&myself).await?;
                }
            }
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<VnodeMsg>,
        event: SupervisionEvent,
        running: &mut Running,
    ) -> Result<(), ActorProcessingErr> {
        if let SupervisionEvent::ActorFailed(child, error) = event {
            let ours = running.open.as_ref().is_some_and(|open| open.cells.iter().any(|cell| cell.get_id() == child.get_id()));
            if ours {
                tracing::error!(vnode = %running.start.vnode, %error, "an actor of the vnode failed");
                metrics::counter!("tandem_actor_restarts_total", "actor" => "vnode").increment(1);
                let pause = if running.budget.failed(clock::now()) { Duration::ZERO } else { PAUSE };
                myself.send_after(pause, || VnodeMsg::Reopen);
            }
        }
        Ok(())
    }
}

/// Brings a vnode's address here, or has it tried again.
async fn take_address(services: Arc<Services>, vnode: VnodeId) {
    if let Err(error) = services.cluster.addresses().take(vnode).await {
        tracing::error!(%vnode, %error, "the address does not come");
        tokio::spawn(keep_taking(services, vnode));
    }
}

/// Tries again to bring a vnode's address here, as long as it should be.
async fn keep_taking(services: Arc<Services>, vnode: VnodeId) {
    loop {
        tokio::time::sleep(AGAIN).await;
        if !services.ownership(vnode).is_active() || services.cluster.addresses().take(vnode).await.is_ok() {
            return;
        }
    }
}

impl Running {
    async fn open(&mut self, myself: &ActorRef<VnodeMsg>) -> Result<(), ActorProcessingErr> {
        let Start { services, vnode } = &self.start;
        let (services, vnode) = (services.clone(), *vnode);
        services.cluster.sockets_open(vnode, true);
        // It may have been taken away again while this waited in the mailbox; whoever takes it looks at what we say.
        if !services.ownership(vnode).is_active() {
            services.cluster.sockets_open(vnode, false);
            return Ok(());
        }
        let begin = clock::uptime();
        let since = || u64::try_from(clock::uptime().since(begin).as_millis()).unwrap_or(u64::MAX);
        let (first, last) = services.config.media_ports_of(vnode);
        let ports = Arc::new(PortPool::new(self.site.sip.ip(), first, last));
        let mut ready = standby::take(&services, vnode);
        let stood_by = ready.is_complete();
        let supervisor = || myself.get_cell();
        let start = edge::Start { services: services.clone(), vnode };
        let (edge, _) = Actor::spawn_linked(None, edge::EdgeActor, start, supervisor()).await?;
        let early = stood_by.then(|| tokio::spawn(take_address(services.clone(), vnode)));
        let known = self.open_media(&ports, &mut ready);
        let media_ms = since();
        match early {
            Some(early) => early.await?,
            None => take_address(services.clone(), vnode).await,
        }
        let address_ms = since();
        drop(ready);
        let start = calls::Start { services: services.clone(), vnode, ports: ports.clone(), known };
        let (calls, _) = Actor::spawn_linked(None, calls::CallsActor, start, supervisor()).await?;
        let start = registrar::Start { services: services.clone(), vnode };
        let (registrar, _) = Actor::spawn_linked(None, registrar::RegistrarActor, start, supervisor()).await?;
        services.opened(vnode, OpenVnode { calls: calls.clone(), registrar: registrar.clone(), ports });
        let start = outbox::Start { services: services.clone(), vnode };
        let (outbox, _) = Actor::spawn_linked(None, outbox::OutboxActor, start, supervisor()).await?;
        edge.cast(edge::EdgeMsg::Read)?;
        tracing::info!(%vnode, stood_by, media_ms, address_ms, ms = since(), "open");
        let calls = calls.get_cell();
        let cells = vec![edge.get_cell(), outbox.get_cell(), registrar.get_cell(), calls.clone()];
        self.open = Some(Children { cells, calls });
        Ok(())
    }

    /// Tells the relay of every live call's sockets before anything else is done, last of those who are silent; gives what
    /// there is to know of the calls besides.
    fn open_media(&self, ports: &PortPool, ready: &mut Ready) -> Vec<Known> {
        let Start { services, vnode } = &self.start;
        let records = services
            .cluster
            .read(*vnode, |state| state.calls().map(|(call, entry)| (*call, entry.record.clone())).collect::<Vec<_>>());
        let (mut known, mut silent, mut taken) = (Vec::new(), Vec::new(), Vec::new());
        for (call, record) in records.unwrap_or_default() {
            let glance = records::glance(call, &record, self.site);
            if let Ok(glance) = glance.as_ref().map_err(|error| {
                // Left as it is: a later release may read it.
                tracing::error!(call_id = %call, trace_id = %call, %error, "a call that can't be restored");
            }) {
                // Phones may have to be told that it is somewhere else now: the call itself has to look.
                let quiet = glance.quiet && (glance.ended || !self.site.moves);
                known.push(Known { call, quiet, deadline: glance.deadline });
            }
            let Some(session) = glance.ok().filter(|glance| !glance.ended).map(|glance| glance.media) else { continue };
            let before = taken.len();
            taken.extend(session.ports());
            match session.is_silent_on_purpose() {
                false => self.tell_relay(call, &session, ready),
                true if taken.len() > before => silent.push((call, session)),
                true => {}
            }
        }
        for (call, session) in silent {
            self.tell_relay(call, &session, ready);
        }
        ports.adopt(taken);
        known
    }

    fn tell_relay(&self, call: CallId, session: &Session, ready: &mut Ready) {
        let Start { services, vnode } = &self.start;
        services.directory.reserve(call, *vnode, None);
        let counters = services.directory.counters(call).unwrap_or_default();
        for (leg, counters) in [LegId::CALLER, LegId::CALLEE].into_iter().zip(counters) {
            let wants = session.plan(usize::from(leg.0)).into_iter();
            let mut want = |plan: LegPlan| Want { sockets: ready.take(call, plan.local), plan };
            let wants = wants.map(|plan| plan.map(&mut want)).collect();
            services.relay.apply(call, leg, wants, counters, services.fence(*vnode));
        }
    }

    /// Ends the actors; the relay goes on.
    async fn end_actors(&mut self) {
        let Start { services, vnode } = &self.start;
        services.closed(*vnode);
        if let Some(Children { cells, calls }) = self.open.take() {
            // The edge first: what comes now is for the next owner.
            for cell in &cells {
                if cell.get_id() != calls.get_id() {
                    let _ = cell.kill_and_wait(Some(END)).await;
                }
            }
            services.sockets.close(*vnode).await;
            let children = calls.get_children();
            futures_util::future::join_all(children.iter().map(|call| call.kill_and_wait(Some(END)))).await;
            let _ = calls.kill_and_wait(Some(END)).await;
        }
        services.sockets.close(*vnode).await;
        for call in services.directory.of_vnode(*vnode) {
            services.directory.remove(call);
        }
    }

    /// Ends everything; after this the address may move.
    async fn close(&mut self) {
        let Start { services, vnode } = &self.start;
        let (services, vnode) = (services.clone(), *vnode);
        let calls = services.directory.of_vnode(vnode);
        // Sound needs no actors: it flows until the last moment.
        self.end_actors().await;
        services.cluster.addresses().give(vnode).await;
        if services.standby.is_some() {
            // Nothing comes here any more and nothing leaves: a successor need not wait for our sockets.
            services.cluster.sockets_open(vnode, false);
        }
        for call in calls {
            services.relay.close(call);
        }
        services.relay.settle().await;
        services.cluster.sockets_open(vnode, false);
        if let Some(standby) = &services.standby {
            standby.begin(vnode);
        }
    }
}
