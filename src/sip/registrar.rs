//! The registrar (RFC 3261 §10.3): what a REGISTER does to the bindings of one address-of-record. Layer: pure.
//!
//! Besides: Path (RFC 3327), flows (RFC 5626), GRUUs (RFC 5627).
//!
//! The answer is a [`Step`]: the bindings to commit, and the 200 that may leave after that. A REGISTER that
//! changes nothing (a query, or one that we have seen) commits nothing.

use std::time::Duration;

use super::dialog::Flow;
use super::endpoint::stateless;
use super::gruu::Gruus;
use super::headers::{HeaderError, NameAddr};
use super::message::{Request, Response};
use super::step::Step;
use super::uri::{Scheme, Uri};
use super::{Name, StatusCode, Text};
use crate::clock::Timestamp;
use crate::ids::Aor;

/// One contact of an address-of-record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    /// The Contact's URI.
    pub contact: Text,
    /// `+sip.instance`, if the phone gave one.
    pub instance: Option<Text>,
    /// `reg-id`: which of the instance's flows this is (RFC 5626 §4.2).
    pub reg_id: Option<u32>,
    /// The proxies on the way to the phone, as Route values (RFC 3327).
    pub path: Vec<Text>,
    /// Thousandths of q; 1000 when not given.
    pub q: u16,
    /// The Call-ID of the registration.
    pub call_id: Text,
    /// Its CSeq.
    pub cseq: u32,
    /// When the binding ends.
    pub expires: Timestamp,
    /// How to reach the phone.
    pub flow: Flow,
    /// What phone it says it is.
    pub user_agent: Option<Text>,
}

/// Who is at the end of a leg: a phone that is registered, however it is reached today (RFC 5626 §5.3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Phone {
    /// Whose it is.
    pub aor: Aor,
    /// Its `+sip.instance`; one without is known by its contact.
    pub instance: Option<Text>,
}

/// The instance of who is no phone.
const SERVER: Text = Text::from_static("server");

impl Phone {
    /// Somebody of another domain, whose servers are so many ways to them (RFC 3263).
    pub fn elsewhere(aor: Aor) -> Self {
        Self { aor, instance: Some(SERVER) }
    }

    /// Whether it is somebody of another domain.
    pub fn is_elsewhere(&self) -> bool {
        self.instance.as_ref() == Some(&SERVER)
    }

    /// The phone of a binding.
    pub fn of(aor: Aor, binding: &Binding) -> Self {
        Self { aor, instance: binding.instance.clone() }
    }

    /// The flow by which the phone is reached now that was reached by `flow` and gave the contact `target`. None while it is registered
    /// by that, and while it is not registered at all.
    pub fn way(&self, bindings: &[Binding], flow: Flow, target: &str, now: Timestamp) -> Option<Flow> {
        let mut live = bindings.iter().filter(|binding| binding.expires > now);
        if live.clone().any(|binding| binding.flow == flow) {
            return None;
        }
        let same = |binding: &&Binding| match &self.instance {
            Some(instance) => binding.instance.as_ref() == Some(instance),
            None => &*binding.contact == target,
        };
        // The last that it has made.
        live.rfind(same).map(|binding| binding.flow)
    }
}

/// The binding that a caller's phone has: the one that its INVITE came by, or else the one with its contact.
pub fn binding_of<'a>(bindings: &'a [Binding], invite: &Request, flow: Flow, now: Timestamp) -> Option<&'a Binding> {
    let contacts = invite.headers.contacts().ok()?;
    let contact = contacts.first()?;
    let live = || bindings.iter().filter(|binding| binding.expires > now);
    live().rfind(|binding| binding.flow == flow).or_else(|| {
        // Whichever of its flows.
        live().rfind(|binding| is_same(binding, contact, binding.reg_id))
    })
}

/// How long registrations last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// A phone that asks for less gets 423.
    pub min: Duration,
    /// A phone that asks for more gets this.
    pub max: Duration,
    /// A phone that asks for nothing gets this.
    pub default: Duration,
    /// At most this many contacts an address-of-record.
    pub contacts: usize,
}

