//! Values that each core writes by itself and that are summed when they are read. A cache line that several cores
//! write moves between them each time, which costs more than the decision that it counts.

use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{LazyLock, OnceLock};
use std::thread::available_parallelism;

/// Parts of each value: one for each processor, and one for the main thread. Further threads share.
static PARTS: LazyLock<usize> = LazyLock::new(|| available_parallelism().map_or(1, usize::from) + 1);

thread_local! {
    static PART: usize = {
        static THREADS: AtomicUsize = AtomicUsize::new(0);
        THREADS.fetch_add(1, Ordering::Relaxed) % *PARTS
    };
}

/// A value for each core, made when a thread of it first writes: a rule without requests takes three machine words.
pub struct PerCore<T> {
    parts: OnceLock<Box<[Part<T>]>>,
}

/// The value of one core, once it has written.
type Part<T> = OnceLock<Box<Line<T>>>;

/// A value that begins a cache line. Its allocation belongs to the thread that writes it, and so do the lines beside
/// it.
#[derive(Default)]
#[repr(align(64))]
struct Line<T>(T);

impl<T> PerCore<T> {
    /// No values yet.
    pub const fn new() -> Self {
        Self { parts: OnceLock::new() }
    }

    /// Values of the cores that have one.
    pub fn all(&self) -> impl Iterator<Item = &T> {
        let parts = self.parts.get().into_iter().flatten();
        parts.filter_map(OnceLock::get).map(|line| &line.0)
    }
}

impl<T: Default> PerCore<T> {
    /// The value of this core.
    pub fn own(&self) -> &T {
        let parts = self.parts.get_or_init(|| (0..*PARTS).map(|_| OnceLock::new()).collect());
        &parts[PART.with(|part| *part)].get_or_init(Box::default).0
    }
}

impl<T> Default for PerCore<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: fmt::Debug> fmt::Debug for PerCore<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.all()).finish()
    }
}

/// A count of which every core has a part.
#[derive(Debug, Default)]
pub struct CoreCount(PerCore<AtomicU64>);

impl CoreCount {
    /// Zero.
    pub const fn new() -> Self {
        Self(PerCore::new())
    }

    /// Adds `number` to the part of this core.
    pub fn add(&self, number: u64) {
        self.0.own().fetch_add(number, Ordering::Relaxed);
    }

    /// Sum over all cores.
    pub fn get(&self) -> u64 {
        self.0.all().map(|part| part.load(Ordering::Relaxed)).sum()
    }

    /// Sum over all cores, which is taken off the count. Nothing that is added meanwhile is lost.
    pub fn take(&self) -> u64 {
        self.0.all().map(|part| part.swap(0, Ordering::Relaxed)).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::thread;

    use super::*;

    #[test]
    fn no_two_cores_write_to_one_cache_line() {
        // As large as the counts of a rule, and as small as a single count.
        let (large, small): (PerCore<[AtomicU64; 8]>, PerCore<AtomicU64>) = Default::default();
        let lines = |address: usize, bytes: usize| address / 64..(address + bytes).div_ceil(64);
        let mut written: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
        for _ in 0..4 * *PARTS {
            let (part, own) = thread::scope(|scope| {
                let write = || {
                    let own = (std::ptr::from_ref(large.own()), std::ptr::from_ref(small.own()));
                    let (large, small) = (own.0.addr(), own.1.addr());
                    (
                        PART.with(|part| *part),
                        lines(large, 64).chain(lines(small, 8)).collect::<BTreeSet<_>>(),
                    )
                };
                scope.spawn(write).join().expect("it writes")
            });
            assert_eq!(own.len(), 2, "each begins a line");
            written.entry(part).or_default().extend(own);
        }
        assert!(written.len() > 1, "all threads count as one core");
        for (part, lines) in &written {
            assert_eq!(lines.len(), 2, "a core always writes to the same lines");
            let others = written.iter().filter(|(other, _)| *other != part);
            assert!(others.into_iter().all(|(_, others)| others.is_disjoint(lines)), "{written:?}");
        }
    }

    #[test]
    fn counts_of_all_threads_are_summed_and_taken_once() {
        const EACH: u64 = 1_000;
        let (count, threads) = (CoreCount::new(), 2 * *PARTS as u64);
        assert_eq!((count.get(), count.take()), (0, 0));
        let taken: u64 = thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| (0..EACH).for_each(|_| count.add(1)));
            }
            (0..100).map(|_| count.take()).sum()
        });
        assert_eq!(taken + count.get(), threads * EACH);
        assert_eq!(taken + count.take(), threads * EACH);
        assert_eq!(count.get(), 0);
    }
}
