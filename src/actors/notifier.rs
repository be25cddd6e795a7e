//! The actor of one user who is watched: runs [`crate::sip::events::Notifier`] and commits its steps. Layer: shell.
//!
//! It lives while a NOTIFY is on its way: who watches is a record, which the next actor reads.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use ractor_cluster::RactorMessage;

use super::alarm::Alarm;
use super::notifiers::NotifiersMsg;
use super::services::Services;
use super::{comeback, gateway, records, transport, watched};
use crate::clock::{self, Timestamp};
use crate::cluster::ProposeError;
use crate::ids::{Aor, CallId, VnodeId};
use crate::sip::dialog::Flow;
use crate::sip::events::{Input, Lifetimes, Notifier, Output, Package, Seen, Sources, Watched};
use crate::sip::message::Message;
use crate::sip::registrar::Binding;

/// What it is told.
#[derive(RactorMessage, Debug)]
pub enum NotifierMsg {
    /// Its supervisor: this, and what calls the user has.
    Input(Input, Arc<Vec<Seen>>),
    /// Its supervisor: something of the user's ends at this time, its bindings included.
    Due(Arc<Vec<Seen>>),
    /// A look at the registrations: a phone's connection is there, or it has come back by this flow, or not yet.
    Back(CallId, Option<Option<Flow>>),
    /// The alarm, for what is on its way.
    Alarm,
}

/// What it is made with.
pub struct Start {
    /// The node's.
    pub services: Arc<Services>,
    /// Whose.
    pub vnode: VnodeId,
    /// Which user.
    pub aor: Aor,
    /// Whom to tell what it has done.
    pub notifiers: ActorRef<NotifiersMsg>,
}

/// What its supervisor has to know of a user, who may sleep.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Nothing is on its way.
    pub quiet: bool,
    /// Subscriptions, those included that have just ended.
    pub subscriptions: BTreeSet<CallId>,
    /// When something ends.
    pub deadline: Option<Timestamp>,
    /// Somebody wants to know its calls.
    pub calls: bool,
}

/// The actor.
pub struct NotifierActor;

/// What it has.
pub struct Running {
    start: Start,
    core: Notifier,
    calls: Arc<Vec<Seen>>,
    alarm: Alarm,
}

impl Actor for NotifierActor {
    type Msg = NotifierMsg;
    type State = Running;
    type Arguments = Start;

    async fn pre_start(&self, _: ActorRef<NotifierMsg>, start: Start) -> Result<Running, ActorProcessingErr> {
        let state = watched::restore(&stored(&start.services, start.vnode, &start.aor))?;
        let wanted = start.services.config.registration;
        let seconds = |n: u32| Duration::from_secs(n.into());
        let lifetimes = Lifetimes { min: seconds(wanted.min), max: seconds(wanted.max) };
        let core = Notifier::new(start.vnode, state, lifetimes, start.services.timers, rand::random());
        Ok(Running { start, core, calls: Arc::default(), alarm: Alarm::default() })
    }

    async fn handle(
        &self,
        myself: ActorRef<NotifierMsg>,
        message: NotifierMsg,
        running: &mut Running,
    ) -> Result<(), ActorProcessingErr> {
        let asked = matches!(message, NotifierMsg::Input(..) | NotifierMsg::Due(_));
        let begins = match &message {
            NotifierMsg::Input(Input::Subscribe { id, .. }, _) => Some(*id),
            NotifierMsg::Input(..) | NotifierMsg::Due(_) | NotifierMsg::Back(..) | NotifierMsg::Alarm => None,
        };
        match message {
            NotifierMsg::Input(input, calls) => {
                running.calls = calls;
                let input = running.admit(input);
                running.advance(&myself, input).await;
            }
            NotifierMsg::Due(calls) => {
                running.calls = calls;
                running.advance(&myself, Input::Timeout).await;
                running.look_at_bindings(&myself).await;
            }
            NotifierMsg::Back(id, Some(flow)) => running.advance(&myself, Input::Back(id, flow)).await,
            NotifierMsg::Back(id, None) => running.advance(&myself, Input::Connected(id)).await,
            NotifierMsg::Alarm => running.advance(&myself, Input::Timeout).await,
        }
        let report = running.report();
        // Who sleeps is woken by its supervisor.
        let next = running.core.deadline().filter(|_| !report.quiet);
        running.alarm.set(&myself, next, || NotifierMsg::Alarm);
        running.start.notifiers.cast(NotifiersMsg::Done { aor: running.start.aor.clone(), asked, begins, report })?;
        Ok(())
    }
}

