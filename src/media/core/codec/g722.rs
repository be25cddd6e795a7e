//! G.722 at 64 kbit/s (ITU-T G.722, mode 1): two bands of ADPCM, six bits and two for each pair of samples at 16 kHz. Layer: pure.
//!
//! The names of the steps are the recommendation's blocks. The state is what the two ends have in common: one that begins in the middle of a stream has it
//! a few milliseconds later, since all of it leaks.

/// Block QMF: the halves of the filter that splits and joins the bands (table 11/G.722).
const QMF: [i32; 12] = [3, -11, 12, 32, -210, 951, 3876, -805, 362, -156, 53, -11];
/// Block QUANTL: where an interval of the lower band ends.
const LEVELS: [i32; 29] = [
    35, 72, 110, 150, 190, 233, 276, 323, 370, 422, 473, 530, 587, 650, 714, 786, 858, 940, 1023, 1121, 1219, 1339, 1458, 1612,
    1765, 1980, 2195, 2557, 2919,
];
/// Block INVQBL, for six bits.
const OUT_LOW: [i32; 64] = [
    -136, -136, -136, -136, -24808, -21904, -19008, -16704, -14984, -13512, -12280, -11192, -10232, -9360, -8576, -7856, -7192,
    -6576, -6000, -5456, -4944, -4464, -4008, -3576, -3168, -2776, -2400, -2032, -1688, -1360, -1040, -728, 24808, 21904, 19008,
    16704, 14984, 13512, 12280, 11192, 10232, 9360, 8576, 7856, 7192, 6576, 6000, 5456, 4944, 4464, 4008, 3576, 3168, 2776, 2400,
    2032, 1688, 1360, 1040, 728, 432, 136, -432, -136,
];
/// Block INVQAL, for four bits.
const IN_LOW: [i32; 16] = [0, -20456, -12896, -8968, -6288, -4240, -2584, -1200, 20456, 12896, 8968, 6288, 4240, 2584, 1200, 0];
/// Block INVQAH.
const HIGH: [i32; 4] = [-7408, -1616, 7408, 1616];
/// Blocks LOGSCL and LOGSCH: what a code does to the logarithm of the step.
const STEPS_LOW: [i32; 16] = [-60, 3042, 1198, 538, 334, 172, 58, -30, 3042, 1198, 538, 334, 172, 58, -30, -60];
const STEPS_HIGH: [i32; 4] = [798, -214, 798, -214];
/// Blocks SCALEL and SCALEH: 2^(i/32).
const POWERS: [i32; 32] = [
    2048, 2093, 2139, 2186, 2233, 2282, 2332, 2383, 2435, 2489, 2543, 2599, 2656, 2714, 2774, 2834, 2896, 2960, 3025, 3091, 3158,
    3228, 3298, 3371, 3444, 3520, 3597, 3676, 3756, 3838, 3922, 4008,
];

/// One band's predictor and step.
#[derive(Debug, Clone)]
struct Band {
    /// SL, SH: what comes next, presumably; and the part of it that the zeros make.
    estimate: i32,
    zeros_part: i32,
    /// RLT: what was made; PLT: without the poles' part. The last first.
    made: [i32; 2],
    partly: [i32; 2],
    /// DLT: the differences.
    differences: [i32; 6],
    poles: [i32; 2],
    zeros: [i32; 6],
    /// NABL, and DETL of it.
    logarithm: i32,
    step: i32,
}

impl Band {
    fn new(step: i32) -> Self {
        let (made, partly, differences, poles, zeros) = ([0; 2], [0; 2], [0; 6], [0; 2], [0; 6]);
        Self { estimate: 0, zeros_part: 0, made, partly, differences, poles, zeros, logarithm: 0, step }
    }

    fn low() -> Self {
        Self::new(32)
    }

    fn high() -> Self {
        Self::new(8)
    }

    fn scaled(&self, multiple: i32) -> i32 {
        (self.step * multiple) >> 15
    }

    /// Blocks LOGSCL, SCALEL, and for the upper band LOGSCH, SCALEH.
    fn rescale(&mut self, change: i32, most: i32, shift: i32) {
        self.logarithm = (((self.logarithm * 127) >> 7) + change).clamp(0, most);
        let mantissa = usize::try_from((self.logarithm >> 6) & 31).map_or(0, |at| POWERS[at]);
        let down = shift - (self.logarithm >> 11);
        self.step = if down < 0 { mantissa << -down } else { mantissa >> down } << 2;
    }

