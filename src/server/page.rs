//! Pages that can take long to write, such as the rules in force. One is written at a time, on a thread that serves
//! nothing else, for all requests that came before it was begun.

use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use tokio::sync::Mutex;
use tokio::task::{JoinError, spawn_blocking};

/// One page. Clones share its text.
#[derive(Clone, Debug, Default)]
pub(super) struct Page {
    /// Requests so far.
    requests: Arc<AtomicU64>,
    /// Held while it is written.
    latest: Arc<Mutex<Latest>>,
}

#[derive(Debug, Default)]
struct Latest {
    /// Number of requests that came before it was begun.
    requests: u64,
    /// Kept until the last one of them has it.
    text: Option<Bytes>,
}

impl Page {
    /// The page as `write` writes it, or as it was written for another request that came later or at the same time.
    ///
    /// # Errors
    /// `write` has panicked.
    pub(super) async fn get(
        &self,
        write: impl FnOnce() -> String + Send + 'static,
    ) -> Result<Bytes, JoinError> {
        let number = self.requests.fetch_add(1, Ordering::Relaxed) + 1;
        let mut latest = Arc::clone(&self.latest).lock_owned().await;
        if latest.requests >= number
            && let Some(text) = latest.take_for(number)
        {
            return Ok(text);
        }
        let requests = Arc::clone(&self.requests);
        // Has the lock until it ends, whether or not the client stays: it is one thread at most.
        let written = spawn_blocking(move || {
            let requests = requests.load(Ordering::Relaxed);
            *latest = Latest { requests, text: Some(write().into()) };
            latest.take_for(number).unwrap_or_default()
        });
        written.await
    }
}

impl Latest {
    fn take_for(&mut self, number: u64) -> Option<Bytes> {
        if number == self.requests { mem::take(&mut self.text) } else { self.text.clone() }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::sync::mpsc;

    use futures_util::FutureExt as _;
    use futures_util::future::join_all;

    use super::*;

    #[tokio::test]
    async fn requests_share_a_page_and_the_runtime_runs_on_while_it_is_written() {
        let (page, written) = (Page::default(), Arc::<AtomicUsize>::default());
        let (go, wait) = mpsc::channel();
        let first = page.get(move || {
            wait.recv().unwrap();
            "first".to_owned()
        });
        let mut first = Box::pin(first);
        assert!(first.as_mut().now_or_never().is_none());
        let others = (0..100).map(|_| {
            let (page, written) = (page.clone(), Arc::clone(&written));
            async move {
                let write = move || {
                    written.fetch_add(1, Ordering::Relaxed);
                    "second".to_owned()
                };
                page.get(write).await
            }
        });
        let others = tokio::spawn(join_all(others.collect::<Vec<_>>()));
        tokio::task::yield_now().await;
        go.send(()).unwrap();
        let first = first.await.unwrap();
        let others: Vec<_> = others.await.unwrap().into_iter().map(Result::unwrap).collect();
        // The first was begun before the others came, unless its thread was late.
        let writes = written.load(Ordering::Relaxed);
        assert!(writes <= 1, "{writes}");
        assert!(first == "first" && others.iter().all(|page| page == &others[0]));
        assert_eq!(page.latest.lock().await.text, None, "nothing is kept");
        assert_eq!(page.get(|| "later".to_owned()).await.unwrap(), "later");
    }

    #[tokio::test]
    async fn a_page_that_panics_fails_its_own_request_alone() {
        let page = Page::default();
        page.get(|| panic!("by request")).await.unwrap_err();
        assert_eq!(page.get(|| "page".to_owned()).await.unwrap(), "page");
    }
}
