//! The progress of what is mostly done at once: it shows itself only after a second.

use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::cli::progress::Progress;

/// Nobody needs to be told of what takes less.
const PATIENCE: Duration = Duration::from_secs(1);

/// Counts rows, whatever threads they are done by.
pub struct Slow {
    name: &'static str,
    /// None: it is known at the end.
    total: Option<usize>,
    done: AtomicUsize,
    started: Instant,
    shown: Mutex<Option<Progress>>,
}

impl fmt::Debug for Slow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Slow({}: {} of {:?})", self.name, self.done.load(Ordering::Relaxed), self.total)
    }
}

impl Slow {
    pub fn new(name: &'static str, total: Option<usize>) -> Self {
        Self { name, total, done: AtomicUsize::new(0), started: Instant::now(), shown: Mutex::new(None) }
    }

    /// One more is done.
    pub fn count(&self) {
        let done = self.done.fetch_add(1, Ordering::Relaxed) + 1;
        // Who finds another thread at it leaves it alone.
        if self.started.elapsed() >= PATIENCE
            && let Ok(mut shown) = self.shown.try_lock()
        {
            let begin = || match self.total {
                Some(total) => Progress::counter(self.name, total as u64),
                None => Progress::tally(self.name),
            };
            shown.get_or_insert_with(begin).set_done(done as u64);
        }
    }

    /// Ends it, with a line if it took long.
    pub fn finish(self) {
        if let Ok(Some(mut progress)) = self.shown.into_inner() {
            progress.set_done(self.done.into_inner() as u64);
            progress.finish();
        }
    }
}
