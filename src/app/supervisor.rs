//! The one place that starts tasks: each has a name, and a panic in it is
//! told and counted instead of lost.
//!
//! Bounded by what the tasks hold: a connection task has a permit, the others
//! are one each.

use std::future::Future;

use tokio_util::task::TaskTracker;

/// Starts tasks on the runtime that it is used on and waits for their end.
#[derive(Clone, Default)]
pub(super) struct Supervisor {
    tracker: TaskTracker,
}

impl Supervisor {
    /// Starts a task.
    pub(super) fn spawn(
        &self,
        name: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        let guard = PanicGuard { name };
        self.tracker.spawn(async move {
            task.await;
            std::mem::forget(guard);
        });
    }

    /// Waits until no task is left. None may be started after this.
    pub(super) async fn finished(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }
}

/// Tells of a task that ended by a panic. Zero bytes more than its name.
struct PanicGuard {
    name: &'static str,
}

impl Drop for PanicGuard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!(task = self.name, "a task panicked; this is a bug");
        }
    }
}
