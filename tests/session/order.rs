//! How rows are dealt into updates: packs, budgets of tokens, rows that begin alike or are of similar length.

use engine::batch::Example;
use engine::batch::tree::TokenTree;
use engine::error::Kind;
use engine::train::options::{Grouping, TrainOptions};
use engine::train::order::{Order, Window};
use engine::train::packing::pack;
use engine::train::prefixes::prefix_groups;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::tiny::example;

/// Rows of several tool sets (a long beginning each) and plain ones, with random ends, in random order.
fn tool_rows(count: usize) -> Vec<Example> {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let rows = (0..count).map(|_| {
        let set: u32 = rng.random_range(0..6);
        // The names of tools begin alike in pairs of sets: the tree has short branches above its long ones.
        let mut ids = vec![2, 10 + set / 2, 20 + set];
        ids.extend((0..if set == 5 { 0 } else { 40 + set }).map(|t| 100 * set + t));
        ids.extend((0..rng.random_range(3..25)).map(|_| rng.random_range(0..1000u32)));
        example(&ids, 3)
    });
    rows.collect()
}

fn lengths(rows: &[Example]) -> Vec<usize> {
    rows.iter().map(|row| row.ids.len()).collect()
}

fn batches(windows: &[Window]) -> Vec<Vec<usize>> {
    windows.iter().flatten().cloned().collect()
}

/// Tokens of the trees of all batches, and the most that one has.
fn tree_tokens(rows: &[Example], windows: &[Window]) -> (usize, usize) {
    let tree =
        |batch: &Vec<usize>| TokenTree::from_examples(&batch.iter().map(|&i| &rows[i]).collect::<Vec<_>>()).len();
    let sizes: Vec<usize> = batches(windows).iter().map(tree).collect();
    (sizes.iter().sum(), sizes.into_iter().max().unwrap())
}

/// Every way to deal rows that is not the plain one.
fn ways() -> Vec<TrainOptions> {
    let options = || TrainOptions { per_device_train_batch_size: 4, ..TrainOptions::default() };
    vec![
        TrainOptions { packing: Some(90), per_device_train_batch_size: 2, ..options() },
        TrainOptions { packing: Some(300), shuffle: false, per_device_train_batch_size: 1, ..options() },
        TrainOptions { max_tokens_per_batch: Some(150), ..options() },
        TrainOptions { max_tokens_per_batch: Some(150), shuffle: false, gradient_accumulation_steps: 3, ..options() },
        TrainOptions { group_by: Grouping::Length, ..options() },
        TrainOptions { group_by: Grouping::Length, max_tokens_per_batch: Some(200), ..options() },
        TrainOptions { group_by: Grouping::Prefix, ..options() },
        TrainOptions { group_by: Grouping::Prefix, max_tokens_per_batch: Some(200), ..options() },
        TrainOptions { group_by: Grouping::Prefix, gradient_accumulation_steps: 2, ..options() },
    ]
}

#[test]
fn every_row_is_in_one_batch_of_an_epoch_whatever_the_way() {
    let rows = tool_rows(203);
    for options in ways() {
        let order = Order::new(&options, &rows).unwrap();
        for epoch in 0..3 {
            let windows = order.windows(&rows, epoch);
            let mut seen: Vec<usize> = batches(&windows).concat();
            seen.sort_unstable();
            assert_eq!(seen, (0..rows.len()).collect::<Vec<_>>(), "{options:?}");
            assert!(windows.iter().flatten().all(|batch| !batch.is_empty()), "{options:?}");
            let (last, whole) = windows.split_last().unwrap();
            assert!(whole.iter().all(|window| window.len() == options.gradient_accumulation_steps));
            assert!(last.len() <= options.gradient_accumulation_steps);
        }
    }
}

#[test]
fn an_order_follows_from_seed_and_epoch_alone() {
    let rows = tool_rows(203);
    for options in ways() {
        let windows = |seed: u64, epoch: u64| {
            let options = TrainOptions { seed, ..options.clone() };
            Order::new(&options, &rows).unwrap().windows(&rows, epoch)
        };
        assert_eq!(windows(1, 2), windows(1, 2), "{options:?}");
        assert_eq!(windows(1, 2) == windows(1, 3), !options.shuffle, "{options:?}");
        assert_eq!(windows(1, 2) == windows(2, 2), !options.shuffle, "{options:?}");
    }
}

#[test]
fn the_steps_of_a_run_are_those_that_its_epochs_have() {
    let rows = tool_rows(101);
    for options in ways() {
        for (epochs, max_steps) in [(1.0, None), (3.0, None), (2.5, None), (0.3, None), (7.0, Some(11))] {
            let options = TrainOptions { num_train_epochs: epochs, max_steps, ..options.clone() };
            let order = Order::new(&options, &rows).unwrap();
            let of_epoch = |epoch: u64| order.windows(&rows, epoch).len() as f64;
            let whole: f64 = (0..epochs as u64).map(of_epoch).sum();
            let expected = whole + (epochs.fract() * of_epoch(epochs as u64)).ceil();
            let steps = order.total_steps(&rows).unwrap();
            assert_eq!(steps, max_steps.unwrap_or(expected as u64), "{options:?}");
        }
    }
}

