//! How well a leg's phone is heard, and hears: in `/v1/calls` and in `/v1/cdrs`.

use serde::Serialize;
use utoipa::ToSchema;

use crate::actors::quality::leg_record;
use crate::cluster::state::quality::LegQualityRecord;
use crate::media::core::quality::Figures;

/// Of a leg, from the call's beginning. What is `null` was not to be learned.
#[derive(Serialize, ToSchema)]
pub(super) struct LegView {
    /// How its phone's sound is coded.
    codec: String,
    /// Packets that came from the phone, and those that should have come and have not.
    received: u32,
    lost: u32,
    jitter_ms: Option<f64>,
    jitter_most_ms: Option<f64>,
    /// From here to the phone and back.
    round_trip_ms: Option<f64>,
    round_trip_most_ms: Option<f64>,
    /// How what comes from the phone sounds here (ITU-T G.107), 1 to 4.5.
    mos: Option<f64>,
    /// The same of what goes to the phone, by its reports.
    there: Option<ThereView>,
    /// How often it was not heard at all while the other one spoke, and how often nothing but digital silence was.
    one_way: u32,
    silent: u32,
    /// At this moment, of a call that is up.
    #[serde(skip_serializing_if = "Option::is_none")]
    now: Option<NowView>,
}

/// What a phone says of what it hears.
#[derive(Serialize, ToSchema)]
pub(super) struct ThereView {
    lost_percent: f64,
    jitter_ms: f64,
    mos: f64,
    /// What it says itself of how that sounds (RFC 3611).
    own_mos: Option<f64>,
}

/// A leg at this moment.
#[derive(Serialize, ToSchema)]
pub(super) struct NowView {
    jitter_ms: Option<f64>,
    round_trip_ms: Option<f64>,
    /// Nothing comes from the phone though the other one speaks and nobody is on hold.
    one_way: bool,
    /// Nothing but digital silence does.
    silent: bool,
}

fn ms(micros: u64) -> f64 {
    f64::from(u32::try_from(micros).unwrap_or(u32::MAX)) / 1000.0
}

impl LegView {
    /// As it was accounted.
    pub(super) fn of(leg: &LegQualityRecord) -> Self {
        let spans = |spans: Option<[u32; 2]>| spans.map(|spans| spans.map(|span| ms(span.into())));
        let (jitter, trip) = (spans(leg.jitter), spans(leg.trip));
        Self {
            codec: leg.codec.clone(),
            received: leg.received,
            lost: leg.lost,
            jitter_ms: jitter.map(|[mean, _]| mean),
            jitter_most_ms: jitter.map(|[_, most]| most),
            round_trip_ms: trip.map(|[mean, _]| mean),
            round_trip_most_ms: trip.map(|[_, most]| most),
            mos: leg.mos.map(|mos| f64::from(mos) / 100.0),
            there: leg.far.map(|[loss, jitter, mos]| ThereView {
                lost_percent: f64::from(loss) / 100.0,
                jitter_ms: ms(jitter.into()),
                mos: f64::from(mos) / 100.0,
                own_mos: Some(leg.far_mos).filter(|mos| *mos > 0).map(|mos| f64::from(mos) / 10.0),
            }),
            one_way: leg.missed,
            silent: leg.silent,
            now: None,
        }
    }

    /// As it is.
    pub(super) fn live(figures: &Figures) -> Self {
        let now = NowView {
            jitter_ms: Some(figures.jitter).filter(|_| figures.jitters > 0).map(ms),
            round_trip_ms: Some(figures.trip).filter(|_| figures.trips > 0).map(ms),
            one_way: figures.is_missed > 0,
            silent: figures.is_silent > 0,
        };
        Self { now: Some(now), ..Self::of(&leg_record(figures)) }
    }
}
