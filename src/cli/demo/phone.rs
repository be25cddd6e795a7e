//! A scripted phone: registers, calls, answers, hangs up; one thing at a time. Layer: program.
//!
//! It does what RFC 3261 asks of a user agent and no more. Over UDP it repeats its requests until they are answered; over TCP it makes
//! its connection again when that has ended, and registers by it: that is how a phone lives through a takeover.

mod callee;
mod reliable;
mod watch;

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use tokio::time::{Instant, timeout, timeout_at};

use self::reliable::Owed;
use self::watch::Watching;
use super::wire::{Over, Wire};

use crate::sip::digest::Credentials;
use crate::sip::encode::encode_response;
use crate::sip::headers::tag_of;
use crate::sip::message::{Message, Request, Response};
use crate::sip::status::Class;
use crate::sip::{Method, Name, StatusCode, parse};

/// RFC 3261 §17.1.1.1, T1.
const T1: Duration = Duration::from_millis(500);
/// 64·T1: a request without an answer has failed.
const PATIENCE: Duration = Duration::from_secs(32);

/// The phone.
pub struct Phone {
    user: String,
    password: String,
    domain: String,
    server: SocketAddr,
    over: Over,
    wire: Wire,
    local: SocketAddr,
    /// Its name for itself (RFC 5626 §4.1).
    instance: String,
    /// How gladly it is called (RFC 3261 §20.10); most gladly if it doesn't say.
    q: Option<&'static str>,
    /// What it was asked when it registered, for when it does so again.
    challenge: Option<String>,
    /// The branch of a REGISTER that it sent by itself.
    registering: Option<String>,
    /// How often its connection has ended.
    reconnected: u64,
    /// How often it was asked whether it is there.
    asked: u64,
    cseq: u32,
    media: SocketAddr,
    dialog: Option<Dialog>,
    watching: Option<Watching>,
    /// It says and hears provisional answers reliably (RFC 3262).
    reliable: bool,
    /// How a callee has described itself reliably while it rang.
    early: Option<Bytes>,
    repeated: u64,
    /// Where the last message came from.
    source: SocketAddr,
    /// How long it takes to answer.
    thinking: Duration,
    /// How long a call that it makes may ring before it cancels it.
    patience: Option<Duration>,
    /// How often a number that only grows was smaller than before.
    went_back: u64,
    /// The profile of its media, and its key.
    protection: Option<(String, String)>,
    /// Payload type and name.
    format: (u8, String),
    /// What it offers and answers instead of PCMU.
    description: Option<String>,
}

/// A call that rings.
pub struct Ringing {
    invite: Request,
    tag: String,
    /// It has described itself, and that was acknowledged.
    described: bool,
}

impl Ringing {
    /// Its INVITE.
    pub fn invite(&self) -> &Request {
        &self.invite
    }
}

/// A call, from the phone's side.
#[derive(Debug, Clone)]
struct Dialog {
    call_id: String,
    from: String,
    to: String,
    target: String,
    /// The last answer to an INVITE, and the INVITE's number, for when it is repeated.
    answer: Option<(u32, Bytes)>,
    /// The last ACK of a 200, and its number, for when that is repeated.
    ack: Option<(u32, String)>,
    /// The other side's last number.
    number: u32,
    /// The version of its last description.
    version: u64,
}

impl Phone {
    /// A phone that talks SIP with `server`, and RTP at `media`.
    pub async fn new(user: &str, password: &str, domain: &str, server: SocketAddr, media: SocketAddr) -> anyhow::Result<Self> {
        Self::over(Over::Udp, user, password, domain, server, media).await
    }

    /// The same, and over what it talks.
    pub async fn over(
        over: Over,
        user: &str,
        password: &str,
        domain: &str,
        server: SocketAddr,
        media: SocketAddr,
    ) -> anyhow::Result<Self> {
        let wire = Wire::make(&over, media.ip(), server).await?;
        let local = wire.local()?;
        Ok(Self {
            user: user.into(),
            password: password.into(),
            domain: domain.into(),
            server,
            over,
            wire,
            local,
            instance: format!("<urn:tandem:demo:{user}>"),
            q: None,
            challenge: None,
            registering: None,
            reconnected: 0,
            asked: 0,
            cseq: 0,
            media,
            dialog: None,
            watching: None,
            reliable: false,
            early: None,
            repeated: 0,
            source: server,
            thinking: Duration::ZERO,
            patience: None,
            went_back: 0,
            protection: None,
            format: (0, "PCMU/8000".into()),
            description: None,
        })
    }

