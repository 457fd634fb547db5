//! Rows of one dataset file: JSON lines, a JSON list, CSV or parquet, one after the other to whoever wants them.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::ops::ControlFlow;
use std::path::Path;

use rayon::prelude::*;
use serde_json::{Map, Value};

use super::json;
use super::rows::{Origin, Row, RowOptions};
use crate::device::room;
use crate::error::{Context, Error, Result};
use crate::{bail, err};

/// The endings of dataset files, those first that a folder's files are taken from if it has several.
pub const FORMATS: [&str; 4] = ["jsonl", "json", "parquet", "csv"];
/// Lines that are read at once: few at first, for somebody may want only the first row.
const MOST_LINES: usize = 4096;
const BOM: &[u8] = b"\xef\xbb\xbf";

/// Takes a row, or what is wrong with it, and says whether to go on.
pub type Sink<'a> = dyn FnMut(Result<Row>) -> ControlFlow<()> + 'a;

/// Gives `sink` the rows of `file` until it has enough.
///
/// # Errors
/// The file cannot be read, or has no rows.
pub fn read_file(file: &str, options: &RowOptions, sink: &mut Sink) -> Result<()> {
    let mut count = 0;
    let mut sink = |row: Result<Row>| {
        count += 1;
        sink(row)
    };
    match extension(file) {
        "parquet" => read_parquet(file, options, &mut sink)?,
        "jsonl" | "json" => read_json(file, options, &mut sink)?,
        "csv" => read_csv(file, options, &mut sink)?,
        _ => return Err(err!("`{file}` is no .jsonl, .json, .csv or .parquet file")),
    }
    if count == 0 {
        bail!("`{file}` has no rows");
    }
    Ok(())
}

/// The ending of a file's name, without its dot.
pub fn extension(file: &str) -> &str {
    Path::new(file).extension().and_then(|extension| extension.to_str()).unwrap_or("")
}

/// A row that will be used: one that calls only what it declares.
fn row(value: Value, origin: Origin, options: &RowOptions) -> Result<Row> {
    let row = Row::from_json(value, origin, options)?;
    row.check_calls()?;
    Ok(row)
}

fn read_parquet(file: &str, options: &RowOptions, sink: &mut Sink) -> Result<()> {
    // The file and what is made of it are there at once.
    let size = std::fs::metadata(file).map_or(0, |metadata| metadata.len());
    room::require(size.saturating_mul(2), &format!("the rows of `{file}`"))?;
    let mut number = 0;
    super::parquet::read_values(file, &mut |value| {
        number += 1;
        Ok(sink(row(value, Origin::new(file, number), options)))
    })
}

fn read_json(file: &str, options: &RowOptions, sink: &mut Sink) -> Result<()> {
    let mut reader = open(file)?;
    let beginning = reader.fill_buf().context(|| format!("cannot read `{file}`"))?;
    match beginning.iter().find(|byte| !byte.is_ascii_whitespace()) {
        Some(b'[') => read_list(file, reader, options, sink),
        _ => read_lines(file, reader, options, sink),
    }
}

/// A file, behind the mark that some editors begin it with.
fn open(file: &str) -> Result<BufReader<File>> {
    let failed = || format!("cannot read `{file}`");
    let mut reader = BufReader::new(File::open(file).context(failed)?);
    if reader.fill_buf().context(failed)?.starts_with(BOM) {
        reader.consume(BOM.len());
    }
    Ok(reader)
}

fn read_list(file: &str, mut reader: BufReader<File>, options: &RowOptions, sink: &mut Sink) -> Result<()> {
    let size = reader.get_ref().metadata().map_or(0, |metadata| metadata.len());
    room::require(size.saturating_mul(2), &format!("the rows of `{file}`"))?;
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).context(|| format!("cannot read `{file}`"))?;
    let text = std::str::from_utf8(&bytes).map_err(|error| {
        let line = bytes[..error.valid_up_to()].iter().filter(|byte| **byte == b'\n').count() + 1;
        err!("`{}` is not UTF-8", Origin::new(file, line))
    })?;
    let items =
        json::parse(text).map_err(|error| err!("`{}` {}: {error}", Origin::new(file, error.line()), fault(&error)))?;
    let Value::Array(items) = items else { bail!("`{file}` is no JSON list") };
    for (i, value) in items.into_iter().enumerate() {
        if sink(row(value, Origin::new(file, i + 1), options)).is_break() {
            break;
        }
    }
    Ok(())
}

