//! The host's matrix products themselves: every kernel that this machine has, in every form, at sizes around those of
//! vectors, tiles and blocks, from memory that is not aligned, on one, two and three threads.

use std::ffi::c_void;

use engine::device::DType;
use engine::device::driver::{Operand, Product};
use engine::host::products::choice::Kernel;
use engine::host::products::multiply_with;
use half::bf16;
use rand::RngExt;

use crate::lists::{random, rng};

/// How an operand lies: whether it is transposed, elements before it, and beyond each of its rows.
#[derive(Clone, Copy, Debug)]
struct Layout {
    transposed: bool,
    offset: usize,
    gap: usize,
}

/// A product, for every kernel.
#[derive(Clone, Copy, Debug)]
struct Case {
    m: usize,
    n: usize,
    k: usize,
    a: Layout,
    b: Layout,
    dtype: DType,
    c_dtype: DType,
    accumulate: bool,
}

/// Numbers as they lie in memory.
#[derive(Clone)]
enum Numbers {
    Bf16(Vec<bf16>),
    F32(Vec<f32>),
}

impl Numbers {
    fn new(dtype: DType, values: &[f64]) -> Self {
        match dtype {
            DType::Bf16 => Self::Bf16(values.iter().map(|&x| bf16::from_f64(x)).collect()),
            _ => Self::F32(values.iter().map(|&x| x as f32).collect()),
        }
    }

    fn at(&self, i: usize) -> f64 {
        match self {
            Self::Bf16(x) => x[i].to_f64(),
            Self::F32(x) => f64::from(x[i]),
        }
    }

    fn address(&self, i: usize) -> *const c_void {
        match self {
            Self::Bf16(x) => x[i..].as_ptr().cast(),
            Self::F32(x) => x[i..].as_ptr().cast(),
        }
    }

    fn bits(&self) -> Vec<u32> {
        match self {
            Self::Bf16(x) => x.iter().map(|x| u32::from(x.to_bits())).collect(),
            Self::F32(x) => x.iter().map(|x| x.to_bits()).collect(),
        }
    }
}

/// An operand whose surroundings are NaN.
struct Matrix {
    numbers: Numbers,
    layout: Layout,
    stride: usize,
}

impl Matrix {
    fn new(case: &Case, layout: Layout, rows: usize, cols: usize, seed: u64) -> Self {
        let (outer, inner) = if layout.transposed { (cols, rows) } else { (rows, cols) };
        let stride = inner + layout.gap;
        let mut values = vec![f64::NAN; layout.offset + outer * stride];
        let numbers = random(case.dtype, &mut rng(seed), outer * inner, 1.0);
        for (row, numbers) in numbers.chunks(inner.max(1)).enumerate() {
            values[layout.offset + row * stride..][..inner].copy_from_slice(numbers);
        }
        Self { numbers: Numbers::new(case.dtype, &values), layout, stride }
    }

    fn at(&self, row: usize, col: usize) -> f64 {
        let (outer, inner) = if self.layout.transposed { (col, row) } else { (row, col) };
        self.numbers.at(self.layout.offset + outer * self.stride + inner)
    }

    fn operand(&self) -> Operand {
        let operand = Operand::new(self.numbers.address(self.layout.offset), self.stride);
        if self.layout.transposed { operand.t() } else { operand }
    }
}

/// Numbers before and after c, which no kernel may touch.
const BAND: usize = 3;

/// A case with its operands, and what c held before.
struct Placed {
    case: Case,
    a: Matrix,
    b: Matrix,
    before: Numbers,
}

impl Placed {
    fn new(case: Case) -> Self {
        let Case { m, n, k, .. } = case;
        let (a, b) = (Matrix::new(&case, case.a, m, k, 1), Matrix::new(&case, case.b, k, n, 2));
        let before = Numbers::new(case.c_dtype, &random(case.c_dtype, &mut rng(3), m * n + 2 * BAND, 1.0));
        Self { case, a, b, before }
    }

