//! `--seeds N`: the run N times, each with an order of the rows of its own, and what that makes of the score.

use std::path::PathBuf;

use serde::Serialize;
use serde_json::json;

use super::job::{Before, Summary, mode, once};
use crate::cli::args::{LogFormat, TrainArgs};
use crate::cli::numbers::counted;
use crate::cli::out::{line, print, result, say};
use crate::error::{Context, Error, Result};
use crate::eval::report::Score;
use crate::eval::statistics::mean_interval;
use crate::eval::table::parts;
use crate::io::atomic::replace_file;
use crate::io::folder::OutputFolder;

/// The file with what came of all runs, in the output folder.
const SEEDS: &str = "seeds.json";

/// What came of one of the runs.
#[derive(Serialize)]
struct OfSeed {
    seed: u64,
    #[serde(flatten)]
    summary: Summary,
}

/// Trains with seeds `--seed`, `--seed` + 1, .., each in a folder `seed-S` of its own.
pub fn run(args: &TrainArgs, seeds: u64) -> Result<()> {
    check(args)?;
    let first = args.generation.seed;
    let runs: Vec<(u64, TrainArgs)> = (first..first.saturating_add(seeds)).map(|seed| (seed, args.of(seed))).collect();
    for (_, of) in &runs {
        OutputFolder::check(&of.output_dir, mode(of))?;
    }
    let (mut before, mut done) = (Before::default(), Vec::new());
    for (i, (seed, of)) in runs.iter().enumerate() {
        say(&format!("seed {seed}, run {} of {seeds}", i + 1));
        let ended = once(of, &mut before).map_err(|error| match done.len() {
            0 => error,
            n => error.context(format!("{} of {seeds} done", counted(n, "run"))),
        });
        let Some(summary) = ended? else { return Ok(()) };
        if args.log_format == LogFormat::Json {
            line(&json!({"type": "run", "seed": seed, "output_dir": summary.output_dir}))?;
        }
        done.push(OfSeed { seed: *seed, summary });
    }
    let all = json!({"runs": done, "tool_choice": tool_choice(&done)});
    let text = serde_json::to_string_pretty(&all).context(|| "internal: the scores are no JSON")? + "\n";
    replace_file(&args.output_dir.join(SEEDS), text.as_bytes())?;
    match args.log_format {
        LogFormat::Json => result(&all),
        LogFormat::Text => print(&table(&done)),
    }
}

/// What makes no sense with several runs.
fn check(args: &TrainArgs) -> Result<()> {
    let refuse = |what: &str, hint: &str| Err(Error::usage(format!("`--seeds` {what}")).hint(hint));
    if !args.shuffle {
        return refuse("with `--shuffle false`: all runs would be the same", "leave out one of the two");
    }
    if args.data_seed.is_some() {
        return refuse("sets `--data-seed`", "give `--seed` for the first one");
    }
    if args.hub.push_to_hub {
        return refuse(
            "makes several models, `--push-to-hub` pushes one",
            "push the one you choose with `engine push`",
        );
    }
    match args.resume_from_checkpoint.as_deref() {
        None | Some("latest") => Ok(()),
        Some(_) => {
            refuse("goes on from each run's newest checkpoint", "give `--resume-from-checkpoint` without a folder")
        }
    }
}

impl TrainArgs {
    /// The run of one seed: the same rows are held out and the same answers drawn, only the order of the rows is another.
    fn of(&self, seed: u64) -> Self {
        let output_dir: PathBuf = self.output_dir.join(format!("seed-{seed}"));
        Self { data_seed: Some(seed), output_dir, seeds: 1, ..self.clone() }
    }
}

/// The parts of a score by name.
type Parts = [(&'static str, usize); 5];

fn scores(runs: &[OfSeed]) -> Vec<(u64, &Score)> {
    runs.iter().filter_map(|run| Some((run.seed, run.summary.score_after.as_ref()?))).collect()
}

/// The mean share of right tools and its 95 % interval.
fn tool_choice(runs: &[OfSeed]) -> serde_json::Value {
    let shares: Vec<f64> = scores(runs).iter().map(|(_, s)| s.correct as f64 / s.total.max(1) as f64).collect();
    match mean_interval(&shares) {
        Some((mean, half)) => json!({"mean": mean, "interval_95": [mean - half, mean + half]}),
        None => json!(null),
    }
}

/// A line for each run, then their mean.
fn table(runs: &[OfSeed]) -> String {
    let scores = scores(runs);
    let Some((_, score)) = scores.first() else { return String::new() };
    let line = |name: &str, cells: Vec<String>| {
        format!("{name:<12}{}\n", cells.iter().map(|cell| format!("{cell:>20}")).collect::<String>())
    };
    let cells = |parts: Parts| parts.iter().map(|(_, count)| count.to_string()).collect::<Vec<_>>();
    let mut text =
        line(&format!("of {}", score.total), parts(score).iter().map(|(name, _)| (*name).to_owned()).collect());
    if let Some(before) = &runs[0].summary.score_before {
        text += &line("before", cells(parts(before)));
    }
    for (seed, score) in &scores {
        text += &line(&format!("seed {seed}"), cells(parts(score)));
    }
    let of_part = |i: usize| scores.iter().map(|(_, score)| parts(score)[i].1 as f64).collect::<Vec<f64>>();
    let mean = |i: usize| match mean_interval(&of_part(i)) {
        Some((mean, half)) => format!("{mean:.1} ± {half:.1}"),
        None => String::new(),
    };
    text += &line("mean", (0..5).map(mean).collect());
    text + "±: 95 % interval (t) of the mean over orders of the rows; the prompts are the same ones in every run\n"
}
