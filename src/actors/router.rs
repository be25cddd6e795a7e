//! Where a packet goes: from what [`crate::sip::endpoint`] says it is to the actor that it belongs to, here or
//! on another node. Layer: shell.
//!
//! Everything that can be decided without waiting is decided on the way in: who the user is, whether the callee
//! exists and where it is. Only a look-up that misses here asks the owner.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use ractor::ActorRef;

use super::call::{CallMsg, Incoming};
use super::calls::{self, CallsMsg, Errand};
use super::dialog::DialogMsg;
use super::elsewhere::dialed;
use super::gateway::{self, Answer, Parcel, Question};
use super::notifiers::NotifiersMsg;
use super::pager::PagerMsg;
use super::records;
use super::registrar::RegistrarMsg;
use super::registration::unavailable;
use super::services::{Peer, Services};
use super::transfer;
use super::transport;
use crate::clock;
use crate::cluster::Ownership;
use crate::ids::{Aor, CallId, LegId, VnodeId};
use crate::sip::b2bua::{Replaced, Target};
use crate::sip::dialog::Flow;
use crate::sip::digest::{self, AuthError, Credentials, Ha1};
use crate::sip::endpoint::{self, Arrival, Why};
use crate::sip::events::{self, event_of};
use crate::sip::gruu::Gruu;
use crate::sip::guard::Outcome;
use crate::sip::headers::{NameAddr, Transport};
use crate::sip::identity::is_anonymous;
use crate::sip::message::{Message, Request, Response};
use crate::sip::pager::{self, NewPage};
use crate::sip::registrar::{Binding, Phone, binding_of};
use crate::sip::token::Token;
use crate::sip::uri::{Host, Scheme, is_plain};
use crate::sip::{Method, Name, StatusCode, Text, Uri};

/// How long a look-up waits for a vnode that has no owner at the moment.
const OWNER_PATIENCE: Duration = Duration::from_secs(2);
/// RFC 3428 §8 would have it shorter still; phones say more, and a datagram carries it.
const MAX_MESSAGE_BODY: usize = 8 << 10;
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
        | Arrival::Register(request)
        | Arrival::Message(request)
        | Arrival::Event(request) = &arrival
    {
        services.repeats.asked(services.timers, flow, request, &packet.bytes, clock::uptime());
    }
    match arrival {
        Arrival::Leg(token, message) => to_leg(services, token, message, packet),
        Arrival::Invite(request) => invite(services, request, packet),
        Arrival::Cancel(request) => cancel(services, request, flow),
        Arrival::Register(request) => register(services, request, packet),
        Arrival::Message(request) => message(services, request, packet),
        Arrival::Event(request) => event(services, request, packet),
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
    if token.leg == events::LEG {
        return to_subscription(services, token, message, packet);
    }
    if token.leg.0 >= pager::FIRST_LEG {
        return to_page(services, token, message, packet);
    }
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
    pass_on(services, token, packet);
    // No owner at the moment: the phone repeats it, and there is one then.
}

/// Something came for a MESSAGE outside of calls: only answers have to do with it, and only where it is.
fn to_page(services: &Arc<Services>, token: Token, message: Message, packet: &Packet) {
    let response = match message {
        Message::Response(response) => response,
        Message::Request(request) => {
            let none = Errand::Dialog(token.leg, DialogMsg::Request(Box::new(request), packet.flow));
            return no_such_call(services, token.call, none);
        }
    };
    match services.vnode(token.vnode) {
        Some(open) => drop(open.pager.cast(PagerMsg::Response(token.call, token.leg, Box::new(response)))),
        // The phone is reached by another node's address than its sender.
        None => pass_on(services, token, packet),
    }
}

/// Something came with a subscription's token.
fn to_subscription(services: &Arc<Services>, token: Token, message: Message, packet: &Packet) {
    match services.vnode(token.vnode) {
        Some(open) => drop(open.notifiers.cast(NotifiersMsg::Within(token.call, Box::new(message), packet.flow))),
        None => pass_on(services, token, packet),
    }
}

