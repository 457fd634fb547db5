//! Multiply-adds that never leave the registers: what a core could do at best.

use std::hint::black_box;

use super::unit::Unit;

/// Sums that are kept at once: enough for any latency. Some chips with NEON do four products a cycle, and have 32 registers.
const CHAINS: usize = if cfg!(target_arch = "aarch64") { 24 } else { 12 };

/// Adds products of the same words to CHAINS sums, again and again: how many FLOP they were.
#[inline(always)]
pub(super) fn spin<U: Unit>(unit: U, steps: usize) -> usize {
    let words = [black_box(0x3f00_3f00); 16];
    // SAFETY: no vector is longer than 16 words.
    let (a, b) = unsafe { (unit.words(words.as_ptr()), unit.words(black_box(&words).as_ptr())) };
    let mut sums = [unit.zero(); CHAINS];
    for _ in 0..steps {
        for sums in &mut sums {
            *sums = unit.multiply_add(*sums, a, b);
        }
    }
    black_box(&sums);
    steps * CHAINS * U::LANES * if U::PAIRS { 4 } else { 2 }
}
