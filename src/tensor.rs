//! Tensors: a shape over a typed region of shared storage, and the pool that storage comes from.
//!
//! A [`Tensor`] is cheap to clone (it shares its storage). It is written once, by the op that makes it, while nobody
//! else holds it: [`Tensor::as_mut`] refuses a shared storage, so a tensor that a tape closure has captured can never
//! change under it. Freed storage goes back to the [`Device`]'s pool, so that a training step after the first
//! allocates nothing. What a captured graph uses comes from a pool of its own, which nothing else touches: a graph
//! can be replayed at any time without overwriting what is alive.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ffi::c_void;
use std::rc::Rc;

use half::bf16;

use crate::backend::driver::Driver;
use crate::err;
use crate::error::Result;

/// What the numbers of a tensor are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    F32,
    F64,
    Bf16,
    U32,
}

/// A number type that tensors can hold.
pub trait Element: bytemuck::Pod + Send + Sync + 'static {
    const DTYPE: DType;
}

impl Element for f32 {
    const DTYPE: DType = DType::F32;
}

impl Element for f64 {
    const DTYPE: DType = DType::F64;
}

impl Element for bf16 {
    const DTYPE: DType = DType::Bf16;
}

impl Element for u32 {
    const DTYPE: DType = DType::U32;
}

/// `dispatch!(dtype, T => expression)`: runs the expression with `T` bound to the element type of `dtype`, which must be
/// one that the CPU computes in.
#[macro_export]
macro_rules! dispatch {
    ($dtype:expr, $t:ident => $body:expr) => {
        match $dtype {
            $crate::tensor::DType::F32 => {
                type $t = f32;
                $body
            }
            $crate::tensor::DType::F64 => {
                type $t = f64;
                $body
            }
            other => panic!("the CPU does not compute in {other:?}"),
        }
    };
}

impl DType {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            DType::F32 | DType::U32 => 4,
            DType::F64 => 8,
            DType::Bf16 => 2,
        }
    }

    /// What statistics, master weights and gradients of parameters are kept in beside compute in this type.
    pub fn accumulator(self) -> DType {
        if self == DType::F64 { DType::F64 } else { DType::F32 }
    }
}

/// A 64-byte line: host storage is allocated in these, which aligns it for every vector unit.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);
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

enum Memory {
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

    fn allocate(&self, bytes: usize) -> Result<Storage> {
        let size = self.shared.rounded(bytes);
        let graph = self.shared.for_graph.get();
        let reused = self.shared.pool.borrow_mut().free[graph as usize].get_mut(&size).and_then(Vec::pop);
        let memory = match (reused, &self.shared.driver) {
            (Some(memory), _) => memory,
            (None, None) => Memory::Host(bytemuck::zeroed_vec(size / size_of::<Line>())),
            (None, Some(driver)) => Memory::Device(driver.allocate(size)?),
        };
        self.shared.pool.borrow_mut().account(self.purpose, size as isize);
        Ok(Storage { memory, size, graph, device: self.clone() })
    }
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

struct Storage {
    memory: Memory,
    size: usize,
    graph: bool,
    device: Device,
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

/// A dense row-major array on a device.
#[derive(Clone)]
pub struct Tensor {
    storage: Rc<Storage>,
    /// First element, counted in elements from the start of the storage.
    offset: usize,
    shape: Vec<usize>,
    dtype: DType,
}

impl Tensor {
    /// A tensor whose elements are arbitrary (what its storage last held): for ops that write all of it. An error when
    /// the device is out of memory.
    pub fn empty(device: &Device, shape: &[usize], dtype: DType) -> Result<Self> {
        let bytes = shape.iter().product::<usize>() * dtype.size();
        let storage =
            device.allocate(bytes).map_err(|e| e.context(format!("a tensor of shape {shape:?} {dtype:?}")))?;
        Ok(Self { storage: Rc::new(storage), offset: 0, shape: shape.to_vec(), dtype })
    }

    /// A tensor of zeros. An error when the device is out of memory.
    pub fn zeros(device: &Device, shape: &[usize], dtype: DType) -> Result<Self> {
        let mut tensor = Self::empty(device, shape, dtype)?;
        tensor.zero()?;
        Ok(tensor)
    }

    /// A copy of `values` with this shape.
    ///
    /// # Panics
    /// When the device is out of memory. Where that may happen, [`Tensor::empty`] and [`Tensor::upload`] say so.
    pub fn from_slice<T: Element>(device: &Device, shape: &[usize], values: &[T]) -> Self {
        let mut tensor = Self::empty(device, shape, T::DTYPE).expect("memory for a small tensor");
        tensor.upload(values).expect("a new tensor can be written");
        tensor
    }

    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn dtype(&self) -> DType {
        self.dtype
    }

    pub fn device(&self) -> &Device {
        &self.storage.device
    }

    /// `len` elements from `offset` on, seen with another shape; shares the storage.
    pub fn view(&self, offset: usize, shape: &[usize]) -> Self {
        let len: usize = shape.iter().product();
        assert!(offset + len <= self.len(), "view {offset}+{shape:?} of {:?}", self.shape);
        Self { offset: self.offset + offset, shape: shape.to_vec(), ..self.clone() }
    }

