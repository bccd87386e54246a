//! The limit on descriptors, of which each connection over TCP takes one.
//!
//! Takes all that the system allows; what that means for the number of
//! connections is told by the configuration.

/// The usual soft limit is 1024, far below the hard one.
pub(super) fn raise_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if setrlimit(Resource::Nofile, raised).is_err() {
        tracing::warn!("cannot raise the limit on open descriptors");
    }
}
