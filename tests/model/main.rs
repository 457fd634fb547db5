//! The model against transformers (tests/fixtures/gemma3_tiny, made by make_gemma3_golden.py) and against itself.

#[path = "../ops/differences.rs"]
mod differences;

mod checkpoint;
mod decoder;
#[cfg(engine_emulated)]
mod devices;
mod evaluation;
mod generation;
mod golden;
mod gradients;
mod tiny;
