//! How well a phone is heard, and hears: what its packets and its reports show (RFC 3550 §6.4, Appendix A). Layer: pure.
//!
//! [`Meter`] has one direction of one stream: what comes from a phone, and what that phone says of what goes to it. [`Figures`] are what is left of it: plain
//! numbers, which are added up over all who have had the call.

mod emodel;
mod meter;

use smallvec::SmallVec;

pub use emodel::Way;
pub use meter::{Meter, QUIET, SPEAKING};

use super::formats::{Codec, Format, Kind};

/// So many of a stream's formats are known by their numbers.
const MOST_FORMATS: usize = 8;

/// How something is coded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Coding {
    /// Nobody knows.
    #[default]
    Other,
    /// G.711, µ-law.
    Pcmu,
    /// G.711, A-law.
    Pcma,
    /// G.722.
    G722,
    /// Opus.
    Opus,
    /// G.723.1.
    G723,
    /// G.729.
    G729,
    /// Keys (RFC 4733): all packets of one have its first one's time.
    Events,
    /// Comfort noise (RFC 3389).
    Noise,
}

impl Coding {
    const ALL: [Self; 9] =
        [Self::Other, Self::Pcmu, Self::Pcma, Self::G722, Self::Opus, Self::G723, Self::G729, Self::Events, Self::Noise];

    /// As it is shown.
    pub fn name(self) -> &'static str {
        match self {
            Self::Other => "other",
            Self::Pcmu => "PCMU",
            Self::Pcma => "PCMA",
            Self::G722 => "G722",
            Self::Opus => "opus",
            Self::G723 => "G723",
            Self::G729 => "G729",
            Self::Events => "telephone-event",
            Self::Noise => "CN",
        }
    }

    /// The other way round.
    pub fn named(name: &str) -> Self {
        Self::ALL.into_iter().find(|coding| coding.name() == name).unwrap_or_default()
    }

    fn of(format: &Format) -> Self {
        let is = |name: &str| format.name.split('/').next().is_some_and(|own| own.eq_ignore_ascii_case(name));
        match format.kind {
            Kind::Coded(Codec::Pcmu) => Self::Pcmu,
            Kind::Coded(Codec::Pcma) => Self::Pcma,
            Kind::Coded(Codec::G722) => Self::G722,
            Kind::Coded(Codec::Opus) => Self::Opus,
            Kind::Events => Self::Events,
            Kind::Noise => Self::Noise,
            Kind::Other if is("G729") => Self::G729,
            Kind::Other if is("G723") => Self::G723,
            Kind::Other | Kind::Repair => Self::Other,
        }
    }
}

/// What the relay has to know of an end to measure what comes there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hearing {
    /// It is the one stream of its leg that is measured.
    pub measures: bool,
    /// Its phone is missed when it says nothing: they talk, and nobody is on hold.
    pub misses: bool,
    /// By payload type: how it is coded, and ticks of its time in a second.
    pub formats: SmallVec<[(u8, Coding, u32); 4]>,
}

impl Hearing {
    /// Learns formats; who is known by a number already keeps it.
    pub fn knows(&mut self, formats: &[Format]) {
        for format in formats {
            if self.formats.len() < MOST_FORMATS && self.formats.iter().all(|(known, ..)| *known != format.payload) {
                self.formats.push((format.payload, Coding::of(format), format.clock));
            }
        }
    }

    /// What has a payload type; RFC 3551 §6 where nobody has said it. The clock is 0 where it isn't known.
    fn of(&self, payload: u8) -> (Coding, u32) {
        let known = self.formats.iter().find(|(known, ..)| *known == payload);
        known.map_or_else(
            || match payload {
                0 => (Coding::Pcmu, 8000),
                3 => (Coding::Other, 8000),
                4 => (Coding::G723, 8000),
                8 => (Coding::Pcma, 8000),
                9 => (Coding::G722, 8000),
                13 => (Coding::Noise, 8000),
                18 => (Coding::G729, 8000),
                _ => (Coding::Other, 0),
            },
            |(_, coding, clock)| (*coding, *clock),
        )
    }
}

/// Declares [`Figures`], and how they are numbers in a row.
macro_rules! figures {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What has been measured of a leg. Spans are in microseconds.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        #[allow(missing_docs, reason = "some share a comment")]
        pub struct Figures {
            /// How its phone's sound is coded: the last that came.
            pub coding: Coding,
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Figures {
            /// So many numbers they are.
            pub const COUNT: usize = 1 $(+ { let _ = stringify!($name); 1 })*;

            /// As numbers, the first [`Self::EACH`] of which may change with each packet, and the others more seldom.
            #[inline]
            pub fn numbers(&self) -> [u64; Self::COUNT] {
                [self.coding as u64, $(self.$name,)*]
            }

            /// Of such numbers.
            pub fn of(numbers: [u64; Self::COUNT]) -> Self {
                let [coding, $($name,)*] = numbers;
                let coding = usize::try_from(coding).ok().and_then(|at| Coding::ALL.get(at).copied()).unwrap_or_default();
                Self { coding, $($name,)* }
            }
        }
    };
}

