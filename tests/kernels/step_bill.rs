//! The bill of a step says what the emulator counts when it runs the step, and is what it was.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::c_void;
use std::rc::Rc;

use engine::autograd::{Params, Tape};
use engine::batch::Example;
use engine::batch::inputs::Inputs;
use engine::batch::mask::{AttentionMask, Placement};
use engine::batch::tree::TokenTree;
use engine::device::bindings::engine_stream;
use engine::device::driver::{Driver, Product};
use engine::device::kernels::Kernels;
use engine::device::{DType, Device, Purpose, Tensor};
use engine::error::Result;
use engine::model::gemma3::Gemma3;
use engine::model::gemma3::config::Gemma3Config;
use engine::model::gemma3::table::{parameter_count, parameter_specs};
use engine::ops::adamw::AdamW;
use engine::ops::attention::{Qkv, attention};
use engine::train::step::Step;
use half::bf16;
use serde_json::json;

#[path = "../../benches/shared/bill.rs"]
mod bill;
#[path = "../../benches/shared/jobs.rs"]
mod jobs;
#[path = "../../benches/shared/measured.rs"]
mod measured;

use bill::Attention;

// kernels/emulator/memory.cpp
unsafe extern "C" {
    fn engine_emulator_count_traffic(counting: bool);
    fn engine_emulator_traffic(read: *mut u64, written: *mut u64);
}

/// Bytes that launches have read and written, and their number, by launcher.
type Traffic = BTreeMap<String, [u64; 3]>;

/// The emulated device, whose launches are counted.
struct Counted {
    inner: Device,
    traffic: Rc<RefCell<Traffic>>,
    blocks_at_once: usize,
}

impl Driver for Counted {
    fn kernels(&self) -> Kernels {
        // SAFETY: touches this thread's numbers.
        unsafe { engine_emulator_count_traffic(true) };
        self.inner.driver().kernels()
    }

    fn stream(&self) -> engine_stream {
        self.inner.driver().stream()
    }

    fn name(&self) -> String {
        self.inner.driver().name()
    }

    fn allocate(&self, bytes: usize) -> Result<*mut c_void> {
        self.inner.driver().allocate(bytes)
    }

    unsafe fn free(&self, address: *mut c_void, bytes: usize) {
        // SAFETY: the caller's promise.
        unsafe { self.inner.driver().free(address, bytes) };
    }

    fn keeps_freed_memory(&self) -> bool {
        false
    }

    fn blocks_at_once(&self) -> usize {
        self.blocks_at_once
    }

    fn after_launch(&self, op: &str, _sizes: &[(&str, u64)]) -> Result<()> {
        let (mut read, mut written) = (0, 0);
        // SAFETY: two numbers of this thread.
        unsafe {
            engine_emulator_traffic(&raw mut read, &raw mut written);
            engine_emulator_count_traffic(false);
        }
        let mut traffic = self.traffic.borrow_mut();
        let sums = traffic.entry(op.to_owned()).or_default();
        sums.iter_mut().zip([read, written, 1]).for_each(|(sum, term)| *sum += term);
        Ok(())
    }

    unsafe fn upload(&self, to: *mut c_void, from: &[u8]) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.inner.driver().upload(to, from) }
    }

    unsafe fn download(&self, to: &mut [u8], from: *const c_void) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.inner.driver().download(to, from) }
    }

    unsafe fn zero(&self, at: *mut c_void, bytes: usize) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.inner.driver().zero(at, bytes) }
    }

    unsafe fn product(&self, product: &Product) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.inner.driver().product(product) }
    }
}

const HEADS: Attention = Attention { heads: 4, head_dim: 16 };

/// A step of a small model on `device`.
fn step(device: &Device) -> Result<()> {
    let config = Gemma3Config::from_value(json!({
        "model_type": "gemma3_text",
        "vocab_size": 512,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": HEADS.heads,
        "num_key_value_heads": 1,
        "head_dim": HEADS.head_dim,
        "sliding_window": 16,
        "sliding_window_pattern": 2,
    }))?;
    let count = parameter_count(&parameter_specs(&config));
    let mut weights = Tensor::empty(&device.of(Purpose::Weights), &[count], DType::F32)?;
    weights.upload(&vec![0.125f32; count])?;
    let mut model = Gemma3::new(config, weights)?.computed_in(DType::Bf16)?;
    let mut step = Step::new(&model, 1.0, false)?;
    // All tokens differ: no row of the embedding is read twice.
    let row = |r: u32| Example {
        ids: (0..40).map(|t| if t < 8 { t } else { 40 * r + t }).collect(),
        scored: vec![true; 40],
        origin: String::new(),
    };
    let rows = [row(0), row(1), row(2)];
    let tree = TokenTree::from_examples(&rows.iter().collect::<Vec<_>>());
    let hyper = AdamW { learning_rate: 1e-3, betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.0, step: 1 };
    step.run(&mut model, vec![tree], &hyper).map(drop)
}

