//! The paths of the admin server and what each answers.
//!
//! Answers are made anew for each request and never stored by anybody. What
//! being live and ready means is left to `health`.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::map_response;
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use serde::Serialize;

use super::guard::Guard;
use super::{AdminState, Phase, addresses, api};
use crate::clock;
use crate::metrics::{self, Usage};

const INDEX: &str = "<!DOCTYPE html>
<html lang=\"en\"><meta charset=\"utf-8\"><title>waystation</title>
<h1>waystation</h1>
<ul>
<li><a href=\"/metrics\">/metrics</a>: figures in the Prometheus text format
<li><a href=\"/livez\">/livez</a>: 200 while every worker turns and is whole
<li><a href=\"/readyz\">/readyz</a>: 200 while new peers are taken, and how many more fit
<li><a href=\"/api/v1/access\">/api/v1/access</a>: the rules of who may connect, made at run time
<li><a href=\"/api/v1/addresses\">/api/v1/addresses</a>: where peers reach us, and why not elsewhere
</ul>
</html>
";

pub(super) fn router(state: AdminState, guard: Arc<Guard>) -> Router {
    let rules = api::router(Arc::clone(&state.rulebook), Arc::clone(&guard));
    let addresses = addresses::router(Arc::clone(&state.addresses), guard);
    Router::new()
        .route("/", get(|| async { Html(INDEX) }))
        .route("/metrics", get(scrape))
        .route("/livez", get(live))
        .route("/readyz", get(ready))
        .with_state(state)
        .merge(rules)
        .merge(addresses)
        .layer(map_response(never_stored))
}

async fn scrape(State(state): State<AdminState>) -> impl IntoResponse {
    (
        [(header::CONTENT_TYPE, metrics::CONTENT_TYPE)],
        state.metrics.render(),
    )
}

/// A restart helps a server that is not live, so this looks at nothing that a
/// restart would not mend.
async fn live(State(state): State<AdminState>) -> Response {
    let stalled = told("stalled", &state.health.stalled(clock::now()));
    let broken = told("broken", &state.health.broken());
    let body = stalled + &broken;
    if body.is_empty() {
        return "ok\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, body).into_response()
}

/// A line about workers that are not well, if there are any.
fn told(how: &str, workers: &[usize]) -> String {
    if workers.is_empty() {
        return String::new();
    }
    let workers: Vec<String> = workers.iter().map(ToString::to_string).collect();
    format!("{how} workers: {}\n", workers.join(", "))
}

async fn ready(State(state): State<AdminState>) -> Response {
    let reason = match state.health.phase() {
        Phase::Starting => Some("starting"),
        // Peers that the kernel gives to that worker find nobody.
        Phase::Serving if !state.health.broken().is_empty() => Some("broken"),
        Phase::Serving => None,
        Phase::Draining => Some("draining"),
    };
    let occupancy = state.metrics.occupancy();
    let readiness = Readiness {
        ready: reason.is_none(),
        reason,
        connections: occupancy.connections.into(),
        reservations: occupancy.reservations.into(),
        circuits: occupancy.circuits.into(),
    };
    let status = if readiness.ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let body = serde_json::to_string(&readiness).expect("numbers and literals become JSON");
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// What `/readyz` says: a full server is still ready, and says that it is full.
#[derive(Debug, Serialize)]
struct Readiness {
    ready: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    connections: Capacity,
    reservations: Capacity,
    circuits: Capacity,
}

#[derive(Debug, Serialize)]
struct Capacity {
    used: u64,
    max: u64,
    free: u64,
}

impl From<Usage> for Capacity {
    fn from(usage: Usage) -> Self {
        Self {
            used: usage.used,
            max: usage.max,
            free: usage.free(),
        }
    }
}

/// Every answer is about now, the refusals too.
async fn never_stored(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    response
}
