//! The engine's products through cuBLASLt's descriptors, in every form: numbers that every order of sums gives exactly.

use std::ffi::c_void;

use engine::device::driver::{Operand, Product};
use engine::device::{DType, Device, Tensor};
use half::bf16;

use crate::launches;
use crate::machine::{Gpu, faults, stand_in};

/// c (n, n) = a a, f32.
pub fn square(c: &mut Tensor, a: &Tensor, n: usize) {
    let operand = Operand::new(a.address(), n);
    let (dtype, c_dtype) = (DType::F32, DType::F32);
    let address = c.address_mut().unwrap();
    let product = Product { c: address, a: operand, b: operand, m: n, n, k: n, dtype, c_dtype, accumulate: false };
    // SAFETY: both have n rows of n.
    unsafe { a.device().driver().product(&product) }.unwrap();
}

#[derive(Clone, Copy, Debug)]
struct Form {
    shape: [usize; 3],
    transposed: [bool; 2],
    /// Elements before each matrix: it is then not aligned to more.
    offsets: [usize; 3],
    /// Elements between the rows of a and b.
    gaps: [usize; 2],
    types: [DType; 2],
    accumulate: bool,
}

/// Small whole numbers, no two rows or columns alike.
fn number(i: usize) -> f64 {
    ((i * 7 + i / 5) % 11) as f64 - 5.0
}

fn tensor(device: &Device, len: usize, dtype: DType) -> Tensor {
    let values: Vec<f64> = (0..len).map(number).collect();
    match dtype {
        DType::Bf16 => {
            Tensor::from_slice(device, &[len], &values.iter().map(|x| bf16::from_f64(*x)).collect::<Vec<_>>())
        }
        _ => Tensor::from_slice(device, &[len], &values.iter().map(|x| *x as f32).collect::<Vec<_>>()),
    }
}

/// An operand, its memory, and where its element (r, c) is in it.
struct Matrix {
    memory: Tensor,
    offset: usize,
    stride: usize,
    transposed: bool,
}

impl Matrix {
    fn new(
        device: &Device,
        [rows, cols]: [usize; 2],
        transposed: bool,
        offset: usize,
        gap: usize,
        dtype: DType,
    ) -> Self {
        let (lines, length) = if transposed { (cols, rows) } else { (rows, cols) };
        let stride = length + gap;
        // Not one element more than is needed: what is read beyond is found.
        let memory = tensor(device, offset + (lines.max(1) - 1) * stride + length, dtype);
        Self { memory, offset, stride, transposed }
    }

    fn at(&self, r: usize, c: usize) -> f64 {
        let (line, i) = if self.transposed { (c, r) } else { (r, c) };
        number(self.offset + line * self.stride + i)
    }

    fn operand(&self) -> Operand {
        let address: *const c_void = self.memory.address();
        let address = address.wrapping_byte_add(self.offset * self.memory.dtype().size());
        Operand { address, stride: self.stride, transposed: self.transposed }
    }
}

fn check(device: &Device, form: Form) {
    let ([m, n, k], [dtype, c_dtype]) = (form.shape, form.types);
    let a = Matrix::new(device, [m, k], form.transposed[0], form.offsets[0], form.gaps[0], dtype);
    let b = Matrix::new(device, [k, n], form.transposed[1], form.offsets[1], form.gaps[1], dtype);
    let mut c = tensor(device, form.offsets[2] + m * n, c_dtype);
    let address = c.address_mut().unwrap().wrapping_byte_add(form.offsets[2] * c_dtype.size());
    let product =
        Product { c: address, a: a.operand(), b: b.operand(), m, n, k, dtype, c_dtype, accumulate: form.accumulate };
    // SAFETY: the matrices are as large as it says.
    unsafe { device.driver().product(&product) }.unwrap_or_else(|error| panic!("{form:?}: {}", error.report()));
    let expected = |i: usize| {
        let Some(at) = i.checked_sub(form.offsets[2]) else { return number(i) };
        let sum: f64 = (0..k).map(|l| a.at(at / n, l) * b.at(l, at % n)).sum();
        let all = if form.accumulate { number(i) + sum } else { sum };
        if c_dtype == DType::Bf16 { bf16::from_f64(all).to_f64() } else { all }
    };
    let expected: Vec<f64> = (0..c.len()).map(expected).collect();
    assert_eq!(c.to_f64(), expected, "{form:?}");
}

/// All types, transposes, and both ways to store; the shapes and places change along.
fn forms() -> Vec<Form> {
    let types = [[DType::F32; 2], [DType::Bf16; 2], [DType::Bf16, DType::F32]];
    let shapes = [[5, 3, 7], [1, 4, 2], [4, 1, 6], [17, 16, 1], [8, 16, 32], [2, 9, 3]];
    let offsets = [[0; 3], [1, 2, 3], [8, 0, 4], [2, 16, 0]];
    let gaps = [[0, 0], [3, 0], [0, 2], [1, 5]];
    let mut forms = Vec::new();
    for i in 0..3 * 8 * 4 {
        forms.push(Form {
            shape: shapes[(i / 4) % 6],
            transposed: [i & 1 == 1, i & 2 == 2],
            offsets: offsets[(i / 5) % 4],
            gaps: gaps[(i / 7) % 4],
            types: types[(i / 8) % 3],
            accumulate: i & 4 == 4,
        });
    }
    forms
}

