//! Which of several pieces of work is the fastest on the GPU, by events.

use cudarc::driver::sys::{CUevent, CUevent_flags};
use cudarc::driver::{DriverError, result};

use super::faults::failed;
use super::stream::{Stream, Workspace};
use crate::error::Result;

/// Runs of each candidate that are counted.
const ROUNDS: usize = 5;
/// No more rounds after so many milliseconds: large products need no mean.
const ENOUGH_MS: f32 = 50.0;
/// What counts as faster. Below that the library's own order stands, so that noise seldom decides.
const GAIN: f32 = 0.97;

/// The one of `candidates` whose `run`, which queues it on the workspace's stream, takes the least time; None when none runs.
///
/// Before each run the workspace is filled: the GPU is busy while the run is queued, so that no launch is measured, and its
/// cache does not hold what the run before has left there. A candidate that cannot be queued is out.
///
/// # Errors
/// The GPU fails.
pub(super) fn fastest(
    workspace: &Workspace,
    candidates: usize,
    mut run: impl FnMut(usize) -> bool,
) -> Result<Option<usize>> {
    let stream = workspace.stream();
    let told = |error| failed("timing products", error);
    let spans = (0..candidates).map(|_| Span::new()).collect::<Result<Vec<_>, _>>().map_err(told)?;
    let mut times: Vec<Option<Vec<f32>>> = vec![Some(Vec::new()); candidates];
    let mut spent = 0.0;
    // The first round loads the candidates' code and does not count.
    for round in 0..=ROUNDS {
        for (i, (span, times)) in spans.iter().zip(&mut times).enumerate().filter(|(_, (_, times))| times.is_some()) {
            // SAFETY: the workspace's own memory.
            unsafe { stream.zero(workspace.address(), workspace.bytes())? };
            span.begin.record(stream).map_err(told)?;
            let runs = run(i);
            span.end.record(stream).map_err(told)?;
            if !runs {
                *times = None;
            }
        }
        stream.synchronize("timing products")?;
        for (span, times) in spans.iter().zip(&mut times) {
            let Some(times) = times else { continue };
            let milliseconds = span.milliseconds().map_err(told)?;
            spent += milliseconds;
            if round > 0 {
                times.push(milliseconds);
            }
        }
        if round > 0 && spent > ENOUGH_MS {
            break;
        }
    }
    Ok(least(times.into_iter().map(|times| times.map(median))))
}

fn median(mut times: Vec<f32>) -> f32 {
    times.sort_by(f32::total_cmp);
    times[times.len() / 2]
}

/// The place of the least; of those that differ little, the first.
fn least(times: impl Iterator<Item = Option<f32>>) -> Option<usize> {
    let mut best: Option<(usize, f32)> = None;
    for (i, time) in times.enumerate() {
        let Some(time) = time else { continue };
        if best.is_none_or(|(_, least)| time < GAIN * least) {
            best = Some((i, time));
        }
    }
    best.map(|(i, _)| i)
}

/// The time between two places of a stream.
struct Span {
    begin: Event,
    end: Event,
}

impl Span {
    fn new() -> Result<Self, DriverError> {
        Ok(Self { begin: Event::new()?, end: Event::new()? })
    }

    /// Once the stream has passed both.
    fn milliseconds(&self) -> Result<f32, DriverError> {
        // SAFETY: both live, and were recorded on one stream.
        unsafe { result::event::elapsed(self.begin.0, self.end.0) }
    }
}

/// An event that notes when it was passed.
struct Event(CUevent);

impl Event {
    /// The context is current, and is current again when this is dropped.
    fn new() -> Result<Self, DriverError> {
        result::event::create(CUevent_flags::CU_EVENT_DEFAULT).map(Self)
    }

    fn record(&self, stream: &Stream) -> Result<(), DriverError> {
        // SAFETY: the event lives, and the stream is of the context that is current.
        unsafe { result::event::record(self.0, stream.raw()) }
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: made by `new`, destroyed once. Drop cannot report errors.
        let _ = unsafe { result::event::destroy(self.0) };
    }
}
