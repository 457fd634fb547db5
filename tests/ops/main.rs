//! Every op on every device, in every type, against its formula, central differences, f64, and its own repeat.
//!
//! `lists/` has the cases of each op, [`checks`] what every case owes; a file per op runs them, and tests what only that op
//! has. `ENGINE_TEST_DEVICE=cuda` runs them on the GPU.

mod altered;
mod arrays;
mod checks;
mod differences;
mod guarded;
mod lists;
mod places;

mod adamw;
mod add;
mod attention;
mod attention_mask;
mod cast;
mod clip;
mod cross_entropy;
mod cross_entropy_launcher;
mod decode;
mod dropout;
mod embedding;
mod exp;
mod geglu;
mod linear;
mod lora;
mod mlp;
mod products;
mod residual;
mod rmsnorm;
mod rope;
mod round_blocks;
mod sample;
mod search;
mod split_weights;
mod stream;
mod tape;
mod weight_gradients;
