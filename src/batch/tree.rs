//! A batch as a token tree: the prefix tree of its examples in depth-first order, each distinct prefix once.
//!
//! Under causal attention a shared prefix has the same hidden states in every row, so computing it once is exact. The
//! whole attention mask is `j <= i && i < end[j] && position[i] - position[j] < window` over *slots* (indices of the
//! layout): a subtree is a contiguous range of slots, and a token is seen from within its own subtree only. In training
//! slots are rows. For generation each prompt's last token is followed by free slots ([`TokenTree::with_reserve`]), so
//! that the tokens generated later fall into the right subtree and the same mask holds.

use crate::batch::Example;

/// What is to be predicted at a row of the batch, and how many examples share it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Target {
    pub row: u32,
    pub id: u32,
    pub weight: f32,
}

/// The rows that a forward computes: some tokens of a tree, or the next ones of prompts that are being continued.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    /// (N)
    pub ids: &'a [u32],
    /// (N), ascending
    pub slots: &'a [u32],
    /// (N)
    pub positions: &'a [u32],
}

/// Tokens in depth-first order of their prefix tree.
#[derive(Clone, Debug, Default)]
pub struct TokenTree {
    /// Token ids (N).
    pub ids: Vec<u32>,
    /// Depth in the tree (N).
    pub positions: Vec<u32>,
    /// Slot of each row (N), ascending; the row's own number when nothing is reserved.
    pub slots: Vec<u32>,
    /// Per slot: one past the last slot of its subtree (S); 0 for a slot that holds nothing yet.
    pub end: Vec<u32>,
    /// Per slot: position (S); meaningless where `end` is 0.
    pub slot_positions: Vec<u32>,
    /// Targets sorted by row, then in order of first appearance.
    pub targets: Vec<Target>,
    /// Row of each example's last token, in the order of the examples.
    pub last_rows: Vec<u32>,
    /// First reserved slot of each example, in the order of the examples; empty when nothing is reserved.
    pub reserved: Vec<u32>,
    /// Free slots per example.
    pub reserve: usize,
    /// Tokens of all examples before sharing.
    pub num_tokens: usize,
}

/// A node of the prefix tree under construction; node 0 is the empty prefix.
#[derive(Default)]
struct Node {
    id: u32,
    children: Vec<usize>,
    targets: Vec<(u32, f32)>,
    /// Examples that end here.
    leaves: Vec<usize>,
}

impl TokenTree {
    /// The tree of a training or evaluation batch, with its targets.
    pub fn from_examples(examples: &[&Example]) -> Self {
        let rows: Vec<(&[u32], &[bool])> = examples.iter().map(|e| (&e.ids[..], &e.scored[..])).collect();
        Self::build(&rows, 0)
    }

    /// The tree of prompts, each followed by `reserve` free slots for the tokens to be generated.
    pub fn with_reserve(prompts: &[&[u32]], reserve: usize) -> Self {
        let rows: Vec<(&[u32], &[bool])> = prompts.iter().map(|ids| (*ids, &[][..])).collect();
        Self::build(&rows, reserve)
    }

