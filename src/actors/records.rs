//! Between what is in memory and what is stored: only the actors know both. Layer: shell.

use std::net::SocketAddr;

use bytes::Bytes;

use super::media_records::{media_of, media_record};
use super::quality;
use crate::clock::Timestamp;
use crate::cluster::state::VnodeCommand;
use crate::cluster::state::records::{
    BindingRecord, BodyRecord, CallGlance, CallRecord, CdrRecord, DialogRecord, EndingRecord, FlowRecord, InviteInRecord,
    InviteOutGlance, InviteOutRecord, LegGlance, LegRecord, NextRecord, PhoneRecord, RecordError, ReferralRecord, RelayRecord,
    ReliableRecord, TakenRecord, TargetRecord, TimerRecord, UpdatedRecord, decode, encode, encode_call,
};
use crate::families::Families;
use crate::ids::{CallId, LegId};
use crate::media::core::Session;
use crate::sip::b2bua::{
    Acknowledged, Body, CallLeg, CallState, Cdr, EndedBy, Ending, InviteIn, InviteOut, Mutation, Referral, Referred, Relay,
    Reliable, SessionPolicy, SessionTimer, Speaks, StageIn, StageOut, Taken, Target, Updated, deadline,
};
use crate::sip::dialog::{Dialog, Flow};
use crate::sip::encode::encode_request;
use crate::sip::headers::Transport;
use crate::sip::leg::TxKey;
use crate::sip::message::{Message, Request};
use crate::sip::registrar::{Binding, Phone};
use crate::sip::replaces::Replaces;
use crate::sip::{StatusCode, Text, parse};

/// Why a record could not be made into what it stands for.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The record itself.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// A message in it.
    #[error("a message in the record can't be read")]
    Message,
    /// A value that this release doesn't know.
    #[error("{0} in the record is none that this release knows")]
    Value(&'static str),
}

/// What to commit for a call's mutation.
pub fn command(mutation: &Mutation, media: &Session) -> VnodeCommand {
    match mutation {
        Mutation::Put(state) => VnodeCommand::PutCall { call: state.id, record: encode_call(&call_record(state, media)) },
        Mutation::End(state, cdr) => {
            VnodeCommand::EndCall { call: state.id, record: encode_call(&call_record(state, media)), cdr: cdr_record(cdr, media) }
        }
        Mutation::Forget(call) => VnodeCommand::ForgetCall { call: *call },
    }
}

/// Where a vnode is, for whoever reads its records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Site {
    /// Its addresses, for SIP and media.
    pub ips: Families,
    /// Where it listens for SIP over UDP and TCP.
    pub port: u16,
    /// It may have been elsewhere before (`address.mode = "fixed"`): its phones have to come along.
    pub moves: bool,
}

impl Site {
    /// An address that a vnode has wherever it is.
    pub fn of(sip: SocketAddr) -> Self {
        Self { ips: sip.ip().into(), port: sip.port(), moves: false }
    }
}

/// Reads a stored call.
pub fn restore(bytes: &[u8], site: Site) -> Result<(CallState, Session), RestoreError> {
    let record: CallRecord = decode(bytes)?;
    let is_answered = record.answered.is_some();
    let media = Session { is_answered, ..media_of(&record.media, site, media_id(record.id)) };
    let mut state = call_state(record)?;
    if site.moves {
        state.move_to(site.ips, site.port);
    }
    Ok((state, media))
}

/// What a new owner has to know of every call at once.
#[derive(Debug)]
pub struct Glance {
    /// Whether the call can sleep: as [`CallState::is_quiet`].
    pub quiet: bool,
    /// It is over.
    pub ended: bool,
    /// Of a quiet call, as [`CallState::deadline`].
    pub deadline: Option<Timestamp>,
    /// Its media.
    pub media: Session,
}

