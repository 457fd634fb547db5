//! What a model answers and how good that is: prompts -> text ([`generate`]) -> calls ([`parser`]) -> [`verdict`] ->
//! [`report`] and [`table`].

pub mod generate;
pub mod parser;
pub mod report;
pub mod table;
pub mod verdict;
