//! The emulator against kernels with planted faults, its graphs, the table of kernels and its bindings. What the kernels
//! compute is tested in `tests/ops`. And the bill of a step.

#[cfg(engine_emulated)]
mod bill;
#[cfg(engine_emulated)]
mod buffer;
#[cfg(engine_emulated)]
mod emulator;
#[cfg(engine_emulated)]
mod graph;
#[cfg(engine_emulated)]
mod table;

mod bindings;

#[cfg(not(engine_emulated))]
#[test]
#[ignore = "needs a C++20 compiler (g++ or clang++): the build went on without the emulated device"]
fn the_kernels_run_on_the_emulated_device() {
    panic!("built without the emulated device");
}
