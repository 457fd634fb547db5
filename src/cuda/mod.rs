//! The cuda device: memory and one stream of a GPU, products by cuBLASLt.
//!
//! A GPU is chosen in three steps. [`survey`](fn@survey) lists what there is, with the reason why a GPU cannot be used;
//! [`Survey::choose`] picks one; [`open`] makes a device of it. Libraries are loaded when they are first asked for: a
//! machine without a driver or without cuBLASLt gets an error that says so, and so does every other reason.
//!
//! | file | what it holds |
//! |---|---|
//! | [`name`] | `cuda`, `cuda:1` |
//! | [`facts`] | what a machine and a GPU are, and what is wrong with them: plain values |
//! | [`survey`](mod@survey) | asks the driver for these values |
//! | `stream` | the stream: memory, copies, waiting, graphs; all calls of the driver while work is done |
//! | `staging` | the page-locked memory that uploads pass through |
//! | [`products`] | matrix products: plans, and what binds the choice of algorithms |
//! | `timing` | the fastest of several algorithms, measured |
//! | [`choices`] | what was chosen, as text and in a file of the cache folder |
//! | `descriptors` | cuBLASLt's handles |
//! | [`faults`] | what the driver and cuBLASLt say, as errors that say what to do |
//!
//! `tests/driver` runs all of it on a driver that stands in for NVIDIA's; `mutations.toml` has ways to break it.
//!
//! One stream, in order, is all the ordering there is; only the reuse of page-locked memory waits for an event.

use std::env;
use std::ffi::c_void;
use std::path::PathBuf;
use std::rc::Rc;

pub mod choices;
mod descriptors;
pub mod facts;
pub mod faults;
pub mod name;
pub mod products;
mod staging;
mod stream;
pub mod survey;
mod timing;

use crate::cache;
use crate::device::Device;
use crate::device::bindings::engine_stream;
use crate::device::driver::{Driver, Graph, Product};
use crate::device::kernels::Kernels;
use crate::err;
use crate::error::{Error, Result};
use facts::{Gpu, Machine};
pub use name::Name;
use products::{Choosing, Products, describe};
use stream::Stream;
pub use survey::Survey;

/// Blocks of attention's backward that fit on a multiprocessor.
pub const BLOCKS: usize = 2;

/// A GPU.
pub struct Cuda {
    kernels: Kernels,
    products: Products,
    stream: Rc<Stream>,
    /// See [`Driver::logits_bytes`].
    logits_bytes: usize,
    /// See [`Driver::blocks_at_once`].
    blocks_at_once: usize,
    /// Wait for every op, so that an error names the one that made it.
    debug_sync: bool,
    name: String,
}

/// All GPUs of this machine, and why those that cannot be used cannot. Opens none.
pub fn survey() -> Survey {
    Survey::ask()
}

/// Why there is no GPU here that can be used; None when there is one. Opens none.
pub fn missing() -> Option<Error> {
    survey().choose(Name::First).err()
}

/// The first GPU that can be used.
pub fn device() -> Result<Device> {
    open_named(Name::First)
}

/// GPU `index`, counted from 0 as `CUDA_VISIBLE_DEVICES` leaves them.
pub fn open(index: usize) -> Result<Device> {
    open_named(Name::Index(index))
}

/// The GPU of this name; an error that says why it cannot be used.
pub fn open_named(name: Name) -> Result<Device> {
    let survey = survey();
    let gpu = survey.choose(name)?;
    let kernels = Kernels::cuda().ok_or_else(|| err!("this build has no `cuda` device"))?;
    open_with(kernels, &survey.machine, gpu, Settings::of_environment()?)
}

/// How a GPU is used.
#[derive(Clone, Debug)]
pub struct Settings {
    /// See [`debug_sync`](fn@debug_sync).
    pub debug_sync: bool,
    /// See [`timed_products`].
    pub timed_products: bool,
    /// See [`programmatic_launch`].
    pub programmatic_launch: bool,
    /// Where choices of algorithms are kept; None: nowhere.
    pub folder: Option<PathBuf>,
}

impl Settings {
    /// What the environment says.
    ///
    /// # Errors
    /// A usage error that names the variable.
    pub fn of_environment() -> Result<Self> {
        let value = |name: &str| env::var(name).ok();
        Ok(Self {
            debug_sync: debug_sync(value("ENGINE_DEBUG_SYNC").as_deref())?,
            timed_products: timed_products(value("ENGINE_PRODUCTS").as_deref())?,
            programmatic_launch: programmatic_launch(value("ENGINE_PROGRAMMATIC_LAUNCH").as_deref())?,
            folder: cache::folder("products"),
        })
    }
}

/// This GPU of this machine, in which nobody has found a fault, with these launchers. Tests bring launchers that need no GPU.
pub fn open_with(kernels: Kernels, machine: &Machine, gpu: &Gpu, settings: Settings) -> Result<Device> {
    let stream = Rc::new(Stream::new(gpu.index)?);
    let (free, total) = stream.memory()?;
    if let Some(fault) = gpu.fault_of_free(free) {
        return Err(fault);
    }
    let Settings { debug_sync, timed_products, programmatic_launch, folder } = settings;
    kernels.allow_programmatic_launch(programmatic_launch);
    let choosing = Choosing { platform: machine.platform(gpu), timed: timed_products, folder };
    let products = Products::new(stream.clone(), choosing)?;
    Ok(Device::with_driver(Box::new(Cuda {
        kernels,
        products,
        stream,
        logits_bytes: logits_bytes(total),
        blocks_at_once: BLOCKS * gpu.multiprocessors,
        debug_sync,
        name: gpu.name.clone(),
    })))
}

