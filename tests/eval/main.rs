//! Reading calls back, judging them, and showing the result.

mod parser;
mod report;
mod table;
mod verdict;
