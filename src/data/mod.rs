//! From files to conversations: datasets, forms of rows, tools, and the limit on length.

pub mod calls;
pub mod check;
mod check_calls;
mod check_tools;
pub mod dataset;
pub mod files;
pub mod finding;
pub mod forms;
pub mod json;
pub mod length;
pub mod messages;
pub mod parquet;
#[cfg(feature = "parquet")]
mod parquet_limits;
#[cfg(feature = "parquet")]
mod parquet_pages;
#[cfg(feature = "parquet")]
mod parquet_values;
mod read;
mod repr;
pub mod rows;
pub mod schema;
pub mod tools;
pub mod xlam;

pub use dataset::{Dataset, load_dataset, load_rows, train_test_split};
pub use length::{Lengths, MaxLength, Overlong};
pub use rows::{Origin, Row, RowContent, RowOptions};
pub use tools::load_tools;
