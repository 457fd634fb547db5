//! From generated text to a score: text -> calls ([`parser`]) -> [`verdict`] -> [`report`] and [`table`].

pub mod parser;
pub mod report;
pub mod table;
pub mod verdict;
