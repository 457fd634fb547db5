//! A device whose driver answers otherwise: tiles and chunks of another size.

use std::ffi::c_void;

use engine::device::Device;
use engine::device::bindings::engine_stream;
use engine::device::driver::{Driver, Product};
use engine::device::kernels::Kernels;
use engine::error::Result;

struct Altered {
    device: Device,
    tile: usize,
    logits_bytes: usize,
}

/// The same device with lists of tiles of another size: not for its launchers, which know theirs.
pub fn with_tile(device: Device, tile: usize) -> Device {
    let logits_bytes = device.driver().logits_bytes();
    Device::with_driver(Box::new(Altered { device, tile, logits_bytes }))
}

/// The same device with room for so many bytes of logits.
pub fn with_logits_bytes(device: Device, logits_bytes: usize) -> Device {
    let tile = device.driver().attention_tile();
    Device::with_driver(Box::new(Altered { device, tile, logits_bytes }))
}

impl Driver for Altered {
    fn attention_tile(&self) -> usize {
        self.tile
    }

    fn logits_bytes(&self) -> usize {
        self.logits_bytes
    }

    fn kernels(&self) -> Kernels {
        self.device.driver().kernels()
    }

    fn stream(&self) -> engine_stream {
        self.device.driver().stream()
    }

    fn name(&self) -> String {
        self.device.driver().name()
    }

    fn allocate(&self, bytes: usize) -> Result<*mut c_void> {
        self.device.driver().allocate(bytes)
    }

    unsafe fn free(&self, address: *mut c_void, bytes: usize) {
        // SAFETY: the caller's promise, as in all that follows.
        unsafe { self.device.driver().free(address, bytes) };
    }

    fn keeps_freed_memory(&self) -> bool {
        self.device.driver().keeps_freed_memory()
    }

    fn is_host(&self) -> bool {
        self.device.driver().is_host()
    }

    unsafe fn upload(&self, to: *mut c_void, from: &[u8]) -> Result<()> {
        // SAFETY: as above.
        unsafe { self.device.driver().upload(to, from) }
    }

    unsafe fn download(&self, to: &mut [u8], from: *const c_void) -> Result<()> {
        // SAFETY: as above.
        unsafe { self.device.driver().download(to, from) }
    }

    unsafe fn zero(&self, at: *mut c_void, bytes: usize) -> Result<()> {
        // SAFETY: as above.
        unsafe { self.device.driver().zero(at, bytes) }
    }

    unsafe fn product(&self, product: &Product) -> Result<()> {
        // SAFETY: as above.
        unsafe { self.device.driver().product(product) }
    }
}
