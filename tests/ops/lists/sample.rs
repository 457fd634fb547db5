//! sample: rows of logits, and how to draw.

use engine::ops::sample::Draw;

/// R rows of V logits.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    pub rows: usize,
    pub vocabulary: usize,
    pub draw: Draw,
}

/// Four rows of the model's vocabulary, drawn as its generation_config.json says.
pub fn model_case() -> Case {
    Case { rows: 4, vocabulary: 262_144, draw: Draw { temperature: 1.0, top_k: 64, top_p: 0.95 } }
}

/// No limits; top-k alone, in shared memory and beyond it; top-p alone; both; more than there are.
pub fn cases() -> Vec<Case> {
    let limits = [(0, 1.0), (1, 1.0), (40, 1.0), (1500, 1.0), (0, 0.7), (64, 0.9), (1025, 0.5), (9000, 0.99)];
    let draws = limits.into_iter().zip([1.0, 0.4, 3.0].into_iter().cycle());
    let draws = draws.map(|((top_k, top_p), temperature)| Draw { temperature, top_k, top_p });
    let of = |vocabulary| draws.clone().map(move |draw| Case { rows: 3, vocabulary, draw });
    [5, 257, 4099].into_iter().flat_map(of).collect()
}
