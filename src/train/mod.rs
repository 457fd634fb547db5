//! Training without the run around it: one optimizer step ([`step`]), the settings ([`options`]), the order of the rows
//! ([`order`], [`packing`],
//! [`prefixes`]), the learning rate over time ([`schedule`]), the evaluation loss ([`evaluate`]), and what is measured
//! ([`metrics`], [`tensorboard`], [`plot`]). [`crate::session::Run`] puts them together.

pub mod evaluate;
pub mod log_file;
pub mod metrics;
pub mod options;
pub mod order;
pub mod packing;
pub mod plot;
pub mod prefixes;
pub mod schedule;
pub mod spike;
pub mod step;
pub mod tensorboard;