    /// c and its bands, as a kernel leaves them.
    fn run(&self, kernel: Kernel, threads: usize) -> Numbers {
        let Case { m, n, k, dtype, c_dtype, accumulate, .. } = self.case;
        let mut after = self.before.clone();
        let address = match &mut after {
            Numbers::Bf16(c) => c[BAND..].as_mut_ptr() as usize,
            Numbers::F32(c) => c[BAND..].as_mut_ptr() as usize,
        };
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let operands = [&self.a, &self.b].map(|x| (x.operand().address as usize, x.stride, x.layout.transposed));
        pool.install(|| {
            leave_nan_behind(kernel, m, n);
            let [a, b] =
                operands.map(|(address, stride, transposed)| Operand { address: address as _, stride, transposed });
            let product = Product { c: address as _, a, b, m, n, k, dtype, c_dtype, accumulate };
            // SAFETY: the vectors hold matrices of these shapes.
            unsafe { multiply_with(kernel, &product) };
        });
        after
    }

    /// Each element within the error of its sum: k roundings in f32 of at most the sum of all its terms' sizes (and one
    /// each for adding to c and of the sum itself), and one rounding to the type of c. A rounding is to nearest, by half a
    /// last place at most; `bfdot` and `bfmmla` round to odd, by a whole one.
    fn check(&self, kernel: Kernel, after: &Numbers) {
        let Case { m, n, k, c_dtype, accumulate, .. } = self.case;
        for row in 0..m {
            for col in 0..n {
                let at = BAND + row * n + col;
                let start = if accumulate { self.before.at(at) } else { 0.0 };
                let (mut sum, mut size) = (start, start.abs());
                for term in 0..k {
                    let product = self.a.at(row, term) * self.b.at(term, col);
                    (sum, size) = (sum + product, size + product.abs());
                }
                let half = f64::from(f32::EPSILON) / if kernel == Kernel::NeonBf16 { 1.0 } else { 2.0 };
                let narrow = if c_dtype == DType::Bf16 { 1.01 * sum.abs() / 256.0 } else { 0.0 };
                let (error, allowed) = ((after.at(at) - sum).abs(), 1.01 * (k + 2) as f64 * half * size + narrow);
                assert!(error <= allowed, "{kernel:?} of {:?}: ({row}, {col}) is off by {error:e}", self.case);
            }
        }
        let outside = |bits: Vec<u32>| [bits[..BAND].to_vec(), bits[BAND + m * n..].to_vec()];
        let whole = outside(after.bits()) == outside(self.before.bits());
        assert!(whole, "{kernel:?} of {:?} wrote beside c", self.case);
    }
}

/// A product of NaN of so many rows and columns: threads keep memory for their next product, and what is in it must not matter.
fn leave_nan_behind(kernel: Kernel, m: usize, n: usize) {
    const K: usize = 2;
    let (a, b, mut c) = (vec![f32::NAN; m * K], vec![f32::NAN; n * K], vec![0f32; m * n]);
    let (a, b) = (Operand::new(a.as_ptr().cast(), K), Operand::new(b.as_ptr().cast(), K).t());
    let (dtype, c_dtype, c) = (DType::F32, DType::F32, c.as_mut_ptr().cast());
    // SAFETY: the vectors hold matrices of these shapes.
    unsafe { multiply_with(kernel, &Product { c, a, b, m, n, k: K, dtype, c_dtype, accumulate: false }) };
}

fn kernels() -> impl Iterator<Item = Kernel> {
    Kernel::ALL.into_iter().filter(|kernel| kernel.is_available())
}

/// [`forms`] in f32.
fn forms_in_f32(m: usize, n: usize, k: usize) -> impl Iterator<Item = Case> {
    forms(m, n, k).into_iter().map(|case| Case { dtype: DType::F32, c_dtype: DType::F32, ..case })
}

/// The three forms of a layer, and the fourth that an operand can ask for; with the types that a layer gives them.
fn forms(m: usize, n: usize, k: usize) -> Vec<Case> {
    let lies = |transposed| Layout { transposed, offset: 0, gap: 0 };
    let form =
        |a, b, c_dtype, accumulate| Case { m, n, k, a: lies(a), b: lies(b), dtype: DType::Bf16, c_dtype, accumulate };
    vec![
        form(false, true, DType::Bf16, false),
        form(false, false, DType::Bf16, false),
        form(true, false, DType::F32, true),
        form(true, true, DType::F32, false),
    ]
}

