//! embedding: `h = scale * weight[id] + noise`
//!
//! Shapes    weight (V, D) T     dweight (V, D) A     ids (N)     h, dh, noise (N, D) T; the noise may be none
//! Saved     ids
//! Backward  `dweight[id] += scale * dh`, rows in the order of the batch, unless the weight is frozen
//! Order     an id is one owner's, which adds its rows one after the other
//! Cost      2 * N * D * sizeof(T) bytes

use std::ffi::c_void;
use std::rc::Rc;

use half::bf16;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use crate::autograd::{Param, Tape, Var};
use crate::bail;
use crate::batch::inputs::{DeviceArray, Inputs};
use crate::device::driver::engine_dtype;
use crate::device::{DType, Tensor};
use crate::error::Result;
use crate::launch;

/// Token ids of a batch (N) on its device, and its rows grouped by id, so that each id has one owner.
#[derive(Clone)]
pub struct TokenIds {
    ids: DeviceArray,
    rows: DeviceArray,
    starts: DeviceArray,
    /// N
    len: usize,
    /// U: groups, some of which may be empty
    groups: usize,
    /// (N, D) T
    noise: Option<DeviceArray>,
}

impl TokenIds {
    /// N
    pub fn rows(&self) -> usize {
        self.len
    }

    /// Appends the ids to what the batch sends. An id outside the vocabulary is an error.
    pub fn new(inputs: &Rc<Inputs>, ids: &[u32], vocabulary: usize) -> Result<Self> {
        if let Some(id) = ids.iter().find(|&&id| id as usize >= vocabulary) {
            bail!("embedding: token id {id} is outside the vocabulary of {vocabulary}");
        }
        let n = ids.len();
        let mut rows: Vec<u32> = (0..n as u32).collect();
        rows.sort_by_key(|&row| ids[row as usize]);
        let begins = |&i: &u32| i == 0 || ids[rows[i as usize] as usize] != ids[rows[i as usize - 1] as usize];
        let mut starts: Vec<u32> = (0..n as u32).filter(begins).collect();
        // Where the launch is to be the same for every batch of this size, all rows count: groups beyond the last id are
        // empty.
        let groups = if inputs.is_fixed() { n } else { starts.len() };
        starts.push(n as u32);
        let starts = inputs.push(&starts, n + 1, n as u32);
        Ok(Self { ids: inputs.push(ids, n, 0), rows: inputs.push(&rows, n, 0), starts, len: n, groups, noise: None })
    }

    /// With noise that is added to the vectors of `d` numbers; it is appended to what the batch sends.
    pub fn with_noise(self, inputs: &Rc<Inputs>, noise: &mut Noise, d: usize, dtype: DType) -> Self {
        let words = noise.words(self.len * d, dtype);
        Self { noise: Some(inputs.push(&words, words.len(), 0)), ..self }
    }
}

/// Some rows of a matrix, on its device.
pub struct RowList {
    rows: DeviceArray,
    len: usize,
    /// Rows of the matrix.
    of: usize,
}

impl RowList {
    /// Appends `rows` of a matrix of `of` rows to what a batch sends; row 0 follows them, up to `len` rows in all.
    pub fn new(inputs: &Rc<Inputs>, rows: &[u32], of: usize, len: usize) -> Result<Self> {
        if let Some(row) = rows.iter().find(|&&row| row as usize >= of) {
            bail!("internal: row {row} of {of}");
        }
        let mut rows = rows.to_vec();
        rows.resize(len.max(rows.len()), 0);
        Ok(Self { rows: inputs.push(&rows, rows.len(), 0), len: rows.len(), of })
    }

    /// The rows of x (N, D), in their order.
    pub fn pick(&self, x: &Tensor) -> Result<Tensor> {
        assert_eq!(x.shape()[0], self.of, "rows of a tensor of shape {:?}", x.shape());
        let mut picked = Tensor::empty(x.device(), &[self.len, x.shape()[1]], x.dtype())?;
        // SAFETY: as many rows as `picked` has, each one of x.
        unsafe { gather(&mut picked, x, self.rows.address()?, 1.0)? };
        Ok(picked)
    }
}

