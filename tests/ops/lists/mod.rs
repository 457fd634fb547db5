//! One list of cases per op, for every check of tests/ops and every bench of benches/ops.
//!
//! A [`Case`] is an op at one shape: what it takes, how it goes on a tape of any device, and its formula.
//! Ops that are not on the tape have cases of their own. `model_case` is one at FunctionGemma's shapes, on a batch of the
//! tutorial's size (N 270).
#![allow(dead_code)] // tests and benches use a part each

use std::cell::RefCell;
use std::rc::Rc;

use engine::autograd::{Gradients, Param, ParamSpec, Params, Rounding, Tape, Var};
use engine::device::{DType, Device, Purpose, Tensor};
use engine::error::Result;
use half::bf16;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

pub mod adamw;
pub mod attention;
pub mod cast;
pub mod clip;
pub mod cross_entropy;
pub mod dropout;
pub mod embedding;
pub mod geglu;
pub mod linear;
pub mod lora;
pub mod mlp;
pub mod residual;
pub mod rmsnorm;
pub mod rope;
pub mod round_blocks;
pub mod sample;
pub mod trees;

/// What an op leaves on the tape.
pub enum Output {
    /// Values, whose gradients the check seeds.
    Vars(Vec<Var>),
    /// A loss, which seeds itself.
    Loss(f64),
}

/// Puts an op on the tape, from its inputs and parameters.
pub type Run = Box<dyn Fn(&mut Tape, &[Var], &[Param]) -> Result<Output> + Send + Sync>;

/// The op's outputs in plain f64 loops, from the values of its inputs and parameters.
pub type Formula = Box<dyn Fn(&[Vec<f64>], &[Vec<f64>]) -> Vec<Vec<f64>> + Send + Sync>;

/// An op at one shape.
pub struct Case {
    pub name: String,
    /// Shapes of the activations it takes.
    pub inputs: Vec<Vec<usize>>,
    /// Shapes of the parameters it takes.
    pub params: Vec<Vec<usize>>,
    /// Values are uniform in -amplitude..amplitude.
    pub amplitude: f64,
    /// Terms of the longest running sum that the op keeps in A, forward or backward.
    pub terms: usize,
    pub run: Run,
    pub formula: Formula,
}

/// Values for every input, then every parameter of a case, and the type that holds them (and what gradients begin with)
/// exactly.
#[derive(Clone, Debug)]
pub struct Values {
    pub held: DType,
    pub all: Vec<Vec<f64>>,
}

/// What a forward and backward give.
#[derive(Clone, Debug, PartialEq)]
pub struct Pass {
    pub outputs: Vec<Vec<f64>>,
    /// What each output's gradient was seeded with; 1 for a loss.
    pub coefficients: Vec<Vec<f64>>,
    /// Of every input, then of every parameter.
    pub gradients: Vec<Vec<f64>>,
}

pub fn rng(seed: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed)
}

/// `x` as the type holds it.
pub fn round(dtype: DType, x: f64) -> f64 {
    match dtype {
        // By f32: `half` looks at the upper half of an f64 alone.
        DType::Bf16 => bf16::from_f32(x as f32).to_f64(),
        DType::F32 => f64::from(x as f32),
        _ => x,
    }
}

/// `n` numbers that the type holds exactly (f64: that f32 holds), uniform in -amplitude..amplitude.
pub fn random(dtype: DType, rng: &mut ChaCha8Rng, n: usize, amplitude: f64) -> Vec<f64> {
    let exact = |x: f64| round(dtype, round(DType::F32, x));
    (0..n).map(|_| exact((rng.random::<f64>() * 2.0 - 1.0) * amplitude)).collect()
}

/// A tensor of `values` in `dtype`.
pub fn tensor(device: &Device, shape: &[usize], dtype: DType, values: &[f64]) -> Tensor {
    match dtype {
        DType::F64 => Tensor::from_slice(device, shape, values),
        DType::F32 => Tensor::from_slice(device, shape, &values.iter().map(|&x| x as f32).collect::<Vec<_>>()),
        DType::Bf16 => {
            Tensor::from_slice(device, shape, &values.iter().map(|&x| bf16::from_f64(x)).collect::<Vec<_>>())
        }
        DType::U16 => Tensor::from_slice(device, shape, &values.iter().map(|&x| x as u16).collect::<Vec<_>>()),
        DType::U32 => panic!("nothing is tested in u32"),
    }
}

/// Parameters of these shapes, named `p0`, `p1`, .., to compute with in `dtype`; their masters are in its accumulator.
pub fn params(device: &Device, shapes: &[Vec<usize>], dtype: DType, values: &[Vec<f64>]) -> (Params, Vec<Param>) {
    let spec =
        |(i, shape): (usize, &Vec<usize>)| ParamSpec { name: format!("p{i}"), shape: shape.clone(), decay: false };
    let specs: Vec<ParamSpec> = shapes.iter().enumerate().map(spec).collect();
    let values = values.concat();
    let flat = tensor(&device.of(Purpose::Weights), &[values.len()], dtype.accumulator(), &values);
    let params = Params::new(&specs, flat).unwrap().computed_in(dtype).unwrap();
    let each = specs.iter().map(|s| params.get(&s.name)).collect();
    (params, each)
}

