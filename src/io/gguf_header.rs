//! What a GGUF says before its numbers, as it is written: version 3, the metadata pairs, the list of tensors.
//!
//! Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

use super::gguf_type::GgufType;
use crate::model::gemma3::table::Parameter;

/// The data and each tensor in it begin at a multiple of so many bytes.
const ALIGNMENT: usize = 32;

/// A header in the making.
#[derive(Default)]
pub(super) struct GgufHeader {
    pairs: Vec<u8>,
    pair_count: u64,
    tensors: Vec<u8>,
    tensor_count: u64,
    /// Bytes of the data so far.
    data: u64,
}

impl GgufHeader {
    pub fn u32(&mut self, key: &str, value: u32) {
        self.pair(key, 4).extend(value.to_le_bytes());
    }

    pub fn f32(&mut self, key: &str, value: f32) {
        self.pair(key, 6).extend(value.to_le_bytes());
    }

    pub fn bool(&mut self, key: &str, value: bool) {
        self.pair(key, 7).push(value.into());
    }

    pub fn text(&mut self, key: &str, value: &str) {
        put_text(self.pair(key, 8), value);
    }

    pub fn texts(&mut self, key: &str, values: &[String]) {
        let bytes = self.array(key, 8, values.len());
        values.iter().for_each(|value| put_text(bytes, value));
    }

    pub fn f32s(&mut self, key: &str, values: &[f32]) {
        let bytes = self.array(key, 6, values.len());
        values.iter().for_each(|value| bytes.extend(value.to_le_bytes()));
    }

    pub fn i32s(&mut self, key: &str, values: &[i32]) {
        let bytes = self.array(key, 5, values.len());
        values.iter().for_each(|value| bytes.extend(value.to_le_bytes()));
    }

    /// Puts a tensor behind those that are listed.
    pub fn tensor(&mut self, parameter: &Parameter, kind: GgufType) {
        let shape = &parameter.spec.shape;
        put_text(&mut self.tensors, &parameter.gguf_name);
        self.tensors.extend((shape.len() as u32).to_le_bytes());
        // The file has columns first.
        shape.iter().rev().for_each(|size| self.tensors.extend((*size as u64).to_le_bytes()));
        self.tensors.extend(kind.id().to_le_bytes());
        self.tensors.extend(self.data.to_le_bytes());
        let size = kind.encoding().size_of(parameter.spec.len());
        self.data += (size + padding(size)) as u64;
        self.tensor_count += 1;
    }

    /// The bytes before the data.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(3u32.to_le_bytes());
        bytes.extend(self.tensor_count.to_le_bytes());
        bytes.extend(self.pair_count.to_le_bytes());
        bytes.extend(&self.pairs);
        bytes.extend(&self.tensors);
        bytes.resize(bytes.len() + padding(bytes.len()), 0);
        bytes
    }

    /// Bytes of the data, the last tensor padded as the others.
    pub fn data_bytes(&self) -> u64 {
        self.data
    }

    fn pair(&mut self, key: &str, kind: u32) -> &mut Vec<u8> {
        self.pair_count += 1;
        put_text(&mut self.pairs, key);
        self.pairs.extend(kind.to_le_bytes());
        &mut self.pairs
    }

    fn array(&mut self, key: &str, kind: u32, count: usize) -> &mut Vec<u8> {
        let bytes = self.pair(key, 9);
        bytes.extend(kind.to_le_bytes());
        bytes.extend((count as u64).to_le_bytes());
        bytes
    }
}

fn put_text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}

/// Bytes of zeros behind so many.
pub(super) fn padding(bytes: usize) -> usize {
    bytes.next_multiple_of(ALIGNMENT) - bytes
}
