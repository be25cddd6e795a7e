//! Packets on their way to the store. Layer: pure.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::ids::CallId;
use crate::media::core::formats::Codec;

/// The format of what is stored.
const VERSION: u8 = 1;

/// What can't be read.
#[derive(Debug, thiserror::Error)]
pub enum SegmentError {
    /// It isn't one.
    #[error("a segment is malformed")]
    Malformed(#[from] rmp_serde::decode::Error),
    /// A later release wrote it.
    #[error("a segment is of version {0}, this release reads {VERSION}")]
    Version(u8),
}

/// What a recording is of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// Which call.
    pub call: CallId,
    /// When it began: the recording's time zero, and its day.
    pub created: Timestamp,
    /// Who called whom, as in the CDR.
    pub caller: String,
    /// See `caller`.
    pub callee: String,
}

impl About {
    /// The day that it is filed under, as 2026-11-28 (UTC).
    pub fn day(&self) -> String {
        day_of(self.created)
    }
}

/// The day of a moment, as 2026-11-28 (UTC).
pub fn day_of(at: Timestamp) -> String {
    // From days since the epoch, by years of 400 that begin in March.
    let days = i64::try_from(at.0 / 86_400_000).unwrap_or(0) + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

/// A packet that a side's phone has sent, opened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    /// 0 is the caller's.
    pub side: u8,
    /// When it came.
    pub at: Timestamp,
    /// As it came, but for what protected it.
    pub packet: Bytes,
}

/// What the numbers of a side's packets mean; those without a codec are no sound by themselves (keys, comfort noise).
pub type Kinds = Vec<(u8, Option<Codec>)>;

/// What one owner has kept of a call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunk {
    /// Of what.
    pub about: Arc<About>,
    /// Who has kept it: another for each time that somebody becomes the owner.
    pub life: Arc<str>,
    /// What the numbers of each side's packets mean.
    pub formats: Arc<[Kinds; 2]>,
    /// The packets, as they came.
    pub said: Vec<Said>,
}

/// What is stored at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    version: u8,
    /// A call may be in it more than once.
    pub chunks: Vec<Chunk>,
}

impl Segment {
    /// Of these.
    pub fn new(chunks: Vec<Chunk>) -> Self {
        Self { version: VERSION, chunks }
    }

    /// As it is stored.
    pub fn encode(&self) -> Vec<u8> {
        rmp_serde::to_vec(self).expect("a segment holds nothing that MessagePack can't say")
    }

    /// As it was stored.
    pub fn decode(bytes: &[u8]) -> Result<Self, SegmentError> {
        match bytes.get(1) {
            // A later one may have changed everything but this.
            Some(version @ 0..=0x7f) if *version > VERSION => Err(SegmentError::Version(*version)),
            _ => Ok(rmp_serde::from_slice(bytes)?),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn days_are_those_of_the_calendar() {
        for (seconds, day) in
            [(0, "1970-01-01"), (951_782_399, "2000-02-28"), (951_782_400, "2000-02-29"), (1_795_824_000, "2026-11-28")]
        {
            assert_eq!(day_of(Timestamp(seconds * 1000)), day);
        }
    }

    #[test]
    fn what_is_stored_is_read_again() {
        let about = About { call: CallId(7), created: Timestamp(1), caller: "a".into(), callee: "b".into() };
        let said = vec![Said { side: 1, at: Timestamp(2), packet: Bytes::from_static(&[0x80, 8]) }];
        let formats = Arc::new([vec![(111, Some(Codec::Opus)), (101, None)], Vec::new()]);
        let segment = Segment::new(vec![Chunk { about: about.into(), life: "1-n1".into(), formats, said }]);
        let mut bytes = segment.encode();
        assert_eq!(Segment::decode(&bytes).unwrap(), segment);
        bytes[1] += 1;
        assert_eq!(Segment::decode(&bytes).unwrap_err().to_string(), "a segment is of version 2, this release reads 1");
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = Segment::decode(&bytes);
        }
    }
}
