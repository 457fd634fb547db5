//! A device that keeps account of where time goes, around one whose ops have run when they are queued: the CPU.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ffi::c_void;
use std::rc::Rc;
use std::time::Instant;

use super::bindings::engine_stream;
use super::driver::{Driver, Product};
use super::kernels::Kernels;
use super::{DType, Device};
use crate::error::Result;

/// Where time went, by op and by product.
#[derive(Clone, Debug, Default)]
pub struct Profile {
    pub work: BTreeMap<Op, Work>,
}

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Op {
    /// A product with a weight of shape (outputs, inputs), whatever the rows of the batch.
    Product { form: Form, outputs: usize, inputs: usize, dtype: &'static str },
    /// A launcher of the table by its name, or a copy.
    Other(String),
}

/// The products of a linear layer y = x W^T.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Form {
    /// y = x W^T
    Forward,
    /// dx = dy W
    OfInput,
    /// dW += dy^T x
    OfWeight,
}

impl Form {
    /// Which of them it is, by what is transposed, with the weight's outputs and inputs.
    fn of(&Product { m, n, k, a, b, .. }: &Product) -> (Self, usize, usize) {
        match (a.transposed, b.transposed) {
            (false, true) => (Self::Forward, n, k),
            (false, false) => (Self::OfInput, k, n),
            (true, _) => (Self::OfWeight, m, n),
        }
    }
}

/// How much of it there was.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Work {
    pub calls: u64,
    pub seconds: f64,
    /// Floating-point operations, of products.
    pub flop: f64,
    /// Bytes read and written, as far as they follow from sizes.
    pub bytes: f64,
}

impl Profile {
    fn add(&mut self, op: Op, since: Instant, flop: f64, bytes: f64) {
        let work = self.work.entry(op).or_default();
        work.calls += 1;
        work.seconds += since.elapsed().as_secs_f64();
        work.flop += flop;
        work.bytes += bytes;
    }
}

/// `inner`, and the account that it keeps from now on.
pub fn device(inner: &Device) -> (Device, Rc<RefCell<Profile>>) {
    let profile = Rc::new(RefCell::new(Profile::default()));
    let driver = Profiled { inner: inner.clone(), profile: profile.clone(), started: Cell::new(Instant::now()) };
    (Device::with_driver(Box::new(driver)), profile)
}

struct Profiled {
    inner: Device,
    profile: Rc<RefCell<Profile>>,
    /// When the launch that runs now was called.
    started: Cell<Instant>,
}

impl Profiled {
    fn driver(&self) -> &dyn Driver {
        self.inner.driver()
    }

    fn copied(&self, op: &str, since: Instant, bytes: usize) {
        self.profile.borrow_mut().add(Op::Other(op.to_owned()), since, 0.0, bytes as f64);
    }
}

impl Driver for Profiled {
    fn kernels(&self) -> Kernels {
        self.started.set(Instant::now());
        self.driver().kernels()
    }

    fn stream(&self) -> engine_stream {
        self.driver().stream()
    }

    fn name(&self) -> String {
        self.driver().name()
    }

    fn allocate(&self, bytes: usize) -> Result<*mut c_void> {
        let started = Instant::now();
        let address = self.driver().allocate(bytes);
        self.copied("allocating memory", started, 0);
        address
    }

    unsafe fn free(&self, address: *mut c_void, bytes: usize) {
        // SAFETY: the caller's promise.
        unsafe { self.driver().free(address, bytes) };
    }

    fn keeps_freed_memory(&self) -> bool {
        self.driver().keeps_freed_memory()
    }

    fn allocates_zeros(&self) -> bool {
        self.driver().allocates_zeros()
    }

    fn is_host(&self) -> bool {
        self.driver().is_host()
    }

    fn attention_tile(&self) -> usize {
        self.driver().attention_tile()
    }

    fn blocks_at_once(&self) -> usize {
        self.driver().blocks_at_once()
    }

    fn logits_bytes(&self) -> usize {
        self.driver().logits_bytes()
    }

    fn captures_graphs(&self) -> bool {
        false
    }

    fn free_bytes(&self) -> Option<u64> {
        self.driver().free_bytes()
    }

    fn choices(&self) -> Option<String> {
        self.driver().choices()
    }

    fn choose(&self, choices: &str) -> bool {
        self.driver().choose(choices)
    }

    fn own_choice(&self) -> Option<String> {
        self.driver().own_choice()
    }

    fn after_launch(&self, op: &str, sizes: &[(&str, u64)]) -> Result<()> {
        let bytes = bytes_of(op, sizes);
        self.profile.borrow_mut().add(Op::Other(op.to_owned()), self.started.get(), 0.0, bytes);
        self.driver().after_launch(op, sizes)
    }

    unsafe fn upload(&self, to: *mut c_void, from: &[u8]) -> Result<()> {
        let started = Instant::now();
        // SAFETY: the caller's promise.
        let done = unsafe { self.driver().upload(to, from) };
        self.copied("upload", started, 2 * from.len());
        done
    }

    unsafe fn download(&self, to: &mut [u8], from: *const c_void) -> Result<()> {
        let started = Instant::now();
        let bytes = 2 * to.len();
        // SAFETY: the caller's promise.
        let done = unsafe { self.driver().download(to, from) };
        self.copied("download", started, bytes);
        done
    }

    unsafe fn zero(&self, at: *mut c_void, bytes: usize) -> Result<()> {
        let started = Instant::now();
        // SAFETY: the caller's promise.
        let done = unsafe { self.driver().zero(at, bytes) };
        self.copied("zero", started, bytes);
        done
    }

    unsafe fn product(&self, product: &Product) -> Result<()> {
        let started = Instant::now();
        // SAFETY: the caller's promise.
        let done = unsafe { self.driver().product(product) };
        let &Product { m, n, k, dtype, c_dtype, accumulate, .. } = product;
        let read = (m * k + k * n) * dtype.size();
        let written = m * n * c_dtype.size() * if accumulate { 2 } else { 1 };
        let name = match dtype {
            DType::Bf16 => "bf16",
            DType::F64 => "f64",
            _ => "f32",
        };
        let (form, outputs, inputs) = Form::of(product);
        let op = Op::Product { form, outputs, inputs, dtype: name };
        self.profile.borrow_mut().add(op, started, 2.0 * (m * n * k) as f64, (read + written) as f64);
        done
    }
}

/// Bytes of the passes over all parameters, of f32 and without the copy in bf16; 0 of other ops.
fn bytes_of(op: &str, sizes: &[(&str, u64)]) -> f64 {
    let n = sizes.iter().find(|(name, _)| *name == "n").map_or(0.0, |(_, n)| *n as f64);
    match op {
        // Weights and moments read and written, the gradient read.
        "adamw" => 28.0 * n,
        "clip_factor" => 4.0 * n,
        _ => 0.0,
    }
}
