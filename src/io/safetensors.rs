//! Weights from and to safetensors files, between the file's dtype and one flat f32 buffer.
//!
//! The buffer holds the tensors of [`parameter_specs`](crate::model::gemma3::table::parameter_specs) one after another.

use std::collections::{HashMap, HashSet};
use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use safetensors::tensor::{Metadata, TensorInfo};
use safetensors::{Dtype, SafeTensorError};
use serde_json::{Map, Value, json};

use super::convert::{self, Encoding};
use super::weight_file::WeightFile;
use crate::autograd::ParamSpec;
use crate::error::{Context, Result};
use crate::model::fields::read_small;
use crate::model::gemma3::table::{EMBEDDING, parameter_count};
use crate::{bail, err};

/// The head's own name, in checkpoints that store it beside the embedding.
const HEAD: &str = "lm_head.weight";
/// Elements encoded and written at once.
const PIECE: usize = 1 << 20;
/// Elements encoded by one task.
const CHUNK: usize = 1 << 16;

/// Bytes of the largest header, and of the largest index of shards, that are taken.
const MAX_HEADER: u64 = 16 << 20;

/// The dtype of a saved model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SaveDtype {
    /// 4 bytes, exact.
    F32,
    /// 2 bytes, rounded to nearest even.
    Bf16,
}

impl SaveDtype {
    /// The name in `config.json`.
    pub fn config_name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::Bf16 => "bfloat16",
        }
    }

    fn safetensors_name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::Bf16 => "BF16",
        }
    }

    fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
        }
    }
}

/// Reads the weights of `folder` (one `model.safetensors` or the shards of its index) into `out`, laid out by `specs`.
///
/// # Errors
/// As [`check_model`]; a tensor holds NaN or infinity, or a file is cut short meanwhile. `out` is then in an unknown state.
///
/// # Panics
/// When `out` has another length than `specs` asks for.
pub fn read_model(folder: &Path, specs: &[ParamSpec], out: &mut [f32]) -> Result<()> {
    assert_eq!(out.len(), parameter_count(specs), "the buffer must hold exactly the parameters");
    let mut waiting = unfilled(specs, out);
    for path in weight_files(folder)? {
        read_file(&path, &mut waiting).context(|| format!("cannot load the weights of `{}`", path.display()))?;
    }
    all_found(folder, specs, |name| !waiting.contains_key(name))
}

/// Whether [`read_model`] will find what `specs` asks for, by the headers of the files alone.
///
/// # Errors
/// A file is missing, cut short or inconsistent; a tensor is missing, unknown, of another shape or dtype. The error names the
/// file and the tensor.
pub fn check_model(folder: &Path, specs: &[ParamSpec]) -> Result<()> {
    FolderWeights::open_with(folder, specs, |_, _, _| Ok(())).map(drop)
}

/// The weights of a folder, to be read a part at a time.
pub(super) struct FolderWeights {
    files: Vec<(PathBuf, WeightFile)>,
    /// By name: the file, where in it, and how it is stored.
    tensors: HashMap<String, (usize, Range<u64>, Encoding)>,
}

impl FolderWeights {
    /// Looks for what `specs` asks for.
    ///
    /// # Errors
    /// As [`check_model`], or the head is not the embedding.
    pub fn open(folder: &Path, specs: &[ParamSpec]) -> Result<Self> {
        Self::open_with(folder, specs, check_tied_head)
    }

    fn open_with(
        folder: &Path,
        specs: &[ParamSpec],
        check_head: impl Fn(&WeightFile, &Header, &TensorInfo) -> Result<()>,
    ) -> Result<Self> {
        let mut weights = Self { files: Vec::new(), tensors: HashMap::new() };
        let mut waiting: HashMap<&str, &ParamSpec> = specs.iter().map(|spec| (spec.name.as_str(), spec)).collect();
        for path in weight_files(folder)? {
            let failed = || format!("cannot load the weights of `{}`", path.display());
            let file = WeightFile::open(&path).context(failed)?;
            let header = Header::read(&file).context(failed)?;
            for (name, tensor) in header.tensors() {
                match waiting.remove(name.as_str()) {
                    Some(spec) => {
                        let encoding = check_tensor(tensor, spec).context(failed)?;
                        weights.tensors.insert(name, (weights.files.len(), header.place(tensor), encoding));
                    }
                    None if name == HEAD => check_head(&file, &header, tensor).context(failed)?,
                    None => return Err(unknown(&name)).context(failed),
                }
            }
            weights.files.push((path, file));
        }
        all_found(folder, specs, |name| !waiting.contains_key(name))?;
        Ok(weights)
    }

    /// Decodes the elements of tensor `name` from `first` on, row-major.
    ///
    /// # Errors
    /// The file cannot be read, or an element is NaN or infinite.
    pub fn read_part(&self, name: &str, first: usize, out: &mut [f32]) -> Result<()> {
        let Some((file, place, encoding)) = self.tensors.get(name) else { bail!("tensor `{name}` is missing") };
        let (path, file) = &self.files[*file];
        let read = file.read_part(name, place.clone(), *encoding, first, out);
        read.context(|| format!("cannot load the weights of `{}`", path.display()))
    }
}

