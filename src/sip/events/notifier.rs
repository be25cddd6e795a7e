//! Who watches a user: takes SUBSCRIBE and PUBLISH, and sends NOTIFY (RFC 6665 §4.2). Layer: pure.
//!
//! A subscription has one NOTIFY on its way at a time; what changes meanwhile is told when that is answered. What was prepared leaves
//! once its step is committed ([`Notifier::committed`]): so CSeq only grows, whoever sends.

use std::collections::BTreeSet;
use std::time::Duration;

use super::publish::publish;
use super::{
    ALLOW_EVENTS, LEG, Lifetimes, MAX_DIALOG, MAX_OF_A_WATCHER, MAX_SUBSCRIPTIONS, Package, Sources, Subscription, Watched,
    accepts, document, event_of,
};
use crate::clock::Timestamp;
use crate::ids::{CallId, VnodeId};
use crate::sip::dialog::{Dialog, DialogError, Flow};
use crate::sip::endpoint::stateless;
use crate::sip::message::{Request, Response};
use crate::sip::registrar::Phone;
use crate::sip::status::Class;
use crate::sip::token::Token;
use crate::sip::transaction::{Cause, Client, ClientInput, ClientOutput, Timers};
use crate::sip::{Method, Name, StatusCode, Text, step};

/// How soon it is looked whether a phone that doesn't answer has come back by another connection; and then ever more seldom.
const AGAIN: Duration = Duration::from_millis(250);
const SELDOM: Duration = Duration::from_secs(4);
/// How soon is tried again what could not be committed.
const COMMIT_AGAIN: Duration = Duration::from_secs(1);
/// A phone that wants to be told later is told after this at most.
const LATER: Duration = Duration::from_secs(30);
/// So many are told something last at once, or only once.
const MAX_LAST: usize = 32;

/// What a notifier is told.
#[derive(Debug)]
pub enum Input {
    /// A SUBSCRIBE that begins something, of a phone that may; `id` is random.
    Subscribe {
        /// The SUBSCRIBE.
        request: Request,
        /// How it came.
        flow: Flow,
        /// What it will be called.
        id: CallId,
        /// Whose it is.
        phone: Option<Phone>,
    },
    /// A request within a subscription's dialog.
    Within(CallId, Request, Flow),
    /// A PUBLISH of somebody who may; the number is random.
    Publish(Request, Flow, u64),
    /// There is something else to say of these.
    Changed(BTreeSet<Package>),
    /// A phone answers a NOTIFY.
    Response(CallId, Response),
    /// A NOTIFY could not leave.
    Unsent(CallId),
    /// A phone whose connection had ended is reached by this flow now; or not yet.
    Back(CallId, Option<Flow>),
    /// A phone that has not answered still has its connection.
    Connected(CallId),
    /// Who watches may no more: this is its SUBSCRIBE.
    Rejected(CallId, Request, Flow),
    /// The deadline has passed.
    Timeout,
}

/// What a notifier wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::large_enum_variant, reason = "nearly all are the large ones")]
pub enum Output {
    /// Answer who asked.
    Respond(Response, Flow),
    /// Send a NOTIFY; if that isn't possible, say so ([`Input::Unsent`]).
    Send(CallId, Request, Flow),
    /// See whether this phone, whose contact is the last, has come back by another flow ([`Input::Back`]).
    Look(CallId, Phone, Flow, Text),
}

/// A notifier's answer to one input.
pub type Step = step::Step<Watched, Output>;

/// The machine, for one user.
#[derive(Debug)]
pub struct Notifier {
    vnode: VnodeId,
    state: Watched,
    committed: Watched,
    lifetimes: Lifetimes,
    timers: Timers,
    incarnation: u32,
    branches: u32,
    /// What leaves when its step is committed.
    prepared: Vec<(Subscription, Request)>,
    /// What is on its way.
    open: Vec<OnItsWay>,
    /// Who is told once more as soon as it has answered.
    behind: BTreeSet<CallId>,
    /// After a commit that failed: when the next attempt may be.
    not_before: Option<Timestamp>,
    /// It may have been made all the same.
    doubtful: bool,
}

/// A NOTIFY on its way.
#[derive(Debug)]
struct OnItsWay {
    subscription: Subscription,
    client: Client,
    /// Its connection may have ended: when it is looked for, and how long after that the next time.
    looks: Option<(Timestamp, Duration)>,
    /// The phone wants to be told later (RFC 6665 §4.2.2): when.
    again: Option<Timestamp>,
}

