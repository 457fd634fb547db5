//! GGUF files, versions 2 and 3: the header read with every count and offset checked, tensors decoded piece by piece.
//!
//! Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>. The file is magic, version, two counts, the
//! metadata pairs, the tensor list (name, sizes, type, offset), and from the next multiple of `general.alignment` the data.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Seek};
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::convert::Encoding;
use super::gguf_blocks::{encoding, type_name};
use super::weight_file::WeightFile;
use crate::error::{Context, Result};
use crate::{bail, err};

/// Most metadata pairs, and most tensors, that are taken.
const MAX_COUNT: u64 = 1 << 16;
/// Most elements of an array of strings, such as a vocabulary.
const MAX_STRINGS: u64 = 1 << 24;
/// Bytes of the longest string, and of all that are kept.
const MAX_TEXT: u64 = 16 << 20;

/// A metadata value. The elements of arrays are of no use here and are only skipped.
#[derive(Clone, Debug, PartialEq)]
pub enum MetaValue {
    /// Any unsigned integer, or a signed one that is not negative.
    Unsigned(u64),
    /// A negative integer.
    Negative(i64),
    /// Any float.
    Float(f64),
    /// A truth value.
    Bool(bool),
    /// A string.
    Text(String),
    /// An array of this many elements.
    Array(u64),
}

/// Where a tensor is and how it is stored.
struct TensorInfo {
    /// Rows first, as everywhere in this crate (the file has it the other way round).
    shape: Vec<usize>,
    encoding: Encoding,
    /// Bytes of the file.
    data: Range<u64>,
}

/// An open GGUF file.
pub struct GgufFile {
    path: PathBuf,
    file: WeightFile,
    metadata: HashMap<String, MetaValue>,
    tensors: HashMap<String, TensorInfo>,
}

impl GgufFile {
    /// Opens the file and reads its header.
    ///
    /// # Errors
    /// The file is missing, not a GGUF, of another version, cut short, or inconsistent; a tensor has a type that is not
    /// read (the error names both).
    pub fn open(path: &Path) -> Result<Self> {
        let failed = || format!("cannot read the GGUF `{}`", path.display());
        let file = WeightFile::open(path).context(failed)?;
        let (metadata, tensors) = read_header(BufReader::new(file.file()), file.size()).context(failed)?;
        Ok(Self { path: path.into(), file, metadata, tensors })
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The value of a metadata key.
    pub fn metadata(&self, key: &str) -> Option<&MetaValue> {
        self.metadata.get(key)
    }

    /// The names of all tensors, in no order.
    pub fn tensor_names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The shape of a tensor, rows first.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|tensor| tensor.shape.as_slice())
    }

    /// The bytes of a tensor in the file.
    pub fn size(&self, name: &str) -> Option<u64> {
        self.tensors.get(name).map(|tensor| tensor.data.end - tensor.data.start)
    }

    /// Decodes a tensor to f32, row-major.
    ///
    /// # Errors
    /// There is no such tensor, it has another number of elements than `out`, or holds NaN or infinity.
    pub fn read_tensor(&self, name: &str, out: &mut [f32]) -> Result<()> {
        let tensor = self.tensor(name)?;
        if tensor.shape.iter().product::<usize>() != out.len() {
            bail!("tensor `{name}` has shape {:?}, not {} elements", tensor.shape, out.len());
        }
        self.file.read_tensor(name, tensor.data.clone(), tensor.encoding, out)
    }

    /// [`read_tensor`](Self::read_tensor) of the elements from `first` on, whole blocks of the tensor.
    pub(super) fn read_part(&self, name: &str, first: usize, out: &mut [f32]) -> Result<()> {
        let tensor = self.tensor(name)?;
        self.file.read_part(name, tensor.data.clone(), tensor.encoding, first, out)
    }

    fn tensor(&self, name: &str) -> Result<&TensorInfo> {
        self.tensors.get(name).ok_or_else(|| err!("tensor `{name}` is missing"))
    }
}

/// Whether `bytes` are a GGUF whose header can be read.
///
/// # Errors
/// As [`GgufFile::open`].
pub fn check_header(bytes: &[u8]) -> Result<()> {
    read_header(io::Cursor::new(bytes), bytes.len() as u64).map(drop)
}

/// The numbers that whole blocks of ggml's type `kind` hold.
///
/// # Errors
/// The type is not read, or the bytes are no whole blocks.
pub fn decode_blocks(kind: u32, bytes: &[u8]) -> Result<Vec<f32>> {
    let Some(encoding) = encoding(kind) else { bail!("`{}` is not read", type_name(kind)) };
    if !bytes.len().is_multiple_of(encoding.bytes) {
        bail!("{} bytes are no whole blocks of {}", bytes.len(), encoding.bytes);
    }
    let mut out = vec![0.0; bytes.len() / encoding.bytes * encoding.elements];
    (encoding.decode)(bytes, &mut out);
    Ok(out)
}

