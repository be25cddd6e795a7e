//! Where a packet goes: from what [`crate::sip::endpoint`] says it is to the actor that it belongs to, here or
//! on another node. Layer: shell.
//!
//! Everything that can be decided without waiting is decided on the way in: who the user is, whether the callee
//! exists and where it is. Only a look-up that misses here asks the owner.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use ractor::ActorRef;

use super::call::{CallMsg, Incoming};
use super::calls::{self, CallsMsg, Errand};
use super::dialog::DialogMsg;
use super::gateway::{self, Answer, Parcel, Question};
use super::records;
use super::registrar::RegistrarMsg;
use super::registration::unavailable;
use super::services::Services;
use super::transport;
use crate::clock;
use crate::cluster::Ownership;
use crate::ids::{Aor, CallId, LegId, VnodeId};
use crate::sip::b2bua::Target;
use crate::sip::dialog::Flow;
use crate::sip::digest::{AuthError, Credentials, Ha1};
use crate::sip::endpoint::{self, Arrival, Why};
use crate::sip::gruu::Gruu;
use crate::sip::guard::Outcome;
use crate::sip::message::{Message, Request, Response};
use crate::sip::registrar::{Binding, Phone, binding_of};
use crate::sip::token::Token;
use crate::sip::uri::Scheme;
use crate::sip::{Method, Name, StatusCode, Text, Uri};

/// How long a look-up waits for a vnode that has no owner at the moment.
const OWNER_PATIENCE: Duration = Duration::from_secs(2);
/// How soon it looks again.
const OWNER_PAUSE: Duration = Duration::from_millis(20);

/// A datagram came by a flow.
pub fn arrived(services: &Arc<Services>, flow: Flow, bytes: &Bytes) {
    dispatch(services, &Packet { vnode: flow.vnode, flow, bytes: bytes.clone(), passed_on: None, fresh: false });
}

/// Another node passes a datagram on, which belongs to `vnode`.
pub fn forwarded(services: &Arc<Services>, vnode: VnodeId, flow: Flow, bytes: &Bytes, authenticated: bool) {
    dispatch(services, &Packet { vnode, flow, bytes: bytes.clone(), passed_on: Some(authenticated), fresh: false });
}

/// A datagram on its way.
struct Packet {
    /// Whose actors must see it.
    vnode: VnodeId,
    flow: Flow,
    bytes: Bytes,
    /// `None` when it came by our own socket, else whether its user is known. What was passed on is never
    /// passed on again.
    passed_on: Option<bool>,
    /// Our replica of the users is as new as the packet.
    fresh: bool,
}

#[allow(clippy::wildcard_enum_match_arm, reason = "every other reason is treated alike")]
fn dispatch(services: &Arc<Services>, packet: &Packet) {
    let flow = packet.flow;
    let arrival = endpoint::datagram(&packet.bytes, flow.remote);
    if packet.passed_on.is_none()
        && let Arrival::Leg(_, Message::Request(request))
        | Arrival::Invite(request)
        | Arrival::Cancel(request)
        | Arrival::Register(request) = &arrival
    {
        services.repeats.asked(services.timers, flow, request, &packet.bytes, clock::uptime());
    }
    match arrival {
        Arrival::Leg(token, message) => to_leg(services, token, message, packet),
        Arrival::Invite(request) => invite(services, request, packet),
        Arrival::Cancel(request) => cancel(services, request, flow),
        Arrival::Register(request) => register(services, request, packet),
        Arrival::Options(request) => {
            learn(services, packet, Outcome::Keepalive);
            count(Why::Options);
            // Whoever shares load by this must hear what is true.
            let here = services.owns(packet.vnode) && !services.cluster.is_draining();
            transport::respond(services, flow, if here { endpoint::capabilities(&request) } else { unavailable(&request) });
        }
        Arrival::Answer(response, why) => {
            learn(services, packet, if why == Why::Malformed { Outcome::Rubbish } else { Outcome::Nothing });
            count(why);
            transport::respond(services, flow, response);
        }
        Arrival::Drop(why) => {
            match why {
                Why::Keepalive => {}
                Why::Garbage | Why::Malformed => learn(services, packet, Outcome::Rubbish),
                // What a call that has ended had on its way.
                _ => learn(services, packet, Outcome::Nothing),
            }
            count(why);
        }
    }
}

