//! The context of a GPU: its memory, streams, events and graphs, and what may be done with them.

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;

use cudarc::driver::sys::{CUresult, CUstreamCaptureMode, CUstreamCaptureStatus};

use crate::fault::{Fault, Outcome, SILENT, fault};
use crate::node::{Node, Touch};

/// GPUs of the machine: a test takes one that no other has, so that a context that one test breaks is its own.
pub const GPUS: i32 = 512;
/// Of each GPU, unless a test wants less.
pub const TOTAL_BYTES: u64 = 80_000_000_000;

/// Set by `cuInit`.
pub static STARTED: AtomicBool = AtomicBool::new(false);
static CONTEXTS: LazyLock<Vec<Mutex<Context>>> =
    LazyLock::new(|| (0..GPUS).map(|gpu| Mutex::new(Context::new(gpu))).collect());

/// Bytes of each GPU. Beside the contexts, for who asks must not wait for a context that is at work.
static TOTALS: LazyLock<Vec<AtomicU64>> = LazyLock::new(|| (0..GPUS).map(|_| AtomicU64::new(TOTAL_BYTES)).collect());

pub fn total(gpu: i32) -> &'static AtomicU64 {
    &TOTALS[gpu as usize]
}

thread_local! {
    /// The GPU whose context is this thread's.
    pub static CURRENT: Cell<Option<i32>> = const { Cell::new(None) };
}

/// The context of a GPU that there is.
pub fn context(gpu: i32) -> MutexGuard<'static, Context> {
    CONTEXTS[gpu as usize].lock().unwrap_or_else(PoisonError::into_inner)
}

/// This thread's context, when it can be used.
pub fn current() -> Outcome<MutexGuard<'static, Context>> {
    if !STARTED.load(Ordering::Relaxed) {
        return fault(CUresult::CUDA_ERROR_NOT_INITIALIZED, "cuInit was not called");
    }
    let Some(gpu) = CURRENT.get() else {
        return fault(CUresult::CUDA_ERROR_INVALID_CONTEXT, "no context is current on this thread");
    };
    let context = context(gpu);
    if context.retained == 0 {
        return fault(CUresult::CUDA_ERROR_CONTEXT_IS_DESTROYED, "the thread's context was released");
    }
    match context.broken {
        Some(code) => fault(code, "the context is broken by what failed before"),
        None => Ok(context),
    }
}

/// What a handle is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    Context = 1,
    Stream,
    Event,
    Graph,
    Executable,
}

/// Handles are numbers that nothing else has and that never come again.
pub fn handle(gpu: i32, kind: Kind, number: u64) -> u64 {
    (kind as u64) << 56 | (gpu as u64) << 40 | number
}

pub fn gpu_of(handle: u64) -> i32 {
    (handle >> 40 & 0xffff) as i32
}

pub struct Block {
    pub bytes: u64,
    /// Nobody else's: another allocation at the same address has another.
    number: u64,
}

/// Page-locked memory.
pub struct Pinned {
    pub bytes: Box<[u8]>,
}

pub struct Capture {
    pub nodes: Vec<Arc<Node>>,
    pub mode: CUstreamCaptureMode,
    pub thread: ThreadId,
    pub invalid: bool,
}

#[derive(Default)]
pub struct Stream {
    queue: VecDeque<Arc<Node>>,
    /// Of all that was ever queued.
    pub queued: u64,
    pub passed: u64,
    /// When it passed the places that events note the time of; None: not yet.
    pub times: BTreeMap<u64, Option<u64>>,
    pub capture: Option<Capture>,
}

#[derive(Clone, Copy)]
pub struct Event {
    pub place: Place,
    /// Whether it notes the time.
    pub timed: bool,
}

#[derive(Clone, Copy)]
pub enum Place {
    /// Never recorded.
    New,
    /// After so many pieces of work of the stream.
    After(u64, u64),
    /// Recorded in a stream that was being captured.
    Captured,
}

pub struct Context {
    pub gpu: i32,
    pub retained: u32,
    pub broken: Option<CUresult>,
    /// Whether a kernel was ever launched: the runtime has then loaded modules into the context.
    pub has_modules: bool,
    pub streams: BTreeMap<u64, Stream>,
    pub events: BTreeMap<u64, Event>,
    pub graphs: BTreeMap<u64, Vec<Arc<Node>>>,
    pub executables: BTreeMap<u64, Vec<Arc<Node>>>,
    /// By address.
    pub blocks: BTreeMap<u64, Block>,
    /// Addresses and ends of what was freed and not allocated again.
    freed: BTreeMap<u64, u64>,
    /// By address.
    pub pinned: BTreeMap<u64, Pinned>,
    numbers: u64,
    /// Nanoseconds of work so far.
    pub clock: u64,
}