    /// From now on it takes so long to answer a request, and hears nothing meanwhile.
    pub fn set_thinking(&mut self, thinking: Duration) {
        self.thinking = thinking;
    }

    /// How often the other side's CSeq (RFC 3261 §12.2.2) or the version of its SDP (RFC 3264 §8) was smaller than before.
    pub fn went_back(&self) -> u64 {
        self.went_back
    }

    /// One more phone of its user's: another than the one that has no number.
    pub fn set_number(&mut self, number: u8) {
        self.instance = format!("<urn:tandem:demo:{}:{number}>", self.user);
    }

    /// From the next registration on it is called before those of its user's phones that say less.
    pub fn set_q(&mut self, q: &'static str) {
        self.q = Some(q);
    }

    /// How often it was asked whether it is there: by OPTIONS, or UPDATE.
    pub fn was_asked(&self) -> u64 {
        self.asked
    }

    /// How often its connection had ended, and it made another.
    pub fn reconnected(&self) -> u64 {
        self.reconnected
    }

    /// Where it is reached.
    pub fn address(&self) -> SocketAddr {
        self.local
    }

    /// From the next call on the phone's RTP is at `media`.
    pub fn set_media(&mut self, media: SocketAddr) {
        self.media = media;
    }

    /// Registers for an hour.
    pub async fn register(&mut self) -> anyhow::Result<()> {
        let response = self.try_register().await?;
        match response.status.class() {
            Class::Success => Ok(()),
            Class::Provisional | Class::Redirect | Class::Failure => bail!("{} may not register: {}", self.user, response.status),
        }
    }

    /// Registers, and gives the answer whatever it is.
    pub async fn try_register(&mut self) -> anyhow::Result<Response> {
        let (uri, headers) = self.registration();
        self.ask(Method::Register, &uri, &headers, "").await
    }

    fn registration(&self) -> (String, String) {
        let aor = format!("<sip:{}@{}>", self.user, self.domain);
        let (call_id, tag) = (random(), random());
        let headers = format!("From: {aor};tag={tag}\r\nTo: {aor}\r\nCall-ID: {call_id}\r\nExpires: 3600\r\n");
        (format!("sip:{}", self.domain), headers)
    }

    /// Makes its connection again, and registers by it if it was registered. What waits for an answer goes on waiting.
    async fn reconnect(&mut self, until: Instant) -> anyhow::Result<()> {
        self.wire = loop {
            match timeout(T1, Wire::make(&self.over, self.local.ip(), self.server)).await {
                Ok(Ok(wire)) => break wire,
                Ok(Err(_)) if Instant::now() < until => tokio::time::sleep(T1 / 5).await,
                Err(_) if Instant::now() < until => {}
                Ok(Err(error)) => return Err(error.into()),
                Err(error) => return Err(error.into()),
            }
        };
        self.local = self.wire.local()?;
        self.reconnected += 1;
        match self.challenge.clone() {
            Some(challenge) => self.register_by_itself(&challenge).await,
            None => Ok(()),
        }
    }

    async fn register_by_itself(&mut self, challenge: &str) -> anyhow::Result<()> {
        self.cseq += 1;
        let (uri, headers) = self.registration();
        let answer = Credentials::answer(challenge, &self.user, &self.password, &Method::Register, &uri, &random());
        let headers = format!("{headers}Authorization: {}\r\n", answer.context("a challenge that can't be read")?);
        let request = self.request(&Method::Register, &uri, self.cseq, &headers, "");
        self.registering = Some(branch_of(&request));
        self.wire.send(request.as_bytes(), self.server).await?;
        Ok(())
    }

    /// Takes the answer to a REGISTER that it sent by itself; false for anything else.
    async fn is_registered(&mut self, message: &Message) -> anyhow::Result<bool> {
        let Message::Response(response) = message else { return Ok(false) };
        let branch = response.headers.top_via().ok().and_then(|via| via.branch().map(str::to_owned));
        if self.registering.is_none() || branch != self.registering {
            return Ok(false);
        }
        if response.status == StatusCode::UNAUTHORIZED {
            let challenge = response.headers.text(&Name::WwwAuthenticate).context("a challenge without a challenge")?;
            self.register_by_itself(&challenge).await?;
        } else if response.status.is_final() {
            self.registering = None;
        }
        Ok(true)
    }

