//! What phones tell each other of their streams (RTCP: RFC 3550 §6.4; VoIP metrics, RFC 3611 §4.7): read, and made over where the sound is. Layer: pure.
//!
//! Anything may come: what is no whole packet is passed over, and what isn't understood is left as it is.

/// Sender and receiver reports, and extended ones.
const SR: u8 = 200;
const RR: u8 = 201;
const XR: u8 = 207;
/// A block of extended reports that has what a phone's ears have.
const VOIP: u8 = 7;
const HEADER: usize = 4;
const SENDER: usize = 24;
const REPORT: usize = 24;
const VOIP_LENGTH: usize = 32;
/// RFC 3611 §4.7.5: what isn't known.
const UNKNOWN: u8 = 127;

/// One thing that a phone says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said {
    /// Of what it sends.
    Sends(Sender),
    /// Of what it hears.
    Hears(Report),
    /// Of how that sounds.
    Sounds(Voip),
}

/// What a sender report says of its sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sender {
    /// Its source.
    pub ssrc: u32,
    /// When it was written: the middle of a time by NTP, in 65536ths of a second.
    pub ntp: u32,
    /// The same by the stream's clock.
    pub time: u32,
    /// Packets sent.
    pub packets: u32,
    /// Octets in their payloads.
    pub octets: u32,
}

/// What a phone says of a source that it hears.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// Which.
    pub ssrc: u32,
    /// 256ths of its packets that were lost since the last report.
    pub fraction: u8,
    /// In ticks of the stream's clock.
    pub jitter: u32,
    /// The last sender report that it has had of it ([`Sender::ntp`]); 0 is none.
    pub last: u32,
    /// How long ago that was, in 65536ths of a second.
    pub delay: u32,
}

/// How it sounds there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Voip {
    /// From there to the other phone and back, in milliseconds; 0 is unknown.
    pub trip: u16,
    /// By listening alone, in tenths.
    pub mos: Option<u8>,
}

/// A packet within a compound one.
struct Part {
    kind: u8,
    count: usize,
    /// Where it begins behind its header, and where it ends.
    from: usize,
    to: usize,
}

