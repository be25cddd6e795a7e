//! `/v1/cdrs`: one for each call that has ended.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::Api;
use super::problem::{Problem, Query};
use super::quality::LegView;
use super::registrations::Page;
use crate::media::core::recording::segment::day_of;

#[derive(Serialize, ToSchema)]
pub(super) struct CdrsView {
    /// How many there are in all.
    total: usize,
    /// The newest first.
    cdrs: Vec<CdrView>,
}

#[derive(Serialize, ToSchema)]
struct CdrView {
    /// In the order in which they were stored.
    number: u64,
    call: String,
    caller: String,
    callee: String,
    /// Milliseconds since 1970.
    created: u64,
    answered: Option<u64>,
    ended: u64,
    /// How long they talked, in milliseconds; 0 when nobody answered.
    talked_ms: u64,
    /// The SIP status of the call's end; 200 when it was answered.
    status: u16,
    /// `caller`, `callee`, `system` or `operator`.
    ended_by: String,
    /// The recording: `/v1/recordings/` and this. It is there a moment after the call's end.
    #[serde(skip_serializing_if = "Option::is_none")]
    recording: Option<String>,
    /// How well the caller and the callee were heard, if they talked.
    legs: Option<[LegView; 2]>,
}

/// The calls that have ended
#[utoipa::path(get, path = "/v1/cdrs", params(Page), responses((status = OK, body = CdrsView)))]
pub(super) async fn list(State(api): State<Api>, Query(page): Query<Page>) -> Result<Json<CdrsView>, Problem> {
    let view = |meta: &crate::cluster::state::MetaState| {
        let cdrs = page.of(meta.cdrs()).into_iter().map(|(number, cdr)| CdrView {
            number,
            call: cdr.call.to_string(),
            caller: cdr.caller.clone(),
            callee: cdr.callee.clone(),
            created: cdr.created.0,
            answered: cdr.answered.map(|at| at.0),
            ended: cdr.ended.0,
            talked_ms: cdr.answered.map_or(0, |at| u64::try_from(cdr.ended.since(at).as_millis()).unwrap_or(u64::MAX)),
            status: cdr.status,
            ended_by: cdr.ended_by.clone(),
            recording: cdr.recorded.then(|| format!("{}/{}", day_of(cdr.created), cdr.call)),
            legs: cdr.legs.as_ref().map(|legs| legs.each_ref().map(LegView::of)),
        });
        CdrsView { total: meta.cdrs().count(), cdrs: cdrs.collect() }
    };
    Ok(Json(api.services.cluster.read_meta(view)))
}