/// Gradients of all parameters, all `start`.
pub fn gradients(params: &Params, start: f64) -> Gradients {
    let mut gradients = params.gradients().unwrap();
    let values = tensor(params.device(), &[params.len()], params.master_dtype(), &vec![start; params.len()]);
    gradients.values = values;
    gradients.hold();
    gradients
}

impl Case {
    fn shapes(&self) -> impl Iterator<Item = &Vec<usize>> {
        self.inputs.iter().chain(&self.params)
    }

    /// Values that `held` holds exactly.
    pub fn values(&self, held: DType) -> Values {
        let mut rng = rng(1);
        let random = |shape: &Vec<usize>| random(held, &mut rng, shape.iter().product(), self.amplitude);
        Values { held, all: self.shapes().map(random).collect() }
    }

    /// Its inputs and parameters.
    pub fn split<'a>(&self, values: &'a Values) -> (&'a [Vec<f64>], &'a [Vec<f64>]) {
        values.all.split_at(self.inputs.len())
    }

    /// Puts the inputs on a tape.
    pub fn place(&self, tape: &mut Tape, dtype: DType, inputs: &[Vec<f64>]) -> Vec<Var> {
        let device = tape.device().clone();
        let pairs = self.inputs.iter().zip(inputs);
        pairs.map(|(shape, x)| tape.var(tensor(&device, shape, dtype, x))).collect()
    }

    /// The outputs, on a tape that records nothing.
    pub fn forward(&self, device: &Device, dtype: DType, values: &Values) -> Vec<Vec<f64>> {
        let (inputs, params) = self.split(values);
        let (_table, params) = self::params(device, &self.params, dtype, params);
        let mut tape = Tape::inference(device);
        let vars = self.place(&mut tape, dtype, inputs);
        outputs_of(&(self.run)(&mut tape, &vars, &params).unwrap())
    }

    /// Forward and backward. Parameter gradients begin at `start`, which is taken off again at the end.
    pub fn backward(&self, device: &Device, dtype: DType, values: &Values, start: f64) -> Pass {
        self.backward_rounded(device, dtype, values, start, Rounding::None)
    }

    /// [`backward`](Self::backward) on a tape that rounds what passes between ops.
    pub fn backward_rounded(
        &self,
        device: &Device,
        dtype: DType,
        values: &Values,
        start: f64,
        rounding: Rounding,
    ) -> Pass {
        let (inputs, params) = self.split(values);
        let (table, params) = self::params(device, &self.params, dtype, params);
        let mut gradients = gradients(&table, start);
        let mut tape = Tape::recording(device, &mut gradients).rounded(rounding);
        let vars = self.place(&mut tape, dtype, inputs);
        let caught = catch(&mut tape, &vars);
        let output = (self.run)(&mut tape, &vars, &params).unwrap();
        let outputs = outputs_of(&output);
        let mut rng = rng(2);
        let coefficients = match output {
            Output::Loss(_) => vec![vec![1.0]],
            Output::Vars(_) => outputs.iter().map(|y| random(values.held, &mut rng, y.len(), 1.0)).collect(),
        };
        if let Output::Vars(ys) = output {
            seed(&mut tape, ys, dtype, coefficients.clone());
        }
        tape.backward().unwrap();
        let mut all = caught.take();
        let sums = gradients.values.to_f64();
        all.extend(table.spans().iter().map(|span| sums[span.range()].iter().map(|g| g - start).collect::<Vec<_>>()));
        Pass { outputs, coefficients, gradients: all }
    }
}

pub fn outputs_of(output: &Output) -> Vec<Vec<f64>> {
    match output {
        Output::Vars(ys) => ys.iter().map(|y| y.value.to_f64()).collect(),
        Output::Loss(loss) => vec![vec![*loss]],
    }
}

/// Pushed before the op, and so run after its backward: takes the gradients that arrived at the inputs.
pub fn catch(tape: &mut Tape, vars: &[Var]) -> Rc<RefCell<Vec<Vec<f64>>>> {
    let caught = Rc::new(RefCell::new(Vec::new()));
    let (sink, vars) = (caught.clone(), vars.to_vec());
    tape.push("catch", move |ctx| {
        let arrived = vars.iter().map(|x| ctx.take(x).expect("a gradient for every input").to_f64());
        sink.borrow_mut().extend(arrived);
        Ok(())
    });
    caught
}

/// Pushed after the op, and so run before its backward: gives its outputs their gradients.
pub fn seed(tape: &mut Tape, ys: Vec<Var>, dtype: DType, coefficients: Vec<Vec<f64>>) {
    tape.push("seed", move |ctx| {
        for (y, c) in ys.iter().zip(coefficients) {
            ctx.give(y, tensor(y.value.device(), y.value.shape(), dtype, &c))?;
        }
        Ok(())
    });
}
