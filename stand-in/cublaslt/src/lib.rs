//! cuBLASLt for machines without a GPU: `libcublasLt.so` for tests, strict where the real one is silent.
//!
//! It has the functions that the engine calls, no others. A product is what the descriptors say by BLAS's rules, matrices by
//! columns; it runs on the stream of the driver's stand-in, which it finds by its name. What a descriptor, a
//! leading dimension, a type or an alignment has wrong is the status that NVIDIA's documentation gives, and a sentence in the
//! driver's list of faults.
//!
//! **Unkind.** An algorithm does what the preferences let it: it takes all the workspace that it may have and writes
//! over it, wants the alignments that were claimed (256 bytes where none was: NVIDIA's default), and where parts of a
//! sum may be kept in the type of the output, it keeps two and rounds each.
//!
//! **Several algorithms.** It finds as many as it is asked for, one of which it lists as unusable; a test dictates which there are, how long
//! each takes by the driver's clock, and which refuses when it is to run. A handle runs only what it has found or checked itself.
//!
//! **The same order of sums.** With [`stand_in_multiply`] the numbers come from outside: tests give it the CPU's products, so
//! that a model trained here is one trained on the emulated device, to the bit.

#[allow(dead_code)] // what only the driver is told
#[path = "../../driver/src/abi.rs"]
mod abi;
mod algorithms;
mod descriptors;
mod driver;
mod multiply;
mod product;
