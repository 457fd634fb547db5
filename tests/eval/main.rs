//! Reading calls back, judging them, and showing the result.

mod conformance;
#[path = "../damage/mod.rs"]
mod damage;
mod damaged;
mod parser;
mod price;
mod report;
mod statistics;
mod table;
mod verdict;