/// What came led to this: for who is listened to, where it came.
fn learn(services: &Services, packet: &Packet, outcome: Outcome) {
    if packet.passed_on.is_none() {
        services.learn(packet.flow.transport, packet.flow.remote, outcome);
    }
}

/// Tools that look for what can be broken, as they call themselves.
const SCANNERS: [&str; 8] =
    ["friendly-scanner", "sipvicious", "sipcli", "sundayddr", "sip-scan", "pplsip", "vaxsipuseragent", "iwar"];

/// Whether a request is of such a tool: it isn't answered.
fn is_scanner(request: &Request) -> bool {
    let agent = request.headers.text(&Name::UserAgent).unwrap_or_default().to_ascii_lowercase();
    SCANNERS.iter().any(|scanner| agent.contains(scanner))
}

fn count(why: Why) {
    metrics::counter!("tandem_sip_stateless_total", "why" => why.as_str()).increment(1);
}

fn to_leg(services: &Arc<Services>, token: Token, message: Message, packet: &Packet) {
    let flow = packet.flow;
    let message = match message {
        Message::Request(request) => DialogMsg::Request(Box::new(request), flow),
        Message::Response(response) => DialogMsg::Response(Box::new(response)),
    };
    let was_open = services.vnode(token.vnode).is_some();
    // Calls that have gone on answer already while the vnode's others are still being made.
    let Err(errand) = calls::tell(services, token.call, Errand::Dialog(token.leg, message)) else { return };
    // Only who had all calls of the vnode here, and still has, can say that this is none of them.
    if was_open && services.vnode(token.vnode).is_some() {
        return no_such_call(services, token.call, errand);
    }
    let owner = services.cluster.owner_of(token.vnode).filter(|owner| *owner != services.node);
    if let Some(owner) = owner.filter(|_| packet.passed_on.is_none()) {
        let bytes = packet.bytes.clone();
        let parcel = Parcel::Packet { vnode: token.vnode, flow: flow.into(), authenticated: false, bytes };
        services.gateways.send(services, owner, &parcel);
    }
    // No owner at the moment: the phone repeats it, and there is one then.
}

/// Something came for a call that isn't here: whoever asked is told.
#[allow(clippy::wildcard_enum_match_arm, reason = "every other method is treated alike")]
pub fn no_such_call(services: &Services, call: CallId, errand: Errand) {
    let (request, flow) = match errand {
        Errand::Dialog(_, DialogMsg::Request(request, flow)) => (request, flow),
        Errand::Dialog(_, DialogMsg::Response(_)) => return count(Why::StrayResponse),
        Errand::Dialog(..) | Errand::Media(..) | Errand::Call(_) => return,
    };
    match request.method {
        // Its 200 was lost, and with it the last thing that its phone waited for.
        Method::Bye if services.directory.is_ended(call) => {
            transport::respond(services, flow, endpoint::stateless(&request, StatusCode::OK));
        }
        Method::Ack => count(Why::StrayAck),
        _ => {
            count(Why::NoSuchDialog);
            transport::respond(services, flow, endpoint::stateless(&request, StatusCode::CALL_DOES_NOT_EXIST));
        }
    }
}

fn cancel(services: &Arc<Services>, request: Request, flow: Flow) {
    let call = services.directory.call_of(&endpoint::invite_key(&request));
    let message = DialogMsg::Request(Box::new(request), flow);
    let told = match call {
        Some(call) => services.directory.tell_dialog(call, LegId::CALLER, message),
        None => Err(message),
    };
    if let Err(DialogMsg::Request(request, flow)) = told {
        transport::respond(services, flow, endpoint::stateless(&request, StatusCode::CALL_DOES_NOT_EXIST));
    }
}

