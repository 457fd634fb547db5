//! embedding: h = scale * weight[id], and its gradient by id. The contract is in kernels/engine.h.

use std::ffi::c_void;

use super::launcher::{elements, elements_mut, run, with_dtype};
use super::simd::{Real, Scalar, for_each_row};
use crate::device::bindings::{engine_dtype, engine_status, engine_stream};

pub unsafe extern "C" fn embedding_forward(
    h: *mut c_void,
    weight: *const c_void,
    ids: *const u32,
    n: u32,
    d: u32,
    scale: f64,
    dtype: engine_dtype,
    _stream: engine_stream,
) -> engine_status {
    let (n, d) = (n as usize, d as usize);
    run(|| {
        with_dtype!(dtype, T => {
            // SAFETY: the table's contract.
            let (h, ids) = unsafe { (elements_mut::<T>(h, n * d), elements::<u32>(ids.cast(), n)) };
            let rows = ids.iter().filter(|&&id| id != u32::MAX).max().map_or(0, |&id| id as usize + 1);
            // SAFETY: as above; every id is a row of the weight.
            gather(h, ids, unsafe { elements::<T>(weight, rows * d) }, d, scale);
        })
    })
}

fn gather<T: Scalar>(h: &mut [T], ids: &[u32], weight: &[T], d: usize, scale: f64) {
    let scale = T::Acc::from_f64(scale);
    for_each_row(
        h,
        d,
        #[inline(always)]
        |i, h| match ids[i] {
            u32::MAX => h.fill(T::narrow(T::Acc::ZERO)),
            id => {
                let source = &weight[id as usize * d..][..d];
                h.iter_mut().zip(source).for_each(|(y, &w)| *y = T::narrow(w.wide() * scale));
            }
        },
    );
}

pub unsafe extern "C" fn embedding_backward(
    dweight: *mut c_void,
    squares: *mut c_void,
    dh: *const c_void,
    ids: *const u32,
    rows: *const u32,
    starts: *const u32,
    u: u32,
    d: u32,
    scale: f64,
    dtype: engine_dtype,
    _stream: engine_stream,
) -> engine_status {
    let (u, d) = (u as usize, d as usize);
    run(|| {
        with_dtype!(dtype, T => {
            // SAFETY: the table's contract: u groups, whose starts end with the number of rows.
            let starts = unsafe { elements::<u32>(starts.cast(), u + 1) };
            let n = starts[u] as usize;
            // SAFETY: as above.
            let (ids, rows) = unsafe { (elements::<u32>(ids.cast(), n), elements::<u32>(rows.cast(), n)) };
            // SAFETY: as above.
            let dh = unsafe { elements::<T>(dh, n * d) };
            // Few rows (N, not V): one core writes them about as fast as memory takes them.
            for (number, bounds) in starts.windows(2).enumerate() {
                let group = &rows[bounds[0] as usize..bounds[1] as usize];
                let mut growth = <T as Scalar>::Acc::ZERO;
                if let Some(&first) = group.first() {
                    let at = ids[first as usize] as usize * d;
                    // SAFETY: the id's row of dweight, which this group alone writes.
                    let sum = unsafe { elements_mut::<<T as Scalar>::Acc>(dweight.cast::<<T as Scalar>::Acc>().wrapping_add(at).cast(), d) };
                    let before = if squares.is_null() { <T as Scalar>::Acc::ZERO } else { square(sum) };
                    group.iter().for_each(|&row| add_row::<T>(sum, &dh[row as usize * d..][..d], scale));
                    growth = if squares.is_null() { growth } else { square(sum) - before };
                }
                if !squares.is_null() {
                    // SAFETY: as above: a number for each group.
                    unsafe { squares.cast::<<T as Scalar>::Acc>().add(number).write(growth) };
                }
            }
        })
    })
}

fn add_row<T: Scalar>(sum: &mut [T::Acc], row: &[T], scale: f64) {
    let scale = T::Acc::from_f64(scale);
    sum.iter_mut().zip(row).for_each(|(g, &x)| *g += x.wide() * scale);
}

fn square<A: Real>(row: &[A]) -> A {
    row.iter().fold(A::ZERO, |sum, &g| sum + g * g)
}