impl Context {
    fn new(gpu: i32) -> Self {
        Self {
            gpu,
            retained: 0,
            broken: None,
            has_modules: false,
            streams: BTreeMap::new(),
            events: BTreeMap::new(),
            graphs: BTreeMap::new(),
            executables: BTreeMap::new(),
            blocks: BTreeMap::new(),
            freed: BTreeMap::new(),
            pinned: BTreeMap::new(),
            numbers: 0,
            clock: 0,
        }
    }

    pub fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    pub fn new_handle(&mut self, kind: Kind) -> u64 {
        let number = self.number();
        handle(self.gpu, kind, number)
    }

    fn used(&self) -> u64 {
        self.blocks.values().map(|block| block.bytes).sum()
    }

    /// Bytes that can still be allocated, and all.
    pub fn free_and_total(&self) -> (u64, u64) {
        let total = total(self.gpu).load(Ordering::Relaxed);
        (total.saturating_sub(self.used()), total)
    }

    pub fn add_block(&mut self, address: u64, bytes: u64) {
        self.freed.retain(|&start, &mut end| end <= address || start >= address + bytes);
        let number = self.number();
        self.blocks.insert(address, Block { bytes, number });
    }

    pub fn remove_block(&mut self, address: u64) -> Outcome {
        let Some(block) = self.blocks.remove(&address) else {
            let why = if self.freed.contains_key(&address) {
                "it was freed before"
            } else {
                "it is no allocation of this GPU"
            };
            return fault(CUresult::CUDA_ERROR_INVALID_VALUE, format!("{address:#x}: {why}"));
        };
        self.freed.insert(address, address + block.bytes);
        Ok(())
    }

    /// The allocation that an address lies in.
    fn block_of(&self, address: u64) -> Option<(u64, &Block)> {
        let (&start, block) = self.blocks.range(..=address).next_back()?;
        (address < start + block.bytes).then_some((start, block))
    }

    /// `bytes` at `address`, which must lie in one allocation; else `code`.
    pub fn touch(&self, address: u64, bytes: u64, writes: bool, code: CUresult) -> Outcome<Touch> {
        match self.block_of(address) {
            Some((start, block)) if address + bytes <= start + block.bytes => {
                Ok(Touch { address, bytes, writes, block: start, number: block.number })
            }
            Some((start, block)) => {
                let beyond = address + bytes - start - block.bytes;
                fault(code, format!("{bytes} bytes at {address:#x} end {beyond} beyond their allocation"))
            }
            None if self.was_freed(address) => fault(code, format!("{address:#x} lies in memory that was freed")),
            None => fault(code, format!("{address:#x} is not memory of GPU {}", self.gpu)),
        }
    }

    /// What a kernel may touch by a word of its arguments.
    pub fn touch_of_word(&self, word: u64) -> Outcome<Option<Touch>> {
        if let Some((start, block)) = self.block_of(word) {
            let (bytes, number) = (block.bytes, block.number);
            return Ok(Some(Touch { address: start, bytes, writes: true, block: start, number }));
        }
        if self.was_freed(word) {
            let why = format!("an argument of the kernel, {word:#x}, lies in memory that was freed");
            return fault(CUresult::CUDA_ERROR_ILLEGAL_ADDRESS, why);
        }
        Ok(None)
    }

    fn was_freed(&self, address: u64) -> bool {
        self.freed.range(..=address).next_back().is_some_and(|(_, &end)| address < end)
    }

    /// The stream of this handle.
    pub fn stream(&mut self, stream: u64) -> Outcome<&mut Stream> {
        if stream == 0 {
            return fault(SILENT, "the null stream, which nothing orders with the engine's own");
        }
        let gpu = self.gpu;
        let other = || format!("{stream:#x} is no stream of GPU {gpu}, whose context is current, or was destroyed");
        self.streams.get_mut(&stream).ok_or_else(|| Fault { code: CUresult::CUDA_ERROR_INVALID_HANDLE, why: other() })
    }

    /// Queues work, or keeps it where the stream is captured.
    pub fn push(&mut self, handle: u64, node: Arc<Node>) -> Outcome {
        let stream = self.stream(handle)?;
        if let Some(capture) = &mut stream.capture {
            if capture.invalid {
                return fault(CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, "the capture was broken before");
            }
            capture.nodes.push(node);
            return Ok(());
        }
        let others = self.streams.iter().filter(|(other, _)| **other != handle);
        for earlier in others.flat_map(|(_, stream)| &stream.queue) {
            if node.touches.iter().any(|touch| earlier.touches.iter().any(|other| touch.conflicts(other))) {
                let why = format!(
                    "{} touches what {} on another stream does, and nothing orders them",
                    node.what, earlier.what
                );
                return fault(SILENT, why);
            }
        }
        let stream = self.stream(handle)?;
        stream.queue.push_back(node);
        stream.queued += 1;
        Ok(())
    }

