//! Supervision of every thread and task that the process needs.
//!
//! Parts of the service spawn their tasks through a [`Supervisor`]. The runner of the service awaits
//! [`TaskEnds::first`], the end of a task that should have run as long as the service.

use std::any::Any;
use std::borrow::Cow;

use tokio::sync::mpsc::error::SendError;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Waits until the sender of `dropped` is gone, which a thread holds for as long as it lives. `None` never returns.
pub async fn wait_for_drop(dropped: Option<oneshot::Receiver<()>>) {
    match dropped {
        Some(dropped) => dropped.await.unwrap_or_default(),
        None => std::future::pending().await,
    }
}

/// A task's name in logs and errors.
pub type TaskName = Cow<'static, str>;

/// The unexpected end of a thread or task.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{task} ended unexpectedly: {cause}")]
pub struct TaskEnd {
    /// The task's name.
    pub task: TaskName,
    /// `returned`, `panicked: …`, or the finding of a watchdog.
    pub cause: String,
}

/// Spawns tasks that must not end before the service does. Clones report to the same receiver.
#[derive(Clone, Debug)]
pub struct Supervisor {
    ends: UnboundedSender<TaskEnd>,
    stop: CancellationToken,
}

/// Ends of supervised tasks. Dropping it aborts those that still run.
#[derive(Debug)]
pub struct TaskEnds {
    ends: UnboundedReceiver<TaskEnd>,
    _stop: DropGuard,
}

/// A supervised task. Dropping it changes nothing.
#[derive(Debug)]
pub struct Task {
    abort: AbortHandle,
    ended: oneshot::Receiver<()>,
}

/// A supervised task that belongs to its owner. Dropping it aborts the task, which is not reported.
#[derive(Debug)]
pub struct OwnedTask(AbortHandle);

/// Reports the end of the thread that it is dropped on, unless [`ThreadGuard::disarm`] was called.
#[derive(Debug)]
pub struct ThreadGuard {
    supervisor: Supervisor,
    thread: TaskName,
    armed: bool,
}

impl Supervisor {
    /// Supervisor and the receiver of its reports.
    pub fn new() -> (Self, TaskEnds) {
        let (sender, receiver) = unbounded_channel();
        let stop = CancellationToken::new();
        let ends = TaskEnds { ends: receiver, _stop: stop.clone().drop_guard() };
        (Self { ends: sender, stop }, ends)
    }

    /// A supervisor whose reports only go to the log: for parts that are used without the service.
    pub fn detached() -> Self {
        let (ends, _) = unbounded_channel();
        Self { ends, stop: CancellationToken::new() }
    }

    /// Spawns `task` in the current runtime. Its end is reported, with the message of its panic if there is
    /// one, unless it was aborted or its runtime ended.
    pub fn spawn(&self, name: impl Into<TaskName>, task: impl Future<Output = ()> + Send + 'static) -> Task {
        let (name, supervisor) = (name.into(), self.clone());
        let mut handle = tokio::spawn(task);
        let abort = handle.abort_handle();
        let (done, ended) = oneshot::channel();
        tokio::spawn(async move {
            let outcome = tokio::select! {
                outcome = &mut handle => outcome,
                () = supervisor.stop.cancelled() => return handle.abort(),
            };
            match outcome {
                Ok(()) => supervisor.report(name, "returned"),
                Err(error) if error.is_cancelled() => {}
                Err(error) => {
                    let payload = error.into_panic();
                    supervisor.report(name, format!("panicked: {}", panic_message(&*payload)));
                }
            }
            drop(done);
        });
        Task { abort, ended }
    }

