//! The handshakes of a media leg, whose phone agrees on keys with us in DTLS (RFC 5764). Layer: shell.
//!
//! A phone has its keys by our last flight, which is sent once the call has committed them: no packet is ever protected by keys that only one node
//! knows. We repeat nothing by ourselves: who waits for us repeats what it has said, and is answered again.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;

use super::media_leg::Learned;
use crate::clock::{self, Uptime};
use crate::media::core::dtls::Identity;
use crate::media::core::{Dtls, Keyed};
use crate::media::dtls::{Dealing, Done, DtlsError, Handshake, dealing};
use crate::media::relay::Sender;

/// So many are open with one stream at once: phones that a call rings share its port, and nobody knows yet whose packets are whose.
const MOST: usize = 4;
/// Who goes on with a handshake of which nobody knows has said so twice, and this much apart.
const SURE: Duration = Duration::from_millis(100);
/// A phone that is asked to begin another has so much time to hear of it.
const PATIENCE: Duration = Duration::from_secs(3);

/// What comes of a datagram, or of what the call says.
#[derive(Default)]
pub(super) struct Outcome {
    /// To be sent, and where to.
    pub(super) send: Option<(SocketAddr, Vec<Bytes>)>,
    /// For the call.
    pub(super) learned: Option<Learned>,
}

/// Those of one stream.
#[derive(Default)]
pub(super) struct Handshakes {
    plan: Option<Dtls>,
    /// Our certificate, by its number.
    identity: Option<(u32, Identity)>,
    open: Vec<Open>,
    /// When the phone was first heard in one that nobody knows, and when that was told.
    lost: [Option<Uptime>; 2],
}

struct Open {
    /// Where it was last heard from.
    source: SocketAddr,
    /// That is where the phone is known to be.
    is_known: bool,
    handshake: Handshake,
    /// It has ended, and the call may not have heard of it.
    done: Option<Done>,
}

impl Handshakes {
    /// Takes what the call says of the stream. One that had ended may have waited for it.
    pub(super) fn set(&mut self, plan: Option<&Dtls>) -> Outcome {
        let has_ice = self.plan.as_ref().is_some_and(|former| former.agent.is_some());
        let former = self.plan.take().map(|former| former.association);
        self.plan = plan.cloned();
        let Some(plan) = &self.plan else {
            self.open.clear();
            return Outcome::default();
        };
        let association = &plan.association;
        let is_its = |open: &Open| open.done.as_ref().is_some_and(|done| association.is_of(&done.peer));
        match former {
            Some(former) if former.number == association.number => {
                // By ICE it comes from the phone; who has come without is anybody. Another certificate is another phone's.
                let is_other =
                    has_ice != plan.agent.is_some() || (!former.prints.is_empty() && former.prints != association.prints);
                if is_other {
                    self.open.retain(is_its);
                    self.lost = [None; 2];
                } else if former.prints != association.prints {
                    self.open.retain(|open| open.done.is_none() || is_its(open));
                }
            }
            Some(_) | None => {
                self.open.clear();
                self.lost = [None; 2];
            }
        }
        let Some(keyed) = &association.keyed else {
            return Outcome { learned: self.open.iter().find_map(|open| open.keys(plan)), send: None };
        };
        let send = self.open.iter().find(|open| is_its(open)).map(|open| (open.source, keyed.last_flight.clone()));
        self.open.clear();
        Outcome { send, learned: None }
    }

