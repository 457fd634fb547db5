//! The number formats that a GGUF is written in, and which tensor gets which: the one table of `engine export`, and of what
//! rounds weights as it would.
//!
//! Blocks are 32 numbers, a scale `d` in f16 and an integer each, made as ggml's reference (`quantize_row_q8_0_ref`,
//! `quantize_row_q4_0_ref`) makes them: every product and sum rounded in f32, the integer found with the scale as it was
//! before it was rounded to f16.

use half::f16;
use rayon::prelude::*;

use super::convert::{self, CHUNK, Encoding};
use super::gguf_blocks::encoding;
use crate::autograd::BlockFormat;
use crate::error::{Error, Result};
use crate::model::gemma3::table::{GGUF_EMBEDDING, ParamKind, Parameter};
use crate::{bail, err};

/// How a GGUF stores numbers; of a whole file: how it stores most of its matrices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GgufType {
    /// 4 bytes, exact.
    F32,
    /// 2 bytes, up to 65504.
    F16,
    /// 2 bytes.
    Bf16,
    /// 34 bytes for 32 numbers: `d * q`, q from -127 to 127.
    Q8_0,
    /// 18 bytes for 32 numbers: `d * (q - 8)`, q from 0 to 15.
    Q4_0,
}

impl GgufType {
    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Q8_0 => "q8_0",
            Self::Q4_0 => "q4_0",
        }
    }

    /// In a file of this type, the type of a parameter: norms are kept in f32, and as in llama.cpp's own 4-bit files the
    /// embedding, which is the head too, in 8 bits.
    pub fn of(self, parameter: &Parameter) -> Self {
        match (self, parameter.kind) {
            (_, ParamKind::Norm) => Self::F32,
            (Self::Q4_0, ParamKind::Matrix) if parameter.gguf_name == GGUF_EMBEDDING => Self::Q8_0,
            (_, ParamKind::Matrix) => self,
        }
    }

    /// Whether the rows of all `parameters` are whole blocks.
    ///
    /// # Errors
    /// Names the tensor that is not.
    pub fn check(self, parameters: &[Parameter]) -> Result<()> {
        for parameter in parameters {
            let (kind, shape) = (self.of(parameter), &parameter.spec.shape);
            let block = kind.encoding().elements;
            if shape.last().is_none_or(|columns| !columns.is_multiple_of(block)) {
                return Err(err!(
                    "tensor `{}` has the shape {shape:?}: {} stores blocks of {block}, and its rows are not whole ones",
                    parameter.spec.name,
                    kind.name()
                )
                .hint("choose f16, bf16 or f32"));
            }
        }
        Ok(())
    }

    /// The weights of a model as a file of this type would give them back; `flat` is laid out by `parameters`.
    ///
    /// # Errors
    /// As [`check`](Self::check), or a weight is too large for its type.
    pub fn round(self, parameters: &[Parameter], flat: &mut [f32]) -> Result<()> {
        self.check(parameters)?;
        let mut rest = flat;
        for parameter in parameters {
            let (values, tail) = rest.split_at_mut(parameter.spec.len());
            rest = tail;
            let (kind, offset) = (self.of(parameter), parameter.kind.gguf_offset());
            kind.check_range(&parameter.spec.name, 0, values)?;
            values.par_chunks_mut(CHUNK).for_each(|values| {
                let mut bytes = vec![0; kind.encoding().size_of(values.len())];
                values.iter_mut().for_each(|x| *x += offset);
                kind.encode_chunk(values, &mut bytes);
                (kind.encoding().decode)(&bytes, values);
                values.iter_mut().for_each(|x| *x -= offset);
            });
        }
        Ok(())
    }

    /// How a file of this type stores each of `parameters`, for training with weights that are rounded to it.
    ///
    /// # Errors
    /// As [`check`](Self::check); a usage error of a type without blocks.
    pub fn block_formats(self, parameters: &[Parameter]) -> Result<Vec<BlockFormat>> {
        self.check(parameters)?;
        let format = |parameter: &Parameter| match (parameter.kind, self.of(parameter)) {
            (ParamKind::Norm, _) => Ok(BlockFormat::Norm),
            (_, Self::Q8_0) => Ok(BlockFormat::Q8_0),
            (_, Self::Q4_0) => Ok(BlockFormat::Q4_0),
            (_, other) => Err(Error::usage(format!("weights are rounded to q8_0 or q4_0, not to {}", other.name()))),
        };
        parameters.iter().map(format).collect()
    }

    /// Writes whole blocks of `values` to as many bytes as they take, in parallel.
    pub fn encode(self, values: &[f32], bytes: &mut [u8]) {
        let chunks = values.par_chunks(CHUNK).zip(bytes.par_chunks_mut(self.encoding().size_of(CHUNK)));
        chunks.for_each(|(values, bytes)| self.encode_chunk(values, bytes));
    }

    /// Whether every number has one of this type near it; `first` is the index of the first in its tensor.
    pub(super) fn check_range(self, name: &str, first: usize, values: &[f32]) -> Result<()> {
        // Half the distance to what would be the next number: what is below it is rounded down. NaN is not below.
        let limit = match self {
            Self::F32 => f32::MAX,
            Self::F16 => 65519.0,
            Self::Bf16 => 3.39e38,
            Self::Q8_0 => 65519.0 * 127.0,
            Self::Q4_0 => 65519.0 * 8.0,
        };
        let is_in_range = |x: &f32| x.abs() <= limit;
        if values.par_chunks(CHUNK).all(|chunk| chunk.iter().fold(true, |ok, x| ok & is_in_range(x))) {
            return Ok(());
        }
        let index = values.iter().position(|x| !is_in_range(x)).unwrap_or(0);
        bail!("tensor `{name}` holds {} at element {}: too large for {}", values[index], first + index, self.name())
    }

    /// ggml's number of the type.
    pub(super) fn id(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Bf16 => 30,
            Self::Q8_0 => 8,
            Self::Q4_0 => 2,
        }
    }

    /// llama.cpp's number of a file whose matrices are of the type.
    pub(super) fn file_type(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Bf16 => 32,
            Self::Q8_0 => 7,
            Self::Q4_0 => 2,
        }
    }

    /// How its numbers are read.
    pub(super) fn encoding(self) -> Encoding {
        encoding(self.id()).expect("what is written is read")
    }

    fn encode_chunk(self, values: &[f32], bytes: &mut [u8]) {
        match self {
            Self::F32 => convert::encode_f32(values, bytes),
            Self::F16 => convert::encode_f16(values, bytes),
            Self::Bf16 => convert::encode_bf16(values, bytes),
            Self::Q8_0 => each_block(values, bytes, encode_q8_0),
            Self::Q4_0 => each_block(values, bytes, encode_q4_0),
        }
    }
}

