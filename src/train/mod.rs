//! Training: the loop ([`trainer`]), the evaluation loss ([`evaluate`]), the learning rate over time ([`schedule`]), and
//! what a run reports ([`metrics`], [`plot`], [`progress`]).

pub mod evaluate;
pub mod metrics;
pub mod plot;
pub mod progress;
pub mod schedule;
pub mod step;
pub mod trainer;
