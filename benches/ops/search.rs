//! The search for the likeliest token beside all logits and their argmax, on the head of FunctionGemma and random numbers: for every
//! kernel that multiplies bytes on this machine. `cargo bench --bench ops -- head_search`. Not a bench of criterion's: it
//! prints how many products were computed, too.

use std::time::Instant;

use engine::device::{DType, Device, Element};
use engine::host::gemm::{Matrix, Store};
use engine::host::products::product;
use engine::host::search::HeadSearch;
use engine::host::search::bytes::Kernel;
use engine::host::simd::{Scalar, max_of};
use half::bf16;

use super::measure::{is_trial, tensor};

const NAME: &str = "head_search";

const TERMS: usize = 640;

/// The shortest of several times, in milliseconds.
fn fastest(mut run: impl FnMut()) -> f64 {
    let times = (0..if is_trial() { 1 } else { 10 }).map(|_| {
        let started = Instant::now();
        run();
        started.elapsed().as_secs_f64() * 1e3
    });
    times.fold(f64::INFINITY, f64::min)
}

/// Prints the table, when the command line names it.
pub fn report(device: &Device) {
    let filter = std::env::args().skip(1).find(|argument| !argument.starts_with('-')).unwrap_or_default();
    if NAME.contains(&filter) && device.driver().is_host() {
        of::<bf16>(device, DType::Bf16);
        of::<f32>(device, DType::F32);
    }
}

fn of<T: Scalar<Acc = f32> + Element>(device: &Device, dtype: DType) {
    let v = if is_trial() { 1 << 10 } else { 1 << 18 };
    let weight = tensor(device, &[v, TERMS], dtype);
    let weights = weight.as_slice::<T>();
    for rows in [1, 4, 20, 64] {
        let x = tensor(device, &[rows, TERMS], dtype);
        let x = x.as_slice::<T>();
        let mut logits = vec![T::zeroed(); rows * v];
        let all = fastest(|| {
            product(&mut logits, Store::Write, Matrix::new(x, rows, TERMS), Matrix::new(weights, v, TERMS).t());
            let largest: f32 = logits.chunks(v).map(|logits| max_of(logits)).sum();
            std::hint::black_box(largest);
        });
        for kernel in Kernel::available().filter(|kernel| *kernel != Kernel::Portable) {
            // SAFETY: the weights stay where and as they are.
            let mut search = unsafe { HeadSearch::new(kernel, weights.as_ptr(), [v, TERMS]) };
            let started = Instant::now();
            let first = search.largest(x);
            let (begun, mut computed) = (started.elapsed().as_secs_f64() * 1e3, 0);
            let found = fastest(|| {
                computed = search.largest(x).iter().flatten().map(|(_, computed)| computed).sum::<usize>();
            });
            let computed = first.map_or("all".to_owned(), |_| format!("{:.1}", computed as f64 / rows as f64));
            println!(
                "{NAME} {dtype:?} N {rows:2}: all logits {all:6.1} ms, {kernel:?} {found:6.1} ms ({computed} products a row), the first time {begun:.0} ms"
            );
        }
    }
}