fn all_found(folder: &Path, specs: &[ParamSpec], found: impl Fn(&str) -> bool) -> Result<()> {
    match specs.iter().find(|spec| !found(&spec.name)) {
        Some(spec) => {
            Err(err!("tensor `{}` {:?} is missing from the weights of `{}`", spec.name, spec.shape, folder.display())
                .hint("`config.json` and the weights must be of the same model"))
        }
        None => Ok(()),
    }
}

/// What a safetensors file says of its tensors, checked: they lie one after another and fill the file.
pub struct Header {
    metadata: Metadata,
    /// The byte at which the data begins.
    data: u64,
}

impl Header {
    /// The header that a file of `size` bytes begins with; `start` are its first bytes, as many as the header has or more.
    ///
    /// # Errors
    /// It is broken, or does not describe a file of this size.
    pub fn parse(start: &[u8], size: u64) -> Result<Self> {
        let broken = |error: SafeTensorError| {
            Err(error)
                .context(|| format!("the {size} bytes are not a whole safetensors file"))
                .map_err(|error| error.hint("the file is damaged or cut short: download or copy it again"))
        };
        let Some((length, rest)) = start.split_first_chunk::<8>() else {
            return broken(SafeTensorError::HeaderTooSmall);
        };
        let length = u64::from_le_bytes(*length);
        if length > MAX_HEADER {
            return broken(SafeTensorError::HeaderTooLarge);
        }
        let Some(text) = rest.get(..length as usize) else { return broken(SafeTensorError::InvalidHeaderLength) };
        let metadata: Metadata = match serde_json::from_slice(text) {
            Ok(metadata) => metadata,
            Err(error) => return broken(SafeTensorError::InvalidHeaderDeserialization(error)),
        };
        let data = 8 + length;
        if data.checked_add(metadata.data_len() as u64) != Some(size) {
            return broken(SafeTensorError::MetadataIncompleteBuffer);
        }
        Ok(Self { metadata, data })
    }

    pub(super) fn read(file: &WeightFile) -> Result<Self> {
        let mut length = [0; 8];
        if file.size() >= 8 {
            file.read_at(0, &mut length)?;
        }
        let count = u64::from_le_bytes(length).saturating_add(8).min(MAX_HEADER + 8).min(file.size());
        let mut start = vec![0; count as usize];
        file.read_at(0, &mut start)?;
        Self::parse(&start, file.size())
    }

    /// The tensors and their names, in the order in which they lie in the file.
    pub(super) fn tensors(&self) -> impl Iterator<Item = (String, &TensorInfo)> {
        let names = self.metadata.offset_keys().into_iter();
        names.filter_map(|name| self.metadata.info(&name).map(|info| (name, info)))
    }

    /// Where a tensor lies in the file.
    pub(super) fn place(&self, tensor: &TensorInfo) -> Range<u64> {
        let (start, end) = tensor.data_offsets;
        self.data + start as u64..self.data + end as u64
    }
}

/// A parameter that no file has filled yet.
struct Unfilled<'a> {
    spec: &'a ParamSpec,
    out: &'a mut [f32],
}

fn unfilled<'a>(specs: &'a [ParamSpec], mut out: &'a mut [f32]) -> HashMap<&'a str, Unfilled<'a>> {
    let mut waiting = HashMap::with_capacity(specs.len());
    for spec in specs {
        let (head, tail) = out.split_at_mut(spec.len());
        waiting.insert(spec.name.as_str(), Unfilled { spec, out: head });
        out = tail;
    }
    waiting
}

/// The files that hold the weights, as transformers looks for them.
fn weight_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let single = folder.join("model.safetensors");
    if single.is_file() {
        return Ok(vec![single]);
    }
    let index = folder.join("model.safetensors.index.json");
    if index.is_file() {
        return shards(folder, &index);
    }
    Err(err!("`{}` has no `model.safetensors`", folder.display())
        .hint("only safetensors weights are read; turn a GGUF into such a folder with `engine import`"))
}

fn shards(folder: &Path, index: &Path) -> Result<Vec<PathBuf>> {
    let names = read_small(index, MAX_HEADER).and_then(|text| parse_index(&text));
    let names = names.context(|| format!("cannot use `{}`", index.display()))?;
    Ok(names.iter().map(|name| folder.join(name)).collect())
}

/// The names of the shards that an index lists, each once.
///
/// # Errors
/// It is no index, or names something that is not a file beside it.
pub fn parse_index(text: &str) -> Result<Vec<String>> {
    let value: Value = serde_json::from_str(text).context(|| "it is not JSON")?;
    let Some(map) = value.get("weight_map").and_then(Value::as_object) else { bail!("it has no `weight_map`") };
    let mut files = Vec::new();
    let mut seen = HashSet::new();
    for (tensor, file) in map {
        let name = file.as_str().unwrap_or_default();
        if name.is_empty() || Path::new(name).file_name() != Some(name.as_ref()) {
            bail!("tensor `{tensor}` is in `{file}`, which is not a file name");
        }
        if seen.insert(name) {
            files.push(name.to_string());
        }
    }
    Ok(files)
}

