//! The stand-in of the driver is strict: each mistake is an error with the driver's name for it, and the one that a driver
//! would not notice is one, too.

use std::ffi::c_void;
use std::mem::ManuallyDrop;

use cudarc::driver::sys::{
    CUcontext, CUevent, CUevent_flags, CUgraphInstantiate_flags, CUresult,
    CUresult::*,
    CUstream,
    CUstreamCaptureMode::{self, *},
};
use cudarc::driver::{DriverError, result};

use crate::launches;
use crate::machine::{Gpu, faults};

/// What the stand-in says where a driver is silent.
const SILENT: CUresult = CUDA_ERROR_ASSERT;

/// A GPU whose context is current. What a test leaves on it is nobody's concern.
struct Raw {
    gpu: ManuallyDrop<Gpu>,
    context: CUcontext,
    stream: CUstream,
}

impl Raw {
    fn new() -> Self {
        let gpu = ManuallyDrop::new(Gpu::new());
        result::init().unwrap();
        let device = result::device::get(gpu.index as i32).unwrap();
        // SAFETY: a GPU of the stand-in's.
        let context = unsafe { result::primary_ctx::retain(device) }.unwrap();
        let mut raw = Self { gpu, context, stream: std::ptr::null_mut() };
        raw.bind();
        raw.stream = stream();
        raw
    }

    fn bind(&self) {
        // SAFETY: retained above.
        unsafe { result::ctx::set_current(self.context) }.unwrap();
    }

    fn synchronize(&self) -> Result<(), DriverError> {
        // SAFETY: the stand-in looks at it.
        unsafe { result::stream::synchronize(self.stream) }
    }

    fn capture(&self, mode: CUstreamCaptureMode) {
        // SAFETY: as above.
        unsafe { result::stream::begin_capture(self.stream, mode) }.unwrap();
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert_eq!(faults(), [""; 0]);
        }
    }
}

fn stream() -> CUstream {
    result::stream::create(result::stream::StreamKind::NonBlocking).unwrap()
}

fn event() -> CUevent {
    result::event::create(CUevent_flags::CU_EVENT_DISABLE_TIMING).unwrap()
}

fn allocate(bytes: usize) -> u64 {
    // SAFETY: an allocation.
    unsafe { result::malloc_sync(bytes) }.unwrap()
}

fn free(address: u64) -> Result<(), DriverError> {
    // SAFETY: the stand-in looks at it.
    unsafe { result::free_sync(address) }
}

fn pinned(bytes: usize) -> &'static mut [u8] {
    // SAFETY: an allocation, which is there for as long as the test wants.
    unsafe { std::slice::from_raw_parts_mut(result::malloc_host(bytes, 0).unwrap().cast(), bytes) }
}

fn zero(at: u64, bytes: usize, stream: CUstream) -> Result<(), DriverError> {
    // SAFETY: the stand-in looks at it.
    unsafe { result::memset_d8_async(at, 0, bytes, stream) }
}

fn upload(to: u64, from: &[u8], stream: CUstream) -> Result<(), DriverError> {
    // SAFETY: as above.
    unsafe { result::memcpy_htod_async(to, from, stream) }
}

/// `sum += term` of n floats by the emulator's kernel.
fn add(sum: u64, term: u64, n: u64, stream: CUstream) -> engine::device::bindings::engine_status {
    let dtype = engine::device::bindings::engine_dtype::ENGINE_F32;
    // SAFETY: the stand-in and the emulator look at it.
    unsafe {
        launches::kernels().table.add.unwrap()(sum as *mut c_void, term as *const c_void, n, dtype, stream.cast())
    }
}

/// It fails with this code, and `why` is kept for the test; nothing else was.
#[track_caller]
fn fails<T>(outcome: Result<T, DriverError>, code: CUresult, why: &str) {
    assert_eq!(outcome.err().map(|error| error.0), Some(code));
    is_kept(code, why);
}

#[track_caller]
fn is_kept(code: CUresult, why: &str) {
    let faults = faults();
    let code = format!("{code:?}");
    assert!(faults.len() == 1 && faults[0].contains(&code) && faults[0].contains(why), "{code}, {why}: {faults:?}");
}

#[test]
fn a_call_without_a_context_is_refused() {
    let raw = Raw::new();
    crate::memory::unbind();
    fails(result::mem_get_info(), CUDA_ERROR_INVALID_CONTEXT, "no context is current");
    fails(raw.synchronize(), CUDA_ERROR_INVALID_CONTEXT, "no context is current");
    // SAFETY: the stand-in looks at it.
    fails(unsafe { result::ctx::set_current(8 as CUcontext) }, CUDA_ERROR_INVALID_CONTEXT, "is no context");
}

