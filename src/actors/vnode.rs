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
//! socket: at once, if the media stood by ([`super::standby`]). Closing goes the other way, sound last, and only then may the
//! address move.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, SupervisionEvent};
use ractor_cluster::RactorMessage;
use tokio::task::JoinHandle;

use super::calls::Known;
use super::media::tell_relay;
use super::records::Site;
use super::services::{OpenVnode, Services};
use super::standby::Standing;
use super::supervise::Budget;
use super::{calls, edge, figures, notifiers, outbox, pager, records, registrar, seen, standby, tickle};
use crate::clock;
use crate::cluster::Ownership;
use crate::ids::{CallId, VnodeId};
use crate::media::core::Session;
use crate::media::ports::PortPool;

/// A vnode whose actors keep failing is opened again after this pause.
const PAUSE: Duration = Duration::from_secs(1);
/// An address that didn't come is asked for again after this, and then ever more seldom.
const AGAIN: Duration = Duration::from_millis(200);
const SELDOM: Duration = Duration::from_secs(2);
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
    /// Tries to bring an address that did not come.
    taking: Option<JoinHandle<()>>,
    /// Tells phones that their connections are gone.
    tickling: Option<JoinHandle<()>>,
    /// Calls that the relay has, since the actors ended.
    left: Vec<CallId>,
}

struct Children {
    cells: Vec<ActorCell>,
    calls: ActorCell,
}

