//! Who may use the API: whoever has the secret, or, without one, programs on
//! this host, but no web page that a browser on this host shows.
//!
//! A page of another site can send requests to loopback (so changes must be
//! typed as JSON, which no form can be, and requests that name another origin
//! are refused), and it can have its own name resolve to loopback (so the host
//! asked for must be an address or localhost, which no such name is). Nor may
//! somebody far away whose request a proxy on this host passes on.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::api::refusal;

/// What is asked of requests.
#[derive(Debug)]
pub(super) struct Guard {
    token: Option<String>,
    loopback: bool,
}

impl Guard {
    pub(super) fn new(address: SocketAddr, token: Option<String>) -> Arc<Self> {
        Arc::new(Self {
            token,
            loopback: address.ip().to_canonical().is_loopback(),
        })
    }

    /// The status and the reason if this request may not pass.
    fn refuse(&self, method: &Method, headers: &HeaderMap) -> Option<(StatusCode, &'static str)> {
        let changes = !matches!(*method, Method::GET | Method::HEAD);
        if changes && !is_json(headers) {
            let reason = "Content-Type has to be application/json";
            return Some((StatusCode::UNSUPPORTED_MEDIA_TYPE, reason));
        }
        if let Some(token) = &self.token {
            let right = bearer(headers).is_some_and(|given| same(given, token));
            let reason = "needs the secret of admin.token_file as a bearer token";
            return (!right).then_some((StatusCode::UNAUTHORIZED, reason));
        }
        if !self.loopback {
            let reason = "needs admin.token_file, as admin.address is no loopback address";
            return Some((StatusCode::FORBIDDEN, reason));
        }
        if !is_addressed_plainly(headers) {
            let reason = "Host has to be an IP address or localhost";
            return Some((StatusCode::FORBIDDEN, reason));
        }
        if headers.contains_key(header::ORIGIN) {
            let reason = "not for web pages";
            return Some((StatusCode::FORBIDDEN, reason));
        }
        if is_passed_on(headers) {
            let reason = "needs admin.token_file, as a proxy passed the request on";
            return Some((StatusCode::FORBIDDEN, reason));
        }
        None
    }
}

/// Lets a request pass or answers it with a refusal.
pub(super) async fn check(
    State(guard): State<Arc<Guard>>,
    request: Request,
    next: Next,
) -> Response {
    match guard.refuse(request.method(), request.headers()) {
        None => next.run(request).await,
        Some((status, reason)) => {
            tracing::debug!(%status, reason, "admin request refused");
            let answer = refusal(status, reason.to_owned());
            if status == StatusCode::UNAUTHORIZED {
                return ([(header::WWW_AUTHENTICATE, "Bearer")], answer).into_response();
            }
            answer
        }
    }
}

/// Whether a proxy has left a trace: it makes everybody come from this host.
fn is_passed_on(headers: &HeaderMap) -> bool {
    headers.keys().map(HeaderName::as_str).any(|name| {
        matches!(name, "forwarded" | "via" | "x-real-ip") || name.starts_with("x-forwarded-")
    })
}

fn is_json(headers: &HeaderMap) -> bool {
    let value = headers.get(header::CONTENT_TYPE);
    let text = value.and_then(|value| value.to_str().ok());
    text.is_some_and(|text| {
        let kind = text.split(';').next().unwrap_or_default();
        kind.trim().eq_ignore_ascii_case("application/json")
    })
}

fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, token) = value.split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then_some(token)
}

/// In a time that tells nothing but the length.
fn same(given: &[u8], token: &str) -> bool {
    aws_lc_rs::constant_time::verify_slices_are_equal(given, token.as_bytes()).is_ok()
}

/// Whether exactly one host is asked for, by address or as localhost.
fn is_addressed_plainly(headers: &HeaderMap) -> bool {
    let mut hosts = headers.get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return false;
    };
    let Ok(host) = host.to_str() else {
        return false;
    };
    let bracketed = host.strip_prefix('[').and_then(|rest| rest.split_once(']'));
    if let Some((v6, port)) = bracketed {
        return v6.parse::<Ipv6Addr>().is_ok() && (port.is_empty() || port.starts_with(':'));
    }
    let name = host.split(':').next().unwrap_or_default();
    name.eq_ignore_ascii_case("localhost") || name.parse::<Ipv4Addr>().is_ok()
}