/// Whose registrations are taken.
#[derive(Debug, Clone, Copy)]
pub struct Registrar<'a> {
    /// The address-of-record.
    pub aor: &'a Aor,
    /// Names for single phones of it.
    pub gruus: &'a Gruus,
    /// How long registrations last, and how many there are.
    pub policy: Policy,
    /// By which proxies phones are to send their requests, as URIs (RFC 3608).
    pub service_route: &'a [String],
}

/// Why a REGISTER was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegisterError {
    /// A header could not be read.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// `*` with other contacts, or with an expiry that is not 0 (§10.3 step 6).
    #[error("Contact: * stands alone and with Expires: 0")]
    Star,
    /// Too short (§10.3 step 7).
    #[error("asked for {asked:?}, the minimum is {minimum:?}")]
    IntervalTooBrief {
        /// What the phone wanted.
        asked: Duration,
        /// What it must want.
        minimum: Duration,
    },
    /// An older CSeq with the same Call-ID (§10.3 step 7).
    #[error("CSeq is older than the binding's")]
    OutOfOrder,
    /// More contacts than [`Policy::contacts`].
    #[error("too many contacts")]
    TooMany,
    /// A contact that leads back to the address-of-record, or to nothing (RFC 5627 §5.1).
    #[error("a contact that is no phone")]
    NoPhone,
    /// A flow (RFC 5626) and another contact besides it.
    #[error("a flow is registered alone")]
    FlowAmongOthers,
    /// A proxy in between that doesn't keep flows (RFC 5626 §6).
    #[error("the first hop does not keep flows")]
    FirstHop,
}

impl RegisterError {
    /// What the phone gets.
    pub fn response(&self, request: &Request) -> Response {
        match self {
            Self::Header(_) | Self::Star | Self::FlowAmongOthers => stateless(request, StatusCode::BAD_REQUEST),
            Self::IntervalTooBrief { minimum, .. } => {
                stateless(request, StatusCode::INTERVAL_TOO_BRIEF).with(Name::MinExpires, minimum.as_secs().to_string())
            }
            Self::OutOfOrder => stateless(request, StatusCode::SERVER_INTERNAL_ERROR),
            Self::TooMany | Self::NoPhone => stateless(request, StatusCode::FORBIDDEN),
            Self::FirstHop => stateless(request, StatusCode::FIRST_HOP_LACKS_OUTBOUND),
        }
    }
}