    /// Calls, and waits for the answer; gives the other side's RTP address.
    pub async fn call(&mut self, callee: &str) -> anyhow::Result<SocketAddr> {
        let response = self.try_call(callee, "", &self.sdp()).await?;
        if response.status.class() != Class::Success {
            bail!("{callee} did not answer: {}", response.status);
        }
        rtp_address(&response.body)
    }

    /// Calls, waits for the answer and doesn't acknowledge it yet; gives the other side's RTP address.
    pub async fn call_without_ack(&mut self, callee: &str) -> anyhow::Result<SocketAddr> {
        let response = self.invite(callee, "", &self.sdp()).await?;
        if response.status.class() != Class::Success {
            bail!("{callee} did not answer: {}", response.status);
        }
        rtp_address(&response.body)
    }

    /// Acknowledges the answer to its call.
    pub async fn acknowledge(&self) -> anyhow::Result<()> {
        let (_, ack) = self.dialog.as_ref().and_then(|dialog| dialog.ack.as_ref()).context("there is nothing to acknowledge")?;
        self.wire.send(ack.as_bytes(), self.server).await?;
        Ok(())
    }

    /// Calls, cancels what has rung for so long (RFC 3261 §9.1), and gives the final answer whatever it is.
    pub async fn call_and_cancel(&mut self, callee: &str, ring: Duration) -> anyhow::Result<Response> {
        self.patience = Some(ring);
        let response = self.try_call(callee, "", &self.sdp()).await;
        self.patience = None;
        response
    }

    /// Calls with further headers and any body, and gives the final answer whatever it is.
    pub async fn try_call(&mut self, callee: &str, more: &str, sdp: &str) -> anyhow::Result<Response> {
        let response = self.invite(callee, more, sdp).await?;
        if response.status.class() == Class::Success {
            self.acknowledge().await?;
        }
        Ok(response)
    }

    async fn invite(&mut self, callee: &str, more: &str, sdp: &str) -> anyhow::Result<Response> {
        let uri = if callee.starts_with("sip:") { callee.to_owned() } else { format!("sip:{callee}@{}", self.domain) };
        let call_id = random();
        let from = format!("<sip:{}@{}>;tag={}", self.user, self.domain, random());
        let supported = if self.reliable { "Supported: 100rel\r\nAllow: PRACK, UPDATE\r\n" } else { "" };
        let headers = format!("From: {from}\r\nTo: <{uri}>\r\nCall-ID: {call_id}\r\n{supported}{more}");
        self.early = None;
        let mut response = self.ask(Method::Invite, &uri, &headers, sdp).await?;
        if response.status.class() != Class::Success {
            return Ok(response);
        }
        // RFC 3262 §5: what came reliably is the answer.
        if let Some(early) = self.early.take() {
            response.body = early;
        }
        let to = response.headers.text(&Name::To).context("no To")?.to_string();
        let target = response.headers.contacts()?.first().context("no Contact")?.uri.to_string();
        let version = sdp_version(&response.body);
        let mut dialog = Dialog { call_id, from, to, target, answer: None, ack: None, number: 0, version };
        // RFC 3261 §13.2.2.4: an offer in the 2xx is answered by the ACK.
        let answer = if sdp.is_empty() { self.sdp() } else { String::new() };
        let number = response.headers.cseq()?.number;
        dialog.ack = Some((number, self.in_dialog_with(&dialog, &Method::Ack, number, "", &answer)));
        self.dialog = Some(dialog);
        Ok(response)
    }

    fn contact(&self) -> String {
        let q = self.q.map(|q| format!(";q={q}")).unwrap_or_default();
        format!("<sip:{}@{}{}>;+sip.instance=\"{}\"{q}", self.user, self.local, self.over.param(), self.instance)
    }

    /// Hangs up, and waits until that is acknowledged.
    pub async fn hang_up(&mut self) -> anyhow::Result<()> {
        let dialog = self.dialog.take().context("there is no call")?;
        self.cseq += 1;
        let bye = self.in_dialog(&dialog, &Method::Bye, self.cseq);
        let response = self.transact(&Method::Bye, &bye).await?;
        match response.status.class() {
            Class::Success => Ok(()),
            Class::Provisional | Class::Redirect | Class::Failure => bail!("the BYE was refused: {}", response.status),
        }
    }

