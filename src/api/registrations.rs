//! `/v1/registrations`: who is registered, and from where.

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Api;
use super::problem::{Problem, Query};
use crate::actors::lookup;
use crate::actors::records::decode_bindings;
use crate::clock;

/// Which part of a list.
#[derive(Deserialize, IntoParams)]
pub(super) struct Page {
    /// So many at most (1000 when not given, 10000 at most).
    limit: Option<usize>,
    /// So many are skipped.
    offset: Option<usize>,
}

impl Page {
    /// The part of `all` that is asked for.
    pub(super) fn of<T>(&self, all: impl Iterator<Item = T>) -> Vec<T> {
        all.skip(self.offset.unwrap_or(0)).take(self.limit.unwrap_or(1000).min(10_000)).collect()
    }
}

#[derive(Serialize, ToSchema)]
pub(super) struct RegistrationsView {
    /// How many there are in all.
    total: usize,
    registrations: Vec<RegistrationView>,
}

#[derive(Serialize, ToSchema)]
struct RegistrationView {
    aor: String,
    vnode: u16,
    contact: String,
    /// By what address of ours it is reached, and where the phone's packets come from.
    flow: String,
    user_agent: Option<String>,
    /// Seconds until it ends.
    expires_in: u64,
}

/// Who is registered
#[utoipa::path(get, path = "/v1/registrations", params(Page), responses((status = OK, body = RegistrationsView)))]
pub(super) async fn list(State(api): State<Api>, Query(page): Query<Page>) -> Result<Json<RegistrationsView>, Problem> {
    let now = clock::now();
    let mut all = Vec::new();
    for vnode in api.services.cluster.vnodes() {
        for (aor, record) in lookup::bindings(&api.services, vnode).await? {
            let bindings = decode_bindings(&record).unwrap_or_default();
            all.extend(bindings.into_iter().filter(|binding| binding.expires > now).map(|binding| RegistrationView {
                aor: aor.to_string(),
                vnode: vnode.0,
                contact: binding.contact.to_string(),
                flow: format!("{} {} <- {}", binding.flow.transport, binding.flow.local, binding.flow.remote),
                user_agent: binding.user_agent.map(|agent| agent.to_string()),
                expires_in: binding.expires.since(now).as_secs(),
            }));
        }
    }
    all.sort_by(|a, b| a.aor.cmp(&b.aor));
    Ok(Json(RegistrationsView { total: all.len(), registrations: page.of(all.into_iter()) }))
}
