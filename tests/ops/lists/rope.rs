//! rope: q and k normed per head and rotated by their positions, v copied.

use std::rc::Rc;

use engine::autograd::{Param, Tape};
use engine::batch::inputs::{DeviceArray, Inputs};
use engine::error::Result;
use engine::ops::rope::{Heads, NormRope, Rotation, RotationTable, qkv_norm_rope};

use super::trees::{Shape, tree, tutorial_tree};
use super::{Case, Output, rmsnorm};

/// rope of rows at some positions.
#[derive(Clone)]
pub struct Rope {
    pub positions: Vec<u32>,
    pub heads: Heads,
    pub theta: f64,
    pub eps: f64,
}

impl Rope {
    /// Elements of a row of qkv.
    pub fn width(&self) -> usize {
        (self.heads.query + 2 * self.heads.kv) * self.heads.dim
    }

    /// What the op reads on a tape's device, and an array of it that holds `slots`.
    pub fn how(&self, tape: &Tape, params: &[Param], slots: &[u32]) -> Result<(NormRope, DeviceArray)> {
        let (dtype, inputs) = (params[0].value.dtype(), Inputs::new(tape.device(), false));
        let length = self.positions.iter().max().map_or(1, |&p| p as usize + 1);
        let table = RotationTable::new(tape.device(), length, self.heads.dim, self.theta, dtype)?;
        let [positions, slots] = [&self.positions[..], slots].map(|array| inputs.push(array, array.len(), 0));
        inputs.send()?;
        let (q_norm, k_norm, heads, eps) = (params[0].clone(), params[1].clone(), self.heads, self.eps);
        let rotation: Rc<Rotation> = Rc::new(table.at(positions, length));
        Ok((NormRope { q_norm, k_norm, rotation, heads, eps }, slots))
    }

    pub fn case(self) -> Case {
        let (n, width, Heads { query: h, kv, dim }) = (self.positions.len(), self.width(), self.heads);
        let deepest = self.positions.iter().max().copied().unwrap_or(0);
        let same = self.clone();
        Case {
            name: format!("rope of N {n}, H {h}, K {kv}, Dh {dim}, positions to {deepest}, theta {}", self.theta),
            inputs: vec![vec![n, width]],
            params: vec![vec![dim], vec![dim]],
            amplitude: 1.5,
            terms: dim.max(n * h),
            run: Box::new(move |tape, x, params| {
                let (how, _) = self.how(tape, params, &[])?;
                let out = qkv_norm_rope(tape, &x[0], &how)?;
                Ok(Output::Vars(vec![out.q, out.k, out.v]))
            }),
            formula: Box::new(move |x, params| same.formula(&x[0], [&params[0], &params[1]])),
        }
    }

    /// q, k and v.
    fn formula(&self, qkv: &[f64], [q_norm, k_norm]: [&[f64]; 2]) -> Vec<Vec<f64>> {
        let (width, Heads { query, kv, dim }) = (self.width(), self.heads);
        let rows = || qkv.chunks(width).zip(&self.positions);
        let part = |first: usize, heads: usize, norm: &[f64]| -> Vec<f64> {
            let row = |(row, &position): (&[f64], &u32)| -> Vec<f64> {
                let heads = row[first * dim..][..heads * dim].chunks(dim);
                heads.flat_map(|x| rotate(&rmsnorm::formula(x, norm, self.eps), position, self.theta)).collect()
            };
            rows().flat_map(row).collect()
        };
        let v = rows().flat_map(|(row, _)| row[(query + kv) * dim..].to_vec()).collect();
        vec![part(0, query, q_norm), part(query, kv, k_norm), v]
    }
}

/// The rotation by definition: angles `position / theta^(2i / Dh)` rounded to f32, as the op's contract says.
fn rotate(u: &[f64], position: u32, theta: f64) -> Vec<f64> {
    let half = u.len() / 2;
    let angle = |i: usize| {
        let frequency = (1.0 / theta.powf(2.0 * i as f64 / u.len() as f64)) as f32;
        f64::from(position as f32 * frequency)
    };
    let low = (0..half).map(|i| u[i] * angle(i).cos() - u[i + half] * angle(i).sin());
    let high = (0..half).map(|i| u[i + half] * angle(i).cos() + u[i] * angle(i).sin());
    low.chain(high).collect()
}

/// Where the rows of a case lie.
enum At {
    /// In a tree.
    Tree,
    /// In no order, some at the same position.
    Scattered,
    /// Beyond what bf16 tells apart, and beyond every context.
    Deep,
}

fn positions(at: At, n: usize) -> Vec<u32> {
    match at {
        At::Tree => tree(Shape::Random(n as u64), n).positions,
        At::Scattered => (0..n as u32).map(|i| (i * 7 + 3) % 60).collect(),
        At::Deep => (0..n as u32).map(|i| 255 + i * 577 % 5000).collect(),
    }
}

pub fn all() -> Vec<Rope> {
    // 16, 32 and 256 take the paths of 16 bytes in both types (in f32 also 64); 4 on 1 of 256 are the model's own. 113 rows
    // and more are more than one task, and more than one partial sum. A large eps shows where it is left out.
    let cases = [
        (1, (1, 1, 2), At::Tree, 1e4, 0.5),
        (2, (4, 1, 4), At::Tree, 1e6, 1e-6),
        (2, (4, 1, 256), At::Deep, 1e4, 0.5),
        (5, (4, 2, 6), At::Scattered, 1e4, 1e-6),
        (17, (4, 4, 2), At::Tree, 100.0, 0.01),
        (17, (3, 1, 16), At::Deep, 1e6, 0.5),
        (113, (4, 2, 10), At::Scattered, 1e4, 1e-6),
        (113, (4, 2, 64), At::Tree, 1e6, 0.01),
        (203, (2, 1, 32), At::Scattered, 1e4, 0.01),
    ];
    let rope = |(n, (query, kv, dim), at, theta, eps)| {
        let heads = Heads { query, kv, dim };
        Rope { positions: positions(at, n), heads, theta, eps }
    };
    cases.map(rope).into()
}

pub fn cases() -> Vec<Case> {
    all().into_iter().map(Rope::case).collect()
}

/// The heads of FunctionGemma at the tutorial's batch.
pub fn model_case() -> Rope {
    let heads = Heads { query: 4, kv: 1, dim: 256 };
    Rope { positions: tutorial_tree().positions, heads, theta: 1e4, eps: 1e-6 }
}
