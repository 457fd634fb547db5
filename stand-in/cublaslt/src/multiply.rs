//! The numbers of a product.

use std::ffi::c_void;
use std::sync::Mutex;

use half::bf16;

use crate::abi::{Gemm, Multiply};

/// What an algorithm rounds beside the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    None,
    /// Inputs, to so many bits of their fraction.
    InputsTo(u32),
    /// The two halves of the sum, to bf16.
    Parts,
}

static OUTSIDE: Mutex<Option<Multiply>> = Mutex::new(None);

/// Who computes products from now on; null: this library.
#[unsafe(no_mangle)]
extern "C" fn stand_in_multiply(multiply: Option<Multiply>) {
    *OUTSIDE.lock().expect("nobody panics with it") = multiply;
}

/// # Safety
/// The matrices are there.
pub unsafe fn multiply(gemm: &Gemm, rounding: Rounding) {
    let outside = *OUTSIDE.lock().expect("nobody panics with it");
    // SAFETY: the caller's promise.
    unsafe {
        if rounding == Rounding::None && outside.is_some_and(|multiply| multiply(gemm)) {
            return;
        }
        for column in 0..gemm.n {
            for row in 0..gemm.m {
                element(gemm, row, column, rounding);
            }
        }
    }
}

/// Writes one element of D, with the sum in f64.
///
/// # Safety
/// As [`multiply`].
unsafe fn element(gemm: &Gemm, row: usize, column: usize, rounding: Rounding) {
    // SAFETY: the caller's promise.
    let term = |k: usize| unsafe {
        let at = if gemm.transposed_a { k + row * gemm.lda } else { row + k * gemm.lda };
        let bt = if gemm.transposed_b { column + k * gemm.ldb } else { k + column * gemm.ldb };
        let [a, b] =
            [(gemm.a, at), (gemm.b, bt)].map(|(from, at)| rounded(read(from, at, gemm.inputs_are_bf16), rounding));
        f64::from(a) * f64::from(b)
    };
    let half = gemm.k / 2;
    let sum = match rounding {
        Rounding::Parts => {
            let parts = [(0..half).map(term).sum::<f64>(), (half..gemm.k).map(term).sum::<f64>()];
            parts.into_iter().map(|part| bf16::from_f64(part).to_f64()).sum()
        }
        _ => (0..gemm.k).map(term).sum::<f64>(),
    };
    let at = row + column * gemm.ldd;
    // SAFETY: the caller's promise.
    unsafe {
        let before = if gemm.accumulate { f64::from(read(gemm.d, at, gemm.d_is_bf16)) } else { 0.0 };
        match gemm.d_is_bf16 {
            true => *gemm.d.cast::<bf16>().add(at) = bf16::from_f64(before + sum),
            false => *gemm.d.cast::<f32>().add(at) = (before + sum) as f32,
        }
    }
}

/// # Safety
/// The element is there.
unsafe fn read(from: *const c_void, at: usize, is_bf16: bool) -> f32 {
    // SAFETY: the caller's promise.
    unsafe { if is_bf16 { from.cast::<bf16>().add(at).read().to_f32() } else { from.cast::<f32>().add(at).read() } }
}

fn rounded(value: f32, rounding: Rounding) -> f32 {
    match rounding {
        Rounding::InputsTo(bits) => {
            let dropped = 23 - bits;
            f32::from_bits((value.to_bits() + (1 << (dropped - 1))) >> dropped << dropped)
        }
        _ => value,
    }
}
