//! lora: y = x weight^T with an update of low rank.

use std::rc::Rc;

use engine::ops::lora::{Blocks, Module, Update, lora_linear};

use super::{Case, Output};

const SCALING: f64 = 1.75;

/// A weight of modules of so many rows; those whose rows are negative have no update.
#[derive(Clone)]
pub struct Lora {
    pub n: usize,
    pub i: usize,
    pub rank: usize,
    pub modules: &'static [isize],
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
            name: format!("lora of N {n}, I {i}, R {rank}, modules {:?}", self.modules),
            inputs: vec![vec![n, i]],
            params: vec![vec![o, i], vec![m * rank, i], vec![p, rank]],
            amplitude: 1.0,
            terms: (n + i).max(o + m * rank),
            run: Box::new(move |tape, x, params| {
                let [weight, a, b] = params else { panic!("three parameters") };
                let blocks = Rc::new(Blocks::new(tape.device(), &self.modules())?);
                let update = Update { a: a.clone(), b: b.clone(), blocks, scaling: SCALING };
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
            let (mut o, mut p, mut m) = (0, 0, 0);
            for module in self.modules() {
                for _ in 0..module.rows {
                    let mut value = dot(x, &weight[o * i..][..i]);
                    if module.is_updated {
                        let h: Vec<f64> = (0..rank).map(|r| dot(x, &a[(m * rank + r) * i..][..i])).collect();
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
    let of = |n, i, rank, modules| Lora { n, i, rank, modules }.case();
    vec![of(1, 1, 1, &[1]), of(5, 7, 2, &[3]), of(3, 5, 4, &[4, 2, 2]), of(2, 6, 3, &[5, -2, 1])]
}

/// With products that are split over threads, of widths that are whole numbers of 16 bytes.
pub fn cases() -> Vec<Case> {
    let large = Lora { n: 203, i: 112, rank: 8, modules: &[64, 16, 16] };
    small().into_iter().chain([large.case(), Lora { n: 113, i: 17, rank: 5, modules: &[-3, 129] }.case()]).collect()
}
