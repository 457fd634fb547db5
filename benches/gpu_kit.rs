//! The benches in one binary, which `scripts/gpu-kit` takes instead of four: most of each is the same code.
//!
//! `ENGINE_BENCH` is one of `ops`, `step`, `decode`, `bill`; arguments are criterion's. Without it nothing runs, for `cargo bench` runs the
//! benches themselves.

// Each has a `main` and a copy of the models of its own.
#![allow(dead_code, clippy::duplicate_mod)]

#[path = "bill/main.rs"]
mod billing;
#[path = "decode.rs"]
mod decode;
#[path = "ops/main.rs"]
mod ops;
#[path = "step.rs"]
mod step;

fn main() {
    match std::env::var("ENGINE_BENCH").as_deref() {
        Ok("ops") => ops::benches(),
        Ok("step") => step::benches(),
        Ok("decode") => decode::benches(),
        Ok("bill") => billing::main(),
        _ => {}
    }
}