    /// The elements, on the CPU.
    ///
    /// # Panics
    /// When `T` is not the tensor's dtype or the tensor is not in host memory: a mistake of the calling op, never of a
    /// user.
    pub fn as_slice<T: Element>(&self) -> &[T] {
        assert_eq!(T::DTYPE, self.dtype, "dtype of a tensor of shape {:?}", self.shape);
        match &self.storage.memory {
            Memory::Host(lines) => &bytemuck::cast_slice(lines)[self.offset..self.offset + self.len()],
            Memory::Device(_) => panic!("a tensor of shape {:?} is not in host memory", self.shape),
        }
    }

    /// The elements, to write; an error when somebody else holds the storage (say, a tape that was not dropped).
    ///
    /// # Panics
    /// As [`Tensor::as_slice`].
    pub fn as_mut<T: Element>(&mut self) -> Result<&mut [T]> {
        assert_eq!(T::DTYPE, self.dtype, "dtype of a tensor of shape {:?}", self.shape);
        let (offset, len) = (self.offset, self.len());
        match &mut self.unshared()?.memory {
            Memory::Host(lines) => Ok(&mut bytemuck::cast_slice_mut(lines)[offset..offset + len]),
            Memory::Device(_) => panic!("a tensor is not in host memory"),
        }
    }

    fn unshared(&mut self) -> Result<&mut Storage> {
        let shape = &self.shape;
        Rc::get_mut(&mut self.storage)
            .ok_or_else(|| err!("internal: a tensor of shape {shape:?} is written while it is shared"))
    }

    /// [`Tensor::as_mut`] of a tensor that was made a moment ago, which nobody else can hold.
    ///
    /// # Panics
    /// When the storage is shared after all.
    pub fn fresh<T: Element>(&mut self) -> &mut [T] {
        self.as_mut().expect("a new tensor is not shared")
    }

    /// Whether this is the storage's only holder, so that it may be written in place.
    pub fn is_unique(&self) -> bool {
        Rc::strong_count(&self.storage) == 1
    }

    /// Where the elements lie, for a launcher.
    pub fn address(&self) -> *const c_void {
        let bytes = self.offset * self.dtype.size();
        match &self.storage.memory {
            Memory::Host(lines) => lines.as_ptr().cast::<u8>().wrapping_add(bytes).cast(),
            Memory::Device(start) => start.cast::<u8>().wrapping_add(bytes).cast(),
        }
    }

    /// Where the elements lie, for a launcher that writes; an error when somebody else holds the storage.
    pub fn address_mut(&mut self) -> Result<*mut c_void> {
        self.unshared()?;
        Ok(self.address().cast_mut())
    }

    /// Overwrites the elements; an error when somebody else holds the storage.
    ///
    /// # Panics
    /// When `values` are not as many, or of another type.
    pub fn upload<T: Element>(&mut self, values: &[T]) -> Result<()> {
        assert_eq!((T::DTYPE, values.len()), (self.dtype, self.len()), "upload to a tensor of shape {:?}", self.shape);
        let to = self.address_mut()?;
        match self.storage.device.driver() {
            None => self.as_mut()?.copy_from_slice(values),
            // SAFETY: the tensor's own memory, as long as `values` (checked above).
            Some(driver) => unsafe { driver.upload(to, bytemuck::cast_slice(values))? },
        }
        Ok(())
    }

    /// The elements, copied to the host after all that the device has queued.
    ///
    /// # Panics
    /// When `T` is not the tensor's dtype.
    pub fn download<T: Element>(&self) -> Result<Vec<T>> {
        let Some(driver) = self.device().driver() else { return Ok(self.as_slice().to_vec()) };
        assert_eq!(T::DTYPE, self.dtype, "dtype of a tensor of shape {:?}", self.shape);
        let mut values = bytemuck::zeroed_vec(self.len());
        // SAFETY: the tensor's own memory, as long as `values`.
        unsafe { driver.download(bytemuck::cast_slice_mut(&mut values), self.address())? };
        Ok(values)
    }

    /// Sets every element to 0; an error when somebody else holds the storage.
    pub fn zero(&mut self) -> Result<()> {
        let (to, bytes) = (self.address_mut()?, self.len() * self.dtype.size());
        match self.storage.device.driver() {
            None => dispatch!(self.dtype, T => self.as_mut::<T>()?.fill(0 as T)),
            // SAFETY: the tensor's own memory.
            Some(driver) => unsafe { driver.zero(to, bytes)? },
        }
        Ok(())
    }

    /// The elements as f64 (tests, reports).
    ///
    /// # Panics
    /// When the device fails.
    pub fn to_f64(&self) -> Vec<f64> {
        fn widened<T: Element + Into<f64>>(tensor: &Tensor) -> Vec<f64> {
            tensor.download::<T>().expect("a tensor can be read").into_iter().map(T::into).collect()
        }
        match self.dtype {
            DType::F32 => widened::<f32>(self),
            DType::F64 => widened::<f64>(self),
            DType::Bf16 => widened::<bf16>(self),
            DType::U32 => widened::<u32>(self),
        }
    }
}

impl std::fmt::Debug for Tensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tensor({:?}, {:?})", self.shape, self.dtype)
    }
}
