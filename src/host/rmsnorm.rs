//! rmsnorm: y = [h +] x * rstd * (1 + weight), alone and in pairs, and its gradient. The contract is in kernels/engine.h.

use std::borrow::Cow;
use std::ffi::c_void;

use super::launcher::{elements, elements_mut, run, with_dtype};
use super::simd::{Real, Scalar, dot, for_each_part, for_each_row, for_each_row_and, sum_of_both};
use crate::device::bindings::{engine_dtype, engine_status, engine_stream};

pub unsafe extern "C" fn rmsnorm_forward(
    y: *mut c_void,
    rstd: *mut c_void,
    x: *const c_void,
    weight: *const c_void,
    n: u32,
    d: u32,
    eps: f64,
    dtype: engine_dtype,
    _stream: engine_stream,
) -> engine_status {
    let (n, d) = (n as usize, d as usize);
    run(|| {
        with_dtype!(dtype, T => {
            // SAFETY: the table's contract.
            let (y, rstd) = unsafe { (elements_mut::<T>(y, n * d), elements_mut(rstd, n)) };
            // SAFETY: as above.
            let (x, weight) = unsafe { (elements::<T>(x, n * d), elements::<T>(weight, d)) };
            forward(y, rstd, None, x, weight, eps);
        })
    })
}

pub unsafe extern "C" fn rmsnorm_pair_forward(
    sum: *mut c_void,
    y: *mut c_void,
    rstd: *mut c_void,
    h: *const c_void,
    x: *const c_void,
    weight: *const c_void,
    next_weight: *const c_void,
    n: u32,
    d: u32,
    eps: f64,
    dtype: engine_dtype,
    _stream: engine_stream,
) -> engine_status {
    let (n, d) = (n as usize, d as usize);
    run(|| {
        with_dtype!(dtype, T => {
            // SAFETY: the table's contract.
            let (sum, y) = unsafe { (elements_mut::<T>(sum, n * d), elements_mut::<T>(y, n * d)) };
            // SAFETY: as above.
            let (h, x) = unsafe { (elements::<T>(h, n * d), elements::<T>(x, n * d)) };
            // SAFETY: as above.
            let (weight, next_weight) = unsafe { (elements::<T>(weight, d), elements::<T>(next_weight, d)) };
            // SAFETY: as above.
            let (rstd, next_rstd) = unsafe { elements_mut(rstd, 2 * n) }.split_at_mut(n);
            forward(sum, rstd, Some(h), x, weight, eps);
            forward(y, next_rstd, None, sum, next_weight, eps);
        })
    })
}

pub unsafe extern "C" fn rmsnorm_backward(
    dx: *mut c_void,
    parts: *mut c_void,
    rstd: *const c_void,
    dh: *const c_void,
    dy: *const c_void,
    x: *const c_void,
    weight: *const c_void,
    n: u32,
    d: u32,
    rows: u32,
    dtype: engine_dtype,
    _stream: engine_stream,
) -> engine_status {
    let (n, d, rows) = (n as usize, d as usize, rows as usize);
    run(|| {
        with_dtype!(dtype, T => {
            // SAFETY: the table's contract; dh is there or null, and copied when it is dx itself, which is borrowed next.
            let arrived = (!dh.is_null()).then(|| Cow::from(unsafe { elements::<T>(dh, n * d) }));
            let dh = arrived.map(|values| if dh == dx.cast_const() { values.into_owned().into() } else { values });
            // SAFETY: the table's contract.
            let (dx, parts) = unsafe { (elements_mut::<T>(dx, n * d), Parts::new(parts, n, d, rows)) };
            // SAFETY: as above.
            let (dy, rstd) = unsafe { (elements::<T>(dy, n * d), elements(rstd, n)) };
            // SAFETY: as above.
            let (x, weight) = unsafe { (elements::<T>(x, n * d), elements::<T>(weight, d)) };
            backward(dx, parts, dh.as_deref(), dy, &Saved { x, weight, rstd });
        })
    })
}

pub unsafe extern "C" fn rmsnorm_pair_backward(
    dh: *mut c_void,
    dx: *mut c_void,
    parts: *mut c_void,
    next_parts: *mut c_void,
    rstd: *const c_void,
    dsum: *const c_void,
    dy: *const c_void,
    sum: *const c_void,
    x: *const c_void,
    weight: *const c_void,
    next_weight: *const c_void,
    n: u32,
    d: u32,
    rows: u32,
    dtype: engine_dtype,
    _stream: engine_stream,
) -> engine_status {
    let (n, d, rows) = (n as usize, d as usize, rows as usize);
    run(|| {
        with_dtype!(dtype, T => {
            // SAFETY: the table's contract.
            let (dh, dx) = unsafe { (elements_mut::<T>(dh, n * d), elements_mut::<T>(dx, n * d)) };
            // SAFETY: as above.
            let (parts, next_parts) = unsafe { (Parts::new(parts, n, d, rows), Parts::new(next_parts, n, d, rows)) };
            // SAFETY: as above; dsum is there or null.
            let dsum = (!dsum.is_null()).then(|| unsafe { elements::<T>(dsum, n * d) });
            // SAFETY: as above.
            let (dy, sum, x) = unsafe { (elements::<T>(dy, n * d), elements::<T>(sum, n * d), elements::<T>(x, n * d)) };
            // SAFETY: as above.
            let (weight, next_weight) = unsafe { (elements::<T>(weight, d), elements::<T>(next_weight, d)) };
            // SAFETY: as above.
            let (rstd, next_rstd) = unsafe { elements(rstd, 2 * n) }.split_at(n);
            backward(dh, next_parts, dsum, dy, &Saved { x: sum, weight: next_weight, rstd: next_rstd });
            backward(dx, parts, None, dh, &Saved { x, weight, rstd });
        })
    })
}