#[test]
fn bytes_and_launches_are_those_that_the_emulator_counts() {
    // A block for a head, or one for all heads of a group.
    for blocks_at_once in [264, 1] {
        compare(step, HEADS, blocks_at_once, 0.25);
    }
}

/// Compares the bill of what `run` does with what the emulator counts. What is picked by index may be billed as so much more than it is, as
/// a part of it.
fn compare(run: fn(&Device) -> Result<()>, heads: Attention, blocks_at_once: usize, slack: f64) -> bill::Bill {
    let traffic = Rc::new(RefCell::new(Traffic::new()));
    let counted = Counted { inner: engine::emulated::device().unwrap(), traffic: traffic.clone(), blocks_at_once };
    run(&Device::with_driver(Box::new(counted))).unwrap();
    let (device, bill) = bill::device(heads, blocks_at_once);
    run(&device).unwrap();
    let bill = bill.take();
    let ops = bill.by_op();
    for (op, &[read, written, launches]) in &*traffic.borrow() {
        let nodes = &ops[&op[..]];
        let sum = |of: fn(&bill::Node) -> u64| nodes.iter().map(|node| of(node)).sum::<u64>();
        for (what, counted, billed) in [("read", read, sum(|n| n.read)), ("written", written, sum(|n| n.written))] {
            // Structs of a few numbers are billed as a whole. What is picked by index is billed as if nothing were picked twice.
            let picks = ["attention", "embedding", "rope"].iter().any(|name| op.starts_with(name));
            let slack = if picks { (counted as f64 * slack) as u64 } else { 0 };
            let fits = counted <= billed + 64 && billed <= counted + 256 * launches + slack;
            assert!(fits, "{op}: {launches} launches: {counted} bytes are {what}, the bill says {billed}");
        }
    }
    let launchers = ops.keys().filter(|op| !op.contains(" = ") && **op != "zero");
    assert!(launchers.copied().eq(traffic.borrow().keys()), "{:?}", ops.keys());
    bill
}

/// So many that the backward of 100 rows has a launch for dq and one for dk and dv (attention_backward.cu).
const MANY_HEADS: Attention = Attention { heads: 258, head_dim: 16 };
const KV_HEADS: usize = 86;

/// Attention of 100 rows with many heads, forward and backward.
fn attention_of_many_heads(device: &Device) -> Result<()> {
    let example = Example { ids: (0..100).collect(), scored: vec![true; 100], origin: String::new() };
    let tree = TokenTree::from_examples(&[&example]);
    let inputs = Inputs::new(device, false);
    let placement = Placement::new(&inputs, &tree, tree.rows());
    let mask = Rc::new(AttentionMask::new(&inputs, &tree, tree.rows(), &placement, None, false));
    inputs.send()?;
    let params = Params::new(&[], Tensor::empty(&device.of(Purpose::Weights), &[0], DType::F32)?)?;
    let mut gradients = params.gradients()?;
    let mut tape = Tape::recording(device, &mut gradients);
    let zeros =
        |device: &Device, shape: &[usize]| Tensor::from_slice(device, shape, &vec![bf16::ZERO; shape.iter().product()]);
    let [q, k, v] =
        [MANY_HEADS.heads, KV_HEADS, KV_HEADS].map(|heads| tape.var(zeros(device, &[100, heads, MANY_HEADS.head_dim])));
    let o = attention(&mut tape, &Qkv { q, k, v, parts: None }, &mask, 0.25)?;
    tape.push("seed", move |ctx| ctx.give(&o, zeros(o.value.device(), o.value.shape())));
    tape.backward()
}

