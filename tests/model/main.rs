//! The model against transformers (tests/fixtures/gemma3_tiny, made by make_gemma3_golden.py) and against itself.

mod golden;
