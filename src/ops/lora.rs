//! lora: y = x weight^T + scaling * (dropout(x) a^T) b^T, module by module (Hu et al., "LoRA: Low-Rank Adaptation", 2021)
//!
//! ```text
//! spread = scaling * blocks of b;  h = dropout(x) a^T;  y = x weight^T + h spread^T
//! ```
//!
//! A weight may be several modules on top of each other (q, k and v), M of them with an update of rank R: a holds the modules'
//! matrices (R, I) on top of each other, b those (rows of the module, R). In spread, row o has b's row in the columns
//! of its module and zeros elsewhere, so that few products do for all modules. Modules of one weight see the same dropout.
//!
//! Shapes    x, dx (N, I) T     weight (O, I) T     a (M * R, I) T     b (P, R) T, P rows that have an update     y, dy (N, O) T
//!           spread (O, M * R) T     h, dh (N, M * R) T     da, db as a and b, A
//! Saved     x, weight, a, h, spread
//! Backward  dh = dy spread;  dx = dy weight + dropout(dh a);  da += dh^T dropout(x);  db += scaling * blocks of dy^T h;  dweight as in linear
//!           What is left of x is computed again, not saved
//! Order     each row of b stands once in spread: db is a sum of one term
//! Cost      beside linear's, M * R / I and M * R / O of its FLOP forward, three times that backward

use std::rc::Rc;

use crate::autograd::{Backward, Param, Rounding, Tape, Var};
use crate::device::driver::engine_dtype;
use crate::device::{DType, Device, Purpose, Tensor};
use crate::error::Result;
use crate::launch;
use crate::ops::dropout::Dropout;
use crate::ops::embedding::gather;
use crate::ops::linear::{self, Store};

/// A module's part of a weight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// Rows of the weight.
    pub rows: usize,
    /// Whether they have an update.
    pub is_updated: bool,
}

/// Where the rows of b stand in spread, on the device.
pub struct Blocks {
    /// (O * M): the row of b, u32::MAX for zeros
    row: Tensor,
    /// (P): where in `row`
    place: Tensor,
    /// O
    rows: usize,
    /// M
    modules: usize,
}

impl Blocks {
    /// Of a weight that these modules make.
    ///
    /// # Errors
    /// The device is out of memory.
    pub fn new(device: &Device, weight: &[Module]) -> Result<Self> {
        let rows = weight.iter().map(|module| module.rows).sum();
        let modules = weight.iter().filter(|module| module.is_updated).count();
        let (mut row, mut place) = (vec![u32::MAX; rows * modules], Vec::new());
        let (mut first, mut number) = (0, 0);
        for module in weight {
            if module.is_updated {
                for at in (first..first + module.rows).map(|o| o * modules + number) {
                    row[at] = place.len() as u32;
                    place.push(at as u32);
                }
                number += 1;
            }
            first += module.rows;
        }
        let sent = |values: &[u32]| {
            let mut tensor = Tensor::empty(&device.of(Purpose::Weights), &[values.len()], DType::U32)?;
            tensor.upload(values).map(|()| tensor)
        };
        Ok(Self { row: sent(&row)?, place: sent(&place)?, rows, modules })
    }

    /// spread (O, M * R) = scaling * b's rows (P, R) where they stand
    fn spread(&self, b: &Tensor, scaling: f64) -> Result<Tensor> {
        let rank = b.shape()[1];
        let mut spread = Tensor::empty(b.device(), &[self.rows * self.modules, rank], b.dtype())?;
        // SAFETY: as many rows as spread has, each a row of b or none.
        unsafe { gather(&mut spread, b, self.row.address().cast(), scaling)? };
        Ok(spread.view(0, &[self.rows, self.modules * rank]))
    }

    /// db (P, R) += scaling * the rows of dspread (O, M * R) where they stand, both in A
    fn collect(&self, ctx: &mut Backward<'_>, b: &Param, dspread: &Tensor, scaling: f64) -> Result<()> {
        let mut collected = Tensor::empty(dspread.device(), b.shape(), dspread.dtype())?;
        let rows = dspread.view(0, &[self.rows * self.modules, b.shape()[1]]);
        // SAFETY: as many places as b has rows, each one of dspread.
        unsafe { gather(&mut collected, &rows, self.place.address().cast(), scaling)? };
        let (driver, dtype, n) = (dspread.device().driver(), engine_dtype(dspread.dtype()), collected.len() as u64);
        let db = ctx.param(b)?;
        // SAFETY: db is b's part of the gradients.
        unsafe { launch!(driver, add { n }(db, collected.address(), n, dtype, driver.stream())) }
    }
}