/// The kernel in plain Rust that sums in the same order, so that products whose terms are exact in f32 are equal to the bit.
fn in_plain_rust(kernel: Kernel) -> Option<Kernel> {
    match kernel {
        Kernel::Avx512 | Kernel::Avx2 | Kernel::Neon | Kernel::Portable | Kernel::PortablePairs => {
            Some(Kernel::Portable)
        }
        Kernel::Avx512Bf16 => Some(Kernel::PortablePairs),
        Kernel::Amx | Kernel::PortableAmx => Some(Kernel::PortableAmx),
        // It rounds to odd, as nothing in plain Rust does.
        Kernel::NeonBf16 | Kernel::PortableBfmmla => None,
    }
}

fn check(case: Case) {
    let placed = Placed::new(case);
    for kernel in kernels() {
        let after = placed.run(kernel, 1);
        placed.check(kernel, &after);
        for threads in [2, 3] {
            assert!(placed.run(kernel, threads).bits() == after.bits(), "{kernel:?} of {case:?} on {threads} threads");
        }
        // Those of products with many rows, and of numbers in bf16, whose products are exact in f32 (of f32 they are not, and
        // plain Rust rounds them before it adds).
        let exact = case.dtype == DType::Bf16 && (case.m > 64 || case.a.transposed || !case.b.transposed);
        if let Some(plain) = in_plain_rust(kernel).filter(|plain| exact && *plain != kernel) {
            assert!(after.bits() == placed.run(plain, 1).bits(), "{kernel:?} of {case:?} is not what {plain:?} gives");
        }
    }
}

#[test]
fn every_kernel_multiplies_in_every_form_around_the_size_of_its_tiles() {
    let mut rng = rng(4);
    let around = [1, 2, 3, 5, 6, 7, 11, 12, 13, 15, 16, 17, 31, 32, 33, 63, 64, 65, 70, 100, 131];
    for &m in &around {
        for form in 0..4 {
            let mut pick = || around[rng.random_range(0..around.len())];
            let (n, k) = (pick(), pick());
            check(forms(m, n, k)[form]);
            check(forms_in_f32(m, n, k).nth(form).unwrap());
        }
    }
}

#[test]
fn every_kernel_multiplies_more_terms_than_a_block_has() {
    for (m, n, k) in [(5, 20, 641), (70, 40, 1283), (40, 70, 1000), (3, 13, 2049), (130, 17, 645)] {
        forms(m, n, k).into_iter().chain(forms_in_f32(m, n, k)).for_each(check);
    }
}

#[test]
fn every_kernel_multiplies_where_the_terms_are_cut_into_pieces() {
    for (m, n, k) in [(2, 3, 33_000), (13, 5, 32_768)] {
        forms(m, n, k).into_iter().chain(forms_in_f32(m, n, k)).for_each(check);
    }
}

#[test]
fn every_kernel_multiplies_more_rows_and_columns_than_a_task_has() {
    for (m, n, k) in [(1100, 270, 3), (270, 1100, 3), (68, 600, 9)] {
        forms(m, n, k).into_iter().chain(forms_in_f32(m, n, k)).for_each(check);
    }
}

#[test]
fn operands_may_begin_anywhere_and_have_gaps_between_rows() {
    for (offset, gap) in [(1, 0), (0, 1), (3, 5), (7, 2)] {
        for (m, n, k) in [(20, 37, 95), (70, 37, 95)] {
            for mut case in forms(m, n, k).into_iter().chain(forms_in_f32(m, n, k)) {
                (case.a, case.b) = (Layout { offset, gap, ..case.a }, Layout { offset: gap, gap: offset, ..case.b });
                check(case);
            }
        }
    }
}

#[test]
fn every_kernel_adds_to_c_in_both_types() {
    for (m, n, k) in [(9, 35, 40), (70, 35, 40)] {
        forms_in_f32(m, n, k).for_each(|case| check(Case { accumulate: true, ..case }));
        for mut case in forms(m, n, k) {
            case.accumulate = true;
            for c_dtype in [DType::F32, DType::Bf16] {
                check(Case { c_dtype, ..case });
            }
        }
    }
}

