//! round_blocks: what ops compute in is what a file would give back of the master weights, as in quantization-aware training
//!
//! Shapes    copy (n) T     master weights (n) f32
//! Backward  straight through: the gradient of a rounded weight is the master weight's (Bengio et al., "Estimating or Propagating
//!           Gradients Through Stochastic Neurons", 2013)
//! Order     a block of 32 numbers is one owner's
//! Cost      n * (4 + sizeof(T)) bytes after each update

use crate::device::bindings::{ENGINE_FORMAT_BLOCK, engine_format};
use crate::device::driver::engine_dtype;
use crate::device::{DType, Device, Tensor};
use crate::error::Result;
use crate::launch;

/// How a file stores a parameter; the coarsest last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum BlockFormat {
    /// The weight of a norm, + 1 and in f32.
    Norm,
    /// 32 numbers: 8 bits each, and a scale.
    Q8_0,
    /// 32 numbers: 4 bits each, and a scale.
    Q4_0,
}

impl BlockFormat {
    /// Of a file of which this is the coarsest format, the name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Norm => "f32",
            Self::Q8_0 => "q8_0",
            Self::Q4_0 => "q4_0",
        }
    }

    fn number(self) -> u32 {
        (match self {
            Self::Norm => engine_format::ENGINE_FORMAT_NORM,
            Self::Q8_0 => engine_format::ENGINE_FORMAT_Q8_0,
            Self::Q4_0 => engine_format::ENGINE_FORMAT_Q4_0,
        }) as u32
    }
}

/// The formats of parameters, in device memory.
pub struct RoundBlocks {
    /// (G + 1) u64 each, as twice as many words: where groups of parameters begin in the flat run, and which blocks are theirs.
    starts: Tensor,
    blocks: Tensor,
    /// (G)
    formats: Tensor,
    /// Of all groups.
    count: u64,
    coarsest: BlockFormat,
}

impl RoundBlocks {
    /// A format for each of the `shapes` of the flat run. Neighbours of the same one are one group.
    ///
    /// # Panics
    /// When the formats are not as many, or the rows of a matrix are no whole blocks: whoever chooses formats has checked.
    pub(super) fn new(device: &Device, shapes: &[&[usize]], formats: &[BlockFormat]) -> Result<Self> {
        assert_eq!(shapes.len(), formats.len(), "formats");
        let of_block = ENGINE_FORMAT_BLOCK as usize;
        let (mut starts, mut blocks, mut numbers) = (vec![0u64], vec![0u64], Vec::new());
        let parameters: Vec<(&[usize], BlockFormat)> = shapes.iter().copied().zip(formats.iter().copied()).collect();
        for group in parameters.chunk_by(|a, b| a.1 == b.1) {
            let format = group[0].1;
            let is_whole = |shape: &[usize]| shape.last().is_some_and(|n| n.is_multiple_of(of_block));
            assert!(format == BlockFormat::Norm || group.iter().all(|(shape, _)| is_whole(shape)), "rows of blocks");
            let len: usize = group.iter().map(|(shape, _)| shape.iter().product::<usize>()).sum();
            starts.push(starts[numbers.len()] + len as u64);
            blocks.push(blocks[numbers.len()] + len.div_ceil(of_block) as u64);
            numbers.push(format.number());
        }
        let sent = |words: &[u32]| {
            let mut list = Tensor::empty(device, &[words.len()], DType::U32)?;
            list.upload(words).map(|()| list)
        };
        Ok(Self {
            starts: sent(bytemuck::cast_slice(&starts))?,
            blocks: sent(bytemuck::cast_slice(&blocks))?,
            formats: sent(&numbers)?,
            count: blocks[numbers.len()],
            coarsest: formats.iter().copied().max().unwrap_or(BlockFormat::Norm),
        })
    }

    /// The format with the fewest bits, which gives a file its name.
    pub fn coarsest(&self) -> BlockFormat {
        self.coarsest
    }

    /// Writes what a file would give back of `values` (n) f32.
    pub(super) fn write(&self, copy: &mut Tensor, values: &Tensor) -> Result<()> {
        assert_eq!((copy.len(), values.dtype()), (values.len(), DType::F32), "round_blocks");
        let (driver, dtype, count) = (values.device().driver(), engine_dtype(copy.dtype()), self.count);
        let (to, from, groups) = (copy.address_mut()?, values.address(), self.formats.len() as u32);
        let (starts, blocks) = (self.starts.address().cast(), self.blocks.address().cast());
        let (formats, stream) = (self.formats.address().cast(), driver.stream());
        // SAFETY: flat runs of as many numbers as the lists are of.
        unsafe {
            launch!(driver, round_blocks { count }(to, from, starts, blocks, formats, groups, count, dtype, stream))
        }
    }
}
