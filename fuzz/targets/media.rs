//! The media of one call: offers and answers in any order, refused and taken back.
//!
//! An input is a row of orders with a 0 between them; the first byte says which.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use tandem::families::Families;
use tandem::media::core::formats::Codec;
use tandem::media::core::srtp::{MasterKey, Suite};
use tandem::media::core::{Keyed, SdpError, Session, TakePort};

/// More than any call's phones have to say.
const ORDERS: usize = 64;

struct World {
    session: Session,
    next_port: u16,
}

/// Orders, a capital being the callee's: `o` an offer, `i` one of another phone that is to have this side, `a` an answer, `g` an answer to what was
/// told again, `d` a description that can't be taken back (or `v`, with which it begins), each with its SDP; `n` the
/// offer is refused, `c` sound may be made over from then on, `t` a leg is told again, `l` packets come, `w` a browser is called with what the leg was told, `k` a handshake has ended, `r` one was
/// lost.
pub fn sdp(input: &[u8]) {
    let mut world = World { session: Session::new(families(1), 7), next_port: 10_000 };
    // Who describes itself without saying who it is.
    let mut turn = 0;
    for order in input.split(|byte| *byte == 0).take(ORDERS) {
        let Some((what, rest)) = order.split_first() else { continue };
        let leg = usize::from(what.is_ascii_uppercase());
        let before = world.session.clone();
        match what.to_ascii_lowercase() {
            b'v' => {
                world.hear(turn, order, Session::describe);
                turn = 1 - turn;
            }
            b'd' => drop(world.hear(leg, rest, Session::describe)),
            b'o' => world.offer(leg, rest, Session::offer),
            b'i' => world.offer(leg, rest, Session::offer_instead),
            // Answers come to offers only.
            b'a' if world.session.before.as_ref().is_some_and(|before| before.by != leg) => {
                let offered = world.session.lines[1 - leg];
                if let Some(given) = world.hear(leg, rest, Session::answer) {
                    assert!(lines(&given) <= offered, "{}", text(&given));
                    world.session.accepted();
                }
            }
            b'g' if world.session.told[leg].is_some() => {
                let knew = (before.told[1 - leg].clone(), before.lines);
                if world.hear(leg, rest, Session::answer_again).is_some() {
                    assert_eq!((world.session.told[1 - leg].clone(), world.session.lines), knew);
                }
            }
            b'n' => {
                assert_eq!(world.session.take_back(), before.before.is_some());
                assert!(!world.session.take_back());
            }
            b't' => {
                if let Some(told) = world.session.tell_again(leg) {
                    readable(1 - leg, &told);
                    assert!(world.session.versions[leg] > before.versions[leg]);
                }
            }
            b'w' => {
                if let Some(told) = world.session.told[leg].clone() {
                    world.session.certify(leg);
                    let there = Ipv4Addr::new(198, 51, 100, 9).into();
                    if let Some(toward) = world.session.toward(leg, &told, there, true) {
                        readable(1 - leg, &toward);
                    }
                }
            }
            b'k' => {
                let stream = usize::from(rest.first().copied().unwrap_or(0));
                let key = |byte| MasterKey::new(Suite::AeadAes256Gcm, &[byte; 44]).unwrap();
                let keyed = Keyed { theirs: key(1), ours: key(2), last_flight: Vec::new(), is_fresh: true };
                let mut ends = world.session.streams.iter().map(|stream| stream.legs[leg].protection.association.as_ref());
                let number = ends.nth(stream).flatten().map_or(1, |association| association.number);
                // Whose certificate this is nobody has said, so that no keys can be had of it.
                assert!(!world.session.has_keys(leg, stream, (number, b"certificate"), &keyed));
            }
            b'r' => {
                let stream = usize::from(rest.first().copied().unwrap_or(0));
                for number in 1..9 {
                    world.session.renew(leg, stream, number);
                }
            }
            b'c' => world.session.codecs = Codec::ALL[..].into(),
            b'l' => {
                let [stream, port] = [0, 1].map(|at| rest.get(at).copied().unwrap_or(1));
                let source = SocketAddr::from(([203, 0, 113, 1], u16::from(port) + 1));
                let rtcp = port % 2 == 1;
                world.session.latch(leg, stream.into(), rtcp, source);
                assert!(!world.session.latch(leg, stream.into(), rtcp, source), "it is known by now");
            }
            _ => {}
        }
        world.holds();
    }
}