    /// Spawns `task`, as [`Self::spawn`] does, for as long as the returned value lives.
    pub fn spawn_owned(
        &self,
        name: impl Into<TaskName>,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> OwnedTask {
        OwnedTask(self.spawn(name, task).abort)
    }

    /// Supervises the thread that the guard is moved to.
    pub fn thread(&self, name: impl Into<TaskName>) -> ThreadGuard {
        ThreadGuard { supervisor: self.clone(), thread: name.into(), armed: true }
    }

    /// Reports that `task` has ended or hangs.
    pub fn report(&self, task: impl Into<TaskName>, cause: impl Into<String>) {
        // Without a receiver, the service has ended or does not exist.
        if let Err(SendError(end)) = self.ends.send(TaskEnd { task: task.into(), cause: cause.into() }) {
            tracing::error!(task = %end.task, cause = end.cause, "task ended without a supervisor");
        }
    }
}

impl TaskEnds {
    /// Waits for the first reported end.
    pub async fn first(&mut self) -> TaskEnd {
        match self.ends.recv().await {
            Some(end) => end,
            None => std::future::pending().await,
        }
    }
}

impl Task {
    /// Waits until the task has ended by itself.
    pub async fn ended(self) {
        self.ended.await.unwrap_or_default();
    }

    /// Aborts the task, and waits until everything it owned was dropped.
    pub async fn stop(self) {
        self.abort.abort();
        self.ended.await.unwrap_or_default();
    }
}

impl Drop for OwnedTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl ThreadGuard {
    /// The thread ends because it is no longer needed.
    pub fn disarm(mut self) {
        self.armed = false;
    }
}

impl Drop for ThreadGuard {
    fn drop(&mut self) {
        if self.armed {
            let cause = if std::thread::panicking() { "panicked" } else { "returned" };
            self.supervisor.report(self.thread.clone(), cause);
        }
    }
}

/// Message of a panic.
pub fn panic_message(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_task_that_ends_is_named_with_its_cause() {
        for (panics, cause) in [(false, "returned"), (true, "panicked: by request")] {
            let (supervisor, mut ends) = Supervisor::new();
            supervisor.spawn("lasting", std::future::pending());
            supervisor.spawn("short", async move { assert!(!panics, "by request") });
            let end = ends.first().await;
            assert_eq!(end, TaskEnd { task: "short".into(), cause: cause.to_owned() });
        }
    }

    #[tokio::test]
    async fn a_thread_that_ends_is_named_unless_it_was_to_end() {
        let (supervisor, mut ends) = Supervisor::new();
        let (expected, unexpected) = (supervisor.thread("expected"), supervisor.thread("unexpected"));
        std::thread::spawn(move || expected.disarm()).join().unwrap();
        std::thread::spawn(move || panic!("{unexpected:?}")).join().unwrap_err();
        assert_eq!(ends.first().await.to_string(), "unexpected ended unexpectedly: panicked");
    }

    #[tokio::test]
    async fn a_stopped_task_is_not_reported_and_drops_its_data() {
        let (supervisor, mut ends) = Supervisor::new();
        let (owned, mut gone) = oneshot::channel::<()>();
        let task = supervisor.spawn("stopped", async move {
            let _owned = owned;
            std::future::pending().await
        });
        task.stop().await;
        assert!(gone.try_recv().is_err_and(|error| error == oneshot::error::TryRecvError::Closed));
        supervisor.report("other", "returned");
        assert_eq!(ends.first().await.task, "other");
    }

    #[tokio::test]
    async fn an_owned_task_is_reported_when_it_ends_and_not_when_its_owner_does() {
        let (supervisor, mut ends) = Supervisor::new();
        let (owned, gone) = oneshot::channel::<()>();
        let dropped = supervisor.spawn_owned("dropped", async move {
            let _owned = owned;
            std::future::pending().await
        });
        drop(dropped);
        gone.await.unwrap_err();
        let _held = supervisor.spawn_owned("held", async { panic!("by request") });
        assert_eq!(ends.first().await.to_string(), "held ended unexpectedly: panicked: by request");
    }

    #[tokio::test]
    async fn tasks_of_a_detached_supervisor_run() {
        let (done, ended) = oneshot::channel();
        Supervisor::detached().spawn("short", async move { done.send(()).unwrap() });
        ended.await.unwrap();
    }

    #[tokio::test]
    async fn tasks_end_with_the_place_that_their_ends_are_reported_to() {
        let (supervisor, ends) = Supervisor::new();
        let (owned, gone) = oneshot::channel::<()>();
        supervisor.spawn("owner", async move {
            let _owned = owned;
            std::future::pending().await
        });
        drop(ends);
        gone.await.unwrap_err();
    }
}
