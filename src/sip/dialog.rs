//! Dialogs (RFC 3261 §12), from our side of one leg. Layer: pure.

use std::net::SocketAddr;

use super::headers::{HeaderError, NameAddr, Transport};
use super::locate::default_port;
use super::message::{Headers, Request, Response};
use super::status::Class;
use super::token::Token;
use super::uri::{Host, Uri};
use super::{Method, Name, StatusCode, Text};
use crate::ids::VnodeId;

/// The way packets take to a phone: the socket they leave by and the address they go to. A phone behind NAT
/// or on a connection can be reached only by the flow that it opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Flow {
    /// The vnode that holds `local`: its owner sends for us.
    pub vnode: VnodeId,
    /// What it goes over; anything but UDP is a connection.
    pub transport: Transport,
    /// Our address.
    pub local: SocketAddr,
    /// The phone's address as packets see it.
    pub remote: SocketAddr,
    /// Which connection it is, since another phone may have that address after this one (RFC 5626 §5.3); zero for datagrams, and for one that
    /// we make.
    pub connection: u32,
}

impl Flow {
    /// The flow for requests to somebody who gave this contact. A contact on the very host that the packet
    /// came from is believed; any other is behind NAT (or a lie), and the source is used. A connection is what it is (RFC 5626 §5.3).
    #[must_use]
    pub fn toward(mut self, contact: &Uri) -> Self {
        if !self.transport.is_reliable()
            && let Some(Host::Ip(ip)) = contact.host
            && ip == self.remote.ip()
        {
            self.remote.set_port(contact.port.unwrap_or(5060));
        }
        self
    }

    /// Where the answers to a request go that came by this flow and has these headers (RFC 3261 §18.2.2): a connection's stay on it.
    #[must_use]
    pub fn of_answer(mut self, headers: &Headers) -> Self {
        if !self.transport.is_reliable()
            && let Some(address) = headers.top_via().ok().and_then(|via| via.response_address(5060))
        {
            self.remote = address;
        }
        self
    }

    /// `sip:<token>@<our address>`: a request that is sent there finds its way by itself. What isn't UDP is named (RFC 3261 §19.1.1).
    pub fn contact(&self, token: &Token) -> Text {
        let transport = match self.transport {
            Transport::Udp => "",
            Transport::Tcp => ";transport=tcp",
            Transport::Tls => ";transport=tls",
            Transport::Ws | Transport::Wss => ";transport=ws",
        };
        Text::from(format!("sip:{token}@{}{transport}", self.local))
    }

    /// The Via of a request that leaves by it.
    pub fn via(&self, branch: &str) -> String {
        format!("SIP/2.0/{} {};branch={branch};rport", self.transport, self.local)
    }

    /// Whether it is a connection that we make, and make again when it has ended: at the other end is a server, or a phone that listens.
    pub fn is_dialed(&self) -> bool {
        self.transport.is_reliable() && self.connection == 0
    }

    /// Where the other end of a connection that it has made listens, if its contact says that this is where it comes from (RFC 3261 §18.1.1).
    pub fn listens_at(&self, contact: &Uri) -> Option<SocketAddr> {
        let may = matches!(self.transport, Transport::Tcp | Transport::Tls) && contact.host == Some(Host::Ip(self.remote.ip()));
        may.then(|| SocketAddr::new(self.remote.ip(), contact.port.unwrap_or(default_port(self.transport))))
    }

    /// Whether the phone is where its contact says: no NAT is in between.
    pub fn is_direct(&self, contact: &Uri) -> bool {
        contact.host == Some(Host::Ip(self.remote.ip())) && contact.port.unwrap_or(5060) == self.remote.port()
    }
}

/// One dialog, early or confirmed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dialog {
    /// The Call-ID.
    pub call_id: Text,
    /// Our From (or To) value, without a tag.
    pub local: Text,
    /// Our tag.
    pub local_tag: Text,
    /// The peer's To (or From) value, without a tag.
    pub remote: Text,
    /// The peer's tag; none before its first answer.
    pub remote_tag: Option<Text>,
    /// The number of our last request.
    pub local_cseq: u32,
    /// The number of the peer's last request.
    pub remote_cseq: Option<u32>,
    /// The request-URI of our requests: the peer's Contact.
    pub remote_target: Text,
    /// Route values, first hop first (RFC 3261 §12.1).
    pub route_set: Vec<Text>,
    /// The URI in our Contact; its user part is the token.
    pub contact: Text,
    /// Where our requests leave.
    pub flow: Flow,
}

