//! A case of an op: what it takes, how it goes on a tape, and its formula. One list per op serves every check.

use std::cell::RefCell;
use std::rc::Rc;

use engine::autograd::ParamSpec;
use engine::autograd::{Param, Params};
use engine::autograd::{Tape, Var};
use engine::device::{Device, Tensor};
use engine::error::Result;
use engine::host::simd::Real;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// What an op leaves on the tape.
pub enum Output {
    /// Values, whose gradients the check seeds.
    Vars(Vec<Var>),
    /// A loss, which seeds itself.
    Loss(f64),
}

/// Puts an op on the tape, from its inputs and parameters.
pub type Run = Box<dyn Fn(&mut Tape, &[Var], &[Param]) -> Result<Output> + Sync>;

/// The op's outputs in plain f64 loops, from the values of its inputs and parameters.
pub type Formula = Box<dyn Fn(&[Vec<f64>], &[Vec<f64>]) -> Vec<Vec<f64>> + Sync>;

/// An op at one shape.
pub struct Case {
    pub name: String,
    /// Shapes of the activations it takes.
    pub inputs: Vec<Vec<usize>>,
    /// Shapes of the parameters it takes.
    pub params: Vec<Vec<usize>>,
    /// Values are uniform in -amplitude..amplitude.
    pub amplitude: f64,
    /// Terms of the longest running sum that the op keeps in its own type, forward or backward.
    pub terms: usize,
    pub run: Run,
    pub formula: Formula,
}

/// What a forward and backward give.
#[derive(Debug, PartialEq)]
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

/// `n` numbers that f32 holds exactly, uniform in -amplitude..amplitude.
pub fn random(rng: &mut ChaCha8Rng, n: usize, amplitude: f64) -> Vec<f64> {
    (0..n).map(|_| ((rng.random::<f64>() * 2.0 - 1.0) * amplitude) as f32 as f64).collect()
}

/// A tensor of `values` in type T.
pub fn tensor<T: Real>(device: &Device, shape: &[usize], values: &[f64]) -> Tensor {
    Tensor::from_slice(device, shape, &values.iter().map(|&x| T::from_f64(x)).collect::<Vec<T>>())
}

/// Parameters of these shapes, named `p0`, `p1`, ..
pub fn params<T: Real>(device: &Device, shapes: &[Vec<usize>], values: &[Vec<f64>]) -> (Params, Vec<Param>) {
    let spec =
        |(i, shape): (usize, &Vec<usize>)| ParamSpec { name: format!("p{i}"), shape: shape.clone(), decay: false };
    let specs: Vec<ParamSpec> = shapes.iter().enumerate().map(spec).collect();
    let values = values.concat();
    let params = Params::new(&specs, tensor::<T>(device, &[values.len()], &values)).unwrap();
    let each = specs.iter().map(|s| params.get(&s.name)).collect();
    (params, each)
}

/// A device whose pool holds freed storage full of NaN: an op that reads what it has not written shows it.
pub fn poisoned_device() -> Device {
    const COPIES: usize = 4;
    let device = Device::cpu();
    // The pool's size classes up to 256 KiB, in lines of 64 bytes.
    let lines = (1..8).chain((0..9).flat_map(|power| (8..16).map(move |eighths| eighths << power)));
    let nan = |lines: usize| Tensor::from_slice(&device, &[lines * 16], &vec![f32::from_bits(u32::MAX); lines * 16]);
    let held: Vec<Tensor> = lines.flat_map(|lines| (0..COPIES).map(move |_| lines)).map(nan).collect();
    drop(held);
    device
}

impl Case {
    fn shapes(&self) -> impl Iterator<Item = &Vec<usize>> {
        self.inputs.iter().chain(&self.params)
    }

    /// Values for every input, then every parameter.
    pub fn values(&self) -> Vec<Vec<f64>> {
        let mut rng = rng(1);
        self.shapes().map(|shape| random(&mut rng, shape.iter().product(), self.amplitude)).collect()
    }

    /// The outputs, on a tape that records nothing.
    pub fn forward<T: Real>(&self, device: &Device, values: &[Vec<f64>]) -> Vec<Vec<f64>> {
        let mut tape = Tape::inference(device);
        let (inputs, params) = values.split_at(self.inputs.len());
        let vars: Vec<Var> = self.place::<T>(&mut tape, inputs);
        let (_, params) = crate::cases::params::<T>(device, &self.params, params);
        outputs_of(&(self.run)(&mut tape, &vars, &params).unwrap())
    }

    /// Forward and backward in type T. Parameter gradients start at `start`, which is taken off again at the end.
    pub fn backward<T: Real>(&self, device: &Device, values: &[Vec<f64>], start: f64) -> Pass {
        let (inputs, params) = values.split_at(self.inputs.len());
        let (table, params) = crate::cases::params::<T>(device, &self.params, params);
        let mut gradients = table.gradients().unwrap();
        gradients.values.as_mut::<T>().unwrap().fill(T::from_f64(start));
        let mut tape = Tape::recording(device, &mut gradients);
        let vars = self.place::<T>(&mut tape, inputs);
        let caught = catch(&mut tape, &vars);
        let output = (self.run)(&mut tape, &vars, &params).unwrap();
        let outputs = outputs_of(&output);
        let mut rng = rng(2);
        let coefficients = match output {
            Output::Loss(_) => vec![vec![1.0]],
            Output::Vars(_) => outputs.iter().map(|y| random(&mut rng, y.len(), 1.0)).collect(),
        };
        if let Output::Vars(ys) = output {
            seed::<T>(&mut tape, ys, coefficients.clone());
        }
        tape.backward().unwrap();
        let mut all = caught.take();
        for span in table.spans() {
            let sums = &gradients.values.as_slice::<T>()[span.range()];
            all.push(sums.iter().map(|g| g.to_f64() - start).collect());
        }
        Pass { outputs, coefficients, gradients: all }
    }

    fn place<T: Real>(&self, tape: &mut Tape, inputs: &[Vec<f64>]) -> Vec<Var> {
        let device = tape.device().clone();
        let pairs = self.inputs.iter().zip(inputs);
        pairs.map(|(shape, x)| tape.var(tensor::<T>(&device, shape, x))).collect()
    }
}

fn outputs_of(output: &Output) -> Vec<Vec<f64>> {
    match output {
        Output::Vars(ys) => ys.iter().map(|y| y.value.to_f64()).collect(),
        Output::Loss(loss) => vec![vec![*loss]],
    }
}

/// Pushed before the op, and so run after its backward: takes the gradients that arrived at the inputs.
fn catch(tape: &mut Tape, vars: &[Var]) -> Rc<RefCell<Vec<Vec<f64>>>> {
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
fn seed<T: Real>(tape: &mut Tape, ys: Vec<Var>, coefficients: Vec<Vec<f64>>) {
    tape.push("seed", move |ctx| {
        for (y, c) in ys.iter().zip(coefficients) {
            ctx.give(y, tensor::<T>(y.value.device(), y.value.shape(), &c))?;
        }
        Ok(())
    });
}
