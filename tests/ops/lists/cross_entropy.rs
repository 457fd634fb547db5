//! cross_entropy: the head fused with the loss.

use engine::batch::tree::Target;
use engine::ops::cross_entropy::{Objective, linear_cross_entropy};
use engine::ops::results::LossSums;
use rand::RngExt;

use super::trees::tutorial_tree;
use super::{Case, Output, rng};

/// What the loss is divided by.
pub const DIVISOR: f64 = 7.5;

/// hidden (N, D), weight (V, D).
#[derive(Clone)]
pub struct CrossEntropy {
    pub n: usize,
    pub v: usize,
    pub d: usize,
    pub targets: Vec<Target>,
    /// Label smoothing.
    pub smoothing: f64,
}

/// About two thirds of the rows are scored, by up to three ids each, of weights up to 4.
fn targets(n: usize, v: usize) -> Vec<Target> {
    let mut rng = rng(21);
    let mut targets = Vec::new();
    for row in 0..n as u32 {
        let ids = if row == 0 { 1 } else { [0, 1, 3][rng.random_range(0..3)].min(v) };
        let first = rng.random_range(0..v);
        for i in 0..ids {
            let id = ((first + i * (v / 3).max(1)) % v) as u32;
            targets.push(Target { row, id, weight: rng.random_range(1..5) as f32 });
        }
    }
    targets
}

/// The sums, and the gradients of hidden and of weight.
pub struct Expected {
    pub sums: LossSums,
    pub gradients: [Vec<f64>; 2],
}

impl CrossEntropy {
    pub fn new(n: usize, v: usize, d: usize) -> Self {
        Self { n, v, d, targets: targets(n, v), smoothing: 0.0 }
    }

    pub fn case(self) -> Case {
        let Self { n, v, d, smoothing, .. } = self;
        let same = self.clone();
        Case {
            name: format!("cross_entropy of N {n}, V {v}, D {d}, smoothed by {smoothing}"),
            inputs: vec![vec![n, d]],
            params: vec![vec![v, d]],
            amplitude: 1.0,
            // dhidden sums V terms, dweight N.
            terms: v.max(n),
            run: Box::new(move |tape, x, params| {
                let sums = linear_cross_entropy(tape, &x[0], &params[0], &self.targets, self.objective())?;
                Ok(Output::Loss(sums.loss / DIVISOR))
            }),
            formula: Box::new(move |x, params| vec![vec![same.formula(&x[0], &params[0], &|x| x).sums.loss / DIVISOR]]),
        }
    }

    pub fn objective(&self) -> Objective {
        Objective { divisor: DIVISOR, label_smoothing: self.smoothing }
    }

    /// By definition. Logits, their gradients and dhidden are rounded by `round`, as they are stored.
    pub fn formula(&self, hidden: &[f64], weight: &[f64], round: &dyn Fn(f64) -> f64) -> Expected {
        let d = self.d;
        let (mut sums, mut dhidden, mut dweight) =
            (LossSums::default(), vec![0.0; hidden.len()], vec![0.0; weight.len()]);
        for targets in self.targets.chunk_by(|a, b| a.row == b.row) {
            let row = targets[0].row as usize * d..(targets[0].row as usize + 1) * d;
            let h = &hidden[row.clone()];
            let z = weight.chunks(d).map(|w| round(h.iter().zip(w).map(|(h, w)| h * w).sum())).collect();
            let (of_row, dz) = row_loss(z, targets, 1.0 / DIVISOR, self.smoothing);
            sums += of_row;
            for (i, dz) in dz.into_iter().map(round).enumerate() {
                dhidden[row.clone()].iter_mut().zip(&weight[i * d..]).for_each(|(sum, w)| *sum += dz * w);
                dweight[i * d..][..d].iter_mut().zip(h).for_each(|(sum, h)| *sum += dz * h);
            }
        }
        dhidden.iter_mut().for_each(|x| *x = round(*x));
        Expected { sums, gradients: [dhidden, dweight] }
    }
}

/// The sums of one row of logits, and the gradient of `scale` times its loss: the cross-entropy with a distribution that gives
/// 1 - smoothing to the target and the rest to all alike.
pub fn row_loss(z: Vec<f64>, targets: &[Target], scale: f64, smoothing: f64) -> (LossSums, Vec<f64>) {
    let max = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let lse = max + z.iter().map(|z| (z - max).exp()).sum::<f64>().ln();
    let p: Vec<f64> = z.iter().map(|z| (z - lse).exp()).collect();
    // A masked logit has no part in it: the limit of p log p is 0.
    let entropy: f64 = z.iter().zip(&p).filter(|(_, p)| **p > 0.0).map(|(z, p)| p * (lse - z)).sum();
    let largest = z.iter().position(|&z| z == max);
    let (mut sums, mut dz) = (LossSums::default(), vec![0.0; z.len()]);
    for t in targets {
        let (id, w) = (t.id as usize, f64::from(t.weight));
        sums.loss += w * (1.0 - smoothing) * (lse - z[id]);
        if smoothing > 0.0 {
            let share = smoothing / z.len() as f64;
            sums.loss += w * share * z.iter().map(|z| lse - z).sum::<f64>();
            dz.iter_mut().for_each(|dz| *dz -= w * scale * share);
        }
        sums.entropy += w * entropy;
        sums.correct += if largest == Some(id) { w } else { 0.0 };
        sums.scored += w;
        dz[id] -= w * scale * (1.0 - smoothing);
    }
    dz.iter_mut().zip(&p).for_each(|(dz, p)| *dz += sums.scored * scale * p);
    (sums, dz)
}

/// V 512 and 8 take the paths of 16 bytes; 1025 and more are more than one block of the host's, 4099 more than one batch of
/// vectors of a thread.
pub fn all() -> Vec<CrossEntropy> {
    let shapes = [
        (1, 1, 1),
        (1, 257, 2),
        (2, 5, 17),
        (5, 17, 3),
        (17, 257, 5),
        (17, 512, 3),
        (113, 19, 2),
        (203, 8, 3),
        (3, 4099, 1),
        (5, 4099, 3),
        (33, 1025, 17),
    ];
    // What f32 holds exactly: it is given to launchers in f32.
    let smoothed = [(5, 17, 3, 0.125), (17, 512, 3, 0.5), (2, 4099, 1, 0.875)];
    let smoothed = smoothed.map(|(n, v, d, smoothing)| CrossEntropy { smoothing, ..CrossEntropy::new(n, v, d) });
    shapes.into_iter().map(|(n, v, d)| CrossEntropy::new(n, v, d)).chain(smoothed).collect()
}

/// The vocabulary of Gemma 3, and the targets of the tutorial's batch.
pub fn model_case() -> CrossEntropy {
    let tree = tutorial_tree();
    CrossEntropy { n: tree.len(), v: 262_144, d: 640, targets: tree.targets, smoothing: 0.0 }
}
