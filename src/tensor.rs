//! Tensors: a shape over a typed region of shared storage, and the pool that storage comes from.
//!
//! A [`Tensor`] is cheap to clone (it shares its storage). It is written once, by the op that makes it, while nobody
//! else holds it: [`Tensor::as_mut`] refuses a shared storage, so a tensor that a tape closure has captured can never
//! change under it. Freed storage goes back to the [`Device`]'s pool, so that a training step after the first
//! allocates nothing.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use crate::err;
use crate::error::Result;

/// What the numbers of a tensor are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DType {
    F32,
    F64,
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

/// `dispatch!(dtype, T => expression)`: runs the expression with `T` bound to the element type of `dtype`.
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
        }
    };
}

impl DType {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        dispatch!(self, T => size_of::<T>())
    }
}

/// A 64-byte line: storage is allocated in these, which aligns it for every vector unit.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

// SAFETY: an array of bytes with no padding (size equals alignment): any bit pattern is valid.
unsafe impl bytemuck::Zeroable for Line {}
// SAFETY: as above.
unsafe impl bytemuck::Pod for Line {}

/// Where tensors live: its pool of freed storage and its accounts.
#[derive(Clone, Default)]
pub struct Device(Rc<RefCell<Pool>>);

#[derive(Default)]
struct Pool {
    free: BTreeMap<usize, Vec<Vec<Line>>>,
    live_bytes: usize,
    peak_bytes: usize,
}

impl Device {
    /// The host's cores and memory.
    pub fn cpu() -> Self {
        Self::default()
    }

    /// The most bytes that tensors have held at once.
    pub fn peak_bytes(&self) -> usize {
        self.0.borrow().peak_bytes
    }

    /// Gives the pool's free storage back to the system.
    pub fn trim(&self) {
        self.0.borrow_mut().free.clear();
    }

    fn allocate(&self, bytes: usize) -> Storage {
        // Sizes are rounded up by at most an eighth, so that batches of almost the same length share storage.
        let lines = bytes.div_ceil(64).max(1);
        let step = (lines.next_power_of_two() / 8).max(1);
        let lines = lines.div_ceil(step) * step;
        let mut pool = self.0.borrow_mut();
        pool.live_bytes += lines * 64;
        pool.peak_bytes = pool.peak_bytes.max(pool.live_bytes);
        let reused = pool.free.get_mut(&lines).and_then(Vec::pop);
        let memory = reused.unwrap_or_else(|| bytemuck::zeroed_vec(lines));
        Storage { memory, device: self.clone() }
    }
}

struct Storage {
    memory: Vec<Line>,
    device: Device,
}

impl Drop for Storage {
    fn drop(&mut self) {
        let memory = std::mem::take(&mut self.memory);
        let mut pool = self.device.0.borrow_mut();
        pool.live_bytes -= memory.len() * 64;
        pool.free.entry(memory.len()).or_default().push(memory);
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
    /// A tensor whose elements are arbitrary (what its storage last held): for ops that write all of it.
    pub fn empty(device: &Device, shape: &[usize], dtype: DType) -> Self {
        let bytes = shape.iter().product::<usize>() * dtype.size();
        Self { storage: Rc::new(device.allocate(bytes)), offset: 0, shape: shape.to_vec(), dtype }
    }

    /// A tensor of zeros.
    pub fn zeros(device: &Device, shape: &[usize], dtype: DType) -> Self {
        let mut tensor = Self::empty(device, shape, dtype);
        dispatch!(dtype, T => tensor.fresh::<T>().fill(0 as T));
        tensor
    }

    /// A copy of `values` with this shape.
    pub fn from_slice<T: Element>(device: &Device, shape: &[usize], values: &[T]) -> Self {
        let mut tensor = Self::empty(device, shape, T::DTYPE);
        tensor.fresh::<T>().copy_from_slice(values);
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

    /// The elements.
    ///
    /// # Panics
    /// When `T` is not the tensor's dtype: a mistake of the calling op, never of a user.
    pub fn as_slice<T: Element>(&self) -> &[T] {
        assert_eq!(T::DTYPE, self.dtype, "dtype of a tensor of shape {:?}", self.shape);
        &bytemuck::cast_slice(&self.storage.memory)[self.offset..self.offset + self.len()]
    }

    /// The elements, to write; an error when somebody else holds the storage (say, a tape that was not dropped).
    pub fn as_mut<T: Element>(&mut self) -> Result<&mut [T]> {
        assert_eq!(T::DTYPE, self.dtype, "dtype of a tensor of shape {:?}", self.shape);
        let (offset, len) = (self.offset, self.len());
        let storage = Rc::get_mut(&mut self.storage)
            .ok_or_else(|| err!("internal: a tensor of shape {:?} is written while it is shared", self.shape))?;
        Ok(&mut bytemuck::cast_slice_mut(&mut storage.memory)[offset..offset + len])
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

    /// The elements as f64 (tests, reports).
    pub fn to_f64(&self) -> Vec<f64> {
        #[allow(clippy::unnecessary_cast, reason = "one of the two types is f64 itself")]
        {
            dispatch!(self.dtype, T => self.as_slice::<T>().iter().map(|&x| x as f64).collect())
        }
    }
}

impl std::fmt::Debug for Tensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tensor({:?}, {:?})", self.shape, self.dtype)
    }
}
