//! What a batch sends to the device beside weights: ids, positions, tiles, targets, packed into one buffer.
//!
//! A step then sends once, and a captured graph finds the next batch of its size at the addresses that it knows:
//! batches whose arrays have the same capacities have the same layout, so that one's words may replace another's.

use std::cell::RefCell;
use std::rc::Rc;

use crate::device::{DType, Device, Tensor};
use crate::error::Result;
use crate::{bail, err};

/// Words of an array begin at a multiple of this: 16 bytes, as kernels like them.
const ALIGNMENT: usize = 4;

/// The arrays of one batch.
pub struct Inputs {
    words: RefCell<Vec<u32>>,
    buffer: RefCell<Option<Tensor>>,
    device: Device,
    /// Whether the next arrays keep room up to their bound, so that batches of one size have one layout.
    fixed: bool,
}

/// An array of the packed buffer.
#[derive(Clone)]
pub struct DeviceArray {
    inputs: Rc<Inputs>,
    /// First word.
    offset: usize,
    /// Words, those that are left free included.
    len: usize,
}

impl Inputs {
    /// No array yet. `fixed`: arrays take the room of their bound, not of what they hold.
    pub fn new(device: &Device, fixed: bool) -> Rc<Self> {
        let (words, buffer, device) = (RefCell::default(), RefCell::default(), device.clone());
        Rc::new(Self { words, buffer, device, fixed })
    }

    /// The device that the arrays are for.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Whether arrays keep room for the largest batch of their size.
    pub fn is_fixed(&self) -> bool {
        self.fixed
    }

    /// Appends an array. `bound` is the most words that an array of this kind has in a batch of this size; what is
    /// left free repeats `fill`.
    pub fn push(self: &Rc<Self>, values: &[u32], bound: usize, fill: u32) -> DeviceArray {
        let mut words = self.words.borrow_mut();
        let offset = words.len();
        words.extend_from_slice(values);
        let room = if self.fixed { bound.max(values.len()) } else { values.len().max(1) };
        words.resize(offset + room.next_multiple_of(ALIGNMENT), fill);
        DeviceArray { inputs: self.clone(), offset, len: room }
    }

    /// Appends f32 numbers; free room holds 0.
    pub fn push_f32(self: &Rc<Self>, values: &[f32], bound: usize) -> DeviceArray {
        let words: Vec<u32> = values.iter().map(|x| x.to_bits()).collect();
        self.push(&words, bound, 0)
    }

    /// Appends an f64 number.
    pub fn push_f64(self: &Rc<Self>, value: f64) -> DeviceArray {
        let words: [u32; 2] = bytemuck::cast(value);
        self.push(&words, words.len(), 0)
    }

    /// Sends all arrays: after the last one was appended, before the first launch.
    pub fn send(&self) -> Result<()> {
        let words = self.words.borrow();
        let mut buffer = Tensor::empty(&self.device, &[words.len()], DType::U32)?;
        buffer.upload(&words)?;
        *self.buffer.borrow_mut() = Some(buffer);
        Ok(())
    }

    /// Number of words: equal for batches that may replace one another.
    pub fn len(&self) -> usize {
        self.words.borrow().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Sends another batch's arrays (not sent itself) in place of these.
    pub fn replace(&self, other: &Inputs) -> Result<()> {
        let words = other.words.borrow();
        match &mut *self.buffer.borrow_mut() {
            Some(buffer) if buffer.len() == words.len() => buffer.upload(&words),
            _ => bail!("internal: a batch of {} words cannot replace one of {}", words.len(), self.len()),
        }
    }
}

impl DeviceArray {
    /// Words of the array, those that are left free included.
    pub fn room(&self) -> usize {
        self.len
    }

    /// Where the array lies on the device; an error when it was not sent.
    pub fn address(&self) -> Result<*const u32> {
        let buffer = self.inputs.buffer.borrow();
        let buffer = buffer.as_ref().ok_or_else(|| err!("internal: the arrays of a batch were not sent"))?;
        Ok(buffer.address_of(self.offset, self.len).cast())
    }
}
