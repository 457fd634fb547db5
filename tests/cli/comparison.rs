//! The README's comparison with TRL is what `benches/compare/run` wrote into benches/results/compare.csv.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// A measurement: the columns that the table needs.
#[derive(serde::Deserialize)]
struct Measured {
    machine: String,
    date: String,
    job: String,
    dtype: String,
    who: String,
    seconds: f64,
    first_loss: Option<f64>,
    peak_memory_bytes: Option<f64>,
}

/// Machine, job, type.
type Job = (String, String, String);

const HEAD: &str =
    "| machine | job | type | TRL | engine | times faster | first loss | memory |\n|---|---|---|---|---|---|---|---|\n";

/// One line for each job of a machine that both were measured at; of several measurements the last one counts.
fn table(csv: &str) -> String {
    let mut jobs: Vec<(Job, BTreeMap<String, Measured>)> = Vec::new();
    for measured in csv::Reader::from_reader(csv.as_bytes()).deserialize() {
        let measured: Measured = measured.unwrap();
        let job: Job = (measured.machine.clone(), measured.job.clone(), measured.dtype.clone());
        match jobs.iter_mut().find(|(known, _)| *known == job) {
            Some((_, who)) => _ = who.insert(measured.who.clone(), measured),
            None => jobs.push((job, BTreeMap::from([(measured.who.clone(), measured)]))),
        }
    }
    let mut lines = HEAD.to_owned();
    for ((machine, job, dtype), who) in &jobs {
        let (Some(peer), Some(ours)) = (who.get("TRL"), who.get("engine")) else { continue };
        let both = |show: &dyn Fn(&Measured) -> Option<String>| {
            [peer, ours].into_iter().filter_map(show).collect::<Vec<_>>().join(", ")
        };
        let losses = both(&|of| Some(format!("{:.4}", of.first_loss?)));
        let memory = both(&|of| Some(format!("{:.1} GB", of.peak_memory_bytes? / 1e9)));
        lines += &format!(
            "| {machine}, {} | {job} | {dtype} | {:.2} s | {:.2} s | {:.1} | {losses} | {memory} |\n",
            ours.date,
            peer.seconds,
            ours.seconds,
            peer.seconds / ours.seconds
        );
    }
    lines
}

/// `ENGINE_UPDATE_README=1 cargo test --release --test cli -- comparison` writes it anew.
#[test]
fn the_table_is_what_was_measured() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let expected = table(&fs::read_to_string(root.join("benches/results/compare.csv")).unwrap());
    let readme = fs::read_to_string(root.join("README.md")).unwrap();
    let start = readme.find(HEAD).expect("the README has no table of the comparison");
    let end = start + readme[start..].find("\n\n").unwrap() + 1;
    if std::env::var("ENGINE_UPDATE_README").is_ok_and(|value| value == "1") {
        fs::write(root.join("README.md"), format!("{}{expected}{}", &readme[..start], &readme[end..])).unwrap();
        return;
    }
    assert!(readme[start..end] == expected, "the README's table is another than compare.csv gives:\n{expected}");
}

#[test]
fn the_last_measurement_counts_and_one_alone_is_no_comparison() {
    let csv = "date,machine,job,dtype,who,seconds,first_loss,peak_memory_bytes\n\
               2026-01-01,M,step,f32,TRL,10,7.5,2e9\n2026-01-01,M,step,f32,engine,4,7.5,1e9\n\
               2026-01-02,M,step,f32,engine,2,7.5,\n2026-01-02,M,score,f32,engine,3,,\n";
    let line = "| M, 2026-01-02 | step | f32 | 10.00 s | 2.00 s | 5.0 | 7.5000, 7.5000 | 2.0 GB |\n";
    assert_eq!(table(csv), format!("{HEAD}{line}"));
}