impl Notifier {
    /// A notifier that goes on from a record. `incarnation` is random, as in [`crate::sip::b2bua::Call::new`].
    pub fn new(vnode: VnodeId, state: Watched, lifetimes: Lifetimes, timers: Timers, incarnation: u32) -> Self {
        Self {
            vnode,
            committed: state.clone(),
            state,
            lifetimes,
            timers,
            incarnation,
            branches: 0,
            prepared: Vec::new(),
            open: Vec::new(),
            behind: BTreeSet::new(),
            not_before: None,
            doubtful: false,
        }
    }

    /// All that survives.
    pub fn state(&self) -> &Watched {
        &self.state
    }

    /// The subscriptions, and those that are still told their end.
    pub fn subscriptions(&self) -> Vec<CallId> {
        let known = self.state.subscriptions.iter().map(|own| own.id);
        let open = self.open.iter().map(|open| open.subscription.id);
        known.chain(open.filter(|id| !self.state.subscriptions.iter().any(|own| own.id == *id))).collect()
    }

    /// Nothing is on its way.
    pub fn is_quiet(&self) -> bool {
        self.open.is_empty() && self.behind.is_empty() && self.prepared.is_empty() && self.not_before.is_none()
    }

    /// The last step was committed: what it prepared leaves.
    pub fn committed(&mut self, now: Timestamp) -> Vec<Output> {
        self.committed.clone_from(&self.state);
        (self.not_before, self.doubtful) = (None, false);
        self.leave(now)
    }

    /// The last step needed no commit: what it prepared leaves.
    pub fn leave(&mut self, now: Timestamp) -> Vec<Output> {
        let mut out = Vec::new();
        for (subscription, request) in std::mem::take(&mut self.prepared) {
            // Its last word: whatever was said before it doesn't matter.
            self.open.retain(|open| open.subscription.id != subscription.id);
            let (id, flow) = (subscription.id, subscription.dialog.flow);
            let mut sent = Vec::new();
            let client = Client::start(request, flow.transport.is_reliable(), self.timers, now, &mut sent);
            // Whether a connection at another node has ended is known there alone.
            let may_come_back = flow.transport.is_reliable() && subscription.phone.is_some();
            let looks = may_come_back.then_some((now + AGAIN, AGAIN * 2));
            self.open.push(OnItsWay { subscription, client, looks, again: None });
            out.extend(sent.into_iter().filter_map(|output| send(id, flow, output)));
        }
        out
    }

    /// The last step could not be committed: nothing of it has happened, and who had to be told is told later.
    pub fn roll_back(&mut self, now: Timestamp) {
        self.state.clone_from(&self.committed);
        (self.not_before, self.doubtful) = (Some(now + COMMIT_AGAIN), true);
        for (subscription, _) in std::mem::take(&mut self.prepared) {
            if self.state.subscriptions.iter().any(|known| known.id == subscription.id) {
                self.behind.insert(subscription.id);
            }
        }
    }

    /// When [`Input::Timeout`] is due.
    pub fn deadline(&self) -> Option<Timestamp> {
        let not_before = |at: Timestamp| self.not_before.map_or(at, |earliest| at.max(earliest));
        let ends = self.state.deadline().map(not_before);
        // Whose answer nobody waits for is told as soon as may be.
        let waits = |id: &CallId| self.open.iter().any(|open| open.subscription.id == *id);
        let behind = self.behind.iter().any(|id| !waits(id)).then(|| not_before(Timestamp(0)));
        let open =
            self.open.iter().flat_map(|open| [open.client.deadline(), open.looks.map(|(at, _)| at), open.again.map(not_before)]);
        open.flatten().chain(ends).chain(behind).chain(self.not_before).min()
    }

    /// Advances by one input.
    pub fn handle(&mut self, input: Input, sources: Sources<'_>, now: Timestamp) -> Step {
        match input {
            Input::Subscribe { request, flow, id, phone } => self.subscribe(&request, flow, id, phone, sources, now),
            Input::Within(id, request, flow) => self.within(id, &request, flow, sources, now),
            Input::Publish(request, flow, tag) => self.publish(&request, flow, tag, sources, now),
            Input::Changed(packages) => self.changed(&packages, sources, now),
            Input::Response(id, response) => self.client(id, ClientInput::Received(response), sources, now),
            Input::Unsent(id) => self.unsent(id),
            Input::Back(id, flow) => self.back(id, flow, sources, now),
            Input::Connected(id) => self.send_again(id),
            Input::Rejected(id, request, flow) => self.reject(id, &request, flow, sources, now),
            Input::Timeout => self.timeout(sources, now),
        }
    }

