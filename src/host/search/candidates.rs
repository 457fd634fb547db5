//! Which rows of the weights may give the largest product, by what their bytes say.

use std::sync::atomic::{AtomicI32, Ordering};

use rayon::prelude::*;

use super::bytes::{Job, LEVELS_OF_X, MOST_ROWS, PANEL, TERMS, Unit};
use super::panels::{Facts, Panels};
use super::quantized::{LANES, ROUNDING, quantize};
use super::view::DIRECTIONS;
use crate::device::DType;
use crate::host::simd::{Scalar, vectorized};

/// Panels of a task.
const PANELS: usize = 64;

/// A row of x in bytes.
struct Row {
    scale: f32,
    /// What is added to weights, times the sum of x: in every sum of products of bytes.
    offset: i32,
    /// m x, and u x.
    base: f32,
    along: [f32; DIRECTIONS],
    /// What a norm of a weight's error, and of what its bytes say, counts for.
    of_error: f32,
    of_size: f32,
    /// What all else is wrong by at most.
    of_rounding: f32,
    /// The largest lower bound so far, as [`key`] orders it.
    floor: AtomicI32,
}

/// A row of weights whose product may be the largest.
struct Candidate {
    row: usize,
    weight: u32,
    upper: f32,
}

/// Rows of x that are multiplied at once.
struct Group {
    rows: Vec<Row>,
    /// Words of x, step by step, of as many rows as the unit takes.
    words: Vec<i32>,
    width: usize,
    /// Products that differ by a smaller part may be equal in T.
    ties: f32,
}

impl Group {
    /// The upper bound that what may be the largest product of a row has at least.
    #[inline(always)]
    fn floor(&self, row: &Row) -> f32 {
        let floor = number(row.floor.load(Ordering::Relaxed));
        if self.ties > 0.0 { floor - floor.abs() * self.ties } else { floor }
    }
}

/// A number that is ordered as x is, if x is a number.
#[inline(always)]
fn key(x: f32) -> i32 {
    let bits = x.to_bits() as i32;
    if bits < 0 { bits ^ i32::MAX } else { bits }
}

/// The x of a key.
#[inline(always)]
fn number(key: i32) -> f32 {
    f32::from_bits(if key < 0 { key ^ i32::MAX } else { key } as u32)
}

/// Which rows of the weights may give the largest product, for each row of x, in ascending order.
pub(super) fn candidates_of<U: Unit, T: Scalar<Acc = f32>>(
    unit: U,
    panels: &Panels,
    x: &[T],
    terms: usize,
) -> Vec<Vec<u32>> {
    let rows = x.len() / terms;
    let widest = U::WIDTHS[U::WIDTHS.len() - 1];
    let per_group = rows.div_ceil(rows.div_ceil(widest).max(1)).max(1);
    let groups: Vec<Group> = x.chunks(per_group * terms).map(|x| group::<U, T>(panels, x, terms)).collect();
    let all = panels.facts.len();
    let of_task = |task: usize| {
        let mut found = Vec::new();
        for panel in task * PANELS..((task + 1) * PANELS).min(all) {
            for (i, group) in groups.iter().enumerate() {
                look_through(unit, panels, panel, group, |row, lane, upper| {
                    found.push(Candidate { row: i * per_group + row, weight: (panel * PANEL + lane) as u32, upper });
                });
            }
        }
        found
    };
    let found: Vec<Vec<Candidate>> = (0..all.div_ceil(PANELS)).into_par_iter().map(of_task).collect();
    let floors: Vec<f32> = groups.iter().flat_map(|group| group.rows.iter().map(|row| group.floor(row))).collect();
    let mut candidates = vec![Vec::new(); rows];
    for Candidate { row, weight, upper } in found.into_iter().flatten() {
        if upper >= floors[row] {
            candidates[row].push(weight);
        }
    }
    candidates
}