/// Reads of a stored call what every call's next owner needs; a fraction of the cost of [`restore`].
pub fn glance(call: CallId, bytes: &[u8], site: Site) -> Result<Glance, RestoreError> {
    let record: CallGlance = decode(bytes)?;
    let refused = |out: &InviteOutGlance| out.stage == stage_out(StageOut::Refused);
    let done = |leg: &LegGlance| {
        leg.bye.is_none() && leg.inbound.is_none() && leg.out.as_ref().is_none_or(refused) && leg.reinvite.is_none()
    };
    let begun = record.answered.is_some() || record.ended.is_some();
    let own = deadline(record.created, record.answered, record.ended.as_ref().map(|ending| ending.at));
    let talking = record.answered.is_some() && record.ended.is_none();
    let timers = record.legs.iter().filter(|_| talking).filter_map(|leg| leg.timer.map(|record| timer(record).due()));
    Ok(Glance {
        quiet: begun && record.referral.is_none() && record.relays.is_empty() && record.legs.iter().all(done),
        ended: record.ended.is_some(),
        deadline: own.into_iter().chain(timers).min(),
        media: Session { is_answered: record.answered.is_some(), ..media_of(&record.media, site, media_id(call)) },
    })
}

/// The number of a call in its `o=` lines.
pub fn media_id(call: CallId) -> u64 {
    // The low half: random, as the whole.
    u64::try_from(call.0 & u128::from(u64::MAX)).unwrap_or(0)
}

/// A call as it is stored.
pub fn call_record(state: &CallState, media: &Session) -> CallRecord {
    CallRecord {
        id: state.id,
        vnode: state.vnode,
        caller: state.caller.clone(),
        callee: state.callee.clone(),
        shown: state.shown.as_ref().map(Text::to_string),
        created: state.created,
        answered: state.answered,
        ended: state.ended.map(|ending| EndingRecord {
            at: ending.at,
            status: ending.status.code(),
            by: ended_by(ending.by).into(),
        }),
        legs: state.legs.iter().map(leg_record).collect(),
        last: state.last.0,
        first: state.first.0,
        answerer: state.answerer.map(|leg| leg.0),
        waiting: state.waiting.iter().map(target_record).collect(),
        called: Some(state.called).filter(|called| *called != state.created),
        session: state.session.map(|policy| [policy.expires, policy.min]),
        locating: state.locating.iter().map(Text::to_string).collect(),
        redirects: state.redirects,
        breadth: state.breadth,
        diverted: state.diverted.clone(),
        referral: state.referral.as_ref().map(referral_record),
        referred: state.referred.iter().map(|one| (one.to.0, one.onward, one.asked)).collect(),
        relays: state.relays.iter().map(relay_record).collect(),
        media: media_record(media),
    }
}

fn call_state(record: CallRecord) -> Result<CallState, RestoreError> {
    let ended = record.ended.map(|ending| {
        Ok::<_, RestoreError>(Ending { at: ending.at, status: status(ending.status)?, by: ended_by_of(&ending.by)? })
    });
    let legs: Vec<CallLeg> = (0..).zip(record.legs).map(|(place, record)| leg(place, record)).collect::<Result<_, _>>()?;
    let first = LegId(record.first);
    if !legs.iter().any(|leg| leg.id == first) {
        return Err(RestoreError::Value("a call without its caller"));
    }
    // A release that called one phone a call didn't say which had answered.
    let callee = Some(LegId::CALLEE).filter(|_| record.answered.is_some() && legs.len() == 2);
    let answerer = record.answerer.map(LegId).or(callee).filter(|answerer| legs.iter().any(|leg| leg.id == *answerer));
    Ok(CallState {
        id: record.id,
        vnode: record.vnode,
        caller: record.caller,
        callee: record.callee,
        shown: record.shown.map(Text::from),
        created: record.created,
        answered: record.answered,
        ended: ended.transpose()?,
        legs,
        last: LegId(record.last),
        first,
        answerer,
        waiting: record.waiting.into_iter().map(target).collect::<Result<_, _>>()?,
        called: record.called.unwrap_or(record.created),
        session: record.session.map(|[expires, min]| SessionPolicy { expires, min }),
        locating: record.locating.into_iter().map(Text::from).collect(),
        redirects: record.redirects,
        breadth: record.breadth,
        diverted: record.diverted,
        referral: record.referral.map(referral).transpose()?,
        referred: record.referred.into_iter().map(|(to, onward, asked)| Referred { to: LegId(to), onward, asked }).collect(),
        relays: record
            .relays
            .into_iter()
            .map(|record| relay(record, answerer.unwrap_or(LegId::CALLEE)))
            .collect::<Result<_, _>>()?,
    })
}

