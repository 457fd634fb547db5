//! What a run says of its tokens before it starts.

use indicatif::HumanCount;

use crate::batch::Example;
use crate::data::Lengths;
use crate::train::order::Order;

/// How long the rows are, and what an epoch of them costs.
pub fn line(order: &Order, rows: &[Example]) -> String {
    let lengths = Lengths::new(rows.iter().map(|row| row.ids.len()).collect());
    let (batches, all, distinct) = order.first_epoch(rows);
    let [shown_all, shown_distinct] = [all, distinct].map(|tokens| HumanCount(tokens as u64).to_string());
    let saved = 100.0 * (1.0 - distinct as f64 / all.max(1) as f64);
    let batches = match batches {
        1 => "1 batch".to_owned(),
        n => format!("{} batches", HumanCount(n as u64)),
    };
    format!(
        "tokens of training rows: {lengths}; an epoch has {shown_all} in {batches}, of which {shown_distinct} are computed: \
         beginnings that rows of a batch share save {saved:.0} %"
    )
}
