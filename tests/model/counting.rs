//! A device that counts what is asked of another's driver.

use std::cell::{Cell, RefCell};
use std::ffi::c_void;
use std::rc::Rc;

use engine::device::Device;
use engine::device::bindings::engine_stream;
use engine::device::driver::{Driver, Graph, Product};
use engine::device::kernels::Kernels;
use engine::error::Result;

/// How often something was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Counts {
    pub uploads: usize,
    pub downloads: usize,
    /// Kernels, zeros and products that were queued by themselves, in a capture or not.
    pub launches: usize,
    pub graphs: usize,
}

/// What was asked for, in order; what is asked for again and again stands there once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The tiles of a mask: a batch is being made.
    Batch,
    Upload,
    Launch,
    Graph,
    Download,
}

#[derive(Default)]
pub struct Seen {
    counts: Cell<Counts>,
    events: RefCell<Vec<Event>>,
}

impl Seen {
    /// Since the last time.
    pub fn take(&self) -> Counts {
        self.counts.take()
    }

    /// Since the last time.
    pub fn take_events(&self) -> Vec<Event> {
        self.events.take()
    }

    fn count(&self, event: Event, change: impl FnOnce(&mut Counts)) {
        let mut counts = self.counts.get();
        change(&mut counts);
        self.counts.set(counts);
        let mut events = self.events.borrow_mut();
        if events.last() != Some(&event) {
            events.push(event);
        }
    }
}

/// `inner`, and what is asked of it.
pub fn device(inner: Device) -> (Device, Rc<Seen>) {
    let seen = Rc::new(Seen::default());
    (Device::with_driver(Box::new(Counting { inner, seen: seen.clone() })), seen)
}

struct Counting {
    inner: Device,
    seen: Rc<Seen>,
}

impl Counting {
    fn driver(&self) -> &dyn Driver {
        self.inner.driver()
    }
}

impl Driver for Counting {
    fn kernels(&self) -> Kernels {
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
        self.seen.count(Event::Batch, |_| ());
        self.driver().attention_tile()
    }

    fn blocks_at_once(&self) -> usize {
        self.driver().blocks_at_once()
    }

    fn logits_bytes(&self) -> usize {
        self.driver().logits_bytes()
    }

    fn captures_graphs(&self) -> bool {
        self.driver().captures_graphs()
    }

    fn after_launch(&self, op: &str, sizes: &[(&str, u64)]) -> Result<()> {
        self.seen.count(Event::Launch, |counts| counts.launches += 1);
        self.driver().after_launch(op, sizes)
    }

    unsafe fn upload(&self, to: *mut c_void, from: &[u8]) -> Result<()> {
        self.seen.count(Event::Upload, |counts| counts.uploads += 1);
        // SAFETY: the caller's promise.
        unsafe { self.driver().upload(to, from) }
    }

    unsafe fn download(&self, to: &mut [u8], from: *const c_void) -> Result<()> {
        self.seen.count(Event::Download, |counts| counts.downloads += 1);
        // SAFETY: the caller's promise.
        unsafe { self.driver().download(to, from) }
    }

    unsafe fn zero(&self, at: *mut c_void, bytes: usize) -> Result<()> {
        self.seen.count(Event::Launch, |counts| counts.launches += 1);
        // SAFETY: the caller's promise.
        unsafe { self.driver().zero(at, bytes) }
    }

    unsafe fn product(&self, product: &Product) -> Result<()> {
        self.seen.count(Event::Launch, |counts| counts.launches += 1);
        // SAFETY: the caller's promise.
        unsafe { self.driver().product(product) }
    }

    fn begin_capture(&self) -> Result<()> {
        self.driver().begin_capture()
    }

    fn end_capture(&self) -> Result<Box<dyn Graph>> {
        Ok(Box::new(CountedGraph { inner: self.driver().end_capture()?, seen: self.seen.clone() }))
    }
}

struct CountedGraph {
    inner: Box<dyn Graph>,
    seen: Rc<Seen>,
}

impl Graph for CountedGraph {
    fn launch(&self) -> Result<()> {
        self.seen.count(Event::Graph, |counts| counts.graphs += 1);
        self.inner.launch()
    }
}
