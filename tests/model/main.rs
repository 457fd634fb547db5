//! The model against transformers (tests/fixtures/gemma3_tiny, made by make_gemma3_golden.py) and against itself.

#[path = "../ops/differences.rs"]
mod differences;
#[path = "../ops/guarded.rs"]
mod guarded;
#[allow(dead_code)] // what only tests/ops uses
#[path = "../ops/places.rs"]
mod places;

mod checkpoint;
mod checkpointing;
#[allow(dead_code)] // what only tests/session uses
mod counting;
mod decoder;
mod devices;
mod evaluation;
mod generation;
mod golden;
mod gradients;
mod lora;
mod lora_golden;
mod replay;
mod story;
mod tiny;
