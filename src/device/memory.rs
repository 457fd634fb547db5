//! Where tensors live: a device's memory, the pool that freed storage goes back to, and the accounts by purpose.
//!
//! A training step after the first allocates nothing. What a captured graph uses comes from a pool of its own, which nothing
//! else touches: a graph can be replayed at any time without overwriting what is alive.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ffi::c_void;
use std::rc::Rc;

use super::driver::Driver;
use crate::err;
use crate::error::{Kind, Result};

/// A 64-byte line: host storage is allocated in these, which aligns it for every vector unit.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Line([u8; 64]);
// SAFETY: an array of bytes with no padding (size equals alignment): any bit pattern is valid.
unsafe impl bytemuck::Zeroable for Line {}
// SAFETY: as above.
unsafe impl bytemuck::Pod for Line {}

/// What memory is for: accounts are kept by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Master weights and their copy in the compute type.
    Weights,
    /// AdamW's moments.
    Optimizer,
    /// Gradients of parameters.
    Gradients,
    /// What ops put on the tape, their gradients, and key-value caches.
    Activations,
    /// Logits, partial sums and other things that live within one op.
    Scratch,
}

impl Purpose {
    pub const ALL: [Purpose; 5] =
        [Purpose::Weights, Purpose::Optimizer, Purpose::Gradients, Purpose::Activations, Purpose::Scratch];
}

/// Where tensors live: its pool of freed storage and its accounts. A handle also says what its tensors are for.
#[derive(Clone)]
pub struct Device {
    shared: Rc<Shared>,
    purpose: Purpose,
}

struct Shared {
    pool: RefCell<Pool>,
    /// Whether storage is taken from the pool of graphs.
    for_graph: Cell<bool>,
    /// None: the host.
    driver: Option<Box<dyn Driver>>,
}

#[derive(Default)]
struct Pool {
    /// By size in bytes; the second is that of graphs.
    free: [BTreeMap<usize, Vec<Memory>>; 2],
    live_bytes: usize,
    peak_bytes: usize,
    /// By purpose: bytes now, and at most.
    accounts: [(usize, usize); 5],
}

pub(super) enum Memory {
    Host(Vec<Line>),
    Device(*mut c_void),
}

impl Device {
    /// The host's cores and memory.
    pub fn cpu() -> Self {
        Self::new(None)
    }

    /// A device that runs the kernels.
    pub fn with_driver(driver: Box<dyn Driver>) -> Self {
        Self::new(Some(driver))
    }

    fn new(driver: Option<Box<dyn Driver>>) -> Self {
        let shared = Shared { pool: RefCell::default(), for_graph: Cell::new(false), driver };
        Self { shared: Rc::new(shared), purpose: Purpose::Activations }
    }

    /// The same device, whose tensors are for `purpose`.
    pub fn of(&self, purpose: Purpose) -> Self {
        Self { shared: self.shared.clone(), purpose }
    }

    /// What runs the kernels; None on the CPU.
    pub fn driver(&self) -> Option<&dyn Driver> {
        self.shared.driver.as_deref()
    }

    /// The most bytes that tensors have held at once.
    pub fn peak_bytes(&self) -> usize {
        self.shared.pool.borrow().peak_bytes
    }

    /// The most bytes that tensors for `purpose` have held at once.
    pub fn peak_bytes_of(&self, purpose: Purpose) -> usize {
        self.shared.pool.borrow().accounts[purpose as usize].1
    }

    /// Gives the pool's free storage back to the system; what graphs use stays.
    pub fn trim(&self) {
        let free = std::mem::take(&mut self.shared.pool.borrow_mut().free[0]);
        self.shared.release(free);
    }

    /// Runs `work` with storage from the pool of graphs: what was captured there may be replayed later.
    pub fn for_graph<R>(&self, work: impl FnOnce() -> R) -> R {
        let before = self.shared.for_graph.replace(true);
        let result = work();
        self.shared.for_graph.set(before);
        result
    }

    pub(super) fn allocate(&self, bytes: usize) -> Result<Storage> {
        let size = self.shared.rounded(bytes);
        let graph = self.shared.for_graph.get();
        let reused = self.shared.pool.borrow_mut().free[graph as usize].get_mut(&size).and_then(Vec::pop);
        let memory = match (reused, &self.shared.driver) {
            (Some(memory), _) => memory,
            (None, None) => Memory::Host(host_lines(size)?),
            (None, Some(driver)) => {
                Memory::Device(driver.allocate(size).map_err(|error| error.or_kind(Kind::OutOfMemory))?)
            }
        };
        self.shared.pool.borrow_mut().account(self.purpose, size as isize);
        Ok(Storage { memory, size, graph, device: self.clone() })
    }
}

fn host_lines(bytes: usize) -> Result<Vec<Line>> {
    let lines = bytemuck::allocation::try_zeroed_vec(bytes / size_of::<Line>());
    lines.map_err(|()| err!("the host has no memory for {bytes} bytes").of_kind(Kind::OutOfMemory))
}

impl Shared {
    /// Sizes are rounded up by at most an eighth, so that batches of almost the same length share storage.
    fn rounded(&self, bytes: usize) -> usize {
        if self.driver.as_ref().is_some_and(|driver| !driver.keeps_freed_memory()) {
            return bytes;
        }
        let lines = bytes.div_ceil(64).max(1);
        let step = (lines.next_power_of_two() / 8).max(1);
        lines.div_ceil(step) * step * 64
    }

    fn release(&self, free: BTreeMap<usize, Vec<Memory>>) {
        let Some(driver) = &self.driver else { return };
        for (size, blocks) in free {
            for block in blocks {
                if let Memory::Device(address) = block {
                    // SAFETY: this pool allocated it with this size, and took it back from its last holder.
                    unsafe { driver.free(address, size) };
                }
            }
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let free = std::mem::take(&mut self.pool.get_mut().free);
        free.into_iter().for_each(|free| self.release(free));
    }
}

impl Pool {
    fn account(&mut self, purpose: Purpose, bytes: isize) {
        self.live_bytes = self.live_bytes.wrapping_add_signed(bytes);
        self.peak_bytes = self.peak_bytes.max(self.live_bytes);
        let (now, most) = &mut self.accounts[purpose as usize];
        *now = now.wrapping_add_signed(bytes);
        *most = (*most).max(*now);
    }
}

pub(super) struct Storage {
    pub memory: Memory,
    size: usize,
    graph: bool,
    pub device: Device,
}

impl Drop for Storage {
    fn drop(&mut self) {
        let memory = std::mem::replace(&mut self.memory, Memory::Host(Vec::new()));
        let shared = &self.device.shared;
        shared.pool.borrow_mut().account(self.device.purpose, -(self.size as isize));
        match (&memory, &shared.driver) {
            (Memory::Device(address), Some(driver)) if !self.graph && !driver.keeps_freed_memory() => {
                // SAFETY: allocated by this driver with this size, and nobody holds it any more.
                unsafe { driver.free(*address, self.size) }
            }
            _ => shared.pool.borrow_mut().free[self.graph as usize].entry(self.size).or_default().push(memory),
        }
    }
}
