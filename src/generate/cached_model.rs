//! A model over a key-value cache: rows are computed into the cache, and after some of them the next token is chosen.
//!
//! Where the device captures graphs, batches of rows that continue a sequence each are padded to a few sizes, with rows in spare slots that nobody sees or
//! reads. The second batch of a size is captured, later ones replay it: a token costs one upload, one launch and
//! one download.

use std::rc::Rc;

use super::sampling::{Sampling, choose};
use super::slots::{Row, Slots};
use crate::autograd::Tape;
use crate::batch::inputs::{DeviceArray, Inputs};
use crate::batch::tree::{Rows, TokenTree};
use crate::device::Tensor;
use crate::device::graphs::{self, Graphs};
use crate::err;
use crate::error::Result;
use crate::model::gemma3::{Batch, Gemma3, KvCache};
use crate::ops::embedding::RowList;
use crate::ops::greedy::Greedy;

/// Batches of more rows are neither padded nor captured: they keep a GPU busy for longer than it takes to queue them.
const MOST_ROWS: usize = 256;
/// The most rows that a batch is padded with.
const PADDING: usize = 31;
/// Graphs that are kept: more than there are sizes, unless the longest sequence grows again and again.
const MOST_GRAPHS: usize = 16;

/// The rows that batches of one token for each of `rows` sequences are padded to: few sizes, for a graph must be captured for each,
/// and little waste.
fn padded(rows: usize) -> usize {
    match rows {
        0..=1 => 1,
        2..=32 => rows.next_multiple_of(8),
        _ => rows.next_multiple_of(PADDING + 1),
    }
}

/// Spare slots that the cache of a model needs: the rows of padding go there.
pub fn spare_slots(model: &Gemma3) -> usize {
    if model.device().driver().captures_graphs() { PADDING } else { 0 }
}

/// A model, its cache, and how tokens are chosen.
pub struct CachedModel<'m> {
    model: &'m Gemma3,
    sampling: Option<Sampling>,
    /// None: tokens are drawn.
    greedy: Option<Greedy>,
    /// None: all is queued kernel by kernel. They hold addresses of the cache.
    graphs: Option<Rc<Graphs<Size, Prepared, Tensor>>>,
    cache: KvCache,
    /// Positions that rows can come to have.
    depth: usize,
}

/// What one graph serves, beside a model, a cache and a way to choose.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Size {
    rows: usize,
    /// That its rotation tables know.
    positions: usize,
}

/// What is computed at once.
#[derive(Clone, Copy)]
pub struct Wanted<'a> {
    /// In the order of their slots.
    pub rows: &'a [Row],
    /// Slots of rows after which a token is wanted.
    pub after: &'a [u32],
    /// The numbers in 0..1 that these tokens are drawn with.
    pub uniforms: &'a [f32],
    /// Whether the rows continue a sequence each.
    pub decoding: bool,
}

/// Rows whose arrays are ready to be sent.
struct Prepared {
    inputs: Rc<Inputs>,
    batch: Batch,
    /// Those after which a token is chosen, and the numbers to choose it with.
    last: RowList,
    uniforms: DeviceArray,
}

impl graphs::Inputs for Prepared {
    fn send(&self) -> Result<()> {
        self.inputs.send()
    }

    fn replace(&self, new: &Self) -> Result<()> {
        self.inputs.replace(&new.inputs)
    }
}

impl<'m> CachedModel<'m> {
    /// With an empty cache for the slots of `tree`, of which [`spare_slots`] are spare.
    pub fn new(model: &'m Gemma3, tree: &TokenTree, sampling: Option<Sampling>) -> Result<Self> {
        let device = model.device();
        let graphs = device.driver().captures_graphs().then(|| Rc::new(Graphs::new(device, MOST_GRAPHS)));
        let greedy = sampling.is_none().then(|| Greedy::new(device, model.embedding()));
        Ok(Self { model, sampling, greedy, graphs, cache: model.kv_cache(tree)?, depth: 0 })
    }

    pub fn without_graphs(self) -> Self {
        Self { graphs: None, ..self }
    }

    /// Rows may have positions below `depth` from now on.
    pub fn expect_positions(&mut self, depth: usize) {
        self.depth = self.depth.max(depth);
    }

    /// Computes rows into their slots and chooses the tokens that are wanted.
    pub fn next_tokens(&mut self, slots: &Slots, wanted: Wanted<'_>) -> Result<Vec<u32>> {
        let pads = wanted.decoding && wanted.rows.len() <= MOST_ROWS && !slots.spare().is_empty();
        let tokens = if pads {
            // A graph keeps the tables that it was captured with.
            let size = Size { rows: padded(wanted.rows.len()), positions: self.model.know_positions(self.depth)? };
            let prepared = self.prepare(slots, wanted, Some(size.rows))?;
            match self.graphs.clone() {
                Some(graphs) => graphs.run(size, prepared, |prepared| self.queue(prepared))?,
                None => self.send_and_queue(&prepared)?,
            }
        } else {
            let prepared = self.prepare(slots, wanted, None)?;
            self.send_and_queue(&prepared)?
        };
        let mut tokens = tokens.download::<u32>()?;
        tokens.truncate(wanted.after.len());
        Ok(tokens)
    }

    /// `padded`: the rows to pad to.
    fn prepare(&self, slots: &Slots, wanted: Wanted<'_>, padded: Option<usize>) -> Result<Prepared> {
        let Wanted { rows, after, uniforms, decoding } = wanted;
        let padding = padded.map_or(0, |all| all - rows.len());
        let row_in = |slot| Row { slot, id: 0, position: 0 };
        let all = || rows.iter().copied().chain(slots.spare().take(padding).map(row_in));
        let of = |part: fn(Row) -> u32| all().map(part).collect::<Vec<u32>>();
        let (ids, at, positions) = (of(|row| row.id), of(|row| row.slot), of(|row| row.position));
        let inputs = Inputs::new(self.model.device(), padded.is_some());
        let of_batch = Rows { ids: &ids, slots: &at, positions: &positions };
        let batch = self.model.batch_of(&inputs, slots.tree(), of_batch, decoding)?;
        let row_of = |slot| {
            let row = at.binary_search(slot);
            row.map(|row| row as u32)
                .map_err(|_| err!("internal: slot {slot}, which a token is to follow, is not computed"))
        };
        let last = after.iter().map(row_of).collect::<Result<Vec<u32>>>()?;
        let tokens = padded.unwrap_or(after.len());
        let last = RowList::new(&inputs, &last, at.len(), tokens)?;
        let uniforms = inputs.push_f32(uniforms, tokens);
        Ok(Prepared { inputs, batch, last, uniforms })
    }

    fn send_and_queue(&mut self, prepared: &Prepared) -> Result<Tensor> {
        graphs::Inputs::send(prepared)?;
        self.queue(prepared)
    }

    /// Tokens, on the device.
    fn queue(&mut self, Prepared { batch, last, uniforms, .. }: &Prepared) -> Result<Tensor> {
        let mut tape = Tape::inference(self.model.device());
        let hidden = self.model.forward(&mut tape, batch, Some(&mut self.cache))?;
        let after = last.pick(&hidden.value)?;
        if let Some(greedy) = &self.greedy
            && let Some(tokens) = greedy.tokens(&after)?
        {
            return Ok(tokens);
        }
        let logits = self.model.logits_after(&mut tape, after)?;
        choose(&logits, uniforms, self.sampling.as_ref())
    }
}
