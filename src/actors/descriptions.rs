//! The session descriptions that pass in a call's messages: the media plane puts our addresses into them. Layer: shell.

use bytes::Bytes;

use super::call_media::{CallMedia, Part};
use super::ringback;
use super::services::Services;
use crate::ids::LegId;
use crate::media::core::{Policy, Session};
use crate::sip::b2bua::{CallLeg, CallState, Effect, Relay};
use crate::sip::headers::Transport;
use crate::sip::leg::{LegCommand, LegEvent, TxKey};
use crate::sip::message::{Headers, Response};
use crate::sip::registrar::Phone;
use crate::sip::status::Class;
use crate::sip::{Method, Name, StatusCode};

/// Why a description stops here.
pub(super) enum Refused {
    /// An offer can't be taken: this is its answer.
    Request(TxKey, Box<Response>),
    /// The answer in this response is unusable.
    Answer(Box<Response>),
    /// The answer in an ACK is.
    Ack,
}

/// An INVITE that calls a phone tells it our address of its own family, and offers it to agree on keys in DTLS if it is to; what comes later is made for
/// the phone's side.
pub(super) fn toward(
    session: &Session,
    services: &Services,
    state: Option<&CallState>,
    (leg, command): (LegId, LegCommand),
) -> LegCommand {
    let (Some(state), true) = (state.filter(|state| state.has_leg(leg)), begins_with_offer(&command)) else { return command };
    let LegCommand::Send(mut request, flow) = command else { return command };
    // Nobody is told of what a next owner could not know.
    let dtls = session.is_certified && has_dtls(services, state.leg(leg));
    if let Some(sdp) = session.toward(state.side(leg), &request.body, flow.remote.ip(), dtls) {
        request.body = sdp;
    }
    LegCommand::Send(request, flow)
}

/// Before the commit: whoever is offered to agree on keys in DTLS must find who knows of it.
pub(super) fn certify(media: &mut CallMedia, services: &Services, state: &CallState, effects: &[Effect]) {
    for effect in effects {
        if let Effect::Leg(leg, command) = effect
            && state.has_leg(*leg)
            && begins_with_offer(command)
            && has_dtls(services, state.leg(*leg))
        {
            media.certify(state.side(*leg));
        }
    }
}

/// Whether a command calls a phone, and offers something.
fn begins_with_offer(command: &LegCommand) -> bool {
    let LegCommand::Send(request, _) = command else { return false };
    let begins = request.method == Method::Invite && request.headers.to().is_ok_and(|to| to.tag().is_none());
    begins && has_sdp(&request.headers, &request.body)
}

/// Whether a leg's phone is offered to agree on keys in DTLS.
fn has_dtls(services: &Services, leg: &CallLeg) -> bool {
    let transport = leg.dialog.flow.transport;
    is_browsers(transport) || policy(services, leg.phone.as_ref(), transport) == Policy::Dtls
}

/// Whether the streams of both sides are to be protected: of the leg's phone, and of whom it talks with.
fn policies(services: &Services, state: &CallState, leg: LegId) -> [Policy; 2] {
    let on_side = |side: LegId| match state.has_leg(leg) && state.side(leg) == usize::from(side.0) {
        true => Some(leg),
        // As long as nobody has answered, whoever rings is on the other side.
        false => state.peer_of_side(side).or_else(|| state.peer(leg)),
    };
    [LegId::CALLER, LegId::CALLEE].map(|side| {
        on_side(side).map_or(Policy::default(), |leg| {
            let leg = state.leg(leg);
            policy(services, leg.phone.as_ref(), leg.dialog.flow.transport)
        })
    })
}

/// Whether a phone's streams are to be protected. A browser has nothing else than DTLS: where its user's phones are not to be protected, it may
/// all the same.
pub(super) fn policy(services: &Services, phone: Option<&Phone>, transport: Transport) -> Policy {
    let own = services.srtp_policy_of(phone);
    if own == Policy::Forbid && is_browsers(transport) { Policy::Allow } else { own }
}

