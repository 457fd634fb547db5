//! How weights and rows of x are seen before they become bytes: so that little is left to be rounded.
//!
//! With any vector m, orthonormal directions u and factors d,
//!
//! ```text
//! w x = m x + sum_j c_j (u_j x) + w' x',   c_j = (w - m) u_j,
//! w' = (w - m - sum_j c_j u_j) d,   x' = (x - sum_j (u_j x) u_j) / d,
//! ```
//!
//! of which only the last product is one of bytes. Hidden states of a model have much in common, and so have its
//! embeddings: m is the mean of the weights, u are the directions in which most of a sample of x lies (of FunctionGemma's, half of it in
//! one), and d makes the terms of what is left as large in w' as in x'.

use super::quantized::LANES;
use crate::host::simd::{Scalar, sum_of};

/// Directions that are taken out.
pub(super) const DIRECTIONS: usize = 3;

/// Rows of x that a view is made for, at most.
pub(super) const SAMPLE: usize = 128;

/// So many weights tell how large their terms are.
const SOME_WEIGHTS: usize = 4096;

/// Rows of a sample for each direction: fewer say more of themselves than of others.
const ROWS_OF_DIRECTION: usize = 4;

/// m, u, and d with its inverse. Vectors have zeros behind their terms, up to whole [`LANES`].
pub(super) struct View {
    pub terms: usize,
    pub mean: Vec<f32>,
    directions: [Vec<f32>; DIRECTIONS],
    factors: Vec<f32>,
    inverses: Vec<f32>,
}

/// A row of x beside x'.
pub(super) struct Seen {
    /// m x
    pub base: f32,
    /// u x
    pub along: [f32; DIRECTIONS],
    /// Of x.
    pub norm: f32,
}

impl View {
    /// Everything as it is.
    pub fn plain(terms: usize) -> Self {
        let [zeros, ones] = [0.0, 1.0].map(|x| vec![x; terms.next_multiple_of(LANES)]);
        let directions = std::array::from_fn(|_| zeros.clone());
        Self { terms, mean: zeros, directions, factors: ones.clone(), inverses: ones }
    }

    /// For weights and rows of x like those of a sample.
    pub fn new<T: Scalar<Acc = f32>>(weights: &[T], sample: &[T], terms: usize) -> Self {
        if weights.is_empty() || sample.is_empty() {
            return Self::plain(terms);
        }
        let padded = terms.next_multiple_of(LANES);
        let every = (weights.len() / terms).div_ceil(SOME_WEIGHTS);
        let some = || weights.chunks_exact(terms).step_by(every);
        let mut mean = vec![0.0f64; padded];
        some().for_each(|row| mean.iter_mut().zip(row).for_each(|(sum, w)| *sum += f64::from(w.wide())));
        let mean: Vec<f32> = mean.iter().map(|sum| (sum / some().len() as f64) as f32).collect();
        let rows = sample.chunks_exact(terms).take(SAMPLE);
        let mut rows: Vec<Vec<f64>> = rows.map(|row| row.iter().map(|x| f64::from(x.wide())).collect()).collect();
        let num_directions = (rows.len() / ROWS_OF_DIRECTION).min(DIRECTIONS);
        let directions = std::array::from_fn(|j| {
            let mut direction = vec![0.0; padded];
            if j < num_directions {
                let found = take_main_direction(&mut rows);
                direction.iter_mut().zip(found).for_each(|(to, x)| *to = x as f32);
            }
            direction
        });
        let mut view = Self { mean, directions, ..Self::plain(terms) };
        let [mut of_weights, mut of_x] = [(); 2].map(|()| vec![0.0f64; terms]);
        let mut v = vec![0.0; padded];
        for row in some() {
            view.see_weight(row, &mut v);
            of_weights.iter_mut().zip(&v).for_each(|(sum, w)| *sum += f64::from(w * w));
        }
        rows.iter().for_each(|row| of_x.iter_mut().zip(row).for_each(|(sum, x)| *sum += x * x));
        let ratio = (some().len() as f64) / rows.len().max(1) as f64;
        for (i, (x, weight)) in of_x.into_iter().zip(of_weights).enumerate() {
            // More does not occur in a model that works.
            let factor = (ratio * x / weight).powf(0.25).clamp(1e-6, 1e6) as f32;
            if factor.is_finite() && x > 0.0 && weight > 0.0 {
                (view.factors[i], view.inverses[i]) = (factor, factor.recip());
            }
        }
        view
    }

    /// Makes w' of a weight, and returns c.
    #[inline(always)]
    pub fn see_weight<T: Scalar<Acc = f32>>(&self, weight: &[T], v: &mut [f32]) -> [f32; DIRECTIONS] {
        v[self.terms..].fill(0.0);
        for ((v, weight), mean) in v.iter_mut().zip(weight).zip(&self.mean) {
            *v = weight.wide() - mean;
        }
        let along = self.take_out(v);
        v.iter_mut().zip(&self.factors).for_each(|(v, factor)| *v *= factor);
        along
    }

    /// Makes x' of a row of x.
    #[inline(always)]
    pub fn see_x<T: Scalar<Acc = f32>>(&self, x: &[T], v: &mut [f32]) -> Seen {
        v[self.terms..].fill(0.0);
        v.iter_mut().zip(x).for_each(|(v, x)| *v = x.wide());
        let (base, norm) = (sum_of([&*v, &self.mean], |[x, m]| x * m), norm(v));
        let along = self.take_out(v);
        v.iter_mut().zip(&self.inverses).for_each(|(v, inverse)| *v *= inverse);
        Seen { base, along, norm }
    }

    /// Takes the directions out of v, and returns what v had of them.
    #[inline(always)]
    fn take_out(&self, v: &mut [f32]) -> [f32; DIRECTIONS] {
        let mut along = [0.0; DIRECTIONS];
        for (along, direction) in along.iter_mut().zip(&self.directions) {
            *along = sum_of([&*v, direction], |[v, u]| v * u);
            v.iter_mut().zip(direction).for_each(|(v, u)| *v -= *along * u);
        }
        along
    }

    /// Of m.
    pub fn mean_norm(&self) -> f32 {
        norm(&self.mean)
    }
}

#[inline(always)]
pub(super) fn norm<T: Scalar<Acc = f32>>(v: &[T]) -> f32 {
    sum_of([v], |[x]| x.wide() * x.wide()).sqrt()
}

/// The direction (of size 1) in which most of the rows lies, which is taken out of them; zeros where nothing is left.
fn take_main_direction(rows: &mut [Vec<f64>]) -> Vec<f64> {
    /// Of the power method: how exact the direction is does not matter.
    const ROUNDS: usize = 12;
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let unit = |v: Vec<f64>| {
        let size = dot(&v, &v).sqrt();
        // What is left of rows that were taken out themselves is noise.
        if size > 0.0 && size.is_finite() { v.into_iter().map(|x| x / size).collect() } else { vec![0.0; v.len()] }
    };
    let largest = rows.iter().max_by(|a, b| dot(a, a).total_cmp(&dot(b, b)));
    let mut direction = unit(largest.cloned().unwrap_or_default());
    for _ in 0..ROUNDS {
        let mut next = vec![0.0; direction.len()];
        for row in rows.iter() {
            let part = dot(row, &direction);
            next.iter_mut().zip(row).for_each(|(sum, x)| *sum += part * x);
        }
        direction = unit(next);
    }
    for row in rows {
        let part = dot(row, &direction);
        row.iter_mut().zip(&direction).for_each(|(x, u)| *x -= part * u);
    }
    direction
}
