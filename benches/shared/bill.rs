//! The bill of work that a device would do: every kernel and product with its bytes, FLOPs and blocks, counted on a device that runs
//! nothing, and what they would take on a chip of a known roof.
//!
//! Launchers are the emulator's, so grids are those of the GPU; their kernels are taken apart and not run. Bytes are those of the tensors
//! whose addresses stand among a kernel's arguments, as the ops told the device ([`Driver::addressed`]): each byte once per kernel. What a
//! kernel reads or writes beside that (constants of a few bytes) is left out. `cross_entropy` of a large vocabulary reads again what it does not
//! keep of its logits in registers and shared memory ([`Node::again`]): from the cache, unless that of all blocks that run at once does not fit
//! there.

#![allow(dead_code)] // a test and a bench use a part each

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CStr, c_char, c_void};
use std::ptr;
use std::rc::Rc;

use engine::device::Device;
use engine::device::bindings::{engine_emulator_graph, engine_emulator_graph_free, engine_kernels, engine_stream};
use engine::device::driver::{Access, Driver, Extent, Graph, Product};
use engine::device::kernels::Kernels;
use engine::error::Result;

/// Addresses begin here: no other argument of a kernel looks like that.
const FIRST: usize = 0x7a51_0000_0000;

/// The kernel whose blocks read twice what they write over: a row of logits for its sum, and again for its gradient.
const TWO_READS: &str = "cross_entropy_kernel";

/// The share of the FLOPs of attention's backward that a kernel does: dq takes three products of seven (s, dp, dq), dk and dv four
/// (s, dp, dv, dk), and one kernel may do all. What only adds up delta does none.
fn share_of_backward(kernel: &str) -> f64 {
    match kernel {
        _ if kernel.contains("queries_kernel") => 3.0 / 7.0,
        _ if kernel.contains("keys_kernel") => 4.0 / 7.0,
        _ if kernel.contains("backward_kernel") => 1.0,
        _ => 0.0,
    }
}

/// What a chip can do at most.
#[derive(Clone, Copy, Debug)]
pub struct Roof {
    /// Of its memory.
    pub bytes_per_second: f64,
    /// Of products in bf16.
    pub flop_per_second: f64,
    /// What a node of a graph takes beside its work.
    pub seconds_per_node: f64,
    pub multiprocessors: u64,
    /// Of the cache that all multiprocessors share.
    pub cache_bytes: u64,
    /// Shared memory that a block gets at most.
    pub shared_bytes: usize,
}

/// An H100 SXM as well-made kernels find it, not as the data sheet has it.
pub const H100: Roof = Roof {
    bytes_per_second: 3.0e12,
    flop_per_second: 600e12,
    seconds_per_node: 1.2e-6,
    multiprocessors: 132,
    cache_bytes: 50 << 20,
    shared_bytes: 227 << 10,
};

/// One kernel, product, or filling with zeros.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// The launcher or the product.
    pub op: String,
    pub kernel: String,
    pub blocks: u64,
    /// Once.
    pub read: u64,
    /// What blocks read last, and then first of all a second time: what they do not keep in registers and shared memory.
    pub again: u64,
    pub written: u64,
    pub flop: f64,
}

impl Node {
    /// Seconds: the slower of memory and arithmetic, of the part of the chip that the blocks reach, and the node itself.
    pub fn seconds(&self, roof: &Roof) -> f64 {
        let reached = (self.blocks as f64 / roof.multiprocessors as f64).min(1.0);
        let memory = self.bytes(roof) as f64 / roof.bytes_per_second;
        roof.seconds_per_node + memory.max(self.flop / roof.flop_per_second) / reached
    }

    /// From memory and to it.
    pub fn bytes(&self, roof: &Roof) -> u64 {
        self.read_from_memory(roof) + self.written
    }

    /// All that is read, but what the cache still has when a block (one to a multiprocessor) reads it again. Half of the cache is for that:
    /// it has two parts, and either may hold what was read through the other, too.
    pub fn read_from_memory(&self, roof: &Roof) -> u64 {
        let at_once = self.again as f64 / self.blocks.max(1) as f64 * self.blocks.min(roof.multiprocessors) as f64;
        self.read + if at_once <= roof.cache_bytes as f64 / 2.0 { 0 } else { self.again }
    }
}

/// What was done since the account began.
#[derive(Default)]
pub struct Bill {
    pub nodes: Vec<Node>,
    pub graph_launches: usize,
    /// Copies to the device and from it.
    pub copies: usize,
    pub copied_bytes: u64,
}