/// Why an in-dialog request is refused (RFC 3261 §12.2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DialogError {
    /// Other tags or another Call-ID: not this dialog.
    #[error("no such dialog")]
    NotOurs,
    /// The number is lower than the last.
    #[error("CSeq is not higher than the last")]
    OutOfOrder,
}

impl From<DialogError> for StatusCode {
    fn from(error: DialogError) -> Self {
        match error {
            DialogError::NotOurs => Self::CALL_DOES_NOT_EXIST,
            DialogError::OutOfOrder => Self::SERVER_INTERNAL_ERROR,
        }
    }
}

impl Dialog {
    /// The dialog that an INVITE to us begins (RFC 3261 §12.1.1).
    pub fn of_server(invite: &Request, local_tag: Text, contact: Text, flow: Flow) -> Result<Self, HeaderError> {
        let from = invite.headers.from()?;
        let contacts = invite.headers.contacts()?;
        let target = contacts.first().ok_or(HeaderError::Missing("Contact"))?;
        Ok(Self {
            call_id: invite.headers.call_id()?,
            local: without_tag(&invite.headers.to()?),
            local_tag,
            remote: without_tag(&from),
            remote_tag: from.tag().map(Text::from),
            local_cseq: 0,
            remote_cseq: Some(invite.headers.cseq()?.number),
            remote_target: Text::from(target.uri.to_string()),
            route_set: invite.headers.list(&Name::RecordRoute).collect(),
            contact,
            flow: flow.toward(&target.uri),
        })
    }

    /// The dialog that an INVITE of ours will begin; `local` and `remote` are From and To without tags.
    pub fn of_client(call_id: Text, local: Text, local_tag: Text, remote: Text, target: Text, contact: Text, flow: Flow) -> Self {
        Self {
            call_id,
            local,
            local_tag,
            remote,
            remote_tag: None,
            local_cseq: 0,
            remote_cseq: None,
            remote_target: target,
            route_set: Vec::new(),
            contact,
            flow,
        }
    }

    /// A new request of ours in this dialog, without Via (RFC 3261 §12.2.1.1).
    pub fn request(&mut self, method: Method) -> Request {
        self.local_cseq += 1;
        self.numbered(method, self.local_cseq)
    }

    /// The ACK for a 2xx to our INVITE number `cseq` (RFC 3261 §13.2.2.4), without Via.
    pub fn ack(&self, cseq: u32) -> Request {
        self.numbered(Method::Ack, cseq)
    }

    fn numbered(&self, method: Method, cseq: u32) -> Request {
        let mut headers = Headers::with_capacity(16);
        headers.push_text(Name::MaxForwards, "70");
        // RFC 3261 §12.2.1.1: loose routes stand as they are; a strict first hop becomes the request-URI.
        let mut uri = self.remote_target.clone();
        let strict = self.route_set.first().and_then(|first| {
            let hop = NameAddr::parse(first, "Route").ok()?.uri;
            hop.param("lr").is_none().then(|| Text::from(hop.to_string()))
        });
        match strict {
            Some(hop) => {
                for route in &self.route_set[1..] {
                    headers.push_text(Name::Route, route);
                }
                headers.push_text(Name::Route, format!("<{uri}>"));
                uri = hop;
            }
            None => {
                for route in &self.route_set {
                    headers.push_text(Name::Route, route);
                }
            }
        }
        headers.push_text(Name::From, format!("{};tag={}", self.local, self.local_tag));
        match &self.remote_tag {
            Some(tag) => headers.push_text(Name::To, format!("{};tag={tag}", self.remote)),
            None => headers.push_text(Name::To, &self.remote),
        }
        headers.push_text(Name::CallId, &self.call_id);
        headers.push_text(Name::CSeq, format!("{cseq} {method}"));
        if matches!(method, Method::Invite | Method::Update | Method::Refer | Method::Subscribe | Method::Notify) {
            headers.push_text(Name::Contact, format!("<{}>", self.contact));
        }
        Request { method, uri, headers, body: bytes::Bytes::new() }
    }

