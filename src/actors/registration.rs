//! The actor of one address-of-record: takes its REGISTERs one after the other. Layer: shell.
//!
//! It lives while it has something to do: its bindings are a record, which the registrar's next actor reads.

use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use ractor_cluster::RactorMessage;

use super::notifiers::NotifiersMsg;
use super::registrar::RegistrarMsg;
use super::services::Services;
use super::{gateway, records, transport};
use crate::clock;
use crate::cluster::ProposeError;
use crate::cluster::state::VnodeCommand;
use crate::ids::{Aor, VnodeId};
use crate::sip::dialog::Flow;
use crate::sip::events::Package;
use crate::sip::message::{Request, Response};
use crate::sip::registrar::{Policy, Registrar};
use crate::sip::{Name, StatusCode, endpoint};

/// What a registration is told.
#[derive(RactorMessage, Debug)]
pub enum RegistrationMsg {
    /// The registrar: a REGISTER whose user is known.
    Register(Box<Request>, Flow),
    /// The registrar: every binding may have expired.
    Sweep,
}

/// What it is made with, and has.
pub struct Start {
    /// The node's.
    pub services: Arc<Services>,
    /// Whose.
    pub vnode: VnodeId,
    /// Which.
    pub aor: Aor,
    /// Whom to tell that it is done.
    pub registrar: ActorRef<RegistrarMsg>,
}

/// The actor.
pub struct RegistrationActor;

impl Actor for RegistrationActor {
    type Msg = RegistrationMsg;
    type State = Start;
    type Arguments = Start;

    async fn pre_start(&self, _: ActorRef<RegistrationMsg>, start: Start) -> Result<Start, ActorProcessingErr> {
        Ok(start)
    }

    async fn handle(
        &self,
        _: ActorRef<RegistrationMsg>,
        message: RegistrationMsg,
        start: &mut Start,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            RegistrationMsg::Register(request, flow) => {
                if let Some(response) = start.register(&request, flow).await {
                    metrics::counter!("tandem_registers_total", "status" => response.status.code().to_string()).increment(1);
                    transport::respond(&start.services, flow, response);
                }
            }
            RegistrationMsg::Sweep => start.sweep().await,
        }
        start.registrar.cast(RegistrarMsg::Done(start.aor.clone()))?;
        Ok(())
    }
}

impl Start {
    /// Removes the record when nothing in it counts any more; taken in turn with the REGISTERs.
    async fn sweep(&self) {
        let stored = gateway::local_bindings(&self.services, self.vnode, &self.aor);
        let now = clock::now();
        let dead = records::decode_bindings(&stored).is_ok_and(|bindings| bindings.iter().all(|binding| binding.expires <= now));
        if dead && !stored.is_empty() {
            let command = VnodeCommand::PutBindings { aor: self.aor.clone(), record: bytes::Bytes::new() };
            // What isn't swept now is swept next time.
            if self.services.cluster.propose(self.vnode, command).await.is_ok() {
                self.tell_watchers(true);
            }
        }
    }

    /// Tells those who watch the user, if there are any, where it is registered, and whether it is there if that has changed.
    fn tell_watchers(&self, comes_or_goes: bool) {
        let presence = comes_or_goes.then_some(Package::Presence);
        if let Some(open) = self.services.vnode(self.vnode) {
            let changed = std::iter::once(Package::Reg).chain(presence).collect();
            let _ = open.notifiers.cast(NotifiersMsg::Changed(self.aor.clone(), changed));
        }
    }

    /// Carries a REGISTER out; no answer when the vnode is on its way to another node, where the phone repeats it.
    async fn register(&self, request: &Request, flow: Flow) -> Option<Response> {
        let stored = gateway::local_bindings(&self.services, self.vnode, &self.aor);
        let Ok(bindings) = records::decode_bindings(&stored) else {
            tracing::error!(vnode = %self.vnode, "bindings that can't be read");
            return Some(endpoint::stateless(request, StatusCode::SERVER_INTERNAL_ERROR));
        };
        let now = clock::now();
        let live: Vec<_> = bindings.iter().filter(|binding| binding.expires > now).collect();
        let wanted = self.services.config.registration;
        let seconds = |n: u32| std::time::Duration::from_secs(n.into());
        let policy = Policy {
            min: seconds(wanted.min),
            max: seconds(wanted.max),
            default: seconds(wanted.default),
            contacts: wanted.contacts.into(),
        };
        let service_route = &self.services.config.sip.service_route;
        let registrar = Registrar { aor: &self.aor, gruus: &self.services.gruus, policy, service_route };
        let step = match registrar.register(&bindings, request, flow, now) {
            Ok(step) => step,
            Err(error) => return Some(error.response(request)),
        };
        if let Some(bindings) = step.commit {
            let command = VnodeCommand::PutBindings { aor: self.aor.clone(), record: records::encode_bindings(&bindings) };
            let (was_there, is_there) = (!live.is_empty(), !bindings.is_empty());
            if let Err(error) = self.services.cluster.propose(self.vnode, command).await {
                tracing::warn!(vnode = %self.vnode, %error, "a registration is not committed");
                return (error != ProposeError::NotOwner).then(|| unavailable(request));
            }
            self.tell_watchers(was_there != is_there);
        }
        step.then.into_iter().next()
    }
}

/// 503, and when to try again.
pub fn unavailable(request: &Request) -> Response {
    endpoint::stateless(request, StatusCode::SERVICE_UNAVAILABLE).with(Name::RetryAfter, "5")
}