impl Bill {
    pub fn seconds(&self, roof: &Roof) -> f64 {
        self.nodes.iter().map(|node| node.seconds(roof)).sum()
    }

    /// From memory and to it.
    pub fn bytes(&self, roof: &Roof) -> u64 {
        self.nodes.iter().map(|node| node.bytes(roof)).sum()
    }

    pub fn flop(&self) -> f64 {
        self.nodes.iter().map(|node| node.flop).sum()
    }

    /// The nodes of each op.
    pub fn by_op(&self) -> BTreeMap<&str, Vec<&Node>> {
        let mut ops: BTreeMap<&str, Vec<&Node>> = BTreeMap::new();
        self.nodes.iter().for_each(|node| ops.entry(&node.op).or_default().push(node));
        ops
    }
}

/// Heads and their width, for the arithmetic of attention: what no sizes of a launch tell.
#[derive(Clone, Copy)]
pub struct Attention {
    pub heads: usize,
    pub head_dim: usize,
}

/// A device that keeps account and runs so many blocks at once, and the account.
pub fn device(attention: Attention, blocks_at_once: usize) -> (Device, Rc<RefCell<Bill>>) {
    let bill = Rc::new(RefCell::new(Bill::default()));
    let driver = Billed {
        bill: bill.clone(),
        next: Cell::new(FIRST),
        extents: RefCell::default(),
        told: RefCell::default(),
        captured: RefCell::default(),
        attention,
        blocks_at_once,
    };
    (Device::with_driver(Box::new(driver)), bill)
}

struct Billed {
    bill: Rc<RefCell<Bill>>,
    next: Cell<usize>,
    /// By address, as they were told last.
    extents: RefCell<BTreeMap<usize, Extent>>,
    /// Where those begin that were told since the last launch.
    told: RefCell<BTreeSet<usize>>,
    captured: RefCell<Option<Vec<Node>>>,
    attention: Attention,
    blocks_at_once: usize,
}

/// A kernel as its launcher called it.
struct Called {
    kernel: String,
    blocks: u64,
    /// Of each block, beside its own arrays.
    shared_bytes: u64,
    words: Vec<u64>,
}

impl Called {
    /// Of `bytes` that the blocks of `cross_entropy` read twice, what they do not keep. Its kernel is told the bytes that a block keeps in
    /// registers and those in shared memory, one after the other (`Kept`); as it fills registers first, a launch without shared memory keeps all.
    fn not_kept(&self, bytes: u64) -> u64 {
        if self.shared_bytes == 0 {
            return 0;
        }
        let kept = |&&word: &&u64| word >> 32 == self.shared_bytes;
        let [&word] = self.words.iter().filter(kept).collect::<Vec<_>>()[..] else {
            panic!("`{}` is not told what its blocks keep: {:x?}", self.kernel, self.words);
        };
        bytes - self.blocks * (self.shared_bytes + (word & 0xffff_ffff))
    }
}

thread_local! {
    /// The kernels of the launcher that was called last.
    static CALLED: RefCell<Vec<Called>> = const { RefCell::new(Vec::new()) };
}

type Take = unsafe extern "C" fn(*mut c_void, *const c_char, u64, u64, *const u64, usize);
type Enqueue = unsafe extern "C" fn(engine_stream, *mut engine_emulator_graph, *const c_char) -> *const c_char;

// kernels/emulator/{queued,graph}.cpp
unsafe extern "C" {
    fn engine_emulator_queued(enqueue: Enqueue) -> *const engine_kernels;
    fn engine_emulator_shared_bytes(bytes: usize);
    fn engine_emulator_graph_kernels(graph: *const engine_emulator_graph, take: Take, to: *mut c_void);
}

unsafe extern "C" fn enqueue(
    _stream: engine_stream,
    kernels: *mut engine_emulator_graph,
    _launcher: *const c_char,
) -> *const c_char {
    unsafe extern "C" fn take(
        to: *mut c_void,
        kernel: *const c_char,
        blocks: u64,
        shared_bytes: u64,
        words: *const u64,
        count: usize,
    ) {
        // SAFETY: a C string and words that live during the call.
        let (kernel, words) = unsafe { (CStr::from_ptr(kernel), std::slice::from_raw_parts(words, count)) };
        let kernel = kernel.to_string_lossy().trim_matches(['(', ')']).to_owned();
        // SAFETY: `to` is the list below.
        unsafe { &mut *to.cast::<Vec<Called>>() }.push(Called { kernel, blocks, shared_bytes, words: words.to_vec() });
    }
    let mut called: Vec<Called> = Vec::new();
    // SAFETY: the graph is this callee's, and is freed once; the list outlives the call.
    unsafe {
        engine_emulator_graph_kernels(kernels, take, (&raw mut called).cast());
        engine_emulator_graph_free(kernels);
    }
    CALLED.with_borrow_mut(|all| all.append(&mut called));
    ptr::null()
}