impl Registrar<'_> {
    /// Carries a REGISTER out against the bindings as they are. The step's mutation is all bindings after it.
    pub fn register(
        &self,
        bindings: &[Binding],
        request: &Request,
        flow: Flow,
        now: Timestamp,
    ) -> Result<Step<Vec<Binding>, Response>, RegisterError> {
        let headers = &request.headers;
        let (call_id, cseq) = (headers.call_id()?, headers.cseq()?.number);
        let expires = headers.number(&Name::Expires, "Expires")?;
        let contacts = headers.contacts()?;
        let outbound = Outbound::of(request);
        let mut live: Vec<Binding> = bindings.iter().filter(|binding| binding.expires > now).cloned().collect();
        if headers.has_contact_star() {
            if !contacts.is_empty() || expires != Some(0) {
                return Err(RegisterError::Star);
            }
            if live.iter().any(|binding| is_older(binding, &call_id, cseq)) {
                return Err(RegisterError::OutOfOrder);
            }
            live.clear();
        }
        let (mut lasting, mut flows) = (0, false);
        for contact in &contacts {
            let lifetime = self.lifetime(contact, expires)?;
            let reg_id = outbound.reg_id(contact)?;
            lasting += usize::from(!lifetime.is_zero());
            flows |= reg_id.is_some() && !lifetime.is_zero();
            if flows && lasting > 1 {
                return Err(RegisterError::FlowAmongOthers);
            }
            let known = live.iter().position(|binding| is_same(binding, contact, reg_id));
            if let Some(at) = known {
                if is_older(&live[at], &call_id, cseq) {
                    return Err(RegisterError::OutOfOrder);
                }
                // The same REGISTER again, its 200 lost: what it wanted is so already.
                if live[at].call_id == call_id && live[at].cseq == cseq {
                    continue;
                }
                live.remove(at);
            }
            if lifetime.is_zero() {
                continue;
            }
            self.check(contact)?;
            live.push(Binding {
                contact: Text::from(contact.uri.to_string()),
                instance: contact.param("+sip.instance").map(Text::from),
                reg_id,
                path: headers.list(&Name::Path).collect(),
                q: thousandths(contact.param("q")),
                call_id: call_id.clone(),
                cseq,
                expires: now + lifetime,
                flow: flow.toward(&contact.uri),
                user_agent: headers.text(&Name::UserAgent),
            });
        }
        if contacts.len() > self.policy.contacts {
            return Err(RegisterError::TooMany);
        }
        // A phone whose contact changes with each start leaves its old ones behind: the oldest go.
        live.drain(..live.len().saturating_sub(self.policy.contacts));
        let answer = self.ok(request, &live, now);
        if live == bindings { Ok(Step::free(vec![answer])) } else { Ok(Step::promise(live, vec![answer])) }
    }

    /// RFC 5627 §5.1: a contact that leads back to us would be called for ever.
    fn check(&self, contact: &NameAddr) -> Result<(), RegisterError> {
        let uri = &contact.uri;
        let is_sip = matches!(uri.scheme, Scheme::Sip | Scheme::Sips);
        let own = uri.host_text() == self.aor.domain()
            && uri.port.is_none()
            && uri.user_text().is_some_and(|user| user == self.aor.user());
        let gruu = uri.host_text() == self.aor.domain() && uri.param("gr").is_some();
        if is_sip && !own && !gruu { Ok(()) } else { Err(RegisterError::NoPhone) }
    }

    fn lifetime(&self, contact: &NameAddr, expires: Option<u32>) -> Result<Duration, RegisterError> {
        // §10.2.1.1: the contact's own parameter goes before the header; one that can't be read counts as absent.
        let asked = contact.param("expires").and_then(|text| text.parse::<u32>().ok()).or(expires);
        let asked = asked.map_or(self.policy.default, |seconds| Duration::from_secs(seconds.into()));
        if !asked.is_zero() && asked < self.policy.min {
            return Err(RegisterError::IntervalTooBrief { asked, minimum: self.policy.min });
        }
        Ok(asked.min(self.policy.max))
    }

    fn ok(&self, request: &Request, bindings: &[Binding], now: Timestamp) -> Response {
        let mut response = stateless(request, StatusCode::OK);
        let supports = |option: &str| supports(request, option);
        for binding in bindings {
            let seconds = binding.expires.since(now).as_millis().div_ceil(1000);
            let mut value = format!("<{}>;expires={seconds}", binding.contact);
            if binding.q < 1000 {
                value.push_str(&format!(";q={}.{:03}", binding.q / 1000, binding.q % 1000));
            }
            if let Some(instance) = &binding.instance {
                value.push_str(&format!(";+sip.instance=\"{instance}\""));
                if supports("gruu") {
                    let public = Gruus::public(self.aor, instance);
                    let temporary = self.gruus.temporary(self.aor, instance, &binding.call_id, binding.cseq, now);
                    value.push_str(&format!(";pub-gruu=\"{public}\";temp-gruu=\"{temporary}\""));
                }
            }
            if let Some(reg_id) = binding.reg_id {
                value.push_str(&format!(";reg-id={reg_id}"));
            }
            response.headers.push_text(Name::Contact, value);
        }
        // RFC 3608 §6.4: in 2xx, and in their order.
        for uri in self.service_route {
            response.headers.push_text(Name::ServiceRoute, format!("<{uri}>"));
        }
        if supports("path") {
            response.headers.copy(&request.headers, &Name::Path);
        }
        let is_flow = |contact: &NameAddr| Outbound::of(request).reg_id(contact).is_ok_and(|reg_id| reg_id.is_some());
        let flows = request.headers.contacts().is_ok_and(|contacts| contacts.iter().any(is_flow));
        if flows && supports("outbound") {
            response.headers.push_text(Name::Require, "outbound");
        }
        response.headers.push_text(Name::Supported, SUPPORTED);
        response
    }
}

/// What the registrar can do.
const SUPPORTED: &str = "path, outbound, gruu";

