//! A phone: it repeats its requests until they are answered and its final answers to INVITEs until they are acknowledged
//! (RFC 3261 §17, §13.3.1.4), and answers what comes twice as it did the first time.

use std::time::Duration;

use bytes::Bytes;
use tandem::clock::Timestamp;
use tandem::sip::leg::TxKey;
use tandem::sip::status::Class;
use tandem::sip::transaction::Timers;
use tandem::sip::{Message, Method, Name, Request, Response, StatusCode, Text, parse};

/// The shortest talk: a side whose every copy of a 200 or an ACK is lost has had time to get one.
const TALK: Duration = Duration::from_secs(10);

/// Something that is sent again until something comes back.
#[derive(Debug, Clone)]
struct Repeated<T> {
    what: T,
    at: Timestamp,
    gap: Duration,
    until: Timestamp,
}

impl<T: Clone> Repeated<T> {
    fn new(what: T, now: Timestamp) -> Self {
        let Timers { t1, .. } = Timers::RFC;
        Self { what, at: now + t1, gap: t1, until: now + Timers::RFC.give_up() }
    }

    fn due(&mut self, now: Timestamp) -> Option<T> {
        (now >= self.at).then(|| {
            self.gap = (self.gap * 2).min(Timers::RFC.t2);
            self.at = now + self.gap;
            self.what.clone()
        })
    }
}

#[derive(Debug)]
pub struct Phone {
    name: &'static str,
    host: &'static str,
    now: Timestamp,
    /// Requests that wait for an answer.
    open: Vec<Repeated<Request>>,
    /// The final answer to an INVITE that waits for its ACK.
    answer: Option<Repeated<Response>>,
    /// Every request that was answered, with the answer.
    answered: Vec<(String, Response)>,
    /// The INVITE that called it.
    invite: Option<Request>,
    peer: Option<(Text, Text)>,
    out: Vec<Message>,
    /// It can say and hear provisional answers reliably (RFC 3262).
    pub reliable: bool,
    /// Its reliable answer that waits for its PRACK.
    progress: Option<Repeated<Response>>,
    /// The last number that it has acknowledged, or has had acknowledged.
    rseq: u32,
    /// The INVITE that called it had no offer: the answer to its own comes with the ACK.
    offers: bool,
    /// It came without.
    pub unanswered: bool,
    /// It knows how the other side describes itself.
    pub described: bool,
    /// It talks by a connection, on which nothing is lost while it lives.
    pub connected: bool,
    /// What it was told, in order.
    pub saw: Vec<String>,
    pub rings_at: Option<Timestamp>,
    /// It has talked.
    pub up: bool,
    up_at: Option<Timestamp>,
    /// It knows that the call is over.
    pub down: bool,
    /// Its INVITE is being worked on.
    proceeding: bool,
    /// It has sent CANCEL.
    cancelled: bool,
    hung_up: bool,
    pub gave_up: bool,
    pub distinct_invites: usize,
    /// The highest CSeq that came.
    highest: u32,
    /// A new request came with a number that was used.
    pub number_again: bool,
}

impl Phone {
    pub fn new(name: &'static str, host: &'static str, now: Timestamp) -> Self {
        Self {
            name,
            host,
            now,
            open: Vec::new(),
            answer: None,
            answered: Vec::new(),
            invite: None,
            peer: None,
            out: Vec::new(),
            reliable: false,
            progress: None,
            rseq: 0,
            offers: false,
            unanswered: false,
            described: false,
            connected: false,
            saw: Vec::new(),
            rings_at: None,
            up: false,
            up_at: None,
            down: false,
            proceeding: false,
            cancelled: false,
            hung_up: false,
            gave_up: false,
            distinct_invites: 0,
            highest: 0,
            number_again: false,
        }
    }

    /// What it sends.
    pub fn sent(&mut self) -> Vec<Message> {
        std::mem::take(&mut self.out)
    }

    pub fn is_quiet(&self) -> bool {
        self.open.is_empty() && self.answer.is_none() && self.progress.is_none()
    }

    // --- what its user does ---

