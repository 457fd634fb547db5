//! Streams and events.

use cudarc::driver::sys::{CUevent, CUresult, CUstream};

use crate::context::{Event, Kind, Stream, current};
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
        context.events.insert(handle, Event::New);
        // SAFETY: the caller's.
        unsafe { *made = handle as CUevent };
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuEventRecord(recorded: CUevent, stream: CUstream) -> CUresult {
    answer("cuEventRecord", || {
        let mut context = current()?;
        event(&context.events, recorded)?;
        let on = context.stream(stream as u64)?;
        let now = if on.capture.is_some() { Event::Captured } else { Event::After(stream as u64, on.queued) };
        context.events.insert(recorded as u64, now);
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuEventSynchronize(waited: CUevent) -> CUresult {
    answer("cuEventSynchronize", || {
        let mut context = current()?;
        context.require_no_strict_capture()?;
        match event(&context.events, waited)? {
            Event::New if context.is_idle() => Ok(()),
            Event::New => fault(SILENT, "the event was never recorded: this waits for nothing of what is queued"),
            Event::Captured => fault(CUresult::CUDA_ERROR_CAPTURED_EVENT, "it was recorded in a capture"),
            Event::After(stream, position) => context.run_until(stream, position),
        }
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