    // --- SUBSCRIBE ---

    fn subscribe(
        &mut self,
        request: &Request,
        flow: Flow,
        id: CallId,
        phone: Option<Phone>,
        sources: Sources<'_>,
        now: Timestamp,
    ) -> Step {
        let refuse = |response| Step::free(vec![Output::Respond(response, flow)]);
        let (package, event_id, lifetime) = match self.asked(request) {
            Ok(asked) => asked,
            Err(response) => return refuse(*response),
        };
        let token = Token { vnode: self.vnode, call: id, leg: LEG };
        let Ok(dialog) = Dialog::of_server(request, Text::from(token.to_string()), flow.contact(&token), flow) else {
            return refuse(stateless(request, StatusCode::BAD_REQUEST));
        };
        let (call_id, remote_tag) = (dialog.call_id.clone(), dialog.remote_tag.clone());
        let is_same = |known: &Subscription| {
            known.dialog.call_id == call_id && known.dialog.remote_tag == remote_tag && known.package == package
        };
        if is_too_long(&dialog, event_id.as_ref()) {
            return refuse(stateless(request, StatusCode::MESSAGE_TOO_LARGE));
        }
        if let Some(known) = self.state.subscriptions.iter().find(|known| is_same(known))
            && known.dialog.remote_cseq == dialog.remote_cseq
        {
            // The same SUBSCRIBE again, its 200 lost.
            return refuse(accepted(request, known, now));
        }
        let subscription = Subscription { id, dialog, package, event_id, expires: now + lifetime, phone };
        let answer = Output::Respond(accepted(request, &subscription, now), flow);
        if lifetime.is_zero() {
            // RFC 6665 §4.4.3: it wants to know once.
            if self.subscriptions().len() >= self.state.subscriptions.len() + MAX_LAST {
                return Step::free(refused(request, flow));
            }
            self.say_last(subscription, "timeout", sources, now);
            return Step::free(vec![answer]);
        }
        let watcher = |own: &Subscription| own.phone.as_ref().map(|phone| phone.aor.clone());
        let others = || self.state.subscriptions.iter().filter(|known| !is_same(known));
        let of_it = others().filter(|known| watcher(known) == watcher(&subscription)).count();
        // Nobody takes a user's places for itself.
        let own = watcher(&subscription).as_ref() == Some(sources.aor);
        if of_it >= MAX_OF_A_WATCHER || (!own && others().count() >= MAX_SUBSCRIPTIONS) {
            return refuse(stateless(request, StatusCode::FORBIDDEN));
        }
        // A phone that has forgotten its dialog begins another by the same name.
        self.state.subscriptions.retain(|known| !is_same(known));
        self.state.subscriptions.push(subscription);
        self.say(id, sources, now);
        self.put(vec![answer], refused(request, flow))
    }

    fn within(&mut self, id: CallId, request: &Request, flow: Flow, sources: Sources<'_>, now: Timestamp) -> Step {
        let refuse = |response| Step::free(vec![Output::Respond(response, flow)]);
        let known = self.state.subscriptions.iter().position(|known| known.id == id && known.dialog.is_from_peer(request));
        let Some(at) = known else { return refuse(stateless(request, StatusCode::from(DialogError::NotOurs))) };
        if request.method != Method::Subscribe {
            return refuse(stateless(request, StatusCode::METHOD_NOT_ALLOWED).with(Name::Allow, "SUBSCRIBE"));
        }
        let known = &self.state.subscriptions[at];
        if request.headers.cseq().is_ok_and(|cseq| known.dialog.remote_cseq == Some(cseq.number)) {
            return refuse(accepted(request, known, now));
        }
        let (package, _, lifetime) = match self.asked(request) {
            Ok(asked) => asked,
            Err(response) => return refuse(*response),
        };
        if package != known.package {
            return refuse(stateless(request, StatusCode::BAD_EVENT).with(Name::AllowEvents, known.package.name()));
        }
        let known = &mut self.state.subscriptions[at];
        if let Err(error) = known.dialog.accept(request) {
            return refuse(stateless(request, StatusCode::from(error)));
        }
        // It may have come back by another connection.
        known.dialog.flow = flow;
        known.dialog.contact = flow.contact(&Token { vnode: self.vnode, call: id, leg: LEG });
        known.dialog.retarget(&request.headers);
        if is_too_long(&known.dialog, None) {
            self.state.clone_from(&self.committed);
            return refuse(stateless(request, StatusCode::MESSAGE_TOO_LARGE));
        }
        known.expires = now + lifetime;
        let answer = Output::Respond(accepted(request, known, now), flow);
        if lifetime.is_zero() {
            let subscription = self.state.subscriptions.remove(at);
            self.say_last(subscription, "timeout", sources, now);
        } else {
            // RFC 6665 §4.2.1.2: each SUBSCRIBE is told how things are.
            self.open.retain(|open| open.subscription.id != id);
            self.say(id, sources, now);
        }
        self.put(vec![answer], refused(request, flow))
    }