// --- who asks ---

/// Which header asks and answers (RFC 3261 §22.2, §22.3).
#[derive(Clone, Copy)]
enum Challenge {
    Registrar,
    Proxy,
}

/// Why a request goes no further.
enum Denied {
    /// Its user is asked for credentials, or for newer ones.
    Asked(Box<Response>),
    /// They are wrong, or the user is unknown: as far as our replica knows.
    Wrong(Box<Response>),
}

/// Who sent a request.
fn authenticate(services: &Services, request: &Request, challenge: Challenge) -> Result<Aor, Denied> {
    let realm = &services.config.sip.domain;
    let (status, asks, answers) = match challenge {
        Challenge::Registrar => (StatusCode::UNAUTHORIZED, Name::WwwAuthenticate, Name::Authorization),
        Challenge::Proxy => (StatusCode::PROXY_AUTHENTICATION_REQUIRED, Name::ProxyAuthenticate, Name::ProxyAuthorization),
    };
    let ask = |stale| {
        let mut response = endpoint::stateless(request, status);
        for value in services.nonces.challenges(&services.algorithms, realm, stale, clock::now()) {
            response.headers.push_text(asks.clone(), value);
        }
        Box::new(response)
    };
    // Answers for other realms are somebody else's.
    let credentials = request
        .headers
        .all(&answers)
        .filter_map(|value| Text::try_from(value.clone()).ok())
        .filter_map(|text| Credentials::parse(&text))
        .find(|credentials| credentials.realm == *realm);
    let Some(credentials) = credentials else { return Err(Denied::Asked(ask(false))) };
    let user = credentials.username.split('@').next().unwrap_or("");
    let aor = Aor::new(user, realm);
    let known = services
        .cluster
        .read_meta(|meta| meta.user(&aor).map(|user| Ha1 { md5: user.ha1_md5.clone(), sha256: user.ha1_sha256.clone() }));
    // A user that doesn't exist is told what a wrong password is told.
    let ha1 = known.clone().unwrap_or(Ha1 { md5: String::new(), sha256: String::new() });
    match services.nonces.verify(&credentials, &request.method, realm, &ha1, clock::now()) {
        Ok(()) if known.is_some() => Ok(aor),
        Ok(()) | Err(AuthError::Wrong) => Err(Denied::Wrong(ask(false))),
        Err(AuthError::Stale) => Err(Denied::Asked(ask(true))),
    }
}

/// Asks for credentials, if it is worth it.
fn ask(services: &Services, packet: &Packet, request: &Request, response: Response) {
    if is_scanner(request) {
        return learn(services, packet, Outcome::Scanner);
    }
    learn(services, packet, Outcome::Nothing);
    transport::respond(services, packet.flow, response);
}

/// Sends an answer that turns somebody away; if that is for want of a user, only after a look whether our replica
/// lags behind (design, *Tokens*). When that can't be found out, nobody is told more than that.
fn turn_away(services: &Arc<Services>, packet: &Packet, request: Request, response: Response) {
    let permit = if packet.fresh { None } else { services.second_looks.clone().try_acquire_owned().ok() };
    let Some(permit) = permit else {
        let wrong = [StatusCode::UNAUTHORIZED, StatusCode::PROXY_AUTHENTICATION_REQUIRED].contains(&response.status);
        learn(services, packet, if wrong { Outcome::WrongPassword } else { Outcome::Nothing });
        metrics::counter!("tandem_turned_away_total", "status" => response.status.code().to_string()).increment(1);
        return transport::respond(services, packet.flow, response);
    };
    let services = services.clone();
    let again = Packet { bytes: packet.bytes.clone(), fresh: true, ..*packet };
    tokio::spawn(async move {
        if services.cluster.catch_up_meta().await {
            dispatch(&services, &again);
        } else {
            transport::respond(&services, again.flow, unavailable(&request));
        }
        drop(permit);
    });
}

