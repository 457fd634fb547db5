//! attention by its formula: plain loops in f64 that round what an implementation of matrix products would store.
//!
//! It is the yardstick of the bf16 kernels: p, o and ds go through memory or through tensor cores in bf16 there, which
//! the rounding of the outputs alone does not account for. Without rounding it is the CPU op.

use engine::batch::mask::AttentionMask;

/// H, K, Dh.
pub type Heads = (usize, usize, usize);

/// q, k, v, d_o
pub type Inputs = [Vec<f64>; 4];

/// o, dq, dk, dv, with p, o, ds and the results rounded by `round`.
pub fn formula(
    mask: &AttentionMask,
    (h, kv, dim): Heads,
    scale: f64,
    inputs: &Inputs,
    round: &dyn Fn(f64) -> f64,
) -> [Vec<f64>; 4] {
    let [q, k, v, d_o] = inputs;
    let mut o = vec![0.0; q.len()];
    let (mut dq, mut dk, mut dv) = (o.clone(), vec![0.0; k.len()], vec![0.0; v.len()]);
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let add = |to: &mut [f64], weight: f64, x: &[f64]| to.iter_mut().zip(x).for_each(|(to, x)| *to += weight * x);
    for row in 0..mask.num_queries() {
        let keys: Vec<usize> = (0..mask.num_slots()).filter(|&j| mask.sees(row, j)).collect();
        for head in 0..h {
            let own = (row * h + head) * dim..(row * h + head + 1) * dim;
            let at = |j: usize| (j * kv + head * kv / h) * dim..(j * kv + head * kv / h + 1) * dim;
            let scores: Vec<f64> = keys.iter().map(|&j| scale * dot(&q[own.clone()], &k[at(j)])).collect();
            let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = scores.iter().map(|s| (s - max).exp()).sum();
            let p: Vec<f64> = scores.iter().map(|s| (s - max).exp() / sum).collect();
            keys.iter().zip(&p).for_each(|(&j, &p)| add(&mut o[own.clone()], round(p), &v[at(j)]));
            o[own.clone()].iter_mut().for_each(|x| *x = round(*x));
            let slope = &d_o[own.clone()];
            let delta = dot(slope, &o[own.clone()]);
            for (&j, &p) in keys.iter().zip(&p) {
                let ds = round(p * (dot(slope, &v[at(j)]) - delta));
                add(&mut dv[at(j)], round(p), slope);
                add(&mut dq[own.clone()], scale * ds, &k[at(j)]);
                add(&mut dk[at(j)], scale * ds, &q[own.clone()]);
            }
        }
    }
    let results = [o, dq, dk, dv];
    results.map(|x| x.into_iter().map(round).collect())
}
