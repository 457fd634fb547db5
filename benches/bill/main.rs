//! The bill of a training step and of a decoded token on an H100 that nobody has to have: `cargo bench --bench bill`.
//!
//! Prints, as Markdown, every op with its nodes (kernels, products), the blocks of a node, bytes, FLOPs, and the time that the roof of an H100 leaves
//! them. It is an estimate that gets better for real reasons only: fewer nodes, less traffic, less waste. What it leaves out is in
//! `benches/shared/bill.rs`.
//!
//! With `ENGINE_BENCH_DEVICE=cuda ENGINE_DEBUG_SYNC=1` each job runs on the GPU, too, and a second table has the milliseconds of each op beside
//! its bill: with every op waited for, less what waiting takes.

#[path = "../shared/bill.rs"]
mod bill;
#[path = "../shared/jobs.rs"]
mod jobs;
#[path = "../shared/measured.rs"]
mod measured;

use bill::{Bill, H100, Node};
use engine::error::Result;
use jobs::{Billed, On};

/// Runs of a job that are timed.
const TIMES: usize = 5;

pub fn main() {
    if let Err(error) = run() {
        panic!("{}", error.report());
    }
}

fn run() -> Result<()> {
    let on_cuda = std::env::var("ENGINE_BENCH_DEVICE").is_ok_and(|device| device == "cuda");
    for (job, billed) in jobs::ALL.iter().zip(jobs::all()?) {
        print(&billed);
        if on_cuda {
            measure(job, &billed.bill)?;
        }
    }
    Ok(())
}

fn print(Billed { name, bill, peak_bytes }: &Billed) {
    println!("## {name}\n");
    println!(
        "{:.3} ms, {} nodes in {} graph launches, {:.2} GB, {:.3} TFLOP, {} copies of {:.1} kB in all; memory {:.2} GB\n",
        bill.seconds(&H100) * 1e3,
        bill.nodes.len(),
        bill.graph_launches,
        bill.bytes(&H100) as f64 / 1e9,
        bill.flop() / 1e12,
        bill.copies,
        bill.copied_bytes as f64 / 1e3,
        *peak_bytes as f64 / 1e9,
    );
    println!("| op | nodes | blocks | MB read | MB written | GFLOP | us |\n|---|---:|---:|---:|---:|---:|---:|");
    let mut ops: Vec<(&str, Vec<&Node>)> = bill.by_op().into_iter().collect();
    ops.sort_by(|(_, a), (_, b)| seconds(b).total_cmp(&seconds(a)));
    for (op, nodes) in ops {
        let sum = |of: fn(&Node) -> f64| nodes.iter().map(|node| of(node)).sum::<f64>();
        println!(
            "| {op} | {} | {:.0} | {:.1} | {:.1} | {:.1} | {:.1} |",
            nodes.len(),
            sum(|node| node.blocks as f64) / nodes.len() as f64,
            sum(|node| node.read_from_memory(&H100) as f64) / 1e6,
            sum(|node| node.written as f64) / 1e6,
            sum(|node| node.flop) / 1e9,
            seconds(&nodes) * 1e6,
        );
    }
    println!();
}

fn seconds(nodes: &[&Node]) -> f64 {
    nodes.iter().map(|node| node.seconds(&H100)).sum()
}

/// Runs the job on the GPU, and prints what its ops take beside the bill.
fn measure(job: &jobs::Job, bill: &Bill) -> Result<()> {
    let inner = engine::cuda::device()?;
    assert!(!inner.driver().captures_graphs(), "set ENGINE_DEBUG_SYNC=1: only then is every op waited for");
    let (device, account) = measured::device(inner)?;
    (job.run)(&device, On::Chip, TIMES, &|| account.borrow_mut().ops.clear())?;
    let account = account.borrow();
    println!("| {}: op | nodes | ms by the bill | ms measured | times the bill |\n|---|---:|---:|---:|---:|", job.name);
    let ops = bill.by_op();
    let mut rows: Vec<(&str, usize, f64, f64)> = Vec::new();
    for (op, (calls, time)) in &account.ops {
        let own = time.saturating_sub(account.overhead * *calls as u32).as_secs_f64() / TIMES as f64;
        let nodes = ops.get(op.as_str()).map(Vec::as_slice).unwrap_or_default();
        rows.push((op, nodes.len(), 1e3 * seconds(nodes), 1e3 * own));
    }
    rows.sort_by(|a, b| b.3.total_cmp(&a.3));
    let sums = rows.iter().fold((0, 0.0, 0.0), |sum, row| (sum.0 + row.1, sum.1 + row.2, sum.2 + row.3));
    rows.push(("all", sums.0, sums.1, sums.2));
    for (op, nodes, billed, measured) in rows {
        println!("| {op} | {nodes} | {billed:.3} | {measured:.3} | {:.2} |", measured / billed);
    }
    println!(
        "\nLaunching and waiting took {:.1} us a call, which is left out.\n",
        1e6 * account.overhead.as_secs_f64()
    );
    Ok(())
}
