//! The kernels on the emulated device against the CPU ops, and the emulator against kernels with planted faults.

#[cfg(engine_emulated)]
mod array;
#[cfg(engine_emulated)]
mod oracle;

#[cfg(engine_emulated)]
mod adamw;
#[cfg(engine_emulated)]
mod cast;
#[cfg(engine_emulated)]
mod clip;
#[cfg(engine_emulated)]
mod embedding;
#[cfg(engine_emulated)]
mod emulator;
#[cfg(engine_emulated)]
mod geglu;
#[cfg(engine_emulated)]
mod graph;
#[cfg(engine_emulated)]
mod rmsnorm;
#[cfg(engine_emulated)]
mod sample;
#[cfg(engine_emulated)]
mod table;

mod bindings;

#[cfg(not(engine_emulated))]
#[test]
#[ignore = "needs a C++20 compiler (g++ or clang++): the build went on without the emulated device"]
fn the_kernels_run_on_the_emulated_device() {
    panic!("built without the emulated device");
}
