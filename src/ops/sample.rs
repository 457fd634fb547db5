//! sample: the next token of each row of logits, the likeliest or a draw
//!
//! Shapes    logits (R, V) T     uniforms (R) f32     tokens (R)
//! Order     of equal logits the first counts as the larger: the same logits and numbers give the same tokens

use std::ptr;

use crate::device::bindings::engine_sampling;
use crate::device::driver::engine_dtype;
use crate::device::{DType, Purpose, Tensor};
use crate::error::Result;
use crate::launch;

/// How tokens are drawn, as transformers does it: temperature, then top-k, then top-p, then a draw.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Draw {
    pub temperature: f64,
    /// 0: no limit.
    pub top_k: usize,
    /// 1: no limit.
    pub top_p: f64,
}

/// The next token of each row; with `draw`, row r draws with `uniforms[r]` in [0, 1), else the largest logit wins.
pub fn sample(logits: &Tensor, uniforms: &[f32], draw: Option<&Draw>) -> Result<Vec<u32>> {
    let (device, (rows, vocabulary)) = (logits.device(), (logits.shape()[0], logits.shape()[1]));
    assert_eq!(uniforms.len(), rows, "sample: one number a row");
    let scratch = device.of(Purpose::Scratch);
    let mut tokens = Tensor::empty(&scratch, &[rows], DType::U32)?;
    let mut drawn = Tensor::empty(&scratch, &[rows], DType::F32)?;
    drawn.upload(uniforms)?;
    let sampling = draw.map(|d| engine_sampling {
        temperature: d.temperature as f32,
        top_k: d.top_k as u32,
        top_p: d.top_p as f32,
    });
    let how = sampling.as_ref().map_or(ptr::null(), ptr::from_ref);
    let (driver, r, v, dtype) = (device.driver(), rows as u32, vocabulary as u32, engine_dtype(logits.dtype()));
    let (out, drawn, logits) = (tokens.address_mut()?.cast(), drawn.address().cast(), logits.address());
    // SAFETY: tensors of the shapes that engine.h asks for.
    unsafe { launch!(driver, sample { r, v }(out, logits, drawn, how, r, v, dtype, driver.stream()))? };
    tokens.download()
}
