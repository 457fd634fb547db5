//! Where ops run: the CPU in Rust (and the oracle of every kernel).
pub mod cpu;
pub mod gemm;
