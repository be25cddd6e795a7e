//! The face: REST, health, metrics. Layer: face.
//!
//! Any node answers: reads come from its replica, writes go to their leader. One file for each resource.

mod calls;
mod cdrs;
mod cluster;
mod health;
mod problem;
mod quality;
mod recordings;
mod registrations;
mod users;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use metrics_exporter_prometheus::PrometheusHandle;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tower_http::limit::RequestBodyLimitLayer;
use tower_http::timeout::TimeoutLayer;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::actors::services::Services;
use problem::Problem;

/// Requests longer than this are refused.
const BODY: usize = 4 << 20;
/// No request takes longer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What the handlers share.
#[derive(Clone)]
pub struct Api {
    services: Arc<Services>,
    token: [u8; 32],
    metrics: PrometheusHandle,
}

impl Api {
    /// `token` is what callers must show.
    pub fn new(services: Arc<Services>, token: &str, metrics: PrometheusHandle) -> Self {
        Self { services, token: Sha256::digest(token.as_bytes()).into(), metrics }
    }

    /// The routes.
    pub fn router(self) -> Router {
        let (v1, api) = OpenApiRouter::with_openapi(Document::openapi())
            .routes(routes!(cluster::show))
            .routes(routes!(cluster::move_vnode, cluster::move_vnode_back))
            .routes(routes!(cluster::drain, cluster::undrain))
            .routes(routes!(cluster::join, cluster::leave))
            .routes(routes!(registrations::list))
            .routes(routes!(calls::list))
            .routes(routes!(calls::show, calls::hang_up))
            .routes(routes!(calls::record, calls::pause))
            .routes(routes!(recordings::list))
            .routes(routes!(recordings::show, recordings::delete))
            .routes(routes!(recordings::sound))
            .routes(routes!(users::list, users::create, users::import))
            .routes(routes!(users::show, users::replace, users::delete))
            .routes(routes!(cdrs::list))
            .split_for_parts();
        let v1 = v1.route_layer(middleware::from_fn_with_state(self.clone(), authorized));
        let open = Router::new()
            .route("/healthz", axum::routing::get(health::live))
            .route("/readyz", axum::routing::get(health::ready))
            .route("/metrics", axum::routing::get(health::metrics))
            .route("/openapi.json", axum::routing::get(move || async move { Json(api) }));
        v1.merge(open)
            .fallback(|| async { Problem::new(StatusCode::NOT_FOUND, "There is nothing here.") })
            .layer(RequestBodyLimitLayer::new(BODY))
            .layer(TimeoutLayer::with_status_code(StatusCode::GATEWAY_TIMEOUT, TIMEOUT))
            .with_state(self)
    }
}

#[derive(OpenApi)]
#[openapi(
    info(title = "tandem", description = "Registrations, calls, users and CDRs of a tandem cluster. Any node answers."),
    components(schemas(problem::ProblemView)),
    modifiers(&Bearer)
)]
struct Document;

struct Bearer;

impl utoipa::Modify for Bearer {
    fn modify(&self, api: &mut utoipa::openapi::OpenApi) {
        use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
        let scheme = SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build());
        api.components.get_or_insert_with(Default::default).add_security_scheme("token", scheme);
        api.security = Some(vec![SecurityRequirement::new("token", Vec::<String>::new())]);
    }
}

async fn authorized(State(api): State<Api>, request: Request, next: Next) -> Response {
    let shown = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let shown = shown.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or("");
    // Hashed first, so that comparing takes the same time for every length.
    let hash: [u8; 32] = Sha256::digest(shown.trim().as_bytes()).into();
    if bool::from(hash.ct_eq(&api.token)) {
        return next.run(request).await;
    }
    let problem = Problem::new(StatusCode::UNAUTHORIZED, "Show the token: Authorization: Bearer <token>.");
    ([(header::WWW_AUTHENTICATE, "Bearer")], problem).into_response()
}

/// Reads the token from a file, or makes one there that only its owner may read.
pub fn token(path: &Path) -> std::io::Result<String> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    match std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(mut file) => {
            let token = hex::encode(rand::random::<[u8; 24]>());
            file.write_all(token.as_bytes())?;
            Ok(token)
        }
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(std::fs::read_to_string(path)?.trim().to_owned()),
        Err(error) => Err(error),
    }
}