fn is_browsers(transport: Transport) -> bool {
    matches!(transport, Transport::Ws | Transport::Wss)
}

/// Has the media plane treat both sides as what it knows of their phones says, when the leg's phone says something.
pub(super) fn treat(media: &mut CallMedia, services: &Services, state: &CallState, leg: LegId) {
    if !state.has_leg(leg) {
        return;
    }
    let sides = [LegId::CALLER, LegId::CALLEE];
    // Who rings is offered what it is to have when it is called.
    let dtls = sides.map(|side| state.peer_of_side(side).is_some_and(|seated| has_dtls(services, state.leg(seated))));
    let says = |side: LegId| (state.side(leg) == usize::from(side.0)).then(|| state.leg(leg).dialog.flow.remote.ip());
    media.treats(policies(services, state, leg), dtls, sides.map(says));
    media.may_code(&services.config.media);
}

/// An offer that came later than the first, and of which nothing has come, changes nothing (RFC 3264 §8).
pub(super) fn settle(media: &mut CallMedia, state: &CallState) {
    if !state.may_be_refused() {
        media.take_back();
    }
}

/// The request that brings an offer, if an event is one.
pub(super) fn offer_in(event: &LegEvent) -> Option<&TxKey> {
    if let LegEvent::Request(key, request, _) = event {
        Some(key).filter(|_| has_sdp(&request.headers, &request.body))
    } else {
        None
    }
}

/// Whether something has been made of an offer: a call that commits something else may have refused it.
pub(super) fn is_made_of(state: &CallState, offer: Option<&TxKey>) -> bool {
    offer.is_none_or(|offer| state.passes_on(offer))
}

/// Makes the description in a leg's event over for the other side.
#[allow(clippy::wildcard_enum_match_arm, reason = "what isn't named passes as it is")]
pub(super) fn translate(media: &mut CallMedia, state: &CallState, leg: LegId, event: LegEvent) -> Result<LegEvent, Refused> {
    if !state.has_leg(leg) {
        return Ok(event);
    }
    // What those say whom the caller doesn't talk with is none of the media's business.
    let over = state.ended.is_some() || (state.answerer.is_some() && !state.is_seated(leg));
    let side = state.side(leg);
    match event {
        LegEvent::Request(key, mut request, flow)
            if matches!(request.method, Method::Invite | Method::Update) && has_sdp(&request.headers, &request.body) =>
        {
            let known = state.leg(leg).inbound.as_ref().is_some_and(|inbound| inbound.key == key);
            if !known && !over {
                request.body = media.translate(side, Part::LaterOffer, &request.body).map_err(|error| {
                    tracing::info!(%error, "an offer that can't be taken");
                    Refused::Request(key.clone(), Box::new(request.response(StatusCode::NOT_ACCEPTABLE_HERE, None)))
                })?;
            }
            Ok(LegEvent::Request(key, request, flow))
        }
        // An offer that can't go on is refused with the call's own words.
        LegEvent::Request(key, mut request, flow)
            if request.method == Method::Prack
                && has_sdp(&request.headers, &request.body)
                && state.takes_early_offer(leg).is_some() =>
        {
            request.body = media.translate(side, Part::LaterOffer, &request.body).unwrap_or_else(|error| {
                tracing::info!(%error, "an offer that can't be taken");
                Bytes::new()
            });
            Ok(LegEvent::Request(key, request, flow))
        }
        // Who takes the call for which another was referred offers.
        LegEvent::Response(mut response) if state.is_taken_by(leg, &response) && !response.body.is_empty() => {
            let offered = is_sdp(&response.headers).then(|| media.translate(side, Part::OfferInstead, &response.body));
            match offered {
                Some(Ok(body)) => response.body = body,
                Some(Err(error)) => {
                    tracing::info!(%error, "an offer that can't be taken");
                    return Err(Refused::Answer(Box::new(response)));
                }
                None => return Err(Refused::Answer(Box::new(response))),
            }
            Ok(LegEvent::Response(response))
        }
        LegEvent::Response(response) if !over && ringback::may_be_heard(media, state, leg, &response) => {
            Ok(LegEvent::Response(ringback::ring(media, state, response)))
        }
        LegEvent::Response(response) if !over && answers_an_offer(state, leg, &response) => {
            let to_offer = answers_a_later_offer(state, leg, &response.headers) || state.comes_about(leg, &response);
            let part = match state.answers_us(leg, &response.headers) {
                true => Part::AnswerAgain,
                false if state.offers(leg, &response.headers) => Part::Offer,
                false => Part::Answer,
            };
            translate_response(media, (side, part), response, to_offer).map(LegEvent::Response)
        }
        LegEvent::Acked(mut ack) if has_sdp(&ack.headers, &ack.body) && state.awaits_answer_of(leg) => {
            ack.body = media.translate(side, Part::Answer, &ack.body).map_err(|_| Refused::Ack)?;
            Ok(LegEvent::Acked(ack))
        }
        other => Ok(other),
    }
}