fn target_record(target: &Target) -> TargetRecord {
    TargetRecord {
        contact: target.contact.to_string(),
        path: target.path.iter().map(Text::to_string).collect(),
        flow: target.flow.into(),
        long: target.long.map(FlowRecord::from),
        phone: target.phone.as_ref().map(phone_record),
        q: target.q,
        replaces: target.replaces.as_ref().map(Replaces::to_string),
    }
}

fn target(record: TargetRecord) -> Result<Target, RestoreError> {
    Ok(Target {
        contact: record.contact.into(),
        path: record.path.into_iter().map(Text::from).collect(),
        flow: record.flow.try_into()?,
        long: record.long.map(Flow::try_from).transpose()?,
        phone: record.phone.map(phone),
        q: record.q,
        replaces: record.replaces.as_deref().and_then(Replaces::parse),
    })
}

fn timer(TimerRecord { interval, ours, since }: TimerRecord) -> SessionTimer {
    SessionTimer { interval, ours, since }
}

pub(super) fn phone_record(phone: &Phone) -> PhoneRecord {
    PhoneRecord { aor: phone.aor.clone(), instance: phone.instance.as_ref().map(Text::to_string) }
}

pub(super) fn phone(record: PhoneRecord) -> Phone {
    Phone { aor: record.aor, instance: record.instance.map(Text::from) }
}

/// A dialog as it is stored.
pub(super) fn dialog_record(dialog: &Dialog) -> DialogRecord {
    DialogRecord {
        call_id: dialog.call_id.to_string(),
        local: dialog.local.to_string(),
        local_tag: dialog.local_tag.to_string(),
        remote: dialog.remote.to_string(),
        remote_tag: dialog.remote_tag.as_ref().map(Text::to_string),
        local_cseq: dialog.local_cseq,
        remote_cseq: dialog.remote_cseq,
        remote_target: dialog.remote_target.to_string(),
        route_set: dialog.route_set.iter().map(Text::to_string).collect(),
        contact: dialog.contact.to_string(),
        flow: dialog.flow.into(),
    }
}

/// Reads it again.
pub(super) fn dialog(record: DialogRecord) -> Result<Dialog, RestoreError> {
    Ok(Dialog {
        call_id: record.call_id.into(),
        local: record.local.into(),
        local_tag: record.local_tag.into(),
        remote: record.remote.into(),
        remote_tag: record.remote_tag.map(Text::from),
        local_cseq: record.local_cseq,
        remote_cseq: record.remote_cseq,
        remote_target: record.remote_target.into(),
        route_set: record.route_set.into_iter().map(Text::from).collect(),
        contact: record.contact.into(),
        flow: record.flow.try_into()?,
    })
}

fn leg_record(leg: &CallLeg) -> LegRecord {
    LegRecord {
        id: Some(leg.id.0),
        dialog: dialog_record(&leg.dialog),
        inbound: leg.inbound.as_ref().map(invite_in_record),
        out: leg.out.as_ref().map(|out| InviteOutRecord {
            request: encode_request(&out.request),
            stage: stage_out(out.stage).into(),
            late_offer: out.late_offer,
            datagram: out.datagram.map(FlowRecord::from),
        }),
        bye: leg.bye.as_ref().map(encode_request),
        phone: leg.phone.as_ref().map(phone_record),
        refused: leg.refused.map(StatusCode::code),
        gone: leg.gone,
        reinvite: leg.reinvite.as_ref().map(encode_request),
        timer: leg.timer.map(|SessionTimer { interval, ours, since }| TimerRecord { interval, ours, since }),
        speaks: [leg.speaks.update, leg.speaks.timer],
        updated: leg
            .updated
            .as_ref()
            .map(|Updated { cseq, body }| UpdatedRecord { cseq: *cseq, body: body.as_ref().map(body_record) }),
        early: leg.early.as_ref().map(body_record),
        acknowledged: leg
            .acknowledged
            .as_ref()
            .map(|Acknowledged { cseq, body }| UpdatedRecord { cseq: *cseq, body: Some(body_record(body)) }),
    }
}

