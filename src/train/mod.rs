//! Training: the learning rate over time ([`schedule`]), what a run reports ([`metrics`], [`plot`], [`progress`]).

pub mod metrics;
pub mod plot;
pub mod progress;
pub mod schedule;
