//! What of a call is measured. Layer: pure.

use super::{Session, Stream, StreamLeg};
use crate::media::core::quality::Hearing;

impl Session {
    /// What the relay has to know to measure what comes from a leg in a stream, by what is agreed of it.
    pub(super) fn hearing(&self, leg: usize, at: usize, stream: &Stream) -> Hearing {
        let mut hearing = Hearing { measures: self.measured() == Some(at) && !stream.is_other, ..Hearing::default() };
        if !hearing.measures {
            return hearing;
        }
        hearing.misses = self.is_answered && !self.is_silent_on_purpose();
        if let Some(formats) = stream.formats.as_deref() {
            let told = &formats.told[leg];
            let known = match &formats.agreed {
                // Where nothing is made over each sends by the numbers that the other has given.
                Some(agreed) if !formats.is_open => [&agreed[leg], &agreed[1 - leg], told],
                // What a caller hears from us while it rings is agreed with nobody.
                Some(_) | None => [told, &formats.theirs[leg], &formats.theirs[1 - leg]],
            };
            known.into_iter().for_each(|formats| hearing.knows(formats));
        }
        hearing
    }

    /// The first stream of sound; where formats aren't looked at, the first of all.
    fn measured(&self) -> Option<usize> {
        let is_there = |leg: &StreamLeg| leg.local.is_some();
        let carried = |stream: &Stream| !stream.is_declined && !stream.is_other && stream.legs.iter().all(is_there);
        let first = |is_it: fn(&Stream) -> bool| self.streams.iter().position(|stream| carried(stream) && is_it(stream));
        first(|stream| stream.formats.is_some()).or_else(|| first(|_| true))
    }
}