    /// What a SUBSCRIBE wants, and for how long; the error is what it is answered.
    fn asked(&self, request: &Request) -> Result<(Package, Option<Text>, Duration), Box<Response>> {
        let refuse = |status| stateless(request, status);
        let (package, event_id) =
            event_of(&request.headers).ok_or_else(|| refuse(StatusCode::BAD_EVENT).with(Name::AllowEvents, ALLOW_EVENTS))?;
        if !accepts(&request.headers, package) {
            return Err(Box::new(refuse(StatusCode::NOT_ACCEPTABLE)));
        }
        let asked = request.headers.number(&Name::Expires, "Expires").map_err(|_| refuse(StatusCode::BAD_REQUEST))?;
        let lifetime = self
            .lifetimes
            .grant(asked)
            .map_err(|least| refuse(StatusCode::INTERVAL_TOO_BRIEF).with(Name::MinExpires, least.as_secs().to_string()))?;
        Ok((package, event_id, lifetime))
    }

    // --- PUBLISH, and whatever else changes ---

    fn publish(&mut self, request: &Request, flow: Flow, tag: u64, sources: Sources<'_>, now: Timestamp) -> Step {
        let before = self.state.publications.clone();
        match publish(&mut self.state, request, self.lifetimes, tag, now) {
            Err(error) => Step::free(vec![Output::Respond(error.response(request), flow)]),
            Ok((response, changed)) => {
                if let Some(package) = changed {
                    self.say_to_all(&BTreeSet::from([package]), sources, now);
                }
                let answer = vec![Output::Respond(response, flow)];
                if self.state.publications == before { Step::free(answer) } else { self.put(answer, refused(request, flow)) }
            }
        }
    }

    fn changed(&mut self, packages: &BTreeSet<Package>, sources: Sources<'_>, now: Timestamp) -> Step {
        self.say_to_all(packages, sources, now);
        self.put_if_changed()
    }

    fn timeout(&mut self, sources: Sources<'_>, now: Timestamp) -> Step {
        let mut then = Vec::new();
        let mut over = Vec::new();
        for open in &mut self.open {
            let id = open.subscription.id;
            if let Some((at, pause)) = open.looks.filter(|(at, _)| *at <= now) {
                open.looks = Some((at.max(now) + pause, SELDOM.min(pause * 2)));
                let Subscription { phone, dialog, .. } = &open.subscription;
                then.extend(phone.clone().map(|phone| Output::Look(id, phone, dialog.flow, dialog.remote_target.clone())));
            }
            let mut outputs = Vec::new();
            open.client.handle(ClientInput::Timeout, now, &mut outputs);
            for output in outputs {
                match output {
                    ClientOutput::Terminated(Cause::NoResponse | Cause::NoAck) => over.push(id),
                    ClientOutput::Terminated(Cause::Done) => {}
                    ClientOutput::Send(_) | ClientOutput::Deliver(_) => {
                        then.extend(send(id, open.subscription.dialog.flow, output))
                    }
                }
            }
        }
        for id in over {
            // RFC 6665 §4.2.2: who doesn't answer is not there.
            self.drop_watcher(id);
        }
        if self.not_before.is_some_and(|earliest| now < earliest) {
            return Step::free(then);
        }
        self.not_before = None;
        for open in self.open.extract_if(.., |open| open.again.is_some_and(|at| at <= now)) {
            self.behind.insert(open.subscription.id);
        }
        let ended = |at: &Timestamp| *at <= now;
        for subscription in self.state.subscriptions.extract_if(.., |own| ended(&own.expires)).collect::<Vec<_>>() {
            self.say_last(subscription, "timeout", sources, now);
        }
        let gone = self.state.publications.extract_if(.., |own| ended(&own.expires)).map(|own| own.package).collect();
        self.say_to_all(&gone, sources, now);
        for id in std::mem::take(&mut self.behind) {
            self.say(id, sources, now);
        }
        // What was late may be in the record by now: this takes it out again.
        if self.state == self.committed && !self.doubtful { Step::free(then) } else { self.put(then, Vec::new()) }
    }

