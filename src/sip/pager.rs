//! A MESSAGE outside of calls on its way to the phones of its user (RFC 3428). Layer: pure.
//!
//! Each phone of the user gets it once, by one of its flows; whoever takes it first answers for all. Nothing of it is kept: its sender
//! repeats it until it is answered, so that a phone may see it twice when an owner dies.

use std::time::Duration;

use super::b2bua::Target;
use super::dialog::{Flow, without_tag};
use super::identity::{Identity, is_private};
use super::locate::SILENT;
use super::message::{Headers, Request, Response};
use super::registrar::Phone;
use super::status::Class;
use super::token::Token;
use super::transaction::{Client, ClientInput, ClientOutput, Server, ServerInput, ServerOutput, Timers};
use super::{Method, Name, StatusCode};
use crate::clock::Timestamp;
use crate::ids::{CallId, LegId, VnodeId};

/// Legs of pages are numbered from here on, those of calls never get so far.
pub const FIRST_LEG: u8 = 128;
/// So many phones get it at most.
const MAX_LEGS: usize = 24;
/// RFC 4320 §4.2: a sender that has no answer when it asks every four seconds is told to go on waiting,
const TRYING: Duration = Duration::from_millis(3500);
/// and is told the end before it has given up by itself (§4.1: with anything but 408).
const GIVE_UP: Duration = Duration::from_secs(20);
/// How often it is tried whether a phone has come back whose connection has ended, and how long.
const AGAIN: Duration = Duration::from_millis(250);
const COMES_BACK: Duration = Duration::from_secs(5);

/// What the shell must do, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PageOutput {
    /// Send to a phone; if that isn't possible, say so ([`Page::unsent`]).
    Send(LegId, Request, Flow),
    /// Answer the sender.
    Respond(Response, Flow),
    /// See whether this phone has come back by another flow, and go on ([`Page::again`]).
    Look(LegId, Target),
}

/// Who sends what to whom.
#[derive(Debug)]
pub struct NewPage {
    /// A name of its own: 128 random bits.
    pub id: CallId,
    /// Where it came in.
    pub vnode: VnodeId,
    /// The MESSAGE.
    pub request: Request,
    /// How it came.
    pub from: Flow,
    /// Who gets it: one at least, the newest binding first.
    pub targets: Vec<Target>,
    /// The user whose phone sent it.
    pub user: String,
    /// It is of a peer whose word on who sends it is taken.
    pub trusted: bool,
}

/// One MESSAGE.
#[derive(Debug)]
pub struct Page {
    new: NewPage,
    incarnation: u32,
    timers: Timers,
    begun: Timestamp,
    server: Server,
    legs: Vec<PageLeg>,
    refusals: Vec<StatusCode>,
    told_to_wait: bool,
}

#[derive(Debug)]
struct PageLeg {
    id: LegId,
    target: Target,
    client: Client,
    /// Its connection has ended: when it is looked for again.
    waits: Option<Timestamp>,
    /// When that was noticed first.
    lost: Option<Timestamp>,
    /// A server that must say something until then: another waits.
    speaks_by: Option<Timestamp>,
    /// It has said something final, or never will.
    done: bool,
}

impl Page {
    /// Sends it. `incarnation` is random, as in [`super::b2bua::Call::new`].
    pub fn new(new: NewPage, incarnation: u32, timers: Timers, now: Timestamp, out: &mut Vec<PageOutput>) -> Self {
        let server = Server::new(new.from.transport.is_reliable(), timers);
        let (legs, refusals) = (Vec::new(), Vec::new());
        let mut this = Self { new, incarnation, timers, begun: now, server, legs, refusals, told_to_wait: false };
        let mut at = 0;
        while let Some(target) = this.new.targets.get(at) {
            // RFC 5626 §7: one flow a phone. Another is for when that one leads nowhere.
            if this.legs.len() == MAX_LEGS || this.legs.iter().any(|leg| is_same(&leg.target, target)) {
                at += 1;
            } else {
                let target = this.new.targets.remove(at);
                this.send(target, now, out);
            }
        }
        this
    }

    /// Whether its sender has no answer yet.
    pub fn is_open(&self) -> bool {
        self.server.is_open()
    }

    /// Its sender says it again.
    pub fn repeated(&mut self, now: Timestamp, out: &mut Vec<PageOutput>) {
        self.serve(ServerInput::Retransmit, now, out);
    }

    /// A phone answers.
    pub fn response(&mut self, leg: LegId, response: Response, now: Timestamp, out: &mut Vec<PageOutput>) {
        self.client(leg, ClientInput::Received(response), now, out);
    }