/// What is added to a weight.
#[derive(Clone)]
pub struct Update {
    /// (M * R, I)
    pub a: Param,
    /// (P, R)
    pub b: Param,
    pub blocks: Rc<Blocks>,
    pub scaling: f64,
    /// None: nothing is left out.
    pub dropout: Option<Dropout>,
}

impl Update {
    /// What is left of x.
    fn left_of(&self, x: &Tensor, rounding: Rounding) -> Result<Tensor> {
        match &self.dropout {
            None => Ok(x.clone()),
            Some(dropout) => rounding.apply(dropout.of(x)?),
        }
    }
}

/// y (N, O) = x (N, I) times the transpose of weight (O, I) with its update.
pub fn lora_linear(tape: &mut Tape, x: &Var, weight: &Param, update: &Update) -> Result<Var> {
    let (n, o, low) = (x.value.shape()[0], weight.shape()[0], update.a.shape()[0]);
    let rounding = tape.rounding();
    let [h, spread, y] = tape.kept(|| {
        let empty = |columns: usize| Tensor::empty(x.value.device(), &[n, columns], x.value.dtype());
        let (mut h, mut y) = (empty(low)?, empty(o)?);
        linear::forward(&mut h, &update.left_of(&x.value, rounding)?, &update.a.value, Store::Written)?;
        let h = rounding.apply(h)?;
        let spread = rounding.apply(update.blocks.spread(&update.b.value, update.scaling)?)?;
        linear::forward(&mut y, &x.value, &weight.value, Store::Written)?;
        y = rounding.apply(y)?;
        linear::forward(&mut y, &h, &spread, Store::Added)?;
        Ok([h, spread, y])
    })?;
    let y = tape.output(y)?;
    let (out, saved) = (y.arrival(), Saved { x: x.clone(), h, spread, weight: weight.clone(), update: update.clone() });
    tape.push("lora", move |ctx| match ctx.take(&out) {
        Some(dy) => saved.backward(ctx, &dy),
        None => Ok(()),
    });
    Ok(y)
}

/// What the backward reads beside the gradient.
struct Saved {
    x: Var,
    h: Tensor,
    spread: Tensor,
    weight: Param,
    update: Update,
}

impl Saved {
    fn backward(&self, ctx: &mut Backward<'_>, dy: &Tensor) -> Result<()> {
        let Self { x, h, spread, weight, update } = self;
        let Update { a, b, blocks, scaling, .. } = update;
        let (device, x_value) = (dy.device(), &x.value);
        let mut dh = Tensor::empty(device, h.shape(), dy.dtype())?;
        linear::backward_x(dh.address_mut()?, dy, spread, Store::Written)?;
        let dh = ctx.rounding().apply(dh)?;
        let mut dx = Tensor::empty(device, x_value.shape(), dy.dtype())?;
        linear::backward_x(dx.address_mut()?, dy, &weight.value, Store::Written)?;
        match &update.dropout {
            None => linear::backward_x(dx.address_mut()?, &dh, &a.value, Store::Added)?,
            Some(dropout) => {
                let mut through = Tensor::empty(device, x_value.shape(), dy.dtype())?;
                linear::backward_x(through.address_mut()?, &dh, &a.value, Store::Written)?;
                through = ctx.rounding().apply(through)?;
                dropout.apply(&mut through)?;
                dx = ctx.rounding().apply(dx)?;
                dx.add(&ctx.rounding().apply(through)?)?;
            }
        }
        linear::backward_weight(ctx.gradients(), weight, dy, x_value)?;
        let left = update.left_of(x_value, ctx.rounding())?;
        linear::backward_weight(ctx.gradients(), a, &dh, &left)?;
        drop(left);
        let mut dspread = Tensor::empty(&device.of(Purpose::Scratch), spread.shape(), dy.dtype().accumulator())?;
        // SAFETY: dspread is as large.
        unsafe { linear::outer(dspread.address_mut()?, dy, h, Store::Written)? };
        blocks.collect(ctx, b, &dspread, *scaling)?;
        ctx.give(x, dx)
    }
}
