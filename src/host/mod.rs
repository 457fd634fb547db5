//! The CPU: vector dispatch, row-parallel loops, matrix products.

pub mod gemm;
pub mod simd;
