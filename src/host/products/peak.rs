//! What this machine could do at best: the rate of multiply-adds that never leave the registers, and of reading memory.

use std::hint::black_box;
use std::time::Instant;

use rayon::prelude::*;

use super::choice::{Kernel, with_unit};
use super::tiles::Tiles;
use crate::host::simd::vectorized;

/// FLOP a second that one core does with this kernel, the best of several tries.
///
/// # Panics
/// When this machine does not have it.
pub fn flop_rate(kernel: Kernel) -> f64 {
    with_unit!(kernel, rate())
}

/// [`flop_rate`] of all threads together, while all of them are at it.
///
/// # Panics
/// As there.
pub fn flop_rate_of_all(kernel: Kernel) -> f64 {
    rayon::broadcast(|_| flop_rate(kernel)).into_iter().sum()
}

fn rate(unit: impl Tiles) -> f64 {
    let rate = |_| {
        let started = Instant::now();
        unit.spin(20_000) as f64 / started.elapsed().as_secs_f64()
    };
    (0..10).map(rate).fold(0.0, f64::max)
}

/// Bytes a second that all cores read from memory: the best of several passes over `bytes`, which no cache should hold.
pub fn read_rate(bytes: usize) -> f64 {
    let words = vec![1u64; bytes / 8];
    let seconds = |_| {
        let started = Instant::now();
        let sum = |part: &[u64]| vectorized!(part.iter().fold(0u64, |sum, word| sum.wrapping_add(*word)));
        black_box(words.par_chunks(1 << 16).map(sum).sum::<u64>());
        started.elapsed().as_secs_f64()
    };
    (words.len() * 8) as f64 / (0..6).map(seconds).fold(f64::INFINITY, f64::min)
}
