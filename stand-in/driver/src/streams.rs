//! Streams and events.

use cudarc::driver::sys::{CUevent, CUevent_flags, CUresult, CUstream};

use crate::context::{Event, Kind, Place, Stream, current};
use crate::fault::{Fault, Outcome, SILENT, answer, fault};

#[unsafe(no_mangle)]
unsafe extern "C" fn cuStreamCreate(made: *mut CUstream, flags: u32) -> CUresult {
    answer("cuStreamCreate", || {
        let mut context = current()?;
        if flags > 1 {
            return fault(CUresult::CUDA_ERROR_INVALID_VALUE, format!("flags {flags}"));
        }
        let handle = context.new_handle(Kind::Stream);
        context.streams.insert(handle, Stream::default());
        // SAFETY: the caller's.
        unsafe { *made = handle as CUstream };
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamSynchronize(stream: CUstream) -> CUresult {
    answer("cuStreamSynchronize", || {
        let mut context = current()?;
        context.require_not_captured(stream as u64)?;
        let queued = context.stream(stream as u64)?.queued;
        context.run_until(stream as u64, queued)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamDestroy_v2(stream: CUstream) -> CUresult {
    answer("cuStreamDestroy_v2", || {
        let mut context = current()?;
        context.require_not_captured(stream as u64)?;
        // The real one does not wait, and gives the stream's own things back when the work is done. Nobody sees when.
        let queued = context.stream(stream as u64)?.queued;
        context.run_until(stream as u64, queued)?;
        context.streams.remove(&(stream as u64));
        Ok(())
    })
}

fn event(events: &std::collections::BTreeMap<u64, Event>, event: CUevent) -> Outcome<Event> {
    let why = || format!("{event:?} is no event of the GPU whose context is current, or was destroyed");
    let found = events.get(&(event as u64)).copied();
    found.ok_or_else(|| Fault { code: CUresult::CUDA_ERROR_INVALID_HANDLE, why: why() })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuEventCreate(made: *mut CUevent, flags: u32) -> CUresult {
    answer("cuEventCreate", || {
        let mut context = current()?;
        if flags > 7 {
            return fault(CUresult::CUDA_ERROR_INVALID_VALUE, format!("flags {flags}"));
        }
        let handle = context.new_handle(Kind::Event);
        let timed = flags & CUevent_flags::CU_EVENT_DISABLE_TIMING as u32 == 0;
        context.events.insert(handle, Event { place: Place::New, timed });
        // SAFETY: the caller's.
        unsafe { *made = handle as CUevent };
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuEventRecord(recorded: CUevent, stream: CUstream) -> CUresult {
    answer("cuEventRecord", || {
        let mut context = current()?;
        let Event { timed, .. } = event(&context.events, recorded)?;
        let now = context.clock;
        let on = context.stream(stream as u64)?;
        let place = if on.capture.is_some() { Place::Captured } else { Place::After(stream as u64, on.queued) };
        if timed && on.capture.is_none() {
            let time = (on.passed == on.queued).then_some(now);
            on.times.insert(on.queued, time);
        }
        context.events.insert(recorded as u64, Event { place, timed });
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuEventSynchronize(waited: CUevent) -> CUresult {
    answer("cuEventSynchronize", || {
        let mut context = current()?;
        context.require_no_strict_capture()?;
        match event(&context.events, waited)?.place {
            Place::New if context.is_idle() => Ok(()),
            Place::New => fault(SILENT, "the event was never recorded: this waits for nothing of what is queued"),
            Place::Captured => fault(CUresult::CUDA_ERROR_CAPTURED_EVENT, "it was recorded in a capture"),
            Place::After(stream, position) => context.run_until(stream, position),
        }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuEventElapsedTime_v2(milliseconds: *mut f32, begin: CUevent, end: CUevent) -> CUresult {
    answer("cuEventElapsedTime_v2", || {
        let mut context = current()?;
        let places = [event(&context.events, begin)?, event(&context.events, end)?];
        if places.iter().any(|event| !event.timed) {
            return fault(CUresult::CUDA_ERROR_INVALID_HANDLE, "an event that notes no time");
        }
        let [(on, begin), (also, end)] = match places.map(|event| event.place) {
            [Place::After(on, begin), Place::After(also, end)] => [(on, begin), (also, end)],
            [Place::Captured, _] | [_, Place::Captured] => {
                return fault(CUresult::CUDA_ERROR_CAPTURED_EVENT, "it was recorded in a capture");
            }
            _ => return fault(CUresult::CUDA_ERROR_INVALID_HANDLE, "an event that was never recorded"),
        };
        if on != also {
            return fault(SILENT, "events of two streams: the time between them says nothing");
        }
        let stream = context.stream(on)?;
        let times = [begin, end].map(|place| stream.times.get(&place).copied().flatten());
        let [Some(begin), Some(end)] = times else {
            return fault(CUresult::CUDA_ERROR_NOT_READY, "the stream has not come to an event yet");
        };
        let Some(nanoseconds) = end.checked_sub(begin) else {
            return fault(SILENT, "the end lies before the beginning");
        };
        // SAFETY: the caller's.
        unsafe { *milliseconds = nanoseconds as f32 / 1e6 };
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuEventDestroy_v2(gone: CUevent) -> CUresult {
    answer("cuEventDestroy_v2", || {
        let mut context = current()?;
        event(&context.events, gone)?;
        context.events.remove(&(gone as u64));
        Ok(())
    })
}
