//! `/v1/calls`: the calls that are up, and ending one.

use std::sync::atomic::Ordering;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use super::Api;
use super::problem::{Problem, Query};
use super::quality::LegView;
use super::registrations::Page;
use crate::actors::gateway::{Answer, Question, hang_up_here};
use crate::actors::lookup;
use crate::actors::quality::figures_of;
use crate::actors::recording::record_here;
use crate::clock;
use crate::cluster::state::records::{CallRecord, decode};
use crate::ids::{CallId, VnodeId};

#[derive(Serialize, ToSchema)]
pub(super) struct CallsView {
    /// How many there are in all.
    total: usize,
    calls: Vec<CallView>,
}

#[derive(Serialize, ToSchema)]
pub(super) struct CallView {
    /// Its name, in every log line too.
    id: String,
    vnode: u16,
    owner: Option<u64>,
    caller: String,
    callee: String,
    /// `ringing` or `answered`.
    state: &'static str,
    /// Seconds since the INVITE, and since the answer.
    age: u64,
    talking: Option<u64>,
    /// `on` or `paused`, if it is recorded.
    #[serde(skip_serializing_if = "Option::is_none")]
    recording: Option<&'static str>,
    /// Datagrams from the caller and from the callee, if the call is on the node that answers.
    packets: Option<[u64; 2]>,
    /// How well the caller and the callee are heard: at this moment if the call is on the node that answers, else as of its last commit.
    legs: [LegView; 2],
}

/// The calls that are up
#[utoipa::path(get, path = "/v1/calls", params(Page), responses((status = OK, body = CallsView)))]
pub(super) async fn list(State(api): State<Api>, Query(page): Query<Page>) -> Result<Json<CallsView>, Problem> {
    let mut live = Vec::new();
    for vnode in api.services.cluster.vnodes() {
        live.extend(lookup::calls(&api.services, vnode).await?.into_iter().map(|record| (vnode, record)));
    }
    let total = live.len();
    let calls = page.of(live.into_iter()).into_iter().filter_map(|(vnode, record)| view(&api, vnode, &record)).collect();
    Ok(Json(CallsView { total, calls }))
}

/// One call
#[utoipa::path(get, path = "/v1/calls/{id}", params(("id" = String, Path, description = "The call's name")),
    responses((status = OK, body = CallView), (status = NOT_FOUND, body = super::problem::ProblemView)))]
pub(super) async fn show(State(api): State<Api>, Path(id): Path<String>) -> Result<Json<CallView>, Problem> {
    let (vnode, record) = find(&api, &id).await?;
    view(&api, vnode, &record).map(Json).ok_or_else(|| Problem::not_found("call"))
}

/// Ends a call
#[utoipa::path(delete, path = "/v1/calls/{id}", params(("id" = String, Path, description = "The call's name")),
    responses((status = ACCEPTED, description = "Both sides are being hung up on"), (status = NOT_FOUND, body = super::problem::ProblemView)))]
pub(super) async fn hang_up(State(api): State<Api>, Path(id): Path<String>) -> Result<StatusCode, Problem> {
    let (vnode, _) = find(&api, &id).await?;
    let call: CallId = id.parse().map_err(|_| Problem::not_found("call"))?;
    if hang_up_here(&api.services, call) {
        return Ok(StatusCode::ACCEPTED);
    }
    ask(&api, vnode, &Question::HangUp { call }).await
}

/// Records a call from now on
///
/// Once it is answered. What was paused goes on in the same file.
#[utoipa::path(post, path = "/v1/calls/{id}/recording", params(("id" = String, Path, description = "The call's name")),
    responses((status = ACCEPTED, description = "What is said from now on is kept"), (status = NOT_FOUND, body = super::problem::ProblemView),
        (status = CONFLICT, body = super::problem::ProblemView)))]
pub(super) async fn record(State(api): State<Api>, Path(id): Path<String>) -> Result<StatusCode, Problem> {
    set_recording(&api, &id, true).await
}

/// Pauses the recording of a call
#[utoipa::path(delete, path = "/v1/calls/{id}/recording", params(("id" = String, Path, description = "The call's name")),
    responses((status = ACCEPTED, description = "What is said from now on isn't kept"), (status = NOT_FOUND, body = super::problem::ProblemView),
        (status = CONFLICT, body = super::problem::ProblemView)))]
pub(super) async fn pause(State(api): State<Api>, Path(id): Path<String>) -> Result<StatusCode, Problem> {
    set_recording(&api, &id, false).await
}

async fn set_recording(api: &Api, id: &str, on: bool) -> Result<StatusCode, Problem> {
    let conflict = |text: &str| Problem::new(StatusCode::CONFLICT, text);
    if api.services.shelf.is_none() {
        return Err(conflict("There is nowhere to keep recordings: recording.store isn't configured."));
    }
    let (vnode, record) = find(api, id).await?;
    let record: CallRecord = decode(&record).map_err(|_| Problem::not_found("call"))?;
    if record.answered.is_none() {
        return Err(conflict("Nobody has answered the call yet."));
    }
    if !on && record.media.recording.is_none() {
        return Err(conflict("The call isn't recorded."));
    }
    if record_here(&api.services, record.id, on) {
        return Ok(StatusCode::ACCEPTED);
    }
    ask(api, vnode, &Question::Record { call: record.id, on }).await
}

/// Has the call's owner do something.
async fn ask(api: &Api, vnode: VnodeId, question: &Question) -> Result<StatusCode, Problem> {
    let services = &api.services;
    let owner = services.cluster.owner_of(vnode).filter(|owner| *owner != services.node);
    let nobody = || Problem::new(StatusCode::SERVICE_UNAVAILABLE, "The call's owner is not there at the moment.");
    match services.gateways.ask(services, owner.ok_or_else(nobody)?, question).await {
        Some(Answer::HungUp(true) | Answer::Done(true)) => Ok(StatusCode::ACCEPTED),
        Some(
            Answer::HungUp(false)
            | Answer::Done(false)
            | Answer::Connected(_)
            | Answer::Bindings(_)
            | Answer::Calls(_)
            | Answer::AllBindings(_)
            | Answer::Seen(_),
        )
        | None => Err(nobody()),
    }
}

async fn find(api: &Api, id: &str) -> Result<(VnodeId, bytes::Bytes), Problem> {
    let call: CallId = id.parse().map_err(|_| Problem::not_found("call"))?;
    lookup::call(&api.services, call).await?.ok_or_else(|| Problem::not_found("call"))
}

fn view(api: &Api, vnode: VnodeId, record: &[u8]) -> Option<CallView> {
    let record: CallRecord = decode(record).ok()?;
    let now = clock::now();
    let packets = api.services.directory.counters(record.id);
    let recorded = record.media.figures.each_ref().map(|figures| figures_of(figures));
    let recorded = api.services.told.later(record.id, &recorded);
    let figures = packets.as_ref().map_or(recorded, |legs| [0, 1].map(|leg| legs[leg].gauge.with(&recorded[leg])));
    Some(CallView {
        id: record.id.to_string(),
        vnode: vnode.0,
        owner: api.services.cluster.owner_of(vnode).map(|node| node.0),
        caller: record.caller,
        callee: record.callee,
        state: if record.answered.is_some() { "answered" } else { "ringing" },
        age: now.since(record.created).as_secs(),
        talking: record.answered.map(|at| now.since(at).as_secs()),
        recording: record.media.recording.map(|is_on| if is_on { "on" } else { "paused" }),
        legs: figures.each_ref().map(LegView::live),
        packets: packets.map(|legs| legs.map(|leg| leg.received.load(Ordering::Relaxed))),
    })
}
