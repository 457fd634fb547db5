//! In which order an epoch sees the rows, and how they are dealt into updates.
//!
//! Rows, or packs of rows, come in an order that follows from seed and epoch alone, so that a run can go on anywhere without a
//! generator that remembers. Batches take from it a number of them, or as many as a budget of tokens holds.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::packing::pack;
use super::prefixes::prefix_groups;
use crate::batch::Example;
use crate::batch::growth::Growth;
use crate::err;
use crate::error::{Error, Kind, Result};
use crate::train::options::{Grouping, TrainOptions};

/// What one update is computed from: micro-batches of indices of examples.
pub type Window = Vec<Vec<usize>>;

/// Batches that rows are sorted by length in, as transformers' `LengthGroupedSampler` does it.
const MOST_SORTED_BATCHES: usize = 50;
/// Where an epoch's updates depend on its order, all orders of a run are made before it begins.
const MOST_EPOCHS_COUNTED: f64 = 10_000.0;

/// How the rows of a run are dealt into updates.
#[derive(Clone, Debug)]
pub struct Order {
    options: TrainOptions,
    /// What stays together: packs, else single rows.
    units: Vec<Vec<usize>>,
    /// Rows that begin alike, where batches are made of such.
    groups: Vec<Vec<usize>>,
}

impl Order {
    /// Of a run over `rows`.
    ///
    /// # Errors
    /// Of kind [`Kind::Data`]: a row is longer than a batch may be. Usage errors: options that exclude each other.
    pub fn new(options: &TrainOptions, rows: &[Example]) -> Result<Self> {
        check(options)?;
        if let Some(budget) = options.max_tokens_per_batch {
            check_lengths(rows, budget)?;
        }
        let lengths: Vec<usize> = rows.iter().map(|row| row.ids.len()).collect();
        let units = match options.packing {
            Some(capacity) => pack(&lengths, capacity),
            None => (0..rows.len()).map(|row| vec![row]).collect(),
        };
        let groups = match options.group_by {
            Grouping::Prefix => prefix_groups(rows, options.per_device_train_batch_size),
            Grouping::None | Grouping::Length => Vec::new(),
        };
        Ok(Self { options: options.clone(), units, groups })
    }

    /// The windows of an epoch, counted from 0, over the rows that it was made of.
    pub fn windows(&self, rows: &[Example], epoch: u64) -> Vec<Window> {
        let mut rng = ChaCha8Rng::seed_from_u64(self.options.seed);
        rng.set_stream(epoch);
        let batches = match self.options.group_by {
            Grouping::Prefix => self.by_prefix(rows, &mut rng),
            grouping => {
                let mut order: Vec<usize> = (0..self.units.len()).collect();
                if self.options.shuffle {
                    order.shuffle(&mut rng);
                }
                if grouping == Grouping::Length {
                    self.sort_by_length(&mut order, rows);
                }
                self.deal(&order, rows)
            }
        };
        batches.chunks(self.options.gradient_accumulation_steps.max(1)).map(<[Vec<usize>]>::to_vec).collect()
    }

    /// Updates of the whole run.
    ///
    /// # Errors
    /// A usage error: too many epochs of which each has to be counted.
    pub fn total_steps(&self, rows: &[Example]) -> Result<u64> {
        let TrainOptions { max_steps, num_train_epochs: epochs, max_tokens_per_batch, .. } = self.options;
        if let Some(steps) = max_steps {
            return Ok(steps);
        }
        if max_tokens_per_batch.is_none() {
            let batches = self.units.len().div_ceil(self.options.per_device_train_batch_size.max(1));
            let steps = batches.div_ceil(self.options.gradient_accumulation_steps.max(1)).max(1);
            return Ok((epochs * steps as f64).ceil() as u64);
        }
        if epochs > MOST_EPOCHS_COUNTED {
            let text = format!("`--num-train-epochs {epochs}` with `--max-tokens-per-batch`: each epoch is counted");
            return Err(Error::usage(text).hint("give `--max-steps`"));
        }
        let whole = epochs.floor() as u64;
        let steps: usize = (0..whole).into_par_iter().map(|epoch| self.windows(rows, epoch).len()).sum();
        let part = match epochs.fract() {
            0.0 => 0.0,
            part => (part * self.windows(rows, whole).len() as f64).ceil(),
        };
        Ok(steps as u64 + part as u64)
    }

    /// The first epoch's batches, its tokens, and those of them that are left where a batch has each beginning once.
    pub fn first_epoch(&self, rows: &[Example]) -> (usize, usize, usize) {
        let windows = self.windows(rows, 0);
        let batches: Vec<&Vec<usize>> = windows.iter().flatten().collect();
        let distinct = batches.par_iter().map(|batch| Growth::of(batch.iter().map(|&i| &rows[i].ids[..])).len()).sum();
        (batches.len(), rows.iter().map(|row| row.ids.len()).sum(), distinct)
    }