    /// What was to be sent to a phone could not be.
    pub fn unsent(&mut self, leg: LegId, now: Timestamp) {
        if let Some(leg) = self.legs.iter_mut().find(|own| own.id == leg && own.target.flow.transport.is_reliable()) {
            leg.lost.get_or_insert(now);
            leg.waits = Some(now + AGAIN);
        }
    }

    /// A phone whose connection has ended may be reached by this flow now.
    pub fn again(&mut self, leg: LegId, flow: Option<Flow>, now: Timestamp, out: &mut Vec<PageOutput>) {
        let Some(at) = self.legs.iter().position(|own| own.id == leg && own.waits.is_some() && !own.done) else { return };
        let Some(flow) = flow else { return self.unsent(leg, now) };
        self.legs[at].target.flow = flow;
        self.legs[at].waits = None;
        let request = self.request_for(leg, &self.legs[at].target);
        let mut outputs = Vec::new();
        self.legs[at].client = Client::start(request, flow.transport.is_reliable(), self.timers, now, &mut outputs);
        // Where it fails again that is said again.
        self.performed(leg, outputs, now, out);
    }

    /// When [`Self::timeout`] is due; none when it is over.
    pub fn deadline(&self) -> Option<Timestamp> {
        let open = self.server.is_open();
        let trying = Some(self.begun + TRYING).filter(|_| open && !self.told_to_wait);
        let give_up = Some(self.begun + GIVE_UP).filter(|_| open);
        let legs = self.legs.iter().flat_map(|leg| [leg.client.deadline(), leg.waits.or(leg.speaks_by).filter(|_| !leg.done)]);
        legs.chain([self.server.deadline(), trying, give_up]).flatten().min()
    }

    /// Time has passed.
    pub fn timeout(&mut self, now: Timestamp, out: &mut Vec<PageOutput>) {
        for leg in self.legs.iter().map(|leg| leg.id).collect::<Vec<_>>() {
            self.client(leg, ClientInput::Timeout, now, out);
        }
        for at in 0..self.legs.len() {
            let PageLeg { id, waits: Some(next), lost: Some(lost), done: false, .. } = self.legs[at] else { continue };
            if now.since(lost) >= COMES_BACK {
                self.legs[at].waits = None;
                self.answered(id, StatusCode::FLOW_FAILED, now, out);
            } else if now >= next {
                let PageLeg { target, waits, .. } = &mut self.legs[at];
                *waits = Some(now + AGAIN);
                out.push(PageOutput::Look(id, target.clone()));
            }
        }
        for at in 0..self.legs.len() {
            let PageLeg { id, speaks_by, done, .. } = &mut self.legs[at];
            if !*done && speaks_by.take_if(|by| *by <= now).is_some() {
                let id = *id;
                self.answered(id, StatusCode::REQUEST_TIMEOUT, now, out);
            }
        }
        self.serve(ServerInput::Timeout, now, out);
        let waited = now.since(self.begun);
        if self.server.is_open() && waited >= GIVE_UP {
            self.respond(self.best_refusal(), now, out);
        } else if self.server.is_open() && waited >= TRYING && !self.told_to_wait {
            self.told_to_wait = true;
            self.respond(StatusCode::TRYING, now, out);
        }
    }

    fn send(&mut self, target: Target, now: Timestamp, out: &mut Vec<PageOutput>) {
        let number = FIRST_LEG + u8::try_from(self.legs.len()).unwrap_or(u8::MAX - FIRST_LEG);
        let id = LegId(number);
        let mut outputs = Vec::new();
        let reliable = target.flow.transport.is_reliable();
        let client = Client::start(self.request_for(id, &target), reliable, self.timers, now, &mut outputs);
        let another = self.new.targets.iter().any(|other| is_same(&target, other));
        let elsewhere = target.phone.as_ref().is_some_and(Phone::is_elsewhere);
        let speaks_by = Some(now + SILENT).filter(|_| another && elsewhere);
        self.legs.push(PageLeg { id, target, client, waits: None, lost: None, speaks_by, done: false });
        self.performed(id, outputs, now, out);
    }

    fn client(&mut self, leg: LegId, input: ClientInput, now: Timestamp, out: &mut Vec<PageOutput>) {
        let mut outputs = Vec::new();
        if let Some(leg) = self.legs.iter_mut().find(|own| own.id == leg) {
            leg.client.handle(input, now, &mut outputs);
        }
        self.performed(leg, outputs, now, out);
    }

