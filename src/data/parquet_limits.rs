//! What a parquet file claims, looked over before it is believed: how deep its schema is, and how large its pages get.
//!
//! Footers and headers of pages are structs in Thrift's compact protocol
//! (<https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md>), with the fields of
//! <https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift>.

use crate::error::Result;
use crate::{bail, err};

/// The deepest schema, and the most columns, that are taken.
const MAX_DEPTH: usize = 100;
const MAX_COLUMNS: usize = 1 << 16;
/// The largest page, in bytes.
const MAX_PAGE: u64 = 1 << 29;
/// Values of a column chunk that are always taken, and more in a large file: all of them could be in one row.
const FREE_VALUES: u64 = 1 << 22;
const VALUES_PER_BYTE: u64 = 8;

/// Checks the schema of a file, whose footer is its end.
///
/// # Errors
/// There is no whole footer, or its schema is absurd.
pub(super) fn check_footer(file: &[u8]) -> Result<()> {
    let footer = || {
        let (rest, magic) = file.split_last_chunk::<4>()?;
        let (rest, length) = rest.split_last_chunk::<4>()?;
        let start = rest.len().checked_sub(u32::from_le_bytes(*length) as usize)?;
        (magic == b"PAR1").then(|| &rest[start..])
    };
    let Some(footer) = footer() else { bail!("the file does not end as parquet files do") };
    let mut children = Vec::new();
    let whole = Thrift::new(footer).structure(&mut |path, value| {
        // FileMetaData.schema, of whose elements each has `num_children` or none.
        match path {
            [2] => children.push(0),
            [2, 5] => children.last_mut().into_iter().for_each(|last| *last = value),
            _ => {}
        }
    });
    whole.ok_or_else(|| err!("the file's footer is broken"))?;
    check_schema(&children)
}

/// `children`: how many each element of the schema has, in depth-first order.
fn check_schema(children: &[i64]) -> Result<()> {
    if children.len() > MAX_COLUMNS {
        bail!("the schema has {} elements; at most {MAX_COLUMNS} are taken", children.len());
    }
    // Each but the root is the child of one.
    let named = children.iter().try_fold(1i64, |sum, &count| sum.checked_add(count).filter(|_| count >= 0));
    if named != Some(children.len() as i64) {
        bail!("the schema is broken: its elements do not have the children that they claim");
    }
    // How many elements are still to come at each level.
    let mut open: Vec<i64> = Vec::new();
    for &count in children {
        while open.last() == Some(&0) {
            open.pop();
        }
        if let Some(left) = open.last_mut() {
            *left -= 1;
        }
        if count > 0 {
            open.push(count);
        }
        if open.len() > MAX_DEPTH {
            bail!("the schema is deeper than {MAX_DEPTH} levels");
        }
    }
    Ok(())
}

/// How pages of a column are packed.
#[derive(Clone, Copy)]
pub(super) enum Packing {
    Plain,
    Snappy,
    Gzip,
}

impl Packing {
    /// The most bytes that `packed` ones can become.
    fn most(self, packed: u64) -> u64 {
        match self {
            Self::Plain => packed,
            // A copy of 64 bytes takes 3.
            Self::Snappy => 22 * packed + 64,
            // Deflate's limit is 1032.
            Self::Gzip => 1040 * packed + 64,
        }
    }
}

/// The most values that all the columns of a file of `size` bytes may have.
pub(super) fn most_values(size: usize) -> u64 {
    2 * (4 * FREE_VALUES + VALUES_PER_BYTE * size as u64)
}

/// A column chunk.
pub(super) struct Chunk {
    /// Where it begins in the file, and its bytes.
    pub place: (i64, i64),
    pub packing: Packing,
    /// The least bytes that a value of its dictionary takes.
    pub least: u64,
}

/// Checks the pages of a column chunk of `file`, and gives the size of the largest one, unpacked. `left`: how many values the
/// file may still have.
///
/// # Errors
/// A page claims what it cannot hold.
pub(super) fn check_pages(file: &[u8], chunk: &Chunk, left: &mut u64) -> Result<u64> {
    let range = || {
        let (start, size) = (usize::try_from(chunk.place.0).ok()?, usize::try_from(chunk.place.1).ok()?);
        file.get(start..start.checked_add(size)?)
    };
    let Some(mut rest) = range() else { bail!("a column lies outside the file") };
    let allowed = FREE_VALUES + VALUES_PER_BYTE * file.len() as u64;
    let (mut values, mut largest) = (0u64, 0);
    while !rest.is_empty() {
        let page = Page::read(rest).ok_or_else(|| err!("the header of a page is broken"))?;
        let Some(packed) = rest.get(page.header..page.header.saturating_add(page.packed as usize)) else {
            bail!("a page ends after its column");
        };
        if page.unpacked > chunk.packing.most(page.packed).min(MAX_PAGE) {
            bail!("a page of {} bytes claims to unpack to {}", page.packed, page.unpacked);
        }
        if page.dictionary > page.unpacked / chunk.least {
            bail!("a dictionary of {} bytes claims {} values", page.unpacked, page.dictionary);
        }
        values = page.values.saturating_add(values);
        if values > allowed || page.values > *left {
            bail!("a column of {} bytes claims too many values", chunk.place.1);
        }
        *left -= page.values;
        if let Packing::Gzip = chunk.packing {
            let levels = usize::try_from(page.levels).unwrap_or(usize::MAX);
            check_gzip(packed.get(levels..).unwrap_or_default(), page.unpacked)?;
        }
        largest = largest.max(page.unpacked);
        rest = &rest[page.header + packed.len()..];
    }
    Ok(largest)
}

