//! lora: y = x weight^T with an update of low rank.

use std::rc::Rc;

use engine::batch::inputs::Inputs;
use engine::ops::dropout::Dropout;
use engine::ops::lora::{Blocks, Module, Update, lora_linear};

use super::dropout::keeps;
use super::{Case, Output};

const SCALING: f64 = 1.75;
const KEY: [u32; 2] = [11, 12];
const PRODUCT: u32 = 13;

/// A weight of modules of so many rows; those whose rows are negative have no update.
#[derive(Clone)]
pub struct Lora {
    pub n: usize,
    pub i: usize,
    pub rank: usize,
    pub modules: &'static [isize],
    /// The part of x that the update does not see.
    pub p: f64,
}

impl Lora {
    fn modules(&self) -> Vec<Module> {
        self.modules.iter().map(|rows| Module { rows: rows.unsigned_abs(), is_updated: *rows > 0 }).collect()
    }

    /// x (N, I); weight (O, I), a (M * R, I), b (P, R).
    pub fn case(self) -> Case {
        let Self { n, i, rank, .. } = self;
        let (modules, same) = (self.modules(), self.clone());
        let o: usize = modules.iter().map(|module| module.rows).sum();
        let updated = || modules.iter().filter(|module| module.is_updated);
        let (m, p) = (updated().count(), updated().map(|module| module.rows).sum());
        Case {
            name: format!("lora of N {n}, I {i}, R {rank}, modules {:?}, dropout {}", self.modules, self.p),
            inputs: vec![vec![n, i]],
            params: vec![vec![o, i], vec![m * rank, i], vec![p, rank]],
            amplitude: 1.0,
            terms: (n + i).max(o + m * rank),
            run: Box::new(move |tape, x, params| {
                let [weight, a, b] = params else { panic!("three parameters") };
                let blocks = Rc::new(Blocks::new(tape.device(), &self.modules())?);
                let inputs = Inputs::new(tape.device(), false);
                let dropout = Dropout { key: inputs.push(&KEY, 2, 0), product: PRODUCT, p: self.p };
                inputs.send()?;
                let dropout = Some(dropout).filter(|dropout| dropout.p > 0.0);
                let update = Update { a: a.clone(), b: b.clone(), blocks, scaling: SCALING, dropout };
                Ok(Output::Vars(vec![lora_linear(tape, &x[0], weight, &update)?]))
            }),
            formula: Box::new(move |x, params| vec![same.formula(&x[0], params)]),
        }
    }

    fn formula(&self, x: &[f64], params: &[Vec<f64>]) -> Vec<f64> {
        let [weight, a, b] = params else { panic!("three parameters") };
        let Self { n, i, rank, .. } = *self;
        let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
        let mut y = Vec::new();
        for row in 0..n {
            let x = &x[row * i..][..i];
            let kept = |k: &usize| keeps(KEY, PRODUCT, (row * i + k) as u64, self.p);
            let left: Vec<f64> = (0..i).map(|k| if kept(&k) { x[k] / (1.0 - self.p) } else { 0.0 }).collect();
            let (mut o, mut p, mut m) = (0, 0, 0);
            for module in self.modules() {
                for _ in 0..module.rows {
                    let mut value = dot(x, &weight[o * i..][..i]);
                    if module.is_updated {
                        let h: Vec<f64> = (0..rank).map(|r| dot(&left, &a[(m * rank + r) * i..][..i])).collect();
                        value += SCALING * dot(&h, &b[p * rank..][..rank]);
                        p += 1;
                    }
                    y.push(value);
                    o += 1;
                }
                m += usize::from(module.is_updated);
            }
        }
        y
    }
}

pub fn small() -> Vec<Case> {
    let of = |n, i, rank, modules, p| Lora { n, i, rank, modules, p }.case();
    vec![
        of(1, 1, 1, &[1], 0.0),
        of(5, 7, 2, &[3], 0.0),
        of(3, 5, 4, &[4, 2, 2], 0.0),
        of(2, 6, 3, &[5, -2, 1], 0.0),
        of(5, 7, 2, &[3, 2], 0.25),
        of(3, 5, 2, &[-2, 4], 0.75),
    ]
}

/// With products that are split over threads, of widths that are whole numbers of 16 bytes.
pub fn cases() -> Vec<Case> {
    let large = Lora { n: 203, i: 112, rank: 8, modules: &[64, 16, 16], p: 0.0 };
    small()
        .into_iter()
        .chain([large.case(), Lora { n: 113, i: 17, rank: 5, modules: &[-3, 129], p: 0.1 }.case()])
        .collect()
}
