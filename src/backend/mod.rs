//! Where ops run: the CPU in Rust (and the oracle of every kernel), and the table of CUDA kernels.
#[rustfmt::skip]
pub mod bindings;
pub mod cpu;
#[cfg(engine_emulated)]
pub mod emulated;
pub mod gemm;
pub mod kernels;