    /// Asks something within the call, an OPTIONS or a re-INVITE with this SDP, and gives the final answer.
    pub async fn ask_within(&mut self, method: Method, sdp: &str) -> anyhow::Result<Response> {
        self.ask_within_with(method, "", sdp).await
    }

    /// The same with further headers, and any body.
    pub async fn ask_within_with(&mut self, method: Method, more: &str, body: &str) -> anyhow::Result<Response> {
        let dialog = self.dialog.clone().context("there is no call")?;
        self.cseq += 1;
        let cseq = self.cseq;
        let request = self.in_dialog_with(&dialog, &method, cseq, more, body);
        let response = self.transact(&method, &request).await?;
        if method == Method::Invite {
            let accepted = response.status.class() == Class::Success;
            let ack = if accepted { self.in_dialog(&dialog, &Method::Ack, cseq) } else { failure_ack(&request, &response) };
            self.wire.send(ack.as_bytes(), self.server).await?;
            if let Some(dialog) = self.dialog.as_mut().filter(|_| accepted) {
                dialog.ack = Some((cseq, ack));
            }
        }
        Ok(response)
    }

    /// Sends a MESSAGE that is part of no call (RFC 3428), and gives the final answer whatever it is.
    pub async fn send_message(&mut self, to: &str, more: &str, text: &str) -> anyhow::Result<Response> {
        let uri = format!("sip:{to}@{}", self.domain);
        let from = format!("<sip:{}@{}>;tag={}", self.user, self.domain, random());
        let headers = format!("From: {from}\r\nTo: <{uri}>\r\nCall-ID: {}\r\n{more}", random());
        self.ask(Method::Message, &uri, &headers, text).await
    }

    /// Waits for a request of this kind, and gives it this answer after it has thought.
    pub async fn take(&mut self, method: &Method, status: StatusCode) -> anyhow::Result<Request> {
        loop {
            let Message::Request(request) = self.receive(Instant::now() + PATIENCE).await? else { continue };
            let wanted = request.method == *method;
            if wanted {
                tokio::time::sleep(self.thinking).await;
            }
            self.respond(&request, if wanted { status } else { StatusCode::OK }).await?;
            if wanted {
                return Ok(request);
            }
        }
    }

    /// How another phone takes this one's place in its call: whom it calls, and the Replaces that it says (RFC 3891).
    pub fn place(&self) -> anyhow::Result<(String, String)> {
        let Dialog { call_id, from, to, target, .. } = self.dialog.as_ref().context("there is no call")?;
        let tags = [to, from].map(|address| tag_of(address).unwrap_or_default());
        Ok((target.clone(), format!("{call_id};to-tag={};from-tag={}", tags[0], tags[1])))
    }

    /// Does nothing for so long but what it is asked to; an error if the other side hangs up.
    #[allow(clippy::wildcard_enum_match_arm, reason = "every other method is treated alike")]
    pub async fn stay(&mut self, span: Duration) -> anyhow::Result<()> {
        let end = Instant::now() + span;
        while Instant::now() < end {
            let Ok(Message::Request(request)) = self.receive(end).await else { continue };
            match request.method {
                Method::Bye => {
                    self.respond(&request, StatusCode::OK).await?;
                    bail!("{} was hung up on", self.user);
                }
                Method::Invite => self.accept_again(&request).await?,
                _ => self.respond(&request, StatusCode::OK).await?,
            }
        }
        Ok(())
    }

    /// Waits until the other side hangs up; takes what it asks until then.
    #[allow(clippy::wildcard_enum_match_arm, reason = "every other method is treated alike")]
    pub async fn wait_for_bye(&mut self) -> anyhow::Result<()> {
        loop {
            let Message::Request(request) = self.receive(Instant::now() + PATIENCE).await? else { continue };
            match request.method {
                Method::Bye => {
                    tokio::time::sleep(self.thinking).await;
                    self.respond(&request, StatusCode::OK).await?;
                    self.dialog = None;
                    return Ok(());
                }
                Method::Invite => self.accept_again(&request).await?,
                _ => self.respond(&request, StatusCode::OK).await?,
            }
        }
    }