    /// Block 4: the predictor learns from a difference.
    fn adapt(&mut self, difference: i32) {
        let made = saturated(self.estimate + difference);
        let partly = saturated(self.zeros_part + difference);
        let is_like = |other: i32| (partly < 0) == (other < 0);
        // UPPOL2.
        let [first, second] = self.poles;
        let scaled = saturated(first << 2);
        let turned = if is_like(self.partly[0]) { (-scaled).min(32_767) } else { scaled };
        let sign = if is_like(self.partly[1]) { 128 } else { -128 };
        let second = ((turned >> 7) + sign + ((second * 32_512) >> 15)).clamp(-12_288, 12_288);
        // UPPOL1.
        let sign = if is_like(self.partly[0]) { 192 } else { -192 };
        let limit = saturated(15_360 - second);
        let first = saturated(sign + ((first * 32_640) >> 15)).clamp(-limit, limit);
        self.poles = [first, second];
        // UPZERO.
        let gain = if difference == 0 { 0 } else { 128 };
        for (zero, former) in self.zeros.iter_mut().zip(self.differences) {
            let sign = if (former < 0) == (difference < 0) { gain } else { -gain };
            *zero = saturated(sign + ((*zero * 32_640) >> 15));
        }
        // DELAYA.
        self.differences.copy_within(..5, 1);
        self.differences[0] = difference;
        self.made = [made, self.made[0]];
        self.partly = [partly, self.partly[0]];
        // FILTEP, FILTEZ, PREDIC.
        let product = |(factor, value): (&i32, &i32)| (factor * saturated(value << 1)) >> 15;
        let poles: i32 = self.poles.iter().zip(&self.made).map(product).sum();
        let zeros: i32 = self.zeros.iter().zip(&self.differences).map(product).sum();
        self.zeros_part = saturated(zeros);
        self.estimate = saturated(saturated(poles) + self.zeros_part);
    }

    fn learn_low(&mut self, code: usize) {
        let difference = self.scaled(IN_LOW[code]);
        self.rescale(STEPS_LOW[code], 18_432, 8);
        self.adapt(difference);
    }

    fn learn_high(&mut self, code: usize) {
        let difference = self.scaled(HIGH[code]);
        self.rescale(STEPS_HIGH[code], 22_528, 10);
        self.adapt(difference);
    }
}

/// The last samples of both phases.
#[derive(Debug, Clone, Default)]
struct Phases {
    even: [i32; 12],
    odd: [i32; 12],
}

impl Phases {
    /// Takes one of each, and gives what the halves of the filter make of them.
    fn push(&mut self, even: i32, odd: i32) -> (i32, i32) {
        self.even.copy_within(1.., 0);
        self.odd.copy_within(1.., 0);
        (self.even[11], self.odd[11]) = (even, odd);
        let forth = self.even.iter().zip(QMF).map(|(sample, factor)| sample * factor).sum();
        let back = self.odd.iter().zip(QMF.iter().rev()).map(|(sample, factor)| sample * factor).sum();
        (forth, back)
    }
}

/// Makes octets of samples.
#[derive(Debug, Clone)]
pub struct Encoder {
    phases: Phases,
    low: Band,
    high: Band,
}

impl Default for Encoder {
    fn default() -> Self {
        Self { phases: Phases::default(), low: Band::low(), high: Band::high() }
    }
}

impl Encoder {
    /// An octet for each two samples; gives how many there are.
    pub fn encode(&mut self, samples: &[i16], octets: &mut [u8]) -> usize {
        let mut count = 0;
        for (pair, octet) in samples.chunks_exact(2).zip(octets) {
            let (odd, even) = self.phases.push(pair[0].into(), pair[1].into());
            let low = self.low((even + odd) >> 14);
            *octet = self.high((even - odd) >> 14) << 6 | low;
            count += 1;
        }
        count
    }

