//! Master weights: what AdamW updates, and what ops compute in.
//!
//! Beside compute in bf16 a weight is kept in halves: the copy that ops read, and the lower 16 bits of the f32, which the copy leaves
//! out. Together they are the f32, for how the copy was rounded is known (`split_weights` in kernels/engine.h): 4 bytes a weight
//! in the place of 6.

use crate::device::driver::Access;
use crate::device::{DType, Tensor};
use crate::error::Result;
use crate::{err, launch};

use super::round_blocks::RoundBlocks;

/// Flat runs of numbers.
pub(super) enum Masters {
    /// Ops compute in the master values themselves; those of frozen parameters may be of any type.
    Whole(Tensor),
    /// f32 in halves.
    Split(Halves),
    /// f32, of which ops compute in what a file would give back.
    Rounded { values: Tensor, copy: Tensor, rounding: RoundBlocks },
}

/// f32 as `split_weights` leaves them.
pub(super) struct Halves {
    /// bf16
    copy: Tensor,
    /// u16
    lower: Tensor,
    /// The update that has rounded the copy; 0: to nearest.
    step: u64,
}

/// The arrays of an update, as the launcher `adamw` takes them.
pub struct WeightsToUpdate<'a> {
    pub parameters: &'a mut Tensor,
    pub copy: Option<&'a mut Tensor>,
}

impl Masters {
    pub fn computed_in(self, dtype: DType) -> Result<Self> {
        match self {
            Self::Whole(values) if dtype == values.dtype() => Ok(Self::Whole(values)),
            Self::Whole(values) if [values.dtype(), dtype] == [DType::F32, DType::Bf16] => {
                // The gradients will have the room of the weights in f32: what a system gives anew, it clears first.
                Halves::of(&values, 0).map(Self::Split)
            }
            other => Err(err!("internal: {:?} to be computed with in {dtype:?}", other.dtype())),
        }
    }

    pub fn rounded_in(self, dtype: DType, rounding: RoundBlocks) -> Result<Self> {
        let values = self.joined()?;
        let copy = Tensor::empty(values.device(), &[values.len()], dtype)?;
        let mut rounded = Self::Rounded { values, copy, rounding };
        rounded.round_to_blocks()?;
        Ok(rounded)
    }

    pub fn frozen_in(self, dtype: DType) -> Result<Self> {
        let values = self.joined()?;
        if dtype == values.dtype() {
            return Ok(Self::Whole(values));
        }
        drop(self);
        let computed = values.cast(dtype)?;
        drop(values);
        computed.device().trim(); // the weights in f32
        Ok(Self::Whole(computed))
    }

    pub fn rounding(&self) -> Option<&RoundBlocks> {
        match self {
            Self::Rounded { rounding, .. } => Some(rounding),
            _ => None,
        }
    }

    /// What ops compute in.
    pub fn computed(&self) -> &Tensor {
        match self {
            Self::Whole(values) => values,
            Self::Split(Halves { copy, .. }) | Self::Rounded { copy, .. } => copy,
        }
    }

    /// What master values are of.
    pub fn dtype(&self) -> DType {
        match self {
            Self::Whole(values) | Self::Rounded { values, .. } => values.dtype(),
            Self::Split(_) => DType::F32,
        }
    }

    pub fn joined(&self) -> Result<Tensor> {
        match self {
            Self::Whole(values) | Self::Rounded { values, .. } => Ok(values.clone()),
            Self::Split(halves) => {
                let mut values = Tensor::empty(halves.copy.device(), halves.copy.shape(), DType::F32)?;
                halves.join(&mut values)?;
                Ok(values)
            }
        }
    }

    pub fn joined_in<'a>(&'a self, room: &'a mut Tensor) -> Result<&'a Tensor> {
        match self {
            Self::Whole(values) | Self::Rounded { values, .. } => Ok(values),
            Self::Split(halves) => {
                halves.join(room)?;
                Ok(room)
            }
        }
    }

    pub fn fill(&mut self, step: u64, room: &mut Tensor, fill: impl FnOnce(&mut [f32]) -> Result<()>) -> Result<()> {
        match self {
            Self::Whole(values) => values.fill_with(fill),
            Self::Rounded { values, .. } => {
                values.fill_with(fill)?;
                self.round_to_blocks()
            }
            Self::Split(halves) => {
                room.fill_with(fill)?;
                halves.split(room, step)
            }
        }
    }

    pub fn round_as_after(&mut self, step: u64, room: &mut Tensor) -> Result<()> {
        match self {
            Self::Split(halves) if halves.step != step => {
                halves.join(room)?;
                halves.split(room, step)
            }
            _ => Ok(()),
        }
    }

    pub fn for_update(&mut self) -> WeightsToUpdate<'_> {
        match self {
            Self::Whole(values) | Self::Rounded { values, .. } => WeightsToUpdate { parameters: values, copy: None },
            Self::Split(Halves { copy, lower, .. }) => WeightsToUpdate { parameters: lower, copy: Some(copy) },
        }
    }

    pub fn updated(&mut self, step: u64) {
        if let Self::Split(halves) = self {
            halves.step = step;
        }
    }

    pub fn split_by(&self) -> Option<u64> {
        match self {
            Self::Split(halves) => Some(halves.step),
            _ => None,
        }
    }

    pub fn round_to_blocks(&mut self) -> Result<()> {
        match self {
            Self::Rounded { values, copy, rounding } => rounding.write(copy, values),
            _ => Ok(()),
        }
    }
}

impl Halves {
    fn of(values: &Tensor, step: u64) -> Result<Self> {
        let of = |dtype| Tensor::empty(values.device(), values.shape(), dtype);
        let mut halves = Self { copy: of(DType::Bf16)?, lower: of(DType::U16)?, step };
        halves.split(values, step)?;
        Ok(halves)
    }

    fn split(&mut self, values: &Tensor, step: u64) -> Result<()> {
        assert_eq!((values.len(), values.dtype()), (self.copy.len(), DType::F32), "split_weights");
        let (driver, n, from) = (values.device().driver(), values.len() as u64, values.address());
        let (copy, lower) = (self.copy.address_mut()?, self.lower.address_mut()?);
        // SAFETY: n elements of these types each.
        unsafe { launch!(driver, split_weights { n }(copy, lower, from, n, step, driver.stream()))? };
        self.step = step;
        Ok(())
    }

    fn join(&self, values: &mut Tensor) -> Result<()> {
        assert_eq!((values.len(), values.dtype()), (self.copy.len(), DType::F32), "join_weights");
        let (device, n) = (self.copy.device().clone(), self.copy.len() as u64);
        let (driver, to) = (device.driver(), values.address_to(values.len(), Access::Write)?);
        let (copy, lower, step) = (self.copy.address(), self.lower.address(), self.step);
        // SAFETY: n elements of these types each.
        unsafe { launch!(driver, join_weights { n }(to, copy, lower, n, step, driver.stream())) }
    }
}