#[test]
fn without_any_of_them_batches_are_what_they_were() {
    let rows = tool_rows(7);
    let options = TrainOptions {
        shuffle: false,
        per_device_train_batch_size: 2,
        gradient_accumulation_steps: 3,
        ..TrainOptions::default()
    };
    let windows = Order::new(&options, &rows).unwrap().windows(&rows, 0);
    assert_eq!(windows, [vec![vec![0, 1], vec![2, 3], vec![4, 5]], vec![vec![6]]]);
}

#[test]
fn packs_are_those_of_trl() {
    // TRL's own test of `pack_dataset(strategy="bfd")`, tests/test_data_utils.py.
    assert_eq!(pack(&[3, 4, 1], 4), [vec![1], vec![0, 2]]);
    // The fullest pack that has room is filled, of equal ones the older: the last row of one token goes beside 4 and 3, not to the 6.
    assert_eq!(pack(&[6, 4, 3, 1, 1, 4], 8), [vec![0, 3, 4], vec![1, 5], vec![2]]);
    assert_eq!(pack(&[9, 2], 4), [vec![0], vec![1]]);
    assert!(pack(&[], 4).is_empty());
}

#[test]
fn packs_hold_no_more_than_their_tokens_and_waste_little() {
    let rows = tool_rows(500);
    let lengths = lengths(&rows);
    for capacity in [80, 200, 1024] {
        let packs = pack(&lengths, capacity);
        let total = |pack: &Vec<usize>| pack.iter().map(|&i| lengths[i]).sum::<usize>();
        assert!(packs.iter().all(|pack| total(pack) <= capacity));
        // Best fit decreasing needs at most 11/9 of the fewest packs, and one.
        let fewest = lengths.iter().sum::<usize>().div_ceil(capacity);
        assert!(packs.len() <= fewest * 11 / 9 + 1 || capacity == 80, "{} packs, {fewest} at least", packs.len());
    }
}

#[test]
fn a_budget_counts_the_tokens_of_the_tree_and_is_used_up() {
    let rows = tool_rows(203);
    for budget in [100, 150, 400, 100_000] {
        let options = TrainOptions { max_tokens_per_batch: Some(budget), ..TrainOptions::default() };
        let windows = Order::new(&options, &rows).unwrap().windows(&rows, 1);
        assert!(tree_tokens(&rows, &windows).1 <= budget);
        // A batch ends where the next row has no room.
        for pair in batches(&windows).windows(2) {
            let more: Vec<&Example> = pair[0].iter().chain(&pair[1][..1]).map(|&i| &rows[i]).collect();
            assert!(TokenTree::from_examples(&more).len() > budget);
        }
        assert_eq!(windows.len() == 1, budget == 100_000);
    }
}

#[test]
fn a_row_above_the_budget_is_named_before_anything_is_trained() {
    let rows = tool_rows(20);
    let most = *lengths(&rows).iter().max().unwrap();
    let options = |budget| TrainOptions { max_tokens_per_batch: Some(budget), ..TrainOptions::default() };
    assert!(Order::new(&options(most), &rows).is_ok());
    let error = Order::new(&options(most - 1), &rows).unwrap_err();
    assert_eq!(error.kind(), Kind::Data);
    assert!(error.to_string().contains(&format!("has {most} tokens")), "{error}");
    assert!(error.advice().unwrap().contains("--overlong drop"));
}

#[test]
fn rows_that_begin_alike_come_into_one_batch() {
    let rows = tool_rows(400);
    let tokens = |group_by, batch| {
        let options = TrainOptions { group_by, per_device_train_batch_size: batch, ..TrainOptions::default() };
        let order = Order::new(&options, &rows).unwrap();
        let windows = order.windows(&rows, 0);
        let (distinct, _) = tree_tokens(&rows, &windows);
        assert_eq!(order.first_epoch(&rows), (windows.len(), lengths(&rows).iter().sum(), distinct));
        distinct
    };
    for batch in [4, 8, 16] {
        // The five beginnings of about 45 tokens, once in each batch that is full of one of them, and at most once more in those of what is
        // left over.
        let beginnings = (400usize.div_ceil(batch) + 5) * 47;
        let ends: usize =
            lengths(&rows).iter().zip(&rows).map(|(n, row)| if row.ids[2] == 25 { *n } else { n - 43 }).sum();
        let grouped = tokens(Grouping::Prefix, batch);
        assert!(grouped <= beginnings + ends, "{grouped} tokens in batches of {batch}, {beginnings} + {ends} expected");
        assert!(grouped * 10 < tokens(Grouping::None, batch) * 9);
    }
    let groups = prefix_groups(&rows, 8);
    let sets =
        groups.iter().map(|group| group.iter().map(|&i| rows[i].ids[2]).collect::<std::collections::BTreeSet<_>>());
    assert!(sets.clone().filter(|set| set.len() == 1).count() >= 5, "{:?}", sets.collect::<Vec<_>>());
}