/// The AoR that a URI means, if it is one of our domain (or one of our addresses, as phones without DNS say).
fn aor_of(services: &Services, uri: &Uri) -> Option<Aor> {
    let domain = &services.config.sip.domain;
    let user = uri.user_text().filter(|user| !user.is_empty())?;
    let host = uri.host_text();
    let ours = uri.scheme == Scheme::Tel
        || host.eq_ignore_ascii_case(domain)
        || services
            .config
            .cluster
            .vnode
            .iter()
            .any(|vnode| services.config.address_of(vnode.id).is_some_and(|ip| ip.to_string() == host));
    ours.then(|| Aor::new(&user, domain))
}

// --- registrations ---

fn register(services: &Arc<Services>, request: Request, packet: &Packet) {
    let flow = packet.flow;
    let refuse = |response| transport::respond(services, flow, response);
    let Some(aor) = request.headers.to().ok().and_then(|to| aor_of(services, &to.uri)) else {
        // RFC 3261 §10.3 step 5.
        return refuse(endpoint::stateless(&request, StatusCode::NOT_FOUND));
    };
    if packet.passed_on != Some(true) {
        match authenticate(services, &request, Challenge::Registrar) {
            Ok(user) if user == aor => learn(services, packet, Outcome::Welcome),
            // §10.3 step 4: nobody registers for somebody else.
            Ok(_) => return refuse(endpoint::stateless(&request, StatusCode::FORBIDDEN)),
            Err(Denied::Asked(response)) => return ask(services, packet, &request, *response),
            Err(Denied::Wrong(response)) => return turn_away(services, packet, request, *response),
        }
    }
    let Some(vnode) = aor.vnode(&services.cluster.vnodes()) else { return };
    if let Some(open) = services.vnode(vnode) {
        let _ = open.registrar.cast(RegistrarMsg::Register(aor, Box::new(request), flow));
        return;
    }
    let owner = services.cluster.owner_of(vnode).filter(|owner| *owner != services.node && packet.passed_on.is_none());
    let parcel = Parcel::Packet { vnode, flow: flow.into(), authenticated: true, bytes: packet.bytes.clone() };
    let sent = owner.is_some_and(|owner| services.gateways.send(services, owner, &parcel));
    // In the moments of a takeover the phone's retransmission is sooner than anything that we could tell it;
    // without a majority there is nobody to wait for.
    if !sent && packet.passed_on.is_none() && !services.cluster.may_commit(vnode) {
        refuse(unavailable(&request));
    }
}

// --- calls ---

