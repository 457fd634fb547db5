//! How the forward and the backward of a case are timed, on the device of the environment variable `ENGINE_BENCH_DEVICE`.

use std::cell::OnceCell;
use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput};
use engine::autograd::{Gradients, Param, ParamSpec, Params, Tape, Var};
use engine::device::{DType, Device, Purpose, Tensor};
use engine::error::Result;

use super::lists::{Case, Output};

/// What ops compute in, by the names of the benches.
pub const DTYPES: [(&str, DType); 2] = [("f32", DType::F32), ("bf16", DType::Bf16)];

/// The CPU, or the GPU with `ENGINE_BENCH_DEVICE=cuda`.
pub fn device() -> Device {
    // As in the command, this thread is among those that share the work. An error says that it is: another bench was here.
    let _ = rayon::ThreadPoolBuilder::new().use_current_thread().build_global();
    match std::env::var("ENGINE_BENCH_DEVICE").as_deref() {
        Ok("cuda") => engine::cuda::device().unwrap_or_else(|error| panic!("{}", error.report())),
        Ok("cpu") | Err(_) => engine::host::device(),
        Ok(other) => panic!("ENGINE_BENCH_DEVICE is `{other}`: it can be `cpu` or `cuda`"),
    }
}

/// Whether all is to run once and nothing is measured, as criterion does it without the `--bench` that `cargo bench` adds.
pub fn is_trial() -> bool {
    !std::env::args().any(|argument| argument == "--bench")
}

/// What one pass of an op has to do.
#[derive(Clone, Copy)]
pub enum Work {
    Flop(usize),
    /// Elements read and written, in the type that ops compute in, and in f32.
    Moves {
        values: usize,
        sums: usize,
    },
}

impl Work {
    /// In criterion's words: FLOP are elements.
    pub fn throughput(self, dtype: DType) -> Throughput {
        match self {
            Work::Flop(n) => Throughput::Elements(n as u64),
            Work::Moves { values, sums } => {
                Throughput::Bytes((values * dtype.size() + sums * DType::F32.size()) as u64)
            }
        }
    }
}

/// Elements of the compute type alone.
pub fn values(values: usize) -> Work {
    Work::Moves { values, sums: 0 }
}

/// A tensor of numbers in -1..1 that look random: a Weyl sequence.
pub fn tensor(device: &Device, shape: &[usize], dtype: DType) -> Tensor {
    let number = |i: u32| i.wrapping_mul(2_654_435_769) as i32 as f32 / 2f32.powi(31);
    let numbers: Vec<f32> = (0..shape.iter().product::<usize>() as u32).map(number).collect();
    Tensor::from_slice(device, shape, &numbers).cast(dtype).unwrap()
}

/// Waits for all that is queued.
fn wait(device: &Device) {
    Tensor::zeros(device, &[1], DType::F32).unwrap().download::<f32>().unwrap();
}

/// How long a device takes for so many runs.
pub fn timed(device: &Device, iterations: u64, mut run: impl FnMut()) -> Duration {
    wait(device);
    let started = Instant::now();
    (0..iterations).for_each(|_| run());
    wait(device);
    started.elapsed()
}

/// What a case takes, on a device.
pub struct Placed {
    pub device: Device,
    pub dtype: DType,
    pub params: Vec<Param>,
    inputs: Vec<Tensor>,
    table: Params,
    /// What the backward begins with.
    slopes: OnceCell<Vec<Tensor>>,
}

impl Placed {
    fn new(device: &Device, dtype: DType, case: &Case) -> Self {
        let named =
            |(i, shape): (usize, &Vec<usize>)| ParamSpec { name: format!("p{i}"), shape: shape.clone(), decay: false };
        let specs: Vec<ParamSpec> = case.params.iter().enumerate().map(named).collect();
        let length = specs.iter().map(ParamSpec::len).sum();
        let masters = tensor(&device.of(Purpose::Weights), &[length], dtype.accumulator());
        let table = Params::new(&specs, masters).unwrap().computed_in(dtype).unwrap();
        let params = specs.iter().map(|spec| table.get(&spec.name)).collect();
        let inputs = case.inputs.iter().map(|shape| tensor(device, shape, dtype)).collect();
        Self { device: device.clone(), dtype, params, inputs, table, slopes: OnceCell::new() }
    }