    /// Takes a datagram.
    pub(super) fn hear(&mut self, (source, sender): (SocketAddr, Sender), datagram: &[u8], uptime: Uptime) -> Outcome {
        let Some(plan) = self.plan.as_ref().filter(|plan| plan.association.keyed.is_none()) else { return Outcome::default() };
        // A library's: nothing of ours waits for it.
        let now = clock::instant_of(clock::now()).into_std();
        // With ICE all that comes is the phone's, by whatever path.
        let has_ice = plan.agent.is_some();
        if has_ice != (sender == Sender::Checked) {
            return Outcome::default();
        }
        let is_known = sender != Sender::Anybody;
        let known = self.open.iter().position(|open| has_ice || open.source == source);
        let at = match (known, dealing(datagram)) {
            (Some(at), _) => at,
            (None, Dealing::Hello) => {
                let number = plan.association.number;
                let (_, identity) = match self.identity.take().filter(|(known, _)| *known == number) {
                    Some(known) => self.identity.insert(known),
                    None => self.identity.insert((number, Identity::of(&plan.secret, number))),
                };
                let handshake = match Handshake::new(identity, has_ice, now) {
                    Ok(handshake) => handshake,
                    Err(error) => {
                        tracing::error!(%error, "no handshake");
                        return Outcome::default();
                    }
                };
                if self.open.len() >= MOST {
                    // Who has not shown yet that he is where he says goes first, and who is known to be the phone last.
                    let rank = |open: &Open| (open.is_known, open.done.is_some(), open.handshake.has_answered());
                    let at = (0..self.open.len()).min_by_key(|at| rank(&self.open[*at])).unwrap_or(0);
                    self.open.remove(at);
                }
                self.lost[0] = None;
                self.open.push(Open { source, is_known, handshake, done: None });
                self.open.len() - 1
            }
            (None, Dealing::Again) => return Outcome { learned: self.lost(is_known, uptime), send: None },
            (None, Dealing::Nothing) => return Outcome::default(),
        };
        let open = &mut self.open[at];
        let mut failed = false;
        open.source = source;
        let (send, ended) = match open.handshake.take(datagram, now) {
            Ok(step) => {
                open.done = step.done.or_else(|| open.done.take());
                let is_anothers = |done: &Done| !plan.association.prints.is_empty() && !plan.association.is_of(&done.peer);
                let is_anothers = open.done.as_ref().is_some_and(is_anothers);
                if is_anothers {
                    tracing::info!(%source, "a certificate that isn't the phone's");
                }
                (step.send, is_anothers)
            }
            Err(error) => {
                tracing::info!(%error, "a handshake failed");
                // What has failed it may have been left of another: the phone is asked for one more, and told of its failure if there is none.
                failed = is_known;
                (if let DtlsError::Failed { alert, .. } = error { alert } else { Vec::new() }, true)
            }
        };
        let stuck = failed && plan.association.may_be_renewed();
        let send = if stuck { Vec::new() } else { send };
        let learned = open.keys(plan).or(stuck.then_some(Learned::Stuck { number: plan.association.number }));
        if ended {
            self.open.remove(at);
        }
        let send: Vec<_> = send.into_iter().map(Bytes::from).collect();
        Outcome { send: (!send.is_empty()).then_some((source, send)), learned }
    }

    /// A phone goes on with a handshake of which nobody here knows: its first half was another node's, and is lost with it.
    fn lost(&mut self, is_known: bool, now: Uptime) -> Option<Learned> {
        let plan = self.plan.as_ref().filter(|_| is_known)?;
        let [heard, told] = &mut self.lost;
        let since = *heard.get_or_insert(now);
        let is_sure = self.open.iter().all(|open| !open.is_known) && now.since(since) >= SURE;
        if !is_sure || told.is_some_and(|told| now.since(told) < PATIENCE) {
            return None;
        }
        *told = Some(now);
        Some(Learned::Stuck { number: plan.association.number })
    }
}

impl Open {
    /// What the call is to keep, once it is known that the certificate is the phone's.
    fn keys(&self, plan: &Dtls) -> Option<Learned> {
        let Done { theirs, ours, peer, last_flight } = self.done.as_ref()?;
        if !plan.association.is_of(peer) {
            return None;
        }
        let last_flight = last_flight.iter().map(|datagram| Bytes::copy_from_slice(datagram)).collect();
        let keyed = Keyed { theirs: theirs.clone(), ours: ours.clone(), last_flight, is_fresh: true };
        Some(Learned::HasKeys { number: plan.association.number, certificate: peer.clone(), keyed: Box::new(keyed) })
    }
}

#[cfg(test)]
#[allow(clippy::wildcard_enum_match_arm, reason = "dimpl may say more")]
mod tests {
    use std::time::Instant;

    use dimpl::{Config, DtlsCertificate, Output};

    use super::*;
    use crate::clock::Timestamp;
    use crate::media::core::Secret;
    use crate::media::core::{Association, ice};

    const SECRET: Secret = Secret { bytes: [7; 32], since: Timestamp(5), restored: false };

    fn theirs(number: u32) -> Identity {
        Identity::of(&Secret { bytes: [9; 32], ..SECRET }, number)
    }

