//! Gradients of vectors, the weights of norms: each op of a backward leaves sums over some rows, and one launch at the end of the
//! backward adds up those of all vectors.
//!
//! A sum over all rows has one owner per column, which is few threads; and there are four norms in a layer, so that
//! adding up one by one was a tenth of all launches of a step.

use std::ffi::c_void;

use crate::device::driver::{Access, Extent, engine_dtype};
use crate::device::{DType, Device, Purpose, Tensor};
use crate::error::Result;
use crate::launch;

/// The least rows of a part: so many warps of a block have one each.
const LEAST_ROWS: usize = 4;
/// The most parts of a vector: enough blocks to fill any chip, and still few to add up.
const MOST_PARTS: usize = 1024;

/// Where an op leaves what it knows of a vector's gradient: (count, len) sums of `rows` rows each.
#[derive(Clone, Copy)]
pub struct Parts {
    pub address: *mut c_void,
    /// Rows that one part covers.
    pub rows: u32,
}

/// The rows that a part covers in a batch of n: the same wherever it is computed, so that sums are.
pub fn rows_of_part(n: usize) -> usize {
    n.div_ceil(MOST_PARTS).next_multiple_of(LEAST_ROWS).max(LEAST_ROWS)
}

/// A parameter that is a vector.
pub(super) struct Vector {
    /// Its number among the parameters.
    pub param: usize,
    /// Where it lies in the flat run.
    pub offset: usize,
    pub len: usize,
}

/// The parts of a backward.
pub(super) struct Vectors {
    /// The parameter's number, for each vector.
    params: Vec<usize>,
    /// (G + 1): where a vector's columns begin among those of all.
    starts: Vec<u32>,
    /// On the device: `starts`, and where each vector lies in the flat run, as twice as many words. None when there is no vector.
    lists: Option<[Tensor; 2]>,
    filled: Vec<bool>,
    parts: Option<Tensor>,
    /// Parts of each vector.
    count: usize,
}

impl Vectors {
    /// `vectors` are in the order of their numbers.
    pub fn new(device: &Device, vectors: &[Vector]) -> Result<Self> {
        let mut starts = vec![0];
        starts.extend(vectors.iter().scan(0, |end, vector| {
            *end += vector.len as u32;
            Some(*end)
        }));
        let offsets: Vec<u64> = vectors.iter().map(|vector| vector.offset as u64).collect();
        let sent = |words: &[u32]| {
            let mut list = Tensor::empty(device, &[words.len()], DType::U32)?;
            list.upload(words).map(|()| list)
        };
        let some = !vectors.is_empty();
        let lists = if some { Some([sent(&starts)?, sent(bytemuck::cast_slice(&offsets))?]) } else { None };
        let filled = vec![false; vectors.len()];
        let params = vectors.iter().map(|vector| vector.param).collect();
        Ok(Self { params, starts, lists, filled, parts: None, count: 0 })
    }

    /// Forgets what a backward that failed has left.
    pub fn clear(&mut self) {
        self.filled.fill(false);
        self.parts = None;
    }

    /// The vectors that have parts, by the numbers of their parameters.
    pub fn filled(&self) -> impl Iterator<Item = usize> {
        self.params.iter().zip(&self.filled).filter_map(|(&param, &filled)| filled.then_some(param))
    }

    /// All vectors, likewise.
    pub fn all(&self) -> &[usize] {
        &self.params
    }

    /// Whether the parts for `n` rows of this parameter have a place that is free.
    pub fn has_room_for(&self, param: usize, n: usize) -> bool {
        let count = n.div_ceil(rows_of_part(n));
        let vector = self.params.binary_search(&param).expect("a vector's parameter");
        !self.filled[vector] && (self.parts.is_none() || self.count == count)
    }

    /// The place for the parts of `n` rows of a parameter; they will be written, all of them.
    pub fn place(&mut self, device: &Device, param: usize, n: usize, dtype: DType) -> Result<Parts> {
        let (rows, vector) = (rows_of_part(n), self.params.binary_search(&param).expect("a vector's parameter"));
        let columns = self.columns();
        self.count = n.div_ceil(rows);
        let parts = match &mut self.parts {
            Some(parts) => parts,
            none => none.insert(Tensor::empty(&device.of(Purpose::Scratch), &[self.count, columns], dtype)?),
        };
        self.filled[vector] = true;
        let (first, end) = (self.starts[vector] as usize, self.starts[vector + 1] as usize);
        let at = parts.address_mut()?.cast::<u8>().wrapping_add(self.count * first * dtype.size());
        let (address, bytes) = (at.cast::<c_void>(), self.count * (end - first) * dtype.size());
        device.driver().addressed(Extent { address, bytes, access: Access::Write });
        Ok(Parts { address, rows: rows as u32 })
    }

    /// Of all vectors.
    pub fn columns(&self) -> usize {
        self.starts.last().copied().unwrap_or(0) as usize
    }

    /// Adds up all parts into `gradients`: adds to what is there, or writes; and the squares of what is there then, or not with
    /// null. Vectors without parts get zeros.
    pub fn add_up(&mut self, gradients: &mut Tensor, squares: *mut c_void, accumulate: bool) -> Result<()> {
        let (Some(mut parts), Some([starts, offsets])) = (self.parts.take(), &self.lists) else { return Ok(()) };
        let (device, size) = (gradients.device().clone(), parts.dtype().size());
        let driver = device.driver();
        for (vector, filled) in self.filled.iter_mut().enumerate() {
            if !std::mem::take(filled) {
                let [first, end] = [0, 1].map(|i| self.count * self.starts[vector + i] as usize * size);
                // SAFETY: the vector's part of the parts.
                unsafe { driver.zero(parts.address_mut()?.cast::<u8>().wrapping_add(first).cast(), end - first)? };
            }
        }
        let access = if accumulate { Access::Update } else { Access::Write };
        let (columns, vectors, count) = (self.columns() as u32, self.params.len() as u32, self.count as u32);
        let (to, dtype) = (gradients.address_to(self.columns(), access)?, engine_dtype(gradients.dtype()));
        let (parts, starts, offsets) = (parts.address(), starts.address().cast(), offsets.address().cast());
        let (adds, stream) = (u32::from(accumulate), driver.stream());
        // SAFETY: lists and parts of these vectors, and the flat run that they lie in.
        unsafe {
            launch!(
                driver,
                sum_parts { columns, count }(
                    to, squares, parts, starts, offsets, vectors, columns, count, adds, dtype, stream
                )
            )
        }
    }
}
