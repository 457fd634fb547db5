//! Where tensors live: a device's memory, the pool that freed storage goes back to, and the accounts by purpose.
//!
//! A training step after the first allocates nothing. What a captured graph uses comes from an [`Arena`] of its own, which
//! nothing else touches: a graph can be replayed at any time without overwriting what is alive. When the driver is out of
//! memory, the pool's free storage is given back to it and the request is made once more.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ffi::c_void;
use std::rc::Rc;

use super::arena::Arena;
use super::driver::Driver;
use super::room;
use crate::error::{Kind, Result};

/// Blocks of fewer bytes are asked for without comparing them with what the host has left.
const ASKED_BYTES: usize = 16 << 20;

/// What memory is for: accounts are kept by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Master weights, whole or in halves, and what ops compute in.
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

/// Where tensors live. A handle also says what its tensors are for.
#[derive(Clone)]
pub struct Device {
    shared: Rc<Shared>,
    purpose: Purpose,
}

struct Shared {
    pool: RefCell<Pool>,
    arena: RefCell<Arena>,
    /// Whether storage is taken from the arena of graphs.
    for_graph: Cell<bool>,
    /// How many [`GraphMemory`] there are.
    graph_owners: Cell<usize>,
    accounts: RefCell<Accounts>,
    /// Bytes of the driver that are not given back.
    held: Cell<Account>,
    /// The most that there can be, where the driver's memory is the host's: the host promises more than it has, and ends
    /// whoever believes it.
    room: Option<u64>,
    driver: Box<dyn Driver>,
}

/// Freed blocks by their size in bytes.
type Pool = BTreeMap<usize, Vec<*mut c_void>>;

#[derive(Default)]
struct Accounts {
    total: Account,
    by_purpose: [Account; 5],
}

/// Bytes that tensors hold now, and the most that they have held.
#[derive(Clone, Copy, Default)]
struct Account {
    now: usize,
    peak: usize,
}

impl Account {
    fn add(&mut self, bytes: isize) {
        self.now = self.now.wrapping_add_signed(bytes);
        self.peak = self.peak.max(self.now);
    }

    fn with(mut self, bytes: isize) -> Self {
        self.add(bytes);
        self
    }
}

impl Device {
    /// The device of this driver.
    pub fn with_driver(driver: Box<dyn Driver>) -> Self {
        let arena = RefCell::new(Arena::new(driver.keeps_freed_memory()));
        let (pool, accounts, held) = (RefCell::default(), RefCell::default(), Cell::default());
        let room = if driver.is_host() { room::available() } else { None };
        let (for_graph, graph_owners) = (Cell::default(), Cell::default());
        let shared = Shared { pool, arena, for_graph, graph_owners, accounts, held, room, driver };
        Self { shared: Rc::new(shared), purpose: Purpose::Activations }
    }

    /// The same device, whose tensors are for `purpose`.
    pub fn of(&self, purpose: Purpose) -> Self {
        Self { shared: self.shared.clone(), purpose }
    }

    /// What runs the kernels.
    pub fn driver(&self) -> &dyn Driver {
        &*self.shared.driver
    }

    /// The most bytes that tensors have held at once.
    pub fn peak_bytes(&self) -> usize {
        self.shared.accounts.borrow().total.peak
    }

    /// The most bytes that tensors for `purpose` have held at once.
    pub fn peak_bytes_of(&self, purpose: Purpose) -> usize {
        self.shared.accounts.borrow().by_purpose[purpose as usize].peak
    }

    /// The most bytes that tensors have held at once, for each purpose by its name.
    pub fn peak_by_purpose(&self) -> BTreeMap<String, usize> {
        let named = |purpose: Purpose| (format!("{purpose:?}").to_lowercase(), self.peak_bytes_of(purpose));
        Purpose::ALL.into_iter().map(named).collect()
    }

    /// The most bytes that were the driver's at once: those of tensors, and what is kept for the next ones.
    pub fn peak_held_bytes(&self) -> usize {
        self.shared.held.get().peak
    }

    /// Bytes of the arena of graphs.
    pub fn graph_bytes(&self) -> usize {
        self.shared.arena.borrow().bytes()
    }

    /// Gives the pool's free storage back to the system; what graphs use stays.
    pub fn trim(&self) {
        self.shared.trim();
    }

    /// [`trim`](Self::trim), but for storage that a tensor of so many bytes could have, which will be asked for soon.
    pub fn trim_but_for(&self, bytes: usize) {
        let size = self.shared.rounded(bytes);
        let kept = self.shared.pool.borrow_mut().get_mut(&size).and_then(Vec::pop);
        self.shared.trim();
        if let Some(address) = kept {
            self.shared.pool.borrow_mut().entry(size).or_default().push(address);
        }
    }

