//! Weights from and to safetensors files, between the file's dtype and one flat f32 buffer.
//!
//! The buffer holds the tensors of [`parameter_specs`](crate::model::gemma3::table::parameter_specs) one after another.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use half::bf16;
use memmap2::Mmap;
use rayon::prelude::*;
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::{Map, Value, json};

use super::convert;
use crate::autograd::ParamSpec;
use crate::error::{Context, Error, Result};
use crate::model::gemma3::table::{EMBEDDING, parameter_count};
use crate::{bail, err};

/// The head's own name, in checkpoints that store it beside the embedding.
const HEAD: &str = "lm_head.weight";
/// Elements encoded and written at once.
const PIECE: usize = 1 << 20;
/// Elements encoded by one task.
const CHUNK: usize = 1 << 16;

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
/// A file is missing, cut short or inconsistent; a tensor is missing, unknown, of another shape or dtype, or holds NaN
/// or infinity. The error names the file and the tensor. `out` is then in an unknown state.
///
/// # Panics
/// When `out` has another length than `specs` asks for.
pub fn read_model(folder: &Path, specs: &[ParamSpec], out: &mut [f32]) -> Result<()> {
    assert_eq!(out.len(), parameter_count(specs), "the buffer must hold exactly the parameters");
    let mut waiting = unfilled(specs, out);
    for path in weight_files(folder)? {
        read_file(&path, &mut waiting).context(|| format!("cannot load the weights of `{}`", path.display()))?;
    }
    match specs.iter().find(|spec| waiting.contains_key(spec.name.as_str())) {
        Some(spec) => {
            Err(err!("tensor `{}` {:?} is missing from the weights of `{}`", spec.name, spec.shape, folder.display())
                .hint("`config.json` and the weights must be of the same model"))
        }
        None => Ok(()),
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
    let text = std::fs::read_to_string(index).context(|| format!("cannot read `{}`", index.display()))?;
    let value: Value = serde_json::from_str(&text).context(|| format!("`{}` is not JSON", index.display()))?;
    let Some(map) = value.get("weight_map").and_then(Value::as_object) else {
        bail!("`{}` has no `weight_map`", index.display());
    };
    let mut files = Vec::new();
    let mut seen = HashSet::new();
    for (tensor, file) in map {
        let name = file.as_str().unwrap_or_default();
        if name.is_empty() || Path::new(name).file_name() != Some(name.as_ref()) {
            bail!("`{}`: tensor `{tensor}` is in `{file}`, which is not a file name", index.display());
        }
        if seen.insert(name) {
            files.push(folder.join(name));
        }
    }
    Ok(files)
}

/// Fills the parameters that `path` has tensors for, and takes them out of `waiting`.
fn read_file(path: &Path, waiting: &mut HashMap<&str, Unfilled>) -> Result<()> {
    let file = File::open(path).context(|| "cannot open the file")?;
    // SAFETY: the map is only read as bytes, which are checked; a file that another program changes meanwhile gives
    // other numbers, and one that it cuts short ends this process, as for everyone who maps model files.
    let map = unsafe { Mmap::map(&file) }.context(|| "cannot map the file")?;
    let tensors = SafeTensors::deserialize(&map).map_err(|error| broken_file(error, &map))?;
    let mut views: Vec<_> = tensors.iter().collect();
    views.sort_by_key(|(_, view)| view.data().as_ptr());
    for (name, view) in views {
        match waiting.remove(name) {
            Some(parameter) => read_tensor(&map, &view, parameter)?,
            None if name == HEAD => check_tied_head(&tensors, &view)?,
            None => {
                return Err(err!("tensor `{name}` does not belong to the model that `config.json` describes")
                    .hint("only plain Gemma 3 text checkpoints are read: merge adapters first"));
            }
        }
    }
    Ok(())
}

fn broken_file(error: safetensors::SafeTensorError, bytes: &[u8]) -> Error {
    let size = bytes.len();
    Err::<(), _>(error)
        .context(|| format!("the {size} bytes are not a whole safetensors file"))
        .unwrap_err()
        .hint("the file is damaged or cut short: download or copy it again")
}

/// Some checkpoints store the head beside the embedding it is tied to; it must then be the same bytes.
fn check_tied_head(tensors: &SafeTensors, head: &TensorView) -> Result<()> {
    match tensors.tensor(EMBEDDING) {
        Ok(embedding) if embedding.dtype() == head.dtype() && embedding.data() == head.data() => Ok(()),
        _ => bail!("tensor `{HEAD}` differs from `{EMBEDDING}`; only tied heads are supported"),
    }
}

fn read_tensor(map: &Mmap, view: &TensorView, parameter: Unfilled) -> Result<()> {
    let name = &parameter.spec.name;
    if view.shape() != parameter.spec.shape {
        bail!("tensor `{name}` has shape {:?}; the config asks for {:?}", view.shape(), parameter.spec.shape);
    }
    let encoding = match view.dtype() {
        Dtype::F32 => convert::F32,
        Dtype::F16 => convert::F16,
        Dtype::BF16 => convert::BF16,
        other => {
            return Err(err!("tensor `{name}` has dtype {other:?}; only F32, F16 and BF16 are read")
                .hint("use the unquantized checkpoint"));
        }
    };
    convert::read_tensor(name, map, view.data(), encoding, parameter.out)
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
    let header = header(specs, dtype);
    let failed = || "cannot write the weights".to_string();
    writer.write_all(&(header.len() as u64).to_le_bytes()).context(failed)?;
    writer.write_all(header.as_bytes()).context(failed)?;
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

/// The JSON header, padded with spaces so that the data starts at a multiple of 8 bytes.
fn header(specs: &[ParamSpec], dtype: SaveDtype) -> String {
    let mut tensors = Map::new();
    tensors.insert("__metadata__".into(), json!({"format": "pt"}));
    let mut start = 0;
    for spec in specs {
        let end = start + spec.len() * dtype.size();
        let info = json!({"dtype": dtype.safetensors_name(), "shape": spec.shape, "data_offsets": [start, end]});
        tensors.insert(spec.name.clone(), info);
        start = end;
    }
    let mut text = Value::Object(tensors).to_string();
    let padded = text.len().next_multiple_of(8);
    text.extend(std::iter::repeat_n(' ', padded - text.len()));
    text
}

/// Little-endian `values`, in parallel.
fn encode(values: &[f32], dtype: SaveDtype, bytes: &mut [u8]) {
    let chunks = values.par_chunks(CHUNK).zip(bytes.par_chunks_mut(CHUNK * dtype.size()));
    chunks.for_each(|(values, bytes)| match dtype {
        SaveDtype::F32 => {
            for (x, b) in values.iter().zip(bytes.as_chunks_mut::<4>().0) {
                *b = x.to_le_bytes();
            }
        }
        SaveDtype::Bf16 => {
            for (x, b) in values.iter().zip(bytes.as_chunks_mut::<2>().0) {
                *b = bf16::from_f32(*x).to_le_bytes();
            }
        }
    });
}
