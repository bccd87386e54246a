//! `/api/v1/addresses`: the addresses that the server has, as JSON, each with
//! where it comes from, who is told of it, and why nobody is.
//!
//! Made anew for each request. Who may ask is left to `guard.rs`, what is told to
//! whom to `state::addresses`.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::middleware::from_fn_with_state;
use axum::response::Response;
use axum::routing::get;
use serde::{Deserialize, Serialize};

use super::api::json;
use super::guard::{Guard, check};
use crate::state::addresses::{Addresses, Entry, Reach, Source, Verdict};

/// Path of the addresses.
pub const ADDRESSES_PATH: &str = "/api/v1/addresses";

/// What GET answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedAddresses {
    /// Ours.
    pub peer_id: String,
    /// All of them, in the order in which they are told.
    pub addresses: Vec<ShownAddress>,
    /// Addresses of interfaces that are not looked at, as there are too many.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub not_looked_at: usize,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde asks with a reference"
)]
const fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// One address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShownAddress {
    /// Without the peer id.
    pub address: String,
    /// "configured", "listen", "interface" or "observed".
    pub source: String,
    /// Name of the interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// Networks whose peers see us there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observers: Option<usize>,
    /// "everybody", "private networks" (and this host), "this host" or "nobody".
    pub announced_to: String,
    /// Why not to everybody, or why to everybody although it does not reach them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl ListedAddresses {
    /// What is to be shown of these addresses.
    #[must_use]
    pub fn of(addresses: &Addresses) -> Self {
        Self {
            peer_id: addresses.us().to_string(),
            addresses: addresses.entries().iter().map(ShownAddress::of).collect(),
            not_looked_at: addresses.left_out().not_looked_at,
        }
    }
}

impl ShownAddress {
    fn of(entry: &Entry) -> Self {
        let (source, interface, observers) = match &entry.source {
            Source::Configured => ("configured", None, None),
            Source::Bound => ("listen", None, None),
            Source::Interface(name) => ("interface", Some(name.clone()), None),
            Source::Observed(networks) => ("observed", None, Some(*networks)),
        };
        let (announced_to, reason) = match entry.verdict {
            Verdict::Told(Reach::Public) => ("everybody", None),
            Verdict::Told(Reach::Private) => ("private networks", Some("private".to_owned())),
            Verdict::Told(Reach::Loopback) => ("this host", Some("loopback".to_owned())),
            Verdict::LastResort(_) => {
                let reason = "no address reaches further".to_owned();
                ("everybody", Some(reason))
            }
            Verdict::Withheld(withheld) => ("nobody", Some(withheld.to_string())),
        };
        Self {
            address: entry.address.to_string(),
            source: source.to_owned(),
            interface,
            observers,
            announced_to: announced_to.to_owned(),
            reason,
        }
    }

    /// Whether it is one to publish: announced to everybody, and not for want of
    /// a better one.
    #[must_use]
    pub fn is_public(&self) -> bool {
        self.announced_to == "everybody" && self.reason.is_none()
    }
}

pub(super) fn router(addresses: Arc<Addresses>, guard: Arc<Guard>) -> Router {
    Router::new()
        .route(ADDRESSES_PATH, get(list))
        .route_layer(from_fn_with_state(guard, check))
        .with_state(addresses)
}

async fn list(State(addresses): State<Arc<Addresses>>) -> Response {
    json(StatusCode::OK, &ListedAddresses::of(&addresses))
}