    fn here() -> SocketAddr {
        "192.0.2.1:4000".parse().unwrap()
    }

    fn there() -> SocketAddr {
        "192.0.2.1:4002".parse().unwrap()
    }

    fn sender(ice: bool) -> Sender {
        if ice { Sender::Checked } else { Sender::Known }
    }

    fn plan(ice: bool, prints: &[u32]) -> Dtls {
        let prints = prints.iter().map(|number| theirs(*number).print()).collect();
        let agent = ice.then(|| ice::Agent {
            ours: [1, 0].map(|generation| ice::Credentials::of(&SECRET, 0, 0, generation)),
            theirs: Some("them".into()),
        });
        Dtls { secret: SECRET, association: Association { prints, ..Association::default() }, agent }
    }

    /// What the call says once it has committed the keys.
    fn keyed(plan: &Dtls, learned: &Learned) -> Dtls {
        let Learned::HasKeys { number, keyed, .. } = learned else { panic!("{learned:?}") };
        assert_eq!(*number, plan.association.number);
        Dtls { association: Association { keyed: Some((**keyed).clone()), ..plan.association.clone() }, ..plan.clone() }
    }

    /// A phone: dimpl's client. Its time is its own.
    struct Phone {
        dtls: dimpl::Dtls,
        began: Instant,
        now: Instant,
        keys: Option<Vec<u8>>,
    }

    impl Phone {
        fn new(number: u32) -> Self {
            let Identity { certificate, private_key } = theirs(number);
            let now = clock::instant_of(clock::now()).into_std();
            let config = std::sync::Arc::new(Config::builder().build().unwrap());
            let mut dtls = dimpl::Dtls::new_12(config, DtlsCertificate { certificate, private_key }, now);
            dtls.set_active(true);
            Self { dtls, began: now, now, keys: None }
        }

        fn hear(&mut self, datagram: Option<&[u8]>) -> Vec<Vec<u8>> {
            self.dtls.handle_timeout(self.now).unwrap();
            if let Some(datagram) = datagram {
                self.dtls.handle_packet(datagram).unwrap();
            }
            let (mut said, mut buffer) = (Vec::new(), vec![0; 4096]);
            loop {
                match self.dtls.poll_output(&mut buffer) {
                    Output::Packet(packet) => said.push(packet.to_vec()),
                    Output::KeyingMaterial(keys, _) => self.keys = Some(keys.to_vec()),
                    Output::Timeout(_) => return said,
                    _ => {}
                }
            }
        }

        /// It repeats what it has said.
        fn repeats(&mut self) -> Vec<Vec<u8>> {
            self.now += Duration::from_secs(3);
            self.hear(None)
        }
    }

    /// Has a phone say all that it has to, until it waits. Gives what the call was told.
    fn talk(phone: &mut Phone, handshakes: &mut Handshakes, mut said: Vec<Vec<u8>>, most: usize) -> (usize, Vec<Learned>) {
        let (mut heard, mut learned) = (0, Vec::new());
        let sender = sender(handshakes.plan.as_ref().is_some_and(|plan| plan.agent.is_some()));
        while !said.is_empty() && heard < most {
            let datagram = said.remove(0);
            heard += 1;
            let outcome = handshakes.hear((here(), sender), &datagram, Uptime::default() + (phone.now - phone.began));
            learned.extend(outcome.learned);
            for answer in outcome.send.map(|(_, answers)| answers).unwrap_or_default() {
                said.extend(phone.hear(Some(&answer)));
            }
        }
        (heard, learned)
    }