impl Billed {
    fn add(&self, nodes: impl IntoIterator<Item = Node>) {
        match &mut *self.captured.borrow_mut() {
            Some(captured) => captured.extend(nodes),
            None => self.bill.borrow_mut().nodes.extend(nodes),
        }
    }

    fn copied(&self, bytes: usize) {
        let mut bill = self.bill.borrow_mut();
        bill.copies += 1;
        bill.copied_bytes += bytes as u64;
    }

    /// The memory of a launch: a part for each address among the arguments of its kernels, up to the next of them.
    fn parts(&self, called: &[Called]) -> BTreeMap<usize, (u64, Access)> {
        let extents = self.extents.borrow();
        let extent_of = |address: usize| {
            let holds = |&(&start, extent): &(&usize, &Extent)| address < start + extent.bytes.max(1);
            extents.range(..=address).rev().take(2).find(holds).unwrap_or_else(|| {
                panic!("`{}` is given memory that no tensor told of", called[0].kernel);
            })
        };
        // A bool or a number of 32 bits leaves old bytes beside it, and may look like an address: those that count are multiples
        // of 4 and were told for this launch.
        let told = self.told.take();
        let addresses: Vec<usize> = called
            .iter()
            .flat_map(|kernel| kernel.words.iter().map(|&word| word as usize))
            .filter(|word| (FIRST..self.next.get()).contains(word) && word.is_multiple_of(4))
            .filter(|&word| told.contains(extent_of(word).0))
            .collect();
        let part = |&address: &usize| {
            let (&start, extent) = extent_of(address);
            let end = addresses.iter().copied().filter(|&next| next > address).min();
            let end = end.unwrap_or(usize::MAX).min(start + extent.bytes);
            (address, ((end - address) as u64, extent.access))
        };
        addresses.iter().map(part).collect()
    }

    /// Of a launch with these sizes, in all its kernels.
    fn flop(&self, op: &str, sizes: &[(&str, u64)]) -> f64 {
        let size = |name: &str| sizes.iter().find(|(known, _)| *known == name).map_or(0.0, |(_, size)| *size as f64);
        let tile = self.attention_tile() as f64;
        let of_head = size("tiles") * tile * self.attention.head_dim as f64;
        let heads = self.attention.heads as f64;
        match op {
            "attention_forward" => 4.0 * of_head * tile * heads,
            "attention_backward" => 14.0 * of_head * tile * heads,
            "attention_decode" | "rope_attention_decode" => 4.0 * of_head * heads,
            "weight_gradients" => size("flop"),
            "linear_few_rows" => 2.0 * size("n") * size("i") * size("o"),
            "linear_geglu_forward" => 4.0 * size("n") * size("d") * size("f"),
            "linear_geglu_backward" => 2.0 * size("n") * size("d") * size("f"),
            _ => 0.0,
        }
    }
}

impl Driver for Billed {
    fn kernels(&self) -> Kernels {
        // SAFETY: a number of this thread; the table is a constant, and `enqueue` is what it wants.
        unsafe {
            engine_emulator_shared_bytes(H100.shared_bytes);
            Kernels { table: &*engine_emulator_queued(enqueue) }
        }
    }

    fn stream(&self) -> engine_stream {
        ptr::null_mut()
    }

    fn name(&self) -> String {
        "a device that keeps account".into()
    }

    fn allocate(&self, bytes: usize) -> Result<*mut c_void> {
        let address = self.next.get();
        // The next tensor does not touch it: its end is nobody's beginning.
        self.next.set(address + bytes.next_multiple_of(256) + 256);
        Ok(ptr::without_provenance_mut(address))
    }

    unsafe fn free(&self, _address: *mut c_void, _bytes: usize) {}

    fn keeps_freed_memory(&self) -> bool {
        false // each tensor has an address of its own
    }

    fn logits_bytes(&self) -> usize {
        engine::cuda::logits_bytes(80 << 30)
    }

    fn blocks_at_once(&self) -> usize {
        self.blocks_at_once
    }

    fn addressed(&self, extent: Extent) {
        self.extents.borrow_mut().insert(extent.address as usize, extent);
        self.told.borrow_mut().insert(extent.address as usize);
    }