    fn vars(&self, tape: &mut Tape) -> Vec<Var> {
        self.inputs.iter().map(|x| tape.var(x.clone())).collect()
    }

    /// The forward alone.
    fn forward(&self, op: &Op) {
        let mut tape = Tape::inference(&self.device);
        let vars = self.vars(&mut tape);
        black_box(op(&mut tape, &vars).unwrap());
    }

    /// How long the backward takes, after a forward that does not count. A loss computes its gradient with its value: then
    /// both count.
    fn backward(&self, op: &Op, gradients: &mut Gradients) -> Duration {
        wait(&self.device);
        let started = Instant::now();
        let mut tape = Tape::recording(&self.device, gradients);
        let vars = self.vars(&mut tape);
        let ys = match op(&mut tape, &vars).unwrap() {
            Output::Vars(ys) => ys,
            Output::Loss(_) => {
                tape.backward().unwrap();
                wait(&self.device);
                return started.elapsed();
            }
        };
        let made = || ys.iter().map(|y| tensor(&self.device, y.value.shape(), self.dtype)).collect();
        // Copies: an op may write its gradient in place.
        let copy = |dy: &Tensor| dy.cast(self.dtype).unwrap();
        let slopes: Vec<Tensor> = self.slopes.get_or_init(made).iter().map(copy).collect();
        tape.push("seed", move |ctx| ys.iter().zip(slopes).try_for_each(|(y, dy)| ctx.give(y, dy)));
        wait(&self.device);
        let started = Instant::now();
        tape.backward().unwrap();
        wait(&self.device);
        started.elapsed()
    }
}

/// An op as it is put on a tape, from its inputs.
pub type Op<'a> = Box<dyn Fn(&mut Tape, &[Var]) -> Result<Output> + 'a>;

/// A case, and the work of its forward and backward.
pub struct Bench<'a> {
    pub name: &'a str,
    pub case: &'a Case,
    pub work: [Work; 2],
}

impl Bench<'_> {
    /// Times the case as its list runs it.
    pub fn run(&self, c: &mut Criterion, device: &Device) {
        self.run_prepared(c, device, &|placed| {
            let params = placed.params.clone();
            Box::new(move |tape, x| (self.case.run)(tape, x, &params))
        });
    }

    /// Times what `prepare` returns: for ops whose cases also make what a batch makes once for all layers.
    pub fn run_prepared<'a>(&self, c: &mut Criterion, device: &Device, prepare: &dyn Fn(&Placed) -> Op<'a>) {
        let mut group = c.benchmark_group(self.name);
        for (dtype_name, dtype) in DTYPES {
            // Only for benches that the command line names.
            let placed = OnceCell::new();
            let place = || {
                let placed = Placed::new(device, dtype, self.case);
                let op = prepare(&placed);
                (placed, op)
            };
            group.throughput(self.work[0].throughput(dtype));
            group.bench_function(BenchmarkId::new("forward", dtype_name), |b| {
                let (placed, op) = placed.get_or_init(place);
                b.iter_custom(|iterations| timed(device, iterations, || placed.forward(op)));
            });
            let mut gradients = None;
            group.throughput(self.work[1].throughput(dtype));
            group.bench_function(BenchmarkId::new("backward", dtype_name), |b| {
                let (placed, op) = placed.get_or_init(place);
                let gradients = gradients.get_or_insert_with(|| placed.table.gradients().unwrap());
                b.iter_custom(|iterations| (0..iterations).map(|_| placed.backward(op, gradients)).sum());
            });
        }
    }
}

/// Times an op that is not on the tape: what `prepare` makes when the command line names this bench. Each runs alone.
pub fn alone<'a>(
    c: &mut Criterion,
    device: &Device,
    [op, name]: [&str; 2],
    throughput: Throughput,
    prepare: impl Fn() -> Box<dyn FnMut() + 'a>,
) {
    let mut run = None;
    let mut group = c.benchmark_group(op);
    group.throughput(throughput).bench_function(name, |b| {
        let run = run.get_or_insert_with(&prepare);
        b.iter_custom(|iterations| timed(device, iterations, &mut *run));
    });
}