    fn low(&mut self, sample: i32) -> u8 {
        let difference = saturated(sample - self.low.estimate);
        let size = if difference < 0 { -(difference + 1) } else { difference };
        let levels = LEVELS.iter().take_while(|level| size >= (**level * self.low.step) >> 12);
        let interval = u8::try_from(levels.count()).unwrap_or(29);
        let code = match difference < 0 {
            false => 61 - interval,
            true if interval < 2 => 63 - interval,
            true => 33 - interval,
        };
        self.low.learn_low(usize::from(code >> 2));
        code
    }

    fn high(&mut self, sample: i32) -> u8 {
        let difference = saturated(sample - self.high.estimate);
        let size = if difference < 0 { -(difference + 1) } else { difference };
        let is_large = size >= (564 * self.high.step) >> 12;
        let code = match (difference < 0, is_large) {
            (true, true) => 0,
            (true, false) => 1,
            (false, true) => 2,
            (false, false) => 3,
        };
        self.high.learn_high(usize::from(code));
        code
    }
}

/// Makes samples of octets.
#[derive(Debug, Clone)]
pub struct Decoder {
    phases: Phases,
    low: Band,
    high: Band,
}

impl Default for Decoder {
    fn default() -> Self {
        Self { phases: Phases::default(), low: Band::low(), high: Band::high() }
    }
}

impl Decoder {
    /// Two samples for each octet; gives how many there are.
    pub fn decode(&mut self, octets: &[u8], samples: &mut [i16]) -> usize {
        let mut count = 0;
        for (octet, pair) in octets.iter().zip(samples.chunks_exact_mut(2)) {
            let (code, high) = (usize::from(octet & 63), usize::from(octet >> 6));
            let out_low = (self.low.estimate + self.low.scaled(OUT_LOW[code])).clamp(-16_384, 16_383);
            let out_high = (self.high.estimate + self.high.scaled(HIGH[high])).clamp(-16_384, 16_383);
            self.low.learn_low(code >> 2);
            self.high.learn_high(high);
            let (first, second) = self.phases.push(out_low + out_high, out_low - out_high);
            pair.copy_from_slice(&[sample(second >> 11), sample(first >> 11)]);
            count += 2;
        }
        count
    }
}

fn saturated(value: i32) -> i32 {
    value.clamp(i16::MIN.into(), i16::MAX.into())
}

fn sample(value: i32) -> i16 {
    i16::try_from(saturated(value)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str) -> Vec<u8> {
        std::fs::read(format!("{}/tests/data/sound/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
    }

    fn pcm(bytes: &[u8]) -> Vec<i16> {
        bytes.chunks_exact(2).map(|pair| i16::from_le_bytes([pair[0], pair[1]])).collect()
    }

    /// Speech by ffmpeg 5.1 and spandsp 0.0.6, which agree to the bit.
    #[test]
    fn speech_is_coded_as_others_code_it() {
        let (speech, coded, decoded) = (pcm(&file("speech16.pcm")), file("speech16.g722"), pcm(&file("speech16.g722.pcm")));
        let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
        let (mut octets, mut samples) = (vec![0; coded.len()], vec![0; decoded.len()]);
        for (frame, octets) in speech.chunks(320).zip(octets.chunks_mut(160)) {
            assert_eq!(encoder.encode(frame, octets), octets.len());
        }
        assert!(octets == coded);
        for (octets, frame) in coded.chunks(160).zip(samples.chunks_mut(320)) {
            assert_eq!(decoder.decode(octets, frame), frame.len());
        }
        assert!(samples == decoded);
    }

    /// A stream that is heard from its middle on sounds as one that was heard from its begin, a tenth of a second later.
    #[test]
    fn who_comes_late_hears_the_same() {
        let coded = file("speech16.g722");
        let (mut whole, mut late) = (vec![0; 64_000], vec![0; 64_000]);
        Decoder::default().decode(&coded, &mut whole);
        Decoder::default().decode(&coded[8000..], &mut late[16_000..]);
        for (from, least) in [(1600, 20.0), (3200, 1e3), (6400, 1e7)] {
            let range = 16_000 + from..16_320 + from;
            let (mut signal, mut error) = (1.0, 1.0);
            for (known, other) in whole[range.clone()].iter().zip(&late[range]) {
                signal += f64::from(*known).powi(2);
                error += (f64::from(*known) - f64::from(*other)).powi(2);
            }
            assert!(signal >= least * error, "{from}: {}", signal / error);
        }
    }
}
