//! What a device does around its driver: memory that runs out, and what is said after each launch.

use std::cell::{Cell, RefCell};
use std::ffi::c_void;
use std::rc::Rc;

use engine::device::bindings::engine_stream;
use engine::device::driver::{Driver, Product};
use engine::device::kernels::Kernels;
use engine::device::{DType, Device, GraphMemory, Tensor};
use engine::error::Result;
use engine::{bail, err};

/// What the test sees of its driver.
#[derive(Default)]
struct Seen {
    /// Bytes that are allocated now.
    used: Cell<usize>,
    /// Ops in the order in which they were launched.
    launched: RefCell<Vec<String>>,
    /// The op that `after_launch` finds fault with.
    faulty: RefCell<Option<&'static str>>,
}

/// The CPU with little memory.
struct Small {
    cpu: Device,
    limit: usize,
    seen: Rc<Seen>,
}

/// A device with `limit` bytes.
fn device(limit: usize) -> (Device, Rc<Seen>) {
    let seen = Rc::new(Seen::default());
    let driver = Small { cpu: engine::host::device(), limit, seen: seen.clone() };
    (Device::with_driver(Box::new(driver)), seen)
}

impl Driver for Small {
    fn kernels(&self) -> Kernels {
        self.cpu.driver().kernels()
    }

    fn stream(&self) -> engine_stream {
        self.cpu.driver().stream()
    }

    fn name(&self) -> String {
        "small".into()
    }

    fn allocate(&self, bytes: usize) -> Result<*mut c_void> {
        let used = self.seen.used.get();
        if used + bytes > self.limit {
            bail!("{bytes} bytes do not fit beside {used}");
        }
        let address = self.cpu.driver().allocate(bytes)?;
        self.seen.used.set(used + bytes);
        Ok(address)
    }

    unsafe fn free(&self, address: *mut c_void, bytes: usize) {
        self.seen.used.set(self.seen.used.get() - bytes);
        // SAFETY: the caller's promise.
        unsafe { self.cpu.driver().free(address, bytes) };
    }

    fn is_host(&self) -> bool {
        true
    }

    fn after_launch(&self, op: &str, _sizes: &[(&str, u64)]) -> Result<()> {
        self.seen.launched.borrow_mut().push(op.to_string());
        if *self.seen.faulty.borrow() == Some(op) { Err(err!("`{op}` went wrong")) } else { Ok(()) }
    }

    unsafe fn upload(&self, to: *mut c_void, from: &[u8]) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.cpu.driver().upload(to, from) }
    }

    unsafe fn download(&self, to: &mut [u8], from: *const c_void) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.cpu.driver().download(to, from) }
    }

    unsafe fn zero(&self, at: *mut c_void, bytes: usize) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.cpu.driver().zero(at, bytes) }
    }

    unsafe fn product(&self, product: &Product) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.cpu.driver().product(product) }
    }
}

/// A tensor of this many bytes.
fn tensor(device: &Device, bytes: usize) -> Result<Tensor> {
    Tensor::zeros(device, &[bytes / 4], DType::F32)
}

#[test]
fn memory_that_runs_out_is_taken_from_what_the_pool_holds_free() {
    let (device, seen) = device(8192);
    drop((tensor(&device, 4096).unwrap(), tensor(&device, 2048).unwrap()));
    assert_eq!(seen.used.get(), 6144, "freed storage is kept for the next of its size");
    let large = tensor(&device, 7168).unwrap();
    assert_eq!(seen.used.get(), 7168);
    drop(large);
}

#[test]
fn what_does_not_fit_at_all_is_an_error_that_names_the_tensor_and_leaves_the_others_alone() {
    let (device, _) = device(8192);
    let kept = Tensor::from_slice(&device, &[2], &[1.0f32, 2.0]);
    let error = tensor(&device, 16384).unwrap_err().report();
    assert!(error.contains("a tensor of shape [4096] F32") && error.contains("16384 bytes do not fit"), "{error}");
    assert_eq!(kept.to_f64(), [1.0, 2.0]);
}

#[test]
fn all_memory_is_given_back_with_the_device() {
    let (device, seen) = device(1 << 30);
    drop(tensor(&device, 4096).unwrap());
    let graphs = GraphMemory::of(&device);
    graphs.within(|| drop(tensor(&device, 4096).unwrap()));
    assert!(seen.used.get() > 4096 && device.graph_bytes() > 0);
    drop((device, graphs));
    assert_eq!(seen.used.get(), 0);
}

#[test]
fn storage_of_graphs_is_not_mixed_with_the_rest() {
    let (device, _) = device(1 << 30);
    let graphs = GraphMemory::of(&device);
    let graph = graphs.within(|| tensor(&device, 4096).unwrap().address());
    let other = tensor(&device, 4096).unwrap();
    assert_ne!(graph, other.address());
    let again = graphs.within(|| tensor(&device, 4096).unwrap().address());
    assert_eq!(graph, again);
}

#[test]
fn storage_of_graphs_stays_until_the_last_who_may_launch_one_has_gone() {
    let (device, _) = device(1 << 30);
    let [first, second] = [(); 2].map(|()| GraphMemory::of(&device));
    first.within(|| drop(tensor(&device, 4096).unwrap()));
    drop(first);
    assert!(device.graph_bytes() > 0);
    drop(second);
    assert_eq!(device.graph_bytes(), 0);
}

#[test]
fn after_each_launch_the_driver_is_asked_and_its_fault_is_the_ops() {
    let (device, seen) = device(1 << 20);
    let x = Tensor::from_slice(&device, &[3], &[1.0f32, 2.0, 3.0]);
    let mut y = x.cast(DType::Bf16).unwrap().cast(DType::F32).unwrap();
    y.add(&x).unwrap();
    assert_eq!(*seen.launched.borrow(), ["cast", "cast", "add"]);
    seen.faulty.replace(Some("add"));
    assert_eq!(y.add(&x).unwrap_err().to_string(), "`add` went wrong");
}

#[test]
fn a_launcher_that_refuses_is_an_error_with_the_op_its_sizes_and_the_device() {
    let device = engine::host::device();
    let x = Tensor::from_slice(&device, &[2, 3], &[0.0f32; 6]);
    let driver = device.driver();
    let (n, d, dtype) = (2u32, 3u32, engine::device::driver::engine_dtype(DType::F32));
    let rope = engine::device::bindings::engine_rope {
        q_norm: x.address(),
        k_norm: x.address(),
        cos: x.address(),
        sin: x.address(),
        positions: std::ptr::null(),
        slots: std::ptr::null(),
        n: 0,
        heads: engine::device::bindings::engine_heads { query: 1, kv: 1, dim: d },
        eps: 0.0,
    };
    let null = std::ptr::null_mut();
    // SAFETY: no rows: nothing is read or written.
    let launched = unsafe {
        engine::launch!(driver, rope_forward { n, d }(null, null, null, x.address(), &rope, dtype, driver.stream()))
    };
    let error = launched.unwrap_err().to_string();
    assert_eq!(error, "rope_forward of N 2, D 3 on `cpu`: internal: heads of 3 elements: rope takes an even number");
}
