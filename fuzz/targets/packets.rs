//! Datagrams that come to a media port: STUN, DTLS, SRTP, RTCP, what is measured of them and what is made over.
//!
//! An input is a row of datagrams, each with two bytes before it that say how long it is.

use std::net::SocketAddr;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use tandem::clock::Uptime;
use tandem::media::core::Secret;
use tandem::media::core::codec::g711::Law;
use tandem::media::core::dtls::Identity;
use tandem::media::core::dtmf::Signal;
use tandem::media::core::formats::Codec;
use tandem::media::core::ice::{ANSWER, Agent, Check, Credentials};
use tandem::media::core::negotiation::{How, Rule};
use tandem::media::core::quality::{Figures, Meter};
use tandem::media::core::rtcp::{self, Said};
use tandem::media::core::sound::Quality;
use tandem::media::core::srtp::{Context, MOST_ADDED, MasterKey, Suite, is_rtcp};
use tandem::media::core::translator::Translator;
use tandem::media::dtls::{Handshake, dealing};
use tandem::sip::stun;

/// More than a handshake has.
const DATAGRAMS: usize = 64;

/// Who has no password, no key and no certificate is nobody, whatever he sends.
pub fn packets(input: &[u8]) {
    let secret = Secret { bytes: [7; 32], ..Secret::default() };
    let source = SocketAddr::from(([203, 0, 113, 1], 4000));
    let ours = [1, 0].map(|generation| Credentials::of(&secret, 0, 0, generation));
    let agent = Agent { ours, theirs: None };
    let now = Instant::now();
    // It costs more than all the rest.
    static IDENTITY: LazyLock<Identity> = LazyLock::new(|| Identity::of(&Secret { bytes: [7; 32], ..Secret::default() }, 1));
    let mut handshake = Handshake::new(&IDENTITY, true, now).unwrap();
    let suites = [Suite::AesCm128HmacSha1_80, Suite::AeadAes256Gcm];
    let mut contexts = suites.map(|suite| Context::new(&MasterKey::of_secret(suite, &secret.bytes)));
    let rule = |from, to, how, clock| Rule { from, to, how, clock };
    let rules = [
        rule(0, 8, How::Code(Codec::Pcmu, Codec::Pcma), Some(8000)),
        rule(111, 9, How::Code(Codec::Opus, Codec::G722), Some(48_000)),
        rule(9, 111, How::Code(Codec::G722, Codec::Opus), Some(8000)),
        rule(8, 8, How::Listen(Law::A), Some(8000)),
        rule(101, 0, How::Tone(8000, Law::Mu), None),
        rule(110, 101, How::Events(48_000, 8000), None),
        rule(18, 18, How::Pass, Some(8000)),
    ];
    let mut translator = Translator::new(&rules, Quality::default()).with_events(101, 8000);
    let mut uptime = Uptime::default();
    let mut meter = Meter::default();
    let mut rest = input;
    for _ in 0..DATAGRAMS {
        let Some((length, more)) = rest.split_first_chunk::<2>() else { break };
        let (datagram, more) = more.split_at(usize::from(u16::from_be_bytes(*length)).min(more.len()));
        rest = more;
        if let Some(answer) = stun::answer(datagram, source) {
            assert!(answer.len() <= 80);
        }
        let mut out = [0; ANSWER];
        assert!(!matches!(agent.check(datagram, source, &mut out), Check::Valid { .. }));
        let _ = dealing(datagram);
        // What can't be gone on with ends it: then it hears nothing more.
        if let Ok(step) = handshake.take(datagram, now) {
            assert!(step.done.is_none());
        }
        if let Some(signal) = Signal::parse(datagram) {
            assert_eq!(Signal::parse(signal.write().as_bytes()), Some(signal));
            translator.press(signal, (101, 8000));
        }
        meter.hear(datagram, uptime);
        rtcp::read(datagram, |said| {
            meter.told(said, uptime);
            if let Said::Sends(sender) = said {
                meter.passes(sender, uptime);
                translator.made_over(sender);
            }
        });
        let figures = meter.figures();
        assert!(figures.received <= figures.expected && Figures::of(figures.numbers()) == *figures);
        assert!([figures.mos(), figures.far_mos()].iter().flatten().all(|mos| (1.0..=4.5).contains(mos)));
        rtcp::make_over(&mut datagram.to_vec(), |sender| translator.made_over(sender), (48_000, 8000));
        let said = |packet: &[u8]| assert!((12..=1500).contains(&packet.len()));
        translator.hear(datagram, uptime, said);
        uptime = uptime + Duration::from_millis(u64::from(length[1]) % 64);
        translator.wake(uptime, said);
        for context in &mut contexts {
            let mut packet = datagram.to_vec();
            packet.resize(packet.len() + MOST_ADDED, 0);
            let opened = match is_rtcp(datagram) {
                true => context.unprotect_rtcp(&mut packet[..datagram.len()]),
                false => context.unprotect(&mut packet[..datagram.len()]),
            };
            assert!(opened.is_err());
        }
    }
}
