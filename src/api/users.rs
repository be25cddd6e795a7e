//! `/v1/users`: who may register and call. Passwords come in and never go out: only their hashes are kept.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Api;
use super::problem::{Body, Problem, Query};
use super::registrations::Page;
use crate::cluster::state::records::UserRecord;
use crate::cluster::state::{MetaCommand, Reply};
use crate::config::SrtpPolicy;
use crate::ids::Aor;
use crate::sip::digest::Ha1;

/// At most this many users in one import.
const IMPORT: usize = 10_000;
/// Names and passwords are no longer than this.
const LONGEST: usize = 128;

#[derive(Serialize, ToSchema)]
pub(super) struct UsersView {
    /// How many there are in all.
    total: usize,
    users: Vec<UserView>,
}

#[derive(Serialize, ToSchema)]
pub(super) struct UserView {
    /// The part before the `@`.
    user: String,
    /// `user@domain`.
    aor: String,
    /// Whether its media are encrypted: `allow`, `prefer`, `require`, `dtls` or `forbid`; where it isn't said, `media.srtp` of the configuration says it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    srtp: Option<SrtpPolicy>,
    /// Whether its calls are recorded; where it isn't said, `recording.calls` of the configuration says it.
    #[serde(skip_serializing_if = "Option::is_none")]
    record: Option<bool>,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewUser {
    /// The part before the `@`.
    user: String,
    password: String,
    /// Whether its media are encrypted: `allow`, `prefer`, `require` or `forbid`.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    srtp: Option<SrtpPolicy>,
    /// Whether its calls are recorded.
    #[serde(default)]
    record: Option<bool>,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Password {
    password: String,
    /// As of a new user; what was said before stays if this isn't.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    srtp: Option<SrtpPolicy>,
    /// The same.
    #[serde(default)]
    record: Option<bool>,
}

/// What is to be done with a user's calls, where its record says it.
type Wishes = (Option<SrtpPolicy>, Option<bool>);

fn checked(api: &Api, user: &str, password: &str, (srtp, record): Wishes) -> Result<(Aor, UserRecord), Problem> {
    let bad = |text: &str| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, text);
    // RFC 3261 §25.1, `user`, without what would need escaping.
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.!~*'()&=+$,;?/#".contains(&byte);
    if user.is_empty() || user.len() > LONGEST || !user.bytes().all(legal) {
        return Err(bad("A user is 1 to 128 letters, digits and -_.!~*'()&=+$,;?/#."));
    }
    if password.is_empty() || password.len() > LONGEST {
        return Err(bad("A password is 1 to 128 characters."));
    }
    let domain = &api.services.config.sip.domain;
    let ha1 = Ha1::of(user, domain, password);
    Ok((Aor::new(user, domain), UserRecord { ha1_md5: ha1.md5, ha1_sha256: ha1.sha256, srtp, record }))
}

fn view(aor: &Aor, (srtp, record): Wishes) -> UserView {
    UserView { user: aor.user().to_owned(), aor: aor.to_string(), srtp, record }
}

fn aor(api: &Api, user: &str) -> Aor {
    Aor::new(user, &api.services.config.sip.domain)
}

/// All users
#[utoipa::path(get, path = "/v1/users", params(Page), responses((status = OK, body = UsersView)))]
pub(super) async fn list(State(api): State<Api>, Query(page): Query<Page>) -> Result<Json<UsersView>, Problem> {
    Ok(Json(api.services.cluster.read_meta(|meta| UsersView {
        total: meta.users().count(),
        users: page.of(meta.users()).into_iter().map(|(aor, user)| view(aor, (user.srtp, user.record))).collect(),
    })))
}

/// A new user
#[utoipa::path(post, path = "/v1/users", request_body = NewUser,
    responses((status = CREATED, body = UserView), (status = CONFLICT, body = super::problem::ProblemView)))]
pub(super) async fn create(State(api): State<Api>, Body(new): Body<NewUser>) -> Result<(StatusCode, Json<UserView>), Problem> {
    let (aor, user) = checked(&api, &new.user, &new.password, (new.srtp, new.record))?;
    let put = MetaCommand::PutUser { aor: aor.clone(), user, replace: false };
    match api.services.cluster.propose_meta(put).await? {
        Reply::Exists => Err(Problem::new(StatusCode::CONFLICT, "There is a user of that name.")),
        Reply::Done | Reply::NotFound | Reply::WrongGroup | Reply::Outdated => {
            Ok((StatusCode::CREATED, Json(view(&aor, (new.srtp, new.record)))))
        }
    }
}

/// Many users at once; those that exist are replaced
#[utoipa::path(put, path = "/v1/users", request_body = Vec<NewUser>, responses((status = NO_CONTENT)))]
pub(super) async fn import(State(api): State<Api>, Body(users): Body<Vec<NewUser>>) -> Result<StatusCode, Problem> {
    if users.len() > IMPORT {
        return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, format!("At most {IMPORT} users at once.")));
    }
    let users =
        users.iter().map(|new| checked(&api, &new.user, &new.password, (new.srtp, new.record))).collect::<Result<_, _>>()?;
    api.services.cluster.propose_meta(MetaCommand::PutUsers { users }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// One user
#[utoipa::path(get, path = "/v1/users/{user}", params(("user" = String, Path, description = "The part before the @")),
    responses((status = OK, body = UserView), (status = NOT_FOUND, body = super::problem::ProblemView)))]
pub(super) async fn show(State(api): State<Api>, Path(user): Path<String>) -> Result<Json<UserView>, Problem> {
    let aor = aor(&api, &user);
    let known = api.services.cluster.read_meta(|meta| meta.user(&aor).map(|user| view(&aor, (user.srtp, user.record))));
    known.map(Json).ok_or(Problem::not_found("user"))
}

/// A user's new password, and whether its media are encrypted; makes the user if there is none
#[utoipa::path(put, path = "/v1/users/{user}", params(("user" = String, Path, description = "The part before the @")),
    request_body = Password, responses((status = NO_CONTENT)))]
pub(super) async fn replace(
    State(api): State<Api>,
    Path(name): Path<String>,
    Body(new): Body<Password>,
) -> Result<StatusCode, Problem> {
    let (aor, user) = checked(&api, &name, &new.password, (new.srtp, new.record))?;
    api.services.cluster.propose_meta(MetaCommand::PutUser { aor, user, replace: true }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Removes a user; its calls go on
#[utoipa::path(delete, path = "/v1/users/{user}", params(("user" = String, Path, description = "The part before the @")),
    responses((status = NO_CONTENT), (status = NOT_FOUND, body = super::problem::ProblemView)))]
pub(super) async fn delete(State(api): State<Api>, Path(user): Path<String>) -> Result<StatusCode, Problem> {
    match api.services.cluster.propose_meta(MetaCommand::DeleteUser { aor: aor(&api, &user) }).await? {
        Reply::NotFound => Err(Problem::not_found("user")),
        Reply::Done | Reply::Exists | Reply::WrongGroup | Reply::Outdated => Ok(StatusCode::NO_CONTENT),
    }
}
