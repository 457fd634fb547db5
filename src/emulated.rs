//! The emulated device: kernels as the host's C++ compiler made them, run by the emulator; products by the CPU.
//!
//! Memory is NaN until it is written, and has guard bands that are checked at every launch. Work runs when it is queued,
//! except while a graph is captured.

use std::cell::Cell;
use std::ffi::c_void;
use std::marker::PhantomData;
use std::ptr::{self, NonNull};
use std::slice;

use half::bf16;

use crate::device::bindings::*;
use crate::device::driver::{Driver, Graph, Operand, Product};
use crate::device::kernels::Kernels;
use crate::device::{DType, Device};
use crate::error::Result;
use crate::host::gemm::{Matrix, MatrixMut, Store, Threads, gemm};
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

    unsafe fn product(&self, product: &Product) -> Result<()> {
        let product = *product;
        // SAFETY: the caller's promise.
        self.queue(move || unsafe { multiply(&product) });
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

/// # Safety
/// The matrices lie in memory as `product` says.
unsafe fn multiply(product: &Product) {
    let Product { m, n, k, .. } = *product;
    // SAFETY: the caller's promise.
    let (a, b) = unsafe { (widened(product.a, product.dtype, (m, k)), widened(product.b, product.dtype, (k, n))) };
    let matrix = |data, rows, cols, operand: Operand| {
        if operand.transposed { Matrix::new(data, cols, rows).t() } else { Matrix::new(data, rows, cols) }
    };
    let (a, b) = (matrix(&a, m, k, product.a), matrix(&b, k, n, product.b));
    let mut sums = vec![0.0f32; m * n];
    gemm(MatrixMut::new(&mut sums, m, n), Store::Write, 1.0, a, b, Threads::All);
    match product.c_dtype {
        DType::F32 => {
            // SAFETY: the caller's promise.
            let c = unsafe { slice::from_raw_parts_mut(product.c.cast::<f32>(), m * n) };
            let accumulate = product.accumulate;
            c.iter_mut().zip(sums).for_each(|(c, sum)| *c = if accumulate { *c + sum } else { sum });
        }
        DType::Bf16 if !product.accumulate => {
            // SAFETY: the caller's promise.
            let c = unsafe { slice::from_raw_parts_mut(product.c.cast::<bf16>(), m * n) };
            c.iter_mut().zip(sums).for_each(|(c, sum)| *c = bf16::from_f32(sum));
        }
        other => panic!("internal: a product into {other:?}"),
    }
}

/// A dense (rows, cols) operand in f32, as it lies in memory.
///
/// # Safety
/// It lies there.
unsafe fn widened(operand: Operand, dtype: DType, (rows, cols): (usize, usize)) -> Vec<f32> {
    let len = rows * cols;
    assert_eq!(operand.stride, if operand.transposed { rows } else { cols }, "a dense operand");
    // SAFETY: the caller's promise.
    unsafe {
        match dtype {
            DType::F32 => slice::from_raw_parts(operand.address.cast::<f32>(), len).to_vec(),
            DType::Bf16 => {
                slice::from_raw_parts(operand.address.cast::<bf16>(), len).iter().map(|x| x.to_f32()).collect()
            }
            other => panic!("internal: a product of {other:?}"),
        }
    }
}

/// A buffer of elements. It belongs to the thread that made it, as the launches that use it do.
pub struct Buffer<T: bytemuck::Pod> {
    memory: NonNull<T>,
    len: usize,
    // Not Send: the emulator keeps its list of buffers by thread.
    _thread: PhantomData<*mut T>,
}

impl<T: bytemuck::Pod> Buffer<T> {
    /// `len` elements whose bytes are all ones: NaN in f32 and bf16.
    pub fn new(len: usize) -> Result<Self> {
        // SAFETY: any size is fine; a null pointer is how it says that there is no memory.
        let memory = unsafe { engine_emulator_allocate(len * size_of::<T>()) };
        let memory = NonNull::new(memory.cast());
        let memory = memory.ok_or_else(|| err!("no memory for {len} elements of the emulated device"))?;
        Ok(Self { memory, len, _thread: PhantomData })
    }

    /// A copy of `values`.
    pub fn from_slice(values: &[T]) -> Result<Self> {
        let mut buffer = Self::new(values.len())?;
        buffer.as_mut_slice().copy_from_slice(values);
        Ok(buffer)
    }

    /// Frees it; an error when something wrote beside it. Dropping it panics then.
    pub fn free(self) -> Result<()> {
        match std::mem::ManuallyDrop::new(self).release() {
            engine_status::ENGINE_OK => Ok(()),
            _ => Err(err!("the guard bands of a buffer of the emulated device are damaged")),
        }
    }

    fn release(&mut self) -> engine_status {
        // SAFETY: allocated by this thread (the type is not Send); both callers are the last to use it.
        unsafe { engine_emulator_free(self.memory.as_ptr().cast()) }
    }

    /// For a launcher that reads.
    pub fn as_ptr(&self) -> *const T {
        self.memory.as_ptr()
    }

    /// For a launcher that writes.
    pub fn as_mut_ptr(&mut self) -> *mut T {
        self.memory.as_ptr()
    }

    /// The elements: launches of the emulator have ended when they return.
    pub fn as_slice(&self) -> &[T] {
        // SAFETY: `len` elements were allocated and initialised (to ones), and T takes any bits.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr(), self.len) }
    }

    /// The elements, to write.
    pub fn as_mut_slice(&mut self) -> &mut [T] {
        // SAFETY: as above, and `self` is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.memory.as_ptr(), self.len) }
    }
}

impl<T: bytemuck::Pod> Drop for Buffer<T> {
    fn drop(&mut self) {
        let status = self.release();
        // A panic while another one unwinds would end the process and hide the first.
        if !std::thread::panicking() {
            assert!(status == engine_status::ENGINE_OK, "the guard bands of a buffer are damaged");
        }
    }
}

/// Chooses the order in which this thread's next launches run blocks and threads.
pub fn seed(seed: u64) {
    // SAFETY: touches nothing but this thread's random numbers.
    unsafe { engine_emulator_seed(seed) }
}
