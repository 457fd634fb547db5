//! The ops: a file each, with the public function that goes on the tape and its backward. An op checks shapes, makes its
//! outputs and calls the launchers of its name; it does not know which device it has.
//!
//! One alphabet of shapes, everywhere: N tokens of a batch, D hidden, F intermediate, V vocab, H heads, K kv heads,
//! Dh head_dim, S slots of keys, T the type that ops compute in, A that of its sums. Tensors are row-major, activations have
//! one row per token.

pub mod adamw;
pub mod attention;
pub mod clip;
pub mod cross_entropy;
pub mod decode;
pub mod dropout;
pub mod embedding;
pub mod geglu;
pub mod greedy;
pub mod linear;
pub mod lora;
pub mod mlp;
pub mod residual;
pub mod results;
pub mod rmsnorm;
pub mod rope;
pub mod sample;
pub mod stream;