    pub(super) fn allocate(&self, bytes: usize) -> Result<Storage> {
        let size = self.shared.rounded(bytes);
        let graph = self.shared.for_graph.get();
        let (address, is_new) =
            if graph { (self.shared.take_from_arena(size)?, false) } else { self.shared.take_from_pool(size)? };
        self.account(size as isize);
        let is_zero = is_new && self.shared.driver.allocates_zeros();
        Ok(Storage { address, size, graph, is_zero, device: self.clone() })
    }

    fn account(&self, bytes: isize) {
        let mut accounts = self.shared.accounts.borrow_mut();
        accounts.total.add(bytes);
        accounts.by_purpose[self.purpose as usize].add(bytes);
    }
}

/// A share in the arena of graphs. Whoever captures graphs keeps one for as long as they may be launched; with the last share
/// the arena is given back to the system, as far as no tensor lies in it.
pub struct GraphMemory {
    device: Device,
}

impl GraphMemory {
    pub fn of(device: &Device) -> Self {
        let owners = &device.shared.graph_owners;
        owners.set(owners.get() + 1);
        Self { device: device.clone() }
    }

    /// Runs `work` with storage from the arena: what was captured there may be replayed later.
    pub fn within<R>(&self, work: impl FnOnce() -> R) -> R {
        let before = self.device.shared.for_graph.replace(true);
        let result = work();
        self.device.shared.for_graph.set(before);
        result
    }

    /// Whose graphs they are.
    pub fn device(&self) -> &Device {
        &self.device
    }
}

impl Drop for GraphMemory {
    fn drop(&mut self) {
        let shared = &self.device.shared;
        shared.graph_owners.set(shared.graph_owners.get() - 1);
        if shared.graph_owners.get() == 0 {
            let free = shared.arena.borrow_mut().take_free_chunks();
            free.into_iter().for_each(|chunk| shared.free(chunk.address, chunk.size));
        }
    }
}

impl Shared {
    /// Sizes are rounded up by at most an eighth, so that batches of almost the same length share storage.
    fn rounded(&self, bytes: usize) -> usize {
        if !self.driver.keeps_freed_memory() {
            return bytes;
        }
        let lines = bytes.div_ceil(64).max(1);
        let step = (lines.next_power_of_two() / 8).max(1);
        lines.div_ceil(step) * step * 64
    }

    /// A block, and whether it is the driver's and nobody had it before.
    fn take_from_pool(&self, size: usize) -> Result<(*mut c_void, bool)> {
        let reused = self.pool.borrow_mut().get_mut(&size).and_then(Vec::pop);
        match reused {
            Some(address) => Ok((address, false)),
            None => Ok((self.take_from_driver(size)?, true)),
        }
    }

    fn take_from_arena(&self, size: usize) -> Result<*mut c_void> {
        let mut arena = self.arena.borrow_mut();
        if let Some(address) = arena.take(size) {
            return Ok(address);
        }
        let chunk = arena.chunk_size(size);
        arena.add_chunk(self.take_from_driver(chunk)?, chunk);
        Ok(arena.take(size).expect("the new chunk holds it"))
    }

    fn take_from_driver(&self, size: usize) -> Result<*mut c_void> {
        let again = |_| {
            self.trim();
            self.ask_driver(size)
        };
        self.ask_driver(size).or_else(again).map_err(|error| error.or_kind(Kind::OutOfMemory))
    }

    fn ask_driver(&self, size: usize) -> Result<*mut c_void> {
        let held = self.held.get();
        if let Some(room) = self.room.filter(|_| size >= ASKED_BYTES) {
            room::require_of(size as u64, room.saturating_sub(held.now as u64), "tensors")?;
        }
        let address = self.driver.allocate(size)?;
        self.held.set(held.with(size as isize));
        Ok(address)
    }

    fn trim(&self) {
        let free = std::mem::take(&mut *self.pool.borrow_mut());
        for (size, blocks) in free {
            blocks.into_iter().for_each(|address| self.free(address, size));
        }
    }

    /// Frees what this device has allocated and nobody holds.
    fn free(&self, address: *mut c_void, size: usize) {
        self.held.set(self.held.get().with(-(size as isize)));
        // SAFETY: the callers took it out of the pool or the arena, whose blocks came from this driver with this size.
        unsafe { self.driver.free(address, size) };
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.trim();
        let chunks = self.arena.get_mut().take_free_chunks();
        chunks.into_iter().for_each(|chunk| self.free(chunk.address, chunk.size));
    }
}

/// A block of a device's memory, which goes back to where it came from.
pub(super) struct Storage {
    pub address: *mut c_void,
    size: usize,
    graph: bool,
    /// Whether it began as zeros.
    pub is_zero: bool,
    pub device: Device,
}

impl Drop for Storage {
    fn drop(&mut self) {
        let shared = &self.device.shared;
        self.device.account(-(self.size as isize));
        if self.graph {
            shared.arena.borrow_mut().give(self.address, self.size);
        } else if shared.driver.keeps_freed_memory() {
            shared.pool.borrow_mut().entry(self.size).or_default().push(self.address);
        } else {
            shared.free(self.address, self.size);
        }
    }
}
