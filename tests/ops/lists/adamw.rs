//! adamw: groups of parameters, of which every other one decays.

use engine::autograd::ParamSpec;

/// Lengths of the groups: matrices that decay around norms that do not.
#[derive(Clone, Debug)]
pub struct Case {
    pub lengths: Vec<usize>,
}

impl Case {
    /// Number of parameters.
    pub fn len(&self) -> usize {
        self.lengths.iter().sum()
    }

    /// A parameter per group.
    pub fn specs(&self) -> Vec<ParamSpec> {
        let groups = self.lengths.iter().enumerate();
        groups.map(|(g, &n)| ParamSpec { name: format!("p{g}"), shape: vec![n], decay: g % 2 == 0 }).collect()
    }
}

/// Three of the model's 18 layers, matrices and norms.
pub fn model_case() -> Case {
    let matrices = [(1536 + 1024) * 640, 3 * 2048 * 640];
    let norms = [2 * 256, 4 * 640];
    let layer = matrices.into_iter().zip(norms).flat_map(|(matrix, norm)| [matrix, norm]);
    Case { lengths: std::iter::repeat_n(layer, 3).flatten().collect() }
}

/// Groups end within a vector of four; one is empty; one is beyond the host's block of 65,536.
pub fn cases() -> Vec<Case> {
    let lengths = [
        vec![1],
        vec![3, 2],
        vec![17, 113, 1, 1, 1, 0, 203],
        vec![4096, 8, 40],
        vec![5000, 257],
        vec![15, 17, 66_563, 1],
    ];
    lengths.map(|lengths| Case { lengths }).into()
}