fn leg(place: u8, record: LegRecord) -> Result<CallLeg, RestoreError> {
    let out = record.out.map(|out| {
        Ok::<_, RestoreError>(InviteOut {
            request: request(&out.request)?,
            stage: stage_out_of(&out.stage)?,
            late_offer: out.late_offer,
            datagram: out.datagram.map(Flow::try_from).transpose()?,
        })
    });
    Ok(CallLeg {
        id: LegId(record.id.unwrap_or(place)),
        dialog: dialog(record.dialog)?,
        inbound: record.inbound.map(invite_in).transpose()?,
        out: out.transpose()?,
        bye: record.bye.as_ref().map(request).transpose()?,
        phone: record.phone.map(phone),
        refused: record.refused.map(status).transpose()?,
        gone: record.gone,
        reinvite: record.reinvite.as_ref().map(request).transpose()?,
        timer: record.timer.map(timer),
        speaks: Speaks { update: record.speaks[0], timer: record.speaks[1] },
        updated: record.updated.map(|UpdatedRecord { cseq, body: sent }| Updated { cseq, body: sent.map(body) }),
        early: record.early.map(body),
        acknowledged: record
            .acknowledged
            .and_then(|UpdatedRecord { cseq, body: said }| Some(Acknowledged { cseq, body: body(said?) })),
        tries: false,
        unheard: None,
        pracked: None,
        refreshing: None,
        moved: false,
        not_before: None,
        put_off: 0,
        forks: 0,
        reserved: 0,
        asked: 0,
    })
}

fn invite_in_record(inbound: &InviteIn) -> InviteInRecord {
    let NextRecord { stage, status, body } = stage_in_record(&inbound.stage);
    InviteInRecord {
        request: encode_request(&inbound.request),
        came_by: inbound.came_by.into(),
        stage,
        status,
        body,
        reliable: inbound.reliable.as_ref().map(|reliable| ReliableRecord {
            rseq: reliable.rseq,
            acked: reliable.acked,
            described: reliable.described.as_ref().map(body_record),
            next: reliable.next.as_ref().map(stage_in_record),
        }),
    }
}

fn stage_in_record(stage: &StageIn) -> NextRecord {
    let (stage, status, body) = match stage {
        StageIn::Pending => ("pending", None, None),
        StageIn::Progress(status, body) => ("progress", Some(*status), body.as_ref()),
        StageIn::Answered(body) => ("answered", None, body.as_ref()),
        StageIn::Rejected(status) => ("rejected", Some(*status), None),
    };
    NextRecord { stage: stage.into(), status: status.map(StatusCode::code), body: body.map(body_record) }
}

fn invite_in(record: InviteInRecord) -> Result<InviteIn, RestoreError> {
    let request = request(&record.request)?;
    let stage = stage_in(NextRecord { stage: record.stage, status: record.status, body: record.body })?;
    let reliable = record.reliable.map(|reliable| {
        Ok::<_, RestoreError>(Reliable {
            rseq: reliable.rseq,
            acked: reliable.acked,
            described: reliable.described.map(body),
            next: reliable.next.map(stage_in).transpose()?,
        })
    });
    let came_by = record.came_by.try_into()?;
    Ok(InviteIn { key: TxKey::of(&request), request, came_by, stage, reliable: reliable.transpose()? })
}

fn stage_in(record: NextRecord) -> Result<StageIn, RestoreError> {
    let code = || record.status.ok_or(RestoreError::Value("a missing status")).and_then(status);
    match record.stage.as_str() {
        "pending" => Ok(StageIn::Pending),
        "progress" => Ok(StageIn::Progress(code()?, record.body.map(body))),
        "answered" => Ok(StageIn::Answered(record.body.map(body))),
        "rejected" => Ok(StageIn::Rejected(code()?)),
        _ => Err(RestoreError::Value("the stage of an INVITE")),
    }
}