    fn after_launch(&self, op: &str, sizes: &[(&str, u64)]) -> Result<()> {
        let called = CALLED.take();
        let (parts, flop) = (self.parts(&called), self.flop(op, sizes));
        let mut written_before: Vec<usize> = Vec::new();
        let largest = called.iter().map(|kernel| kernel.blocks * kernel.words.len() as u64).max();
        for kernel in &called {
            let (mut read, mut written, mut rewritten) = (0, 0, 0);
            let mut own: Vec<usize> = kernel.words.iter().map(|&word| word as usize).collect();
            own.sort_unstable();
            own.dedup();
            for (address, (bytes, access)) in own.iter().filter_map(|address| Some((*address, *parts.get(address)?))) {
                // What a launcher's first kernel writes its next one reads: sums of parts.
                let again = access == Access::Write && written_before.contains(&address);
                read += if access != Access::Write || again { bytes } else { 0 };
                written += match access {
                    Access::Read => 0,
                    Access::UpdatePart(part) => part as u64,
                    Access::Write | Access::Update if again => 0,
                    Access::Write | Access::Update => bytes,
                };
                rewritten += if access == Access::Update { bytes } else { 0 };
            }
            written_before.extend(own);
            let share = match op {
                "attention_backward" => share_of_backward(&kernel.kernel),
                _ if Some(kernel.blocks * kernel.words.len() as u64) == largest => 1.0,
                _ => 0.0,
            };
            let flop = share * flop;
            let (op, blocks) = (op.to_owned(), kernel.blocks);
            let again = if kernel.kernel.starts_with(TWO_READS) { kernel.not_kept(rewritten) } else { 0 };
            let kernel = kernel.kernel.clone();
            self.add([Node { op, kernel, blocks, read, again, written, flop }]);
        }
        Ok(())
    }

    unsafe fn upload(&self, _to: *mut c_void, from: &[u8]) -> Result<()> {
        self.copied(from.len());
        Ok(())
    }

    unsafe fn download(&self, to: &mut [u8], _from: *const c_void) -> Result<()> {
        self.copied(to.len());
        to.fill(0);
        Ok(())
    }

    unsafe fn zero(&self, _at: *mut c_void, bytes: usize) -> Result<()> {
        let (op, blocks, written) = ("zero".to_owned(), (bytes as u64).div_ceil(1 << 14).max(1), bytes as u64);
        self.add([Node { kernel: op.clone(), op, blocks, read: 0, again: 0, written, flop: 0.0 }]);
        Ok(())
    }

    unsafe fn product(&self, product: &Product) -> Result<()> {
        let &Product { m, n, k, dtype, c_dtype, accumulate, .. } = product;
        let written = (m * n * c_dtype.size()) as u64;
        let read = ((m * k + k * n) * dtype.size()) as u64 + if accumulate { written } else { 0 };
        // Tiles of 64 x 64 with sums of 512 terms: as far as a product can be split.
        let blocks = (m.div_ceil(64) * n.div_ceil(64) * k.div_ceil(512)) as u64;
        let op = name(product);
        let flop = 2.0 * (m * n * k) as f64;
        self.add([Node { kernel: op.clone(), op, blocks, read, again: 0, written, flop }]);
        Ok(())
    }

    fn begin_capture(&self) -> Result<()> {
        *self.captured.borrow_mut() = Some(Vec::new());
        Ok(())
    }

    fn end_capture(&self) -> Result<Box<dyn Graph>> {
        let nodes = self.captured.borrow_mut().take().unwrap_or_default();
        Ok(Box::new(Captured { nodes, bill: self.bill.clone() }))
    }
}

/// A product by what it is in a linear layer y = x W^T.
pub fn name(&Product { m, n, k, a, b, .. }: &Product) -> String {
    let (form, outputs, inputs) = match (a.transposed, b.transposed) {
        (false, true) => ("y = x W^T", n, k),
        (false, false) => ("dx = dy W", k, n),
        (true, _) => ("dW = dy^T x", m, n),
    };
    format!("{form}, W {outputs} x {inputs}")
}

struct Captured {
    nodes: Vec<Node>,
    bill: Rc<RefCell<Bill>>,
}

impl Graph for Captured {
    fn launch(&self) -> Result<()> {
        let mut bill = self.bill.borrow_mut();
        bill.graph_launches += 1;
        bill.nodes.extend(self.nodes.iter().cloned());
        Ok(())
    }
}