fn translate_response(
    media: &mut CallMedia,
    (side, part): (usize, Part),
    mut response: Response,
    to_offer: bool,
) -> Result<Response, Refused> {
    let class = response.status.class();
    if has_sdp(&response.headers, &response.body) && class <= Class::Success {
        match media.translate(side, part, &response.body) {
            Ok(body) => response.body = body,
            Err(error) => {
                tracing::info!(%error, "an answer that can't be taken");
                if class == Class::Success {
                    return Err(Refused::Answer(Box::new(response)));
                }
                // The phone rings all the same, and what it says in the end may be better.
                response.body = Bytes::new();
                response.headers.remove(&Name::ContentType);
                // It isn't acknowledged: then it would not be said again.
                response.headers.remove(&Name::RSeq);
            }
        }
    }
    if class == Class::Success && response.headers.cseq().is_ok_and(|cseq| cseq.method == Method::Invite) {
        media.is_settled(side);
    }
    if class == Class::Success && to_offer {
        media.accepted();
    }
    Ok(response)
}

/// Whether a response may describe something: to an INVITE of ours, or an UPDATE that we have passed on.
fn answers_an_offer(state: &CallState, leg: LegId, response: &Response) -> bool {
    response.headers.cseq().is_ok_and(|cseq| cseq.method == Method::Invite)
        || answers_a_later_offer(state, leg, &response.headers)
}

/// Whether what has this CSeq is, or answers, an offer of a side's that came after the first.
fn answers_a_later_offer(state: &CallState, leg: LegId, headers: &Headers) -> bool {
    let Ok(cseq) = headers.cseq() else { return false };
    let onward = |relay: &Relay| relay.to == leg && relay.is_offer() && relay.onward.headers.cseq() == Ok(cseq.clone());
    state.relays.iter().any(onward)
}

/// Whether a body is a session description, as far as its type says.
pub(super) fn is_sdp(headers: &Headers) -> bool {
    headers.content_type().is_none_or(|kind| kind == "application/sdp")
}

