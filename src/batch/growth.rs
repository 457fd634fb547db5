//! How many tokens the tree of a batch has, counted while it is being filled, without building it.

use std::collections::BTreeSet;

/// The rows of a tree that grows.
#[derive(Clone, Debug, Default)]
pub struct Growth<'a> {
    rows: BTreeSet<&'a [u32]>,
    tokens: usize,
}

impl<'a> Growth<'a> {
    /// Of the tree of these rows.
    pub fn of(rows: impl IntoIterator<Item = &'a [u32]>) -> Self {
        let mut growth = Self::default();
        rows.into_iter().for_each(|ids| growth.add(ids));
        growth
    }

    /// Distinct tokens: the rows N of the tree.
    pub fn len(&self) -> usize {
        self.tokens
    }

    pub fn is_empty(&self) -> bool {
        self.tokens == 0
    }

    /// Tokens that a row would add: those behind the longest beginning that it shares with another. In the order of the ids
    /// the row that shares most is a neighbour.
    pub fn added_by(&self, ids: &[u32]) -> usize {
        let neighbours = [self.rows.range(..=ids).next_back(), self.rows.range(ids..).next()];
        let shared = neighbours.into_iter().flatten().map(|row| common_prefix(row, ids)).max();
        ids.len() - shared.unwrap_or(0)
    }

    pub fn add(&mut self, ids: &'a [u32]) {
        self.tokens += self.added_by(ids);
        self.rows.insert(ids);
    }
}

/// How many first items of two sequences are the same.
pub fn common_prefix<T: PartialEq>(a: &[T], b: &[T]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::Example;
    use crate::batch::tree::TokenTree;

    #[test]
    fn it_counts_what_the_tree_has() {
        let rows: [&[u32]; 8] =
            [&[2, 5, 6, 7], &[2, 5, 8], &[2, 5], &[2, 5, 6, 9], &[3], &[2, 5, 6, 7], &[2, 5, 7, 7], &[2, 4, 9]];
        let mut growth = Growth::default();
        for (i, ids) in rows.iter().enumerate() {
            growth.add(ids);
            let examples = rows[..=i].iter().map(|ids| Example {
                ids: ids.to_vec(),
                scored: vec![true; ids.len()],
                origin: String::new(),
            });
            let examples: Vec<Example> = examples.collect();
            assert_eq!(growth.len(), TokenTree::from_examples(&examples.iter().collect::<Vec<_>>()).len(), "{i}");
        }
    }
}
