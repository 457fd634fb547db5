//! The README's comparison with TRL, table and plot, is what `benches/compare/run` wrote into benches/results/compare.csv.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use plotters::prelude::*;

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

/// The jobs of a machine that both were measured at, the peer first; of several measurements the last one counts.
fn pairs(csv: &str) -> Vec<(Job, Measured, Measured)> {
    let mut jobs: Vec<(Job, BTreeMap<String, Measured>)> = Vec::new();
    for measured in csv::Reader::from_reader(csv.as_bytes()).deserialize() {
        let measured: Measured = measured.unwrap();
        let job: Job = (measured.machine.clone(), measured.job.clone(), measured.dtype.clone());
        match jobs.iter_mut().find(|(known, _)| *known == job) {
            Some((_, who)) => _ = who.insert(measured.who.clone(), measured),
            None => jobs.push((job, BTreeMap::from([(measured.who.clone(), measured)]))),
        }
    }
    let both = |(job, mut who): (Job, BTreeMap<_, _>)| Some((job, who.remove("TRL")?, who.remove("engine")?));
    jobs.into_iter().filter_map(both).collect()
}

/// Steps on a GPU take milliseconds.
fn shown(seconds: f64) -> String {
    if seconds < 1.0 { format!("{:.2} ms", 1e3 * seconds) } else { format!("{seconds:.2} s") }
}

/// A line for each job.
fn table(csv: &str) -> String {
    let mut lines = HEAD.to_owned();
    for ((machine, job, dtype), peer, ours) in pairs(csv) {
        let both = |show: &dyn Fn(&Measured) -> Option<String>| {
            [&peer, &ours].into_iter().filter_map(show).collect::<Vec<_>>().join(", ")
        };
        let losses = both(&|of| Some(format!("{:.4}", of.first_loss?)));
        let memory = both(&|of| Some(format!("{:.1} GB", of.peak_memory_bytes? / 1e9)));
        lines += &format!(
            "| {machine}, {} | {job} | {dtype} | {} | {} | {:.1} | {losses} | {memory} |\n",
            ours.date,
            shown(peer.seconds),
            shown(ours.seconds),
            peer.seconds / ours.seconds
        );
    }
    lines
}

const WIDTH: u32 = 900;
/// Height of a job: a line of text and two bars.
const JOB: i32 = 76;
/// Length in pixels of the longest bar of a machine.
const LONGEST: f64 = 700.0;
const PEER: RGBColor = RGBColor(0xaa, 0xaa, 0xaa);
const OURS: RGBColor = RGBColor(0x1f, 0x77, 0xb4);

/// How long a bar is, in pixels: proportional to the seconds, for each job on its own.
fn bar(seconds: f64, longest: f64) -> i32 {
    (LONGEST * seconds / longest).round().max(1.0) as i32
}

/// The table's seconds as an SVG: two bars for each job.
fn plot(csv: &str) -> String {
    let jobs = pairs(csv);
    let mut svg = String::new();
    let area = SVGBackend::with_string(&mut svg, (WIDTH, JOB as u32 * jobs.len() as u32 + 8)).into_drawing_area();
    area.fill(&WHITE).unwrap();
    for (i, ((machine, job, dtype), peer, ours)) in jobs.iter().enumerate() {
        let top = 8 + JOB * i as i32;
        let font = ("sans-serif", 18).into_font();
        area.draw(&Text::new(format!("{job}, {dtype}; {machine}"), (8, top), font.clone())).unwrap();
        let longest = peer.seconds.max(ours.seconds);
        for (line, (who, of, color)) in [("TRL", peer, PEER), ("engine", ours, OURS)].into_iter().enumerate() {
            let y = top + 22 + 22 * line as i32;
            let end = 64 + bar(of.seconds, longest);
            area.draw(&Text::new(who, (8, y), font.clone())).unwrap();
            area.draw(&Rectangle::new([(64, y), (end, y + 16)], color.filled())).unwrap();
            area.draw(&Text::new(shown(of.seconds), (end + 8, y), font.clone())).unwrap();
        }
    }
    area.present().unwrap();
    drop(area);
    svg
}

fn updates() -> bool {
    std::env::var("ENGINE_UPDATE_README").is_ok_and(|value| value == "1")
}

/// The measurements, and a path from the project's root.
fn measured_and(name: &str) -> (String, PathBuf) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    (fs::read_to_string(root.join("benches/results/compare.csv")).unwrap(), root.join(name))
}

/// `ENGINE_UPDATE_README=1 cargo test --release --test cli -- comparison` writes it anew.
#[test]
fn the_table_is_what_was_measured() {
    let (csv, path) = measured_and("README.md");
    let expected = table(&csv);
    let readme = fs::read_to_string(&path).unwrap();
    let start = readme.find(HEAD).expect("the README has no table of the comparison");
    let end = start + readme[start..].find("\n\n").unwrap() + 1;
    if updates() {
        fs::write(path, format!("{}{expected}{}", &readme[..start], &readme[end..])).unwrap();
        return;
    }
    assert!(readme[start..end] == expected, "the README's table is another than compare.csv gives:\n{expected}");
}

/// Written anew as the table is.
#[test]
fn the_plot_is_what_was_measured() {
    let (csv, path) = measured_and("benches/results/compare.svg");
    let expected = plot(&csv);
    if updates() {
        fs::write(path, expected).unwrap();
        return;
    }
    assert!(fs::read_to_string(path).unwrap() == expected, "compare.svg is another than compare.csv gives");
}

#[test]
fn a_bar_is_as_long_as_its_seconds() {
    let csv = "date,machine,job,dtype,who,seconds,first_loss,peak_memory_bytes\n\
               2026-01-01,M,step & more,f32,TRL,10,7.5,2e9\n2026-01-01,M,step & more,f32,engine,4,7.5,1e9\n\
               2026-01-01,M,alone,f32,engine,4,7.5,1e9\n";
    let svg = plot(csv);
    let widths: Vec<&str> = svg.split("<rect ").skip(2).map(|rest| attribute(rest, "width")).collect();
    assert_eq!(widths, ["700", "280"], "{svg}");
    assert!(svg.contains("step &amp; more, f32; M") && svg.contains("10.00 s") && svg.contains("4.00 s"), "{svg}");
    assert!(!svg.contains("alone"));
}

/// The value of an element's attribute.
fn attribute<'a>(element: &'a str, name: &str) -> &'a str {
    element.split_once(&format!(" {name}=\"")).unwrap().1.split_once('"').unwrap().0
}

#[test]
fn the_last_measurement_counts_and_one_alone_is_no_comparison() {
    let csv = "date,machine,job,dtype,who,seconds,first_loss,peak_memory_bytes\n\
               2026-01-01,M,step,f32,TRL,10,7.5,2e9\n2026-01-01,M,step,f32,engine,4,7.5,1e9\n\
               2026-01-02,M,step,f32,engine,2,7.5,\n2026-01-02,M,score,f32,engine,3,,\n\
               2026-01-03,M,step,bf16,TRL,0.05,,\n2026-01-03,M,step,bf16,engine,0.005,,\n";
    let line = "| M, 2026-01-02 | step | f32 | 10.00 s | 2.00 s | 5.0 | 7.5000, 7.5000 | 2.0 GB |\n";
    let of_gpu = "| M, 2026-01-03 | step | bf16 | 50.00 ms | 5.00 ms | 10.0 |  |  |\n";
    assert_eq!(table(csv), format!("{HEAD}{line}{of_gpu}"));
}