    /// All rows of the tree.
    pub fn rows(&self) -> Rows<'_> {
        Rows { ids: &self.ids, slots: &self.slots, positions: &self.positions }
    }

    /// Number of rows N.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Number of scored tokens of the batch's examples: the divisor of its mean loss.
    pub fn num_scored(&self) -> f64 {
        self.targets.iter().map(|t| t.weight as f64).sum()
    }

    /// The same batch with rows of its own, scored by nobody and seen by nobody else, up to `rows` of them: every
    /// number that is summed over rows gets zeros from them. For training trees, whose rows are slots.
    pub fn padded(mut self, rows: usize) -> Self {
        let id = self.ids.first().copied().unwrap_or(0);
        for row in self.len()..rows {
            self.ids.push(id);
            self.positions.push(0);
            self.slots.push(row as u32);
            self.end.push(row as u32 + 1);
            self.slot_positions.push(0);
        }
        self
    }

    fn build(rows: &[(&[u32], &[bool])], reserve: usize) -> Self {
        let mut nodes = vec![Node::default()];
        for (example, (ids, scored)) in rows.iter().enumerate() {
            let mut at = 0;
            for (t, &id) in ids.iter().enumerate() {
                if t > 0 && scored.get(t).copied().unwrap_or(false) {
                    nodes[at].add_target(id);
                }
                // Few tokens have more than one successor in a batch: looking through them is faster than a hash.
                let known = nodes[at].children.iter().rev().copied().find(|&child| nodes[child].id == id);
                at = known.unwrap_or_else(|| {
                    let child = nodes.len();
                    nodes.push(Node { id, ..Node::default() });
                    nodes[at].children.push(child);
                    child
                });
            }
            nodes[at].leaves.push(example);
        }
        let mut tree = Self {
            last_rows: vec![0; rows.len()],
            reserved: if reserve > 0 { vec![0; rows.len()] } else { Vec::new() },
            reserve,
            num_tokens: rows.iter().map(|(ids, _)| ids.len()).sum(),
            ..Self::default()
        };
        tree.lay_out(&nodes, reserve);
        tree
    }

    /// Depth-first, without recursion: a node is visited on the way down and closed (its `end` set) on the way up.
    fn lay_out(&mut self, nodes: &[Node], reserve: usize) {
        enum Step {
            Open { node: usize, position: u32 },
            Close { slot: usize },
        }
        let mut stack: Vec<Step> =
            nodes[0].children.iter().rev().map(|&node| Step::Open { node, position: 0 }).collect();
        while let Some(step) = stack.pop() {
            match step {
                Step::Close { slot } => self.end[slot] = self.end.len() as u32,
                Step::Open { node, position } => {
                    stack.push(Step::Close { slot: self.end.len() });
                    self.open(&nodes[node], position, reserve);
                    stack.extend(
                        nodes[node].children.iter().rev().map(|&node| Step::Open { node, position: position + 1 }),
                    );
                }
            }
        }
    }

    /// Appends a node's row, its targets, and the free slots of the examples that end in it.
    fn open(&mut self, node: &Node, position: u32, reserve: usize) {
        let row = self.ids.len() as u32;
        self.ids.push(node.id);
        self.positions.push(position);
        self.slots.push(self.end.len() as u32);
        self.end.push(0);
        self.slot_positions.push(position);
        self.targets.extend(node.targets.iter().map(|&(id, weight)| Target { row, id, weight }));
        for &example in &node.leaves {
            self.last_rows[example] = row;
            if reserve > 0 {
                self.reserved[example] = self.end.len() as u32;
                self.end.resize(self.end.len() + reserve, 0);
                self.slot_positions.resize(self.end.len(), 0);
            }
        }
    }
}

impl Node {
    fn add_target(&mut self, id: u32) {
        match self.targets.iter_mut().find(|(known, _)| *known == id) {
            Some((_, weight)) => *weight += 1.0,
            None => self.targets.push((id, 1.0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example(ids: &[u32]) -> Example {
        Example { ids: ids.to_vec(), scored: vec![true; ids.len()], origin: "test:1".into() }
    }

    #[test]
    fn shared_prefixes_appear_once_in_depth_first_order() {
        let (a, b, c) = (example(&[2, 5, 6, 7]), example(&[2, 5, 8]), example(&[2, 5, 6, 9]));
        let tree = TokenTree::from_examples(&[&a, &b, &c]);
        assert_eq!(tree.ids, [2, 5, 6, 7, 9, 8]);
        assert_eq!(tree.positions, [0, 1, 2, 3, 3, 2]);
        assert_eq!(tree.end, [6, 6, 5, 4, 5, 6]);
        assert_eq!(tree.last_rows, [3, 5, 4]);
        assert_eq!(tree.num_tokens, 11);
        let targets: Vec<_> = tree.targets.iter().map(|t| (t.row, t.id, t.weight)).collect();
        assert_eq!(targets, [(0, 5, 3.0), (1, 6, 2.0), (1, 8, 1.0), (2, 7, 1.0), (2, 9, 1.0)]);
        assert_eq!(tree.num_scored(), 8.0);
    }

    #[test]
    fn every_example_sees_exactly_its_own_prefix() {
        let rows: Vec<Example> =
            [&[2u32, 3, 4, 5][..], &[2, 3], &[2, 3, 4, 5], &[7], &[2, 3, 9, 9, 9]].iter().map(|r| example(r)).collect();
        let tree = TokenTree::from_examples(&rows.iter().collect::<Vec<_>>());
        for (row, &last) in rows.iter().zip(&tree.last_rows) {
            let seen: Vec<u32> = (0..=last as usize).filter(|&j| last < tree.end[j]).map(|j| tree.ids[j]).collect();
            assert_eq!(seen, row.ids);
        }
    }

    #[test]
    fn reserved_slots_lie_inside_the_subtree_of_their_prompt_only() {
        let prompts: [&[u32]; 3] = [&[2, 5, 6], &[2, 5], &[2, 5, 6]];
        let tree = TokenTree::with_reserve(&prompts, 4);
        for (prompt, &first) in prompts.iter().zip(&tree.reserved) {
            let i = first + 2;
            let seen: Vec<u32> = tree
                .slots
                .iter()
                .zip(&tree.ids)
                .filter(|&(&j, _)| j <= i && i < tree.end[j as usize])
                .map(|(_, &id)| id)
                .collect();
            assert_eq!(seen, *prompt);
        }
        assert_eq!(tree.end.len(), 3 + 3 * 4);
    }
}
