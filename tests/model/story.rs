//! A decoder's life, for comparisons: prompts of several lengths that come, stop, are added to and go.

use engine::generate::{Chosen, Decoder, Sampling, Sequence};
use engine::model::gemma3::Gemma3;

/// The tokens of a decoder in 10 steps: there are 3 sequences, then 4, 2, 1, and 3 again. Some stop.
pub fn story(model: &Gemma3, graphs: bool) -> Vec<Chosen> {
    let mut decoder = decoder(model, None, graphs);
    decoder.admit(&[&[2, 7, 9, 4, 30, 11, 7, 7, 3], &[2, 7, 9], &[13]], 20).unwrap();
    let mut chosen = Vec::new();
    for step in 0..10 {
        match step {
            3 => drop(decoder.admit(&[&[2, 7, 9, 4, 11, 5]], 8).unwrap()),
            4 => {
                decoder.append(Sequence(0), &[5, 6, 7]).unwrap();
                decoder.evict(Sequence(1)).unwrap();
            }
            5 => [2, 3].into_iter().for_each(|number| decoder.evict(Sequence(number)).unwrap()),
            // Slots that others have had.
            8 => drop(decoder.admit(&[&[2, 7, 9, 4], &[14]], 5).unwrap()),
            _ => {}
        }
        chosen.extend(decoder.step().unwrap());
    }
    chosen
}

/// Tokens that are drawn.
pub fn drawn(model: &Gemma3, graphs: bool) -> Vec<Chosen> {
    let sampling = Sampling { temperature: 1.5, top_k: 0, top_p: 1.0, seed: 5 };
    let mut decoder = decoder(model, Some(sampling), graphs);
    decoder.admit(&[&[2, 7, 9]], 20).unwrap();
    (0..6).flat_map(|_| decoder.step().unwrap()).collect()
}

fn decoder(model: &Gemma3, sampling: Option<Sampling>, graphs: bool) -> Decoder<'_> {
    let decoder = Decoder::new(model, 90, &[1, 5], sampling).unwrap();
    if graphs { decoder } else { decoder.without_graphs() }
}