/// What takes a description of a leg's.
type Takes = fn(&mut Session, usize, &[u8], TakePort<'_>) -> Result<Vec<u8>, SdpError>;

impl World {
    /// Whatever is accepted is given on as something that is accepted too, and what is not leaves no trace.
    fn hear(&mut self, leg: usize, sdp: &[u8], takes: Takes) -> Option<Vec<u8>> {
        let before = self.session.clone();
        let next = &mut self.next_port;
        let mut take = |_| {
            *next = next.checked_add(2)?;
            Some(*next)
        };
        let Ok(given) = takes(&mut self.session, leg, sdp, &mut take) else {
            assert_eq!(self.session, before);
            return None;
        };
        let other = 1 - leg;
        assert_eq!(self.session.versions[leg], before.versions[leg]);
        assert!(self.session.versions[other] >= before.versions[other]);
        readable(leg, &given);
        Some(given)
    }

    /// An offer that is refused at once changes nothing but the versions that were seen; one that came before it and had no answer counts.
    fn offer(&mut self, leg: usize, sdp: &[u8], takes: Takes) {
        let before = self.session.clone();
        let Some(given) = self.hear(leg, sdp, takes) else { return };
        // RFC 3264 §8: never fewer lines than before.
        assert!(lines(&given) >= before.lines[1 - leg] && lines(&given) == self.session.lines[1 - leg], "{}", text(&given));
        let mut refused = self.session.clone();
        assert!(refused.take_back());
        assert_eq!((&refused.streams, refused.sides, refused.held), (&before.streams, before.sides, before.held));
        assert_eq!(
            (refused.lines, refused.told.each_ref().map(Option::is_some)),
            (before.lines, before.told.each_ref().map(Option::is_some))
        );
    }

    /// What is so at any time.
    fn holds(&self) {
        let session = &self.session;
        for lives in [&session.streams, &former(session).streams] {
            let locals: Vec<_> = lives.iter().flat_map(|stream| &stream.legs).filter_map(|leg| leg.local).collect();
            assert_eq!(locals.iter().collect::<BTreeSet<_>>().len(), locals.len(), "each end has a port of its own: {locals:?}");
            for local in locals {
                assert!(session.ports().contains(&local.port()));
                assert!(session.ips.all().any(|ip| ip == local.ip()));
            }
        }
        for leg in [0, 1] {
            let plans = session.plan(leg);
            let one_family = |ip: SocketAddr, local: SocketAddr| ip.is_ipv4() == local.is_ipv4();
            for plan in plans.iter().flatten() {
                let types: Vec<_> = plan.rules.rules.iter().map(|rule| rule.from).collect();
                assert_eq!(types.iter().collect::<BTreeSet<_>>().len(), types.len(), "one rule for each: {types:?}");
                assert!(plan.rules.rules.iter().all(|rule| rule.from < 128 && rule.to < 128), "{plan:?}");
                assert!(plan.signalled[0].is_none_or(|remote| one_family(remote, plan.local)), "{plan:?}");
            }
        }
        let _ = (session.is_silent_on_purpose(), session.awaits_keys(0), session.awaits_keys(1));
        let mut found = session.clone();
        found.find_sides();
    }
}

/// What stood before the offer that has no answer yet, or stands.
fn former(session: &Session) -> Session {
    let mut session = session.clone();
    if let Some(before) = session.before.take() {
        session.streams = before.streams;
    }
    session
}

fn families(last: u8) -> Families {
    let v4 = Families::from(Ipv4Addr::new(192, 0, 2, last));
    v4.and(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last.into()).into()).expect("one of each family")
}

/// Another server takes it, if it is not to be DTLS's client.
fn readable(leg: usize, sdp: &[u8]) {
    let sdp = text(sdp).replace("a=setup:passive", "a=setup:active");
    assert!(Session::new(families(2), 8).describe(leg, sdp.as_bytes(), &mut |_| Some(10_000)).is_ok(), "{sdp}");
}

fn lines(sdp: &[u8]) -> usize {
    let starts = sdp.split(|byte| *byte == b'\n');
    starts.filter(|line| line.starts_with(b"m=")).count()
}

fn text(sdp: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(sdp)
}
