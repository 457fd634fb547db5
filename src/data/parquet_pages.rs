//! Rows of a parquet file, through pages that are looked at before the crate unpacks them.

use std::ops::ControlFlow;

use ::parquet::basic::{Compression, Encoding, Type};
use ::parquet::column::page::{Page, PageMetadata, PageReader};
use ::parquet::errors::{ParquetError, Result as ParquetResult};
use ::parquet::file::metadata::{ColumnChunkMetaData, RowGroupMetaData};
use ::parquet::file::reader::{FileReader, RowGroupReader, SerializedFileReader};
use ::parquet::record::reader::RowIter;
use ::parquet::schema::types::Type as SchemaType;
use bytes::Bytes;
use serde_json::Value;

use super::parquet_limits::{Chunk, Packing, check_footer, check_pages, most_values};
use super::parquet_values::Decoder;
use crate::device::room;
use crate::err;
use crate::error::{Context, Error, Result};

/// Calls `each` with the rows of the parquet file `bytes`, until it has enough.
///
/// # Errors
/// As `each`, or the file is broken or absurd.
///
/// # Panics
/// Where the crate does.
pub(super) fn unpack(bytes: Bytes, file: &str, each: &mut dyn FnMut(Value) -> Result<ControlFlow<()>>) -> Result<()> {
    let refused = |error: ParquetError| refused(file, &error);
    check_footer(&bytes).context(|| format!("cannot read `{file}`"))?;
    let reader = SerializedFileReader::new(bytes.clone()).map_err(refused)?;
    let mut decoder = Decoder::for_file_of(bytes.len());
    let mut left = most_values(bytes.len());
    for group in 0..reader.num_row_groups() {
        let group = reader.get_row_group(group).map_err(refused)?;
        let checked = Checked { group: &*group, bytes: &bytes };
        checked.check(file, &mut left)?;
        for row in RowIter::from_row_group(None, &checked).map_err(refused)? {
            let row = decoder.group(&row.map_err(refused)?).context(|| format!("cannot read `{file}`"))?;
            if each(row)?.is_break() {
                return Ok(());
            }
        }
    }
    Ok(())
}

fn refused(file: &str, error: &ParquetError) -> Error {
    let text = error.to_string();
    let failed = err!("cannot read `{file}`: {text}");
    if text.to_lowercase().contains("disabled feature") || text.to_lowercase().contains("codec") {
        return failed.hint("this compression is not built in: write the file with snappy or gzip, or as JSON lines");
    }
    failed
}

/// A row group whose pages are looked at before the crate unpacks them.
struct Checked<'a> {
    group: &'a dyn RowGroupReader,
    bytes: &'a Bytes,
}

impl Checked<'_> {
    fn check(&self, file: &str, left: &mut u64) -> Result<()> {
        let failed = || format!("cannot read `{file}`");
        let largest = self.metadata().columns().iter().map(|column| self.check_column(column, left));
        // A page of every column is unpacked at the same time.
        let bytes = largest.sum::<Result<u64>>().context(failed)?;
        room::require(bytes, "unpacking the rows").context(failed)
    }

    /// The bytes of its largest page.
    fn check_column(&self, column: &ColumnChunkMetaData, left: &mut u64) -> Result<u64> {
        let packing = match column.compression() {
            Compression::UNCOMPRESSED => Packing::Plain,
            Compression::SNAPPY => Packing::Snappy,
            Compression::GZIP(_) => Packing::Gzip,
            // Not built in: the crate refuses it.
            _ => return Ok(0),
        };
        let least = if column.column_type() == Type::FIXED_LEN_BYTE_ARRAY { 1 } else { 4 };
        let start = column.dictionary_page_offset().unwrap_or(column.data_page_offset());
        let chunk = Chunk { place: (start, column.compressed_size()), packing, least };
        check_pages(self.bytes, &chunk, left)
            .context(|| format!("bad column `{}`", column.column_path().string().escape_debug()))
    }
}

impl RowGroupReader for Checked<'_> {
    fn metadata(&self) -> &RowGroupMetaData {
        self.group.metadata()
    }

    fn num_columns(&self) -> usize {
        self.group.num_columns()
    }

    fn get_column_page_reader(&self, i: usize) -> ParquetResult<Box<dyn PageReader>> {
        Ok(Box::new(CheckedPages(self.group.get_column_page_reader(i)?)))
    }

    fn get_column_bloom_filter(&self, _: usize) -> Option<&::parquet::bloom_filter::Sbbf> {
        None
    }

    fn get_row_iter(&self, projection: Option<SchemaType>) -> ParquetResult<RowIter<'_>> {
        RowIter::from_row_group(projection, self)
    }
}

/// Pages in encodings whose decoders ask for no more than the page holds.
struct CheckedPages(Box<dyn PageReader>);

impl PageReader for CheckedPages {
    fn get_next_page(&mut self) -> ParquetResult<Option<Page>> {
        let page = self.0.get_next_page()?;
        match page.as_ref().map(Page::encoding) {
            // They say themselves how many strings there are, and are believed.
            Some(encoding @ (Encoding::DELTA_LENGTH_BYTE_ARRAY | Encoding::DELTA_BYTE_ARRAY)) => {
                Err(ParquetError::General(format!(
                    "the encoding {encoding} is not read: write the file with plain or dictionary encoding"
                )))
            }
            _ => Ok(page),
        }
    }

    fn peek_next_page(&mut self) -> ParquetResult<Option<PageMetadata>> {
        self.0.peek_next_page()
    }

    fn skip_next_page(&mut self) -> ParquetResult<()> {
        self.0.skip_next_page()
    }
}

impl Iterator for CheckedPages {
    type Item = ParquetResult<Page>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}