#[test]
fn memory_that_is_not_there_is_refused() {
    // Before anything is freed: it does not lie where that was.
    let other = Raw::new();
    let theirs = allocate(64);
    let raw = Raw::new();
    let memory = allocate(64);
    fails(zero(memory, 65, raw.stream), CUDA_ERROR_INVALID_VALUE, "end 1 beyond their allocation");
    fails(zero(memory + 64, 1, raw.stream), CUDA_ERROR_INVALID_VALUE, "is not memory of GPU");
    fails(zero(pinned(8).as_ptr() as u64, 8, raw.stream), CUDA_ERROR_INVALID_VALUE, "is not memory of GPU");
    free(memory).unwrap();
    fails(zero(memory, 1, raw.stream), CUDA_ERROR_INVALID_VALUE, "that was freed");
    fails(free(memory), CUDA_ERROR_INVALID_VALUE, "it was freed before");
    fails(free(memory + 8), CUDA_ERROR_INVALID_VALUE, "it is no allocation");
    // SAFETY: the stand-in looks at it.
    fails(unsafe { result::malloc_sync(0) }, CUDA_ERROR_INVALID_VALUE, "no bytes");
    fails(zero(theirs, 1, raw.stream), CUDA_ERROR_INVALID_VALUE, "is not memory of GPU");
    fails(free(theirs), CUDA_ERROR_INVALID_VALUE, "it is no allocation");
    drop(other);
}

#[test]
fn work_runs_when_somebody_waits_and_not_before() {
    let raw = Raw::new();
    let (memory, from) = (allocate(4), pinned(4));
    from.copy_from_slice(&[1, 2, 3, 4]);
    upload(memory, from, raw.stream).unwrap();
    let mut to = [0u8; 4];
    // SAFETY: `to` is there until the wait.
    unsafe { result::memcpy_dtoh_async(&mut to, memory, raw.stream) }.unwrap();
    // SAFETY: as the other thread of a GPU might write it.
    let seen = unsafe { std::ptr::read_volatile(&raw const to) };
    assert_eq!(seen, [0; 4]);
    raw.synchronize().unwrap();
    // SAFETY: as above.
    assert_eq!(unsafe { std::ptr::read_volatile(&raw const to) }, [1, 2, 3, 4]);
}

#[test]
fn a_copy_from_memory_that_is_not_page_locked_is_refused() {
    let raw = Raw::new();
    fails(upload(allocate(8), &[0; 8], raw.stream), SILENT, "are not page-locked");
    let page_locked = pinned(8);
    // SAFETY: the stand-in looks at it.
    let beyond = unsafe { std::slice::from_raw_parts(page_locked.as_ptr(), 9) };
    fails(upload(allocate(16), beyond, raw.stream), SILENT, "are not page-locked");
}

#[test]
fn a_buffer_that_changes_before_its_copy_is_found_and_breaks_the_context() {
    let raw = Raw::new();
    let (memory, from) = (allocate(8), pinned(8));
    upload(memory, from, raw.stream).unwrap();
    from[3] = 0;
    fails(raw.synchronize(), SILENT, "its source was changed before the copy was made");
    fails(raw.synchronize(), SILENT, "the context is broken");
}

#[test]
fn a_buffer_that_is_freed_before_its_copy_is_found() {
    let raw = Raw::new();
    let (memory, from) = (allocate(8), pinned(8));
    upload(memory, from, raw.stream).unwrap();
    let address: *mut c_void = from.as_mut_ptr().cast();
    // SAFETY: the stand-in looks at it.
    fails(unsafe { result::free_host(address) }, SILENT, "is freed before a copy of 8 bytes");
    // SAFETY: as above.
    fails(unsafe { result::free_host(address) }, CUDA_ERROR_INVALID_VALUE, "is not page-locked memory");
}