    /// Takes what the other side asks until it wants the sound elsewhere; gives where. From then on it is there for the phone too.
    pub async fn follow(&mut self) -> anyhow::Result<SocketAddr> {
        loop {
            let Ok(Message::Request(request)) = self.receive(Instant::now() + PATIENCE).await else { continue };
            if request.method != Method::Invite {
                self.respond(&request, StatusCode::OK).await?;
                continue;
            }
            self.server = self.source;
            if let (Some(dialog), Some(contact)) = (&mut self.dialog, request.headers.contacts()?.first()) {
                dialog.target = contact.uri.to_string();
            }
            self.accept_again(&request).await?;
            return rtp_address(&request.body);
        }
    }

    /// A re-INVITE, or an INVITE that comes once more, gets its 200.
    async fn accept_again(&mut self, invite: &Request) -> anyhow::Result<()> {
        let number = invite.headers.cseq()?.number;
        let known = self.dialog.as_ref().and_then(|dialog| dialog.answer.clone()).filter(|(answered, _)| *answered == number);
        let bytes = match known {
            Some((_, bytes)) => bytes,
            None => {
                tokio::time::sleep(self.thinking).await;
                let ok = invite.response(StatusCode::OK, None).with(Name::Contact, self.contact());
                encode_response(&ok.with_body("application/sdp", Bytes::from(self.sdp())))
            }
        };
        self.wire.send(&bytes, self.server).await?;
        if let Some(dialog) = &mut self.dialog {
            dialog.answer = Some((number, bytes));
        }
        Ok(())
    }

    /// How often the phone had to say something again.
    pub fn repeated(&self) -> u64 {
        self.repeated
    }

    /// Sends a request outside a dialog, with credentials when they are asked for.
    async fn ask(&mut self, method: Method, uri: &str, headers: &str, body: &str) -> anyhow::Result<Response> {
        let mut credentials = String::new();
        loop {
            self.cseq += 1;
            let request = self.request(&method, uri, self.cseq, &format!("{headers}{credentials}"), body);
            let response = self.transact(&method, &request).await?;
            let (asks, answers) = match response.status {
                StatusCode::UNAUTHORIZED => (Name::WwwAuthenticate, "Authorization"),
                StatusCode::PROXY_AUTHENTICATION_REQUIRED => (Name::ProxyAuthenticate, "Proxy-Authorization"),
                status => {
                    if method == Method::Invite && status.class() != Class::Success {
                        self.wire.send(failure_ack(&request, &response).as_bytes(), self.server).await?;
                    }
                    return Ok(response);
                }
            };
            if method == Method::Invite {
                let ack = failure_ack(&request, &response);
                self.wire.send(ack.as_bytes(), self.server).await?;
            }
            // Asked again: they are wrong.
            if !credentials.is_empty() {
                return Ok(response);
            }
            let challenge = response.headers.text(&asks).context("a challenge without a challenge")?;
            if method == Method::Register {
                self.challenge = Some(challenge.to_string());
            }
            let answer = Credentials::answer(&challenge, &self.user, &self.password, &method, uri, &random());
            credentials = format!("{answers}: {}\r\n", answer.context("a challenge that can't be read")?);
        }
    }

    /// Repeats a request until it has its final answer (RFC 3261 §17.1).
    async fn transact(&mut self, method: &Method, request: &str) -> anyhow::Result<Response> {
        let give_up = Instant::now() + PATIENCE;
        let mut gap = T1;
        let mut proceeding = false;
        let branch = branch_of(request);
        self.wire.send(request.as_bytes(), self.server).await?;
        let mut again = Instant::now() + gap;
        // When the CANCEL is due (again).
        let mut cancel: Option<Instant> = None;
        let mut cancelled = false;
        let mut owed: Option<Owed> = None;
        loop {
            let due = [Some(again), cancel, owed.as_ref().and_then(Owed::due)].into_iter().flatten().min().unwrap_or(give_up);
            let message = self.receive(due.min(give_up)).await;
            match message {
                Ok(Message::Response(response)) => {
                    let ours = response.headers.top_via().is_ok_and(|via| via.branch() == Some(&branch));
                    let of = response.headers.cseq().ok().map(|cseq| cseq.method).filter(|_| ours);
                    match of {
                        Some(of) if of == *method && response.status.is_final() => return Ok(response),
                        Some(of) if of == *method => {
                            proceeding = true;
                            self.owe(&response, &mut owed).await?;
                            if response.status != StatusCode::TRYING && !cancelled && cancel.is_none() {
                                cancel = self.patience.map(|patience| Instant::now() + patience);
                            }
                        }
                        Some(Method::Cancel) => (cancelled, cancel) = (true, None),
                        Some(_) | None => owed.iter_mut().for_each(|owed| owed.answered(&response)),
                    }
                }
                Ok(Message::Request(request)) => self.respond(&request, StatusCode::OK).await?,
                Err(_) if Instant::now() >= give_up => bail!("no answer to {method}"),
                Err(_) if cancel.is_some_and(|at| at <= Instant::now()) => {
                    self.wire.send(beside(request, "CANCEL", "").as_bytes(), self.server).await?;
                    cancel = Some(Instant::now() + T1);
                }
                Err(_) if let Some(prack) = owed.as_mut().and_then(Owed::again) => {
                    self.wire.send(prack.as_bytes(), self.server).await?;
                    self.repeated += 1;
                }
                Err(_) => {
                    // A provisional answer ends the repeating of an INVITE.
                    if !(proceeding && *method == Method::Invite || self.over.is_reliable()) {
                        self.wire.send(request.as_bytes(), self.server).await?;
                        self.repeated += 1;
                    }
                    gap *= 2;
                    again = Instant::now() + gap;
                }
            }
        }
    }