    fn performed(&mut self, leg: LegId, outputs: Vec<ClientOutput>, now: Timestamp, out: &mut Vec<PageOutput>) {
        for output in outputs {
            match output {
                ClientOutput::Send(request) => {
                    let flow = self.legs.iter().find(|own| own.id == leg).map(|own| own.target.flow);
                    out.extend(flow.map(|flow| PageOutput::Send(leg, request, flow)));
                }
                ClientOutput::Deliver(response) => self.answered(leg, response.status, now, out),
                ClientOutput::Terminated(_) => self.answered(leg, StatusCode::REQUEST_TIMEOUT, now, out),
            }
        }
    }

    fn answered(&mut self, leg: LegId, status: StatusCode, now: Timestamp, out: &mut Vec<PageOutput>) {
        let Some(own) = self.legs.iter_mut().find(|own| own.id == leg && !own.done).filter(|_| status.is_final()) else { return };
        own.done = true;
        if status.class() == Class::Success {
            return self.respond(status, now, out);
        }
        self.refusals.push(status);
        // RFC 3263 §4.3: of another domain the next server may take it.
        let elsewhere = own.target.phone.as_ref().is_some_and(Phone::is_elsewhere);
        let nowhere = [StatusCode::REQUEST_TIMEOUT, StatusCode::FLOW_FAILED].contains(&status)
            || elsewhere && status == StatusCode::SERVICE_UNAVAILABLE;
        let other = self.new.targets.iter().position(|target| nowhere && is_same(&own.target, target));
        if let Some(other) = other.filter(|_| self.legs.len() < MAX_LEGS && self.server.is_open()) {
            let target = self.new.targets.remove(other);
            self.send(target, now, out);
        } else if self.legs.iter().all(|leg| leg.done) {
            self.respond(self.best_refusal(), now, out);
        }
    }

    fn respond(&mut self, status: StatusCode, now: Timestamp, out: &mut Vec<PageOutput>) {
        let tag = self.new.id.to_string();
        let tag = Some(&*tag).filter(|_| status != StatusCode::TRYING);
        let response = self.new.request.response(status, tag);
        self.serve(ServerInput::Respond(response), now, out);
    }

    fn serve(&mut self, input: ServerInput, now: Timestamp, out: &mut Vec<PageOutput>) {
        let mut outputs = Vec::new();
        self.server.handle(input, now, &mut outputs);
        for output in outputs {
            match output {
                ServerOutput::Send(response) => out.push(PageOutput::Respond(response, self.new.from)),
                ServerOutput::Terminated(_) => {}
            }
        }
    }

    /// What a phone gets.
    fn request_for(&self, leg: LegId, target: &Target) -> Request {
        let NewPage { id, vnode, request, user, trusted, .. } = &self.new;
        let token = Token { vnode: *vnode, call: *id, leg };
        let came = &request.headers;
        let identity = Identity::of(request, user, *trusted);
        let from = identity.from.or_else(|| came.from().ok().map(|from| without_tag(&from))).unwrap_or_default();
        let to = came.to().map(|to| without_tag(&to)).unwrap_or_default();
        let hops = came.max_forwards().unwrap_or(70).saturating_sub(1);
        let mut headers = Headers::with_capacity(16);
        let branch = token.branch(self.incarnation, 1);
        headers.push_text(Name::Via, target.flow.via(&branch));
        for route in &target.path {
            headers.push_text(Name::Route, route);
        }
        headers.push_text(Name::MaxForwards, hops.to_string());
        headers.push_text(Name::From, format!("{from};tag={token}"));
        headers.push_text(Name::To, &to);
        headers.push_text(Name::CallId, format!("{id}.{}", leg.0));
        headers.push_text(Name::CSeq, "1 MESSAGE");
        if let Some(asserted) = &identity.asserted {
            headers.push_text(Name::PAssertedIdentity, asserted);
        }
        let private = is_private(came);
        for (name, value) in came.iter() {
            let of_the_body = matches!(name, Name::ContentType | Name::ContentEncoding | Name::ContentDisposition);
            // RFC 3323 §4.1: it may tell who it is.
            let speaks_of_another = *name == Name::InReplyTo && !private;
            if of_the_body || speaks_of_another || matches!(name, Name::Date | Name::Privacy) {
                headers.push(name.clone(), value.clone());
            }
        }
        Request { method: Method::Message, uri: target.contact.clone(), headers, body: request.body.clone() }
    }