figures! {
    /// Packets that have come, each counted once.
    received,
    /// Packets that should have come.
    expected,
    /// Rows of packets that were missing when the next one came.
    gaps,
    /// Interarrival jitter (RFC 3550 A.8) as it is now, the sum of what it was at each packet that has shown any, how many those were, and the most.
    jitter,
    jitter_sum,
    jitters,
    jitter_most,
    /// Reports of the phone on what it hears: how many, and the sums of their 256ths that were lost, and of their jitter.
    reports,
    far_lost_sum,
    far_jitter_sum,
    /// From here to the phone and back: the last, the sum, how many, and the most.
    trip,
    trip_sum,
    trips,
    trip_most,
    /// What the phone said last of how it sounds there (RFC 3611): tenths of its MOS, and milliseconds to the other phone and back.
    far_mos,
    far_trip_ms,
    /// How often the phone was not heard at all while the other one spoke, and whether that is so now.
    missed,
    is_missed,
    /// How often there was nothing but digital silence, and whether that is so now.
    silent,
    is_silent,
}

impl Figures {
    /// How coding, numbers of packets, gaps and jitter stand before all others.
    pub const EACH: usize = 8;

    /// Whether there is nothing to be said.
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }

    /// With those of who came next: what is a sum is added, and what is the last is its, if it has any.
    #[must_use]
    pub fn and_then(&self, next: &Self) -> Self {
        let last = |before: u64, next: u64| if next > 0 { next } else { before };
        Self {
            coding: if next.coding == Coding::Other { self.coding } else { next.coding },
            received: self.received + next.received,
            expected: self.expected + next.expected,
            gaps: self.gaps + next.gaps,
            jitter: last(self.jitter, next.jitter),
            jitter_sum: self.jitter_sum + next.jitter_sum,
            jitters: self.jitters + next.jitters,
            jitter_most: self.jitter_most.max(next.jitter_most),
            reports: self.reports + next.reports,
            far_lost_sum: self.far_lost_sum + next.far_lost_sum,
            far_jitter_sum: self.far_jitter_sum + next.far_jitter_sum,
            trip: last(self.trip, next.trip),
            trip_sum: self.trip_sum + next.trip_sum,
            trips: self.trips + next.trips,
            trip_most: self.trip_most.max(next.trip_most),
            far_mos: last(self.far_mos, next.far_mos),
            far_trip_ms: last(self.far_trip_ms, next.far_trip_ms),
            missed: self.missed + next.missed,
            is_missed: next.is_missed,
            silent: self.silent + next.silent,
            is_silent: next.is_silent,
        }
    }

    /// Packets that have not come.
    pub fn lost(&self) -> u64 {
        self.expected.saturating_sub(self.received)
    }

    /// The share of them, 0 to 1.
    pub fn loss(&self) -> f64 {
        ratio(self.lost(), self.expected).unwrap_or(0.0)
    }

    /// Jitter of the whole call, in milliseconds, if any packet has shown it.
    pub fn jitter_ms(&self) -> Option<f64> {
        ratio(self.jitter_sum, self.jitters * 1000)
    }

    /// From here to the phone and back, of the whole call, in milliseconds.
    pub fn trip_ms(&self) -> Option<f64> {
        ratio(self.trip_sum, self.trips * 1000)
    }

    /// The share of packets that the phone says it has not heard.
    pub fn far_loss(&self) -> Option<f64> {
        ratio(self.far_lost_sum, self.reports * 256)
    }

    /// Jitter as the phone says it is there.
    pub fn far_jitter_ms(&self) -> Option<f64> {
        ratio(self.far_jitter_sum, self.reports * 1000)
    }

    /// How what comes from the phone sounds here (G.107); none if nothing has come.
    pub fn mos(&self) -> Option<f64> {
        // How long gaps are, by how long they would be if each packet were lost for itself.
        let burstiness = ratio(self.lost(), self.gaps).unwrap_or(1.0) * (1.0 - self.loss());
        let here = (self.loss(), burstiness, self.jitter_ms().unwrap_or(0.0));
        (self.received > 0).then(|| self.way(here).mos())
    }

    /// How what goes to the phone sounds there, by what it says of it: as if it were coded as what comes from it.
    pub fn far_mos(&self) -> Option<f64> {
        Some(self.way((self.far_loss()?, 1.0, self.far_jitter_ms()?)).mos())
    }

    fn way(&self, (loss, burstiness, jitter_ms): (f64, f64, f64)) -> Way {
        Way { coding: self.coding, loss, burstiness, delay_ms: Way::delay_of(self.trip_ms().unwrap_or(0.0), jitter_ms) }
    }
}

#[allow(clippy::cast_precision_loss, reason = "nobody has so many packets")]
fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

#[cfg(test)]
mod tests;