fn each_block<const N: usize>(values: &[f32], bytes: &mut [u8], encode: impl Fn(&[f32; 32], &mut [u8; N])) {
    for (values, block) in values.as_chunks::<32>().0.iter().zip(bytes.as_chunks_mut::<N>().0) {
        encode(values, block);
    }
}

/// 1 / d, and 0 for a block of zeros.
fn inverse(d: f32) -> f32 {
    if d == 0.0 { 0.0 } else { 1.0 / d }
}

/// d(2) q(32): `d = largest |x| / 127`, `q = round(x / d)`, halves away from zero.
fn encode_q8_0(values: &[f32; 32], block: &mut [u8; 34]) {
    let d = values.iter().fold(0.0, |most: f32, x| most.max(x.abs())) / 127.0;
    let inverse = inverse(d);
    block[..2].copy_from_slice(&f16::from_f32(d).to_le_bytes());
    for (q, x) in block[2..].iter_mut().zip(values) {
        *q = (x * inverse).round() as i8 as u8;
    }
}

/// d(2) nibbles(16): with m the first number of the largest magnitude, `d = m / -8`, `q = min(15, trunc(x / d + 8.5))`.
fn encode_q4_0(values: &[f32; 32], block: &mut [u8; 18]) {
    let most = values.iter().fold(values[0], |most, x| if x.abs() > most.abs() { *x } else { most });
    let d = most / -8.0;
    let inverse = inverse(d);
    let q = |x: f32| ((x * inverse + 8.5) as u8).min(15);
    block[..2].copy_from_slice(&f16::from_f32(d).to_le_bytes());
    for (i, byte) in block[2..].iter_mut().enumerate() {
        *byte = q(values[i]) | q(values[i + 16]) << 4;
    }
}
