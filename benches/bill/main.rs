//! The bill of a training step and of a decoded token on an H100 that nobody has to have: `cargo bench --bench bill`.
//!
//! Prints, as Markdown, every op with its nodes (kernels, products), the blocks of a node, bytes, FLOPs, and the time that the roof of an H100 leaves
//! them. It is an estimate that gets better for real reasons only: fewer nodes, less traffic, less waste. What it leaves out is in
//! `benches/shared/bill.rs`.

#[path = "../shared/bill.rs"]
mod bill;
#[path = "../shared/jobs.rs"]
mod jobs;

use bill::{H100, Node};

fn main() {
    for job in jobs::all().unwrap_or_else(|error| panic!("{}", error.report())) {
        print(&job);
    }
}

fn print(jobs::Billed { name, bill, peak_bytes }: &jobs::Billed) {
    println!("## {name}\n");
    println!(
        "{:.3} ms, {} nodes in {} graph launches, {:.2} GB, {:.3} TFLOP, {} copies of {:.1} kB in all; memory {:.2} GB\n",
        bill.seconds(&H100) * 1e3,
        bill.nodes.len(),
        bill.graph_launches,
        bill.bytes() as f64 / 1e9,
        bill.flop() / 1e12,
        bill.copies,
        bill.copied_bytes as f64 / 1e3,
        *peak_bytes as f64 / 1e9,
    );
    println!("| op | nodes | blocks | MB read | MB written | GFLOP | us |\n|---|---:|---:|---:|---:|---:|---:|");
    let mut ops: Vec<(&str, Vec<&Node>)> = bill.by_op().into_iter().collect();
    let seconds = |nodes: &[&Node]| nodes.iter().map(|node| node.seconds(&H100)).sum::<f64>();
    ops.sort_by(|(_, a), (_, b)| seconds(b).total_cmp(&seconds(a)));
    for (op, nodes) in ops {
        let sum = |of: fn(&Node) -> f64| nodes.iter().map(|node| of(node)).sum::<f64>();
        println!(
            "| {op} | {} | {:.0} | {:.1} | {:.1} | {:.1} | {:.1} |",
            nodes.len(),
            sum(|node| node.blocks as f64) / nodes.len() as f64,
            sum(|node| node.read as f64) / 1e6,
            sum(|node| node.written as f64) / 1e6,
            sum(|node| node.flop) / 1e9,
            seconds(&nodes) * 1e6,
        );
    }
    println!();
}
