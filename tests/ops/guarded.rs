//! The host with what the emulated device has by itself: memory that is NaN until it is written, and guard bands.

use std::ffi::c_void;
use std::slice;

use engine::device::Device;
use engine::device::bindings::engine_stream;
use engine::device::driver::{Driver, Product};
use engine::device::kernels::Kernels;
use engine::error::Result;

/// Bytes before and after what a tensor asked for: a multiple of the driver's alignment.
const BAND: usize = 256;

/// NaN in every type.
const UNWRITTEN: u8 = 0xff;

/// The host's driver, which allocates with bands.
struct Guarded {
    host: Device,
}

/// A new device on the host whose tensors have guard bands.
pub fn host() -> Device {
    Device::with_driver(Box::new(Guarded { host: engine::host::device() }))
}

impl Guarded {
    fn inner(&self) -> &dyn Driver {
        self.host.driver()
    }
}

impl Driver for Guarded {
    fn kernels(&self) -> Kernels {
        self.inner().kernels()
    }

    fn stream(&self) -> engine_stream {
        self.inner().stream()
    }

    fn name(&self) -> String {
        self.inner().name()
    }

    fn allocate(&self, bytes: usize) -> Result<*mut c_void> {
        let whole = self.inner().allocate(bytes + 2 * BAND)?.cast::<u8>();
        // SAFETY: as many bytes were just allocated.
        unsafe { whole.write_bytes(UNWRITTEN, bytes + 2 * BAND) };
        Ok(whole.wrapping_add(BAND).cast())
    }

    unsafe fn free(&self, address: *mut c_void, bytes: usize) {
        let first = address.cast::<u8>();
        let whole = first.wrapping_sub(BAND);
        // SAFETY: allocated above, with a band before and one after.
        let bands = unsafe { [slice::from_raw_parts(whole, BAND), slice::from_raw_parts(first.add(bytes), BAND)] };
        let whole_bands = bands.iter().all(|band| band.iter().all(|&byte| byte == UNWRITTEN));
        // SAFETY: allocated above with this size.
        unsafe { self.inner().free(whole.cast(), bytes + 2 * BAND) };
        // A panic while another one unwinds would end the process and hide the first.
        assert!(whole_bands || std::thread::panicking(), "something was written beside a tensor of {bytes} bytes");
    }

    /// Every tensor has bands of its own and begins as NaN.
    fn keeps_freed_memory(&self) -> bool {
        false
    }

    fn is_host(&self) -> bool {
        true
    }

    fn attention_tile(&self) -> usize {
        self.inner().attention_tile()
    }

    fn logits_bytes(&self) -> usize {
        self.inner().logits_bytes()
    }

    fn captures_graphs(&self) -> bool {
        self.inner().captures_graphs()
    }

    unsafe fn upload(&self, to: *mut c_void, from: &[u8]) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.inner().upload(to, from) }
    }

    unsafe fn download(&self, to: &mut [u8], from: *const c_void) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.inner().download(to, from) }
    }

    unsafe fn zero(&self, at: *mut c_void, bytes: usize) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.inner().zero(at, bytes) }
    }

    unsafe fn product(&self, product: &Product) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.inner().product(product) }
    }
}

#[test]
#[should_panic(expected = "something was written beside a tensor of 12 bytes")]
fn a_write_beside_a_tensor_is_noticed() {
    let device = host();
    let mut x = engine::device::Tensor::zeros(&device, &[3], engine::device::DType::F32).unwrap();
    let end = x.address_mut().unwrap().cast::<f32>().wrapping_add(3);
    // SAFETY: the first bytes of the band behind the tensor.
    unsafe { end.write(0.0) };
}