#[test]
fn each_launch_of_a_backward_is_billed_what_it_does() {
    let bill = compare(attention_of_many_heads, MANY_HEADS, 264, 0.01);
    let [queries, keys] = bill.by_op()["attention_backward"][..] else { panic!("{:?}", bill.nodes) };
    let Attention { heads, head_dim } = MANY_HEADS;
    let [q, kv] = [heads, KV_HEADS].map(|heads| (100 * heads * head_dim * 2) as u64);
    let sums = (100 * heads * 4) as u64;
    // do, o, q, k, v, lse; dq, delta: 10 blocks of pairs in two tiles of queries, and 2 that have none.
    let of_queries = ("attention_queries_kernel<S>", 12 * 86, 3 * q + 2 * kv + sums, q + sums, 3.0);
    // do, q, k, v, lse, delta; dk, dv
    let of_keys = ("attention_keys_kernel<S>", 4 * 86, 2 * q + 2 * kv + 2 * sums, 2 * kv, 4.0);
    // 3 pairs of tiles
    let product = (2 * 3 * 64 * 64 * head_dim * heads) as f64;
    for (node, (kernel, blocks, read, written, products)) in [(queries, of_queries), (keys, of_keys)] {
        assert_eq!((&*node.kernel, node.blocks, node.written), (kernel, blocks, written));
        // The mask's arrays, beside tensors.
        assert!((read..read + 4096).contains(&node.read), "{node:?} reads {read}");
        assert!((node.flop / (products * product) - 1.0).abs() < 1e-9, "{node:?}");
    }
    // Of few heads one kernel does all; that which computes delta for it does none.
    let (device, bill) = bill::device(HEADS, 264);
    step(&device).unwrap();
    let bill = bill.take();
    for pair in bill.by_op()["attention_backward"].chunks(2) {
        assert_eq!((&*pair[0].kernel, &*pair[1].kernel), ("delta_kernel", "attention_backward_kernel<S>"));
        assert!(pair[0].flop == 0.0 && pair[1].flop > 0.0, "{pair:?}");
    }
}

/// The logits of 256 rows in bf16, of which a block keeps 18 steps of 4096 in registers and 28 in shared memory. What it does not keep of
/// them is 144 KiB: that of 132 blocks at once takes 18.6 MiB of the cache, that of 8 blocks 1.125 MiB.
#[test]
fn what_a_kernel_reads_again_is_billed_where_no_cache_holds_it() {
    let [tutorial, ..] = jobs::all().unwrap();
    let node = tutorial.bill.nodes.iter().find(|node| node.again > 0).unwrap();
    let (all, rest) = (256 * 262_144 * 2, 256 * (262_144 - (18 + 28) * 4096) * 2);
    assert_eq!((&*node.op, node.again, node.blocks), ("cross_entropy", rest, 256));
    assert!((node.read as f64 / all as f64 - 1.0).abs() < 0.01 && node.written >= all);
    let from_memory_again = |blocks: u64, cache_bytes| {
        let part = |bytes: u64| bytes / 256 * blocks;
        let (read, again, written) = (part(node.read), part(node.again), part(node.written));
        let (node, roof) =
            (bill::Node { blocks, read, again, written, ..node.clone() }, bill::Roof { cache_bytes, ..bill::H100 });
        let seconds = (node.seconds(&roof) - roof.seconds_per_node) * (blocks as f64 / 132.0).min(1.0);
        assert!((seconds * roof.bytes_per_second / node.bytes(&roof) as f64 - 1.0).abs() < 1e-9);
        node.bytes(&roof) - node.read - node.written
    };
    // Half of the cache is for it.
    assert_eq!([50, 38, 37].map(|mib| from_memory_again(256, mib << 20)), [0, 0, rest]);
    assert_eq!([9 << 18, (9 << 18) - 1].map(|bytes| from_memory_again(8, bytes)), [0, rest / 32]);
}

/// The device that is put around a GPU counts under the bill's names.
#[test]
fn what_is_measured_has_the_names_of_the_bill() {
    let (device, account) = measured::device(engine::emulated::device().unwrap()).unwrap();
    step(&device).unwrap();
    let (counted, bill) = bill::device(HEADS, device.driver().blocks_at_once());
    step(&counted).unwrap();
    let (bill, account) = (bill.take(), account.borrow());
    let ops = bill.by_op();
    assert!(ops.keys().copied().eq(account.ops.keys().map(String::as_str)), "{:?}", account.ops.keys());
    // One launch may be several kernels; a product is one.
    let calls = |op: &str| account.ops[op].0;
    assert!(
        ops.iter().all(|(op, nodes)| calls(op) <= nodes.len() && (!op.contains(" = ") || calls(op) == nodes.len()))
    );
    assert!(account.ops.values().all(|(_, time)| !time.is_zero()));
}

/// Nodes, gigabytes that they move, and gigabytes of memory of the jobs. Fewer are better: then write them here, and the bill
/// (`cargo bench --bench bill`) to benches/results.
#[test]
fn a_step_of_the_270m_takes_no_more_than_it_did() {
    let known = [(322, 11.30, 4.57), (448, 198.97, 19.68), (520, 209.88, 11.06), (97, 0.64, 1.61)];
    for (jobs::Billed { name, bill, peak_bytes }, known) in jobs::all().unwrap().iter().zip(known) {
        let (nodes, bytes, memory) = (bill.nodes.len(), bill.bytes(&bill::H100) as f64 / 1e9, *peak_bytes as f64 / 1e9);
        let same = nodes == known.0 && (bytes - known.1).abs() < 0.01 && (memory - known.2).abs() < 0.01;
        assert!(same, "{name}: {nodes} nodes, {bytes:.2} GB, {memory:.2} GB of memory; they were {known:?}");
    }
}