    pub fn call(&mut self) {
        let mut invite = self.request("INVITE", 1, "offer");
        if self.reliable {
            invite.headers.push_text(Name::Supported, "100rel");
        }
        self.send(invite);
    }

    pub fn hold(&mut self) {
        let hold = self.request("INVITE", 2, "hold");
        self.send(hold);
    }

    /// The same by UPDATE (RFC 3311).
    pub fn update(&mut self) {
        let update = self.request("UPDATE", 2, "hold");
        self.send(update);
    }

    /// Offers something else while it rings (RFC 3311), if it may.
    pub fn update_early(&mut self) {
        if self.rseq > 0 && !self.up && self.open.is_empty() {
            let update = self.request("UPDATE", 5, "other");
            self.send(update);
        }
    }

    /// Sends the other side to another, if they talk.
    pub fn refer(&mut self) {
        if !self.down {
            let mut refer = self.request("REFER", 8, "");
            refer.headers.push_text(Name::ReferTo, "<sip:c@x>");
            self.send(refer);
        }
    }

    /// Cancels its call as soon as that is allowed (RFC 3261 §9.1), and once.
    pub fn cancel(&mut self) {
        if self.proceeding && !self.up && !self.down && !self.cancelled {
            self.cancelled = true;
            let mut cancel = self.request("CANCEL", 1, "");
            cancel.headers.replace_first(&Name::Via, self.via("INVITE", 1));
            self.send(cancel);
        }
    }

    /// Hangs up when it has talked for a while.
    pub fn hang_up(&mut self) {
        if self.up_at.is_some_and(|at| self.now.since(at) >= TALK) {
            self.hang_up_now();
        }
    }

    fn hang_up_now(&mut self) {
        if self.up && !self.down && !self.hung_up {
            self.hung_up = true;
            let bye = self.request("BYE", 10, "");
            self.send(bye);
        }
    }

    pub fn pick_up(&mut self, status: StatusCode) {
        // RFC 3262 §3: what it has described has to be heard first.
        if self.progress.is_some() {
            return;
        }
        let Some(invite) = self.invite.clone().filter(|_| self.rings_at.take().is_some()) else { return };
        let mut answer = if status == StatusCode::OK { ok(&invite, self.name) } else { invite.response(status, Some(self.name)) };
        if self.rseq > 0 {
            answer.body = Bytes::new();
        }
        (self.up, self.down) = (status == StatusCode::OK, status != StatusCode::OK);
        self.up_at = Some(self.now);
        self.answered.retain(|(key, _)| *key != key_of(&invite));
        self.answer_invite(&invite, answer);
    }

    // --- time ---

    pub fn tick(&mut self, now: Timestamp) {
        self.now = now;
        // RFC 3261 §17.1: over a connection requests are said once.
        if !self.connected {
            let requests: Vec<_> = self.open.iter_mut().filter_map(|open| open.due(now)).collect();
            self.out.extend(requests.into_iter().map(Message::Request));
        }
        let answer = self.answer.as_mut().and_then(|answer| answer.due(now));
        let progress = self.progress.as_mut().and_then(|progress| progress.due(now));
        self.out.extend(answer.into_iter().chain(progress).map(Message::Response));
        self.gave_up |= self.progress.as_ref().is_some_and(|progress| now >= progress.until);
        let before = self.open.len();
        self.open.retain(|open| now < open.until);
        self.gave_up |= self.open.len() < before;
        if self.answer.as_ref().is_some_and(|answer| now >= answer.until) {
            self.answer = None;
        }
    }

    /// Its connection had ended, and it has made another: what it waits for an answer to it says once more.
    pub fn reconnects(&mut self) {
        self.out.extend(self.open.iter().map(|open| Message::Request(open.what.clone())));
    }

    // --- what comes ---

    pub fn receive(&mut self, message: Message) {
        match message {
            Message::Request(request) => self.asked(&request),
            Message::Response(response) => self.told(&response),
        }
    }

