//! Arrays of the emulated device, and the device of this thread.

use std::marker::PhantomData;
use std::ptr::NonNull;

use engine::device::Device;
use engine::device::bindings::{engine_emulator_allocate, engine_emulator_free, engine_status};
use engine::err;
use engine::error::Result;

thread_local! {
    /// Each test has one of its own: devices belong to the thread that made them.
    static DEVICE: Device = engine::emulated::device().unwrap();
}

/// The emulated device of this thread.
pub fn device() -> Device {
    DEVICE.with(Device::clone)
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
