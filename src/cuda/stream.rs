//! A stream of a GPU, and all that the driver is asked to do with it: memory, copies, waiting, graphs.
//!
//! Each call first makes the GPU's context the thread's own, so that two GPUs may take turns on a thread. Nothing runs on
//! the null stream. A stream has its own page-locked buffers and its own [`Workspace`] of cuBLASLt.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ffi::c_void;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::sys::{CUgraphInstantiate_flags, CUresult, CUstream, CUstreamCaptureMode, CUstreamCaptureStatus};
use cudarc::driver::{CudaContext, CudaGraph, CudaStream, DriverError, result};

use super::faults::{described, failed, failed_to_allocate};
use super::staging::Staging;
use crate::device::driver::Graph;
use crate::error::Result;
use crate::{bail, err};

/// The context of GPU `index`, which stays until the program ends: the CUDA runtime in the kernels keeps modules and
/// handles in it, which do not survive its end.
fn context(index: usize) -> Result<Arc<CudaContext>> {
    static OPEN: Mutex<BTreeMap<usize, Arc<CudaContext>>> = Mutex::new(BTreeMap::new());
    // Whoever panicked left a map that is whole.
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(context) = open.get(&index) {
        return Ok(context.clone());
    }
    let context = CudaContext::new(index).map_err(|e| failed(&format!("opening `cuda:{index}`"), e))?;
    // SAFETY: cudarc's own slices and their events are not used.
    unsafe { context.disable_event_tracking() };
    open.insert(index, context.clone());
    Ok(context)
}

/// A queue of work that runs in order.
pub(super) struct Stream {
    staging: RefCell<Staging>,
    stream: Arc<CudaStream>,
    capturing: Cell<bool>,
}

impl Stream {
    /// A new stream of GPU `index`.
    pub fn new(index: usize) -> Result<Self> {
        let stream = context(index)?.new_stream().map_err(|e| failed("making a stream", e))?;
        Ok(Self { staging: RefCell::default(), stream, capturing: Cell::new(false) })
    }

    /// Makes the GPU the one that this thread's calls are for.
    pub fn bind(&self) -> Result<()> {
        self.stream.context().bind_to_thread().map_err(|e| failed("binding the GPU to this thread", e))
    }

    /// For launchers and cuBLASLt. Whoever queues by it binds first.
    pub fn raw(&self) -> CUstream {
        self.stream.cu_stream()
    }

    /// Bytes of the GPU that are free, and all that it has.
    pub fn memory(&self) -> Result<(usize, usize)> {
        self.bind()?;
        result::mem_get_info().map_err(|e| failed("asking how much memory is free", e))
    }

    /// Memory of the GPU, aligned to 256 bytes.
    pub fn allocate(&self, bytes: usize) -> Result<*mut c_void> {
        self.bind()?;
        // SAFETY: a plain allocation, of at least one byte.
        let address = unsafe { result::malloc_sync(bytes.max(1)) };
        let address = address.map_err(|e| failed_to_allocate("allocating memory on the GPU", Some(bytes), e))?;
        Ok(address as *mut c_void)
    }

    /// # Safety
    /// Allocated here and given back once; what is queued from now on does not use it, nor does a graph that will run.
    pub unsafe fn free(&self, address: *mut c_void) {
        // It waits by itself for what is queued. A failure means that the context is broken, which the next call says.
        let _ = self.bind();
        // SAFETY: the caller's promise.
        let _ = unsafe { result::free_sync(address as u64) };
    }

    /// Queues a copy of `from`, which may change when this returns.
    ///
    /// # Safety
    /// `to` is memory of this GPU, as long as `from`, until the stream has passed the copy.
    pub unsafe fn upload(&self, to: *mut c_void, from: &[u8]) -> Result<()> {
        self.must_not_capture("a copy to the GPU")?;
        self.bind()?;
        // SAFETY: the caller's promise.
        let copied = unsafe { self.staging.borrow_mut().copy(to as u64, from, self.raw()) };
        copied.map_err(|e| failed("copying to the GPU", e))
    }

    /// Copies to the host, after all that is queued.
    ///
    /// # Safety
    /// `from` is memory of this GPU, as long as `to`.
    pub unsafe fn download(&self, to: &mut [u8], from: *const c_void) -> Result<()> {
        self.must_not_capture("a copy from the GPU")?;
        if to.is_empty() {
            return Ok(());
        }
        self.bind()?;
        // SAFETY: the caller's promise, and `to` outlives the copy: this waits for it, and a failure to wait means that
        // nothing runs any more.
        let queued = unsafe { result::memcpy_dtoh_async(to, from as u64, self.raw()) };
        queued.and_then(|()| self.stream.synchronize()).map_err(|e| failed("copying from the GPU", e))
    }