    fn asked(&mut self, request: &Request) {
        let key = key_of(request);
        if let Some((_, response)) = self.answered.iter().find(|(own, _)| *own == key) {
            self.out.push(Message::Response(response.clone()));
            return;
        }
        self.saw.push(request.method.to_string());
        if !matches!(request.method, Method::Ack | Method::Cancel) {
            let number = request.headers.cseq().unwrap().number;
            self.number_again |= number <= self.highest;
            self.highest = self.highest.max(number);
        }
        match request.method {
            Method::Ack => {
                self.unanswered |= std::mem::take(&mut self.offers) && request.body.is_empty();
                self.answer = None;
            }
            Method::Invite if self.invite.is_none() && !self.up && !self.down => {
                self.distinct_invites += 1;
                self.offers = request.body.is_empty();
                self.rings_at = Some(self.now);
                let contact = request.headers.contacts().unwrap()[0].uri.to_string();
                self.peer = Some((contact.into(), request.headers.text(&Name::From).unwrap()));
                self.invite = Some(request.clone());
                let mut ringing = request.response(StatusCode::RINGING, Some(self.name)).with(Name::Contact, self.contact());
                if self.reliable && request.headers.list(&Name::Supported).any(|tag| &*tag == "100rel") {
                    self.rseq = 7;
                    ringing = ringing.with(Name::Allow, "PRACK, UPDATE").with(Name::Require, "100rel").with(Name::RSeq, "7");
                    ringing = ringing.with_body("application/sdp", Bytes::from_static(b"early"));
                    self.progress = Some(Repeated::new(ringing.clone(), self.now));
                }
                self.respond(request, ringing);
            }
            Method::Invite if self.down => {
                let gone = request.response(StatusCode::CALL_DOES_NOT_EXIST, None);
                self.answer_invite(request, gone);
            }
            Method::Invite => {
                if let (Some((target, _)), Ok(contacts)) = (&mut self.peer, request.headers.contacts()) {
                    *target = contacts[0].uri.to_string().into();
                }
                self.answer_invite(request, ok(request, self.name));
            }
            Method::Cancel => {
                if let Some(invite) = self.invite.clone().filter(|_| self.rings_at.take().is_some()) {
                    self.down = true;
                    self.answered.retain(|(key, _)| *key != key_of(&invite));
                    self.answer_invite(&invite, invite.response(StatusCode::REQUEST_TERMINATED, Some(self.name)));
                }
                self.respond(request, request.response(StatusCode::OK, Some(self.name)));
            }
            Method::Bye => {
                self.down = true;
                self.answer = None;
                self.respond(request, request.response(StatusCode::OK, None));
            }
            Method::Prack => {
                let rack = request.headers.text(&Name::RAck).unwrap();
                assert_eq!(&*rack, format!("{} 1 INVITE", self.rseq));
                let known = self.progress.take().is_some();
                let status = if known { StatusCode::OK } else { StatusCode::CALL_DOES_NOT_EXIST };
                self.respond(request, request.response(status, Some(self.name)));
            }
            Method::Update => self.respond(request, ok(request, self.name)),
            // It can't.
            Method::Refer => self.respond(request, request.response(StatusCode::METHOD_NOT_ALLOWED, Some(self.name))),
            Method::Notify => self.respond(request, request.response(StatusCode::OK, None)),
            ref other => panic!("{other}"),
        }
    }

    fn told(&mut self, response: &Response) {
        let cseq = response.headers.cseq().unwrap();
        self.saw.push(format!("{} {}", response.status, cseq.method));
        let provisional = !response.status.is_final();
        if !provisional || cseq.method == Method::Invite {
            self.open.retain(|open| open.what.headers.cseq() != Ok(cseq.clone()));
        }
        let holds = !provisional || response.headers.get(&Name::RSeq).is_some();
        self.described |= holds && !response.body.is_empty();
        if provisional {
            self.proceeding |= cseq.method == Method::Invite;
            self.acknowledge(response);
            return;
        }
        match cseq.method {
            Method::Invite => self.invite_answered(response, cseq.number),
            Method::Bye => self.down = true,
            _ => {}
        }
    }