    // --- NOTIFY ---

    fn say_to_all(&mut self, packages: &BTreeSet<Package>, sources: Sources<'_>, now: Timestamp) {
        let watching = self.state.subscriptions.iter().filter(|own| packages.contains(&own.package));
        let watching: Vec<CallId> = watching.map(|own| own.id).collect();
        if self.not_before.is_some_and(|earliest| now < earliest) {
            self.behind.extend(watching);
            return;
        }
        for id in watching {
            self.say(id, sources, now);
        }
    }

    /// Tells a watcher how things are, as soon as it has answered the last that it was told.
    fn say(&mut self, id: CallId, sources: Sources<'_>, now: Timestamp) {
        if self.open.iter().any(|open| open.subscription.id == id) {
            self.behind.insert(id);
            return;
        }
        let Some(at) = self.state.subscriptions.iter().position(|own| own.id == id) else { return };
        let left = self.state.subscriptions[at].expires.since(now).as_millis().div_ceil(1000);
        let mut subscription = self.state.subscriptions[at].clone();
        let request = self.notify(&mut subscription, &format!("active;expires={left}"), sources, now);
        self.state.subscriptions[at].dialog.local_cseq = subscription.dialog.local_cseq;
        self.prepared.retain(|(prepared, _)| prepared.id != id);
        self.prepared.push((subscription, request));
    }

    /// Tells a watcher that is one no longer how things are (RFC 6665 §4.4.1).
    fn say_last(&mut self, mut subscription: Subscription, reason: &str, sources: Sources<'_>, now: Timestamp) {
        let request = self.notify(&mut subscription, &format!("terminated;reason={reason}"), sources, now);
        self.behind.remove(&subscription.id);
        self.prepared.push((subscription, request));
    }

    fn notify(&mut self, subscription: &mut Subscription, state: &str, sources: Sources<'_>, now: Timestamp) -> Request {
        let Subscription { id, dialog, package, event_id, .. } = subscription;
        let mut request = dialog.request(Method::Notify);
        self.branches += 1;
        let token = Token { vnode: self.vnode, call: *id, leg: LEG };
        request.headers.push_front(Name::Via, dialog.flow.via(&token.branch(self.incarnation, self.branches)));
        let event_id = event_id.as_ref().map(|id| format!(";id={id}")).unwrap_or_default();
        request.headers.push_text(Name::Event, format!("{}{event_id}", package.name()));
        request.headers.push_text(Name::SubscriptionState, state);
        request.headers.push_text(Name::ContentType, package.content_type());
        request.body = document(*package, &self.state, sources, dialog.local_cseq - 1, now);
        request
    }

    fn client(&mut self, id: CallId, input: ClientInput, sources: Sources<'_>, now: Timestamp) -> Step {
        let Some(at) = self.open.iter().position(|open| open.subscription.id == id) else { return Step::default() };
        if let ClientInput::Received(response) = &input
            && response.headers.cseq().ok() != self.open[at].client.request().headers.cseq().ok()
        {
            // To one that was overtaken.
            return Step::default();
        }
        let mut outputs = Vec::new();
        self.open[at].client.handle(input, now, &mut outputs);
        let answer = outputs.into_iter().find_map(|output| match output {
            ClientOutput::Deliver(response) if response.status.is_final() => Some(response),
            ClientOutput::Deliver(_) | ClientOutput::Send(_) | ClientOutput::Terminated(_) => None,
        });
        let Some(answer) = answer else { return Step::default() };
        // Who doesn't know it wants nothing later either.
        let gone = answer.status == StatusCode::CALL_DOES_NOT_EXIST;
        let later = answer.headers.text(&Name::RetryAfter).and_then(|text| text.split([' ', ';', '(']).next()?.parse().ok());
        match (answer.status.class(), later.map(Duration::from_secs).filter(|_| !gone)) {
            (Class::Success, _) => {
                self.open.remove(at);
                if self.behind.remove(&id) {
                    self.say(id, sources, now);
                }
            }
            (_, Some(later)) => {
                let open = &mut self.open[at];
                (open.looks, open.again) = (None, Some(now + later.clamp(COMMIT_AGAIN, LATER)));
            }
            (_, None) => self.drop_watcher(id),
        }
        self.put_if_changed()
    }