fn invite(services: &Arc<Services>, request: Request, packet: &Packet) {
    let (flow, vnode) = (packet.flow, packet.vnode);
    let key = endpoint::invite_key(&request);
    if let Some(call) = services.directory.call_of(&key) {
        // Repeated. Its transaction knows what it was answered.
        let _ = services.directory.tell_dialog(call, LegId::CALLER, DialogMsg::Request(Box::new(request), flow));
        return;
    }
    let refuse = |response| transport::respond(services, flow, response);
    let caller = match authenticate(services, &request, Challenge::Proxy) {
        Ok(caller) => {
            learn(services, packet, Outcome::Welcome);
            caller
        }
        Err(Denied::Asked(response)) => return ask(services, packet, &request, *response),
        Err(Denied::Wrong(response)) => return turn_away(services, packet, request, *response),
    };
    let claimed = request.headers.from().ok().and_then(|from| aor_of(services, &from.uri));
    if claimed.as_ref() != Some(&caller) {
        return refuse(endpoint::stateless(&request, StatusCode::FORBIDDEN));
    }
    if Uri::parse(&request.uri).is_ok_and(|uri| uri.scheme == Scheme::Sips) {
        // It would want TLS on every hop (RFC 5630 §3.1), which nothing here sees to.
        return refuse(endpoint::stateless(&request, StatusCode::UNSUPPORTED_URI_SCHEME));
    }
    let Some((callee, gruu)) = callee_of(services, &request) else {
        return refuse(endpoint::stateless(&request, StatusCode::NOT_FOUND));
    };
    if services.cluster.read_meta(|meta| meta.user(&callee).is_none()) {
        let response = endpoint::stateless(&request, StatusCode::NOT_FOUND);
        return turn_away(services, packet, request, response);
    }
    match services.ownership(vnode) {
        Ownership::Owner { .. } => {}
        // It is on its way to another node, which takes the phone's next repetition.
        Ownership::None => return,
        Ownership::Custodian => return refuse(unavailable(&request)),
    }
    let id = CallId(rand::random());
    // From here on a repeated INVITE is known, however long the rest takes.
    if !services.directory.reserve(id, vnode, Some(key)) {
        return;
    }
    let vnodes = services.cluster.vnodes();
    let (Some(home), Some(callers)) = (callee.vnode(&vnodes), caller.vnode(&vnodes)) else { return };
    let here = targets(services, vnode, &callee, &gateway::local_bindings(services, home, &callee), gruu.as_ref());
    let phone = phone_of(&gateway::local_bindings(services, callers, &caller), &caller, &request, flow);
    let new = NewInvite { id, vnode, request, flow, caller, phone, callee, gruu };
    if !here.is_empty() {
        return new.begin(services, here);
    }
    let services = services.clone();
    tokio::spawn(async move {
        match ask_for_targets(&services, vnode, home, &new.callee, new.gruu.as_ref()).await {
            Ok(targets) if targets.is_empty() => {
                // RFC 5627 §5.3: the name of a phone that has left is no name any more, unless it is for good.
                let stays = new.gruu.as_ref().is_none_or(Gruu::stays);
                let status = if stays { StatusCode::TEMPORARILY_UNAVAILABLE } else { StatusCode::NOT_FOUND };
                new.refuse(&services, endpoint::stateless(&new.request, status));
            }
            Ok(targets) => new.begin(&services, targets),
            Err(NoOwner) => new.refuse(&services, unavailable(&new.request)),
        }
    });
}

struct NewInvite {
    id: CallId,
    vnode: VnodeId,
    request: Request,
    flow: Flow,
    caller: Aor,
    phone: Phone,
    callee: Aor,
    gruu: Option<Gruu>,
}

impl NewInvite {
    fn begin(self, services: &Services, targets: Vec<Target>) {
        let Some(open) = services.vnode(self.vnode) else {
            return self.refuse(services, unavailable(&self.request));
        };
        let incoming = Incoming {
            invite: self.request,
            flow: self.flow,
            targets,
            phone: self.phone,
            caller: self.caller.to_string(),
            callee: self.callee.to_string(),
        };
        let _ = open.calls.cast(CallsMsg::Begin(self.id, Box::new(incoming)));
    }

    fn refuse(&self, services: &Services, response: Response) {
        services.directory.remove(self.id);
        transport::respond(services, self.flow, response);
    }
}

/// By what flow a call reaches a phone: the one that the phone opened. Where addresses are fixed a phone that is behind no NAT is
/// reached from the call's own vnode, so that one owner has both legs and can ask them to come along.
fn way_to(services: &Services, vnode: VnodeId, binding: &Binding) -> Flow {
    // A connection can be used only where it ends.
    let direct =
        !binding.flow.transport.is_reliable() && Uri::parse(&binding.contact).is_ok_and(|uri| binding.flow.is_direct(&uri));
    let own = services.config.sip_address_of(vnode).filter(|_| services.config.is_fixed() && direct);
    own.map_or(binding.flow, |local| Flow { vnode, local, ..binding.flow })
}

