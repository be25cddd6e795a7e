//! A WAV file of two channels, with a mark at each gap (RIFF's `cue ` and `adtl`). Layer: pure.

use super::Gap;

/// Channels, and octets of a sample of all of them.
const CHANNELS: u16 = 2;
const FRAME: u32 = 4;
/// What stands before the sound.
pub const HEADER: usize = 44;

/// What stands before so many octets of sound, at so many frames a second, with so many octets behind it. A file that is longer than its sizes can say
/// says the most that they can.
pub fn header(rate: u32, sound: u64, behind: u64) -> [u8; HEADER] {
    let size = |octets: u64| u32::try_from(octets).unwrap_or(u32::MAX).to_le_bytes();
    let mut header = [0; HEADER];
    let parts: [&[u8]; 13] = [
        b"RIFF",
        &size(HEADER as u64 - 8 + sound + behind),
        b"WAVEfmt ",
        &16_u32.to_le_bytes(),
        &1_u16.to_le_bytes(),
        &CHANNELS.to_le_bytes(),
        &rate.to_le_bytes(),
        &(rate * FRAME).to_le_bytes(),
        &4_u16.to_le_bytes(),
        &16_u16.to_le_bytes(),
        b"data",
        &size(sound),
        b"",
    ];
    let mut at = 0;
    for part in parts {
        header[at..at + part.len()].copy_from_slice(part);
        at += part.len();
    }
    header
}

/// What stands behind the sound: where each gap begins, and what it is.
pub fn marks(gaps: &[Gap], rate: u32) -> Vec<u8> {
    if gaps.is_empty() {
        return Vec::new();
    }
    let word = |number: u64| u32::try_from(number).unwrap_or(u32::MAX).to_le_bytes();
    let (mut cues, mut labels) = (word(gaps.len() as u64).to_vec(), b"adtl".to_vec());
    for (number, gap) in (1..).zip(gaps) {
        let frame = word(gap.from * u64::from(rate) / 1000);
        cues.extend([word(number), frame].concat());
        cues.extend(b"data");
        cues.extend([[0; 4], [0; 4], frame].concat());
        let mut text = gap.to_string().into_bytes();
        text.push(0);
        labels.extend(chunk(*b"labl", &[&word(number)[..], &text].concat()));
    }
    [chunk(*b"cue ", &cues), chunk(*b"LIST", &labels)].concat()
}

fn chunk(name: [u8; 4], body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes();
    let padding: &[u8] = if body.len() % 2 == 1 { &[0] } else { &[] };
    [&name, &length[..], body, padding].concat()
}

#[cfg(test)]
mod tests {
    use super::super::Why;
    use super::*;

    /// Offsets as the format has them: http://soundfile.sapp.org/doc/WaveFormat, and RIFF's of 1991 for the marks.
    #[test]
    fn a_file_is_as_players_expect_it() {
        let gaps = [Gap { side: 1, from: 1500, until: 1580, why: Why::Takeover }];
        let marks = marks(&gaps, 8000);
        let header = header(8000, 64_000, marks.len() as u64);
        let word = |bytes: &[u8], at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        assert_eq!((&header[..4], &header[8..16], &header[36..40]), (&b"RIFF"[..], &b"WAVEfmt "[..], &b"data"[..]));
        assert_eq!(word(&header, 4) as usize, 36 + 64_000 + marks.len());
        assert_eq!([16, 24, 28, 40].map(|at| word(&header, at)), [16, 8000, 32_000, 64_000]);
        assert_eq!(&header[20..24], &[1, 0, 2, 0]);
        assert_eq!((&marks[..4], word(&marks, 4), word(&marks, 8)), (&b"cue "[..], 28, 1));
        assert_eq!((word(&marks, 12), word(&marks, 16), word(&marks, 32)), (1, 12_000, 12_000));
        assert_eq!((&marks[36..40], &marks[44..52], word(&marks, 56)), (&b"LIST"[..], &b"adtllabl"[..], 1));
        assert_eq!(word(&marks, 40) as usize, marks.len() - 44);
        assert!(marks[60..].starts_with(b"callee: 80 ms, takeover\0"), "{:?}", String::from_utf8_lossy(&marks[60..]));
        assert!(super::marks(&[], 8000).is_empty());
    }
}