    /// RFC 6665 §4.2.2: who refuses a NOTIFY, or doesn't answer it, watches no more.
    fn drop_watcher(&mut self, id: CallId) {
        self.open.retain(|open| open.subscription.id != id);
        self.behind.remove(&id);
        self.state.subscriptions.retain(|own| own.id != id);
    }

    fn unsent(&mut self, id: CallId) -> Step {
        let is_watched = self.state.subscriptions.iter().any(|own| own.id == id);
        let Some(at) = self.open.iter().position(|open| open.subscription.id == id) else { return Step::default() };
        let open = &self.open[at];
        if !open.subscription.dialog.flow.transport.is_reliable() || (is_watched && open.looks.is_some()) {
            return Step::default();
        }
        // Nobody would know where to.
        self.drop_watcher(id);
        self.put_if_changed()
    }

    fn back(&mut self, id: CallId, flow: Option<Flow>, sources: Sources<'_>, now: Timestamp) -> Step {
        let waits = self.open.iter().position(|open| open.subscription.id == id && open.looks.is_some());
        let known = self.state.subscriptions.iter().position(|own| own.id == id);
        let (Some(waits), Some(known), Some(flow)) = (waits, known, flow) else { return Step::default() };
        self.open.remove(waits);
        self.behind.remove(&id);
        let dialog = &mut self.state.subscriptions[known].dialog;
        dialog.flow = flow;
        dialog.contact = flow.contact(&Token { vnode: self.vnode, call: id, leg: LEG });
        self.say(id, sources, now);
        self.put_if_changed()
    }

    /// It may have been lost on the way to the node that has the connection, where nothing is repeated.
    fn send_again(&self, id: CallId) -> Step {
        let open = self.open.iter().find(|open| open.subscription.id == id && open.looks.is_some());
        let send = |open: &OnItsWay| Output::Send(id, open.client.request().clone(), open.subscription.dialog.flow);
        Step::free(open.map(send).into_iter().collect())
    }

    /// RFC 6665 §4.1.3, rejected: the user is none any more.
    fn reject(&mut self, id: CallId, request: &Request, flow: Flow, sources: Sources<'_>, now: Timestamp) -> Step {
        let Some(at) = self.state.subscriptions.iter().position(|own| own.id == id) else { return Step::default() };
        let subscription = self.state.subscriptions.remove(at);
        self.say_last(subscription, "rejected", sources, now);
        self.put(vec![Output::Respond(stateless(request, StatusCode::FORBIDDEN), flow)], refused(request, flow))
    }

    // --- steps ---

    fn put(&self, then: Vec<Output>, otherwise: Vec<Output>) -> Step {
        Step::promise(self.state.clone(), then).or_else(otherwise)
    }

    fn put_if_changed(&self) -> Step {
        if self.state == self.committed { Step::default() } else { self.put(Vec::new(), Vec::new()) }
    }
}

/// Whether there is too much to keep of what a phone says of itself.
fn is_too_long(dialog: &Dialog, event_id: Option<&Text>) -> bool {
    let Dialog { call_id, local, remote, remote_target, remote_tag, route_set, .. } = dialog;
    let texts = [call_id, local, remote, remote_target].into_iter().chain(remote_tag).chain(route_set).chain(event_id);
    texts.map(|text| text.len()).sum::<usize>() > MAX_DIALOG
}

fn send(id: CallId, flow: Flow, output: ClientOutput) -> Option<Output> {
    match output {
        ClientOutput::Send(request) => Some(Output::Send(id, request, flow)),
        ClientOutput::Deliver(_) | ClientOutput::Terminated(_) => None,
    }
}

/// What a SUBSCRIBE is answered that is, or has been, carried out.
fn accepted(request: &Request, subscription: &Subscription, now: Timestamp) -> Response {
    let Subscription { dialog, expires, .. } = subscription;
    let mut response = request.response(StatusCode::OK, Some(&dialog.local_tag));
    response.headers.copy(&request.headers, &Name::RecordRoute);
    response.headers.push_text(Name::Contact, format!("<{}>", dialog.contact));
    response.headers.push_text(Name::Expires, expires.since(now).as_millis().div_ceil(1000).to_string());
    response.headers.push_text(Name::AllowEvents, ALLOW_EVENTS);
    response
}

/// What is said when there is no commit.
fn refused(request: &Request, flow: Flow) -> Vec<Output> {
    vec![Output::Respond(stateless(request, StatusCode::SERVICE_UNAVAILABLE).with(Name::RetryAfter, "5"), flow)]
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
