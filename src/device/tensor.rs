//! Tensors: a shape over a typed region of shared storage.
//!
//! A [`Tensor`] is cheap to clone (it shares its storage). It is written once, by the op that makes it, while nobody
//! else holds it: [`Tensor::as_mut`] refuses a shared storage, so a tensor that a tape closure has captured can never
//! change under it.

use std::ffi::c_void;
use std::rc::Rc;

use half::bf16;

use super::dtype::{DType, Element};
use super::memory::{Device, Memory, Storage};
use crate::dispatch;
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