fn has_sdp(headers: &Headers, body: &Bytes) -> bool {
    !body.is_empty() && is_sdp(headers)
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::clock::Timestamp;
    use crate::ids::{CallId, VnodeId};
    use crate::media::core::Session;
    use crate::media::ports::PortPool;
    use crate::sip::b2bua::{Call, CallInput, NewCall, Target};
    use crate::sip::dialog::Flow;
    use crate::sip::message::{Message, Request};
    use crate::sip::parse;

    const OFFER: &str = "v=0\r\no=a 1 1 IN IP4 10.0.0.1\r\ns=-\r\nc=IN IP4 10.0.0.1\r\nt=0 0\r\nm=audio 4000 RTP/AVP 8\r\n";

    pub(in crate::actors) fn ringing() -> (Call, CallMedia) {
        let text = "INVITE sip:b@x SIP/2.0\r\nVia: SIP/2.0/UDP 10.0.0.1;branch=z9hG4bK1\r\nFrom: <sip:a@x>;tag=a\r\nTo: <sip:b@x>\r\n\
                    Call-ID: c\r\nCSeq: 1 INVITE\r\nContact: <sip:a@10.0.0.1>\r\n\r\n";
        let Ok(Message::Request(invite)) = parse::datagram(&text.into()) else { unreachable!() };
        let flow = Flow {
            vnode: VnodeId(1),
            transport: Transport::Udp,
            local: "127.0.0.1:5060".parse().unwrap(),
            remote: "10.0.0.1:5060".parse().unwrap(),
            connection: 0,
        };
        let ports = PortPool::new(23_120, 23_130);
        let mut media = CallMedia::new(CallId(1), Session::new([127, 0, 0, 1].into(), 42), Arc::new(ports));
        media.translate(0, Part::Offer, &Bytes::from_static(OFFER.as_bytes())).unwrap();
        let new = NewCall {
            id: CallId(1),
            vnode: VnodeId(1),
            invite,
            from: flow,
            session: None,
            phone: None,
            targets: vec![Target {
                contact: "sip:b@10.0.0.2".into(),
                path: Vec::new(),
                flow,
                long: None,
                phone: None,
                q: 1000,
                replaces: None,
            }],
            body: None,
            caller: String::new(),
            trusted: false,
            callee: String::new(),
        };
        (Call::new(new, 1, Timestamp(1)).unwrap().0, media)
    }

    /// A request of a phone's in its dialog with us.
    fn of(call: &Call, leg: LegId, method: &str, number: u32) -> Request {
        let dialog = &call.state().leg(leg).dialog;
        let theirs = dialog.remote_tag.clone().unwrap_or_default();
        let text = format!(
            "{method} sip:x SIP/2.0\r\nVia: SIP/2.0/UDP 10.0.0.1;branch=z9hG4bK{leg}{method}{number}\r\nFrom: {};tag={theirs}\r\n\
             To: {};tag={}\r\nCall-ID: {}\r\nCSeq: {number} {method}\r\nContact: <sip:x@10.0.0.1>\r\n\r\n",
            dialog.remote, dialog.local, dialog.local_tag, dialog.call_id
        );
        let Ok(Message::Request(request)) = parse::datagram(&text.into()) else { unreachable!() };
        request
    }

    /// A phone that rings with a description that means nothing may still take the call with a better one.
    #[test]
    fn only_a_final_answer_is_unusable() {
        let (call, mut media) = ringing();
        let sent = call.state().leg(LegId::CALLEE).out.clone().unwrap().request;
        for (status, stops) in [(183, false), (200, true)] {
            let response = sent.response(StatusCode::new(status).unwrap(), Some("b"));
            let response = response.with_body("application/sdp", Bytes::from_static(b"rubbish"));
            match translate(&mut media, call.state(), LegId::CALLEE, LegEvent::Response(response)) {
                Ok(LegEvent::Response(response)) => {
                    assert!(!stops && response.body.is_empty() && response.headers.get(&Name::ContentType).is_none());
                }
                Err(Refused::Answer(_)) => assert!(stops),
                Ok(_) | Err(_) => panic!("{status}"),
            }
        }
    }

    /// A phone that comes back on another connection with an offer, while the other's is open: that it is there has to be kept, and nothing of
    /// what it has offered.
    #[test]
    fn an_offer_that_is_refused_leaves_nothing_although_there_is_something_to_commit() {
        let (mut call, mut media) = ringing();
        let sent = call.state().leg(LegId::CALLEE).out.clone().unwrap().request;
        let tell = |call: &mut Call, leg, event| {
            let step = call.handle(CallInput::Leg(leg, event), Timestamp(2));
            call.committed();
            step.commit.is_some()
        };
        let answer = sent.response(StatusCode::OK, Some("b")).with(Name::Contact, "<sip:b@10.0.0.2>");
        let answer = LegEvent::Response(answer.with_body("application/sdp", Bytes::from(OFFER.replace("10.0.0.1", "10.0.0.2"))));
        let Ok(answer) = translate(&mut media, call.state(), LegId::CALLEE, answer) else {
            panic!("an answer that can be taken")
        };
        tell(&mut call, LegId::CALLEE, answer);
        let ack = of(&call, LegId::CALLER, "ACK", 1);
        tell(&mut call, LegId::CALLER, LegEvent::Acked(ack));
        let agreed = media.session().streams.clone();
        for (leg, port, taken) in [(LegId::CALLER, "4002", true), (LegId::CALLEE, "4004", false)] {
            let mut request = of(&call, leg, "INVITE", 2);
            request.body = Bytes::from(OFFER.replace("4000", port));
            let key = TxKey::of(&request);
            let mut flow = call.state().leg(leg).dialog.flow;
            flow.transport = Transport::Tcp;
            let offer = LegEvent::Request(key.clone(), request, flow);
            assert_eq!(offer_in(&offer), Some(&key));
            let before = media.checkpoint();
            let Ok(offer) = translate(&mut media, call.state(), leg, offer) else { panic!("an offer that can be taken") };
            assert!(tell(&mut call, leg, offer) && is_made_of(call.state(), None));
            assert_eq!(is_made_of(call.state(), Some(&key)), taken);
            if !taken {
                media.restore(before);
            }
        }
        // The one that was open is refused too.
        let onward = call.state().relays[0].onward.clone();
        tell(&mut call, LegId::CALLEE, LegEvent::Response(onward.response(StatusCode::NOT_ACCEPTABLE_HERE, Some("b"))));
        settle(&mut media, call.state());
        assert_eq!(media.session().streams, agreed);
    }

    /// RFC 3264 §8: an offer without an answer changes nothing.
    #[test]
    fn an_offer_that_is_never_answered_is_taken_back() {
        let (mut call, mut media) = ringing();
        let sent = call.state().leg(LegId::CALLEE).out.clone().unwrap().request;
        let ok = sent.response(StatusCode::OK, Some("b")).with(Name::Contact, "<sip:b@10.0.0.2>");
        let tell = |call: &mut Call, leg, event| {
            let _ = call.handle(CallInput::Leg(leg, event), Timestamp(2));
            call.committed();
        };
        tell(&mut call, LegId::CALLEE, LegEvent::Response(ok));
        let ack = of(&call, LegId::CALLER, "ACK", 1);
        tell(&mut call, LegId::CALLER, LegEvent::Acked(ack));
        let before = media.session().streams.clone();
        let mut again = of(&call, LegId::CALLER, "INVITE", 2);
        again.body = Bytes::from(OFFER.replace("4000", "4002"));
        let flow = call.state().leg(LegId::CALLER).dialog.flow;
        let offer = LegEvent::Request(TxKey::of(&again), again, flow);
        let Ok(offer) = translate(&mut media, call.state(), LegId::CALLER, offer) else { panic!("an offer that can be taken") };
        tell(&mut call, LegId::CALLER, offer);
        assert_ne!(media.session().streams, before);
        // What else has no answer is none of its business.
        tell(&mut call, LegId::CALLEE, LegEvent::NoResponse(sent));
        settle(&mut media, call.state());
        assert_ne!(media.session().streams, before);
        let onward = call.state().relays[0].onward.clone();
        tell(&mut call, LegId::CALLEE, LegEvent::NoResponse(onward));
        settle(&mut media, call.state());
        assert_eq!(media.session().streams, before);
    }
}