fn stage_out(stage: StageOut) -> &'static str {
    match stage {
        StageOut::Calling => "calling",
        StageOut::Proceeding => "proceeding",
        StageOut::Cancelling => "cancelling",
        StageOut::AckWaits => "ack_waits",
        StageOut::Refused => "refused",
    }
}

fn stage_out_of(text: &str) -> Result<StageOut, RestoreError> {
    [StageOut::Calling, StageOut::Proceeding, StageOut::Cancelling, StageOut::AckWaits, StageOut::Refused]
        .into_iter()
        .find(|stage| stage_out(*stage) == text)
        .ok_or(RestoreError::Value("the stage of an INVITE"))
}

fn relay_record(relay: &Relay) -> RelayRecord {
    RelayRecord {
        from: relay.from.0,
        came_by: relay.came_by.into(),
        request: encode_request(&relay.request),
        onward: encode_request(&relay.onward),
        to: Some(relay.to.0),
        answered: relay.answer.is_some(),
        answer: relay.answer.as_ref().and_then(Option::as_ref).map(body_record),
        late_offer: relay.late_offer,
        cancelled: relay.cancelled,
    }
}

fn relay(record: RelayRecord, callee: LegId) -> Result<Relay, RestoreError> {
    // A release that called one phone a call didn't say to whom it went: to the other one.
    let other = if record.from == LegId::CALLER.0 { callee } else { LegId::CALLER };
    Ok(Relay {
        to: record.to.map_or(other, LegId),
        from: LegId(record.from),
        came_by: record.came_by.try_into()?,
        request: request(&record.request)?,
        onward: request(&record.onward)?,
        answer: record.answered.then(|| record.answer.map(body)),
        late_offer: record.late_offer,
        cancelled: record.cancelled,
    })
}

fn referral_record(referral: &Referral) -> ReferralRecord {
    ReferralRecord {
        by: referral.by.0,
        asked: referral.asked,
        to: referral.to.to_string(),
        must_replace: referral.must_replace,
        after: referral.after.0,
        begun: referral.begun,
        now: referral.now.code(),
        said: referral.said.map(StatusCode::code),
        taken: referral.taken.as_ref().map(|Taken { leg, offer, until, asked, cancelled }| TakenRecord {
            leg: leg.0,
            offer: body_record(offer),
            until: *until,
            asked: *asked,
            cancelled: *cancelled,
        }),
        notify: referral.notify.as_ref().map(encode_request),
    }
}

fn referral(record: ReferralRecord) -> Result<Referral, RestoreError> {
    Ok(Referral {
        by: LegId(record.by),
        asked: record.asked,
        to: record.to.into(),
        must_replace: record.must_replace,
        after: LegId(record.after),
        begun: record.begun,
        now: status(record.now)?,
        said: record.said.map(status).transpose()?,
        taken: record.taken.map(|TakenRecord { leg, offer, until, asked, cancelled }| Taken {
            leg: LegId(leg),
            offer: body(offer),
            until,
            asked,
            cancelled,
        }),
        notify: record.notify.as_ref().map(request).transpose()?,
    })
}

fn body_record(body: &Body) -> BodyRecord {
    BodyRecord { content_type: body.content_type.to_string(), bytes: body.bytes.clone() }
}

fn body(record: BodyRecord) -> Body {
    Body { content_type: record.content_type.into(), bytes: record.bytes }
}

fn request(bytes: &Bytes) -> Result<Request, RestoreError> {
    match parse::datagram(bytes) {
        Ok(Message::Request(request)) => Ok(request),
        Ok(Message::Response(_)) | Err(_) => Err(RestoreError::Message),
    }
}

fn status(code: u16) -> Result<StatusCode, RestoreError> {
    StatusCode::new(code).ok_or(RestoreError::Value("a status"))
}