    /// Runs a stream until it has passed `position`. What fails breaks the context.
    pub fn run_until(&mut self, handle: u64, position: u64) -> Outcome {
        loop {
            let Some(stream) = self.streams.get_mut(&handle).filter(|stream| stream.passed < position) else {
                return Ok(());
            };
            let Some(node) = stream.queue.pop_front() else { return Ok(()) };
            stream.passed += 1;
            self.clock += node.nanoseconds;
            if let Some(time) = stream.times.get_mut(&stream.passed) {
                *time = Some(self.clock);
            }
            self.run(&node).inspect_err(|fault| self.broken = Some(fault.code))?;
        }
    }

    pub fn is_idle(&self) -> bool {
        self.streams.values().all(|stream| stream.queue.is_empty())
    }

    pub fn run_all(&mut self) -> Outcome {
        let all: Vec<(u64, u64)> = self.streams.iter().map(|(handle, stream)| (*handle, stream.queued)).collect();
        all.into_iter().try_for_each(|(handle, queued)| self.run_until(handle, queued))
    }

    fn run(&self, node: &Node) -> Outcome {
        self.require_alive(node)?;
        if let Some((from, end)) = node.source() {
            let held = self.pinned.range(..=from).next_back();
            if held.is_none_or(|(start, pinned)| end > start + pinned.bytes.len() as u64) {
                return fault(SILENT, format!("{}: its source was freed before the copy was made", node.what));
            }
        }
        // SAFETY: looked at above.
        unsafe { node.run() }
    }

    /// An error when something that the node uses was freed.
    pub fn require_alive(&self, node: &Node) -> Outcome {
        let dead = |touch: &&Touch| self.blocks.get(&touch.block).is_none_or(|block| block.number != touch.number);
        match node.touches.iter().find(dead) {
            Some(touch) => {
                let why = format!("{} uses {:#x}, which was freed", node.what, touch.address);
                fault(CUresult::CUDA_ERROR_ILLEGAL_ADDRESS, why)
            }
            None => Ok(()),
        }
    }

    /// What is queued and reads the host's memory from `start` to `end`.
    pub fn reader_of(&self, start: u64, end: u64) -> Option<&str> {
        let queued = self.streams.values().flat_map(|stream| &stream.queue);
        let mut readers = queued.filter(|node| node.source().is_some_and(|(from, to)| from < end && start < to));
        readers.next().map(|node| node.what.as_str())
    }

    /// To be asked by calls that a capture forbids, unless it is relaxed or another thread's: such a call breaks it.
    pub fn require_no_strict_capture(&mut self) -> Outcome {
        let thread = std::thread::current().id();
        let mut broken = false;
        for capture in self.streams.values_mut().filter_map(|stream| stream.capture.as_mut()) {
            let forbids = match capture.mode {
                CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED => false,
                CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL => capture.thread == thread,
                CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL => true,
            };
            capture.invalid |= forbids;
            broken |= forbids;
        }
        if broken {
            return fault(CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "a capture that is not relaxed forbids it");
        }
        Ok(())
    }

    /// To be asked by calls on a stream that no capture of it allows: such a call breaks it.
    pub fn require_not_captured(&mut self, handle: u64) -> Outcome {
        if let Some(capture) = &mut self.stream(handle)?.capture {
            capture.invalid = true;
            return fault(CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "the stream is being captured");
        }
        Ok(())
    }

    pub fn capture_status(&mut self, handle: u64) -> Outcome<CUstreamCaptureStatus> {
        Ok(match &self.stream(handle)?.capture {
            None => CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE,
            Some(capture) if capture.invalid => CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_INVALIDATED,
            Some(_) => CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_ACTIVE,
        })
    }

    /// What was made and not given back.
    pub fn leftovers(&self) -> Vec<String> {
        let bytes = self.pinned.values().map(|pinned| pinned.bytes.len()).sum::<usize>();
        let counts = [
            (self.blocks.len(), format!("allocations of {} bytes", self.used())),
            (self.pinned.len(), format!("page-locked buffers of {bytes} bytes")),
            (self.streams.len(), "streams".to_string()),
            (self.events.len(), "events".to_string()),
            (self.graphs.len(), "graphs".to_string()),
            (self.executables.len(), "executable graphs".to_string()),
        ];
        let left = counts.into_iter().filter(|(count, _)| *count > 0);
        left.map(|(count, what)| format!("{count} {what} of GPU {} were not given back", self.gpu)).collect()
    }
}
