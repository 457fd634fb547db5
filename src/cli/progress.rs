//! How a run talks while it works: a bar where stderr is a terminal, plain lines where it is not.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::error::{Error, Result};
use crate::session::Observer;
use crate::train::metrics::{EvalRecord, Record, TrainRecord};

/// The progress of one job, on stderr.
pub struct Progress {
    output: Output,
    /// What is counted.
    name: String,
    /// 0: nobody knows.
    total: u64,
    done: u64,
    started: Instant,
    /// What was done, and when, at the first thing that was: it takes longer than the others.
    first: Option<(u64, Instant)>,
}

enum Output {
    Bar(ProgressBar),
    Lines(Box<dyn Write + Send>),
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Progress({}: {} of {})", self.name, self.done, self.total)
    }
}

impl Progress {
    /// Training for `total_steps` optimizer steps, `before` of which are done. Where stderr is no terminal, each record is a
    /// line.
    pub fn training(total_steps: u64, before: u64) -> Self {
        let output = stderr_output(total_steps, "{prefix} {bar:20} {pos}/{len}  {msg}");
        Self { done: before, ..Self::on(output, "training", total_steps) }
    }

    /// Anything that is counted up to `total`, e.g. prompts under `score before`. Where stderr is no terminal, one line at
    /// the end.
    pub fn counter(name: &str, total: u64) -> Self {
        Self::on(stderr_output(total, "{prefix} {bar:20} {pos}/{len}, {eta} left"), name, total)
    }

    /// [`counter`](Self::counter) of things whose number is known at the end only.
    pub fn tally(name: &str) -> Self {
        Self::on(stderr_output(0, "{prefix} {spinner} {human_pos}"), name, 0)
    }

    /// [`training`](Self::training) in lines to `writer`, whatever stderr is.
    pub fn training_lines(total_steps: u64, writer: Box<dyn Write + Send>) -> Self {
        Self::on(Output::Lines(writer), "training", total_steps)
    }

    /// [`counter`](Self::counter) in lines to `writer`, whatever stderr is.
    pub fn counter_lines(name: &str, total: u64, writer: Box<dyn Write + Send>) -> Self {
        Self::on(Output::Lines(writer), name, total)
    }

    fn on(output: Output, name: &str, total: u64) -> Self {
        if let Output::Bar(bar) = &output {
            bar.set_prefix(name.to_owned());
            bar.enable_steady_tick(Duration::from_millis(500));
        }
        Self { output, name: name.to_owned(), total, done: 0, started: Instant::now(), first: None }
    }

    /// Shows what training steps up to `record.step` measured.
    pub fn step(&mut self, record: &TrainRecord) {
        self.done = record.step;
        let left = self.time_left().map(|left| format!(", {} left", duration_text(left))).unwrap_or_default();
        let speed = format!("{} tokens/s{left}", HumanCount(record.tokens_per_second as u64));
        match &mut self.output {
            Output::Bar(bar) => {
                bar.set_position(record.step);
                bar.set_message(format!("loss {:.4}, {speed}", record.loss));
            }
            Output::Lines(writer) => {
                write_line(writer, &format!("step {}/{}  {}, {speed}", record.step, self.total, step_text(record)));
            }
        }
    }

    /// Shows an evaluation, as a line that stays.
    pub fn evaluation(&mut self, record: &EvalRecord) {
        self.println(&format!(
            "evaluation  epoch {:.2}, loss {:.4}, entropy {:.4}, token accuracy {:.4}",
            record.epoch, record.eval_loss, record.eval_entropy, record.eval_mean_token_accuracy
        ));
    }

    /// Shows that `done` of the total are done.
    pub fn set_done(&mut self, done: u64) {
        self.done = done;
        if let Output::Bar(bar) = &self.output {
            bar.set_position(self.done);
        }
    }

    /// Prints a line that stays, above the bar if there is one.
    pub fn println(&mut self, line: &str) {
        match &mut self.output {
            Output::Bar(bar) => bar.println(line),
            Output::Lines(writer) => write_line(writer, line),
        }
    }

    /// Ends the job: the bar goes, one line that says how much was done in what time stays.
    pub fn finish(&mut self) {
        if let Output::Bar(bar) = &self.output {
            bar.finish_and_clear();
        }
        let elapsed = duration_text(self.started.elapsed());
        let of_total = if self.total > 0 { format!(" of {}", self.total) } else { String::new() };
        let line = format!("{}: {}{of_total} in {elapsed}", self.name, self.done);
        self.println(&line);
    }

    /// The time that the rest takes if it goes on as it went since the first thing was done; None at that.
    fn time_left(&mut self) -> Option<Duration> {
        let (first, at) = *self.first.get_or_insert((self.done, Instant::now()));
        let done = self.done.checked_sub(first).filter(|done| *done > 0)?;
        let left = self.total.saturating_sub(self.done) as f64;
        let seconds = at.elapsed().as_secs_f64() * left / done as f64;
        Some(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))
    }
}

impl Observer for Progress {
    fn record(&mut self, record: &Record) -> Result<()> {
        match record {
            Record::Train(train) => self.step(train),
            Record::Eval(eval) => self.evaluation(eval),
            Record::Score(_) | Record::Summary(_) => {}
        }
        Ok(())
    }

    fn warning(&mut self, warning: &Error) {
        self.println(&warning.warning());
    }

    fn end(&mut self) -> Result<()> {
        self.finish();
        Ok(())
    }
}

/// A bar for a download where stderr is a terminal.
#[cfg(feature = "hub")]
pub fn of_download() -> Box<dyn hf_hub::api::Progress> {
    match io::stderr().is_terminal() {
        true => Box::new(ProgressBar::new(0)),
        false => Box::new(()),
    }
}

fn stderr_output(total: u64, style: &str) -> Output {
    if !io::stderr().is_terminal() {
        return Output::Lines(Box::new(io::stderr()));
    }
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar());
    Output::Bar(bar.with_style(style.progress_chars("█▉▊▋▌▍▎▏ ")))
}

fn step_text(record: &TrainRecord) -> String {
    let TrainRecord { epoch, loss, grad_norm, learning_rate, .. } = record;
    let rate = if *learning_rate == 0.0 { "0".to_owned() } else { format!("{learning_rate:.2e}") };
    format!("epoch {epoch:.2}, loss {loss:.4}, grad norm {grad_norm:.2}, learning rate {rate}")
}

/// `4.2s`, `1m 05s` or `2h 07m`.
fn duration_text(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..60 => format!("{:.1}s", duration.as_secs_f64()),
        60..3600 => format!("{}m {:02}s", seconds / 60, seconds % 60),
        _ => format!("{}h {:02}m", seconds / 3600, seconds % 3600 / 60),
    }
}

/// A closed stderr must not end a training run: errors are dropped.
fn write_line(writer: &mut dyn Write, line: &str) {
    let _ = writeln!(writer, "{line}").and_then(|()| writer.flush());
}
