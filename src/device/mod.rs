//! What a device is: its memory and tensors, the driver that queues work on it, and the table of kernels.

pub mod allocator;
mod arena;
mod arithmetic;
#[rustfmt::skip]
pub mod bindings;
pub mod counted;
pub mod driver;
mod dtype;
pub mod graphs;
pub mod kernels;
pub mod launch;
mod memory;
mod out_of_memory;
pub mod profiled;
pub mod room;
mod tensor;

pub use dtype::{DType, Element};
pub use memory::{Device, GraphMemory, Purpose};
pub use out_of_memory::OutOfMemory;
pub use tensor::{Tensor, WeakTensor};
