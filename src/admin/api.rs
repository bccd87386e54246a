//! `/api/v1/access`: the operator's rules over HTTP, as JSON.
//!
//! GET lists, POST makes one, DELETE takes one back. Who may ask is left to
//! `guard.rs`, what a rule does to `state::access`. Bounded: the body, the
//! note, and through the admin server's slots the requests at once.

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::{Deserialize, Serialize};

use super::guard::{Guard, check};
use crate::clock;
use crate::config::Subject;
use crate::config::units::parse_duration;
use crate::state::access::rulebook::{Changed, RuleError, Rulebook};
use crate::state::access::{Rule, Verdict};

/// Path of the rules.
pub const ACCESS_PATH: &str = "/api/v1/access";

/// Bytes of a request's body: a rule with the longest note, each character
/// escaped, is half of it.
const BODY_MAX: usize = 4 * 1024;

/// A rule, as it is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewRule {
    /// A peer id, an IP address or a range.
    pub subject: String,
    /// "deny" or "allow".
    pub verdict: String,
    /// How long it holds, as "1h30m"; for ever if absent.
    #[serde(rename = "for", skip_serializing_if = "Option::is_none")]
    pub lasts: Option<String>,
    /// Why.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
}

/// Whose rule is to be taken back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OldRule {
    /// As it is listed, or written otherwise.
    pub subject: String,
}

/// A rule, as it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShownRule {
    /// A peer id, an IP address or a range.
    pub subject: String,
    /// "deny" or "allow".
    pub verdict: String,
    /// Seconds since the Unix epoch.
    pub made: u64,
    /// Likewise; for ever if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<u64>,
    /// Why.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
}

/// What GET answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// Rules made at run time, ordered by subject.
    pub rules: Vec<ShownRule>,
    /// Entries of the configuration that deny.
    pub configured_deny: usize,
    /// Entries of the configuration that allow.
    pub configured_allow: usize,
}

/// What POST and DELETE answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// The subject, as it is listed.
    pub subject: String,
    /// Connections that are being closed because of it.
    pub closing: usize,
    /// Whether it is on disk; if not, the store is in trouble and it is tried
    /// again.
    pub kept: bool,
}

/// What a refusal answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// One line.
    pub error: String,
}

pub(super) fn router(rulebook: Arc<Rulebook>, guard: Arc<Guard>) -> Router {
    Router::new()
        .route(ACCESS_PATH, get(list).post(add).delete(remove))
        .route_layer(from_fn_with_state(guard, check))
        .with_state(rulebook)
}

async fn list(State(rulebook): State<Arc<Rulebook>>) -> Response {
    let access = rulebook.access();
    let mut rules: Vec<ShownRule> = access
        .rules()
        .into_iter()
        .map(|(subject, rule)| ShownRule {
            subject: subject.to_string(),
            verdict: rule.verdict.name().to_owned(),
            made: rule.made,
            expires: rule.expires,
            note: rule.note.into_string(),
        })
        .collect();
    rules.sort_unstable_by(|a, b| a.subject.cmp(&b.subject));
    let [configured_deny, configured_allow] = access.configured_counts();
    let listed = Listed {
        rules,
        configured_deny,
        configured_allow,
    };
    json(StatusCode::OK, &listed)
}

async fn add(State(rulebook): State<Arc<Rulebook>>, body: Body) -> Response {
    let asked = match read::<NewRule>(body).await {
        Ok(asked) => asked,
        Err(refused) => return refused,
    };
    let (subject, rule) = match rule(asked, clock::unix_seconds()) {
        Ok(rule) => rule,
        Err(reason) => return refusal(StatusCode::BAD_REQUEST, reason),
    };
    change(subject, move || rulebook.add(subject, &rule)).await
}

async fn remove(State(rulebook): State<Arc<Rulebook>>, body: Body) -> Response {
    let asked = match read::<OldRule>(body).await {
        Ok(asked) => asked,
        Err(refused) => return refused,
    };
    match asked.subject.parse::<Subject>() {
        Ok(subject) => change(subject, move || rulebook.remove(&subject)).await,
        Err(expected) => refusal(StatusCode::BAD_REQUEST, format!("subject: {expected}")),
    }
}

/// Changes a rule where waiting for the disk holds up nobody.
async fn change(
    subject: Subject,
    change: impl FnOnce() -> Result<Changed, RuleError> + Send + 'static,
) -> Response {
    match tokio::task::spawn_blocking(change).await {
        Ok(Ok(changed)) => {
            let done = Done {
                subject: subject.to_string(),
                closing: changed.closing,
                kept: changed.kept,
            };
            json(StatusCode::OK, &done)
        }
        Ok(Err(error)) => {
            let status = match error {
                RuleError::NoteTooLong => StatusCode::BAD_REQUEST,
                RuleError::Unknown(_) => StatusCode::NOT_FOUND,
                RuleError::Full(_) | RuleError::Configured(..) => StatusCode::CONFLICT,
            };
            refusal(status, error.to_string())
        }
        Err(error) => {
            tracing::error!(%error, "changing a rule panicked; this is a bug");
            refusal(StatusCode::INTERNAL_SERVER_ERROR, "a bug".to_owned())
        }
    }
}

fn rule(asked: NewRule, now: u64) -> Result<(Subject, Rule), String> {
    let subject = asked
        .subject
        .parse()
        .map_err(|expected| format!("subject: {expected}"))?;
    let verdict =
        Verdict::named(&asked.verdict).ok_or("verdict: expected \"deny\" or \"allow\"")?;
    let lasts = asked
        .lasts
        .map(|text| {
            let lasts = parse_duration(&text).filter(|lasts| lasts.as_secs() > 0);
            lasts.ok_or("for: expected a duration from 1s to 100 years such as \"1h30m\"")
        })
        .transpose()?;
    let rule = Rule {
        verdict,
        made: now,
        expires: lasts.map(|lasts| now.saturating_add(lasts.as_secs())),
        note: asked.note.into_boxed_str(),
    };
    Ok((subject, rule))
}

async fn read<T: for<'a> Deserialize<'a>>(body: Body) -> Result<T, Response> {
    let bytes = to_bytes(body, BODY_MAX).await.map_err(|_| {
        let reason = format!("the body is longer than {BODY_MAX} bytes, or broke off");
        refusal(StatusCode::PAYLOAD_TOO_LARGE, reason)
    })?;
    serde_json::from_slice(&bytes)
        .map_err(|error| refusal(StatusCode::BAD_REQUEST, format!("the body: {error}")))
}

pub(super) fn refusal(status: StatusCode, error: String) -> Response {
    json(status, &Refused { error })
}

pub(super) fn json(status: StatusCode, body: &impl Serialize) -> Response {
    let body = serde_json::to_string(body).expect("numbers and texts become JSON");
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}
