//! What is measured of calls, as it is kept, accounted and said. Layer: shell.
//!
//! A record has what all have measured who had the call until its last commit: nothing is committed for the sake of figures.

use super::call_media::CallMedia;
use super::services::Services;
use crate::cluster::state::quality::LegQualityRecord;
use crate::ids::{CallId, LegId};
use crate::media::core::Session;
use crate::media::core::quality::Figures;
use crate::sip::b2bua::{CallState, Cdr};

/// Brings what is about to be committed up to date.
pub(super) fn measure(media: &mut CallMedia, services: &Services, state: &CallState) {
    let counters = services.directory.counters(state.id);
    media.measured(state.answered.is_some(), |recorded| {
        let before = services.told.later(state.id, recorded);
        let Some(counters) = &counters else { return before };
        [0, 1].map(|leg| {
            counters[leg].gauge.begins_after(&before[leg]);
            counters[leg].gauge.with(&before[leg])
        })
    });
}

/// A call has ended.
pub(super) fn ended(cdr: &Cdr, media: &Session) {
    for (leg, figures) in [LegId::CALLER, LegId::CALLEE].into_iter().zip(&media.figures).filter(|_| cdr.answered.is_some()) {
        let Some(mos) = figures.mos() else { continue };
        let (jitter_ms, trip_ms) = (figures.jitter_ms(), figures.trip_ms());
        tracing::info!(%leg, received = figures.received, lost = figures.lost(), ?jitter_ms, ?trip_ms, mos, "how it was heard");
        metrics::histogram!("tandem_mos").record(mos);
        metrics::histogram!("tandem_loss_ratio").record(figures.loss());
        if let Some(jitter_ms) = jitter_ms {
            metrics::histogram!("tandem_jitter_seconds").record(jitter_ms / 1000.0);
        }
        if let Some(trip_ms) = trip_ms {
            metrics::histogram!("tandem_round_trip_seconds").record(trip_ms / 1000.0);
        }
    }
}

/// A phone says nothing, and should; if it `sends`, nothing but digital silence.
pub(super) fn silent(call: CallId, leg: LegId, sends: bool) {
    let what = if sends { "digital" } else { "one_way" };
    if sends {
        tracing::info!(call_id = %call, trace_id = %call, %leg, "a phone sends nothing but digital silence");
    } else {
        tracing::warn!(call_id = %call, trace_id = %call, %leg, "one-way audio: nothing comes from a phone while the other one speaks");
    }
    metrics::counter!("tandem_silences_total", "what" => what).increment(1);
}

/// Figures as they are stored: without what is nothing behind the last that is something.
pub(super) fn figures_record(figures: &Figures) -> Vec<u64> {
    let mut numbers = figures.numbers().to_vec();
    let length = numbers.iter().rposition(|number| *number != 0).map_or(0, |last| last + 1);
    numbers.truncate(length);
    numbers
}

/// The same, read again; what a later release has behind them is passed over.
pub fn figures_of(record: &[u64]) -> Figures {
    let mut numbers = [0; Figures::COUNT];
    numbers.iter_mut().zip(record).for_each(|(number, stored)| *number = *stored);
    Figures::of(numbers)
}

/// What accounting gets of a call's legs; nothing of one on which nothing was measured.
pub(super) fn legs_record(media: &Session) -> Option<Box<[LegQualityRecord; 2]>> {
    media.figures.iter().any(|figures| !figures.is_nothing()).then(|| Box::new(media.figures.each_ref().map(leg_record)))
}

/// What accounting gets of a leg.
pub fn leg_record(figures: &Figures) -> LegQualityRecord {
    let whole = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
    let both = |ms: Option<f64>, most: u64| ms.map(|ms| [rounded(ms * 1000.0), whole(most)]);
    let far = figures.far_loss().zip(figures.far_jitter_ms()).zip(figures.far_mos());
    LegQualityRecord {
        codec: figures.coding.name().into(),
        received: whole(figures.received),
        lost: whole(figures.lost()),
        jitter: both(figures.jitter_ms(), figures.jitter_most),
        trip: both(figures.trip_ms(), figures.trip_most),
        mos: figures.mos().map(|mos| u16::try_from(rounded(mos * 100.0)).unwrap_or(u16::MAX)),
        far: far.map(|((loss, jitter_ms), mos)| [loss * 10_000.0, jitter_ms * 1000.0, mos * 100.0].map(rounded)),
        far_mos: u8::try_from(figures.far_mos).unwrap_or(u8::MAX),
        missed: whole(figures.missed),
        silent: whole(figures.silent),
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it stays within its bounds")]
fn rounded(number: f64) -> u32 {
    number.round() as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::core::quality::Coding;

    #[test]
    fn figures_are_read_as_they_were_written() {
        let figures = Figures { coding: Coding::Pcma, received: 99, expected: 100, gaps: 1, trips: 3, ..Figures::default() };
        let record = figures_record(&figures);
        assert!(record.len() < Figures::COUNT);
        assert_eq!(figures_of(&record), figures);
        let later = [&figures.numbers()[..], &[1, 2, 3]].concat();
        assert_eq!(figures_of(&later), figures);
        assert_eq!((figures_record(&Figures::default()), figures_of(&[])), (Vec::new(), Figures::default()));
    }

    #[test]
    fn what_is_not_known_is_not_accounted() {
        let figures = Figures { coding: Coding::Pcma, received: 99, expected: 100, gaps: 1, ..Figures::default() };
        let record = leg_record(&figures);
        assert_eq!((record.codec.as_str(), record.received, record.lost), ("PCMA", 99, 1));
        assert_eq!((record.jitter, record.trip, record.far), (None, None, None));
        assert_eq!(record.mos, Some(433));
        let told =
            leg_record(&Figures { reports: 2, far_lost_sum: 128, far_jitter_sum: 5000, trips: 1, trip_sum: 40_000, ..figures });
        assert_eq!((told.trip, told.far.map(|far| [far[0], far[1]])), (Some([40_000, 0]), Some([2500, 2500])));
    }
}
