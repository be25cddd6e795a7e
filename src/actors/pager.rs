//! The MESSAGEs outside of calls that are on their way through a vnode: runs a [`Page`] for each. Layer: shell.
//!
//! They are in memory alone, and go with the vnode's actors; their senders repeat them.

use std::collections::HashMap;
use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use ractor_cluster::RactorMessage;

use super::alarm::Alarm;
use super::registration::unavailable;
use super::services::Services;
use super::{gateway, records, transport};
use crate::clock::{self, Timestamp};
use crate::ids::{CallId, LegId, VnodeId};
use crate::sip::StatusCode;
use crate::sip::b2bua::Target;
use crate::sip::dialog::Flow;
use crate::sip::endpoint;
use crate::sip::leg::TxKey;
use crate::sip::message::{Message, Response};
use crate::sip::pager::{NewPage, Page, PageOutput};

/// So many wait for an answer at once, and of one user; peers have many users.
const MOST_OPEN: usize = 2_000;
const MOST_OF_A_USER: usize = 50;
/// So many are here, those included that were answered and may be repeated.
const MOST: usize = 20_000;

/// What it is told.
#[derive(RactorMessage, Debug)]
pub enum PagerMsg {
    /// The router: a MESSAGE was admitted, and its user's phones are known.
    Begin(Box<NewPage>),
    /// A phone's answer.
    Response(CallId, LegId, Box<Response>),
    /// The alarm.
    Due,
}

/// What it is made with.
pub struct Start {
    /// The node's.
    pub services: Arc<Services>,
    /// Whose.
    pub vnode: VnodeId,
}

/// The actor.
pub struct PagerActor;

/// What it has.
pub struct Running {
    start: Start,
    pages: HashMap<CallId, OnItsWay>,
    /// By what is the same in all copies of a MESSAGE.
    copies: HashMap<String, CallId>,
    /// How many wait for an answer, by who sent them.
    open: HashMap<String, usize>,
    alarm: Alarm,
}

struct OnItsWay {
    page: Page,
    transaction: TxKey,
    copies: String,
    /// Its sender, as long as that waits.
    waits: Option<String>,
}

impl Actor for PagerActor {
    type Msg = PagerMsg;
    type State = Running;
    type Arguments = Start;

    async fn pre_start(&self, _myself: ActorRef<PagerMsg>, start: Start) -> Result<Running, ActorProcessingErr> {
        Ok(Running { start, pages: HashMap::new(), copies: HashMap::new(), open: HashMap::new(), alarm: Alarm::default() })
    }

    async fn handle(
        &self,
        myself: ActorRef<PagerMsg>,
        message: PagerMsg,
        running: &mut Running,
    ) -> Result<(), ActorProcessingErr> {
        let now = clock::now();
        match message {
            PagerMsg::Begin(new) => running.begin(*new, now),
            PagerMsg::Response(page, leg, response) => {
                running.advance(page, now, |page, out| page.response(leg, *response, now, out));
            }
            PagerMsg::Due => {
                let due = running.pages.iter().filter(|(_, on)| on.page.deadline().is_some_and(|at| at <= now));
                for page in due.map(|(page, _)| *page).collect::<Vec<_>>() {
                    running.advance(page, now, |page, out| page.timeout(now, out));
                }
            }
        }
        let next = running.pages.values().filter_map(|on| on.page.deadline()).min();
        running.alarm.set(&myself, next, || PagerMsg::Due);
        Ok(())
    }
}

impl Running {
    fn begin(&mut self, new: NewPage, now: Timestamp) {
        let (transaction, copies) = endpoint::invite_key(&new.request);
        let refuse = |response| transport::respond(&self.start.services, new.from, response);
        if let Some(known) = self.copies.get(&copies).copied() {
            if self.pages.get(&known).is_some_and(|on| on.transaction == transaction) {
                return self.advance(known, now, |page, out| page.repeated(now, out));
            }
            // RFC 3261 §8.2.2.2: it came by several ways.
            return refuse(endpoint::stateless(&new.request, StatusCode::LOOP_DETECTED));
        }
        let of_user = self.open.get(&new.user).copied().unwrap_or(0);
        let too_many = self.open.values().sum::<usize>() >= MOST_OPEN || (of_user >= MOST_OF_A_USER && !new.trusted);
        if self.pages.len() >= MOST || too_many {
            return refuse(unavailable(&new.request));
        }
        self.open.insert(new.user.clone(), of_user + 1);
        let (id, waits, mut out) = (new.id, Some(new.user.clone()), Vec::new());
        let page = Page::new(new, rand::random(), self.start.services.timers, now, &mut out);
        self.copies.insert(copies.clone(), id);
        self.pages.insert(id, OnItsWay { page, transaction, copies, waits });
        self.perform(id, out, now);
    }

    fn advance(&mut self, id: CallId, now: Timestamp, step: impl FnOnce(&mut Page, &mut Vec<PageOutput>)) {
        let Some(on) = self.pages.get_mut(&id) else { return };
        let mut out = Vec::new();
        step(&mut on.page, &mut out);
        self.perform(id, out, now);
    }

    fn perform(&mut self, id: CallId, outputs: Vec<PageOutput>, now: Timestamp) {
        let Some(on) = self.pages.get_mut(&id) else { return };
        let services = &self.start.services;
        let mut outputs = std::collections::VecDeque::from(outputs);
        while let Some(output) = outputs.pop_front() {
            match output {
                PageOutput::Send(leg, request, flow) => {
                    if !transport::send(services, flow, &Message::Request(request)) {
                        on.page.unsent(leg, now);
                    }
                }
                PageOutput::Respond(response, flow) => transport::respond(services, flow, response),
                PageOutput::Look(leg, target) => {
                    let mut more = Vec::new();
                    on.page.again(leg, way(services, &target), now, &mut more);
                    outputs.extend(more);
                }
            }
        }
        if let Some(sender) = on.waits.take_if(|_| !on.page.is_open())
            && let Some(open) = self.open.get_mut(&sender)
        {
            *open -= 1;
            if *open == 0 {
                self.open.remove(&sender);
            }
        }
        if on.page.deadline().is_none()
            && let Some(OnItsWay { copies, .. }) = self.pages.remove(&id)
        {
            self.copies.remove(&copies);
        }
    }
}

/// By which flow a phone is reached now, as far as is known here.
fn way(services: &Services, target: &Target) -> Option<Flow> {
    let phone = target.phone.as_ref()?;
    let home = phone.aor.vnode(&services.cluster.vnodes())?;
    let bindings = records::decode_bindings(&gateway::local_bindings(services, home, &phone.aor)).ok()?;
    phone.way(&bindings, target.flow, &target.contact, clock::now())
}
