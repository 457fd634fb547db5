//! sample: the next token of each row of logits, the likeliest or a draw
//!
//! Shapes    logits (R, V) T     uniforms (R) f32     tokens (R)
//! Order     of equal logits the first counts as the larger: the same logits and numbers give the same tokens

use std::ptr;

use crate::batch::inputs::{DeviceArray, Inputs};
use crate::device::bindings::{ENGINE_ARGMAX_PARTS, engine_sampling};
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
    let inputs = Inputs::new(logits.device(), false);
    let uniforms = inputs.push_f32(uniforms, uniforms.len());
    inputs.send()?;
    queue_sample(logits, &uniforms, draw)?.download()
}

/// [`sample`] that leaves the tokens (R) on the device.
pub fn queue_sample(logits: &Tensor, uniforms: &DeviceArray, draw: Option<&Draw>) -> Result<Tensor> {
    let (device, (rows, vocabulary)) = (logits.device(), (logits.shape()[0], logits.shape()[1]));
    assert!(uniforms.room() >= rows, "sample: one number a row");
    let mut tokens = Tensor::empty(&device.of(Purpose::Scratch), &[rows], DType::U32)?;
    // Two words a part.
    let mut best = Tensor::empty(&device.of(Purpose::Scratch), &[rows, 2 * ENGINE_ARGMAX_PARTS as usize], DType::U32)?;
    let sampling = draw.map(|d| engine_sampling {
        temperature: d.temperature as f32,
        top_k: d.top_k as u32,
        top_p: d.top_p as f32,
    });
    let how = sampling.as_ref().map_or(ptr::null(), ptr::from_ref);
    let (driver, r, v, dtype) = (device.driver(), rows as u32, vocabulary as u32, engine_dtype(logits.dtype()));
    let (out, best) = (tokens.address_mut()?.cast(), best.address_mut()?.cast());
    let (uniforms, logits) = (uniforms.address()?.cast(), logits.address());
    // SAFETY: tensors of the shapes that engine.h asks for.
    unsafe { launch!(driver, sample { r, v }(out, best, logits, uniforms, how, r, v, dtype, driver.stream()))? };
    Ok(tokens)
}
