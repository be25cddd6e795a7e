//! The actor of one leg: runs [`crate::sip::leg::Leg`], which holds the leg's transactions. Layer: shell.
//!
//! It holds nothing that must survive: when it fails, its call makes another and tells it what is open.

use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use ractor_cluster::RactorMessage;

use super::alarm::Alarm;
use super::call::CallMsg;
use super::services::Services;
use super::transport;
use crate::clock;
use crate::ids::LegId;
use crate::sip::dialog::Flow;
use crate::sip::leg::{Leg, LegCommand, LegInput, LegOutput};
use crate::sip::message::{Request, Response};

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
}

impl Actor for DialogActor {
    type Msg = DialogMsg;
    type State = Running;
    type Arguments = Start;

    async fn pre_start(&self, _: ActorRef<DialogMsg>, start: Start) -> Result<Running, ActorProcessingErr> {
        Ok(Running { core: Leg::new(start.services.timers), start, alarm: Alarm::default() })
    }

    async fn handle(
        &self,
        myself: ActorRef<DialogMsg>,
        message: DialogMsg,
        running: &mut Running,
    ) -> Result<(), ActorProcessingErr> {
        let input = match message {
            DialogMsg::Rest { attempt } => {
                let (leg, rests) = (running.start.leg, running.core.is_at_rest());
                running.start.call.cast(CallMsg::Rests { leg, attempt, rests })?;
                return Ok(());
            }
            DialogMsg::Request(request, flow) => LegInput::Request(*request, flow),
            DialogMsg::Response(response) => LegInput::Response(*response),
            DialogMsg::Command(command) => LegInput::Command(*command),
            DialogMsg::Due => LegInput::Timeout,
            #[cfg(test)]
            DialogMsg::Panic => panic!("a test asked for it"),
        };
        let mut outputs = Vec::new();
        running.core.handle(input, clock::now(), &mut outputs);
        for output in outputs {
            match output {
                LegOutput::Send(message, flow) => {
                    // A datagram is said again by its timer; what a connection lost is said when its phone comes back.
                    if !transport::send(&running.start.services, flow, &message) && flow.transport.is_reliable() {
                        running.start.call.cast(CallMsg::Unsent(running.start.leg))?;
                    }
                }
                LegOutput::Event(event) => running.start.call.cast(CallMsg::Leg(running.start.leg, Box::new(event)))?,
            }
        }
        if running.core.is_at_rest() {
            running.start.call.cast(CallMsg::AtRest(running.start.leg))?;
        }
        running.alarm.set(&myself, running.core.deadline(), || DialogMsg::Due);
        Ok(())
    }
}