fn supports(request: &Request, option: &str) -> bool {
    request.headers.list(&Name::Supported).any(|own| own.eq_ignore_ascii_case(option))
}

/// Whether a phone may register flows by this REGISTER (RFC 5626 §6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outbound {
    Applies,
    /// A proxy in between doesn't keep flows, and the phone must hear of it.
    Refused,
    /// The same, and the phone doesn't care.
    Ignored,
}

impl Outbound {
    fn of(request: &Request) -> Self {
        let is_first_hop = request.headers.list(&Name::Via).count() == 1;
        let edge = request.headers.list(&Name::Path).last().and_then(|path| NameAddr::parse(&path, "Path").ok());
        if is_first_hop || edge.is_some_and(|edge| edge.uri.param("ob").is_some()) {
            Self::Applies
        } else if supports(request, "outbound") {
            Self::Refused
        } else {
            Self::Ignored
        }
    }

    fn reg_id(self, contact: &NameAddr) -> Result<Option<u32>, RegisterError> {
        // One without an instance means nothing.
        let wanted = contact.param("+sip.instance").and_then(|_| contact.param("reg-id")?.parse().ok()).filter(|id| *id > 0);
        match self {
            Self::Applies => Ok(wanted),
            Self::Refused if wanted.is_some() => Err(RegisterError::FirstHop),
            Self::Refused | Self::Ignored => Ok(None),
        }
    }
}

fn is_same(binding: &Binding, contact: &NameAddr, reg_id: Option<u32>) -> bool {
    // RFC 5626 §6: the instance is the phone, whatever its contact is today.
    if let (Some(a), Some(b)) = (&binding.instance, contact.param("+sip.instance")) {
        return **a == *b && binding.reg_id == reg_id;
    }
    Uri::parse(&binding.contact).is_ok_and(|uri| uri.matches(&contact.uri))
}