/// JSON lines, many at once on all cores, in their order.
fn read_lines(file: &str, mut reader: BufReader<File>, options: &RowOptions, sink: &mut Sink) -> Result<()> {
    let mut lines = Lines { file, number: 0, pending: Vec::new() };
    let mut most = 1;
    loop {
        let batch = lines.next(&mut reader, most)?;
        if batch.is_empty() {
            return Ok(());
        }
        let rows: Vec<Result<Row>> =
            batch.into_par_iter().map(|(n, line)| read_line(&line, Origin::new(file, n), options)).collect();
        for row in rows {
            if sink(row).is_break() {
                return Ok(());
            }
        }
        most = (most * 2).min(MOST_LINES);
    }
}

struct Lines<'a> {
    file: &'a str,
    /// Of the last line that was read, from 1.
    number: usize,
    /// Empty lines behind which there may be nothing: editors and shells end files with them, and these are not rows.
    pending: Vec<usize>,
}

impl Lines<'_> {
    /// The next lines with their numbers, at least one unless the file has ended.
    fn next(&mut self, reader: &mut impl BufRead, most: usize) -> Result<Vec<(usize, Vec<u8>)>> {
        let mut batch = Vec::new();
        while batch.len() < most {
            let mut line = Vec::new();
            let length = reader.read_until(b'\n', &mut line).context(|| format!("cannot read `{}`", self.file))?;
            if length == 0 {
                break;
            }
            self.number += 1;
            if line.iter().all(u8::is_ascii_whitespace) {
                self.pending.push(self.number);
                continue;
            }
            batch.extend(self.pending.drain(..).map(|number| (number, Vec::new())));
            batch.push((self.number, line));
        }
        Ok(batch)
    }
}

fn read_line(line: &[u8], origin: Origin, options: &RowOptions) -> Result<Row> {
    let Ok(line) = std::str::from_utf8(line) else { bail!("`{origin}` is not UTF-8") };
    if line.is_empty() {
        return Err(err!("the line at `{origin}` is empty").hint("each line holds one row; delete the empty ones"));
    }
    match json::parse(line.trim_end()) {
        Ok(value) => row(value, origin, options),
        Err(error) => {
            let message = format!("the line at `{origin}` {}: {}", fault(&error), json::reason(&error));
            Err(Error::new(message).hint("each line holds one row, a JSON object on a single line"))
        }
    }
}

/// Keys that stand twice are JSON, and no row.
fn fault(error: &serde_json::Error) -> &'static str {
    if error.is_data() { "is no row" } else { "is not JSON" }
}

/// The first line names the columns. An empty field is none.
fn read_csv(file: &str, options: &RowOptions, sink: &mut Sink) -> Result<()> {
    let mut reader = csv::Reader::from_reader(open(file)?);
    let names = reader.headers().map_err(|error| csv_error(error, file, 1))?.clone();
    check_names(&names).context(|| format!("bad header at `{file}:1`"))?;
    let mut record = csv::StringRecord::new();
    loop {
        let line = reader.position().line() as usize;
        let next = match reader.read_record(&mut record) {
            Ok(false) => return Ok(()),
            Ok(true) => {
                let line = record.position().map_or(line, |position| position.line() as usize);
                let fields = names.iter().zip(&record).filter(|(name, field)| !name.is_empty() && !field.is_empty());
                let fields: Map<String, Value> = fields.map(|(name, field)| (name.into(), field.into())).collect();
                row(fields.into(), Origin::new(file, line), options)
            }
            Err(error) if error.is_io_error() => return Err(csv_error(error, file, line)),
            Err(error) => Err(csv_error(error, file, line)),
        };
        if sink(next).is_break() {
            return Ok(());
        }
    }
}

fn check_names(names: &csv::StringRecord) -> Result<()> {
    if names.len() == 1 && names[0].contains([';', '\t']) {
        return Err(err!("the header is a single field, `{}`", &names[0])
            .hint("fields are separated by commas: save the file as comma-separated values"));
    }
    let mut seen = HashSet::new();
    match names.iter().find(|name| !name.is_empty() && !seen.insert(*name)) {
        Some(name) => bail!("the column `{name}` stands twice"),
        None => Ok(()),
    }
}

fn csv_error(error: csv::Error, file: &str, line: usize) -> Error {
    let line = error.position().map_or(line, |position| position.line() as usize);
    let origin = Origin::new(file, line);
    match error.kind() {
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            err!("the record at `{origin}` has {len} fields, the header has {expected_len}")
                .hint("a field with commas or line breaks stands in double quotes, and a double quote in it twice")
        }
        csv::ErrorKind::Utf8 { .. } => err!("the record at `{origin}` is not UTF-8").hint("save the file as UTF-8"),
        _ => err!("the record at `{origin}` cannot be read: {error}"),
    }
}
