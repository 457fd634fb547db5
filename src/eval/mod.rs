//! What a model answers and how good that is: prompts -> text ([`crate::generate`]) -> calls ([`crate::chat::functiongemma::parser`]) -> [`verdict`] ->
//! [`report`] and [`table`].

pub mod report;
pub mod statistics;
pub mod table;
pub mod verdict;
