//! Matrix products of the model's shapes on one core, as a share of what that core could do at best: its registers' rate of
//! multiply-adds, measured in turn with the product, the fastest of several tries each. Skinny ones beside the rate at
//! which memory is read, too.
//!
//! Not a bench of criterion's: a share needs both times from the same moment. `cargo bench --bench ops -- linear_products`;
//! another word behind that, as `linear_products/skinny`, is a part of the rows' names. The kernel is that of the machine, or
//! the one that ENGINE_CPU_PRODUCTS names.

use std::ffi::c_void;

use engine::device::driver::{Operand, Product};
use engine::device::{DType, Device, Tensor};
use engine::host::products::choice::Kernel;
use engine::host::products::{multiply, peak};

use rustix::time::{ClockId, clock_gettime};

use super::measure::{is_trial, tensor};

const NAME: &str = "linear_products";

/// Rows of the tutorial's batches: 4 rows scored, 4 rows, 20 rows.
const ROWS: [usize; 3] = [213, 270, 850];

/// O, I of the model's weights.
const WEIGHTS: [(&str, usize, usize); 5] =
    [("head", 262_144, 640), ("gate_up", 4096, 640), ("down", 640, 2048), ("qkv", 1536, 640), ("o", 640, 1024)];

/// A product of a layer: y = x W^T, dx = dy W, dW = dy^T x, as of the first micro-batch.
#[derive(Clone, Copy, Debug)]
enum Form {
    Forward,
    Dx,
    Dw,
}

/// Operands of a product, which keep their memory.
struct Job {
    product: Product,
    _tensors: [Tensor; 3],
}

impl Job {
    fn new(device: &Device, form: Form, dtype: DType, (n, o, i): (usize, usize, usize)) -> Self {
        let make = |rows: usize, cols: usize, dtype| tensor(device, &[rows, cols], dtype);
        let operand = |x: &Tensor| Operand::new(x.address(), x.shape()[1]);
        let (left, right) = match form {
            Form::Forward => (make(n, i, dtype), make(o, i, dtype)),
            Form::Dx => (make(n, o, dtype), make(o, i, dtype)),
            Form::Dw => (make(n, o, dtype), make(n, i, dtype)),
        };
        let ((m, n, k), a, b) = match form {
            Form::Forward => ((n, o, i), operand(&left), operand(&right).t()),
            Form::Dx => ((n, i, o), operand(&left), operand(&right)),
            Form::Dw => ((o, i, n), operand(&left).t(), operand(&right)),
        };
        let c_dtype = if matches!(form, Form::Dw) { DType::F32 } else { dtype };
        let mut out = make(m, n, c_dtype);
        let c: *mut c_void = out.address_mut().unwrap();
        Self { product: Product { c, a, b, m, n, k, dtype, c_dtype, accumulate: false }, _tensors: [left, right, out] }
    }

    fn flop(&self) -> f64 {
        2.0 * (self.product.m * self.product.n * self.product.k) as f64
    }

    fn measure(&self, kernel: Kernel) -> Measured {
        let tries = if is_trial() { 1 } else { (2e10 / self.flop()).clamp(5.0, 400.0) as usize };
        let (mut seconds, mut peak) = (Vec::new(), 0.0f64);
        for _ in 0..tries {
            let started = own_seconds();
            // SAFETY: three tensors of these shapes, which live as long as this.
            unsafe { multiply(&self.product) };
            seconds.push(own_seconds() - started);
            peak = peak.max(peak::flop_rate(kernel));
        }
        seconds.sort_by(f64::total_cmp);
        let rate = |seconds: f64| self.flop() / seconds;
        Measured { rate: rate(seconds[0]), median: rate(seconds[tries / 2]), peak }
    }
}

/// FLOP a second.
struct Measured {
    /// The fastest of several tries.
    rate: f64,
    /// Far below the rate where others share the core's caches and its memory.
    median: f64,
    /// The fastest rate of the registers between the tries.
    peak: f64,
}

/// What this thread has had of a core: others may share it.
fn own_seconds() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Prints the table, when the command line names it.
pub fn report() {
    let filter = std::env::args().skip(1).find(|argument| !argument.starts_with('-')).unwrap_or_default();
    let (bench, part) = filter.split_once('/').unwrap_or((&filter, ""));
    if !NAME.contains(bench) {
        return;
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    pool.install(|| {
        let device = &engine::host::device();
        let kernel = Kernel::chosen();
        let memory = peak::read_rate(256 << 20);
        println!("{NAME}: kernel {}, one core, which reads {:.1} GB/s", kernel.name(), memory / 1e9);
        for dtype in [DType::Bf16, DType::F32] {
            let kernel = if dtype == DType::F32 { kernel.in_f32() } else { kernel };
            large(device, dtype, kernel, part);
            skinny(device, dtype, kernel, memory, part);
        }
    });
}

fn large(device: &Device, dtype: DType, kernel: Kernel, part: &str) {
    for rows in ROWS {
        for (name, o, i) in WEIGHTS {
            for form in [Form::Forward, Form::Dx, Form::Dw] {
                let name = format!("{dtype:?} {name} {form:?} N {rows}");
                if (o * rows > 100 << 20 && dtype == DType::F32) || !name.contains(part) {
                    continue;
                }
                // A trial is to see whether it runs.
                if is_trial() && o * i > 1 << 24 {
                    continue;
                }
                let job = Job::new(device, form, dtype, (rows, o, i));
                let Measured { rate, median, peak } = job.measure(kernel);
                let (share, [rate, median, peak]) = (100.0 * rate / peak, [rate, median, peak].map(|rate| rate / 1e9));
                println!("{name:32} {rate:7.1} GFLOP/s  {share:3.0} % of {peak:.1}, median {median:.1}");
            }
        }
    }
}

fn skinny(device: &Device, dtype: DType, kernel: Kernel, memory: f64, part: &str) {
    for rows in [1, 4, 8, 20, 32, 64, 65] {
        for (name, o, i) in WEIGHTS {
            let name = format!("{dtype:?} skinny {name} N {rows}");
            if !name.contains(part) {
                continue;
            }
            if is_trial() && o * i > 1 << 24 {
                continue;
            }
            let job = Job::new(device, Form::Forward, dtype, (rows, o, i));
            let Measured { rate: flop, peak, .. } = job.measure(kernel);
            let bytes = (o * i * dtype.size()) as f64 * flop / job.flop();
            let (of_peak, of_memory) = (100.0 * flop / peak, 100.0 * bytes / memory);
            println!(
                "{name:32} {:7.1} GFLOP/s  {of_peak:3.0} %  {:6.1} GB/s  {of_memory:3.0} %",
                flop / 1e9,
                bytes / 1e9
            );
        }
    }
}
