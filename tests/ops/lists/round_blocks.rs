//! round_blocks: parameters in several formats.

use engine::autograd::ParamSpec;
use engine::io::gguf_type::GgufType;
use engine::model::gemma3::table::{GGUF_EMBEDDING, ParamKind, Parameter};

/// Parameters and the type of the file that they are rounded to.
#[derive(Debug)]
pub struct Case {
    pub kind: GgufType,
    pub parameters: Vec<Parameter>,
}

impl Case {
    /// `shapes`: matrices and norms; the first is the embedding.
    fn new(kind: GgufType, shapes: &[&[usize]]) -> Self {
        let parameter = |(i, shape): (usize, &&[usize])| Parameter {
            spec: ParamSpec::new(format!("p{i}"), shape),
            gguf_name: if i == 0 { GGUF_EMBEDDING.into() } else { format!("p{i}") },
            kind: if shape.len() == 1 { ParamKind::Norm } else { ParamKind::Matrix },
            trainable: true,
        };
        Self { kind, parameters: shapes.iter().enumerate().map(parameter).collect() }
    }

    pub fn specs(&self) -> Vec<ParamSpec> {
        self.parameters.iter().map(|parameter| parameter.spec.clone()).collect()
    }

    pub fn len(&self) -> usize {
        self.parameters.iter().map(|parameter| parameter.spec.len()).sum()
    }
}

/// One format and several, norms that are no whole blocks, more than a block of threads and than a task of the host.
pub fn cases() -> Vec<Case> {
    let mixed: &[&[usize]] = &[&[5, 64], &[17], &[3, 96], &[2, 32], &[40], &[1, 32], &[1]];
    vec![
        Case::new(GgufType::Q4_0, mixed),
        Case::new(GgufType::Q8_0, mixed),
        Case::new(GgufType::Q4_0, &[&[1, 32]]),
        Case::new(GgufType::Q4_0, &[&[3, 640], &[130, 640], &[33], &[7, 32]]),
    ]
}

/// A layer of the model: a tenth of its weights' bytes would fit a cache.
pub fn model_case() -> Case {
    Case::new(GgufType::Q4_0, &[&[32, 640], &[640], &[1536, 640], &[640, 1024], &[4096, 640], &[640, 2048]])
}
