//! The actor of one leg: runs [`crate::sip::leg::Leg`], which holds the leg's transactions. Layer: shell.
//!
//! It holds nothing that must survive: when it fails, its call makes another and tells it what is open.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use ractor_cluster::RactorMessage;

use super::alarm::Alarm;
use super::call::CallMsg;
use super::services::Services;
use super::transport;
use crate::clock::{self, Timestamp};
use crate::ids::LegId;
use crate::sip::Method;
use crate::sip::dialog::Flow;
use crate::sip::leg::{Leg, LegCommand, LegInput, LegOutput};
use crate::sip::message::{Message, Request, Response};
use crate::sip::redial::Redials;

/// What a dialog is told.
#[derive(RactorMessage, Debug)]
pub enum DialogMsg {
    /// The edge: a request of the phone's.
    Request(Box<Request>, Flow),
    /// The edge: a response of the phone's.
    Response(Box<Response>),
    /// The call.
    Command(Box<LegCommand>),
    /// The call wants to sleep: may it?
    Rest {
        /// Which attempt it is.
        attempt: u32,
    },
    /// The call: its connection has ended, and nobody has come back yet; it is one that we make ourselves, by this flow.
    Lost(Option<Flow>),
    /// The alarm.
    Due,
    /// A test: fail here and now.
    #[cfg(test)]
    Panic,
}

/// The actor.
pub struct DialogActor;

/// What it is made with.
pub struct Start {
    /// The node's.
    pub services: Arc<Services>,
    /// Whom to tell.
    pub call: ActorRef<CallMsg>,
    /// Which leg.
    pub leg: LegId,
}

/// What it has.
pub struct Running {
    start: Start,
    core: Leg,
    alarm: Alarm,
    /// What could not leave by a connection.
    unsent: VecDeque<Unsent>,
    /// When to try again.
    retry: Option<Timestamp>,
    /// Since when the phone's connection is known to have ended.
    lost: Option<Timestamp>,
    /// What has become of connections of ours.
    redials: Redials,
}

/// What could not leave: its connection had ended, or the node that has it could not be reached.
struct Unsent {
    message: Message,
    flow: Flow,
    until: Timestamp,
}

/// So soon what could not leave is tried again.
const RETRY: Duration = Duration::from_millis(100);
/// At most so much waits.
const MAX_UNSENT: usize = 32;
/// A phone that has said nothing yet to an INVITE must be back within this after its connection has ended: after a takeover most are back
/// in a second.
const BACK: Duration = Duration::from_secs(5);

impl Actor for DialogActor {
    type Msg = DialogMsg;
    type State = Running;
    type Arguments = Start;

    async fn pre_start(&self, _: ActorRef<DialogMsg>, start: Start) -> Result<Running, ActorProcessingErr> {
        let core = Leg::new(start.services.timers);
        Ok(Running {
            start,
            core,
            alarm: Alarm::default(),
            unsent: VecDeque::new(),
            retry: None,
            lost: None,
            redials: Redials::default(),
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<DialogMsg>,
        message: DialogMsg,
        running: &mut Running,
    ) -> Result<(), ActorProcessingErr> {
        let input = match message {
            DialogMsg::Rest { attempt } => {
                let (leg, rests) = (running.start.leg, running.is_at_rest());
                running.start.call.cast(CallMsg::Rests { leg, attempt, rests })?;
                return Ok(());
            }
            DialogMsg::Request(request, flow) => LegInput::Request(*request, flow),
            DialogMsg::Response(response) => {
                running.redials.answered();
                LegInput::Response(*response)
            }
            DialogMsg::Command(command) => LegInput::Command(*command),
            DialogMsg::Lost(Some(flow)) => LegInput::Command(running.redial(flow)),
            DialogMsg::Lost(None) => match running.flow_failed() {
                Some(command) => LegInput::Command(command),
                None => return Ok(()),
            },
            DialogMsg::Due => LegInput::Timeout,
            #[cfg(test)]
            DialogMsg::Panic => panic!("a test asked for it"),
        };
        let now = clock::now();
        let mut outputs = Vec::new();
        if let LegInput::Command(LegCommand::Rebind(flow)) = &input {
            running.lost = None;
            running.retry = None;
            outputs.extend(running.unsent.drain(..).map(|unsent| LegOutput::Send(unsent.message, *flow)));
        }
        let first = outputs.len();
        running.core.handle(input, now, &mut outputs);
        // What waits is said once.
        let (waited, said) = outputs.split_at(first);
        let said = said.iter().filter(|output| !waited.contains(output)).cloned().collect::<Vec<_>>();
        outputs.truncate(first);
        outputs.extend(said);
        running.try_again(now);
        for output in outputs {
            match output {
                LegOutput::Send(message, flow) => running.send(message, flow, now)?,
                LegOutput::Event(event) => running.start.call.cast(CallMsg::Leg(running.start.leg, Box::new(event)))?,
            }
        }
        if running.is_at_rest() {
            running.start.call.cast(CallMsg::AtRest(running.start.leg))?;
        }
        let deadline = running.core.deadline().into_iter().chain(running.retry).min();
        running.alarm.set(&myself, deadline, || DialogMsg::Due);
        Ok(())
    }
}

impl Running {
    fn is_at_rest(&self) -> bool {
        self.core.is_at_rest() && self.unsent.is_empty()
    }

    /// A datagram is said again by its timer, and an ACK when its 200 is. Nothing else says again what a connection should have brought.
    fn send(&mut self, message: Message, flow: Flow, now: Timestamp) -> Result<(), ActorProcessingErr> {
        let waits = flow.transport.is_reliable() && !matches!(&message, Message::Request(ack) if ack.method == Method::Ack);
        // Nothing overtakes what waits.
        let sent = self.unsent.is_empty() && transport::send(&self.start.services, flow, &message);
        if !sent && waits && self.unsent.len() < MAX_UNSENT {
            if self.unsent.is_empty() {
                self.retry = Some(now + RETRY);
                self.start.call.cast(CallMsg::Unsent(self.start.leg))?;
            }
            self.unsent.push_back(Unsent { message, flow, until: now + self.start.services.timers.give_up() });
        }
        Ok(())
    }

    fn try_again(&mut self, now: Timestamp) {
        if self.retry.take_if(|at| *at <= now).is_none() {
            return;
        }
        while let Some(unsent) = self.unsent.front() {
            if now < unsent.until && !transport::send(&self.start.services, unsent.flow, &unsent.message) {
                self.retry = Some(now + RETRY);
                return;
            }
            self.unsent.pop_front();
        }
    }

    /// What a connection of ours has lost is said again, which makes the next one; an INVITE that nobody has heard is given up when that
    /// has failed, and what else is open is said again ever more seldom.
    fn redial(&mut self, flow: Flow) -> LegCommand {
        if self.redials.lost() {
            return LegCommand::Rebind(flow);
        }
        self.unsent.retain(|unsent| !matches!(&unsent.message, Message::Request(request) if request.method == Method::Invite));
        LegCommand::FlowFailed
    }

    /// Whether to wait for the phone no longer (RFC 5626 §5.3).
    fn flow_failed(&mut self) -> Option<LegCommand> {
        let now = clock::now();
        let since = *self.lost.get_or_insert(now);
        (now >= since + BACK).then_some(LegCommand::FlowFailed)
    }
}
