//! What a model answers, and how good that is: generation, reading calls back, verdicts, reports.

pub mod generate;
