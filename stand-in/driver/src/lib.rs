//! A CUDA driver for machines without a GPU: `libcuda.so` for tests, strict where the real one is silent.
//!
//! It has the functions that the engine calls, no others, and does what NVIDIA's documentation of the driver's API says
//! of them, over the host's memory. Kernels and products are handed in from outside ([`stand_in_enqueue`]): those of the
//! emulator by the tests, those of cuBLASLt by its own stand-in. It is no part of the engine: tests open it by its path, and its
//! name within (`build.rs`) is the one that `dlopen` then finds.
//!
//! **Late.** Nothing runs when it is queued. A stream runs when somebody waits for it: for the stream, for an event up to
//! where it was recorded, or for the whole GPU as `cuMemFree` does. Whoever reads a result without waiting reads what was there.
//!
//! **Strict.** Handles and allocations never come again under their old number, so that what is used after its end is
//! found, also by a graph. An error has the driver's code. Where the real driver would go on and corrupt something,
//! or be slow in silence, the code is [`fault::SILENT`]:
//!
//! - a page-locked buffer written or freed before the copy out of it was made;
//! - a copy to the GPU from memory that is not page-locked, which is no asynchronous copy;
//! - the null stream;
//! - work on two streams that touches the same memory, be it the workspace of two products;
//! - waiting for an event that was never recorded, which does not wait for what is queued;
//! - the time between events of two streams, or from the later one to the earlier;
//! - the release of a context in which kernels ran, whose modules the runtime goes on to use.
//!
//! What fails while it runs (a kernel, such a copy) breaks the context for good, as on a GPU. All failures of a thread's
//! calls are kept ([`stand_in_take_faults`]), so that those are seen, too, that a destructor swallowed.
//!
//! **A clock of its own.** Each piece of work takes the nanoseconds that it says, on a clock of the GPU's that stands still otherwise: what
//! events measure is what a test has dictated.
//!
//! **A GPU for every test.** There are many GPUs; each has a context with a lock of its own, and tests share none.

pub mod abi;
mod context;
mod copies;
mod devices;
mod fault;
mod graphs;
mod memory;
mod node;
mod own;
mod streams;
