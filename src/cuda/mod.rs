//! The cuda device: one stream of the first GPU, memory of the driver, products by cuBLASLt.
//!
//! Libraries are loaded when the device is opened ([`device`]): a machine without a driver or without cuBLASLt gets an
//! error that says so. Nothing here has events or locks: one stream, in order, is all the ordering there is.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::ffi::c_void;
use std::sync::Arc;

use cudarc::driver::sys::{self, CUevent_flags, CUgraphInstantiate_flags, CUstreamCaptureMode};
use cudarc::driver::{CudaContext, CudaGraph, CudaStream, DriverError, result};

pub mod products;

use crate::device::Device;
use crate::device::bindings::engine_stream;
use crate::device::driver::{Driver, Graph, Product};
use crate::device::kernels::Kernels;
use crate::error::{Error, Result};
use crate::{bail, err};
use products::Products;

/// A GPU.
pub struct Cuda {
    kernels: Kernels,
    products: Products,
    staging: RefCell<Staging>,
    capturing: Cell<bool>,
    stream: Arc<CudaStream>,
    name: String,
}

/// Why there is no cuda device here; None when there is one. Loads the driver at most.
pub fn missing() -> Option<Error> {
    if Kernels::cuda().is_none() {
        let hint = "build where nvcc is, or run `scripts/install-cuda-compiler` first; or use `--device cpu`";
        return Some(err!("this build has no `cuda` device: it found no CUDA compiler").hint(hint));
    }
    // SAFETY: loads the library, which has no side effect beyond its own initialisation.
    if !unsafe { sys::is_culib_present() } {
        return Some(err!("there is no CUDA driver here (libcuda was not found)").hint("use `--device cpu`"));
    }
    match result::init().and_then(|()| result::device::get_count()) {
        Ok(0) => Some(err!("the CUDA driver knows no GPU").hint("use `--device cpu`")),
        Ok(_) => None,
        Err(error) => Some(failed("starting the CUDA driver", error).hint("use `--device cpu`")),
    }
}

/// Opens the first GPU.
pub fn device() -> Result<Device> {
    if let Some(error) = missing() {
        return Err(error);
    }
    let kernels = Kernels::cuda().ok_or_else(|| err!("this build has no `cuda` device"))?;
    let context = CudaContext::new(0).map_err(|e| failed("opening the GPU", e))?;
    // SAFETY: one stream is used, so that events between streams have nothing to order; capture forbids them.
    unsafe { context.disable_event_tracking() };
    let name = context.name().map_err(|e| failed("asking for the GPU's name", e))?;
    let stream = context.new_stream().map_err(|e| failed("making a stream", e))?;
    let products = Products::new(stream.clone())?;
    let staging = RefCell::default();
    Ok(Device::with_driver(Box::new(Cuda { kernels, products, staging, capturing: Cell::new(false), stream, name })))
}

/// What the driver says, as an error.
pub(super) fn failed(doing: &str, error: DriverError) -> Error {
    let text = error.error_string().map(|text| text.to_string_lossy().into_owned());
    err!("{doing}: {}", text.unwrap_or_else(|_| format!("{error:?}")))
}

/// Page-locked buffers that uploads pass through: the copy is asynchronous and the caller may go on at once.
#[derive(Default)]
struct Staging {
    /// The one that was used longest ago first.
    buffers: VecDeque<Pinned>,
}

struct Pinned {
    memory: *mut c_void,
    bytes: usize,
    /// Passed by the stream once the last copy from here has been made.
    copied: sys::CUevent,
}

impl Pinned {
    const LEAST_BYTES: usize = 1 << 20;

    fn new(bytes: usize) -> Result<Self, DriverError> {
        let bytes = bytes.next_power_of_two().max(Self::LEAST_BYTES);
        // SAFETY: plain allocations; the context is current.
        let memory = unsafe { result::malloc_host(bytes, 0)? };
        let copied = result::event::create(CUevent_flags::CU_EVENT_DISABLE_TIMING)?;
        Ok(Self { memory, bytes, copied })
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // SAFETY: both were made by `new`; the event has passed or the context is going down. Nobody could be told of
        // an error here.
        unsafe {
            let _ = result::event::synchronize(self.copied);
            let _ = result::event::destroy(self.copied);
            let _ = result::free_host(self.memory);
        }
    }
}

impl Staging {
    /// Uploads that may be under way at once.
    const BUFFERS: usize = 4;

    /// A buffer of at least this size that no copy reads any more.
    fn take(&mut self, bytes: usize) -> Result<Pinned, DriverError> {
        if self.buffers.len() < Self::BUFFERS {
            return Pinned::new(bytes);
        }
        match self.buffers.pop_front() {
            Some(buffer) if buffer.bytes >= bytes => {
                // SAFETY: the event is alive.
                unsafe { result::event::synchronize(buffer.copied)? };
                Ok(buffer)
            }
            _ => Pinned::new(bytes),
        }
    }
}

