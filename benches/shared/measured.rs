//! A device whose ops are timed one by one, under the names of the bill.
//!
//! It is put around one that waits for every op: the CPU, or a GPU that was opened with `ENGINE_DEBUG_SYNC=1`. What is timed on a GPU is launch,
//! kernels and waiting; [`Account::overhead`] is what launching and waiting take by themselves.

#![allow(dead_code)] // a test and a bench use a part each

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ffi::c_void;
use std::rc::Rc;
use std::time::{Duration, Instant};

use engine::device::Device;
use engine::device::bindings::engine_stream;
use engine::device::driver::{Driver, Extent, Product};
use engine::device::kernels::Kernels;
use engine::error::Result;

use super::bill;

/// What was timed since the account began.
#[derive(Default)]
pub struct Account {
    /// How often each op was called, and how long that took.
    pub ops: BTreeMap<String, (usize, Duration)>,
    /// Of a call that does nothing.
    pub overhead: Duration,
}

/// A device that keeps account, and the account.
pub fn device(inner: Device) -> Result<(Device, Rc<RefCell<Account>>)> {
    let account = Rc::new(RefCell::new(Account { overhead: overhead(&inner)?, ..Account::default() }));
    let driver = Measured { inner, account: account.clone(), started: Cell::new(Instant::now()) };
    Ok((Device::with_driver(Box::new(driver)), account))
}

/// The median time of filling a few bytes.
fn overhead(device: &Device) -> Result<Duration> {
    let driver = device.driver();
    let memory = driver.allocate(256)?;
    let time = |_| {
        let started = Instant::now();
        // SAFETY: allocated above.
        unsafe { driver.zero(memory, 4)? };
        Ok(started.elapsed())
    };
    let mut times = (0..201).map(time).collect::<Result<Vec<_>>>()?;
    // SAFETY: allocated above, and waited for.
    unsafe { driver.free(memory, 256) };
    times.sort();
    Ok(times[times.len() / 2])
}

struct Measured {
    inner: Device,
    account: Rc<RefCell<Account>>,
    /// When the launch that runs now was called.
    started: Cell<Instant>,
}

impl Measured {
    fn driver(&self) -> &dyn Driver {
        self.inner.driver()
    }

    fn add(&self, op: &str, since: Instant) {
        let took = since.elapsed();
        let mut account = self.account.borrow_mut();
        let (calls, time) = account.ops.entry(op.to_owned()).or_default();
        (*calls, *time) = (*calls + 1, *time + took);
    }
}

impl Driver for Measured {
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
        self.driver().allocate(bytes)
    }

    unsafe fn free(&self, address: *mut c_void, bytes: usize) {
        // SAFETY: the caller's promise.
        unsafe { self.driver().free(address, bytes) };
    }

    fn keeps_freed_memory(&self) -> bool {
        self.driver().keeps_freed_memory()
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

    /// As the device of the bill says, so that batches are padded alike. Jobs on a chip capture none.
    fn captures_graphs(&self) -> bool {
        true
    }

    fn addressed(&self, extent: Extent) {
        self.driver().addressed(extent);
    }

    fn after_launch(&self, op: &str, sizes: &[(&str, u64)]) -> Result<()> {
        self.driver().after_launch(op, sizes)?;
        self.add(op, self.started.get());
        Ok(())
    }

    unsafe fn upload(&self, to: *mut c_void, from: &[u8]) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.driver().upload(to, from) }
    }

    unsafe fn download(&self, to: &mut [u8], from: *const c_void) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.driver().download(to, from) }
    }

    unsafe fn zero(&self, at: *mut c_void, bytes: usize) -> Result<()> {
        let started = Instant::now();
        // SAFETY: the caller's promise.
        unsafe { self.driver().zero(at, bytes)? };
        self.add("zero", started);
        Ok(())
    }

    unsafe fn product(&self, product: &Product) -> Result<()> {
        let started = Instant::now();
        // SAFETY: the caller's promise.
        unsafe { self.driver().product(product)? };
        self.add(&bill::name(product), started);
        Ok(())
    }
}
