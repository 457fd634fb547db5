//! Token trees of every shape, and what a token sees by definition.

use engine::batch::Example;
use engine::batch::tree::TokenTree;
use rand::RngExt;

use super::rng;

/// Shapes of a batch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Shape {
    /// One row.
    Row,
    /// Rows of about this length that share nothing.
    Rows(usize),
    /// A spine with a leaf at every depth.
    Comb,
    /// Every token continues a random one of the tokens before it.
    Random(u64),
}

/// The rows of a batch of this shape, whose tree has exactly `n` tokens.
pub fn rows(shape: Shape, n: usize) -> Vec<Vec<u32>> {
    let mut rng = match shape {
        Shape::Random(seed) => rng(seed),
        _ => rng(0),
    };
    let parent = |i: usize, rng: &mut rand_chacha::ChaCha8Rng| match shape {
        Shape::Row => i.checked_sub(1),
        Shape::Rows(length) => (!i.is_multiple_of(length)).then(|| i - 1),
        Shape::Comb => (i > 0).then(|| (i - 1) / 2 * 2),
        // Mostly the token before, so that the tree is deep as well as wide.
        Shape::Random(_) if rng.random::<f64>() < 0.8 => i.checked_sub(1),
        Shape::Random(_) => (i > 0).then(|| rng.random_range(0..i)),
    };
    let parents: Vec<Option<usize>> = (0..n).map(|i| parent(i, &mut rng)).collect();
    let leaves = (0..n).filter(|i| !parents.contains(&Some(*i)));
    leaves.map(|leaf| path(&parents, leaf)).collect()
}

/// From the root to a token; a token's id is its number.
fn path(parents: &[Option<usize>], leaf: usize) -> Vec<u32> {
    let mut path: Vec<u32> = std::iter::successors(Some(leaf), |&i| parents[i]).map(|i| i as u32).collect();
    path.reverse();
    path
}

/// The tree of rows, nothing scored.
pub fn tree_of(rows: &[Vec<u32>]) -> TokenTree {
    let example = |ids: &Vec<u32>| Example { ids: ids.clone(), scored: vec![false; ids.len()], origin: String::new() };
    let examples: Vec<Example> = rows.iter().map(example).collect();
    TokenTree::from_examples(&examples.iter().collect::<Vec<_>>())
}

/// The tree of [`rows`].
pub fn tree(shape: Shape, n: usize) -> TokenTree {
    let tree = tree_of(&rows(shape, n));
    assert_eq!(tree.len(), n);
    tree
}

/// Prompts that share `shared` tokens and go on alone for `own` of them each, with `made[example]` generated tokens in
/// the 20 slots reserved.
pub fn decoding_tree(shared: u32, own: &[u32], made: &[usize]) -> TokenTree {
    let prompt = |(example, &own): (usize, &u32)| -> Vec<u32> {
        (0..shared).chain((0..own).map(|t| 1000 * (1 + example as u32) + t)).collect()
    };
    let prompts: Vec<Vec<u32>> = own.iter().enumerate().map(prompt).collect();
    let mut tree = TokenTree::with_reserve(&prompts.iter().map(|p| &p[..]).collect::<Vec<_>>(), 20);
    for (example, &made) in made.iter().enumerate() {
        for index in 0..made {
            fill_reserved(&mut tree, example, index, (prompts[example].len() + index) as u32);
        }
    }
    tree
}

/// The batch of the tutorial's size: four rows that share a prompt of 142 tokens and go on for 32 each, which are scored.
pub fn tutorial_tree() -> TokenTree {
    let row = |r: u32| (0..174).map(|t| if t < 142 { t } else { 1000 * (r + 1) + t }).collect::<Vec<u32>>();
    let example = |r| Example { ids: row(r), scored: (0..174).map(|t| t >= 142).collect(), origin: String::new() };
    let examples: Vec<Example> = (0..4).map(example).collect();
    TokenTree::from_examples(&examples.iter().collect::<Vec<_>>())
}

/// Puts a token at `position` into free slot `index` of an example's reserve, as generation does.
pub fn fill_reserved(tree: &mut TokenTree, example: usize, index: usize, position: u32) {
    let (first, slot) = (tree.reserved[example], tree.reserved[example] as usize + index);
    tree.end[slot] = first + tree.reserve as u32;
    tree.slot_positions[slot] = position;
}