    /// Takes in a response to our INVITE (RFC 3261 §12.1.2, §13.2.2.4): the peer's tag, target and route.
    pub fn on_invite_response(&mut self, response: &Response) {
        let Ok(to) = response.headers.to() else { return };
        let Some(tag) = to.tag() else { return };
        // RFC 3261 §13.2.2.4: a 2xx decides the route, whatever an early dialog had, and so does the first word of another phone.
        let decides = response.status.class() == Class::Success || self.remote_tag.as_deref() != Some(tag);
        self.remote_tag = Some(Text::from(tag));
        if decides || self.route_set.is_empty() {
            self.route_set = response.headers.list(&Name::RecordRoute).collect();
            self.route_set.reverse();
        }
        self.retarget(&response.headers);
    }

    /// Takes in the Contact of a target refresh (RFC 3261 §12.2.1.2, §12.2.2).
    pub fn retarget(&mut self, headers: &Headers) {
        if let Ok(contacts) = headers.contacts()
            && let Some(contact) = contacts.first()
        {
            self.remote_target = Text::from(contact.uri.to_string());
            self.flow = self.flow.toward(&contact.uri);
        }
    }

    /// Whether a request is in this dialog: its Call-ID and both tags.
    pub fn is_from_peer(&self, request: &Request) -> bool {
        let headers = &request.headers;
        let (Ok(call_id), Ok(from), Ok(to)) = (headers.call_id(), headers.from(), headers.to()) else { return false };
        call_id == self.call_id && to.tag() == Some(&*self.local_tag) && self.remote_tag.as_deref() == from.tag()
    }

    /// Checks an in-dialog request and takes its number (RFC 3261 §12.2.2). ACK and CANCEL have their INVITE's.
    #[allow(clippy::wildcard_enum_match_arm, reason = "every other method is treated alike")]
    pub fn accept(&mut self, request: &Request) -> Result<(), DialogError> {
        let cseq = request.headers.cseq().map_err(|_| DialogError::NotOurs)?;
        if !self.is_from_peer(request) {
            return Err(DialogError::NotOurs);
        }
        match request.method {
            Method::Ack | Method::Cancel => Ok(()),
            _ if self.remote_cseq.is_some_and(|last| cseq.number <= last) => Err(DialogError::OutOfOrder),
            _ => {
                self.remote_cseq = Some(cseq.number);
                Ok(())
            }
        }
    }
}

