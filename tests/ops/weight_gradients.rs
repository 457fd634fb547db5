//! The launcher of weight_gradients by itself, and the norm of the gradient by the sums that it and others leave.

use std::ffi::c_void;

use engine::autograd::{Gradients, Param, ParamSpec, Params, Tape, Var};
use engine::batch::inputs::Inputs;
use engine::device::bindings::{ENGINE_GRADIENT_TILE, ENGINE_MOST_WEIGHT_GRADIENTS, engine_weight_gradient};
use engine::device::driver::engine_dtype;
use engine::device::{DType, Device, Tensor};
use engine::error::Result;
use engine::launch;
use engine::ops::clip::{clip_factor, clip_factor_of_sums};
use engine::ops::embedding::{TokenIds, embedding};
use engine::ops::linear::linear;
use engine::ops::results::StepResults;
use engine::ops::rmsnorm::rmsnorm;

use crate::arrays::{array, unwritten};
use crate::lists::tensor;
use crate::places::{Place, places};

const TILE: usize = ENGINE_GRADIENT_TILE as usize;

/// Rows, outputs and inputs of a weight, and whether its gradient is added to.
struct Shape {
    n: usize,
    o: usize,
    i: usize,
    accumulate: bool,
}

/// One that ends within a tile, and within the rows of a buffer; one of a single tile; one with more rows than buffers, and one with none.
const SHAPES: [Shape; 4] = [
    Shape { n: 33, o: TILE + 8, i: 2 * TILE + 16, accumulate: false },
    Shape { n: 1, o: 8, i: 16, accumulate: true },
    Shape { n: 137, o: 24, i: TILE, accumulate: true },
    Shape { n: 0, o: 8, i: 8, accumulate: false },
];

/// Small whole numbers, so that sums are exact in any order.
fn numbers(len: usize, seed: usize) -> Vec<f64> {
    (0..len).map(|i| ((i * 7 + i / 5 + seed * 3) % 5) as f64 - 2.0).collect()
}

impl Shape {
    fn matrices(&self, seed: usize) -> [Vec<f64>; 3] {
        let before = if self.accumulate { numbers(self.o * self.i, seed + 2) } else { vec![f64::NAN; self.o * self.i] };
        [before, numbers(self.n * self.o, seed), numbers(self.n * self.i, seed + 1)]
    }

    fn tiles(&self) -> usize {
        self.o.div_ceil(TILE) * self.i.div_ceil(TILE)
    }

    /// The gradient, and the sums of its squares by tile.
    fn formula(&self, seed: usize) -> [Vec<f64>; 2] {
        let &Shape { n, o, i, accumulate } = self;
        let [before, dy, x] = self.matrices(seed);
        let product = |at: usize| (0..n).map(|row| dy[row * o + at / i] * x[row * i + at % i]).sum::<f64>();
        let gradient: Vec<f64> = (0..o * i).map(|at| product(at) + if accumulate { before[at] } else { 0.0 }).collect();
        let mut squares = vec![0.0; self.tiles()];
        for (at, g) in gradient.iter().enumerate() {
            squares[at / i / TILE * i.div_ceil(TILE) + at % i / TILE] += g * g;
        }
        [gradient, squares]
    }
}

fn queue(device: &Device, squares: *mut c_void, list: &[engine_weight_gradient], dtype: DType) -> Result<()> {
    let (driver, count, dtype) = (device.driver(), list.len() as u32, engine_dtype(dtype));
    // SAFETY: matrices of the sizes that the list tells, and a sum for each tile, or null.
    unsafe { launch!(driver, weight_gradients { count }(squares, list.as_ptr(), count, dtype, driver.stream())) }
}

/// The gradients of `SHAPES`, and the sums.
fn run(place: Place) -> (Vec<Vec<f64>>, Vec<f64>) {
    let (device, dtype) = (place.device(), place.dtype);
    let mut matrices: Vec<[Tensor; 3]> = Vec::new();
    for (seed, shape) in SHAPES.iter().enumerate() {
        let [dweight, dy, x] = shape.matrices(seed);
        matrices.push([
            array(&device, dtype.accumulator(), &dweight),
            array(&device, dtype, &dy),
            array(&device, dtype, &x),
        ]);
    }
    let described = |(shape, [dweight, dy, x]): (&Shape, &mut [Tensor; 3])| engine_weight_gradient {
        dweight: dweight.address_mut().unwrap(),
        dy: dy.address(),
        x: x.address(),
        n: shape.n as u32,
        o: shape.o as u32,
        i: shape.i as u32,
        accumulate: u32::from(shape.accumulate),
    };
    let list: Vec<_> = SHAPES.iter().zip(&mut matrices).map(described).collect();
    let mut squares = unwritten(&device, dtype.accumulator(), SHAPES.iter().map(Shape::tiles).sum());
    queue(&device, squares.address_mut().unwrap(), &list, dtype).unwrap();
    (matrices.iter().map(|[dweight, ..]| dweight.to_f64()).collect(), squares.to_f64())
}

