//! Errors as RFC 9457 says them.

use axum::Json;
use axum::extract::{FromRequest, FromRequestParts, Request, rejection};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use problem_details::ProblemDetails;
use serde::de::DeserializeOwned;
use utoipa::ToSchema;

use crate::actors::lookup::NotThere;
use crate::cluster::ProposeError;
use crate::cluster::membership::ReshapeError;

/// A problem: a status and a sentence.
#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    detail: String,
}

/// How a problem looks.
#[derive(ToSchema)]
#[allow(dead_code, reason = "only its schema is used")]
pub(super) struct ProblemView {
    status: u16,
    title: String,
    detail: String,
}

impl Problem {
    pub(super) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into() }
    }

    pub(super) fn not_found(what: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, format!("There is no such {what}."))
    }
}

impl From<ProposeError> for Problem {
    fn from(error: ProposeError) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, format!("It was not committed: {error}."))
    }
}

impl From<NotThere> for Problem {
    fn from(error: NotThere) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, format!("Not all is to be seen: {error}."))
    }
}

impl From<ReshapeError> for Problem {
    fn from(error: ReshapeError) -> Self {
        let status = match error {
            ReshapeError::Propose(error) => return error.into(),
            ReshapeError::NoSuchNode => return Self::not_found("node"),
            ReshapeError::Busy | ReshapeError::Exists(_) | ReshapeError::Last | ReshapeError::NotYet => StatusCode::CONFLICT,
        };
        Self::new(status, format!("The membership stays as it is: {error}."))
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let unavailable = self.status == StatusCode::SERVICE_UNAVAILABLE;
        let problem = ProblemDetails::from_status_code(self.status).with_detail(self.detail);
        if unavailable { ([(header::RETRY_AFTER, "5")], problem).into_response() } else { problem.into_response() }
    }
}

/// A JSON body whose errors are problems too.
pub(super) struct Body<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let Json(body) = Json::from_request(request, state).await?;
        Ok(Self(body))
    }
}

/// A query whose errors are problems too.
pub(super) struct Query<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let axum::extract::Query(query) = axum::extract::Query::from_request_parts(parts, state).await?;
        Ok(Self(query))
    }
}

impl From<rejection::JsonRejection> for Problem {
    fn from(rejection: rejection::JsonRejection) -> Self {
        Self::new(rejection.status(), rejection.body_text())
    }
}

impl From<rejection::QueryRejection> for Problem {
    fn from(rejection: rejection::QueryRejection) -> Self {
        Self::new(rejection.status(), rejection.body_text())
    }
}