type Header = (HashMap<String, MetaValue>, HashMap<String, TensorInfo>);

fn read_header(reader: impl BufRead + Seek, size: u64) -> Result<Header> {
    let mut cursor = Cursor { reader, at: 0, size, kept: 0 };
    if cursor.array().ok() != Some(*b"GGUF") {
        return Err(err!("the file does not start with `GGUF`").hint("is it a GGUF file, and downloaded whole?"));
    }
    match cursor.u32()? {
        2 | 3 => {}
        version if matches!(version.swap_bytes(), 2 | 3) => bail!("the file is big-endian, which is not supported"),
        version => bail!("the file has version {version}; only 2 and 3 are read"),
    }
    let tensor_count = cursor.count("tensors")?;
    let pair_count = cursor.count("metadata pairs")?;
    let mut metadata = HashMap::new();
    for _ in 0..pair_count {
        let key = cursor.string()?;
        let value = cursor.value().context(|| format!("metadata `{key}` is broken"))?;
        metadata.insert(key, value);
    }
    let raw: Vec<RawTensor> = (0..tensor_count).map(|_| cursor.tensor()).collect::<Result<_>>()?;
    let start = cursor.at.next_multiple_of(alignment(&metadata)?);
    Ok((metadata, place_tensors(raw, start, size)?))
}

fn alignment(metadata: &HashMap<String, MetaValue>) -> Result<u64> {
    match metadata.get("general.alignment") {
        None => Ok(32),
        Some(&MetaValue::Unsigned(n)) if n.is_power_of_two() && n <= 1 << 20 => Ok(n),
        Some(other) => Err(err!("`general.alignment` is {other:?}; expected a power of two up to {}", 1 << 20)),
    }
}

/// A tensor as the file lists it: name, sizes (columns first), type, offset in the data.
struct RawTensor {
    name: String,
    sizes: Vec<u64>,
    kind: u32,
    offset: u64,
}

/// Turns offsets into ranges of the file, which must lie in it and not overlap.
fn place_tensors(raw: Vec<RawTensor>, start: u64, file_size: u64) -> Result<HashMap<String, TensorInfo>> {
    let mut tensors = HashMap::with_capacity(raw.len());
    let mut ranges = Vec::with_capacity(raw.len());
    for tensor in raw {
        let info = place_tensor(&tensor, start, file_size)?;
        ranges.push((info.data.clone(), tensor.name.clone()));
        if tensors.insert(tensor.name.clone(), info).is_some() {
            bail!("tensor `{}` is listed twice", tensor.name);
        }
    }
    ranges.sort_by_key(|(range, _)| (range.start, range.end));
    match ranges.windows(2).find(|pair| pair[0].0.end > pair[1].0.start) {
        Some(pair) => Err(err!("tensors `{}` and `{}` overlap", pair[0].1, pair[1].1)),
        None => Ok(tensors),
    }
}

fn place_tensor(tensor: &RawTensor, start: u64, file_size: u64) -> Result<TensorInfo> {
    let RawTensor { name, sizes, kind, offset } = tensor;
    let Some(encoding) = encoding(*kind) else {
        return Err(err!("tensor `{name}` has the unknown block type `{}`", type_name(*kind)).hint(
            "use a GGUF in F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K or Q6_K (for example a `Q8_0` file)",
        ));
    };
    let elements = sizes.iter().try_fold(1u64, |product, &size| product.checked_mul(size));
    let Some(elements) = elements.filter(|&n| n > 0 && n <= 1 << 40) else {
        bail!("tensor `{name}` has the absurd sizes {sizes:?}");
    };
    if sizes.first().is_none_or(|columns| columns % encoding.elements as u64 != 0) {
        bail!("tensor `{name}` has rows of {sizes:?} elements in blocks of {}", encoding.elements);
    }
    let size = elements / encoding.elements as u64 * encoding.bytes as u64;
    let end = offset.checked_add(start).and_then(|begin| begin.checked_add(size));
    match end {
        Some(end) if end <= file_size => {
            let data = end - size..end;
            Ok(TensorInfo { shape: sizes.iter().rev().map(|&n| n as usize).collect(), encoding, data })
        }
        _ => Err(err!("tensor `{name}` ends after the end of the file ({file_size} bytes)")
            .hint("the file is cut short: download or copy it again")),
    }
}

