//! The cuda device without a GPU: what is concluded from a machine's facts, how a GPU is named, what cuBLASLt is told, and
//! what errors say. What needs a GPU runs where there is one.

mod chip;
mod facts;
mod faults;
mod name;
mod products;