#[test]
fn few_rows_in_f32_are_multiplied_by_every_kernel() {
    for m in [1, 2, 3, 4, 5, 7, 20, 21, 63, 64] {
        for (n, k) in [(1, 1), (37, 95), (13, 640), (25, 1296), (200, 16)] {
            for accumulate in [false, true] {
                let case = Case { dtype: DType::F32, c_dtype: DType::F32, accumulate, ..forms(m, n, k)[0] };
                check(case);
            }
        }
    }
}

#[test]
fn no_terms_at_all_give_zeros() {
    for m in [1, 70] {
        forms(m, 5, 0).into_iter().chain(forms_in_f32(m, 5, 0)).for_each(check);
    }
}

#[test]
fn what_a_row_gives_does_not_depend_on_the_rows_beside_it() {
    for dtype in [DType::Bf16, DType::F32] {
        for kernel in kernels() {
            let case = |m| Case { dtype, c_dtype: DType::F32, ..forms(m, 50, 700)[0] };
            // The same seed: rows of the smaller product are the first ones of the larger.
            let all = Placed::new(case(64)).run(kernel, 1).bits();
            for m in [1, 2, 3, 5, 20, 21, 63] {
                let few = Placed::new(case(m)).run(kernel, 2).bits();
                assert!(few[BAND..BAND + m * 50] == all[BAND..BAND + m * 50], "{kernel:?}, {m} rows in {dtype:?}");
            }
        }
    }
}

#[test]
fn a_nan_or_an_infinity_stays_in_its_row() {
    for m in [20, 70] {
        for kernel in kernels() {
            let case = forms(m, 40, 45)[0];
            let mut placed = Placed::new(case);
            let Numbers::Bf16(a) = &mut placed.a.numbers else { unreachable!() };
            a[45 + 44] = bf16::NAN;
            a[2 * 45] = bf16::INFINITY;
            let after = placed.run(kernel, 1);
            for row in 0..m {
                let finite = (0..40).all(|col| after.at(BAND + row * 40 + col).is_finite());
                assert_eq!(finite, row != 1 && row != 2, "{kernel:?}, {m} rows: row {row}");
            }
        }
    }
}

/// 16 numbers that begin at a multiple of a cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; 16]);

#[test]
fn a_c_that_no_cache_keeps_is_written_and_added_to() {
    // More than 32 MB, and of a weight's gradient more than 1 MB, which AVX-512 writes past the caches where lines are whole: not in every
    // other one.
    for (m, n, is_gradient) in [(3001, 2832, false), (3001, 2833, false), (701, 512, true), (701, 513, true)] {
        let number = |i: usize| (i % 5) as f64 - 2.0;
        let values = |len: usize| (0..len).map(number).collect::<Vec<f64>>();
        for (dtype, kernel) in kernels().flat_map(|kernel| [(DType::F32, kernel), (DType::Bf16, kernel)]) {
            let [a, b] = [m, n].map(|lines| Numbers::new(dtype, &values(lines)));
            let mut c = vec![Line([f32::NAN; 16]); (m * n).div_ceil(16)];
            for accumulate in [false, true] {
                let [column, b] = [(&a, 1), (&b, n)].map(|(x, stride)| Operand::new(x.address(0), stride));
                let a = if is_gradient { Operand::new(a.address(0), m).t() } else { column };
                let c = c.as_mut_ptr().cast();
                let product = Product { c, a, b, m, n, k: 1, dtype, c_dtype: DType::F32, accumulate };
                // SAFETY: the vectors hold a column, a row and all of c.
                unsafe { multiply_with(kernel, &product) };
            }
            let c = c.iter().flat_map(|line| line.0).take(m * n);
            let wrong = c.enumerate().find(|&(at, c)| f64::from(c) != 2.0 * number(at / n) * number(at % n));
            assert_eq!(wrong, None, "{kernel:?}, {dtype:?}, {n} columns");
        }
    }
}
