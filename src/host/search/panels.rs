//! Weights in bytes, in panels as a unit reads them.

use rayon::prelude::*;

use super::bytes::{LEVELS_OF_X, PANEL, STEP, TERMS, Unit};
use super::quantized::{LANES, Quantized, ROUNDING, quantize};
use super::view::{DIRECTIONS, View, norm};
use crate::host::memory::Block;
use crate::host::simd::{Scalar, vectorized};

pub(super) struct Panels {
    pub view: View,
    bytes: Block,
    /// Of each panel.
    pub steps: usize,
    /// What is known of the rows of each panel.
    pub facts: Vec<Facts>,
    /// The largest norm of a weight, and that of their mean.
    pub norm: f32,
}

/// What the bytes of a panel's rows stand for: w' as `scales` times bytes, and bounds of norms. Rows that fill up the last panel have
/// no bounds: NaN.
#[derive(Clone, Copy, Default)]
pub(super) struct Facts {
    pub scales: [f32; PANEL],
    pub errors: [f32; PANEL],
    pub sizes: [f32; PANEL],
    pub along: [[f32; PANEL]; DIRECTIONS],
}

impl Panels {
    /// Of `weights` (V, D), as they are seen. None: there is no room for them, or numbers are not finite.
    pub fn new<U: Unit, T: Scalar<Acc = f32>>(_: U, weights: &[T], view: View) -> Option<Self> {
        let (terms, steps) = (view.terms, view.terms.div_ceil(TERMS));
        // Sums of products of bytes have 31 bits.
        let most_terms = i32::MAX as usize / (2 * U::LEVELS + 1) as usize / LEVELS_OF_X as usize;
        if terms > most_terms {
            return None;
        }
        let rows = weights.len() / terms;
        let mut bytes = Block::new(rows.div_ceil(PANEL) * steps * STEP)?;
        let mut facts = vec![Facts::default(); rows.div_ceil(PANEL)];
        let mut norms = vec![0.0; rows];
        let panels = bytes.write().par_chunks_mut(steps * STEP).zip(&mut facts).zip(norms.par_chunks_mut(PANEL));
        panels.zip(weights.par_chunks(PANEL * terms)).for_each(|(((panel, facts), norms), weights)| {
            let mut v = vec![0.0; terms.next_multiple_of(LANES)];
            let mut row = vec![0; v.len()];
            let (words, _) = panel.as_chunks_mut::<TERMS>();
            facts.errors.fill(f32::NAN);
            for (i, (weight, size)) in weights.chunks_exact(terms).zip(norms).enumerate() {
                vectorized!({
                    *size = norm(weight);
                    let along = view.see_weight(weight, &mut v);
                    let Quantized { scale, error, size } = quantize(&mut row, &mut v, U::LEVELS, U::OFFSET);
                    (facts.scales[i], facts.errors[i], facts.sizes[i]) = (scale, error, size);
                    facts.along.iter_mut().zip(along).for_each(|(facts, along)| facts[i] = along);
                });
                for (step, terms) in row.as_chunks::<TERMS>().0.iter().take(steps).enumerate() {
                    words[step * PANEL + i] = *terms;
                }
            }
        });
        // Of what is not finite, the norm is not.
        let norm = norms.into_iter().fold(0.0, |norm: f32, other| if other <= norm { norm } else { other });
        let is_known =
            |facts: &Facts| facts.errors.iter().zip(&facts.sizes).all(|(error, size)| !(error + size).is_infinite());
        let norm = (norm + view.mean_norm()) * (1.0 + ROUNDING);
        (norm.is_finite() && facts.iter().all(is_known)).then_some(Self { view, bytes, steps, facts, norm })
    }

    pub fn panel(&self, panel: usize) -> &[u8] {
        &self.bytes.read()[panel * self.steps * STEP..][..self.steps * STEP]
    }
}