/// Rows of x in bytes. One that is not finite has bounds that no product reaches.
fn group<U: Unit, T: Scalar<Acc = f32>>(panels: &Panels, x: &[T], terms: usize) -> Group {
    // Additions in f32, each wrong by a part of 2^-24 of all that is added at most: the head's own D, in whatever order; those of
    // c, u x and m x in 16 lanes, each for itself; and a few for each term of w' and x', and for the bounds.
    let additions = terms + (2 * DIRECTIONS + 1) * (terms / LANES + LANES) + 64 * DIRECTIONS;
    let rounding = additions as f32 * f32::EPSILON / 2.0;
    let rows = x.len() / terms;
    let width = U::WIDTHS.iter().copied().find(|width| *width >= rows).unwrap_or(rows);
    let mut words = vec![0; panels.steps * width];
    let mut v = vec![0.0; terms.next_multiple_of(LANES)];
    let mut bytes = vec![0; v.len()];
    let quantized = |(i, x): (usize, &[T])| {
        let (seen, norms) = vectorized!({
            let seen = panels.view.see_x(x, &mut v);
            (seen, quantize(&mut bytes, &mut v, LEVELS_OF_X, 0))
        });
        for (step, terms) in bytes.as_chunks::<TERMS>().0.iter().take(panels.steps).enumerate() {
            words[step * width + i] = i32::from_le_bytes(*terms);
        }
        let sum: i32 = bytes.iter().map(|byte| i32::from(*byte as i8)).sum();
        Row {
            scale: norms.scale,
            offset: U::OFFSET * sum,
            base: seen.base,
            along: seen.along,
            of_error: norms.norm(),
            of_size: norms.error,
            of_rounding: rounding * panels.norm * seen.norm * (1.0 + ROUNDING),
            floor: AtomicI32::new(key(f32::NEG_INFINITY)),
        }
    };
    let rows = x.chunks_exact(terms).enumerate().map(quantized).collect();
    // Two numbers that round to the same one of 8 bits are less than 2^-7 of the larger one apart.
    let ties = if T::DTYPE == DType::Bf16 { 2f32.powi(-7) } else { 0.0 };
    Group { rows, words, width, ties }
}

/// Calls `found(row, lane, upper bound)` for products of a panel that may be the largest, as far as is known.
fn look_through<U: Unit>(
    unit: U,
    panels: &Panels,
    panel: usize,
    group: &Group,
    mut found: impl FnMut(usize, usize, f32),
) {
    let mut sums = [[0; PANEL]; MOST_ROWS];
    let job = Job {
        steps: panels.steps,
        weights: panels.panel(panel).as_ptr(),
        x: group.words.as_ptr(),
        rows: group.width,
        sums: sums.as_mut_ptr(),
    };
    // SAFETY: a panel of so many steps, as many words of each row, and room for the sums of all rows.
    unsafe { unit.multiply(&job) };
    let Facts { scales, errors, sizes, along } = &panels.facts[panel];
    vectorized!({
        for (i, (row, sums)) in group.rows.iter().zip(&sums).enumerate() {
            let floor = group.floor(row);
            let (mut products, mut bounds) = ([row.base; PANEL], [row.of_rounding; PANEL]);
            for (c, x) in along.iter().zip(row.along) {
                for lane in 0..PANEL {
                    products[lane] += c[lane] * x;
                }
            }
            let mut is_reached = false;
            for lane in 0..PANEL {
                products[lane] += (sums[lane] - row.offset) as f32 * (row.scale * scales[lane]);
                bounds[lane] += errors[lane] * row.of_error + sizes[lane] * row.of_size;
                is_reached |= products[lane] + bounds[lane] >= floor;
            }
            if !is_reached {
                continue;
            }
            for lane in 0..PANEL {
                let upper = products[lane] + bounds[lane];
                if upper >= floor {
                    row.floor.fetch_max(key(products[lane] - bounds[lane]), Ordering::Relaxed);
                    found(i, lane, upper);
                }
            }
        }
    });
}