/// Unpacks into nowhere: the parquet crate unpacks gzip without a limit.
fn check_gzip(packed: &[u8], claimed: u64) -> Result<()> {
    let unpacked = std::io::Read::take(flate2::read::MultiGzDecoder::new(packed), claimed + 1);
    match std::io::copy(&mut { unpacked }, &mut std::io::sink()) {
        Ok(found) if found > claimed => Err(err!("a page unpacks to more than the {claimed} bytes that it claims")),
        // What is broken otherwise, the crate will tell.
        _ => Ok(()),
    }
}

/// What the header of a page says.
#[derive(Default)]
struct Page {
    /// Its own length in bytes.
    header: usize,
    packed: u64,
    unpacked: u64,
    values: u64,
    /// Values of a dictionary.
    dictionary: u64,
    /// Bytes in front of what is packed.
    levels: u64,
}

impl Page {
    /// None: broken, or something is negative.
    fn read(bytes: &[u8]) -> Option<Self> {
        let mut page = Self::default();
        let mut thrift = Thrift::new(bytes);
        let mut sound = true;
        thrift.structure(&mut |path, value| {
            let field = match path {
                [2] => &mut page.unpacked,
                [3] => &mut page.packed,
                [5 | 8, 1] => &mut page.values,
                [7, 1] => &mut page.dictionary,
                [8, 5 | 6] => {
                    page.levels = page.levels.saturating_add(value.unsigned_abs());
                    sound &= value >= 0;
                    return;
                }
                _ => return,
            };
            // A field that comes twice could be read as the one or the other.
            sound &= value >= 0 && *field == 0;
            *field = value.unsigned_abs();
        })?;
        page.header = thrift.at;
        sound.then_some(page)
    }
}

/// Reads structs of Thrift's compact protocol without knowing their fields.
struct Thrift<'a> {
    bytes: &'a [u8],
    at: usize,
    depth: usize,
}

/// Told of every integer, by the ids of the fields that lead to it, and of the beginning of every struct in a list.
type Seen<'s> = dyn FnMut(&[i16], i64) + 's;

impl<'a> Thrift<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, depth: 0 }
    }

    fn structure(&mut self, seen: &mut Seen) -> Option<()> {
        self.fields(&mut Vec::new(), seen)
    }

    fn fields(&mut self, path: &mut Vec<i16>, seen: &mut Seen) -> Option<()> {
        let mut id = 0i16;
        loop {
            let head = self.byte()?;
            if head == 0 {
                return Some(());
            }
            id = match head >> 4 {
                0 => i16::try_from(self.integer()?).ok()?,
                step => id.checked_add(step.into())?,
            };
            path.push(id);
            // A truth value is its own type.
            if !matches!(head & 15, 1 | 2) {
                self.value(head & 15, path, seen)?;
            }
            path.pop();
        }
    }

    fn value(&mut self, kind: u8, path: &mut Vec<i16>, seen: &mut Seen) -> Option<()> {
        self.depth += 1;
        let done = if self.depth > 24 { None } else { self.value_of(kind, path, seen) };
        self.depth -= 1;
        done
    }

    fn value_of(&mut self, kind: u8, path: &mut Vec<i16>, seen: &mut Seen) -> Option<()> {
        match kind {
            1..=3 => self.skip(1),
            4..=6 => {
                let value = self.integer()?;
                seen(path, value);
                Some(())
            }
            7 => self.skip(8),
            8 => {
                let length = self.varint()?;
                self.skip(length)
            }
            9 | 10 => self.list(path, seen),
            11 => self.map(path, seen),
            12 => self.fields(path, seen),
            _ => None,
        }
    }

    fn list(&mut self, path: &mut Vec<i16>, seen: &mut Seen) -> Option<()> {
        let head = self.byte()?;
        let count = if head >> 4 == 15 { self.varint()? } else { u64::from(head >> 4) };
        for _ in 0..count {
            if head & 15 == 12 {
                seen(path, 0);
            }
            self.element(head & 15, path, seen)?;
        }
        Some(())
    }

    fn map(&mut self, path: &mut Vec<i16>, seen: &mut Seen) -> Option<()> {
        let count = self.varint()?;
        let kinds = if count > 0 { self.byte()? } else { 0 };
        for _ in 0..count {
            self.element(kinds >> 4, path, seen)?;
            self.element(kinds & 15, path, seen)?;
        }
        Some(())
    }

    /// Of a list or map: it always takes bytes, so that an absurd count soon reaches the end.
    fn element(&mut self, kind: u8, path: &mut Vec<i16>, seen: &mut Seen) -> Option<()> {
        let before = self.at;
        self.value(kind, path, seen)?;
        (self.at > before).then_some(())
    }

    fn byte(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    fn skip(&mut self, count: u64) -> Option<()> {
        let to = self.at.checked_add(usize::try_from(count).ok()?)?;
        self.at = to;
        (to <= self.bytes.len()).then_some(())
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 127) << shift;
            if byte < 128 {
                return Some(value);
            }
        }
        None
    }

    /// A zigzag varint.
    fn integer(&mut self) -> Option<i64> {
        let value = self.varint()?;
        Some((value >> 1) as i64 ^ -((value & 1) as i64))
    }
}