fn is_older(binding: &Binding, call_id: &Text, cseq: u32) -> bool {
    binding.call_id == *call_id && cseq < binding.cseq
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 1000, by the filter")]
pub(super) fn thousandths(q: Option<&str>) -> u16 {
    let value = q.and_then(|q| q.parse::<f32>().ok()).filter(|q| (0.0..=1.0).contains(q)).unwrap_or(1.0);
    // In range by the filter above.
    (value * 1000.0).round() as u16
}

impl Binding {
    /// Whether something is between us and the phone that forgets it, and the phone does nothing about that (RFC 5626's do).
    pub fn may_be_forgotten(&self, now: Timestamp) -> bool {
        let behind_nat = || Uri::parse(&self.contact).is_ok_and(|contact| !self.flow.is_direct(&contact));
        self.expires > now && !self.flow.transport.is_reliable() && self.reg_id.is_none() && behind_nat()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::ids::VnodeId;
    use crate::sip::headers::Transport;
    use crate::sip::message::Message;
    use crate::sip::parse;

    const POLICY: Policy =
        Policy { min: Duration::from_secs(60), max: Duration::from_secs(3600), default: Duration::from_secs(600), contacts: 10 };

    /// Some binding.
    pub(in crate::sip) fn binding() -> Binding {
        Binding {
            contact: "sip:a@10.0.0.1".into(),
            instance: None,
            reg_id: None,
            path: Vec::new(),
            q: 1000,
            call_id: "c".into(),
            cseq: 1,
            expires: Timestamp(60_000),
            flow: flow(),
            user_agent: None,
        }
    }

    fn flow() -> Flow {
        Flow {
            vnode: VnodeId(1),
            transport: Transport::Udp,
            local: "127.0.0.11:5060".parse().unwrap(),
            remote: "10.0.0.1:5060".parse().unwrap(),
            connection: 0,
        }
    }

    fn request(cseq: u32, rest: &str) -> Request {
        let text = format!(
            "REGISTER sip:x SIP/2.0\r\nVia: SIP/2.0/UDP a;branch=z9hG4bK{cseq}\r\nFrom: <sip:a@x>;tag=1\r\n\
             To: <sip:a@x>\r\nCall-ID: c\r\nCSeq: {cseq} REGISTER\r\n{rest}\r\n"
        );
        match parse::datagram(&text.into()).unwrap() {
            Message::Request(request) => request,
            Message::Response(_) => unreachable!(),
        }
    }

    fn run(bindings: &[Binding], cseq: u32, rest: &str, now: u64) -> Result<Step<Vec<Binding>, Response>, RegisterError> {
        let route = ["sip:p1;lr".to_owned(), "sip:p2;lr".to_owned()];
        let registrar =
            Registrar { aor: &Aor::new("a", "x"), gruus: &Gruus::new(b"secret"), policy: POLICY, service_route: &route };
        registrar.register(bindings, &request(cseq, rest), flow(), Timestamp(now))
    }

    #[test]
    fn a_binding_is_made_refreshed_repeated_and_removed() {
        let made = run(&[], 1, "Contact: <sip:a@10.0.0.1:5070>\r\nExpires: 7200\r\n", 0).unwrap();
        let bindings = made.commit.unwrap();
        assert_eq!(bindings[0].expires, Timestamp(3_600_000));
        assert_eq!(bindings[0].flow.remote, "10.0.0.1:5070".parse().unwrap());
        assert_eq!(&made.then[0].headers.text(&Name::Contact).unwrap()[..], "<sip:a@10.0.0.1:5070>;expires=3600");
        let route: Vec<_> = made.then[0].headers.list(&Name::ServiceRoute).collect();
        assert_eq!(route, ["<sip:p1;lr>", "<sip:p2;lr>"]);

        let again = run(&bindings, 1, "Contact: <sip:a@10.0.0.1:5070>\r\nExpires: 7200\r\n", 1000).unwrap();
        assert_eq!((again.commit, again.then[0].status), (None, StatusCode::OK));

        let gone = run(&bindings, 2, "Contact: *\r\nExpires: 0\r\n", 2000).unwrap();
        assert_eq!(gone.commit, Some(vec![]));
        let gone = run(&bindings, 2, "Contact: <sip:a@10.0.0.1:5070>;expires=0\r\n", 2000).unwrap();
        assert_eq!(gone.commit, Some(vec![]));
    }

    #[test]
    fn a_query_lists_and_commits_nothing() {
        let bindings = run(&[], 1, "Contact: <sip:a@10.0.0.1>;q=0.5\r\n", 0).unwrap().commit.unwrap();
        let query = run(&bindings, 2, "", 1500).unwrap();
        assert_eq!(query.commit, None);
        assert_eq!(&query.then[0].headers.text(&Name::Contact).unwrap()[..], "<sip:a@10.0.0.1>;expires=599;q=0.500");
    }

    #[test]
    fn what_the_rfc_refuses_is_refused() {
        let bindings = run(&[], 5, "Contact: <sip:a@10.0.0.1>\r\n", 0).unwrap().commit.unwrap();
        for (cseq, rest, status) in [
            (6, "Contact: <sip:a@10.0.0.1>;expires=30\r\n", 423),
            (6, "Contact: *\r\n", 400),
            (6, "Contact: *, <sip:b@x>\r\nExpires: 0\r\n", 400),
            (6, "Contact: <sip:a@@>\r\n", 400),
            (6, "Contact: <sip:a@x>\r\n", 403),
            (6, "Contact: <sip:b@x;gr=1>\r\n", 403),
            (6, "Contact: <mailto:a@x>\r\n", 403),
            (6, "Contact: <sip:a@h>;+sip.instance=\"<urn:1>\";reg-id=1, <sip:b@h>\r\n", 400),
            (6, "Via: SIP/2.0/UDP p\r\nSupported: outbound\r\nContact: <sip:a@h>;+sip.instance=\"<urn:1>\";reg-id=1\r\n", 439),
            (4, "Contact: <sip:a@10.0.0.1>\r\n", 500),
            (4, "Contact: *\r\nExpires: 0\r\n", 500),
        ] {
            let error = run(&bindings, cseq, rest, 1).unwrap_err();
            assert_eq!(error.response(&request(cseq, rest)).status.code(), status, "{rest}");
        }
        let many: String = (0..11).map(|n| format!("Contact: <sip:a{n}@10.0.0.1>\r\n")).collect();
        assert_eq!(run(&[], 1, &many, 0), Err(RegisterError::TooMany));
    }

    #[test]
    fn the_same_phone_with_a_new_contact_replaces_its_old_one() {
        let instance = "+sip.instance=\"<urn:uuid:1>\"";
        let first = run(&[], 1, &format!("Contact: <sip:a@10.0.0.1:1000>;{instance}\r\n"), 0).unwrap().commit.unwrap();
        let second = run(&first, 2, &format!("Contact: <sip:a@10.0.0.1:2000>;{instance}\r\n"), 1).unwrap().commit.unwrap();
        assert_eq!(second.len(), 1);
        assert_eq!(&*second[0].contact, "sip:a@10.0.0.1:2000");
    }

    /// RFC 5626 §6: two flows of a phone are two bindings, and each is replaced by its own next one.
    #[test]
    fn a_phone_has_as_many_flows_as_it_registers() {
        let contact = |port: u16, reg_id: u32| {
            format!("Supported: outbound, path\r\nContact: <sip:a@10.0.0.1:{port}>;+sip.instance=\"<urn:1>\";reg-id={reg_id}\r\n")
        };
        let first = run(&[], 1, &contact(1000, 1), 0).unwrap();
        assert_eq!(first.then[0].headers.text(&Name::Require).as_deref(), Some("outbound"));
        let both = run(&first.commit.unwrap(), 2, &contact(1001, 2), 0).unwrap().commit.unwrap();
        let again = run(&both, 3, &contact(1002, 1), 1).unwrap().commit.unwrap();
        let contacts: Vec<_> = again.iter().map(|binding| (binding.reg_id.unwrap(), &*binding.contact)).collect();
        assert_eq!(contacts, [(2, "sip:a@10.0.0.1:1001"), (1, "sip:a@10.0.0.1:1002")]);
        // A proxy in between that says that it keeps flows (RFC 5626 §5.1) is no hindrance; where it is is remembered.
        let proxied = format!("Via: SIP/2.0/UDP p\r\nPath: <sip:in@core;lr>, <sip:edge;lr;ob>\r\n{}", contact(1, 1));
        let step = run(&[], 1, &proxied, 0).unwrap();
        assert_eq!(step.then[0].headers.list(&Name::Path).count(), 2);
        assert_eq!(step.commit.unwrap()[0].path, ["<sip:in@core;lr>", "<sip:edge;lr;ob>"]);
    }

    /// RFC 5627 §5.2.
    #[test]
    fn a_phone_that_wants_to_be_named_is_told_both_names() {
        let contact = "Contact: <sip:a@10.0.0.1>;+sip.instance=\"<urn:1>\"\r\n";
        let plain = run(&[], 1, contact, 0).unwrap();
        assert!(!plain.then[0].headers.text(&Name::Contact).unwrap().contains("gruu"));
        let step = run(&[], 1, &format!("Supported: gruu\r\n{contact}"), 0).unwrap();
        let told = step.then[0].headers.contacts().unwrap().remove(0);
        assert_eq!(told.param("pub-gruu"), Some("sip:a@x;gr=urn:1"));
        let temporary = Uri::parse(&told.param("temp-gruu").unwrap().into()).unwrap();
        let gruu = Gruus::new(b"secret").read(&temporary, "x").unwrap().unwrap();
        assert!(gruu.is_of(&step.commit.unwrap()[0]));
    }

    #[test]
    fn who_may_be_forgotten_is_known() {
        let of = |contact: &str, transport, reg_id| {
            let flow = Flow { transport, remote: "198.51.100.7:31000".parse().unwrap(), ..flow() };
            Binding { contact: contact.to_owned().into(), reg_id, flow, ..binding() }
        };
        let private = "sip:a@192.168.7.1:5060";
        for (contact, transport, reg_id, forgotten) in [
            (private, Transport::Udp, None, true),
            ("sip:a@198.51.100.7:31000", Transport::Udp, None, false),
            (private, Transport::Tcp, None, false),
            (private, Transport::Udp, Some(1), false),
        ] {
            let binding = of(contact, transport, reg_id);
            assert_eq!(binding.may_be_forgotten(Timestamp(1_000)), forgotten, "{contact} {transport:?}");
            assert!(!binding.may_be_forgotten(Timestamp(60_000)), "it has expired");
        }
    }
}
