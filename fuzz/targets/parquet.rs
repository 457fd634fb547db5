//! Parquet files.
#![no_main]

use engine::data::RowOptions;
use engine::data::parquet::parse_rows;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = parse_rows(data.to_vec(), "rows.parquet", &RowOptions::default());
});