#[test]
fn rows_that_share_little_stay_one_group_or_none() {
    let row = |i: u32| example(&[&[2u32, 3][..], &(0..50).map(|t| 7 + i * 50 + t).collect::<Vec<_>>()].concat(), 1);
    let rows: Vec<Example> = (0..40).map(row).collect();
    assert_eq!(prefix_groups(&rows, 8), [(0..40).collect::<Vec<usize>>()]);
    assert!(prefix_groups(&[], 8).is_empty());
    let same = vec![row(1); 9];
    assert_eq!(prefix_groups(&same, 4), [(0..9).collect::<Vec<usize>>()]);
    // Each row is a beginning of the next one: as deep as there are rows.
    let nested: Vec<Example> = (1..2000).map(|n| example(&(0..n).collect::<Vec<u32>>(), 1)).collect();
    let mut all = prefix_groups(&nested, 8).concat();
    all.sort_unstable();
    assert_eq!(all, (0..1999).collect::<Vec<usize>>());
}

#[test]
fn batches_larger_than_any_dataset_hold_all_rows() {
    let rows = tool_rows(20);
    for (batch, accumulation) in
        [(1 << 62, 1), (1 << 62, 4), (1 << 32, 1 << 32), (usize::MAX, usize::MAX), (1, 1 << 62)]
    {
        for group_by in [Grouping::None, Grouping::Length, Grouping::Prefix] {
            let options = TrainOptions {
                group_by,
                per_device_train_batch_size: batch,
                gradient_accumulation_steps: accumulation,
                num_train_epochs: 1.0,
                ..TrainOptions::default()
            };
            let order = Order::new(&options, &rows).unwrap();
            let windows = order.windows(&rows, 0);
            assert_eq!(windows.len(), 1, "{options:?}");
            assert_eq!(windows.concat().concat().len(), 20, "{options:?}");
            assert_eq!(order.total_steps(&rows).unwrap(), 1, "{options:?}");
        }
    }
}

#[test]
fn rows_are_sorted_by_length_within_fifty_batches_as_transformers_does() {
    let mut rows = tool_rows(1000);
    // One is the longest: with most seeds it is not among the first ones.
    rows[500] = example(&(0..200).collect::<Vec<u32>>(), 3);
    let lengths = lengths(&rows);
    let sizes = [(4, 1, 50 * 4), (2, 2, 50 * 4), (8, 4, 7 * 32), (300, 1, 300)];
    for (seed, (batch, accumulation, together)) in (0..5).flat_map(|seed| sizes.map(|size| (seed, size))) {
        let options = TrainOptions {
            group_by: Grouping::Length,
            per_device_train_batch_size: batch,
            gradient_accumulation_steps: accumulation,
            seed,
            ..TrainOptions::default()
        };
        let mut order = batches(&Order::new(&options, &rows).unwrap().windows(&rows, 0)).concat();
        assert_eq!(lengths[order[0]], *lengths.iter().max().unwrap(), "the longest comes first");
        // It stands in the place of the longest of the first ones, which stands in its.
        let is_sorted = |part: &[usize]| part.is_sorted_by_key(|&i| std::cmp::Reverse(lengths[i]));
        let swapped = (0..order.len()).step_by(together).find(|&at| {
            order.swap(0, at);
            let sorted = order.chunks(together).all(is_sorted);
            order.swap(0, at);
            sorted
        });
        assert!(swapped.is_some(), "{batch} x {accumulation}");
        let plain = TrainOptions { group_by: Grouping::None, ..options };
        assert!(
            !batches(&Order::new(&plain, &rows).unwrap().windows(&rows, 0)).concat().chunks(together).any(is_sorted)
        );
    }
}

#[test]
fn what_excludes_each_other_is_a_usage_error() {
    let rows = tool_rows(5);
    let options = TrainOptions::default;
    for (options, names) in [
        (
            TrainOptions { packing: Some(90), max_tokens_per_batch: Some(90), ..options() },
            ["--packing", "--max-tokens-per-batch"],
        ),
        (
            TrainOptions { packing: Some(90), group_by: Grouping::Length, ..options() },
            ["--packing", "--group-by-length"],
        ),
        (
            TrainOptions { packing: Some(90), group_by: Grouping::Prefix, ..options() },
            ["--packing", "--group-by-prefix"],
        ),
        (
            TrainOptions { shuffle: false, group_by: Grouping::Prefix, ..options() },
            ["--group-by-prefix", "--shuffle false"],
        ),
        (
            TrainOptions { shuffle: false, group_by: Grouping::Length, ..options() },
            ["--group-by-length", "--shuffle false"],
        ),
    ] {
        let error = Order::new(&options, &rows).unwrap_err();
        assert_eq!(error.kind(), Kind::Usage);
        assert!(names.iter().all(|name| error.to_string().contains(name)), "{error}");
    }
    let options = TrainOptions { max_tokens_per_batch: Some(90), num_train_epochs: 1e9, ..options() };
    assert_eq!(Order::new(&options, &rows).unwrap().total_steps(&rows).unwrap_err().kind(), Kind::Usage);
}