fn of_kernels() -> impl Iterator<Item = Place> {
    places().into_iter().filter(|place| !place.device().driver().is_host())
}

#[test]
fn gradients_and_sums_of_squares_are_exact_for_small_whole_numbers() {
    for place in places() {
        if !place.device().driver().is_host() && place.dtype != DType::Bf16 {
            continue; // the kernel is for bf16
        }
        let (gradients, squares) = place.twice("weight_gradients", || run(place));
        let expected: Vec<[Vec<f64>; 2]> = SHAPES.iter().enumerate().map(|(seed, shape)| shape.formula(seed)).collect();
        for (w, [gradient, _]) in expected.iter().enumerate() {
            assert!(gradients[w] == *gradient, "{place:?}, weight {w}");
        }
        let expected: Vec<f64> = expected.iter().flat_map(|[_, squares]| squares.clone()).collect();
        assert_eq!(squares, expected, "{place:?}");
    }
}

#[test]
fn the_kernel_refuses_what_it_cannot_do() {
    for place in of_kernels().filter(|place| place.dtype == DType::Bf16) {
        let device = place.device();
        let matrix = array(&device, DType::Bf16, &[0.0; 64]);
        let most = ENGINE_MOST_WEIGHT_GRADIENTS as usize;
        let mut gradient = array(&device, DType::F32, &vec![0.0; most * 64]);
        let (dweight, at) = (gradient.address_mut().unwrap(), matrix.address());
        let good = engine_weight_gradient { dweight, dy: at, x: at, n: 1, o: 8, i: 8, accumulate: 0 };
        let beside: *const c_void = at.cast::<u8>().wrapping_add(2).cast();
        let refused = |list: &[engine_weight_gradient], dtype| {
            let error = queue(&device, std::ptr::null_mut(), list, dtype).unwrap_err().to_string();
            error.rsplit(": ").next().unwrap().to_owned()
        };
        assert_eq!(refused(&[good], DType::F32), "weight_gradients is for bf16");
        assert_eq!(refused(&vec![good; most + 1], DType::Bf16), format!("{} weights, at most {most}", most + 1));
        for uneven in [
            engine_weight_gradient { o: 12, ..good },
            engine_weight_gradient { i: 4, ..good },
            engine_weight_gradient { x: beside, ..good },
            engine_weight_gradient { dy: beside, ..good },
        ] {
            let lies = format!("a weight of {} x {} that lies unevenly", uneven.o, uneven.i);
            assert_eq!(refused(&[good, uneven], DType::Bf16), lies);
        }
        // Nobody has to want the sums.
        let own =
            |w: usize| engine_weight_gradient { dweight: dweight.cast::<f32>().wrapping_add(64 * w).cast(), ..good };
        queue(&device, std::ptr::null_mut(), &(0..most).map(own).collect::<Vec<_>>(), DType::Bf16).unwrap();
    }
}

/// Parameters whose gradients all leave sums, in bf16: a table that is the head, too, a norm, and a matrix.
fn params(device: &Device) -> Params {
    let shapes = [("table", &[24, 16][..]), ("norm", &[16]), ("matrix", &[16, 16])];
    let specs: Vec<ParamSpec> = shapes.iter().map(|(name, shape)| ParamSpec::new((*name).into(), shape)).collect();
    let len = specs.iter().map(ParamSpec::len).sum();
    let values: Vec<f64> = (0..len).map(|i| (i * 37 % 64) as f64 / 32.0 - 1.0).collect();
    Params::new(&specs, tensor(device, &[len], DType::F32, &values)).unwrap().computed_in(DType::Bf16).unwrap()
}

/// What a backward does beside the usual.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Beside {
    Nothing,
    /// The matrix is used twice, whose gradient is then written twice.
    MatrixTwice,
    /// The gradient of the norm is added to once more, by nobody who leaves sums.
    NormAddedTo,
    /// The matrix gets its gradient from somebody who leaves no sums.
    MatrixAlone,
}

