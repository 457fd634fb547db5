//! The emulated device: kernels as the host's C++ compiler made them, run by the emulator; products by the CPU.
//!
//! Memory is NaN until it is written, and has guard bands that are checked at every launch. Work runs when it is queued,
//! except while a graph is captured.

use std::cell::Cell;
use std::ffi::c_void;
use std::ptr::{self, NonNull};

use crate::device::Device;
use crate::device::bindings::*;
use crate::device::driver::{Driver, Graph, Product};
use crate::device::kernels::Kernels;
use crate::error::Result;
use crate::host::products;
use crate::{bail, err};

/// The emulated device. It belongs to the thread that made it.
pub struct Emulated {
    kernels: Kernels,
    capturing: Cell<bool>,
}

/// A new emulated device.
pub fn device() -> Result<Device> {
    let kernels = Kernels::emulated().ok_or_else(|| err!("this build has no `emulated` device"))?;
    Ok(Device::with_driver(Box::new(Emulated { kernels, capturing: Cell::new(false) })))
}

impl Emulated {
    /// Runs `work` now, or keeps it in its place among the launches that are captured.
    fn queue(&self, work: impl Fn() + 'static) {
        if !self.capturing.get() {
            return work();
        }
        unsafe extern "C" fn run(work: *mut c_void) -> engine_status {
            // SAFETY: the pointer is that of the box below, which lives as long as the graph.
            unsafe { (*work.cast::<Box<dyn Fn()>>())() };
            engine_status::ENGINE_OK
        }
        unsafe extern "C" fn drop_work(work: *mut c_void) {
            // SAFETY: as above, and this is called once.
            drop(unsafe { Box::from_raw(work.cast::<Box<dyn Fn()>>()) });
        }
        let work: Box<Box<dyn Fn()>> = Box::new(Box::new(work));
        // SAFETY: both functions fit the box.
        unsafe { engine_emulator_capture_call(Some(run), Some(drop_work), Box::into_raw(work).cast()) };
    }
}

impl Driver for Emulated {
    fn kernels(&self) -> Kernels {
        self.kernels
    }

    fn stream(&self) -> engine_stream {
        ptr::null_mut()
    }

    fn name(&self) -> String {
        "the emulator: kernels on the CPU, for tests".into()
    }

    fn allocate(&self, bytes: usize) -> Result<*mut c_void> {
        // SAFETY: any size is fine; a null pointer is how it says that there is no memory.
        let memory = unsafe { engine_emulator_allocate(bytes) };
        if memory.is_null() { Err(err!("no memory for {bytes} bytes of the emulated device")) } else { Ok(memory) }
    }

    unsafe fn free(&self, address: *mut c_void, _bytes: usize) {
        // SAFETY: the caller's promise.
        let status = unsafe { engine_emulator_free(address) };
        // A launch that writes beside an array fails by itself; this finds what the host wrote.
        assert!(
            status == engine_status::ENGINE_OK || std::thread::panicking(),
            "the guard bands of a buffer are damaged"
        );
    }

    /// As of the smallest chip: so that tests of a hundred rows take the way of large batches, too.
    fn blocks_at_once(&self) -> usize {
        4
    }

    fn keeps_freed_memory(&self) -> bool {
        false
    }

    unsafe fn upload(&self, to: *mut c_void, from: &[u8]) -> Result<()> {
        if self.capturing.get() {
            bail!("internal: an upload while a graph is captured");
        }
        // SAFETY: the caller's promise.
        unsafe { ptr::copy_nonoverlapping(from.as_ptr(), to.cast(), from.len()) };
        Ok(())
    }

    unsafe fn download(&self, to: &mut [u8], from: *const c_void) -> Result<()> {
        if self.capturing.get() {
            bail!("internal: a download while a graph is captured");
        }
        // SAFETY: the caller's promise.
        unsafe { ptr::copy_nonoverlapping(from.cast(), to.as_mut_ptr(), to.len()) };
        Ok(())
    }

    unsafe fn zero(&self, at: *mut c_void, bytes: usize) -> Result<()> {
        // SAFETY: the caller's promise.
        self.queue(move || unsafe { ptr::write_bytes(at.cast::<u8>(), 0, bytes) });
        Ok(())
    }

    fn choices(&self) -> Option<String> {
        Some(products::choice::Kernel::chosen().name().to_owned())
    }

    fn choose(&self, choices: &str) -> bool {
        products::choice::Kernel::choose(choices)
    }

    unsafe fn product(&self, product: &Product) -> Result<()> {
        let product = *product;
        // SAFETY: the caller's promise.
        self.queue(move || unsafe { products::multiply(&product) });
        Ok(())
    }

    fn begin_capture(&self) -> Result<()> {
        self.capturing.set(true);
        // SAFETY: touches the thread's own state.
        unsafe { engine_emulator_capture_begin() };
        Ok(())
    }

    fn end_capture(&self) -> Result<Box<dyn Graph>> {
        self.capturing.set(false);
        // SAFETY: a capture has begun.
        let graph = NonNull::new(unsafe { engine_emulator_capture_end() });
        let graph = graph.ok_or_else(|| err!("internal: nothing was being captured"))?;
        Ok(Box::new(EmulatedGraph { graph, kernels: self.kernels }))
    }
}

struct EmulatedGraph {
    graph: NonNull<engine_emulator_graph>,
    kernels: Kernels,
}

impl Graph for EmulatedGraph {
    fn launch(&self) -> Result<()> {
        // SAFETY: the graph lives until it is dropped; the memory that it uses is kept by the pool of graphs.
        let status = unsafe { engine_emulator_graph_launch(self.graph.as_ptr()) };
        self.kernels.check(status, "a captured graph")
    }
}

impl Drop for EmulatedGraph {
    fn drop(&mut self) {
        // SAFETY: freed once, by its owner.
        unsafe { engine_emulator_graph_free(self.graph.as_ptr()) }
    }
}

/// Chooses the order in which this thread's next launches run blocks and threads.
pub fn seed(seed: u64) {
    // SAFETY: touches nothing but this thread's random numbers.
    unsafe { engine_emulator_seed(seed) }
}