    /// The owner dies after any datagram: the next one finishes what hasn't begun, has the phone asked for another handshake, or has the keys.
    #[test]
    fn whoever_takes_over_leaves_no_phone_without_keys() {
        for ice in [true, false] {
            for cut in 0..9 {
                let mut phone = Phone::new(1);
                let mut owner = Handshakes::default();
                let plan = plan(ice, &[1]);
                assert!(owner.set(Some(&plan)).learned.is_none());
                let first = phone.hear(None);
                let (heard, learned) = talk(&mut phone, &mut owner, first, cut);
                assert!(phone.keys.is_none(), "its last flight is held back");
                let mut next = Handshakes::default();
                let committed = learned.first().map(|learned| keyed(&plan, learned));
                if let Some(committed) = &committed {
                    // It is sent where the phone is, once, and by who has committed it.
                    let Some((to, flight)) = owner.set(Some(committed)).send else { panic!("no last flight") };
                    assert_eq!(to, here());
                    next.set(Some(committed));
                    flight.iter().for_each(|datagram| drop(phone.hear(Some(datagram))));
                    assert!(phone.keys.is_some() && owner.set(Some(committed)).send.is_none(), "{ice} {cut}");
                    assert!(heard <= cut && cut > 1);
                    continue;
                }
                next.set(Some(&plan));
                let again = phone.repeats();
                let (_, learned) = talk(&mut phone, &mut next, again, 99);
                let again = phone.repeats();
                let more = talk(&mut phone, &mut next, again, 99).1;
                let learned: Vec<_> = learned.into_iter().chain(more).collect();
                match &learned[..] {
                    [Learned::Stuck { number: 1 }] => assert!(cut > 0, "{ice} {cut}"),
                    [first @ Learned::HasKeys { .. }, ..] => assert!(next.set(Some(&keyed(&plan, first))).send.is_some()),
                    other => panic!("{ice} {cut}: {other:?}"),
                }
            }
        }
    }

    /// With ICE the way may change while the handshake is on; without it another address is another's.
    #[test]
    fn a_handshake_goes_on_by_another_path() {
        for ice in [true, false] {
            let mut phone = Phone::new(1);
            let mut handshakes = Handshakes::default();
            handshakes.set(Some(&plan(ice, &[1])));
            let (mut said, mut at, mut learned) = (phone.hear(None), 0, None);
            while let Some(datagram) = said.pop() {
                at += 1;
                let from = if at % 2 == 0 { here() } else { there() };
                let outcome = handshakes.hear((from, sender(ice)), &datagram, Uptime(0));
                learned = outcome.learned.or(learned);
                for answer in outcome.send.map(|(_, answers)| answers).unwrap_or_default() {
                    said.extend(phone.hear(Some(&answer)));
                }
            }
            assert_eq!(matches!(learned, Some(Learned::HasKeys { .. })), ice);
        }
    }

    /// It may be here before the phone has said whose it is, and then it is nobody's until that is said; who is somebody else stays nobody.
    #[test]
    fn a_handshake_waits_until_it_is_known_whose_it_is() {
        for (says, is_its) in [(1, true), (2, false)] {
            let mut phone = Phone::new(1);
            let mut handshakes = Handshakes::default();
            handshakes.set(Some(&plan(false, &[])));
            let first = phone.hear(None);
            assert!(talk(&mut phone, &mut handshakes, first, 99).1.is_empty());
            let learned = handshakes.set(Some(&plan(false, &[says]))).learned;
            assert_eq!(matches!(learned, Some(Learned::HasKeys { .. })), is_its);
            // If the call could not keep it, it is told again as soon as the phone asks.
            let again = phone.repeats();
            let again = talk(&mut phone, &mut handshakes, again, 99).1;
            assert_eq!(again.iter().any(|learned| matches!(learned, Learned::HasKeys { .. })), is_its);
        }
    }

    /// Nobody who is only there pushes out who has shown where he is, nor has the call ask for anything.
    #[test]
    fn strangers_change_nothing() {
        let mut phone = Phone::new(1);
        let mut handshakes = Handshakes::default();
        handshakes.set(Some(&plan(false, &[1])));
        let first = phone.hear(None);
        let hello = first[0].clone();
        // Until its second flight has been answered.
        talk(&mut phone, &mut handshakes, first, 2);
        let flight_5 = [&[22, 254, 253, 0, 0, 0, 0, 0, 0, 0, 0, 0, 12, 11][..], &[0; 11]].concat();
        for port in 1..99 {
            let stranger = SocketAddr::new(here().ip(), port);
            handshakes.hear((stranger, Sender::Anybody), &hello, Uptime(0));
            let other = SocketAddr::new(here().ip(), 1000 + port);
            assert!(handshakes.hear((other, Sender::Anybody), &flight_5, Uptime(u64::from(port) * 1_000_000)).learned.is_none());
        }
        assert_eq!(handshakes.open.len(), MOST);
        assert!(handshakes.open.iter().any(|open| open.source == here() && open.handshake.has_answered()));
    }
}