impl Drop for Running {
    fn drop(&mut self) {
        for task in self.watching.take().into_iter().chain(self.taking.take()).chain(self.tickling.take()) {
            task.abort();
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
        let mut running = Running {
            start,
            site,
            ownership: Ownership::None,
            open: None,
            budget: Budget::default(),
            watching: None,
            taking: None,
            tickling: None,
            left: Vec::new(),
        };
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

/// Brings a vnode's address here; gives who goes on trying if it doesn't come.
async fn take_address(services: Arc<Services>, vnode: VnodeId) -> Option<JoinHandle<()>> {
    let error = services.cluster.addresses().take(vnode).await.err()?;
    tracing::error!(%vnode, %error, "the address does not come");
    Some(tokio::spawn(keep_taking(services, vnode)))
}

/// Tries again to bring a vnode's address here, as long as it should be.
async fn keep_taking(services: Arc<Services>, vnode: VnodeId) {
    let mut pause = AGAIN;
    loop {
        tokio::time::sleep(pause).await;
        pause = SELDOM.min(pause * 2);
        if !services.ownership(vnode).is_active() {
            return;
        }
        match services.cluster.addresses().take(vnode).await {
            Ok(()) => return,
            Err(error) => tracing::error!(%vnode, %error, "the address does not come"),
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
            self.close().await;
            return Ok(());
        }
        self.stop_taking().await;
        let begin = clock::uptime();
        let since = || u64::try_from(clock::uptime().since(begin).as_millis()).unwrap_or(u64::MAX);
        let (first, last) = services.config.media_ports_of(vnode);
        let ports = Arc::new(PortPool::new(first, last));
        let supervisor = || myself.get_cell();
        let start = edge::Start { services: services.clone(), vnode };
        let (edge, _) = Actor::spawn_linked(None, edge::EdgeActor, start, supervisor()).await?;
        let standing = standby::take(&services, vnode);
        let stood_by = standing.is_complete();
        let early = stood_by.then(|| tokio::spawn(take_address(services.clone(), vnode)));
        let left = std::mem::take(&mut self.left);
        let known = if stood_by { self.go_on_with(standing, &ports) } else { self.open_media(&standing, left, &ports) };
        let media_ms = since();
        self.taking = match early {
            Some(early) => early.await?,
            None => take_address(services.clone(), vnode).await,
        };
        let address_ms = since();
        let start = calls::Start { services: services.clone(), vnode, ports: ports.clone(), known };
        let (calls, _) = Actor::spawn_linked(None, calls::CallsActor, start, supervisor()).await?;
        let start = registrar::Start { services: services.clone(), vnode };
        let (registrar, _) = Actor::spawn_linked(None, registrar::RegistrarActor, start, supervisor()).await?;
        let start = pager::Start { services: services.clone(), vnode };
        let (pager, _) = Actor::spawn_linked(None, pager::PagerActor, start, supervisor()).await?;
        let start = notifiers::Start { services: services.clone(), vnode };
        let (notifiers, _) = Actor::spawn_linked(None, notifiers::NotifiersActor, start, supervisor()).await?;
        let cells = vec![edge.get_cell(), registrar.get_cell(), pager.get_cell(), notifiers.get_cell(), calls.get_cell()];
        services.opened(vnode, OpenVnode { calls: calls.clone(), registrar, pager, notifiers, ports });
        seen::opened(&services, vnode);
        let start = outbox::Start { services: services.clone(), vnode };
        let (outbox, _) = Actor::spawn_linked(None, outbox::OutboxActor, start, supervisor()).await?;
        edge.cast(edge::EdgeMsg::Read)?;
        self.tickling = Some(tokio::spawn(tickle::all(services.clone(), vnode)));
        tracing::info!(%vnode, stood_by, media_ms, address_ms, ms = since(), "open");
        let cells = [cells, vec![outbox.get_cell()]].concat();
        self.open = Some(Children { cells, calls: calls.get_cell() });
        Ok(())
    }

    /// The relay has every call's media already; gives what there is to know of them besides.
    fn go_on_with(&self, standing: Standing, ports: &PortPool) -> Vec<Known> {
        let Start { services, vnode } = &self.start;
        let (mut known, mut taken) = (Vec::new(), Vec::new());
        for (call, stands) in standing.calls {
            known.push(stands.known);
            if let Some(counters) = stands.counters {
                taken.extend(stands.ports.into_iter().map(|port| (port, call)));
                services.directory.stood_by(call, *vnode, counters);
            }
        }
        ports.adopt(taken);
        known
    }

    /// Tells the relay of every live call's sockets before anything else is done, last of those who are silent, and has it forget those
    /// that stood by, or were here before, and are none any more; gives what there is to know of the calls besides.
    fn open_media(&self, standing: &Standing, left: Vec<CallId>, ports: &PortPool) -> Vec<Known> {
        let Start { services, vnode } = &self.start;
        let records = services
            .cluster
            .read(*vnode, |state| state.calls().map(|(call, entry)| (*call, entry.record.clone())).collect::<Vec<_>>());
        let (mut known, mut silent, mut taken) = (Vec::new(), Vec::new(), Vec::new());
        let mut live = HashSet::new();
        for (call, record) in records.unwrap_or_default() {
            let glance = match records::glance(call, &record, self.site) {
                Ok(glance) => glance,
                Err(error) => {
                    // Left as it is: a later release may read it.
                    tracing::error!(call_id = %call, trace_id = %call, %error, "a call that can't be restored");
                    continue;
                }
            };
            known.push(Known::new(call, &glance, self.site));
            if glance.ended {
                continue;
            }
            let before = taken.len();
            taken.extend(glance.media.ports().into_iter().map(|port| (port, call)));
            if taken.len() == before {
                continue;
            }
            live.insert(call);
            if glance.media.is_silent_on_purpose() {
                silent.push((call, glance.media));
            } else {
                self.tell_relay(call, &glance.media);
            }
        }
        for (call, session) in silent {
            self.tell_relay(call, &session);
        }
        for call in standing.calls.keys().copied().chain(left).filter(|call| !live.contains(call)) {
            services.relay.close(call);
        }
        ports.adopt(taken);
        known
    }

    fn tell_relay(&self, call: CallId, session: &Session) {
        let Start { services, vnode } = &self.start;
        services.directory.reserve(call, *vnode, None);
        tell_relay(services, *vnode, call, session, services.directory.counters(call).unwrap_or_default());
    }

    /// Ends the actors; the relay goes on.
    async fn end_actors(&mut self) {
        let Start { services, vnode } = &self.start;
        services.closed(*vnode);
        if let Some(tickling) = self.tickling.take() {
            tickling.abort();
        }
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
        figures::keep(services, *vnode);
        for call in services.directory.of_vnode(*vnode) {
            services.directory.remove(call);
            self.left.push(call);
        }
    }

    async fn stop_taking(&mut self) {
        if let Some(taking) = self.taking.take() {
            taking.abort();
            let _ = taking.await;
        }
    }

    /// Ends everything; after this the address may move.
    async fn close(&mut self) {
        let Start { services, vnode } = &self.start;
        let (services, vnode) = (services.clone(), *vnode);
        self.stop_taking().await;
        figures::tell(&services, vnode, false);
        // Sound needs no actors: it flows until the last moment.
        self.end_actors().await;
        let calls = std::mem::take(&mut self.left);
        let addresses = services.cluster.addresses();
        addresses.turn(vnode).await;
        services.relay.settle().await;
        addresses.give(vnode).await;
        if let Some(standby) = &services.standby {
            // Nothing comes here any more and nothing leaves: the media stand by from now on.
            services.cluster.sockets_open(vnode, false);
            standby.begin(vnode, calls);
            return;
        }
        for call in calls {
            services.relay.close(call);
        }
        services.relay.settle().await;
        services.cluster.sockets_open(vnode, false);
    }
}