/// A From or To value as it stands in our requests, the tag left out.
pub(super) fn without_tag(address: &NameAddr) -> Text {
    let mut bare = address.clone();
    let kept: Vec<String> = super::uri::split_params(&address.params)
        .filter(|(key, _)| !key.eq_ignore_ascii_case("tag"))
        .map(|(key, value)| if value.is_empty() { key.to_owned() } else { format!("{key}={value}") })
        .collect();
    bare.params = Text::from(kept.join(";"));
    Text::from(bare.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sip::message::Message;
    use crate::sip::parse;

    fn request(text: &str) -> Request {
        match parse::datagram(&bytes::Bytes::copy_from_slice(text.as_bytes())).unwrap() {
            Message::Request(request) => request,
            Message::Response(_) => unreachable!(),
        }
    }

    #[test]
    fn a_server_listens_where_its_contact_says_if_it_comes_from_there() {
        let over = |transport| Flow { transport, connection: 7, ..flow() };
        let at = |flow: Flow, contact: &str| flow.listens_at(&Uri::parse(&contact.into()).unwrap()).map(|at| at.to_string());
        let (ip, tcp) = (flow().remote.ip(), over(Transport::Tcp));
        assert_eq!(at(tcp, &format!("sip:c@{ip}")), Some(format!("{ip}:5060")));
        assert_eq!(at(over(Transport::Tls), &format!("sip:c@{ip}")), Some(format!("{ip}:5061")));
        assert_eq!(at(tcp, &format!("sip:c@{ip}:9")), Some(format!("{ip}:9")));
        assert_eq!(at(tcp, "sip:c@192.0.2.99"), None);
        assert_eq!(at(over(Transport::Wss), &format!("sip:c@{ip}")), None);
    }

    fn flow() -> Flow {
        Flow {
            vnode: VnodeId(1),
            transport: Transport::Udp,
            local: "127.0.0.11:5060".parse().unwrap(),
            remote: "10.0.0.1:40000".parse().unwrap(),
            connection: 0,
        }
    }

    fn invite(contact: &str, record_route: &str) -> Request {
        request(&format!(
            "INVITE sip:b@x SIP/2.0\r\nVia: SIP/2.0/UDP a;branch=z9hG4bK1\r\nFrom: \"A\" <sip:a@x>;x=y;tag=remote\r\n\
             To: <sip:b@x>\r\nCall-ID: c\r\nCSeq: 7 INVITE\r\nContact: <{contact}>\r\n{record_route}\r\n"
        ))
    }

    fn dialog(contact: &str, record_route: &str) -> Dialog {
        let invite = invite(contact, record_route);
        Dialog::of_server(&invite, "local".into(), "sip:t@127.0.0.11".into(), flow()).unwrap()
    }

    #[test]
    fn requests_carry_the_dialog_with_its_sides_turned() {
        let mut dialog = dialog("sip:a@10.0.0.1:5070", "");
        let bye = dialog.request(Method::Bye);
        assert_eq!(&*bye.uri, "sip:a@10.0.0.1:5070");
        assert_eq!(&bye.headers.text(&Name::From).unwrap()[..], "<sip:b@x>;tag=local");
        assert_eq!(&bye.headers.text(&Name::To).unwrap()[..], "\"A\" <sip:a@x>;x=y;tag=remote");
        assert_eq!(bye.headers.cseq().unwrap().number, 1);
        assert_eq!(dialog.request(Method::Info).headers.cseq().unwrap().number, 2);
    }

    #[test]
    fn a_contact_is_believed_only_on_the_host_the_packet_came_from() {
        assert_eq!(dialog("sip:a@10.0.0.1:5070", "").flow.remote, "10.0.0.1:5070".parse().unwrap());
        assert_eq!(dialog("sip:a@192.168.1.5:5070", "").flow.remote, "10.0.0.1:40000".parse().unwrap());
    }

    #[test]
    fn routes_are_kept_loose_or_strict() {
        let mut loose = dialog("sip:a@10.0.0.1", "Record-Route: <sip:p1;lr>, <sip:p2;lr>\r\n");
        let routes: Vec<_> = loose.request(Method::Bye).headers.list(&Name::Route).collect();
        assert_eq!(routes, ["<sip:p1;lr>", "<sip:p2;lr>"]);
        let mut strict = dialog("sip:a@10.0.0.1", "Record-Route: <sip:p1>, <sip:p2;lr>\r\n");
        let bye = strict.request(Method::Bye);
        assert_eq!(&*bye.uri, "sip:p1");
        assert_eq!(bye.headers.list(&Name::Route).collect::<Vec<_>>(), ["<sip:p2;lr>", "<sip:a@10.0.0.1>"]);
    }

    /// RFC 3261 §13.2.2.4: the route is that of who takes the call.
    #[test]
    fn a_2xx_decides_the_route() {
        let mut dialog = dialog("sip:a@10.0.0.1", "");
        let invite = dialog.request(Method::Invite);
        for (status, tag, routes, kept) in [
            (180, "1", "<sip:p1;lr>", &["<sip:p1;lr>"][..]),
            (183, "1", "<sip:p2;lr>", &["<sip:p1;lr>"]),
            (180, "2", "<sip:p2;lr>, <sip:p3;lr>", &["<sip:p3;lr>", "<sip:p2;lr>"]),
            (200, "2", "<sip:p4;lr>", &["<sip:p4;lr>"]),
        ] {
            let response = invite.response(StatusCode::new(status).unwrap(), None).with(Name::RecordRoute, routes);
            let mut response = response;
            response.headers.set(Name::To, format!("<sip:b@x>;tag={tag}"));
            dialog.on_invite_response(&response);
            assert_eq!(dialog.route_set, kept, "{status} {tag}");
        }
    }

    #[test]
    fn strangers_and_old_numbers_are_refused() {
        let mut dialog = dialog("sip:a@10.0.0.1", "");
        let bye = |to: &str, from: &str, cseq: u32| {
            request(&format!(
                "BYE sip:t@h SIP/2.0\r\nFrom: <sip:a@x>;tag={from}\r\nTo: <sip:b@x>;tag={to}\r\nCall-ID: c\r\nCSeq: {cseq} BYE\r\n\r\n"
            ))
        };
        assert_eq!(dialog.accept(&bye("other", "remote", 8)), Err(DialogError::NotOurs));
        assert_eq!(dialog.accept(&bye("local", "other", 8)), Err(DialogError::NotOurs));
        assert_eq!(dialog.accept(&bye("local", "remote", 7)), Err(DialogError::OutOfOrder));
        assert_eq!(dialog.accept(&bye("local", "remote", 9)), Ok(()));
        assert_eq!(dialog.accept(&bye("local", "remote", 9)), Err(DialogError::OutOfOrder));
    }
}