/// Who ended a call, as it is stored and shown.
pub fn ended_by(by: EndedBy) -> &'static str {
    match by {
        EndedBy::Caller => "caller",
        EndedBy::Callee => "callee",
        EndedBy::System => "system",
        EndedBy::Operator => "operator",
    }
}

fn ended_by_of(text: &str) -> Result<EndedBy, RestoreError> {
    [EndedBy::Caller, EndedBy::Callee, EndedBy::System, EndedBy::Operator]
        .into_iter()
        .find(|by| ended_by(*by) == text)
        .ok_or(RestoreError::Value("who ended the call"))
}

fn cdr_record(cdr: &Cdr, media: &Session) -> CdrRecord {
    CdrRecord {
        call: cdr.call,
        caller: cdr.caller.clone(),
        callee: cdr.callee.clone(),
        created: cdr.created,
        answered: cdr.answered,
        ended: cdr.ended,
        status: cdr.status.code(),
        ended_by: ended_by(cdr.by).into(),
        recorded: media.recording.is_some(),
        legs: quality::legs_record(media),
    }
}

impl From<Flow> for FlowRecord {
    fn from(flow: Flow) -> Self {
        let Flow { vnode, transport, local, remote, connection } = flow;
        Self { vnode, transport: transport.as_str().into(), local, remote, connection }
    }
}

impl TryFrom<FlowRecord> for Flow {
    type Error = RestoreError;

    fn try_from(record: FlowRecord) -> Result<Self, RestoreError> {
        let FlowRecord { vnode, transport, local, remote, connection } = record;
        let transport = Transport::parse(&transport).ok_or(RestoreError::Value("a transport"))?;
        Ok(Self { vnode, transport, local, remote, connection })
    }
}

/// The bindings of an AoR as they are stored; nothing for none.
pub fn encode_bindings(bindings: &[Binding]) -> Bytes {
    if bindings.is_empty() {
        return Bytes::new();
    }
    let records: Vec<BindingRecord> = bindings
        .iter()
        .map(|binding| BindingRecord {
            contact: binding.contact.to_string(),
            instance: binding.instance.as_ref().map(Text::to_string),
            reg_id: binding.reg_id,
            path: binding.path.iter().map(Text::to_string).collect(),
            q: binding.q,
            call_id: binding.call_id.to_string(),
            cseq: binding.cseq,
            expires: binding.expires,
            flow: binding.flow.into(),
            user_agent: binding.user_agent.as_ref().map(Text::to_string),
        })
        .collect();
    encode(&records)
}

