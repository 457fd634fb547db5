//! Rows that begin alike, such as those that declare the same tools: the groups that `--group-by-prefix` makes batches of.
//!
//! In the order of their ids, rows that share a beginning stand together, and what they all share is the least that two neighbours
//! do. The intervals between neighbours that share less are the nodes of the rows' prefix tree. A node is one group, or what is below
//! it is split into groups: by which of the two saves more tokens.

use std::ops::Range;

use rayon::prelude::*;

use crate::batch::Example;
use crate::batch::growth::common_prefix;

/// Part of a node's tokens that splitting it must save: the smaller groups are, the less its rows are mixed.
const WORTH_SPLITTING: f64 = 0.05;

/// A node of the prefix tree whose rows are being passed.
struct Node {
    /// Tokens that its rows share.
    depth: usize,
    /// Its first row.
    start: usize,
    /// Tokens that the groups below it save.
    saved: usize,
    /// How many groups were there before those below it.
    groups_before: usize,
}

/// Groups of at least two rows that begin alike, as indices; rows in batches of `batch` are what tokens are saved by. The last one holds
/// the rows that are in no other, if there are any.
pub fn prefix_groups(rows: &[Example], batch: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..rows.len()).collect();
    // Equal rows by their number: the order is always the same.
    order.par_sort_by(|&a, &b| rows[a].ids.cmp(&rows[b].ids).then(a.cmp(&b)));
    let shared: Vec<usize> =
        order.par_windows(2).map(|pair| common_prefix(&rows[pair[0]].ids, &rows[pair[1]].ids)).collect();
    let lengths: Vec<usize> = order.iter().map(|&i| rows[i].ids.len()).collect();
    let ranges = ranges(&shared, &lengths, batch);
    let mut groups: Vec<Vec<usize>> = ranges.iter().map(|range| order[range.clone()].to_vec()).collect();
    let mut rest = Vec::new();
    let mut from = 0;
    for range in &ranges {
        rest.extend_from_slice(&order[from..range.start]);
        from = range.end;
    }
    rest.extend_from_slice(&order[from..]);
    groups.extend((!rest.is_empty()).then_some(rest));
    groups
}

/// The groups of sorted rows of these lengths, neighbours of which share so many tokens.
fn ranges(shared: &[usize], lengths: &[usize], batch: usize) -> Vec<Range<usize>> {
    let mut tokens_before = vec![0];
    tokens_before.extend(lengths.iter().scan(0, |sum, length| {
        *sum += length;
        Some(*sum)
    }));
    let mut groups: Vec<Range<usize>> = Vec::new();
    let mut open = vec![Node { depth: 0, start: 0, saved: 0, groups_before: 0 }];
    // Behind the last row nothing is shared; the root stays open.
    for (row, &depth) in shared.iter().chain([&0]).enumerate() {
        // At first the row itself.
        let mut below = Node { depth, start: row, saved: 0, groups_before: groups.len() };
        while open.last().is_some_and(|node| node.depth > depth) {
            let Some(mut node) = open.pop() else { break };
            node.saved += below.saved;
            close(&mut node, row + 1, &mut groups, &tokens_before, batch);
            below = node;
        }
        match open.last_mut().filter(|node| node.depth == depth) {
            Some(node) => node.saved += below.saved,
            None => open.push(Node { depth, ..below }),
        }
    }
    groups
}

/// Ends a node before row `end`: its rows are one group, unless those below it save more.
fn close(node: &mut Node, end: usize, groups: &mut Vec<Range<usize>>, tokens_before: &[usize], batch: usize) {
    let rows = end - node.start;
    let together = (rows - rows.div_ceil(batch.max(1))) * node.depth;
    let tokens = tokens_before[end] - tokens_before[node.start];
    if (node.saved as f64) < together as f64 + WORTH_SPLITTING * tokens as f64 {
        groups.truncate(node.groups_before);
        groups.push(node.start..end);
        node.saved = together;
    }
}
