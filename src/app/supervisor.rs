//! The one place that starts tasks: each has a name, and a panic in it is
//! told and counted instead of lost.
//!
//! Bounded by what the tasks hold: a connection task has a permit, the others
//! are one each.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use pin_project_lite::pin_project;
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
        self.tracker.spawn(Named { name, task });
    }

    /// Waits until no task is left. None may be started after this.
    pub(super) async fn finished(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }
}

pin_project! {
    /// A task with a name. Not an async block, which would hold the task's
    /// future twice, in every connection.
    struct Named<F> {
        name: &'static str,
        #[pin]
        task: F,
    }
}

impl<F: Future<Output = ()>> Future for Named<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        let guard = PanicGuard { name: this.name };
        let poll = this.task.poll(context);
        std::mem::forget(guard);
        poll
    }
}

/// Tells of a task that panicked, when it does.
struct PanicGuard {
    name: &'static str,
}

impl Drop for PanicGuard {
    fn drop(&mut self) {
        tracing::error!(task = self.name, "a task panicked; this is a bug");
    }
}
