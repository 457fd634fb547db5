//! From files to conversations: datasets, rows, tools, and the limit on length.

pub mod dataset;
pub mod length;
pub mod messages;
pub mod parquet;
#[cfg(feature = "parquet")]
mod parquet_limits;
#[cfg(feature = "parquet")]
mod parquet_pages;
#[cfg(feature = "parquet")]
mod parquet_values;
pub mod rows;
pub mod tools;

pub use dataset::{load_rows, train_test_split};
pub use length::{MaxLength, Overlong};
pub use rows::{Origin, Row, RowContent, RowOptions, row_warnings};
pub use tools::load_tools;