/// Reads them again.
pub fn decode_bindings(bytes: &[u8]) -> Result<Vec<Binding>, RestoreError> {
    if bytes.is_empty() {
        return Ok(Vec::new());
    }
    let records: Vec<BindingRecord> = decode(bytes)?;
    let binding = |record: BindingRecord| {
        Ok(Binding {
            contact: record.contact.into(),
            instance: record.instance.map(Text::from),
            reg_id: record.reg_id,
            path: record.path.into_iter().map(Text::from).collect(),
            q: record.q,
            call_id: record.call_id.into(),
            cseq: record.cseq,
            expires: record.expires,
            flow: record.flow.try_into()?,
            user_agent: record.user_agent.map(Text::from),
        })
    };
    records.into_iter().map(binding).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::call_media::Part;
    use crate::actors::descriptions::tests::ringing;
    use crate::actors::media_records::heard_from;
    use crate::cluster::state::records::{VERSION, version_of};

    #[test]
    fn what_is_open_on_a_call_is_read_as_it_was_written_and_as_earlier_releases_wrote_it() {
        let (call, media) = ringing();
        let mut state = call.state().clone();
        let request = state.leg(LegId::CALLEE).out.clone().unwrap().request;
        let body = Body { content_type: "application/sdp".into(), bytes: "v=0".into() };
        state.legs[0].updated = Some(Updated { cseq: 7, body: Some(body) });
        let came_by = state.legs[0].dialog.flow;
        let relay = |from, to| Relay {
            from,
            came_by,
            request: request.clone(),
            onward: request.clone(),
            to,
            answer: None,
            late_offer: false,
            cancelled: true,
        };
        state.relays = vec![relay(LegId::CALLER, LegId::CALLEE), relay(LegId::CALLEE, LegId::CALLER)];
        let site = Site::of(came_by.local);
        let mut record = call_record(&state, media.session());
        let (read, _) = restore(&encode(&record), site).unwrap();
        assert_eq!((&read.legs[0].updated, &read.relays), (&state.legs[0].updated, &state.relays));
        record.relays.iter_mut().for_each(|relay| relay.to = None);
        assert_eq!(restore(&encode(&record), site).unwrap().0.relays, state.relays);
    }

    /// Whoever takes a call over makes the same of its packets, and of an answer that is to come; who knows nothing of that can't read it.
    #[test]
    fn what_is_made_over_is_read_as_it_was_written() {
        let (call, mut media) = ringing();
        let codecs = vec![crate::media::core::formats::Codec::Opus];
        media.may_code(&crate::config::Media { codecs, ..Default::default() });
        let offer = "v=0\r\no=a 1 2 IN IP4 10.0.0.1\r\ns=-\r\nc=IN IP4 10.0.0.1\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0\r\n";
        media.translate(0, Part::Offer, &offer.into()).unwrap();
        let opus =
            offer.replace("10.0.0.1", "10.0.0.2").replace("AVP 0", "AVP 99") + "a=rtpmap:99 opus/48000/2\r\na=fmtp:99 cbr=1\r\n";
        let g711 = opus.replace("AVP 99", "AVP 0");
        let site = Site::of(call.state().legs[0].dialog.flow.local);
        for answer in [None, Some((opus, true)), Some((g711, false))] {
            if let Some((answer, _)) = &answer {
                media.translate(1, Part::Answer, &answer.clone().into()).unwrap();
            }
            let record = encode_call(&call_record(call.state(), media.session()));
            let (_, read) = restore(&record, site).unwrap();
            assert_eq!(read.streams, media.session().streams);
            assert_eq!([0, 1].map(|leg| read.plan(leg)), [0, 1].map(|leg| media.session().plan(leg)));
            let is_needed = answer.is_none_or(|(_, is_needed)| is_needed);
            assert_eq!(version_of(&record), if is_needed { 4 } else { 1 });
        }
        media.record(true);
        let record = encode_call(&call_record(call.state(), media.session()));
        let (_, read) = restore(&record, site).unwrap();
        assert_eq!((read.recording, version_of(&record)), (media.session().recording, VERSION));
        assert_eq!([0, 1].map(|leg| read.plan(leg)[0].as_ref().unwrap().recorded), [true; 2]);
        let record: CallRecord = decode(&record).unwrap();
        assert_eq!(heard_from(&record.media)[1][0], (0, Some(crate::media::core::formats::Codec::Pcmu)));
    }

    /// And goes on with the music.
    #[test]
    fn who_holds_is_read_as_it_was_written() {
        let (call, mut media) = ringing();
        media.may_code(&crate::config::Media { hold_music: Some("x.wav".into()), ..Default::default() });
        let offer = "v=0\r\no=a 1 2 IN IP4 10.0.0.1\r\ns=-\r\nc=IN IP4 10.0.0.1\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0\r\n";
        media.translate(0, Part::Offer, &offer.into()).unwrap();
        media.translate(1, Part::Answer, &offer.replace("0.0.1", "0.0.2").into()).unwrap();
        for (part, leg, direction) in [(Part::LaterOffer, 0, "inactive"), (Part::Answer, 1, "recvonly")] {
            media.translate(leg, part, &format!("{offer}a={direction}\r\n").into()).unwrap();
            let site = Site::of(call.state().legs[0].dialog.flow.local);
            let (_, read) = restore(&encode_call(&call_record(call.state(), media.session())), site).unwrap();
            assert_eq!(read.streams, media.session().streams);
            assert_eq!([0, 1].map(|leg| read.plan(leg)), [0, 1].map(|leg| media.session().plan(leg)));
        }
        media.accepted();
        assert!(media.session().plan(1)[0].as_ref().unwrap().music.is_some());
    }
}
