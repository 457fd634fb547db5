//! rmsnorm: y = [h +] x * rstd * (1 + weight), and its gradient. The contract is in kernels/engine.h.

use std::borrow::Cow;
use std::ffi::c_void;

use super::launcher::{elements, elements_mut, run, with_dtype};
use super::simd::{Real, Scalar, add_assign, dot, for_each_row, for_each_row_and, sum_of, sum_over_rows};
use crate::device::bindings::{engine_dtype, engine_status, engine_stream};

pub unsafe extern "C" fn rmsnorm_forward(
    y: *mut c_void,
    rstd: *mut c_void,
    h: *const c_void,
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
            // SAFETY: as above; h is there or null.
            let h = (!h.is_null()).then(|| unsafe { elements::<T>(h, n * d) });
            forward(y, rstd, h, x, weight, eps);
        })
    })
}

pub unsafe extern "C" fn rmsnorm_backward(
    dx: *mut c_void,
    dweight: *mut c_void,
    _scratch: *mut c_void,
    rstd: *const c_void,
    dh: *const c_void,
    dy: *const c_void,
    x: *const c_void,
    weight: *const c_void,
    n: u32,
    d: u32,
    dtype: engine_dtype,
    _stream: engine_stream,
) -> engine_status {
    let (n, d) = (n as usize, d as usize);
    run(|| {
        with_dtype!(dtype, T => {
            // SAFETY: the table's contract; dh is there or null, and copied when it is dx itself, which is borrowed next.
            let arrived = (!dh.is_null()).then(|| Cow::from(unsafe { elements::<T>(dh, n * d) }));
            let dh = arrived.map(|values| if dh == dx.cast_const() { values.into_owned().into() } else { values });
            // SAFETY: the table's contract; dweight is there or null.
            let dweight = (!dweight.is_null()).then(|| unsafe { elements_mut(dweight, d) });
            // SAFETY: the table's contract.
            let dx = unsafe { elements_mut::<T>(dx, n * d) };
            // SAFETY: as above.
            let (dy, rstd) = unsafe { (elements::<T>(dy, n * d), elements(rstd, n)) };
            // SAFETY: as above.
            let (x, weight) = unsafe { (elements::<T>(x, n * d), elements::<T>(weight, d)) };
            backward_x(dx, dh.as_deref(), dy, &Saved { x, weight, rstd });
            if let Some(dweight) = dweight {
                backward_weight(dweight, dy, x, rstd);
            }
        })
    })
}

/// 1 / sqrt(mean(x^2) + eps) of one row.
#[inline(always)]
pub(super) fn row_rstd<T: Scalar>(x: &[T], eps: f64) -> T::Acc {
    T::Acc::ONE / (dot(x, x) / T::Acc::from_f64(x.len() as f64) + T::Acc::from_f64(eps)).sqrt()
}

fn forward<T: Scalar>(y: &mut [T], rstd: &mut [T::Acc], h: Option<&[T]>, x: &[T], weight: &[T], eps: f64) {
    let d = weight.len();
    for_each_row_and(y, d, rstd, |i, y, rstd| {
        let x = &x[i * d..][..d];
        let scale = row_rstd(x, eps);
        *rstd = scale;
        let normed = |j: usize| x[j].wide() * scale * (T::Acc::ONE + weight[j].wide());
        match h {
            None => (0..d).for_each(|j| y[j] = T::narrow(normed(j))),
            Some(h) => {
                let h = &h[i * d..][..d];
                (0..d).for_each(|j| y[j] = T::narrow(h[j].wide() + normed(j)));
            }
        }
    });
}

/// What the backward reads beside gradients.
struct Saved<'a, T: Scalar> {
    x: &'a [T],
    weight: &'a [T],
    rstd: &'a [T::Acc],
}

/// rstd^2 * mean(g * x), what pulls dx towards x; `g(i)` is dy * (1 + weight).
#[inline(always)]
pub(super) fn row_pull<A: Real>(n: usize, rstd: A, product: impl Fn(usize) -> A) -> A {
    rstd * rstd * (sum_of(n, product) / A::from_f64(n as f64))
}

fn backward_x<T: Scalar>(dx: &mut [T], dh: Option<&[T]>, dy: &[T], saved: &Saved<'_, T>) {
    let Saved { x, weight, rstd } = *saved;
    let d = weight.len();
    for_each_row(dx, d, |i, dx| {
        let (x, dy, rstd) = (&x[i * d..][..d], &dy[i * d..][..d], rstd[i]);
        let slope = |j: usize| dy[j].wide() * (T::Acc::ONE + weight[j].wide());
        let pull = row_pull(d, rstd, |j| slope(j) * x[j].wide());
        let gradient = |j: usize| rstd * (slope(j) - x[j].wide() * pull);
        match dh {
            None => (0..d).for_each(|j| dx[j] = T::narrow(gradient(j))),
            Some(dh) => {
                let dh = &dh[i * d..][..d];
                (0..d).for_each(|j| dx[j] = T::narrow(dh[j].wide() + gradient(j)));
            }
        }
    });
}

/// dweight += sum over rows of dy * x * rstd.
fn backward_weight<T: Scalar>(dweight: &mut [T::Acc], dy: &[T], x: &[T], rstd: &[T::Acc]) {
    let d = dweight.len();
    let sum = sum_over_rows(rstd.len(), d, |sum: &mut [T::Acc], row| {
        let (dy, x, rstd) = (&dy[row * d..][..d], &x[row * d..][..d], rstd[row]);
        (0..d).for_each(|j| sum[j] += dy[j].wide() * x[j].wide() * rstd);
    });
    add_assign(dweight, &sum);
}
