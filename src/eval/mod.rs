//! What a model answers and how good that is: prompts -> text ([`crate::generate`]) -> calls ([`crate::chat::functiongemma::parser`]) -> [`verdict`] ->
//! [`report`] and [`table`]; two of them on the same prompts -> [`price`].

pub mod price;
pub mod report;
pub mod statistics;
pub mod table;
pub mod verdict;
