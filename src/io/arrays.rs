//! Long runs of f32 numbers in a safetensors file, read and written where they are: no second copy in memory.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use serde_json::{Map, Value, json};

use super::safetensors::write_header;
use crate::bail;
use crate::error::{Context, Result};

/// The header of a file of ours is far smaller.
const MAX_HEADER: u64 = 1 << 20;
const _: () = assert!(cfg!(target_endian = "little"), "safetensors files are little-endian");

/// Writes each array under its name. The caller syncs the writer.
///
/// # Errors
/// The writer fails.
pub fn write_arrays(writer: &mut impl Write, arrays: &[(&str, &[f32])]) -> Result<()> {
    let mut header = Map::new();
    let mut start = 0;
    for (name, values) in arrays {
        let end = start + size_of_val(*values);
        let entry = json!({"dtype": "F32", "shape": [values.len()], "data_offsets": [start, end]});
        header.insert((*name).to_owned(), entry);
        start = end;
    }
    let failed = || "cannot write the numbers";
    write_header(writer, header).context(failed)?;
    for (_, values) in arrays {
        writer.write_all(bytemuck::cast_slice(values)).context(failed)?;
    }
    Ok(())
}

/// Reads the array `name` of the file at `path` into `out`.
///
/// # Errors
/// The file cannot be read, or has no such array of as many numbers.
pub fn read_array(path: &Path, name: &str, out: &mut [f32]) -> Result<()> {
    read(path, name, out).context(|| format!("cannot read `{name}` of `{}`", path.display()))
}

fn read(path: &Path, name: &str, out: &mut [f32]) -> Result<()> {
    let mut file = File::open(path).context(|| "cannot open the file")?;
    let mut length = [0; 8];
    file.read_exact(&mut length).context(|| "it has no header")?;
    let length = u64::from_le_bytes(length);
    if length > MAX_HEADER {
        bail!("its header has {length} bytes");
    }
    let mut header = vec![0; length as usize];
    file.read_exact(&mut header).context(|| "its header is cut short")?;
    let header: Value = serde_json::from_slice(&header).context(|| "its header is not JSON")?;
    let entry = &header[name];
    let start = entry["data_offsets"][0].as_u64();
    let (Some(start), true) = (start, entry["shape"] == json!([out.len()]) && entry["dtype"] == "F32") else {
        bail!("it holds no {} numbers of this name", out.len());
    };
    file.seek(SeekFrom::Start(8 + length + start)).context(|| "cannot seek in it")?;
    file.read_exact(bytemuck::cast_slice_mut(out)).context(|| "it is cut short")
}