#[test]
fn a_stream_that_is_not_there_is_refused() {
    let raw = Raw::new();
    let memory = allocate(8);
    fails(zero(memory, 8, std::ptr::null_mut()), SILENT, "the null stream");
    let gone = stream();
    // SAFETY: the stand-in looks at it.
    unsafe { result::stream::destroy(gone) }.unwrap();
    fails(zero(memory, 8, gone), CUDA_ERROR_INVALID_HANDLE, "is no stream of GPU");
    let other = Raw::new();
    raw.bind();
    fails(zero(memory, 8, other.stream), CUDA_ERROR_INVALID_HANDLE, "is no stream of GPU");
    assert_eq!(add(memory, memory, 1, other.stream), engine::device::bindings::engine_status::ENGINE_LAUNCH_FAILED);
    is_kept(CUDA_ERROR_INVALID_HANDLE, "is no stream of GPU");
}

#[test]
fn two_streams_that_touch_the_same_memory_are_found() {
    let raw = Raw::new();
    let (memory, other) = (allocate(64), stream());
    zero(memory, 32, raw.stream).unwrap();
    zero(memory + 32, 32, other).unwrap();
    fails(zero(memory + 31, 2, other), SILENT, "nothing orders them");
    raw.synchronize().unwrap();
    zero(memory + 31, 2, other).unwrap();
}

#[test]
fn an_event_waits_for_what_was_queued_before_it_on_its_stream() {
    let raw = Raw::new();
    let (memory, from, event) = (allocate(16), pinned(16), event());
    upload(memory, &from[..8], raw.stream).unwrap();
    // SAFETY: both are there.
    unsafe { result::event::record(event, raw.stream) }.unwrap();
    upload(memory + 8, &from[8..], raw.stream).unwrap();
    // SAFETY: it is there.
    unsafe { result::event::synchronize(event) }.unwrap();
    from[0] = 1; // the first copy was made
    from[8] = 1; // the second was not
    fails(raw.synchronize(), SILENT, "its source was changed");
}

#[test]
fn an_event_that_cannot_be_waited_for_is_refused() {
    let raw = Raw::new();
    let (memory, never, captured, gone) = (allocate(8), event(), event(), event());
    zero(memory, 8, raw.stream).unwrap();
    // SAFETY: the stand-in looks at it.
    let wait = |event| unsafe { result::event::synchronize(event) };
    fails(wait(never), SILENT, "was never recorded");
    raw.synchronize().unwrap();
    wait(never).unwrap();
    raw.capture(CU_STREAM_CAPTURE_MODE_RELAXED);
    // SAFETY: both are there.
    unsafe { result::event::record(captured, raw.stream) }.unwrap();
    fails(wait(captured), CUDA_ERROR_CAPTURED_EVENT, "in a capture");
    // SAFETY: it is there.
    unsafe { result::event::destroy(gone) }.unwrap();
    fails(wait(gone), CUDA_ERROR_INVALID_HANDLE, "is no event");
    let other = Raw::new();
    fails(wait(never), CUDA_ERROR_INVALID_HANDLE, "is no event");
    drop(other);
}

#[test]
fn what_a_capture_forbids_breaks_it() {
    let raw = Raw::new();
    let memory = allocate(8);
    raw.capture(CU_STREAM_CAPTURE_MODE_RELAXED);
    // SAFETY: the stand-in looks at it.
    let begin = || unsafe { result::stream::begin_capture(raw.stream, CU_STREAM_CAPTURE_MODE_RELAXED) };
    // SAFETY: as above.
    let end = || unsafe { result::stream::end_capture(raw.stream) };
    fails(begin(), CUDA_ERROR_ILLEGAL_STATE, "already");
    free(allocate(8)).unwrap(); // a relaxed capture allows it
    fails(raw.synchronize(), CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "is being captured");
    fails(zero(memory, 8, raw.stream), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, "was broken before");
    fails(end(), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, "was broken before");
    fails(end(), CUDA_ERROR_ILLEGAL_STATE, "not being captured");
    for mode in [CU_STREAM_CAPTURE_MODE_GLOBAL, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL] {
        raw.capture(mode);
        fails(free(memory), CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "not relaxed");
        fails(end(), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, "was broken before");
    }
    zero(memory, 8, raw.stream).unwrap();
}

