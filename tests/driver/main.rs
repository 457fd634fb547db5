//! `src/cuda` at work without a GPU: on a driver and a cuBLASLt that stand in for NVIDIA's (`stand-in/`), with the kernels of the
//! emulator. Models train and generate as on the emulated device, to the bit.
//!
//! A test takes a GPU of its own; at its end no call may have failed that the test did not ask for, and all that was
//! made must have been given back.
#![cfg(engine_emulated)]

#[allow(dead_code)] // what only cuBLASLt's stand-in uses
#[path = "../../stand-in/driver/src/abi.rs"]
mod abi;
#[path = "../model/story.rs"]
mod story;
#[allow(dead_code)] // what only tests/model uses
#[path = "../model/tiny.rs"]
mod tiny;

mod calls;
mod capture;
mod launches;
mod machine;
mod matmul;
mod memory;
mod products;
mod timing;
mod training;

#[cfg(not(engine_mutated))]
use engine::cuda;

/// scripts/mutate-cuda compiles these tests with a broken copy in place of the library's.
#[cfg(engine_mutated)]
#[path = "../../src/cuda/mod.rs"]
mod cuda;
#[cfg(engine_mutated)]
use engine::{bail, cache, device, err, error};
