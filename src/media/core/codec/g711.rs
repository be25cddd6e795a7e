//! G.711 (ITU-T G.711), both laws. Layer: pure.

static ULAW_SAMPLES: [i16; 256] = samples(false);
static ALAW_SAMPLES: [i16; 256] = samples(true);

/// What the line inverts: all bits, or every other.
const ULAW_MASK: u8 = 0xff;
const ALAW_MASK: u8 = 0x55;

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Law {
    /// PCMU.
    Mu,
    /// PCMA.
    A,
}

impl Law {
    /// A sample for each octet; gives how many there are.
    pub fn decode(self, octets: &[u8], samples: &mut [i16]) -> usize {
        let table = match self {
            Self::Mu => &ULAW_SAMPLES,
            Self::A => &ALAW_SAMPLES,
        };
        samples.iter_mut().zip(octets).for_each(|(sample, octet)| *sample = table[usize::from(*octet)]);
        octets.len().min(samples.len())
    }

    /// An octet for each sample; gives how many there are.
    pub fn encode(self, samples: &[i16], octets: &mut [u8]) -> usize {
        let octet = match self {
            Self::Mu => ulaw_octet,
            Self::A => alaw_octet,
        };
        octets.iter_mut().zip(samples).for_each(|(coded, sample)| *coded = octet((*sample).into()));
        octets.len().min(samples.len())
    }
}

#[allow(clippy::cast_possible_truncation, reason = "an index of a table of 256, and samples of 16 bits")]
const fn samples(is_alaw: bool) -> [i16; 256] {
    let (mut table, mut at) = ([0; 256], 0);
    while at < 256 {
        table[at] = if is_alaw { alaw_sample(at as u8) } else { ulaw_sample(at as u8) };
        at += 1;
    }
    table
}

#[allow(clippy::cast_possible_truncation, reason = "fourteen bits, shifted by two")]
const fn ulaw_sample(octet: u8) -> i16 {
    let octet = octet ^ ULAW_MASK;
    let size = ((((octet & 0xf) as i32) << 3) + 132) << ((octet >> 4) & 7);
    (if octet & 0x80 != 0 { 132 - size } else { size - 132 }) as i16
}

#[allow(clippy::cast_possible_truncation, reason = "thirteen bits, shifted by three")]
const fn alaw_sample(octet: u8) -> i16 {
    let octet = octet ^ ALAW_MASK;
    let (segment, step) = ((octet >> 4) & 7, (octet & 0xf) as i32);
    let size = if segment == 0 { (step << 4) + 8 } else { ((step << 4) + 264) << (segment - 1) };
    (if octet & 0x80 != 0 { size } else { -size }) as i16
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "seven bits, not negative")]
fn ulaw_octet(sample: i32) -> u8 {
    let (sign, size) = if sample < 0 { (0x80, -sample) } else { (0, sample) };
    let size = if size > 32_635 { 32_635 } else { size } + 132;
    let segment = 24 - size.leading_zeros();
    (sign | ((segment as u8) << 4) | ((size >> (segment + 3)) & 0xf) as u8) ^ ULAW_MASK
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "seven bits, not negative")]
fn alaw_octet(sample: i32) -> u8 {
    let (sign, size) = if sample < 0 { (0, -sample - 1) } else { (0x80, sample) };
    let code = if size < 256 {
        size >> 4
    } else {
        let segment = 24 - size.leading_zeros();
        ((segment as i32) << 4) | ((size >> (segment + 3)) & 0xf)
    };
    (sign | code as u8) ^ ALAW_MASK
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 3551 and sox: silence, and the loudest.
    #[test]
    fn the_ends_of_the_scales_are_where_they_are() {
        let mut samples = [0; 4];
        Law::Mu.decode(&[0xff, 0x7f, 0x80, 0x00], &mut samples);
        assert_eq!(samples, [0, 0, 32_124, -32_124]);
        Law::A.decode(&[0xd5, 0x55, 0xaa, 0x2a], &mut samples);
        assert_eq!(samples, [8, -8, 32_256, -32_256]);
    }

    #[test]
    fn each_octet_is_what_its_sample_is_coded_by() {
        for law in [Law::Mu, Law::A] {
            for octet in 0..=255 {
                let (mut sample, mut again) = ([0], [0]);
                law.decode(&[octet], &mut sample);
                law.encode(&sample, &mut again);
                // µ-law has two zeros.
                assert!(again == [octet] || (law == Law::Mu && octet == 0x7f), "{law:?} {octet:#x}");
            }
        }
    }

    /// In their order, and by half a step at most: a sixty-fourth of what it is.
    #[test]
    fn what_is_coded_is_near() {
        for law in [Law::Mu, Law::A] {
            let mut former = i16::MIN;
            for sample in i16::MIN..=i16::MAX {
                let (mut octet, mut back) = ([0], [0]);
                law.encode(&[sample], &mut octet);
                law.decode(&octet, &mut back);
                assert!(back[0] >= former, "{law:?} {sample}");
                former = back[0];
                let error = (i32::from(back[0]) - i32::from(sample)).abs();
                assert!(error <= 16 + i32::from(sample).abs() / 32, "{law:?} {sample} {error}");
            }
        }
    }
}
