//! Arrays of the device in f32 or bf16, and the rule by which their values pass. The device is the emulated one; with
//! `ENGINE_TEST_DEVICE=cuda` it is the GPU.

use std::cell::Cell;
use std::ffi::c_void;
use std::marker::PhantomData;

use engine::device::Device;
use engine::device::bindings::{engine_dtype, engine_stream};
use engine::device::kernels::Kernels;
use engine::error::Result;
use half::bf16;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

pub const F32: engine_dtype = engine_dtype::ENGINE_F32;
pub const BF16: engine_dtype = engine_dtype::ENGINE_BF16;

thread_local! {
    static EMULATOR: Cell<bool> = const { Cell::new(false) };
    /// Each test has one of its own: devices belong to the thread that made them.
    static DEVICE: Device = match std::env::var("ENGINE_TEST_DEVICE").as_deref() {
        Ok("cuda") if !EMULATOR.get() => engine::cuda::device(),
        _ => engine::emulated::device(),
    }
    .unwrap_or_else(|error| panic!("{}", error.report()));
}

/// The device of this thread.
pub fn device() -> Device {
    DEVICE.with(Device::clone)
}

/// For a test of the emulator itself: this thread's device is the emulated one, whatever the environment says.
pub fn on_the_emulator() {
    EMULATOR.set(true);
    assert_eq!(kernels().device(), "emulated");
}

/// Its launchers.
pub fn kernels() -> Kernels {
    device().driver().expect("a device that runs kernels").kernels()
}

/// Its stream.
pub fn stream() -> engine_stream {
    device().driver().expect("a device that runs kernels").stream()
}

/// Memory of the device.
pub struct Buffer<T: bytemuck::Pod> {
    address: *mut c_void,
    len: usize,
    device: Device,
    _elements: PhantomData<T>,
}

impl<T: bytemuck::Pod> Buffer<T> {
    /// `len` elements whose bytes are all ones: NaN in f32 and bf16.
    pub fn new(len: usize) -> Result<Self> {
        Self::from_bytes(len, &vec![0xff; len * size_of::<T>()])
    }

    /// A copy of `values`.
    pub fn from_slice(values: &[T]) -> Result<Self> {
        Self::from_bytes(values.len(), bytemuck::cast_slice(values))
    }

    fn from_bytes(len: usize, bytes: &[u8]) -> Result<Self> {
        let device = device();
        let driver = device.driver().expect("a device that runs kernels");
        let address = driver.allocate(bytes.len())?;
        // SAFETY: as many bytes were just allocated.
        unsafe { driver.upload(address, bytes)? };
        Ok(Self { address, len, device, _elements: PhantomData })
    }

    /// For a launcher that reads.
    pub fn as_ptr(&self) -> *const T {
        self.address.cast()
    }

    /// For a launcher that writes.
    pub fn as_mut_ptr(&mut self) -> *mut T {
        self.address.cast()
    }

    /// The elements, after all that was launched.
    pub fn to_vec(&self) -> Vec<T> {
        let mut values = bytemuck::zeroed_vec(self.len);
        let driver = self.device.driver().expect("a device that runs kernels");
        // SAFETY: `len` elements were allocated.
        unsafe { driver.download(bytemuck::cast_slice_mut(&mut values), self.address).expect("the device works") };
        values
    }
}

impl<T: bytemuck::Pod> Drop for Buffer<T> {
    fn drop(&mut self) {
        if let Some(driver) = self.device.driver() {
            // SAFETY: allocated with this size; launches that use it are queued before.
            unsafe { driver.free(self.address, self.len * size_of::<T>()) };
        }
    }
}

/// `x` as the type holds it.
pub fn round(dtype: engine_dtype, x: f64) -> f64 {
    if dtype == F32 { f64::from(x as f32) } else { bf16::from_f32(x as f32).to_f64() }
}

/// `n` numbers that the type holds exactly, uniform in -amplitude..amplitude.
pub fn random(dtype: engine_dtype, seed: u64, n: usize, amplitude: f64) -> Vec<f64> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..n).map(|_| round(dtype, (rng.random::<f64>() * 2.0 - 1.0) * amplitude)).collect()
}

/// Elements of one type on the device.
pub struct Array {
    dtype: engine_dtype,
    bytes: Buffer<u8>,
}

impl Array {
    /// `len` elements, all NaN.
    pub fn empty(dtype: engine_dtype, len: usize) -> Self {
        let size = if dtype == F32 { 4 } else { 2 };
        Self { dtype, bytes: Buffer::new(len * size).unwrap() }
    }

    pub fn new(dtype: engine_dtype, values: &[f64]) -> Self {
        let bytes: Vec<u8> = if dtype == F32 {
            values.iter().flat_map(|&x| (x as f32).to_ne_bytes()).collect()
        } else {
            values.iter().flat_map(|&x| bf16::from_f64(x).to_ne_bytes()).collect()
        };
        Self { dtype, bytes: Buffer::from_slice(&bytes).unwrap() }
    }

    pub fn ptr<T>(&self) -> *const T {
        self.bytes.as_ptr().cast()
    }

    pub fn mut_ptr<T>(&mut self) -> *mut T {
        self.bytes.as_mut_ptr().cast()
    }

    pub fn values(&self) -> Vec<f64> {
        let bytes = self.bytes.to_vec();
        if self.dtype == F32 {
            bytes.chunks_exact(4).map(|b| f64::from(f32::from_ne_bytes(b.try_into().unwrap()))).collect()
        } else {
            bytes.chunks_exact(2).map(|b| bf16::from_ne_bytes(b.try_into().unwrap()).to_f64()).collect()
        }
    }
}

/// Passes when the kernel's error is at most twice that of `plain`, the CPU op in f32 rounded to the output's type, plus
/// one rounding in f32 of the largest element. Errors are the largest over the elements, against f64.
pub fn check(name: &str, got: &[f64], exact: &[f64], plain: &[f64]) {
    assert_eq!(got.len(), exact.len(), "{name}");
    // NaN counts as infinitely wrong.
    let distance = |a: &f64, b: &f64| if (a - b).is_nan() { f64::INFINITY } else { (a - b).abs() };
    let error = |x: &[f64]| x.iter().zip(exact).map(|(a, b)| distance(a, b)).fold(0.0, f64::max);
    let largest = exact.iter().fold(0.0_f64, |m, x| m.max(x.abs()));
    let (error, plain) = (error(got), error(plain));
    let allowed = 2.0 * plain + largest * f64::from(f32::EPSILON);
    assert!(error <= allowed, "{name}: error {error:.3e}, allowed {allowed:.3e} (plain {plain:.3e})");
}

/// Rounds every value to the type.
pub fn rounded(dtype: engine_dtype, values: &[f64]) -> Vec<f64> {
    values.iter().map(|&x| round(dtype, x)).collect()
}

/// Runs twice, the second time with threads and blocks in another order; the results must be equal to the bit.
pub fn twice<R: PartialEq + std::fmt::Debug>(name: &str, run: impl Fn() -> R) -> R {
    engine::emulated::seed(1);
    let first = run();
    engine::emulated::seed(2);
    assert!(first == run(), "{name} depends on the order of threads");
    first
}