/// Who watches a user, as it is stored here; nothing for nobody.
pub fn stored(services: &Services, vnode: VnodeId, aor: &Aor) -> bytes::Bytes {
    services.cluster.read(vnode, |state| state.watched(aor).cloned()).flatten().unwrap_or_default()
}

/// When the first of a user's bindings ends that somebody wants to know of.
pub fn binding_deadline(watched: &Watched, bindings: &[Binding], now: Timestamp) -> Option<Timestamp> {
    let wanted = watched.wants(Package::Reg) || watched.wants(Package::Presence);
    bindings.iter().map(|binding| binding.expires).filter(|at| wanted && *at > now).min()
}

impl Running {
    fn bindings(&self) -> Vec<Binding> {
        let Start { services, vnode, aor, .. } = &self.start;
        records::decode_bindings(&gateway::local_bindings(services, *vnode, aor)).unwrap_or_default()
    }

    /// Who watches has to be a user still, and so has whom it watches.
    fn admit(&self, input: Input) -> Input {
        let Input::Within(id, request, flow) = input else { return input };
        let state = self.core.state();
        let watcher = state.subscriptions.iter().find(|own| own.id == id).and_then(|own| own.phone.as_ref());
        let users = [Some(&self.start.aor), watcher.map(|phone| &phone.aor)];
        let known = self.start.services.cluster.read_meta(|meta| users.into_iter().flatten().all(|aor| meta.user(aor).is_some()));
        if known { Input::Within(id, request, flow) } else { Input::Rejected(id, request, flow) }
    }

    /// A binding that ends says nothing itself.
    async fn look_at_bindings(&mut self, myself: &ActorRef<NotifierMsg>) {
        let (bindings, now) = (self.bindings(), clock::now());
        if bindings.is_empty() || bindings.iter().any(|binding| binding.expires <= now) {
            self.advance(myself, Input::Changed(BTreeSet::from([Package::Reg, Package::Presence]))).await;
        }
    }

    /// One input, and what follows from it.
    async fn advance(&mut self, myself: &ActorRef<NotifierMsg>, input: Input) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            let (bindings, calls) = (self.bindings(), self.calls.clone());
            let sources = Sources { aor: &self.start.aor, bindings: &bindings, calls: &calls };
            let step = self.core.handle(input, sources, clock::now());
            let mut outputs = step.then;
            match step.commit {
                None => outputs.extend(self.core.leave(clock::now())),
                Some(state) => {
                    let command = watched::command(&self.start.aor, &state);
                    match self.start.services.cluster.propose(self.start.vnode, command).await {
                        Ok(_) => outputs.extend(self.core.committed(clock::now())),
                        Err(error) => {
                            tracing::warn!(vnode = %self.start.vnode, %error, "who watches is not committed");
                            self.core.roll_back(clock::now());
                            // The vnode is on its way to another node: nothing is said here, and the phone repeats it there.
                            outputs = if error == ProposeError::NotOwner { Vec::new() } else { step.otherwise };
                        }
                    }
                }
            }
            for output in outputs {
                inputs.extend(self.perform(myself, output));
            }
        }
    }

    fn perform(&self, myself: &ActorRef<NotifierMsg>, output: Output) -> Option<Input> {
        let services = &self.start.services;
        match output {
            Output::Respond(response, flow) => {
                transport::respond(services, flow, response);
                None
            }
            Output::Send(id, request, flow) => {
                metrics::counter!("tandem_notifies_total").increment(1);
                (!transport::send(services, flow, &Message::Request(request))).then_some(Input::Unsent(id))
            }
            Output::Look(id, phone, flow, target) => {
                let (services, myself) = (services.clone(), myself.clone());
                tokio::spawn(async move {
                    let found = comeback::back(&services, &phone, flow, &target).await;
                    let _ = myself.cast(NotifierMsg::Back(id, found));
                });
                None
            }
        }
    }

    fn report(&self) -> Report {
        let (state, quiet) = (self.core.state(), self.core.is_quiet());
        let binding = binding_deadline(state, &self.bindings(), clock::now());
        Report {
            quiet,
            subscriptions: self.core.subscriptions().into_iter().collect(),
            // Who is awake has an alarm of its own.
            deadline: state.deadline().filter(|_| quiet).into_iter().chain(binding).min(),
            calls: state.wants(Package::Dialog),
        }
    }
}