    async fn receive(&mut self, until: Instant) -> anyhow::Result<Message> {
        loop {
            let (bytes, source) = match timeout_at(until, self.wire.receive()).await? {
                Ok(received) => received,
                Err(_) if self.over.is_reliable() => {
                    self.reconnect(until).await?;
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            self.source = source;
            let Ok(message) = parse::datagram(&bytes) else { continue };
            if self.is_registered(&message).await? {
                continue;
            }
            if self.is_told(&message).await? {
                if self.watching.as_ref().is_some_and(|watching| watching.waits) {
                    return Ok(message);
                }
                continue;
            }
            self.compare(&message);
            if let Message::Request(Request { method: Method::Options | Method::Update, .. }) = message {
                self.asked += 1;
            }
            match self.ack_again(&message) {
                // Its ACK was lost (RFC 3261 §13.2.2.4).
                Some(ack) => drop(self.wire.send(ack.as_bytes(), self.server).await?),
                None => return Ok(message),
            }
        }
    }

    /// Looks whether what only grows has grown.
    fn compare(&mut self, message: &Message) {
        let (headers, body, number) = match message {
            Message::Request(request) => {
                let is_new = !matches!(request.method, Method::Ack | Method::Cancel);
                (&request.headers, &request.body, request.headers.cseq().ok().map(|cseq| cseq.number).filter(|_| is_new))
            }
            Message::Response(response) => (&response.headers, &response.body, None),
        };
        let call_id = headers.call_id().map(|id| id.to_string());
        let Some(dialog) = self.dialog.as_mut().filter(|dialog| call_id.is_ok_and(|id| id == dialog.call_id)) else { return };
        let number = number.unwrap_or(dialog.number);
        let describes = !body.is_empty() && headers.content_type().is_none_or(|kind| kind == "application/sdp");
        let version = if describes { sdp_version(body) } else { dialog.version };
        self.went_back += u64::from(number < dialog.number) + u64::from(version < dialog.version);
        dialog.number = dialog.number.max(number);
        dialog.version = dialog.version.max(version);
    }

    /// The ACK of a 200 that has had it.
    fn ack_again(&self, message: &Message) -> Option<&str> {
        let Message::Response(response) = message else { return None };
        let (number, ack) = self.dialog.as_ref()?.ack.as_ref()?;
        let cseq = response.headers.cseq().ok()?;
        let again = response.status.class() == Class::Success && cseq.method == Method::Invite && cseq.number == *number;
        again.then_some(ack)
    }

    async fn respond(&self, request: &Request, status: StatusCode) -> anyhow::Result<()> {
        if request.method != Method::Ack {
            self.wire.send(&encode_response(&request.response(status, None)), self.server).await?;
        }
        Ok(())
    }

    #[allow(clippy::wildcard_enum_match_arm, reason = "what else has a body has a description")]
    fn request(&self, method: &Method, uri: &str, cseq: u32, headers: &str, body: &str) -> String {
        let content = match method {
            _ if body.is_empty() || headers.contains("Content-Type:") => "",
            Method::Message => "Content-Type: text/plain\r\n",
            Method::Notify => "Content-Type: message/sipfrag\r\n",
            _ => "Content-Type: application/sdp\r\n",
        };
        format!(
            "{method} {uri} SIP/2.0\r\nVia: SIP/2.0/{} {};rport;branch=z9hG4bK{}\r\nMax-Forwards: 70\r\n{headers}\
             CSeq: {cseq} {method}\r\nContact: {}\r\n{content}Content-Length: {}\r\n\r\n{body}",
            self.over.name(),
            self.local,
            random(),
            self.contact(),
            body.len()
        )
    }

    fn in_dialog(&self, dialog: &Dialog, method: &Method, cseq: u32) -> String {
        self.in_dialog_with(dialog, method, cseq, "", "")
    }

    fn in_dialog_with(&self, dialog: &Dialog, method: &Method, cseq: u32, more: &str, body: &str) -> String {
        let headers = format!("From: {}\r\nTo: {}\r\nCall-ID: {}\r\n{more}", dialog.from, dialog.to, dialog.call_id);
        self.request(method, &dialog.target, cseq, &headers, body)
    }

    /// What the phone offers and answers: PCMU, unless it was told otherwise.
    pub fn sdp(&self) -> String {
        if let Some(description) = &self.description {
            return description.clone();
        }
        let (ip, port) = (self.media.ip(), self.media.port());
        let family = if ip.is_ipv6() { "IP6" } else { "IP4" };
        let (profile, lines) = match &self.protection {
            Some((profile, lines)) => (profile.as_str(), format!("{lines}\r\n")),
            None => ("RTP/AVP", String::new()),
        };
        let (number, name) = &self.format;
        format!(
            "v=0\r\no=- 1 1 IN {family} {ip}\r\ns=-\r\nc=IN {family} {ip}\r\nt=0 0\r\nm=audio {port} {profile} {number}\r\na=rtpmap:{number} {name}\r\n{lines}"
        )
    }

    /// Says from now on that it has this format alone: its payload type, and its name as `a=rtpmap` has it.
    pub fn speaks(&mut self, number: u8, name: &str) {
        self.format = (number, name.into());
    }

    /// Says from now on that its media are these.
    pub fn describes(&mut self, sdp: String) {
        self.description = Some(sdp);
    }

    /// Says from now on that its media are of this profile, and protected as these lines say.
    pub fn protects(&mut self, profile: &str, lines: &str) {
        self.protection = Some((profile.into(), lines.into()));
    }
}

fn branch_of(request: &str) -> String {
    request.split("branch=").nth(1).and_then(|rest| rest.split(['\r', ';']).next()).unwrap_or("").to_owned()
}

fn random() -> String {
    hex::encode(rand::random::<[u8; 8]>())
}

/// RFC 3261 §17.1.1.3: the ACK of a failure has the INVITE's branch, and the To of the answer.
fn failure_ack(invite: &str, response: &Response) -> String {
    beside(invite, "ACK", &response.headers.text(&Name::To).unwrap_or_default())
}

/// A request that belongs to an INVITE and has its branch: its CANCEL, or the ACK of its failure. With the To of the answer, if it
/// has a tag.
fn beside(invite: &str, method: &str, to: &str) -> String {
    let lines = invite.lines().take_while(|line| !line.is_empty()).filter_map(|line| match line {
        line if line.starts_with("To:") && tag_of(to).is_some() => Some(format!("To: {to}")),
        line if line.starts_with("Content-") || line.starts_with("Proxy-Authorization") => None,
        line => Some(line.replacen("INVITE", method, 1)),
    });
    format!("{}\r\nContent-Length: 0\r\n\r\n", lines.collect::<Vec<_>>().join("\r\n"))
}

/// The version of a description (RFC 4566 §5.2); 0 if it has none.
fn sdp_version(sdp: &[u8]) -> u64 {
    let line = String::from_utf8_lossy(sdp).lines().find_map(|line| line.strip_prefix("o=").map(str::to_owned));
    line.and_then(|line| line.split_whitespace().nth(2)?.parse().ok()).unwrap_or(0)
}

/// Where a description wants its first stream.
pub fn rtp_address(sdp: &[u8]) -> anyhow::Result<SocketAddr> {
    let sdp = sdp_types::Session::parse(sdp)?;
    let media = sdp.medias.first().context("no media")?;
    let connection = media.connections.first().or(sdp.connection.as_ref()).context("no address")?;
    Ok(SocketAddr::new(connection.connection_address.parse()?, media.port))
}
