//! What the numbers of a tensor are.

use half::bf16;

/// What the numbers of a tensor are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    F32,
    F64,
    Bf16,
    U16,
    U32,
}

/// A number type that tensors can hold.
pub trait Element: bytemuck::Pod + Send + Sync + 'static {
    const DTYPE: DType;
}

impl Element for f32 {
    const DTYPE: DType = DType::F32;
}

impl Element for f64 {
    const DTYPE: DType = DType::F64;
}

impl Element for bf16 {
    const DTYPE: DType = DType::Bf16;
}

impl Element for u16 {
    const DTYPE: DType = DType::U16;
}

impl Element for u32 {
    const DTYPE: DType = DType::U32;
}

impl DType {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            DType::F32 | DType::U32 => 4,
            DType::F64 => 8,
            DType::Bf16 | DType::U16 => 2,
        }
    }

    /// A: what statistics, master weights and gradients of parameters are kept in beside compute in this type.
    pub fn accumulator(self) -> DType {
        if self == DType::F64 { DType::F64 } else { DType::F32 }
    }
}