    /// Batches of the units in this order.
    fn deal(&self, order: &[usize], rows: &[Example]) -> Vec<Vec<usize>> {
        match self.options.max_tokens_per_batch {
            Some(budget) => deal_tokens(order, rows, budget),
            None => {
                let unit = |&i: &usize| self.units[i].iter().copied();
                let batches = order.chunks(self.options.per_device_train_batch_size.max(1));
                batches.map(|batch| batch.iter().flat_map(unit).collect()).collect()
            }
        }
    }

    /// Sorts rows in a random order by length, the longest first, within so many batches at a time; the longest of all comes
    /// first, so that memory is short at once or never.
    fn sort_by_length(&self, order: &mut [usize], rows: &[Example]) {
        let TrainOptions { per_device_train_batch_size, gradient_accumulation_steps, .. } = self.options;
        let batch = per_device_train_batch_size.saturating_mul(gradient_accumulation_steps).max(1);
        let batches = (order.len() / batch.saturating_mul(4)).clamp(1, MOST_SORTED_BATCHES);
        let together = batch.saturating_mul(batches);
        let length = |row: usize| rows[row].ids.len();
        order.chunks_mut(together).for_each(|part| part.sort_by_key(|&row| std::cmp::Reverse(length(row))));
        let firsts = (0..order.len()).step_by(together).rev();
        if let Some(longest) = firsts.max_by_key(|&first| length(order[first])) {
            order.swap(0, longest);
        }
    }

    /// Batches of rows of one group each; what a group has left over comes into batches with what its neighbours have. The batches
    /// are shuffled.
    fn by_prefix(&self, rows: &[Example], rng: &mut ChaCha8Rng) -> Vec<Vec<usize>> {
        let full = |batch: &Vec<usize>| {
            self.options.max_tokens_per_batch.is_none() && batch.len() >= self.options.per_device_train_batch_size
        };
        let (mut batches, mut rest) = (Vec::new(), Vec::new());
        for group in &self.groups {
            let mut group = group.clone();
            group.shuffle(rng);
            let mut dealt = self.deal(&group, rows);
            rest.extend(dealt.pop_if(|last| !full(last)).unwrap_or_default());
            batches.extend(dealt);
        }
        batches.extend(self.deal(&rest, rows));
        batches.shuffle(rng);
        batches
    }
}

/// Batches of as many rows as have at most `budget` distinct tokens together; a row that has more is one of its own.
fn deal_tokens(order: &[usize], rows: &[Example], budget: usize) -> Vec<Vec<usize>> {
    let mut batches: Vec<Vec<usize>> = Vec::new();
    let mut growth = Growth::default();
    for &row in order {
        let ids = &rows[row].ids[..];
        let fits = growth.len() + growth.added_by(ids) <= budget;
        match batches.last_mut().filter(|_| fits) {
            Some(batch) => batch.push(row),
            None => {
                batches.push(vec![row]);
                growth = Growth::default();
            }
        }
        growth.add(ids);
    }
    batches
}

fn check(options: &TrainOptions) -> Result<()> {
    let TrainOptions { packing, max_tokens_per_batch, group_by, shuffle, .. } = options;
    let group = match group_by {
        Grouping::None => None,
        Grouping::Length => Some("`--group-by-length`"),
        Grouping::Prefix => Some("`--group-by-prefix`"),
    };
    let (packs, budget) = (packing.is_some(), max_tokens_per_batch.is_some());
    let excluded = match group {
        _ if packs && budget => Some(("`--packing`", "`--max-tokens-per-batch`")),
        Some(group) if packs => Some(("`--packing`", group)),
        Some(group) if !shuffle => Some((group, "`--shuffle false`")),
        _ => None,
    };
    match excluded {
        Some((one, other)) => Err(Error::usage(format!("{one} and {other} exclude each other"))),
        None => Ok(()),
    }
}

fn check_lengths(rows: &[Example], budget: usize) -> Result<()> {
    let too_long = || rows.iter().filter(|row| row.ids.len() > budget);
    let Some(longest) = too_long().max_by_key(|row| row.ids.len()) else { return Ok(()) };
    let (count, origin, length) = (too_long().count(), &longest.origin, longest.ids.len());
    Err(err!("{count} of {} rows are longer than `--max-tokens-per-batch {budget}`: the longest, `{origin}`, has {length} tokens", rows.len())
        .hint(format!("raise it to {length}, or give `--max-length {budget}` with `--overlong truncate` or `--overlong drop`"))
        .of_kind(Kind::Data))
}
