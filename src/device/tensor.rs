//! Tensors: a shape over a typed region of shared storage.
//!
//! A [`Tensor`] is cheap to clone (it shares its storage). It is written once, by the op that makes it, while nobody
//! else holds it: [`Tensor::as_mut`] refuses a shared storage, so a tensor that a tape closure has captured can never
//! change under it.

use std::borrow::Cow;
use std::ffi::c_void;
use std::rc::{Rc, Weak};

use half::bf16;

use super::driver::{Access, Extent};
use super::dtype::{DType, Element};
use super::memory::{Device, Storage};
use super::room;
use crate::err;
use crate::error::Result;

/// A dense row-major array on a device.
#[derive(Clone)]
pub struct Tensor {
    storage: Rc<Storage>,
    /// First element, counted in elements from the start of the storage.
    offset: usize,
    shape: Vec<usize>,
    dtype: DType,
}

/// A tensor as long as somebody holds its storage.
pub struct WeakTensor {
    storage: Weak<Storage>,
    offset: usize,
    shape: Vec<usize>,
    dtype: DType,
}

impl WeakTensor {
    /// The tensor, if its storage is still held.
    pub fn upgrade(self) -> Option<Tensor> {
        let Self { storage, offset, shape, dtype } = self;
        storage.upgrade().map(|storage| Tensor { storage, offset, shape, dtype })
    }
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
    ///
    /// What the system gives as zeros is not touched: whoever writes it first pays for its pages.
    pub fn zeros(device: &Device, shape: &[usize], dtype: DType) -> Result<Self> {
        let mut tensor = Self::empty(device, shape, dtype)?;
        if !tensor.storage.is_zero {
            tensor.zero()?;
        }
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

    /// The elements, where they lie in the host's memory: on the CPU.
    ///
    /// # Panics
    /// When `T` is not the tensor's dtype or the tensor is elsewhere: a mistake of the caller, never of a user.
    pub fn as_slice<T: Element>(&self) -> &[T] {
        self.check_host::<T>();
        // SAFETY: the storage holds the elements, initialised, until `self` goes; whoever writes them holds it alone.
        unsafe { std::slice::from_raw_parts(self.place().cast(), self.len()) }
    }

    /// [`Tensor::as_slice`], to write; an error when somebody else holds the storage (say, a tape that was not dropped).
    ///
    /// # Panics
    /// As [`Tensor::as_slice`].
    pub fn as_mut<T: Element>(&mut self) -> Result<&mut [T]> {
        self.check_host::<T>();
        let (address, len) = (self.address_mut()?.cast(), self.len());
        // SAFETY: as above, and nobody else holds the storage.
        Ok(unsafe { std::slice::from_raw_parts_mut(address, len) })
    }

    fn check_host<T: Element>(&self) {
        assert_eq!(T::DTYPE, self.dtype, "dtype of a tensor of shape {:?}", self.shape);
        assert!(self.device().driver().is_host(), "a tensor of shape {:?} is not in the host's memory", self.shape);
    }

    /// The same tensor, which does not hold its storage.
    pub fn downgrade(&self) -> WeakTensor {
        let Self { storage, offset, shape, dtype } = self;
        WeakTensor { storage: Rc::downgrade(storage), offset: *offset, shape: shape.clone(), dtype: *dtype }
    }

    /// Whether this is the storage's only holder, so that it may be written in place.
    pub fn is_unique(&self) -> bool {
        Rc::strong_count(&self.storage) == 1
    }

    /// Whether the elements begin at a multiple of so many bytes, which is at most 64.
    pub fn is_at_multiple_of(&self, bytes: usize) -> bool {
        (self.offset * self.dtype.size()).is_multiple_of(bytes)
    }

    /// Where the elements lie, for a launcher.
    pub fn address(&self) -> *const c_void {
        self.told(0, self.len(), Access::Read)
    }

    /// Where the elements from `offset` on lie, for a launcher that reads at most so many elements of them, wherever they are.
    pub fn address_of(&self, offset: usize, elements: usize) -> *const c_void {
        self.told(offset, elements.min(self.len() - offset), Access::Read)
    }

    /// Where the elements lie, for a launcher that writes all of them; an error when somebody else holds the storage.
    pub fn address_mut(&mut self) -> Result<*mut c_void> {
        self.address_to(self.len(), Access::Write)
    }

    /// [`address_mut`](Self::address_mut), for a launcher that does this with at most so many of them.
    pub fn address_to(&mut self, elements: usize, access: Access) -> Result<*mut c_void> {
        self.address_of_part(0, elements.min(self.len()), access)
    }

    /// [`address_mut`](Self::address_mut) of the elements from `offset` on, for a launcher that does this with so many of them.
    pub fn address_of_part(&mut self, offset: usize, elements: usize, access: Access) -> Result<*mut c_void> {
        if !self.is_unique() {
            return Err(err!("internal: a tensor of shape {:?} is written while it is shared", self.shape));
        }
        Ok(self.told(offset, elements, access).cast_mut())
    }

    /// The address, of which the driver is told how much is used.
    fn told(&self, offset: usize, elements: usize, access: Access) -> *const c_void {
        let size = self.dtype.size();
        let address = self.place().cast::<u8>().wrapping_add(offset * size).cast();
        self.device().driver().addressed(Extent { address, bytes: elements * size, access });
        address
    }

    fn place(&self) -> *const c_void {
        self.storage.address.cast::<u8>().wrapping_add(self.offset * self.dtype.size()).cast()
    }

    /// Overwrites the elements; an error when somebody else holds the storage.
    ///
    /// # Panics
    /// When `values` are not as many, or of another type.
    pub fn upload<T: Element>(&mut self, values: &[T]) -> Result<()> {
        assert_eq!((T::DTYPE, values.len()), (self.dtype, self.len()), "upload to a tensor of shape {:?}", self.shape);
        let to = self.address_mut()?;
        // SAFETY: the tensor's own memory, as long as `values` (checked above).
        unsafe { self.device().driver().upload(to, bytemuck::cast_slice(values)) }
    }

    /// Overwrites the elements by what `fill` writes: in place on the CPU, else through a copy in the host's memory.
    ///
    /// # Panics
    /// When `T` is not the tensor's dtype.
    pub fn fill_with<T: Element>(&mut self, fill: impl FnOnce(&mut [T]) -> Result<()>) -> Result<()> {
        if self.device().driver().is_host() {
            return fill(self.as_mut()?);
        }
        let mut values = room::zeroed(self.len(), "a copy of a tensor")?;
        fill(&mut values)?;
        self.upload(&values)
    }

    /// The elements after all that the device has queued: in place on the CPU, else copied.
    ///
    /// # Panics
    /// When `T` is not the tensor's dtype.
    pub fn read<T: Element>(&self) -> Result<Cow<'_, [T]>> {
        if self.device().driver().is_host() { Ok(self.as_slice().into()) } else { Ok(self.download()?.into()) }
    }

    /// The elements, copied to the host after all that the device has queued.
    ///
    /// # Panics
    /// When `T` is not the tensor's dtype.
    pub fn download<T: Element>(&self) -> Result<Vec<T>> {
        assert_eq!(T::DTYPE, self.dtype, "dtype of a tensor of shape {:?}", self.shape);
        let mut values = room::zeroed(self.len(), "a copy of a tensor")?;
        // SAFETY: the tensor's own memory, as long as `values`.
        unsafe { self.device().driver().download(bytemuck::cast_slice_mut(&mut values), self.address())? };
        Ok(values)
    }

    /// Sets every element to 0; an error when somebody else holds the storage.
    pub fn zero(&mut self) -> Result<()> {
        let (to, bytes) = (self.address_mut()?, self.len() * self.dtype.size());
        // SAFETY: the tensor's own memory.
        unsafe { self.device().driver().zero(to, bytes) }
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
            DType::U16 => widened::<u16>(self),
            DType::U32 => widened::<u32>(self),
        }
    }
}

impl std::fmt::Debug for Tensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tensor({:?}, {:?})", self.shape, self.dtype)
    }
}