#[test]
fn products_are_what_the_engine_asks_for_in_every_form() {
    let gpu = Gpu::new();
    let device = gpu.open().unwrap();
    // Twice: planned, and by the plan that is kept.
    for form in forms().into_iter().chain(forms()) {
        check(&device, form);
    }
    // All the same but for one thing, which alone tells their plans apart.
    let square = Form {
        shape: [4; 3],
        transposed: [false; 2],
        offsets: [0; 3],
        gaps: [2; 2],
        types: [DType::F32; 2],
        accumulate: false,
    };
    for transposed in [[false, false], [true, false], [false, true], [true, true]] {
        check(&device, Form { transposed, ..square });
        check(&device, Form { transposed, accumulate: true, ..square });
        check(&device, Form { transposed, types: [DType::Bf16; 2], ..square });
        check(&device, Form { transposed, types: [DType::Bf16, DType::F32], ..square });
        check(&device, Form { transposed, offsets: [1, 0, 0], ..square });
    }
}

#[test]
fn products_of_nothing_are_zeros_or_leave_what_is_there() {
    let gpu = Gpu::new();
    let device = gpu.open().unwrap();
    for (shape, accumulate) in [([3, 2, 0], false), ([3, 2, 0], true), ([0, 2, 3], false), ([2, 0, 3], true)] {
        let (transposed, offsets, gaps) = ([false; 2], [0; 3], [0; 2]);
        check(&device, Form { shape, transposed, offsets, gaps, types: [DType::Bf16; 2], accumulate });
    }
}

/// Halves that bf16 does not hold, of a sum that it does.
#[test]
fn parts_of_a_sum_are_not_kept_in_bf16() {
    let gpu = Gpu::new();
    let device = gpu.open().unwrap();
    let bf16s = |values: &[f32]| values.iter().map(|x| bf16::from_f32(*x)).collect::<Vec<_>>();
    let a = Tensor::from_slice(&device, &[1, 4], &bf16s(&[256.0, 1.0, -256.0, 1.0]));
    let b = Tensor::from_slice(&device, &[4, 1], &bf16s(&[1.0; 4]));
    let mut c = Tensor::zeros(&device, &[1, 1], DType::Bf16).unwrap();
    let (a, b) = (Operand::new(a.address(), 4), Operand::new(b.address(), 1));
    let (address, dtype) = (c.address_mut().unwrap(), DType::Bf16);
    let product = Product { c: address, a, b, m: 1, n: 1, k: 4, dtype, c_dtype: dtype, accumulate: false };
    // SAFETY: as long as it says; storage that went goes to the pool.
    unsafe { device.driver().product(&product) }.unwrap();
    assert_eq!(c.to_f64(), [2.0]);
}

/// Sums of many terms, where rounding the inputs further would show.
#[test]
fn inputs_in_f32_are_multiplied_in_f32() {
    let gpu = Gpu::new();
    let device = gpu.open().unwrap();
    let value = 1.0 + f32::EPSILON;
    let a = Tensor::from_slice(&device, &[1, 1], &[value]);
    let mut c = Tensor::zeros(&device, &[1, 1], DType::F32).unwrap();
    square(&mut c, &a, 1);
    assert_eq!(c.to_f64(), [f64::from(value * value)]);
}

#[test]
fn a_product_that_cannot_be_planned_is_told_by_its_shape() {
    let gpu = Gpu::new();
    let device = gpu.open().unwrap();
    let mut c = Tensor::zeros(&device, &[4], DType::F32).unwrap();
    let a = Tensor::zeros(&device, &[4], DType::F32).unwrap();
    let operand = Operand::new(a.address(), 1); // rows of two, one apart
    let (dtype, address) = (DType::F32, c.address_mut().unwrap());
    let product =
        Product { c: address, a: operand, b: operand, m: 2, n: 2, k: 2, dtype, c_dtype: dtype, accumulate: false };
    // SAFETY: nothing runs.
    let error = unsafe { device.driver().product(&product) }.unwrap_err().report();
    assert!(error.contains("planning the product c (2, 2)") && error.contains("INVALID_VALUE"), "{error}");
    assert!(faults()[0].contains("2 rows and a leading dimension of 1"));
}

/// The stand-in's own loops, by the rules alone, give what the CPU's products give: those may take their place.
#[test]
fn the_cpus_products_are_those_that_the_descriptors_mean() {
    use crate::abi::Gemm;
    for form in forms() {
        let ([m, n, k], [transposed_a, transposed_b]) = (form.shape, form.transposed);
        let values = |len: usize| (0..len).map(|i| number(i) as f32).collect::<Vec<f32>>();
        let lda = form.gaps[0] + if transposed_a { k } else { m };
        let ldb = form.gaps[1] + if transposed_b { n } else { k };
        let (a, b, mut d) = (values(lda * m.max(k)), values(ldb * n.max(k)), values(m * n));
        let before = d.clone();
        let accumulate = form.accumulate;
        let (d_is_bf16, inputs_are_bf16, ldd) = (false, false, m);
        let (at_a, at_b, at_d) = (a.as_ptr().cast(), b.as_ptr().cast(), d.as_mut_ptr().cast());
        let gemm = Gemm {
            m,
            n,
            k,
            a: at_a,
            lda,
            transposed_a,
            b: at_b,
            ldb,
            transposed_b,
            d: at_d,
            ldd,
            d_is_bf16,
            inputs_are_bf16,
            accumulate,
        };
        // SAFETY: the matrices are as large as it says.
        assert!(unsafe { launches::multiply(&gemm) });
        let term_a = |r: usize, l: usize| f64::from(a[if transposed_a { l + r * lda } else { r + l * lda }]);
        let term_b = |l: usize, c: usize| f64::from(b[if transposed_b { c + l * ldb } else { l + c * ldb }]);
        for (i, value) in d.iter().enumerate() {
            let sum: f64 = (0..k).map(|l| term_a(i % m, l) * term_b(l, i / m)).sum();
            let all = if accumulate { f64::from(before[i]) + sum } else { sum };
            assert_eq!(f64::from(*value), all, "{form:?}");
        }
    }
    stand_in();
}
