//! What the numbers of a tensor are.

use half::bf16;

/// What the numbers of a tensor are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    F32,
    F64,
    Bf16,
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

impl Element for u32 {
    const DTYPE: DType = DType::U32;
}

/// `dispatch!(dtype, T => expression)`: runs the expression with `T` bound to the element type of `dtype`, which must be
/// one that the CPU computes in.
#[macro_export]
macro_rules! dispatch {
    ($dtype:expr, $t:ident => $body:expr) => {
        match $dtype {
            $crate::device::DType::F32 => {
                type $t = f32;
                $body
            }
            $crate::device::DType::F64 => {
                type $t = f64;
                $body
            }
            other => panic!("the CPU does not compute in {other:?}"),
        }
    };
}

impl DType {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            DType::F32 | DType::U32 => 4,
            DType::F64 => 8,
            DType::Bf16 => 2,
        }
    }

    /// What statistics, master weights and gradients of parameters are kept in beside compute in this type.
    pub fn accumulator(self) -> DType {
        if self == DType::F64 { DType::F64 } else { DType::F32 }
    }
}
