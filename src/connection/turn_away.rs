//! Saying goodbye to a peer that has shown who it is and may not stay.
//!
//! Nothing is registered and no task started: one record with the reason is
//! sealed and written, and the socket closed behind it.

use std::sync::Arc;

use crate::clock;
use crate::engine::record::Alert;
use crate::metrics::EgressMetrics;
use crate::wire::yamux::GoAwayCode;

use super::{egress::Egress, read_pass::with_pass, task::Handover};

/// Ends an upgraded connection that a limit does not allow. Over yamux the peer
/// is told that it was a limit; mplex has no words for it.
pub fn turn_away(upgraded: Handover, metrics: Arc<EgressMetrics>) {
    let (_reader, writer) = upgraded.socket.into_split();
    let egress = Egress::new(
        upgraded.muxer,
        upgraded.side,
        upgraded.seal,
        upgraded.layers.outbound,
        writer,
        metrics,
    );
    with_pass(clock::now(), |pass, _| {
        let bye = Some(Alert::CLOSE_NOTIFY);
        egress.say_goodbye(GoAwayCode::ResourceLimit, bye, pass.effects)
    });
}