impl Cuda {
    fn bind(&self) -> Result<()> {
        self.stream.context().bind_to_thread().map_err(|e| failed("binding the GPU to this thread", e))
    }

    /// Waits for all that is queued.
    fn synchronize(&self) -> Result<()> {
        self.bind()?;
        self.stream.synchronize().map_err(|e| failed("waiting for the GPU", e))
    }

    fn upload_staged(&self, to: *mut c_void, from: &[u8]) -> Result<(), DriverError> {
        let mut staging = self.staging.borrow_mut();
        let buffer = staging.take(from.len())?;
        // SAFETY: the buffer has room and is free; the caller's `to` has room; the event follows the copy.
        unsafe {
            std::ptr::copy_nonoverlapping(from.as_ptr(), buffer.memory.cast(), from.len());
            let staged = std::slice::from_raw_parts(buffer.memory.cast::<u8>(), from.len());
            result::memcpy_htod_async(to as u64, staged, self.stream.cu_stream())?;
            result::event::record(buffer.copied, self.stream.cu_stream())?;
        }
        staging.buffers.push_back(buffer);
        Ok(())
    }
}

/// Uploads beyond this are not staged: weights, once.
const STAGED_BYTES: usize = 64 << 20;

impl Driver for Cuda {
    fn kernels(&self) -> Kernels {
        self.kernels
    }

    fn stream(&self) -> engine_stream {
        self.stream.cu_stream().cast()
    }

    fn name(&self) -> String {
        self.name.clone()
    }

    fn allocate(&self, bytes: usize) -> Result<*mut c_void> {
        self.bind()?;
        // SAFETY: a plain allocation, of at least one byte.
        let address = unsafe { result::malloc_sync(bytes.max(1)) };
        let free = || result::mem_get_info().map_or(0, |(free, _)| free);
        let address = address.map_err(|e| {
            failed(&format!("allocating {bytes} bytes on the GPU ({} free)", free()), e)
                .hint("use a smaller `--per-device-train-batch-size` (and more `--gradient-accumulation-steps`)")
        })?;
        Ok(address as *mut c_void)
    }

    unsafe fn free(&self, address: *mut c_void, _bytes: usize) {
        // SAFETY: the caller's promise. It waits for the stream by itself. A failure has nobody to be told to: the
        // context is going down or broken, which the next call says.
        let _ = unsafe { result::free_sync(address as u64) };
    }

    fn keeps_freed_memory(&self) -> bool {
        true
    }

    unsafe fn upload(&self, to: *mut c_void, from: &[u8]) -> Result<()> {
        if self.capturing.get() {
            bail!("internal: an upload while a graph is captured");
        }
        if from.is_empty() {
            return Ok(());
        }
        self.bind()?;
        if from.len() <= STAGED_BYTES {
            return self.upload_staged(to, from).map_err(|e| failed("copying to the GPU", e));
        }
        self.synchronize()?;
        // From pageable memory this returns when the bytes are staged, and our stream does not wait for others.
        // SAFETY: the caller's promise.
        let copied = unsafe { result::memcpy_htod_sync(to as u64, from) };
        copied.and_then(|()| result::ctx::synchronize()).map_err(|e| failed("copying to the GPU", e))
    }

    unsafe fn download(&self, to: &mut [u8], from: *const c_void) -> Result<()> {
        if self.capturing.get() {
            bail!("internal: a download while a graph is captured");
        }
        if to.is_empty() {
            return Ok(());
        }
        self.synchronize()?;
        // SAFETY: the caller's promise.
        unsafe { result::memcpy_dtoh_sync(to, from as u64) }.map_err(|e| failed("copying from the GPU", e))
    }

    unsafe fn zero(&self, at: *mut c_void, bytes: usize) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        // SAFETY: the caller's promise.
        unsafe { result::memset_d8_async(at as u64, 0, bytes, self.stream.cu_stream()) }
            .map_err(|e| failed("filling GPU memory with zeros", e))
    }

    unsafe fn product(&self, product: &Product) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.products.queue(product) }
    }

    fn begin_capture(&self) -> Result<()> {
        // Relaxed: a tensor of a size that the pool does not have yet may be allocated meanwhile.
        self.stream
            .begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED)
            .map_err(|e| failed("beginning to capture a graph", e))?;
        self.capturing.set(true);
        Ok(())
    }

    fn end_capture(&self) -> Result<Box<dyn Graph>> {
        self.capturing.set(false);
        let flags = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
        let graph = self.stream.end_capture(flags).map_err(|e| failed("capturing a graph", e))?;
        let graph = graph.ok_or_else(|| err!("internal: nothing was captured"))?;
        graph.upload().map_err(|e| failed("sending a graph to the GPU", e))?;
        Ok(Box::new(graph))
    }
}

impl Graph for CudaGraph {
    fn launch(&self) -> Result<()> {
        CudaGraph::launch(self).map_err(|e| failed("launching a graph", e))
    }
}