fn backward(params: &Params, gradients: &mut Gradients, beside: Beside) {
    let device = params.device().clone();
    let mut tape = Tape::recording(&device, gradients);
    let inputs = Inputs::new(&device, false);
    let ids = TokenIds::new(&inputs, &[2, 0, 23, 2, 7], 24).unwrap();
    inputs.send().unwrap();
    let (table, norm, matrix) = (params.get("table"), params.get("norm"), params.get("matrix"));
    let x = embedding(&mut tape, &ids, &table, 2.0).unwrap();
    let mut x = rmsnorm(&mut tape, &x, &norm, 1e-6).unwrap();
    let products = match beside {
        Beside::Nothing | Beside::NormAddedTo => 1,
        Beside::MatrixTwice => 2,
        Beside::MatrixAlone => 0,
    };
    for _ in 0..products {
        x = linear(&mut tape, &x, &matrix).unwrap();
    }
    let y = linear(&mut tape, &x, &table).unwrap();
    if beside == Beside::MatrixAlone {
        tape.push("ones", move |ctx| add_ones(ctx.gradients(), &matrix));
    }
    seed(&mut tape, y);
    tape.backward().unwrap();
    if beside == Beside::NormAddedTo {
        add_ones(gradients, &norm).unwrap();
    }
}

fn seed(tape: &mut Tape<'_>, y: Var) {
    tape.push("seed", move |ctx| {
        let values: Vec<f64> = (0..y.value.len()).map(|i| (i * 11 % 16) as f64 / 8.0 - 1.0).collect();
        ctx.give(&y, tensor(y.value.device(), y.value.shape(), y.value.dtype(), &values))
    });
}

fn add_ones(gradients: &mut Gradients, param: &Param) -> Result<()> {
    let ones = array(gradients.values.device(), DType::F32, &vec![1.0; param.value.len()]);
    let (to, n) = (gradients.address(param)?, ones.len() as u64);
    let (driver, dtype) = (ones.device().driver(), engine_dtype(DType::F32));
    // SAFETY: the gradient of the parameter has as many elements.
    unsafe { launch!(driver, add { n }(to, ones.address(), n, dtype, driver.stream())) }
}

fn norm_of(gradients: &Gradients) -> f64 {
    let mut results = StepResults::zeros(gradients.values.device()).unwrap();
    clip_factor(&mut results, &gradients.values, 1.0).unwrap();
    results.read().unwrap().grad_norm
}

#[test]
fn the_sums_that_a_backward_leaves_give_the_norm_of_the_gradient() {
    for place in of_kernels().filter(|place| place.dtype == DType::Bf16) {
        let device = place.device();
        let params = params(&device);
        let mut gradients = params.gradients().unwrap();
        // A step of one micro-batch, and one of three.
        for begins in [true, true, false, false] {
            if begins {
                gradients.begin_step();
            }
            backward(&params, &mut gradients, Beside::Nothing);
            let sums = gradients.sums_of_squares().expect("all parameters leave sums");
            let mut results = StepResults::zeros(&device).unwrap();
            clip_factor_of_sums(&mut results, &sums, 1.0).unwrap();
            let (results, read) = (results.read().unwrap(), norm_of(&gradients));
            // Squares of 784 numbers are added in f32 in another order, and rows of the table are counted by what they grow by.
            let off = (results.grad_norm / read - 1.0).abs();
            assert!(off < 100.0 * f64::from(f32::EPSILON), "{place:?}: {}, not {read}", results.grad_norm);
            assert_eq!(results.clip_factor, 1.0 / (results.grad_norm + 1e-6));
        }
    }
}

#[test]
fn where_a_sum_is_missing_or_stale_there_is_none() {
    for place in places() {
        let device = place.device();
        let params = params(&device);
        let leaves_sums = |beside| {
            let mut gradients = params.gradients().unwrap();
            gradients.begin_step();
            backward(&params, &mut gradients, beside);
            gradients.sums_of_squares().is_some()
        };
        let by_kernels = !device.driver().is_host();
        assert_eq!(leaves_sums(Beside::Nothing), by_kernels, "{place:?}: the host reads the gradient");
        for beside in [Beside::MatrixTwice, Beside::NormAddedTo, Beside::MatrixAlone] {
            assert!(!leaves_sums(beside), "{place:?}, {beside:?}");
        }
    }
}
