//! Where ops run: the CPU in Rust (and the oracle of every kernel), and the devices that run `kernels/`.

#[rustfmt::skip]
pub mod bindings;
pub mod cpu;
pub mod cuda;
pub mod cuda_products;
pub mod driver;
#[cfg(engine_emulated)]
pub mod emulated;
pub mod gemm;
pub mod inputs;
pub mod kernels;
