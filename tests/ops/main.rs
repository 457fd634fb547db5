//! Every op against its formula, its gradient against central differences, f32 against f64, and every run against its repeat.
//!
//! A file per op lists its cases ([`cases`]); the checks that all ops share are in [`gradcheck`] and [`properties`].

mod cases;
mod differences;
mod gradcheck;
mod properties;

mod adamw;
mod attention;
mod attention_mask;
mod clip;
mod cross_entropy;
mod embedding;
mod exp;
mod geglu;
mod linear;
mod residual;
mod rmsnorm;
mod rope;
mod tape;
mod trees;
