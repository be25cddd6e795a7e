//! A packet's header, as far as a recording cares (RFC 3550 §5.1). Layer: pure.

/// Without extensions and contributing sources.
const HEADER: usize = 12;

/// A packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rtp<'a> {
    /// Payload type.
    pub kind: u8,
    /// Sequence number.
    pub sequence: u16,
    /// Timestamp.
    pub time: u32,
    /// Source.
    pub ssrc: u32,
    /// What it says.
    pub payload: &'a [u8],
}

impl<'a> Rtp<'a> {
    /// None if it is no packet.
    pub fn parse(packet: &'a [u8]) -> Option<Self> {
        let fixed: &[u8; HEADER] = packet.first_chunk().filter(|fixed| fixed[0] >> 6 == 2)?;
        let mut begin = HEADER + 4 * usize::from(fixed[0] & 0xf);
        if fixed[0] & 0x10 != 0 {
            let words: &[u8; 4] = packet.get(begin..)?.first_chunk()?;
            begin += 4 + 4 * usize::from(u16::from_be_bytes([words[2], words[3]]));
        }
        let padding = if fixed[0] & 0x20 != 0 { usize::from(*packet.last()?) } else { 0 };
        let end = packet.len().checked_sub(padding)?;
        Some(Self {
            kind: fixed[1] & 0x7f,
            sequence: u16::from_be_bytes([fixed[2], fixed[3]]),
            time: u32::from_be_bytes([fixed[4], fixed[5], fixed[6], fixed[7]]),
            ssrc: u32::from_be_bytes([fixed[8], fixed[9], fixed[10], fixed[11]]),
            payload: packet.get(begin..end)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_around_a_payload_is_not_in_it() {
        let mut packet = vec![0xb1, 0x80 | 8, 1, 2, 0, 0, 0, 9, 0, 0, 0, 7];
        packet.extend([0; 4]);
        packet.extend([0xbe, 0xde, 0, 1, 1, 2, 3, 4]);
        packet.extend(b"sound");
        packet.extend([0, 2]);
        let parsed = Rtp::parse(&packet).unwrap();
        assert_eq!(parsed, Rtp { kind: 8, sequence: 0x102, time: 9, ssrc: 7, payload: b"sound" });
        *packet.last_mut().unwrap() = 200;
        assert_eq!(Rtp::parse(&packet), None);
    }

    proptest! {
        #[test]
        fn nothing_panics(packet in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = Rtp::parse(&packet);
        }
    }
}