/// (ceil(N / rows), D): what each `rows` rows add to a weight's gradient.
struct Parts<'a, A> {
    sums: &'a mut [A],
    rows: usize,
}

impl<'a, A> Parts<'a, A> {
    /// None for a null pointer.
    ///
    /// # Safety
    /// All is there as kernels/engine.h says.
    unsafe fn new(sums: *mut c_void, n: usize, d: usize, rows: usize) -> Option<Self> {
        // SAFETY: the caller's promise.
        (!sums.is_null()).then(|| Self { sums: unsafe { elements_mut(sums, n.div_ceil(rows) * d) }, rows })
    }
}

/// 1 / sqrt(mean(x^2) + eps) of one row.
#[inline(always)]
pub(super) fn row_rstd<T: Scalar>(x: &[T], eps: f64) -> T::Acc {
    T::Acc::ONE / (dot(x, x) / T::Acc::from_f64(x.len() as f64) + T::Acc::from_f64(eps)).sqrt()
}

fn forward<T: Scalar>(y: &mut [T], rstd: &mut [T::Acc], h: Option<&[T]>, x: &[T], weight: &[T], eps: f64) {
    let d = weight.len();
    for_each_row_and(
        y,
        d,
        rstd,
        #[inline(always)]
        |i, y, rstd| {
            let x = &x[i * d..][..d];
            let scale = row_rstd(x, eps);
            *rstd = scale;
            let normed = |j: usize| x[j].wide() * scale * (T::Acc::ONE + weight[j].wide());
            match h {
                None => {
                    for (j, y) in y.iter_mut().enumerate() {
                        *y = T::narrow(normed(j));
                    }
                }
                Some(h) => {
                    let h = &h[i * d..][..d];
                    for (j, y) in y.iter_mut().enumerate() {
                        *y = T::narrow(h[j].wide() + normed(j));
                    }
                }
            }
        },
    );
}

/// What the backward reads beside gradients.
struct Saved<'a, T: Scalar> {
    x: &'a [T],
    weight: &'a [T],
    rstd: &'a [T::Acc],
}

/// rstd^2 * mean(g * x), what pulls dx towards x; g is dy * (1 + weight).
#[inline(always)]
pub(super) fn row_pull<T: Scalar, Y: Scalar<Acc = T::Acc>>(rstd: T::Acc, dy: &[Y], x: &[T], weight: &[T]) -> T::Acc {
    let sum = sum_of_both([x, weight], [dy], |[x, w], [dy]| dy.wide() * (T::Acc::ONE + w.wide()) * x.wide());
    rstd * rstd * (sum / T::Acc::from_f64(x.len() as f64))
}

fn backward<T: Scalar>(
    dx: &mut [T],
    parts: Option<Parts<'_, T::Acc>>,
    dh: Option<&[T]>,
    dy: &[T],
    saved: &Saved<'_, T>,
) {
    backward_x(dx, dh, dy, saved);
    if let Some(Parts { sums, rows }) = parts {
        let Saved { x, rstd, .. } = *saved;
        let d = saved.weight.len();
        for_each_part(
            sums,
            (rstd.len(), rows, d),
            #[inline(always)]
            |sum: &mut [T::Acc], row| {
                let (dy, x, rstd) = (&dy[row * d..][..d], &x[row * d..][..d], rstd[row]);
                for ((sum, dy), x) in sum.iter_mut().zip(dy).zip(x) {
                    *sum += dy.wide() * x.wide() * rstd;
                }
            },
        );
    }
}

fn backward_x<T: Scalar>(dx: &mut [T], dh: Option<&[T]>, dy: &[T], saved: &Saved<'_, T>) {
    let Saved { x, weight, rstd } = *saved;
    let d = weight.len();
    for_each_row(
        dx,
        d,
        #[inline(always)]
        |i, dx| {
            let (x, dy, rstd) = (&x[i * d..][..d], &dy[i * d..][..d], rstd[i]);
            let slope = |j: usize| dy[j].wide() * (T::Acc::ONE + weight[j].wide());
            let pull = row_pull(rstd, dy, x, weight);
            let gradient = |j: usize| rstd * (slope(j) - x[j].wide() * pull);
            match dh {
                None => {
                    for (j, dx) in dx.iter_mut().enumerate() {
                        *dx = T::narrow(gradient(j));
                    }
                }
                Some(dh) => {
                    let dh = &dh[i * d..][..d];
                    for (j, dx) in dx.iter_mut().enumerate() {
                        *dx = T::narrow(dh[j].wide() + gradient(j));
                    }
                }
            }
        },
    );
}
