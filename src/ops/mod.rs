//! The ops: a file each, with the public function that goes on the tape, its backward, `mod cpu`,
//! and `mod device`, which queues the kernels of the same name.
//!
//! One alphabet of shapes, everywhere: N tokens of a batch, D hidden, F intermediate, V vocab, H heads, K kv heads,
//! Dh head_dim, S slots of keys. Tensors are row-major, activations have one row per token.

pub mod adamw;
pub mod attention;
pub mod cast;
pub mod clip;
pub mod cross_entropy;
pub mod embedding;
pub mod geglu;
pub mod linear;
pub mod residual;
pub mod rmsnorm;
pub mod rope;
