//! Bytes of a mapped file to f32: in parallel, checked for NaN and infinity, pages given back as they are done.

use half::f16;
use memmap2::Mmap;
use rayon::prelude::*;

use crate::err;
use crate::error::Result;

/// Elements converted between two releases of the file's pages.
const PIECE: usize = 1 << 23;
/// Elements converted by one task; a multiple of every block size.
const CHUNK: usize = 1 << 16;

/// How numbers are stored: in blocks of so many elements and bytes.
#[derive(Clone, Copy)]
pub(super) struct Encoding {
    /// Elements of a block; divides 256.
    pub elements: usize,
    /// Bytes of a block.
    pub bytes: usize,
    /// Decodes whole blocks: `out` holds `elements` for every `bytes`.
    pub decode: fn(&[u8], &mut [f32]),
}

pub(super) const F32: Encoding = Encoding { elements: 1, bytes: 4, decode: decode_f32 };
pub(super) const F16: Encoding = Encoding { elements: 1, bytes: 2, decode: decode_f16 };
pub(super) const BF16: Encoding = Encoding { elements: 1, bytes: 2, decode: decode_bf16 };

impl Encoding {
    /// Bytes that hold `elements` whole blocks' worth of elements.
    fn size_of(self, elements: usize) -> usize {
        elements / self.elements * self.bytes
    }
}

/// Decodes tensor `name`, stored as `bytes` of `map`, into `out`.
///
/// # Errors
/// An element is NaN or infinite; the error names the tensor and the element.
pub(super) fn read_tensor(name: &str, map: &Mmap, bytes: &[u8], encoding: Encoding, out: &mut [f32]) -> Result<()> {
    debug_assert_eq!(encoding.size_of(out.len()), bytes.len());
    let pieces = out.chunks_mut(PIECE).zip(bytes.chunks(encoding.size_of(PIECE)));
    for (piece, (out, bytes)) in pieces.enumerate() {
        if let Some(index) = decode_piece(bytes, encoding, out) {
            return Err(err!("tensor `{name}` holds {} at element {}", out[index], piece * PIECE + index)
                .hint("the checkpoint is damaged, or its training diverged"));
        }
        release_pages(map, bytes);
    }
    Ok(())
}

/// Decodes in parallel and gives the index of the first element that is not finite.
fn decode_piece(bytes: &[u8], encoding: Encoding, out: &mut [f32]) -> Option<usize> {
    let chunks = out.par_chunks_mut(CHUNK).zip(bytes.par_chunks(encoding.size_of(CHUNK))).enumerate();
    let first_bad = chunks.filter_map(|(chunk, (out, bytes))| {
        (encoding.decode)(bytes, out);
        first_not_finite(out).map(|index| chunk * CHUNK + index)
    });
    first_bad.min()
}

/// The index of the first NaN or infinity.
pub(super) fn first_not_finite(values: &[f32]) -> Option<usize> {
    // A search stops early and so runs one element at a time; whole lanes run at memory speed.
    let clean = values.chunks(64).all(|lane| lane.iter().fold(true, |ok, x| ok & x.is_finite()));
    if clean { None } else { values.iter().position(|x| !x.is_finite()) }
}

/// Lets the kernel take back pages that are done, so that the file and the buffer do not both count as ours.
#[cfg(unix)]
fn release_pages(map: &Mmap, bytes: &[u8]) {
    let offset = bytes.as_ptr() as usize - map.as_ptr() as usize;
    // SAFETY: the map is a read-only view of a file: dropped pages are read again from it when touched. Failure only
    // costs memory, so it is ignored.
    let _ = unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, offset, bytes.len()) };
}

#[cfg(not(unix))]
fn release_pages(_: &Mmap, _: &[u8]) {}

fn decode_f32(bytes: &[u8], out: &mut [f32]) {
    for (x, b) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
        *x = f32::from_le_bytes(*b);
    }
}

fn decode_f16(bytes: &[u8], out: &mut [f32]) {
    for (x, b) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
        *x = f16::from_le_bytes(*b).to_f32();
    }
}

fn decode_bf16(bytes: &[u8], out: &mut [f32]) {
    for (x, b) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
        *x = f32::from_bits(u32::from(u16::from_le_bytes(*b)) << 16);
    }
}
