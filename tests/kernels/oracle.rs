//! The CPU ops as oracles: one op on a tape, forward and backward, in f32 or f64.

use std::cell::RefCell;
use std::rc::Rc;

use engine::autograd::ParamSpec;
use engine::autograd::{Param, Params};
use engine::autograd::{Tape, Var};
use engine::device::{Device, Tensor};
use engine::error::Result;
use engine::host::simd::Real;

/// A tensor's shape and values.
pub type Values = (Vec<usize>, Vec<f64>);

/// What one op gives: its output, and the gradients of its inputs and of its parameter.
pub struct Pass {
    pub y: Vec<f64>,
    pub dx: Vec<Vec<f64>>,
    pub dweight: Vec<f64>,
}

fn tensor<T: Real>(device: &Device, (shape, values): &Values) -> Tensor {
    Tensor::from_slice(device, shape, &values.iter().map(|&x| T::from_f64(x)).collect::<Vec<T>>())
}

/// Runs an op that has one parameter (or ignores it) and whose output receives the gradient `dy`; dweight begins at `start`.
pub fn pass<T: Real>(
    inputs: &[Values],
    weight: &Values,
    dy: &[f64],
    start: f64,
    op: impl Fn(&mut Tape, &[Var], &Param) -> Result<Var>,
) -> Pass {
    let device = Device::cpu();
    let spec = ParamSpec { name: "weight".into(), shape: weight.0.clone(), decay: false };
    let params = Params::new(&[spec], tensor::<T>(&device, &(vec![weight.1.len()], weight.1.clone()))).unwrap();
    let mut gradients = params.gradients().unwrap();
    gradients.values.as_mut::<T>().unwrap().fill(T::from_f64(start));
    let mut tape = Tape::recording(&device, &mut gradients);
    let vars: Vec<Var> = inputs.iter().map(|x| tape.var(tensor::<T>(&device, x))).collect();
    let caught = Rc::new(RefCell::new(Vec::new()));
    let (sink, sources, param) = (caught.clone(), vars.clone(), params.get("weight"));
    let touched = param.clone();
    tape.push("catch", move |ctx| {
        sink.borrow_mut().extend(sources.iter().map(|x| ctx.take(x).expect("a gradient").to_f64()));
        ctx.param::<T>(&touched).map(drop)
    });
    let y = op(&mut tape, &vars, &param).unwrap();
    let values = y.value.to_f64();
    let dy = (y.value.shape().to_vec(), dy.to_vec());
    tape.push("seed", move |ctx| ctx.give(&y, tensor::<T>(y.value.device(), &dy)));
    tape.backward().unwrap();
    let dx = caught.take();
    Pass { y: values, dx, dweight: gradients.values.to_f64() }
}