/// NEFTune's noise (Jain et al., "NEFTune: Noisy Embeddings Improve Instruction Finetuning", 2023): numbers that are uniform in
/// -amplitude .. amplitude.
pub struct Noise {
    pub amplitude: f64,
    pub rng: ChaCha8Rng,
}

impl Noise {
    /// So many numbers, in words of 32 bits.
    fn words(&mut self, len: usize, dtype: DType) -> Vec<u32> {
        let amplitude = self.amplitude;
        let mut numbers = (0..len).map(|_| amplitude * self.rng.random_range(-1.0..1.0));
        match dtype {
            DType::F64 => numbers.flat_map(bytemuck::cast::<f64, [u32; 2]>).collect(),
            DType::Bf16 => {
                let mut half = || numbers.next().map_or(0, |x| u32::from(bf16::from_f64(x).to_bits()));
                (0..len.div_ceil(2)).map(|_| half() | half() << 16).collect()
            }
            _ => numbers.map(|x| (x as f32).to_bits()).collect(),
        }
    }
}

/// Looks up `ids` in `weight` (V, D) and multiplies by `scale` (Gemma: sqrt(D)). Returns h (N, D).
pub fn embedding(tape: &mut Tape, ids: &TokenIds, weight: &Param, scale: f64) -> Result<Var> {
    let mut h = Tensor::empty(tape.device(), &[ids.len, weight.shape()[1]], weight.dtype())?;
    // SAFETY: as many ids as h has rows, each below V.
    unsafe { gather(&mut h, &weight.value, ids.ids.address()?, scale)? };
    if let Some(noise) = &ids.noise {
        // SAFETY: as many numbers as h has, of its type.
        unsafe { h.add_array(noise.address()?.cast())? };
    }
    let h = tape.output(h)?;
    let (out, ids, weight) = (h.arrival(), ids.clone(), weight.clone());
    tape.push("embedding", move |ctx| {
        let Some(dh) = ctx.take(&out).filter(|_| !weight.is_frozen()) else { return Ok(()) };
        let touched = ids.groups * weight.shape()[1];
        backward(ctx.gradients().address_and_growth(&weight, touched, ids.groups)?, &dh, &ids, scale)
    });
    Ok(h)
}

/// `h[i] = scale * weight[ids[i]]`, zeros for the id u32::MAX: also how rows are picked from any matrix.
///
/// # Safety
/// `ids` are as many as h has rows, in device memory, each u32::MAX or below the rows of `weight`.
pub(crate) unsafe fn gather(h: &mut Tensor, weight: &Tensor, ids: *const u32, scale: f64) -> Result<()> {
    let (n, d, dtype) = (h.shape()[0] as u32, h.shape()[1] as u32, engine_dtype(h.dtype()));
    let (driver, out, weight) = (weight.device().driver(), h.address_mut()?, weight.address_of(0, h.len()));
    // SAFETY: the caller's promise, and tensors of these shapes.
    unsafe { launch!(driver, embedding_forward { n, d }(out, weight, ids, n, d, scale, dtype, driver.stream())) }
}

fn backward([dweight, squares]: [*mut c_void; 2], dh: &Tensor, ids: &TokenIds, scale: f64) -> Result<()> {
    let (driver, dtype) = (dh.device().driver(), engine_dtype(dh.dtype()));
    let (d, u, dh) = (dh.shape()[1] as u32, ids.groups as u32, dh.address());
    let (rows, starts, ids) = (ids.rows.address()?, ids.starts.address()?, ids.ids.address()?);
    // SAFETY: dweight is the weight's part of the gradients, squares has a number for each group or is null; the rest are
    // tensors and arrays of the batch.
    unsafe {
        launch!(
            driver,
            embedding_backward { u, d }(dweight, squares, dh, ids, rows, starts, u, d, scale, dtype, driver.stream())
        )
    }
}