/// Reads little-endian values and never past the end.
struct Cursor<R> {
    reader: R,
    at: u64,
    size: u64,
    /// Bytes of the strings that were read.
    kept: u64,
}

impl<R: BufRead + Seek> Cursor<R> {
    /// Goes `count` bytes on, which must be there.
    fn advance(&mut self, count: u64) -> Result<()> {
        if count > self.size - self.at {
            return Err(err!("the header ends at byte {} where {count} more were expected", self.size)
                .hint("the file is damaged or cut short: download or copy it again"));
        }
        self.at += count;
        Ok(())
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<()> {
        self.advance(bytes.len() as u64)?;
        self.reader.read_exact(bytes).context(|| "cannot read the header")
    }

    fn skip(&mut self, count: u64) -> Result<()> {
        self.advance(count)?;
        // What is in the buffer already is passed over there: a vocabulary has a quarter of a million strings.
        let near = self.reader.fill_buf().context(|| "cannot read the header")?.len().min(count as usize);
        self.reader.consume(near);
        let rest = (count - near as u64) as i64;
        if rest > 0 {
            self.reader.seek_relative(rest).context(|| "cannot read the header")?;
        }
        Ok(())
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut array = [0; N];
        self.fill(&mut array)?;
        Ok(array)
    }

    fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn count(&mut self, what: &str) -> Result<u64> {
        match self.u64()? {
            count if count <= MAX_COUNT => Ok(count),
            count => Err(err!("the file claims {count} {what}; at most {MAX_COUNT} are taken")),
        }
    }

    fn string(&mut self) -> Result<String> {
        let length = self.u64()?;
        let at = self.at;
        self.kept = self.kept.saturating_add(length);
        if self.kept > MAX_TEXT && length <= self.size - at {
            bail!("the strings of the header have more than {} MB", MAX_TEXT >> 20);
        }
        let mut bytes = vec![0; length.min(self.size - at).min(MAX_TEXT) as usize];
        if bytes.len() as u64 == length {
            self.fill(&mut bytes)?
        } else {
            self.advance(length)?
        }
        String::from_utf8(bytes).map_err(|_| err!("the string at byte {at} is not UTF-8"))
    }

    fn value(&mut self) -> Result<MetaValue> {
        match self.u32()? {
            9 => self.skip_array(),
            kind => self.scalar(kind),
        }
    }

    fn scalar(&mut self, kind: u32) -> Result<MetaValue> {
        let signed = |n: i64| u64::try_from(n).map_or(MetaValue::Negative(n), MetaValue::Unsigned);
        Ok(match kind {
            0 => MetaValue::Unsigned(self.array::<1>()?[0].into()),
            1 => signed(i8::from_le_bytes(self.array()?).into()),
            2 => MetaValue::Unsigned(u16::from_le_bytes(self.array()?).into()),
            3 => signed(i16::from_le_bytes(self.array()?).into()),
            4 => MetaValue::Unsigned(self.u32()?.into()),
            5 => signed(i32::from_le_bytes(self.array()?).into()),
            6 => MetaValue::Float(f32::from_le_bytes(self.array()?).into()),
            7 => MetaValue::Bool(self.array::<1>()?[0] != 0),
            8 => MetaValue::Text(self.string()?),
            10 => MetaValue::Unsigned(self.u64()?),
            11 => signed(i64::from_le_bytes(self.array()?)),
            12 => MetaValue::Float(f64::from_le_bytes(self.array()?)),
            other => bail!("unknown value type {other}"),
        })
    }

    fn skip_array(&mut self) -> Result<MetaValue> {
        let kind = self.u32()?;
        let count = self.u64()?;
        let size = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            10..=12 => 8,
            8 if count > MAX_STRINGS => bail!("the array claims {count} strings; at most {MAX_STRINGS} are taken"),
            8 => {
                for _ in 0..count {
                    let length = self.u64()?;
                    self.skip(length)?;
                }
                return Ok(MetaValue::Array(count));
            }
            other => bail!("arrays of value type {other} are not supported"),
        };
        let Some(size) = count.checked_mul(size) else { bail!("the array claims {count} elements") };
        self.skip(size)?;
        Ok(MetaValue::Array(count))
    }

    fn tensor(&mut self) -> Result<RawTensor> {
        let name = self.string()?;
        let dimensions = self.u32()?;
        if !(1..=4).contains(&dimensions) {
            bail!("tensor `{name}` has {dimensions} dimensions; expected 1 to 4");
        }
        let sizes = (0..dimensions).map(|_| self.u64()).collect::<Result<_>>()?;
        Ok(RawTensor { name, sizes, kind: self.u32()?, offset: self.u64()? })
    }
}
