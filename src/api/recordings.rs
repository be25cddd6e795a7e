//! `/v1/recordings`: what was recorded, by day and call.

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Api;
use super::problem::{Problem, Query};
use crate::clock;
use crate::ids::CallId;
use crate::media::core::recording::segment::day_of;
use crate::media::recorder::{self, Made, Shelf, ShelfError};

/// Who deletes, as it is written down.
const BY: &str = "api";

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Day {
    /// As 2026-11-28 (UTC); today if it isn't said.
    day: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub(super) struct RecordingsView {
    day: String,
    /// The calls whose recordings are there.
    calls: Vec<String>,
}

fn shelf(api: &Api) -> Result<&Shelf, Problem> {
    let nowhere = "There is nowhere to keep recordings: recording.store isn't configured.";
    api.services.shelf.as_ref().ok_or_else(|| Problem::new(StatusCode::NOT_FOUND, nowhere))
}

/// Only days lead anywhere.
fn checked(day: &str) -> Result<&str, Problem> {
    let is_digit = |(at, byte): (usize, u8)| if matches!(at, 4 | 7) { byte == b'-' } else { byte.is_ascii_digit() };
    let is_day = day.len() == 10 && day.bytes().enumerate().all(is_digit);
    if is_day { Ok(day) } else { Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "A day is as 2026-11-28.")) }
}

fn unreachable(error: &ShelfError) -> Problem {
    tracing::warn!(%error, "asked for recordings");
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "The store of the recordings does not answer.")
}

fn none() -> Problem {
    Problem::not_found("recording")
}

fn name(id: &str) -> Result<CallId, Problem> {
    id.parse().map_err(|_| none())
}

/// The recordings of a day
#[utoipa::path(get, path = "/v1/recordings", params(Day), responses((status = OK, body = RecordingsView)))]
pub(super) async fn list(State(api): State<Api>, Query(wanted): Query<Day>) -> Result<Json<RecordingsView>, Problem> {
    let day = wanted.day.unwrap_or_else(|| day_of(clock::now()));
    let calls = shelf(&api)?.calls_of(checked(&day)?).await.map_err(|error| unreachable(&error))?;
    Ok(Json(RecordingsView { calls: calls.iter().map(CallId::to_string).collect(), day }))
}

/// What a recording is of, and what is missing in it
#[utoipa::path(get, path = "/v1/recordings/{day}/{call}", params(("day" = String, Path), ("call" = String, Path)),
    responses((status = OK), (status = NOT_FOUND, body = super::problem::ProblemView)))]
pub(super) async fn show(State(api): State<Api>, Path((day, call)): Path<(String, String)>) -> Result<Json<Made>, Problem> {
    made(shelf(&api)?, &day, &call).await.map(Json)
}

/// Its sound
#[utoipa::path(get, path = "/v1/recordings/{day}/{call}/sound", params(("day" = String, Path), ("call" = String, Path)),
    responses((status = OK, description = "WAV, or Opus in Ogg: the caller left, the callee right"),
        (status = NOT_FOUND, body = super::problem::ProblemView)))]
pub(super) async fn sound(State(api): State<Api>, Path((day, call)): Path<(String, String)>) -> Result<Response, Problem> {
    let shelf = shelf(&api)?;
    let made = made(shelf, &day, &call).await?;
    let found = shelf.file(&day, &made.file).await.map_err(|error| unreachable(&error))?.ok_or_else(none)?;
    let kind = if made.file.ends_with(".ogg") { "audio/ogg" } else { "audio/wav" };
    let headers = [(header::CONTENT_TYPE, kind.to_owned()), (header::CONTENT_LENGTH, found.meta.size.to_string())];
    Ok((headers, Body::from_stream(found.into_stream())).into_response())
}

/// Deletes a recording
///
/// That it was deleted is written down in the store, below `audit`.
#[utoipa::path(delete, path = "/v1/recordings/{day}/{call}", params(("day" = String, Path), ("call" = String, Path)),
    responses((status = NO_CONTENT), (status = NOT_FOUND, body = super::problem::ProblemView)))]
pub(super) async fn delete(State(api): State<Api>, Path((day, call)): Path<(String, String)>) -> Result<StatusCode, Problem> {
    let call = name(&call)?;
    let deleted = recorder::delete(shelf(&api)?, checked(&day)?, call, BY, clock::now()).await;
    if deleted.map_err(|error| unreachable(&error))? { Ok(StatusCode::NO_CONTENT) } else { Err(none()) }
}

async fn made(shelf: &Shelf, day: &str, call: &str) -> Result<Made, Problem> {
    let call = name(call)?;
    let found = shelf.made(checked(day)?, call).await.map_err(|error| unreachable(&error))?.ok_or_else(none)?;
    serde_json::from_slice(&found).map_err(|_| none())
}