/// The phone that calls. Where the caller's bindings are not at hand it is known by what its INVITE says.
fn phone_of(record: &[u8], caller: &Aor, invite: &Request, flow: Flow) -> Phone {
    let bindings = records::decode_bindings(record).unwrap_or_default();
    if let Some(binding) = binding_of(&bindings, invite, flow, clock::now()) {
        return Phone::of(caller.clone(), binding);
    }
    let contact = invite.headers.contacts().ok().and_then(|contacts| contacts.into_iter().next());
    let instance = contact.and_then(|contact| contact.param("+sip.instance").map(Text::from));
    Phone { aor: caller.clone(), instance }
}

/// Whom an INVITE is for, and which of their phones if it says so.
fn callee_of(services: &Services, request: &Request) -> Option<(Aor, Option<Gruu>)> {
    let uri = Uri::parse(&request.uri).ok()?;
    let aor = aor_of(services, &uri)?;
    match services.gruus.read(&uri, &services.config.sip.domain) {
        None => Some((aor, None)),
        Some(gruu) => gruu.ok().map(|gruu| (gruu.aor.clone(), Some(gruu))),
    }
}

/// The phones of an AoR that a call of a vnode's may reach; of a GRUU's the one that registered last.
fn targets(services: &Services, vnode: VnodeId, aor: &Aor, record: &[u8], gruu: Option<&Gruu>) -> Vec<Target> {
    let (bindings, now) = (records::decode_bindings(record).unwrap_or_default(), clock::now());
    let live = bindings.iter().rev().filter(|binding| binding.expires > now);
    let meant = live.filter(|binding| gruu.is_none_or(|gruu| gruu.is_of(binding)));
    let target = |binding: &Binding| Target {
        contact: binding.contact.clone(),
        path: binding.path.clone(),
        flow: way_to(services, vnode, binding),
        phone: Some(Phone::of(aor.clone(), binding)),
        q: binding.q,
    };
    meant.take(if gruu.is_some() { 1 } else { usize::MAX }).map(target).collect()
}

/// Finds out whom these contacts mean, and tells the call: somebody sends its caller on to them (RFC 3261 §8.1.3.4).
pub fn locate(services: &Arc<Services>, vnode: VnodeId, contacts: Vec<Text>, call: ActorRef<CallMsg>) {
    let services = services.clone();
    tokio::spawn(async move {
        let mut targets = Vec::new();
        for contact in &contacts {
            // Only to our own users: who calls others has to be allowed to.
            let Some(aor) = Uri::parse(contact).ok().and_then(|uri| aor_of(&services, &uri)) else { continue };
            let Some(home) = aor.vnode(&services.cluster.vnodes()) else { continue };
            if let Ok(found) = ask_for_targets(&services, vnode, home, &aor, None).await {
                targets.extend(found);
            }
        }
        // A call that has ended meanwhile calls nobody.
        let _ = call.cast(CallMsg::Located { contacts, targets });
    });
}

/// A replica may lag: nobody is told 480 before the owner has said so (design, *Tokens*). The error is that there
/// was no owner to ask, not even after a takeover's time.
async fn ask_for_targets(
    services: &Services,
    vnode: VnodeId,
    home: VnodeId,
    aor: &Aor,
    gruu: Option<&Gruu>,
) -> Result<Vec<Target>, NoOwner> {
    let found = |record: &[u8]| targets(services, vnode, aor, record, gruu);
    let deadline = clock::now() + OWNER_PATIENCE;
    while clock::now() < deadline {
        match services.cluster.owner_of(home) {
            // Our own replica is the owner's.
            Some(owner) if owner == services.node && services.owns(home) => {
                return Ok(found(&gateway::local_bindings(services, home, aor)));
            }
            Some(owner) if owner != services.node => {
                let question = Question::Bindings { vnode: home, aor: aor.clone() };
                if let Some(Answer::Bindings(record)) = services.gateways.ask(services, owner, &question).await {
                    return Ok(found(&record));
                }
            }
            Some(_) | None => {}
        }
        tokio::time::sleep(OWNER_PAUSE).await;
    }
    Err(NoOwner)
}

/// Nobody owns a vnode.
struct NoOwner;
