//! Parquet files of strangers: an error whatever they claim, no panic, and no memory that a file of their size cannot need.

use std::io::Write;

use engine::data::parquet::parse_rows;
use engine::data::{Row, RowContent, RowOptions};
use engine::error::Result;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::fixture;

fn parse(bytes: Vec<u8>) -> Result<Vec<Row>> {
    parse_rows(bytes, "rows.parquet", &RowOptions::default())
}

fn refused(bytes: Vec<u8>, part: &str) {
    let report = parse(bytes).unwrap_err().report();
    assert!(report.contains(part) && report.contains("rows.parquet"), "`{part}` is not in:\n{report}");
}

/// A number as Thrift's compact protocol writes it.
fn number(value: i64) -> Vec<u8> {
    let mut rest = (value << 1 ^ value >> 63) as u64;
    let mut bytes = Vec::new();
    loop {
        bytes.push((rest & 127) as u8 | if rest > 127 { 128 } else { 0 });
        rest >>= 7;
        if rest == 0 {
            return bytes;
        }
    }
}

/// A struct of numbers, by the ids of their fields.
fn numbers(fields: &[(u8, i64)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut last = 0;
    for &(id, value) in fields {
        bytes.push((id - last) << 4 | 6);
        bytes.extend(number(value));
        last = id;
    }
    bytes
}

/// A file with the column `text`, of one page.
struct File {
    codec: i64,
    /// What the page holds, as it is stored.
    page: Vec<u8>,
    claimed_size: i64,
    claimed_values: i64,
    /// Elements of the schema: its root, and the column.
    schema: Vec<Vec<u8>>,
}

impl File {
    /// One row, `hi`.
    fn sound() -> Self {
        let schema = vec![element("schema", Some(1)), element("text", None)];
        Self { codec: 0, page: b"\x02\0\0\0hi".to_vec(), claimed_size: 6, claimed_values: 1, schema }
    }

    fn bytes(&self) -> Vec<u8> {
        let int = |delta: u8, value: i64| [&[delta << 4 | 5][..], &number(value)].concat();
        let values = [int(1, self.claimed_values), int(1, 0), int(1, 3), int(1, 3), vec![0]].concat();
        let header = [int(1, 0), int(1, self.claimed_size), int(1, self.page.len() as i64)].concat();
        let page = [header, vec![0x2c], values, vec![0], self.page.clone()].concat();
        let column = [
            [int(1, 6), vec![0x19, 0x15, 0], vec![0x19, 0x18, 4], b"text".to_vec(), int(1, self.codec)].concat(),
            numbers(&[(5, 1), (6, self.page.len() as i64), (7, page.len() as i64), (9, 4)])[..].to_vec(),
        ];
        // The second part goes on after field 4.
        let column = [&column[0][..], &[0x16], &column[1][1..], &[0]].concat();
        let chunk = [vec![0x26], number(4), vec![0x1c], column, vec![0]].concat();
        let group = [vec![0x19, 0x1c], chunk, vec![0x16], number(10), vec![0x16], number(1), vec![0]].concat();
        let count = self.schema.len() as u64;
        let size = if count < 15 { vec![(count as u8) << 4 | 12] } else { [vec![0xfc], unsigned(count)].concat() };
        let schema = [vec![0x19], size, self.schema.concat()].concat();
        let footer = [int(1, 1), schema, vec![0x16], number(1), vec![0x19, 0x1c], group, vec![0]].concat();
        let length = (footer.len() as u32).to_le_bytes();
        [b"PAR1", &page[..], &footer, &length, b"PAR1"].concat()
    }
}

fn unsigned(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value > 127 {
        bytes.push((value & 127) as u8 | 128);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

/// A group with so many children, or a column of strings.
fn element(name: &str, children: Option<i64>) -> Vec<u8> {
    let named = [&[name.len() as u8][..], name.as_bytes()].concat();
    match children {
        Some(count) => [vec![0x35, 0, 0x18], named, vec![0x15], number(count), vec![0]].concat(),
        None => [vec![0x15, 12, 0x25, 0, 0x18], named, vec![0x25, 0, 0]].concat(),
    }
}

#[test]
fn the_sound_file_is_read() {
    let rows = parse(File::sound().bytes()).unwrap();
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].content, RowContent::Text { prompt: None, text: "hi".into() });
}

#[test]
fn what_made_the_crate_panic_is_an_error() {
    let mut count = 0;
    for entry in std::fs::read_dir(fixture("hostile")).unwrap() {
        let report = parse(std::fs::read(entry.unwrap().path()).unwrap()).unwrap_err().report();
        assert!(report.contains("rows.parquet"), "{report}");
        count += 1;
    }
    assert!(count >= 5);
}

#[test]
fn a_small_page_that_claims_to_be_large_is_refused_before_it_is_unpacked() {
    for codec in [0, 1, 2] {
        refused(File { codec, claimed_size: i64::from(i32::MAX), ..File::sound() }.bytes(), "claims to unpack to");
    }
    refused(File { claimed_size: -1, ..File::sound() }.bytes(), "the header of a page is broken");
}

#[test]
fn gzip_that_unpacks_to_more_than_it_claims_is_refused() {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    packed.write_all(&vec![0; 10 << 20]).unwrap();
    let bomb = File { codec: 2, page: packed.finish().unwrap(), claimed_size: 100, ..File::sound() };
    refused(bomb.bytes(), "unpacks to more than the 100 bytes");
}

#[test]
fn more_values_than_a_file_of_this_size_has_are_refused() {
    refused(File { claimed_values: i64::from(i32::MAX), ..File::sound() }.bytes(), "claims too many values");
}

#[test]
fn an_absurd_schema_is_refused_before_it_is_believed() {
    let with = |schema| File { schema, ..File::sound() }.bytes();
    refused(with(vec![element("schema", Some(i64::from(i32::MAX)))]), "the schema is broken");
    refused(with(vec![element("schema", Some(-1)), element("text", None)]), "the schema is broken");
    let deep = std::iter::repeat_n(element("g", Some(1)), 50_000).chain([element("text", None)]).collect();
    refused(with(deep), "the schema is deeper than");
    let wide = std::iter::once(element("schema", Some(70_000)));
    refused(with(wide.chain(std::iter::repeat_n(element("text", None), 70_000)).collect()), "the schema has 70001");
}

#[test]
fn a_damaged_file_is_an_error_or_rows_and_never_a_panic() {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let sound = std::fs::read(fixture("padded.parquet")).unwrap();
    for _ in 0..2000 {
        let mut bytes = sound.clone();
        for _ in 0..rng.random_range(1..5) {
            let at = rng.random_range(0..bytes.len());
            bytes[at] = [0, 1, 15, 127, 128, 255, bytes[at] ^ 1 << rng.random_range(0..8)][rng.random_range(0..7)];
        }
        if let Err(error) = parse(bytes) {
            assert!(error.report().contains("rows.parquet"), "{}", error.report());
        }
    }
}