#[test]
fn a_graph_that_is_not_whole_any_more_is_refused() {
    let raw = Raw::new();
    let (kept, freed) = (allocate(8), allocate(8));
    raw.capture(CU_STREAM_CAPTURE_MODE_RELAXED);
    zero(kept, 8, raw.stream).unwrap();
    zero(freed, 8, raw.stream).unwrap();
    // SAFETY: the stand-in looks at all of them.
    unsafe {
        let graph = result::stream::end_capture(raw.stream).unwrap();
        let unknown = result::graph::instantiate(graph, CUgraphInstantiate_flags(64));
        fails(unknown, CUDA_ERROR_INVALID_VALUE, "flags 64");
        let [whole, gone] = [(); 2].map(|()| result::graph::instantiate(graph, CUgraphInstantiate_flags(0)).unwrap());
        result::graph::launch(whole, raw.stream).unwrap();
        result::graph::exec_destroy(gone).unwrap();
        fails(result::graph::launch(gone, raw.stream), CUDA_ERROR_INVALID_HANDLE, "no executable graph");
        free(freed).unwrap();
        // The same address is another allocation.
        let again = allocate(8);
        fails(result::graph::launch(whole, raw.stream), CUDA_ERROR_ILLEGAL_ADDRESS, "which was freed");
        let _ = again;
    }
}

#[test]
fn a_kernel_on_memory_that_was_freed_is_refused_and_one_that_goes_beyond_it_fails() {
    let raw = Raw::new();
    let (sum, term) = (allocate(64), allocate(64));
    zero(sum, 64, raw.stream).unwrap();
    free(term).unwrap();
    assert_eq!(add(sum, term, 16, raw.stream), engine::device::bindings::engine_status::ENGINE_LAUNCH_FAILED);
    is_kept(CUDA_ERROR_ILLEGAL_ADDRESS, "lies in memory that was freed");
    let term = allocate(64);
    assert_eq!(add(sum, term, 17, raw.stream), engine::device::bindings::engine_status::ENGINE_OK);
    assert_eq!(raw.synchronize().unwrap_err().0, CUDA_ERROR_ILLEGAL_ADDRESS);
    let faults = faults();
    assert!(faults[0].contains("offset 64 of 64 bytes") && faults[1].contains("add failed as it ran"), "{faults:?}");
}

#[test]
fn the_context_in_which_kernels_ran_is_not_given_up() {
    let raw = Raw::new();
    let device = raw.gpu.index as i32;
    let (sum, term) = (allocate(64), allocate(64));
    let _ = add(sum, term, 16, raw.stream);
    raw.synchronize().unwrap();
    // SAFETY: the stand-in looks at it.
    fails(unsafe { result::primary_ctx::release(device) }, SILENT, "the runtime still has modules");
}

#[test]
fn what_is_not_given_back_is_told() {
    let raw = Raw::new();
    let (_memory, _buffer, _event) = (allocate(8), pinned(8), event());
    let left = raw.gpu.leftovers().join("; ");
    for what in ["1 allocations of 8 bytes", "1 page-locked buffers of 8 bytes", "1 streams", "1 events"] {
        assert!(left.contains(what), "{left}");
    }
}

#[test]
fn the_time_between_events_is_that_of_the_work_between_them() {
    let raw = Raw::new();
    let memory = allocate(2_000_000);
    let timed = || result::event::create(CUevent_flags::CU_EVENT_DEFAULT).unwrap();
    let (begin, between, end, never) = (timed(), timed(), timed(), timed());
    // SAFETY: the stand-in looks at them.
    let record = |event, stream| unsafe { result::event::record(event, stream) }.unwrap();
    // SAFETY: as above.
    let elapsed = |begin, end| unsafe { result::event::elapsed(begin, end) };
    record(begin, raw.stream);
    zero(memory, 1_000_000, raw.stream).unwrap();
    record(between, raw.stream);
    zero(memory, 2_000_000, raw.stream).unwrap();
    record(end, raw.stream);
    fails(elapsed(begin, end), CUDA_ERROR_NOT_READY, "has not come to an event yet");
    raw.synchronize().unwrap();
    assert_eq!(elapsed(begin, between).unwrap(), 0.002);
    assert_eq!(elapsed(between, end).unwrap(), 0.003);
    assert_eq!(elapsed(end, end).unwrap(), 0.0);
    fails(elapsed(end, begin), SILENT, "before the beginning");
    fails(elapsed(begin, never), CUDA_ERROR_INVALID_HANDLE, "never recorded");
    let silent = event();
    record(silent, raw.stream);
    fails(elapsed(begin, silent), CUDA_ERROR_INVALID_HANDLE, "notes no time");
    let other = stream();
    record(never, other);
    fails(elapsed(begin, never), SILENT, "of two streams");
    raw.capture(CU_STREAM_CAPTURE_MODE_RELAXED);
    record(never, raw.stream);
    fails(elapsed(begin, never), CUDA_ERROR_CAPTURED_EVENT, "in a capture");
}
