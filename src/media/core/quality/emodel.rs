//! How a conversation sounds (the E-model: ITU-T G.107, with what G.113 says of codecs). Layer: pure.
//!
//! What isn't measured is as the recommendation assumes: good handsets in quiet rooms, and no echo.

use super::Coding;

/// What the model gives where nothing is wrong.
const BEST: f64 = 93.2;
/// A packet, and what a phone gathers before it speaks, at least.
const PACKETS_MS: f64 = 40.0;

/// What a way does to sound.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Way {
    /// How that is coded.
    pub coding: Coding,
    /// The share of packets that is lost, 0 to 1.
    pub loss: f64,
    /// How much likelier a packet is lost after one that is (G.107 §3.5's BurstR); 1 is not at all.
    pub burstiness: f64,
    /// How long it takes one way, in milliseconds.
    pub delay_ms: f64,
}

impl Way {
    /// The delay from mouth to ear of what is heard after so long a way there and back, and with such jitter: phones wait for twice that.
    pub fn delay_of(trip_ms: f64, jitter_ms: f64) -> f64 {
        trip_ms / 2.0 + 2.0 * jitter_ms + PACKETS_MS
    }

    /// G.107's R, 0 to 100.
    pub fn rating(&self) -> f64 {
        (BEST - self.delays() - self.impairs()).clamp(0.0, 100.0)
    }

    /// The mean opinion that people would have of it, 1 to 4.5 (G.107 Annex B).
    pub fn mos(&self) -> f64 {
        let rating = self.rating();
        // It dips below 1 near 0.
        (1.0 + 0.035 * rating + rating * (rating - 60.0) * (100.0 - rating) * 7e-6).max(1.0)
    }

    /// What is lost by delay (§3.4, Idd).
    fn delays(&self) -> f64 {
        if self.delay_ms <= 100.0 {
            return 0.0;
        }
        let x = (self.delay_ms / 100.0).log2();
        let root = |x: f64| (1.0 + x.powi(6)).powf(1.0 / 6.0);
        25.0 * (root(x) - 3.0 * root(x / 3.0) + 2.0)
    }

    /// What is lost by coding and with packets (§3.5, Ie-eff).
    fn impairs(&self) -> f64 {
        let (ie, bpl) = self.coding.robustness();
        let percent = 100.0 * self.loss.clamp(0.0, 1.0);
        ie + (95.0 - ie) * percent / (percent / self.burstiness.max(1.0) + bpl)
    }
}

impl Coding {
    /// G.113 Appendix I: how bad it is by itself (Ie), and how well it bears loss (Bpl).
    fn robustness(self) -> (f64, f64) {
        match self {
            // With concealment, as all phones have it. For the other two G.113 has nothing on this scale; their bandwidth is worth nothing on it.
            Self::Pcmu | Self::Pcma | Self::G722 | Self::Opus => (0.0, 25.1),
            Self::G723 => (15.0, 16.1),
            // One that nobody knows is taken for this one.
            Self::G729 | Self::Events | Self::Noise | Self::Other => (11.0, 19.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUIET: Way = Way { coding: Coding::Pcmu, loss: 0.0, burstiness: 1.0, delay_ms: 50.0 };

    fn is_near(is: f64, should: f64, by: f64) {
        assert!((is - should).abs() <= by, "{is} is not {should}");
    }

    /// G.107 §7.7, Table 2: everything as it is assumed.
    #[test]
    fn where_nothing_is_wrong_it_is_as_published() {
        is_near(QUIET.rating(), 93.2, 0.0);
        is_near(QUIET.mos(), 4.41, 0.005);
    }

    /// G.109 Table 1 and G.107 Annex B: ratings, and what people say.
    #[test]
    fn opinions_are_as_published() {
        for (rating, mos) in [(90.0, 4.34), (80.0, 4.03), (70.0, 3.60), (60.0, 3.10), (50.0, 2.58)] {
            // A delay that costs as much, found by halving.
            let (mut low, mut high) = (100.0, 100_000.0);
            for _ in 0..60 {
                let middle = f64::midpoint(low, high);
                if (Way { delay_ms: middle, ..QUIET }).rating() > rating { low = middle } else { high = middle }
            }
            is_near(Way { delay_ms: low, ..QUIET }.mos(), mos, 0.0085);
        }
    }

    /// G.113 (1999) Table I.2: what loss does to G.729A and G.723.1 at 6.3 kbit/s, both with VAD, by listening tests; the curve is through them.
    #[test]
    fn what_loss_costs_is_as_published() {
        let g729 = [(0.0, 11.0), (1.0, 15.0), (2.0, 19.0), (3.0, 23.0), (4.0, 26.0), (8.0, 36.0), (16.0, 49.0)];
        let g723 = [(0.0, 15.0), (1.0, 19.0), (2.0, 24.0), (4.0, 32.0), (8.0, 41.0), (16.0, 55.0)];
        for (coding, table) in [(Coding::G729, &g729[..]), (Coding::G723, &g723)] {
            for (percent, cost) in table {
                let way = Way { coding, loss: percent / 100.0, ..QUIET };
                is_near(BEST - way.rating(), *cost, 1.2);
            }
        }
    }

    /// G.107 §3.4: nothing up to 100 ms.
    #[test]
    fn delay_costs_what_the_formula_says() {
        for (delay_ms, cost) in [(0.0, 0.0), (100.0, 0.0), (200.0, 3.04), (400.0, 24.07)] {
            is_near(BEST - Way { delay_ms, ..QUIET }.rating(), cost, 0.01);
        }
        is_near(Way::delay_of(100.0, 5.0), 100.0, 0.0);
    }

    #[test]
    fn more_of_anything_bad_is_never_better() {
        let mut last = 5.0;
        for step in 0..=100 {
            let way = Way { loss: f64::from(step) / 100.0, delay_ms: 40.0 * f64::from(step), ..QUIET };
            assert!(way.mos() <= last && way.mos() >= 1.0, "{step}");
            last = way.mos();
            assert!(Way { burstiness: 3.0, ..way }.mos() <= way.mos());
        }
    }
}