/// The one that begins there.
fn part(packet: &[u8], at: usize) -> Option<Part> {
    let header: &[u8; HEADER] = packet.get(at..)?.first_chunk()?;
    let [first, kind, high, low] = *header;
    let from = at + HEADER;
    let to = from + 4 * usize::from(u16::from_be_bytes([high, low]));
    (first >> 6 == 2 && to <= packet.len()).then_some(Part { kind, count: usize::from(first & 0x1f), from, to })
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

impl Part {
    /// Where its report blocks are.
    fn reports(&self) -> impl Iterator<Item = usize> + use<> {
        let (begin, end) = match self.kind {
            SR => (self.from + SENDER, self.to),
            RR => (self.from + 4, self.to),
            _ => (self.to, self.to),
        };
        (0..self.count).map(move |number| begin + number * REPORT).take_while(move |at| at + REPORT <= end)
    }

    fn sender(&self, packet: &[u8]) -> Option<Sender> {
        let body = packet.get(self.from..self.to).filter(|body| self.kind == SR && body.len() >= SENDER)?;
        Some(Sender {
            ssrc: word(body, 0)?,
            ntp: word(body, 6)?,
            time: word(body, 12)?,
            packets: word(body, 16)?,
            octets: word(body, 20)?,
        })
    }
}

fn report(packet: &[u8], at: usize) -> Option<Report> {
    Some(Report {
        ssrc: word(packet, at)?,
        fraction: *packet.get(at + 4)?,
        jitter: word(packet, at + 12)?,
        last: word(packet, at + 16)?,
        delay: word(packet, at + 20)?,
    })
}

/// The VoIP metrics among the blocks of an extended report.
fn voip(blocks: &[u8], hear: &mut impl FnMut(Said)) {
    let mut rest = blocks;
    while let Some(([kind, _, high, low], more)) = rest.split_first_chunk::<4>() {
        let length = 4 * usize::from(u16::from_be_bytes([*high, *low]));
        let Some((block, more)) = more.split_at_checked(length) else { return };
        rest = more;
        if *kind == VOIP && length >= VOIP_LENGTH {
            let known = |value: u8| Some(value).filter(|value| *value != UNKNOWN && *value > 0);
            hear(Said::Sounds(Voip { trip: u16::from_be_bytes([block[12], block[13]]), mos: known(block[22]) }));
        }
    }
}

/// Reads a compound packet.
pub fn read(packet: &[u8], mut hear: impl FnMut(Said)) {
    let mut at = 0;
    while let Some(part) = part(packet, at) {
        at = part.to;
        part.sender(packet).map(Said::Sends).into_iter().for_each(&mut hear);
        part.reports().filter_map(|at| report(packet, at)).map(Said::Hears).for_each(&mut hear);
        if let Some(blocks) = packet.get(part.from + 4..part.to).filter(|_| part.kind == XR) {
            voip(blocks, &mut hear);
        }
    }
}

/// Writes what a compound packet says by other clocks, in its place: `sends` gives what a sender report is to say of time and octets, and jitter is by the
/// second of two clocks what it was by the first.
pub fn make_over(packet: &mut [u8], sends: impl Fn(Sender) -> Sender, (from, to): (u32, u32)) {
    let mut at = 0;
    while let Some(part) = part(packet, at) {
        at = part.to;
        if let Some(Sender { time, octets, .. }) = part.sender(packet).map(&sends) {
            packet[part.from + 12..part.from + 16].copy_from_slice(&time.to_be_bytes());
            packet[part.from + 20..part.from + 24].copy_from_slice(&octets.to_be_bytes());
        }
        for at in part.reports() {
            let Some(Report { jitter, .. }) = report(packet, at) else { continue };
            let jitter = u64::from(jitter) * u64::from(to) / u64::from(from.max(1));
            packet[at + 12..at + 16].copy_from_slice(&u32::try_from(jitter).unwrap_or(u32::MAX).to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn block(ssrc: u32, fraction: u8, jitter: u32, last: u32, delay: u32) -> Vec<u8> {
        [&ssrc.to_be_bytes()[..], &[fraction, 0xff, 0xff, 0xfe], &[0, 1, 0, 9], &words(&[jitter, last, delay])].concat()
    }

    fn words(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_be_bytes()).collect()
    }

    /// A sender report with a block, a description of its source, and an extended report.
    fn compound() -> Vec<u8> {
        let sender = words(&[7, 0xaaaa_1234, 0x5678_bbbb, 48_000, 50, 8000]);
        let mut voip = vec![7, 0, 0, 8];
        voip.extend(words(&[9, 0, 0]));
        voip.extend([0, 42, 0, 60, 0, 0, 0, 16, 93, UNKNOWN, 41, 40, 0, 0, 0, 20, 0, 40, 0, 80]);
        [
            &[0x81, SR, 0, 12][..],
            &sender,
            &block(9, 64, 80, 0x1234_5678, 0x8000),
            &[0x81, 202, 0, 2, 0, 0, 0, 7, 0, 0, 0, 0],
            &[0x80, XR, 0, 10, 0, 0, 0, 7],
            &voip,
        ]
        .concat()
    }

    fn said(packet: &[u8]) -> Vec<Said> {
        let mut all = Vec::new();
        read(packet, |said| all.push(said));
        all
    }

    const SENDS: Sender = Sender { ssrc: 7, ntp: 0x1234_5678, time: 48_000, packets: 50, octets: 8000 };
    const HEARS: Report = Report { ssrc: 9, fraction: 64, jitter: 80, last: 0x1234_5678, delay: 0x8000 };

    #[test]
    fn everything_in_a_compound_packet_is_read() {
        let sounds = Voip { trip: 42, mos: Some(41) };
        assert_eq!(said(&compound()), [Said::Sends(SENDS), Said::Hears(HEARS), Said::Sounds(sounds)]);
        // A receiver report, of two sources.
        let both = [&[0x82, RR, 0, 13, 0, 0, 0, 7][..], &block(9, 64, 80, 0x1234_5678, 0x8000), &block(8, 0, 0, 0, 0)].concat();
        let other = Report { ssrc: 8, fraction: 0, jitter: 0, last: 0, delay: 0 };
        assert_eq!(said(&both), [Said::Hears(HEARS), Said::Hears(other)]);
        // One that says that it has more blocks than it has.
        let fewer = [&[0x85, RR, 0, 7, 0, 0, 0, 7][..], &block(9, 64, 80, 0x1234_5678, 0x8000)].concat();
        assert_eq!(said(&fewer), [Said::Hears(HEARS)]);
        let unknown = [&[0x80, XR, 0, 10, 0, 0, 0, 7][..], &[7, 0, 0, 8], &[UNKNOWN; 12], &[0, 0], &[UNKNOWN; 18]].concat();
        assert_eq!(said(&unknown), [Said::Sounds(Voip { trip: 0, mos: None })]);
    }

    #[test]
    fn times_go_by_the_other_clock_and_nothing_else_changes() {
        let mut packet = compound();
        make_over(&mut packet, |sender| Sender { time: sender.time / 6, octets: 3000, ..sender }, (48_000, 8000));
        let sends = Sender { time: 8000, octets: 3000, ..SENDS };
        assert_eq!(said(&packet)[..2], [Said::Sends(sends), Said::Hears(Report { jitter: 13, ..HEARS })]);
        let changed: Vec<_> = compound().iter().zip(&packet).enumerate().filter(|(_, (a, b))| a != b).map(|(at, _)| at).collect();
        assert!(changed.iter().all(|at| (16..20).contains(at) || (24..28).contains(at) || (40..44).contains(at)), "{changed:?}");
    }

    proptest! {
        #[test]
        fn nothing_that_comes_hurts(mut packet in prop::collection::vec(any::<u8>(), 0..200), cut in 0..120usize, at in 0..120usize, to: u8) {
            read(&packet, |_| {});
            make_over(&mut packet, |sender| sender, (8000, 48_000));
            let mut whole = compound();
            let at = at % whole.len();
            whole[at] = to;
            whole.truncate(whole.len() - cut.min(whole.len()));
            let (before, length) = (said(&whole), whole.len());
            make_over(&mut whole, |sender| sender, (8000, 8000));
            prop_assert_eq!((said(&whole), whole.len()), (before, length));
        }
    }
}