    /// RFC 3261 §16.7 step 6, and nothing that asks the sender for more: what a phone asks us for is not the sender's to give. Nor that
    /// nobody has answered (RFC 4320 §4.1).
    fn best_refusal(&self) -> StatusCode {
        let rank = |status: &StatusCode| match status.code() {
            600.. => 0,
            300..=399 | 401 | 407 | 408 | 430 => 5,
            415 | 420 | 484 | 488 => 1,
            400..=499 => 2,
            _ => 3,
        };
        let best = self.refusals.iter().copied().min_by_key(rank);
        best.filter(|status| rank(status) < 5).unwrap_or(StatusCode::TEMPORARILY_UNAVAILABLE)
    }
}

/// Whether two bindings are of one phone.
fn is_same(one: &Target, other: &Target) -> bool {
    let [one, other] = [one, other].map(|target| target.phone.as_ref().filter(|phone| phone.instance.is_some()));
    one.is_some() && one == other
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Aor;
    use crate::sip::headers::Transport;
    use crate::sip::message::Message;
    use crate::sip::parse;

    const BEGIN: Timestamp = Timestamp(1000);

    fn flow(transport: Transport, port: u16) -> Flow {
        let (local, remote) = ("192.0.2.1:5060".parse().unwrap(), ([192, 0, 2, 7], port).into());
        Flow { vnode: VnodeId(2), transport, local, remote, connection: u32::from(port) }
    }

    fn target(instance: &str, flow: Flow) -> Target {
        let phone = Phone { aor: Aor::new("b", "x"), instance: Some(instance.into()) };
        Target {
            contact: "sip:b@192.0.2.7".into(),
            path: vec!["<sip:p;lr>".into()],
            flow,
            long: None,
            phone: Some(phone),
            q: 1000,
            replaces: None,
        }
    }

    fn page(targets: Vec<Target>) -> (Page, Vec<PageOutput>) {
        let text = "MESSAGE sip:b@x SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK1\r\nMax-Forwards: 9\r\nFrom: \"A\" <sip:1001@x>;tag=1\r\n\
                    To: <sip:b@x>\r\nCall-ID: c\r\nCSeq: 4 MESSAGE\r\nP-Asserted-Identity: <sip:boss@x>\r\nContent-Type: text/plain\r\n\
                    Content-Length: 2\r\n\r\nhi";
        let Ok(Message::Request(request)) = parse::datagram(&text.into()) else { unreachable!() };
        let from = flow(Transport::Udp, 9);
        let new = NewPage { id: CallId(7), vnode: VnodeId(2), request, from, targets, user: "1001@x".into(), trusted: false };
        let mut out = Vec::new();
        let page = Page::new(new, 5, Timers::RFC, BEGIN, &mut out);
        (page, out)
    }

    fn sent(out: &[PageOutput]) -> Vec<(LegId, Request, Flow)> {
        let sent = out.iter().filter_map(|output| match output {
            PageOutput::Send(leg, request, flow) => Some((*leg, request.clone(), *flow)),
            PageOutput::Respond(..) | PageOutput::Look(..) => None,
        });
        sent.collect()
    }

    fn told(out: &[PageOutput]) -> Vec<u16> {
        let told = out.iter().filter_map(|output| match output {
            PageOutput::Respond(response, _) => Some(response.status.code()),
            PageOutput::Send(..) | PageOutput::Look(..) => None,
        });
        told.collect()
    }

    fn run(page: &mut Page, until: Timestamp) -> Vec<PageOutput> {
        let mut out = Vec::new();
        while let Some(at) = page.deadline().filter(|at| *at <= until) {
            page.timeout(at, &mut out);
        }
        out
    }

    /// RFC 3263 §4.3.
    #[test]
    fn the_next_server_of_a_domain_has_its_turn() {
        let server =
            |port| Target { phone: Some(Phone::elsewhere(Aor::new("b", "y"))), ..target("", flow(Transport::Udp, port)) };
        let (mut page, out) = page(vec![server(1), server(2), server(3)]);
        let first = sent(&out);
        assert_eq!(first.len(), 1, "one after the other");
        let mut out = Vec::new();
        page.response(first[0].0, first[0].1.response(StatusCode::SERVICE_UNAVAILABLE, None), BEGIN, &mut out);
        assert_eq!(sent(&out).iter().map(|(.., flow)| flow.remote.port()).collect::<Vec<_>>(), [2]);
        // The second says nothing.
        let due = BEGIN + SILENT;
        let mut out = Vec::new();
        while let Some(at) = page.deadline().filter(|at| *at <= due) {
            page.timeout(at, &mut out);
        }
        assert_eq!(sent(&out).last().unwrap().2.remote.port(), 3);
    }

    #[test]
    fn a_phone_gets_it_from_who_has_proved_to_send_it() {
        let (_, out) = page(vec![target("1", flow(Transport::Udp, 5060))]);
        let [(_, sent, _)] = &sent(&out)[..] else { panic!("{out:?}") };
        assert_eq!((&*sent.uri, &sent.body[..]), ("sip:b@192.0.2.7", &b"hi"[..]));
        let header = |name: Name| sent.headers.text(&name).unwrap().to_string();
        assert_eq!(header(Name::PAssertedIdentity), "<sip:1001@x>");
        assert_eq!((header(Name::MaxForwards), header(Name::Route)), ("8".to_owned(), "<sip:p;lr>".to_owned()));
        assert!(header(Name::From).starts_with("\"A\" <sip:1001@x>;tag=t"), "{}", header(Name::From));
        let branch = sent.headers.top_via().unwrap().branch().and_then(Token::from_branch);
        assert_eq!(branch, Some(Token { vnode: VnodeId(2), call: CallId(7), leg: LegId(FIRST_LEG) }));
    }

    #[test]
    fn the_first_who_takes_it_answers_for_all() {
        for (answers, expected) in [
            (vec![(0, 486), (1, 200)], vec![200]),
            (vec![(1, 202), (0, 200)], vec![202]),
            (vec![(0, 415), (1, 486)], vec![415]),
            (vec![(0, 401), (1, 302)], vec![480]),
            (vec![(0, 100), (0, 200)], vec![200]),
        ] {
            let (mut page, out) = page(["1", "2"].map(|phone| target(phone, flow(Transport::Udp, 5060))).to_vec());
            let sent = sent(&out);
            let mut out = Vec::new();
            for (phone, code) in &answers {
                let (leg, request, _) = &sent[*phone];
                page.response(*leg, request.response(StatusCode::new(*code).unwrap(), Some("t")), BEGIN, &mut out);
            }
            assert_eq!(told(&out), expected, "{answers:?}");
            out.clear();
            page.repeated(BEGIN, &mut out);
            assert_eq!(told(&out), expected, "said again");
            run(&mut page, BEGIN + Duration::from_secs(60));
            assert_eq!(page.deadline(), None, "it is over");
        }
    }

    #[test]
    fn a_sender_whom_nobody_answers_is_told_to_wait_and_then_the_end() {
        let (mut page, _) = page(vec![target("1", flow(Transport::Udp, 5060))]);
        assert_eq!(told(&run(&mut page, BEGIN + Duration::from_millis(3499))), Vec::<u16>::new());
        assert_eq!(told(&run(&mut page, BEGIN + TRYING)), [100]);
        assert_eq!(told(&run(&mut page, BEGIN + GIVE_UP)), [480]);
        run(&mut page, BEGIN + Duration::from_secs(60));
        assert_eq!(page.deadline(), None, "it is over");
    }

    /// A phone with two flows gets it by one; when that has ended it is looked for, and when it doesn't come back the other is taken.
    #[test]
    fn a_phone_gets_it_by_one_flow() {
        let [tcp, other, third] = [1, 2, 3].map(|port| flow(Transport::Tcp, port));
        let (mut page, out) = page(vec![target("1", tcp), target("1", other)]);
        let [(leg, _, by)] = sent(&out)[..] else { panic!("{out:?}") };
        assert_eq!(by, tcp);
        page.unsent(leg, BEGIN);
        let out = run(&mut page, BEGIN + AGAIN);
        assert!(matches!(&out[..], [PageOutput::Look(looked, target)] if (*looked, target.flow) == (leg, tcp)), "{out:?}");
        let mut back = Vec::new();
        page.again(leg, Some(third), BEGIN + AGAIN, &mut back);
        assert_eq!(sent(&back)[0].2, third);
        page.unsent(leg, BEGIN + AGAIN);
        let out = run(&mut page, BEGIN + COMES_BACK + AGAIN);
        assert_eq!(sent(&out).iter().map(|(_, _, flow)| *flow).collect::<Vec<_>>(), [other]);
        let (leg, request, _) = sent(&out).remove(0);
        let mut out = Vec::new();
        page.response(leg, request.response(StatusCode::OK, Some("t")), BEGIN + COMES_BACK, &mut out);
        assert_eq!(told(&out), [200]);
        run(&mut page, BEGIN + Duration::from_secs(60));
        assert_eq!(page.deadline(), None, "it is over");
    }
}
