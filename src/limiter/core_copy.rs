//! A shared value, read on one core.

use std::ops::Deref;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;

/// A value that is swapped as a whole, as one core sees it.
///
/// A request keeps the value while it waits for the store. `ArcSwap` lends it to eight requests of a thread at a time;
/// further ones count themselves as owners, in a cache line that all cores would write to. So each core owns the value
/// once, and its requests count themselves as owners of that. A core without requests keeps its last value until the
/// next one.
#[derive(Debug)]
pub struct CoreCopy<T> {
    shared: Arc<ArcSwapOption<T>>,
    own: Mutex<Option<Arc<Held<T>>>>,
}

/// A value that one core owns.
#[derive(Debug)]
pub(super) struct Held<T>(Arc<T>);

impl<T> CoreCopy<T> {
    /// The current value, if there is one.
    pub(super) fn current(&self) -> Option<Arc<Held<T>>> {
        let current = self.shared.load();
        let current = current.as_ref()?;
        let mut own = self.own.lock();
        match &*own {
            Some(own) if Arc::ptr_eq(&own.0, current) => Some(Arc::clone(own)),
            Some(_) | None => Some(Arc::clone(own.insert(Arc::new(Held(Arc::clone(current)))))),
        }
    }
}

impl<T> From<Arc<ArcSwapOption<T>>> for CoreCopy<T> {
    fn from(shared: Arc<ArcSwapOption<T>>) -> Self {
        Self { shared, own: Mutex::new(None) }
    }
}

impl<T> Default for CoreCopy<T> {
    fn default() -> Self {
        Self::from(Arc::default())
    }
}

/// The shared value, to swap it.
impl<T> Deref for CoreCopy<T> {
    type Target = ArcSwapOption<T>;

    fn deref(&self) -> &Self::Target {
        &self.shared
    }
}

impl<T> Deref for Held<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_of_a_core_leave_the_shared_count_alone() {
        let (shared, value) = (Arc::new(ArcSwapOption::empty()), Arc::new(1));
        let cores: [CoreCopy<u32>; 2] = [(); 2].map(|()| Arc::clone(&shared).into());
        assert!(cores[0].current().is_none());
        shared.store(Some(Arc::clone(&value)));
        // Many more than `ArcSwap` would lend.
        let held: Vec<_> = (0..1_000).map(|request| cores[request % 2].current().expect("a value")).collect();
        assert!(held.iter().all(|held| ***held == 1));
        // Here, in `ArcSwap`, and once on each core.
        assert_eq!(Arc::strong_count(&value), 4);
        shared.store(Some(Arc::new(2)));
        assert!(cores.iter().all(|core| **core.current().expect("a value") == 2), "the value was swapped");
        assert!(held.iter().all(|held| ***held == 1), "requests keep what they began with");
        drop(held);
        assert_eq!(Arc::strong_count(&value), 1, "nothing holds it any more");
        shared.store(None);
        assert!(cores.iter().all(|core| core.current().is_none()));
    }
}