    /// A provisional answer that wants to be acknowledged, and wasn't (RFC 3262 §4).
    fn acknowledge(&mut self, response: &Response) {
        let number = response.headers.number(&Name::RSeq, "RSeq").unwrap();
        let Some(number) = number.filter(|number| self.reliable && (self.rseq == 0 || *number == self.rseq + 1)) else { return };
        self.rseq = number;
        let contact = response.headers.contacts().unwrap()[0].uri.to_string();
        self.peer = Some((contact.into(), response.headers.text(&Name::To).unwrap()));
        let mut prack = self.request("PRACK", 2, "");
        prack.headers.push_text(Name::RAck, format!("{number} 1 INVITE"));
        self.send(prack);
    }

    fn invite_answered(&mut self, response: &Response, number: u32) {
        let success = response.status.class() == Class::Success;
        let mut ack = self.request("ACK", number, "");
        if success {
            let contact = response.headers.contacts().unwrap()[0].uri.to_string();
            self.peer = Some((contact.into(), response.headers.text(&Name::To).unwrap()));
            self.up = true;
            self.up_at.get_or_insert(self.now);
            ack = self.request("ACK", number, "");
        } else {
            // RFC 3261 §17.1.1.3: an ACK for a failure has its INVITE's branch.
            ack.headers.replace_first(&Name::To, response.headers.get(&Name::To).unwrap().clone());
            ack.headers.replace_first(&Name::Via, self.via("INVITE", number));
            self.down |= number == 1;
        }
        self.out.push(Message::Request(ack));
        if success && self.cancelled {
            // Its CANCEL came too late (RFC 3261 §9.1).
            self.hang_up_now();
        }
    }

    // --- messages ---

    fn send(&mut self, request: Request) {
        self.open.push(Repeated::new(request.clone(), self.now));
        self.out.push(Message::Request(request));
    }

    fn respond(&mut self, request: &Request, response: Response) {
        self.answered.push((key_of(request), response.clone()));
        self.out.push(Message::Response(response));
    }

    fn answer_invite(&mut self, invite: &Request, response: Response) {
        self.answer = Some(Repeated::new(response.clone(), self.now));
        self.respond(invite, response);
    }

    fn contact(&self) -> String {
        format!("<sip:{}@{}:5060>", self.name, self.host)
    }

    fn via(&self, method: &str, cseq: u32) -> String {
        format!("SIP/2.0/UDP {};branch=z9hG4bK{}{method}{cseq}", self.host, self.name)
    }

    fn request(&self, method: &str, cseq: u32, body: &str) -> Request {
        let (target, to) = self.peer.clone().unwrap_or(("sip:b@x".into(), "<sip:b@x>".into()));
        let (from, call_id) = match &self.invite {
            Some(invite) => {
                let us = invite.headers.text(&Name::To).unwrap();
                (format!("{us};tag={}", self.name), invite.headers.call_id().unwrap().to_string())
            }
            None => (format!("<sip:a@x>;tag={}", self.name), "a-call".to_owned()),
        };
        let text = format!(
            "{method} {target} SIP/2.0\r\nVia: {}\r\nFrom: {from}\r\nTo: {to}\r\nCall-ID: {call_id}\r\nCSeq: {cseq} {method}\r\n\
             Contact: {}\r\nContent-Length: {}\r\n\r\n{body}",
            self.via(method, cseq),
            self.contact(),
            body.len()
        );
        match parse::datagram(&text.into()).unwrap() {
            Message::Request(request) => request,
            Message::Response(_) => unreachable!(),
        }
    }
}

fn key_of(request: &Request) -> String {
    format!("{} {}", TxKey::of(request).0, request.method)
}

fn ok(invite: &Request, tag: &str) -> Response {
    let contact = match tag {
        "a" => "<sip:a@10.0.0.1:5060>",
        "b" => "<sip:b@10.0.0.2:5060>",
        _ => "<sip:c@10.0.0.3:5060>",
    };
    let response = invite.response(StatusCode::OK, Some(tag)).with(Name::Contact, contact);
    response.with_body("application/sdp", Bytes::from_static(b"answer"))
}