/// To whoever owns a token's vnode, once.
fn pass_on(services: &Services, token: Token, packet: &Packet) {
    let owner = services.cluster.owner_of(token.vnode).filter(|owner| *owner != services.node);
    if let Some(owner) = owner.filter(|_| packet.passed_on.is_none()) {
        let bytes = packet.bytes.clone();
        let parcel = Parcel::Packet { vnode: token.vnode, flow: packet.flow.into(), authenticated: false, bytes };
        services.gateways.send(services, owner, &parcel);
    }
}

/// Something came for a call that isn't here: whoever asked is told.
#[allow(clippy::wildcard_enum_match_arm, reason = "every other method is treated alike")]
pub fn no_such_call(services: &Arc<Services>, call: CallId, errand: Errand) {
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
fn authenticate(services: &Services, packet: &Packet, request: &Request, challenge: Challenge) -> Result<Aor, Denied> {
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
    let Some(credentials) = credentials_of(request, &answers, realm) else { return Err(Denied::Asked(ask(false))) };
    let user = credentials.username.split('@').next().unwrap_or("");
    let aor = Aor::new(user, realm);
    let known = services
        .cluster
        .read_meta(|meta| meta.user(&aor).map(|user| Ha1 { md5: user.ha1_md5.clone(), sha256: user.ha1_sha256.clone() }));
    // A user that doesn't exist is told what a wrong password is told.
    let ha1 = known.clone().unwrap_or(Ha1 { md5: String::new(), sha256: String::new() });
    match services.nonces.verify(&credentials, &request.method, realm, &ha1, clock::now()) {
        Ok(()) if known.is_some() && is_fresh(services, packet, request, &credentials) => Ok(aor),
        Ok(()) if known.is_some() => Err(Denied::Asked(ask(true))),
        Ok(()) | Err(AuthError::Wrong) => Err(Denied::Wrong(ask(false))),
        Err(AuthError::Stale) => Err(Denied::Asked(ask(true))),
    }
}

/// Who a request says that it is of: somebody else has checked it.
fn said_user(services: &Services, request: &Request) -> Option<Aor> {
    let realm = &services.config.sip.domain;
    let credentials = credentials_of(request, &Name::Authorization, realm)?;
    Some(Aor::new(credentials.username.split('@').next().unwrap_or(""), realm))
}

/// The answer to our challenge; those for other realms are somebody else's.
fn credentials_of(request: &Request, answers: &Name, realm: &str) -> Option<Credentials> {
    let all = request.headers.all(answers).filter_map(|value| Text::try_from(value.clone()).ok());
    all.filter_map(|text| Credentials::parse(&text)).find(|credentials| credentials.realm == *realm)
}

/// Whether nobody has shown these credentials before, with anything else or from anywhere else; and whether it is for what is asked, as far
/// as they say.
fn is_fresh(services: &Services, packet: &Packet, request: &Request, credentials: &Credentials) -> bool {
    let user = |uri: &Text| Uri::parse(uri).ok().and_then(|uri| uri.user_text());
    if user(&credentials.uri.as_str().into()).is_some_and(|meant| user(&request.uri).is_some_and(|asked| asked != meant)) {
        return false;
    }
    let mut accepted = services.accepted.lock().unwrap_or_else(PoisonError::into_inner);
    let said = digest::said(&packet.bytes, packet.flow.remote);
    accepted.is_fresh(credentials, said, services.timers.give_up(), clock::now())
}

/// The peer that sent a request, unless it comes with credentials: then it is somebody's who shares its address.
fn peer_of(services: &Services, request: &Request, flow: Flow) -> Option<Peer> {
    let bare = request.headers.get(&Name::Authorization).is_none() && request.headers.get(&Name::ProxyAuthorization).is_none();
    let certified = || services.sockets.peer_of(&flow).map(|peer| Peer::clone(&peer));
    services.peer_at(flow.remote.ip()).cloned().or_else(certified).filter(|_| bare)
}

/// Asks for credentials, if it is worth it.
fn ask(services: &Arc<Services>, packet: &Packet, request: &Request, response: Response) {
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
        || services.config.sip.aliases.iter().any(|alias| host.eq_ignore_ascii_case(alias))
        || services
            .config
            .cluster
            .vnode
            .iter()
            .filter_map(|vnode| services.config.addresses_of(vnode.id))
            .any(|own| own.all().any(|ip| uri.host == Some(Host::Ip(ip))));
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
    if peer_of(services, &request, flow).is_some_and(|peer| peer.registers || peer.user == aor) {
        learn(services, packet, Outcome::Welcome);
    } else if packet.passed_on != Some(true) {
        match authenticate(services, packet, &request, Challenge::Registrar) {
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
    pass_to_home(services, vnode, &request, packet);
}

// --- calls ---

/// Who sends a request to whom.
struct Admitted {
    caller: Aor,
    /// The caller is a peer whose word on who calls is taken.
    trusted: bool,
    callee: Aor,
    /// Which of the callee's phones is meant, if the request says so.
    gruu: Option<Gruu>,
    /// The dialog that is to be replaced.
    replaced: Option<Replaced>,
}

/// Checks who sends an INVITE or a MESSAGE, and to whom. Whoever may not, or means nobody, is told so.
fn admit(services: &Arc<Services>, request: Request, packet: &Packet) -> Option<(Request, Admitted)> {
    let refuse = |request: &Request, status| transport::respond(services, packet.flow, endpoint::stateless(request, status));
    let peer = peer_of(services, &request, packet.flow).map(|peer| peer.user.clone());
    let trusted = peer.is_some();
    let caller = match peer.map_or_else(|| authenticate(services, packet, &request, Challenge::Proxy), Ok) {
        Ok(caller) => caller,
        Err(Denied::Asked(response)) => {
            ask(services, packet, &request, *response);
            return None;
        }
        Err(Denied::Wrong(response)) => {
            turn_away(services, packet, request, *response);
            return None;
        }
    };
    learn(services, packet, Outcome::Welcome);
    let from = request.headers.from().ok();
    let claims = |from: &NameAddr| is_anonymous(&from.uri) || aor_of(services, &from.uri).as_ref() == Some(&caller);
    if !trusted && !from.as_ref().is_some_and(claims) {
        refuse(&request, StatusCode::FORBIDDEN);
        return None;
    }
    if Uri::parse(&request.uri).is_ok_and(|uri| uri.scheme == Scheme::Sips) {
        // It would want TLS on every hop (RFC 5630 §3.1), which nothing here sees to.
        refuse(&request, StatusCode::UNSUPPORTED_URI_SCHEME);
        return None;
    }
    let replaces = request.headers.text(&Name::Replaces).filter(|_| request.method == Method::Invite);
    let replaced = match replaces.map(|header| transfer::replaced(services, &header)).transpose() {
        Ok(replaced) => replaced,
        Err(status) => {
            refuse(&request, status);
            return None;
        }
    };
    let meant = replaced.as_ref().map(|replaced| (replaced.aor.clone(), None));
    let Some((callee, gruu)) = meant.or_else(|| callee_of(services, &request)) else {
        refuse(&request, StatusCode::NOT_FOUND);
        return None;
    };
    if services.elsewhere.serves(callee.domain()) {
        // Nobody else's calls are passed on to others.
        if trusted {
            refuse(&request, StatusCode::FORBIDDEN);
            return None;
        }
    } else if services.cluster.read_meta(|meta| meta.user(&callee).is_none()) {
        let response = endpoint::stateless(&request, StatusCode::NOT_FOUND);
        turn_away(services, packet, request, response);
        return None;
    }
    match services.ownership(packet.vnode) {
        Ownership::Owner { .. } => Some((request, Admitted { caller, trusted, callee, gruu, replaced })),
        // It is on its way to another node, which takes the phone's next repetition.
        Ownership::None => None,
        Ownership::Custodian => {
            transport::respond(services, packet.flow, unavailable(&request));
            None
        }
    }
}

/// Finds the callee's phones, at once if some are known here, and goes on with them: at least one, or why there is none.
fn find(
    services: &Arc<Services>,
    vnode: VnodeId,
    callee: &Aor,
    gruu: Option<&Gruu>,
    then: impl FnOnce(&Arc<Services>, Result<Vec<Target>, StatusCode>) + Send + 'static,
) {
    if services.elsewhere.serves(callee.domain()) {
        let (services, callee) = (services.clone(), callee.clone());
        tokio::spawn(async move {
            let found = services.elsewhere.targets(&services.config, vnode, &callee).await;
            // RFC 3263 §4.3: nobody to try is as if all had failed.
            then(&services, if found.is_empty() { Err(StatusCode::SERVICE_UNAVAILABLE) } else { Ok(found) });
        });
        return;
    }
    let Some(home) = callee.vnode(&services.cluster.vnodes()) else { return then(services, Err(StatusCode::NOT_FOUND)) };
    let here = targets(services, vnode, callee, &gateway::local_bindings(services, home, callee), gruu);
    if !here.is_empty() {
        return then(services, Ok(here));
    }
    let (services, callee, gruu) = (services.clone(), callee.clone(), gruu.cloned());
    tokio::spawn(async move {
        let found = match ask_for_targets(&services, vnode, home, &callee, gruu.as_ref()).await {
            Ok(targets) if targets.is_empty() => {
                // RFC 5627 §5.3: the name of a phone that has left is no name any more, unless it is for good.
                let stays = gruu.as_ref().is_none_or(Gruu::stays);
                Err(if stays { StatusCode::TEMPORARILY_UNAVAILABLE } else { StatusCode::NOT_FOUND })
            }
            Ok(targets) => Ok(targets),
            Err(NoOwner) => Err(StatusCode::SERVICE_UNAVAILABLE),
        };
        then(&services, found);
    });
}

fn invite(services: &Arc<Services>, request: Request, packet: &Packet) {
    let (flow, vnode) = (packet.flow, packet.vnode);
    let key = endpoint::invite_key(&request);
    if let Some(call) = services.directory.call_of(&key) {
        // Repeated. Its transaction knows what it was answered.
        let _ = services.directory.tell_dialog(call, LegId::CALLER, DialogMsg::Request(Box::new(request), flow));
        return;
    }
    if services.directory.is_merged(&key) {
        // Whoever has overheard a call could ask for it without end.
        learn(services, packet, Outcome::Nothing);
        return transport::respond(services, flow, endpoint::stateless(&request, StatusCode::LOOP_DETECTED));
    }
    let Some((request, admitted)) = admit(services, request, packet) else { return };
    let Admitted { caller, trusted, callee, gruu, replaced } = admitted;
    let id = CallId(rand::random());
    // From here on a repeated INVITE is known, however long the rest takes.
    if !services.directory.begin(id, vnode, key) {
        return;
    }
    let Some(callers) = caller.vnode(&services.cluster.vnodes()) else { return };
    let phone = phone_of(&gateway::local_bindings(services, callers, &caller), &caller, &request, flow);
    let names = (caller.to_string(), callee.to_string());
    let only = replaced.map(|replaced| replaced.target);
    let begin = move |services: &Arc<Services>, found: Result<Vec<Target>, StatusCode>| {
        let open = services.vnode(vnode).ok_or(StatusCode::SERVICE_UNAVAILABLE);
        match found.and_then(|targets| Ok((targets, open?))) {
            Ok((targets, open)) => {
                let (caller, callee) = names;
                let incoming = Incoming { invite: request, flow, targets, phone, trusted, caller, callee };
                let _ = open.calls.cast(CallsMsg::Begin(id, Box::new(incoming)));
            }
            Err(status) => turn_back(services, id, flow, &request, status),
        }
    };
    match only {
        Some(target) => begin(services, Ok(vec![target])),
        None => find(services, vnode, &callee, gruu.as_ref(), begin),
    }
}

/// A MESSAGE that is part of no call (RFC 3428).
fn message(services: &Arc<Services>, request: Request, packet: &Packet) {
    let (from, vnode) = (packet.flow, packet.vnode);
    if request.body.len() > MAX_MESSAGE_BODY {
        return transport::respond(services, from, endpoint::stateless(&request, StatusCode::REQUEST_ENTITY_TOO_LARGE));
    }
    let Some((request, Admitted { caller, trusted, callee, gruu, .. })) = admit(services, request, packet) else { return };
    find(services, vnode, &callee, gruu.as_ref(), move |services, found| match (found, services.vnode(vnode)) {
        (Ok(targets), Some(open)) => {
            let id = CallId(rand::random());
            let new = NewPage { id, vnode, request, from, targets, user: caller.to_string(), trusted };
            let _ = open.pager.cast(PagerMsg::Begin(Box::new(new)));
        }
        // It is on its way to another node, which takes the phone's next repetition.
        (Ok(_), None) => {}
        (Err(status), _) => refuse(services, from, &request, status),
    });
}

/// A SUBSCRIBE that begins something, or a PUBLISH: it goes to where its user's bindings are.
fn event(services: &Arc<Services>, request: Request, packet: &Packet) {
    let flow = packet.flow;
    let refuse = |response| transport::respond(services, flow, response);
    if request.body.len() > events::MAX_BODY {
        return refuse(endpoint::stateless(&request, StatusCode::REQUEST_ENTITY_TOO_LARGE));
    }
    let peer = peer_of(services, &request, flow).map(|peer| peer.user.clone());
    let trusted = peer.is_some();
    let known = if packet.passed_on == Some(true) { said_user(services, &request) } else { None };
    let user = match peer.or(known).map_or_else(|| authenticate(services, packet, &request, Challenge::Registrar), Ok) {
        Ok(user) => user,
        Err(Denied::Asked(response)) => return ask(services, packet, &request, *response),
        Err(Denied::Wrong(response)) => return turn_away(services, packet, request, *response),
    };
    learn(services, packet, Outcome::Welcome);
    let Some((aor, _)) = callee_of(services, &request) else {
        return refuse(endpoint::stateless(&request, StatusCode::NOT_FOUND));
    };
    if services.cluster.read_meta(|meta| meta.user(&aor).is_none()) {
        let response = endpoint::stateless(&request, StatusCode::NOT_FOUND);
        return turn_away(services, packet, request, response);
    }
    // Nobody speaks for somebody else, nor knows what is only for them.
    let private =
        request.method == Method::Publish || event_of(&request.headers).is_some_and(|(package, _)| package.is_private());
    if private && user != aor && !trusted {
        return refuse(endpoint::stateless(&request, StatusCode::FORBIDDEN));
    }
    let Some(vnode) = aor.vnode(&services.cluster.vnodes()) else { return };
    if let Some(open) = services.vnode(vnode) {
        let home = user.vnode(&services.cluster.vnodes());
        let bindings = home.map(|home| gateway::local_bindings(services, home, &user)).unwrap_or_default();
        let phone = phone_of(&bindings, &user, &request, flow);
        let _ = open.notifiers.cast(NotifiersMsg::Asked(aor, Box::new(request), flow, Some(phone)));
        return;
    }
    pass_to_home(services, vnode, &request, packet);
}

/// To the owner of the vnode that has a user's records; its user is known.
fn pass_to_home(services: &Arc<Services>, vnode: VnodeId, request: &Request, packet: &Packet) {
    let owner = services.cluster.owner_of(vnode).filter(|owner| *owner != services.node && packet.passed_on.is_none());
    let parcel = Parcel::Packet { vnode, flow: packet.flow.into(), authenticated: true, bytes: packet.bytes.clone() };
    let sent = owner.is_some_and(|owner| services.gateways.send(services, owner, &parcel));
    // In the moments of a takeover the phone's retransmission is sooner than anything that we could tell it;
    // without a majority there is nobody to wait for.
    if !sent && packet.passed_on.is_none() && !services.cluster.may_commit(vnode) {
        transport::respond(services, packet.flow, unavailable(request));
    }
}

/// What was about to begin doesn't.
fn turn_back(services: &Arc<Services>, id: CallId, flow: Flow, request: &Request, status: StatusCode) {
    services.directory.remove(id);
    refuse(services, flow, request, status);
}

fn refuse(services: &Arc<Services>, flow: Flow, request: &Request, status: StatusCode) {
    let is_unavailable = status == StatusCode::SERVICE_UNAVAILABLE;
    let response = if is_unavailable { unavailable(request) } else { endpoint::stateless(request, status) };
    transport::respond(services, flow, response);
}

/// By what flow a call reaches a phone: the one that the phone opened. Where addresses are fixed a phone that is behind no NAT is
/// reached from the call's own vnode, so that one owner has both legs and can ask them to come along.
fn way_to(services: &Services, vnode: VnodeId, binding: &Binding) -> Flow {
    // A connection can be used only where it ends.
    let direct =
        !binding.flow.transport.is_reliable() && Uri::parse(&binding.contact).is_ok_and(|uri| binding.flow.is_direct(&uri));
    let own = services.config.listens_toward(vnode, services.config.sip.port, binding.flow.remote.ip());
    let own = own.filter(|_| services.config.is_fixed() && direct);
    own.map_or(binding.flow, |local| Flow { vnode, local, ..binding.flow })
}

/// By what connection a call reaches a phone with what is too long for a datagram (RFC 3261 §18.1.1): one that is behind no NAT may listen.
fn long_way_to(services: &Services, vnode: VnodeId, binding: &Binding) -> Option<Flow> {
    let wanted = services.config.sip.long_by_tcp && binding.flow.transport == Transport::Udp && binding.path.is_empty();
    let uri = Uri::parse(&binding.contact).ok().filter(|uri| wanted && binding.flow.is_direct(uri))?;
    // Who says over what is meant so.
    uri.param("transport").is_none().then(|| dialed(&services.config, vnode, Transport::Tcp, binding.flow.remote))?
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

/// Who is meant by a Contact of ours: what a phone knows of another, and tells a third.
fn named_by(services: &Services, uri: &Uri) -> Option<Aor> {
    let token = uri.user_text()?.parse::<Token>().ok()?;
    transfer::user_behind(services, token)
}

/// Whom an INVITE is for, and which of their phones if it says so.
fn callee_of(services: &Services, request: &Request) -> Option<(Aor, Option<Gruu>)> {
    let uri = Uri::parse(&request.uri).ok()?;
    if uri.user_text().is_some_and(|user| user.parse::<Token>().is_ok()) {
        return named_by(services, &uri).map(|aor| (aor, None));
    }
    let Some(aor) = aor_of(services, &uri) else {
        let user = uri.user_text().filter(|user| is_plain(user))?;
        return services.elsewhere.serves(&uri.host_text()).then(|| (Aor::new(&user, &uri.host_text()), None));
    };
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
        long: long_way_to(services, vnode, binding),
        phone: Some(Phone::of(aor.clone(), binding)),
        q: binding.q,
        replaces: None,
    };
    meant.take(if gruu.is_some() { 1 } else { usize::MAX }).map(target).collect()
}

/// Finds out whom these contacts mean, and tells the call: somebody sends its caller on to them (RFC 3261 §8.1.3.4).
pub fn locate(services: &Arc<Services>, vnode: VnodeId, contacts: Vec<Text>, call: ActorRef<CallMsg>) {
    let services = services.clone();
    tokio::spawn(async move {
        let mut targets = Vec::new();
        for contact in &contacts {
            let Ok(uri) = Uri::parse(contact) else { continue };
            if let Some(header) = uri.header("Replaces") {
                // One whose dialog is no more is nobody.
                let replaced = transfer::replaced(&services, &header).ok().map(|replaced| replaced.target);
                targets.extend(replaced.filter(|target| target.may_be_sent_to(|user| services.is_a_peers(user))));
                continue;
            }
            // Only to our own users: who calls others has to be allowed to.
            let Some(aor) = named_by(&services, &uri).or_else(|| aor_of(&services, &uri)) else { continue };
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
    services: &Arc<Services>,
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