    /// Queues zeros.
    ///
    /// # Safety
    /// `at` is memory of this GPU, `bytes` long, until the stream has passed it.
    pub unsafe fn zero(&self, at: *mut c_void, bytes: usize) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        self.bind()?;
        // SAFETY: the caller's promise.
        let queued = unsafe { result::memset_d8_async(at as u64, 0, bytes, self.raw()) };
        queued.map_err(|e| failed("filling GPU memory with zeros", e))
    }

    /// Waits for all that is queued; `doing` says what that was.
    pub fn synchronize(&self, doing: &str) -> Result<()> {
        self.must_not_capture("waiting")?;
        self.stream.synchronize().map_err(|e| failed(doing, e))
    }

    /// Keeps what is queued from now on in a graph.
    pub fn begin_capture(&self) -> Result<()> {
        self.must_not_capture("a second capture")?;
        // Relaxed: a tensor of a size that the pool does not have yet may be allocated meanwhile, a module loaded.
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        self.stream.begin_capture(mode).map_err(|e| failed("beginning to capture a graph", e))?;
        self.capturing.set(true);
        Ok(())
    }

    pub fn is_capturing(&self) -> bool {
        self.capturing.get()
    }

    /// An error when what was queued since [`Stream::begin_capture`] cannot become a graph any more.
    pub fn check_capture(&self, last: &str) -> Result<()> {
        match self.stream.capture_status().map_err(|e| failed(last, e))? {
            CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_INVALIDATED => {
                let code = CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
                Err(described(last, code, "it cannot be captured into a graph"))
            }
            _ => Ok(()),
        }
    }

    /// The graph of what was queued since [`Stream::begin_capture`]. The capture has ended in any case, and the stream
    /// can be used as before.
    pub fn end_capture(self: &Rc<Self>) -> Result<Replay> {
        self.capturing.set(false);
        // An error that an earlier call left behind must not keep the capture from ending.
        let bound = self.bind();
        // No flags. AUTO_FREE_ON_LAUNCH is for graphs that allocate with nodes of their own, and none of ours does:
        // tensors are allocated outside, cuBLASLt has our workspace. Were there such a node, a second launch had better
        // fail than give back memory that somebody reads.
        let graph = self.stream.end_capture(CUgraphInstantiate_flags(0));
        bound?;
        let told = |e: DriverError| failed_to_allocate("making a graph of what was captured", None, e);
        let graph = graph.map_err(told)?.ok_or_else(|| err!("internal: nothing was captured"))?;
        graph.upload().map_err(told)?;
        Ok(Replay { graph, stream: self.clone() })
    }

    fn must_not_capture(&self, what: &str) -> Result<()> {
        if self.capturing.get() {
            bail!("internal: {what} while a graph is captured");
        }
        Ok(())
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // For the buffers, which go after this. Drop cannot report errors.
        let _ = self.bind();
    }
}

/// A graph, which runs on the stream that it was captured on and no other: what it shares with what is queued there (the
/// workspace of cuBLASLt, say) is used in order.
pub(super) struct Replay {
    graph: CudaGraph,
    stream: Rc<Stream>,
}

impl Graph for Replay {
    fn launch(&self) -> Result<()> {
        self.graph.launch().map_err(|e| failed("launching a graph", e))
    }
}

impl Drop for Replay {
    fn drop(&mut self) {
        // For the graph, which goes after this. Drop cannot report errors.
        let _ = self.stream.bind();
    }
}

/// Scratch of cuBLASLt's algorithms. It belongs to one stream, which is the only one that it is handed out with: products
/// on two streams would write over each other's. Work on a second stream, or on a branch of a captured graph, needs a
/// second workspace.
pub(super) struct Workspace {
    address: *mut c_void,
    bytes: usize,
    stream: Rc<Stream>,
}

impl Workspace {
    pub fn new(stream: Rc<Stream>, bytes: usize) -> Result<Self> {
        Ok(Self { address: stream.allocate(bytes)?, bytes, stream })
    }

    pub fn address(&self) -> *mut c_void {
        self.address
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Where what uses the scratch is queued.
    pub fn stream(&self) -> &Rc<Stream> {
        &self.stream
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        // SAFETY: made by `new`; freeing waits for the GPU.
        unsafe { self.stream.free(self.address) };
    }
}