/// Bytes of logits to have at once on a GPU with so much memory. The gradient of the head, 0.7 GB of FunctionGemma's, is read and written
/// again for each chunk of them: large chunks, but a sixteenth of the memory at most.
pub fn logits_bytes(total: usize) -> usize {
    (total / 16).clamp(1 << 30, 4 << 30)
}

/// What the environment's `ENGINE_DEBUG_SYNC` says: whether to wait for every op. It is slow, and no graphs are captured.
pub fn debug_sync(value: Option<&str>) -> Result<bool> {
    let hint = "`1` waits for every op and names the one that fails, `0` does not";
    switch("ENGINE_DEBUG_SYNC", value, false, hint)
}

/// What the environment's `ENGINE_PRODUCTS` says: whether algorithms of products are chosen by timing, or by the library's own
/// expectation.
pub fn timed_products(value: Option<&str>) -> Result<bool> {
    match value {
        None | Some("" | "timed") => Ok(true),
        Some("heuristic") => Ok(false),
        Some(value) => Err(Error::usage(format!("ENGINE_PRODUCTS is `{value}`")).hint(
            "`timed` measures which algorithm of cuBLASLt's is the fastest, `heuristic` takes the one that it expects to be",
        )),
    }
}

/// What the environment's `ENGINE_PROGRAMMATIC_LAUNCH` says: whether a kernel's blocks may take their places before the kernel before it
/// has ended. They wait for its end, and the results are the same.
pub fn programmatic_launch(value: Option<&str>) -> Result<bool> {
    let hint = "`1` lets a kernel begin while the one before it ends, on an H100; `0` does not";
    switch("ENGINE_PROGRAMMATIC_LAUNCH", value, true, hint)
}

/// What a variable that is 0 or 1 says, or `otherwise` where it is not set.
fn switch(name: &str, value: Option<&str>, otherwise: bool, hint: &str) -> Result<bool> {
    match value {
        None | Some("") => Ok(otherwise),
        Some("0") => Ok(false),
        Some("1") => Ok(true),
        Some(value) => Err(Error::usage(format!("{name} is `{value}`")).hint(hint)),
    }
}

impl Cuda {
    /// To be called when `op` was queued. With `ENGINE_DEBUG_SYNC=1` waits for it, so that its fault is told with its
    /// name; while a graph is captured, says which op broke the capture.
    pub fn synchronize_for_debug(&self, op: &str) -> Result<()> {
        match self.stream.is_capturing() {
            true => self.stream.check_capture(op),
            false if self.debug_sync => {
                let hint = "ENGINE_DEBUG_SYNC=1 waits for every op: this one failed";
                self.stream.synchronize(op).map_err(|error| error.hint(hint))
            }
            false => Ok(()),
        }
    }

    /// Whether a step should be captured into a graph: not where every op is waited for, which a capture cannot do.
    pub fn may_capture(&self) -> bool {
        !self.debug_sync
    }
}

impl Driver for Cuda {
    fn kernels(&self) -> Kernels {
        self.kernels
    }

    fn stream(&self) -> engine_stream {
        // Launchers launch on the thread's GPU. Should this fail, so does the launch, which says so.
        let _ = self.stream.bind();
        self.stream.raw().cast()
    }

    fn name(&self) -> String {
        self.name.clone()
    }

    fn allocate(&self, bytes: usize) -> Result<*mut c_void> {
        self.stream.allocate(bytes)
    }

    unsafe fn free(&self, address: *mut c_void, _bytes: usize) {
        // SAFETY: the caller's promise.
        unsafe { self.stream.free(address) };
    }

    fn blocks_at_once(&self) -> usize {
        self.blocks_at_once
    }

    fn logits_bytes(&self) -> usize {
        self.logits_bytes
    }

    fn captures_graphs(&self) -> bool {
        self.may_capture()
    }

    fn free_bytes(&self) -> Option<u64> {
        self.stream.memory().ok().map(|(free, _)| free as u64)
    }

    fn after_launch(&self, op: &str, _sizes: &[(&str, u64)]) -> Result<()> {
        self.synchronize_for_debug(op)
    }

    unsafe fn upload(&self, to: *mut c_void, from: &[u8]) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.stream.upload(to, from) }
    }

    unsafe fn download(&self, to: &mut [u8], from: *const c_void) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.stream.download(to, from) }
    }

    unsafe fn zero(&self, at: *mut c_void, bytes: usize) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.stream.zero(at, bytes)? };
        self.synchronize_for_debug("filling GPU memory with zeros")
    }

    unsafe fn product(&self, product: &Product) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.products.queue(product)? };
        if self.debug_sync || self.stream.is_capturing() {
            return self.synchronize_for_debug(&describe(product));
        }
        Ok(())
    }

    fn choices(&self) -> Option<String> {
        Some(self.products.choices())
    }

    fn choose(&self, choices: &str) -> bool {
        self.products.choose(choices)
    }

    fn begin_capture(&self) -> Result<()> {
        self.stream.begin_capture()
    }

    fn end_capture(&self) -> Result<Box<dyn Graph>> {
        Ok(Box::new(self.stream.end_capture()?))
    }
}