/// Fills the parameters that `path` has tensors for, and takes them out of `waiting`.
fn read_file(path: &Path, waiting: &mut HashMap<&str, Unfilled>) -> Result<()> {
    let file = WeightFile::open(path)?;
    let header = Header::read(&file)?;
    for (name, tensor) in header.tensors() {
        match waiting.remove(name.as_str()) {
            Some(Unfilled { spec, out }) => {
                let encoding = check_tensor(tensor, spec)?;
                file.read_tensor(&name, header.place(tensor), encoding, out)?;
            }
            None if name == HEAD => check_tied_head(&file, &header, tensor)?,
            None => return Err(unknown(&name)),
        }
    }
    Ok(())
}

fn unknown(name: &str) -> crate::error::Error {
    err!("tensor `{}` does not belong to the model that `config.json` describes", name.escape_debug())
        .hint("only plain Gemma 3 text checkpoints are read: merge adapters first")
}

/// Some checkpoints store the head beside the embedding it is tied to; it must then be the same bytes.
fn check_tied_head(file: &WeightFile, header: &Header, head: &TensorInfo) -> Result<()> {
    match header.metadata.info(EMBEDDING) {
        Some(embedding)
            if embedding.dtype == head.dtype && file.same(header.place(embedding), header.place(head))? =>
        {
            Ok(())
        }
        _ => bail!("tensor `{HEAD}` differs from `{EMBEDDING}`; only tied heads are supported"),
    }
}

/// Whether a tensor is what `spec` asks for, and how it is stored.
pub(super) fn check_tensor(tensor: &TensorInfo, spec: &ParamSpec) -> Result<Encoding> {
    let name = &spec.name;
    if tensor.shape != spec.shape {
        bail!("tensor `{name}` has shape {:?}; the config asks for {:?}", tensor.shape, spec.shape);
    }
    match tensor.dtype {
        Dtype::F32 => Ok(convert::F32),
        Dtype::F16 => Ok(convert::F16),
        Dtype::BF16 => Ok(convert::BF16),
        other => Err(err!("tensor `{name}` has dtype {other:?}; only F32, F16 and BF16 are read")
            .hint("use the unquantized checkpoint")),
    }
}

/// Writes `flat`, laid out by `specs`, as one safetensors file, a chunk at a time. The caller syncs the writer.
///
/// # Errors
/// The writer fails (disk full), or a weight is NaN or infinite: such a file could not be loaded again.
///
/// # Panics
/// When `flat` has another length than `specs` asks for.
pub fn write_model(writer: &mut impl Write, specs: &[ParamSpec], flat: &[f32], dtype: SaveDtype) -> Result<()> {
    assert_eq!(flat.len(), parameter_count(specs), "the buffer must hold exactly the parameters");
    let failed = || "cannot write the weights";
    write_header(writer, tensors(specs, dtype)).context(failed)?;
    let mut rest = flat;
    let mut bytes = vec![0; PIECE * dtype.size()];
    for spec in specs {
        let (tensor, tail) = rest.split_at(spec.len());
        rest = tail;
        if let Some(index) = convert::first_not_finite(tensor) {
            bail!("tensor `{}` holds {} at element {index}: not saved", spec.name, tensor[index]);
        }
        for piece in tensor.chunks(PIECE) {
            let bytes = &mut bytes[..piece.len() * dtype.size()];
            encode(piece, dtype, bytes);
            writer.write_all(bytes).context(failed)?;
        }
    }
    Ok(())
}

/// Writes the beginning of a file: the length of the JSON header and the header, padded with spaces so that the data starts at a
/// multiple of 8 bytes.
pub(super) fn write_header(writer: &mut impl Write, tensors: Map<String, Value>) -> std::io::Result<()> {
    let mut text = Value::Object(tensors).to_string();
    let padded = text.len().next_multiple_of(8);
    text.extend(std::iter::repeat_n(' ', padded - text.len()));
    writer.write_all(&(text.len() as u64).to_le_bytes())?;
    writer.write_all(text.as_bytes())
}

fn tensors(specs: &[ParamSpec], dtype: SaveDtype) -> Map<String, Value> {
    let mut tensors = Map::new();
    tensors.insert("__metadata__".into(), json!({"format": "pt"}));
    let mut start = 0;
    for spec in specs {
        let end = start + spec.len() * dtype.size();
        let info = json!({"dtype": dtype.safetensors_name(), "shape": spec.shape, "data_offsets": [start, end]});
        tensors.insert(spec.name.clone(), info);
        start = end;
    }
    tensors
}

/// Little-endian `values`, in parallel.
fn encode(values: &[f32], dtype: SaveDtype, bytes: &mut [u8]) {
    let chunks = values.par_chunks(CHUNK).zip(bytes.par_chunks_mut(CHUNK * dtype.size()));
    chunks.for_each(|(values, bytes)| match dtype {
        SaveDtype::F32 => convert::encode_f32(values, bytes),
        SaveDtype::Bf16 => convert::encode_bf16(values, bytes),
    });
}
