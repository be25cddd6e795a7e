//! Recordings go, and it is written down that they did. Layer: shell.

use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;

use super::shelf::{self, Shelf, ShelfError};
use crate::clock::{self, Timestamp};
use crate::ids::CallId;
use crate::media::core::recording::segment::day_of;

const DAY: Duration = Duration::from_secs(86_400);

/// What is written down.
#[derive(Debug, Serialize)]
pub struct Deleted<'a> {
    /// Whose recording.
    pub call: String,
    /// The day that it was filed under.
    pub day: &'a str,
    /// Who wanted it.
    pub by: &'a str,
    /// When, in milliseconds since 1970 (UTC).
    pub at: u64,
}

/// Deletes a recording. First it is written down, so that whoever dies between leaves a line too many and none too few. Tells whether it was there.
pub async fn delete(shelf: &Shelf, day: &str, call: CallId, by: &str, now: Timestamp) -> Result<bool, ShelfError> {
    let what = shelf::recording(day, call, "json");
    if !shelf.has(&what).await? {
        return Ok(false);
    }
    let deleted = Deleted { call: call.to_string(), day, by, at: now.0 };
    let line = serde_json::to_vec(&deleted).map_err(|error| ShelfError::File(error.into()))?;
    shelf.create(&shelf::audit(&day_of(now), &format!("{:013}-{call}", now.0)), Bytes::from(line)).await?;
    tracing::info!(call_id = %call, by, "a recording is deleted");
    metrics::counter!("tandem_recordings_deleted_total").increment(1);
    for ending in ["wav", "ogg"] {
        shelf.delete(&shelf::recording(day, call, ending)).await?;
    }
    shelf.delete(&what).await?;
    Ok(true)
}

/// Deletes what is older than so many days.
pub(super) async fn tidy(shelf: &Shelf, keep_days: u32, now: Timestamp) -> Result<(), ShelfError> {
    if keep_days == 0 {
        return Ok(());
    }
    let first = day_of(now - DAY * keep_days);
    for day in shelf.within(&shelf::recordings()).await? {
        // Days are in the order of their names.
        if day >= first {
            continue;
        }
        for call in shelf.calls_of(&day).await? {
            delete(shelf, &day, call, "recording.keep_days", clock::now()).await?;
        }
    }
    Ok(())
}
