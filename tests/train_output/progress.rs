//! Progress in lines, as it goes to a log file. (A bar needs a terminal.)

use std::io::{self, Write};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use engine::cli::progress::Progress;

use crate::{eval_record, train_record};

/// A writer that keeps what it is given.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn lines(&self) -> Vec<String> {
        let bytes = self.0.lock().unwrap();
        String::from_utf8(bytes.clone()).unwrap().lines().map(str::to_owned).collect()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_log_gets_one_line_for_each_record() {
    let log = Log::default();
    let mut progress = Progress::training_lines(7, Box::new(log.clone()));
    for step in [3, 6, 7] {
        progress.step(&train_record(step, 1.0));
    }
    let steps: Vec<String> = log.lines().iter().map(|line| line.split("  ").next().unwrap().to_owned()).collect();
    assert_eq!(steps, ["step 3/7", "step 6/7", "step 7/7"]);
    assert_eq!(
        log.lines()[2],
        "step 7/7  epoch 1.40, loss 1.0000, grad norm 122.61, learning rate 5.00e-5, 1,296 tokens/s, 0.0s left"
    );
}

#[test]
fn the_time_left_goes_by_the_steps_after_the_first() {
    let log = Log::default();
    let mut progress = Progress::training_lines(3600 * 2 + 2, Box::new(log.clone()));
    // The first step takes longer than the others: it makes memory, and what came before counts to it.
    progress.step(&train_record(1, 1.0));
    assert!(log.lines()[0].ends_with(" tokens/s"), "{:?}", log.lines());
    // On a busy machine the sleep is longer, and so is what it says: not shorter.
    let before = Instant::now();
    std::thread::sleep(Duration::from_millis(1020));
    progress.step(&train_record(2, 1.0));
    let slept = before.elapsed().as_secs_f64();
    let minutes = |seconds: f64| seconds as u64 * 2;
    let expected = minutes(1.02 * 60.0)..=minutes(slept * 61.0);
    let said = log.lines()[1].clone();
    let said_minutes = expected.clone().find(|n| said.ends_with(&format!(", {}h {:02}m left", n / 60, n % 60)));
    assert!(said_minutes.is_some(), "{said}; expected {expected:?} minutes");
    progress.step(&train_record(66, 1.0));
    assert!(log.lines()[2].ends_with("s left") && log.lines()[2].contains(", 1m "), "{:?}", log.lines());
}

#[test]
fn evaluations_and_messages_are_lines_between_the_steps() {
    let log = Log::default();
    let mut progress = Progress::training_lines(2, Box::new(log.clone()));
    progress.step(&train_record(1, 1.0));
    progress.evaluation(&eval_record(1, 0.6487));
    progress.println("saved");
    progress.step(&train_record(2, 0.5));
    progress.finish();
    let lines = log.lines();
    assert_eq!(lines.len(), 5, "{lines:?}");
    assert_eq!(lines[1], "evaluation  epoch 1.00, loss 0.6487, entropy 0.2500, token accuracy 0.9375");
    assert_eq!(lines[2], "saved");
    assert!(lines[4].starts_with("training: 2 of 2 in 0."), "{lines:?}");
}

#[test]
fn a_counter_says_at_the_end_how_much_was_done() {
    let log = Log::default();
    let mut progress = Progress::counter_lines("score before", 20, Box::new(log.clone()));
    progress.set_done(12);
    progress.set_done(20);
    assert_eq!(log.lines(), [""; 0]);
    progress.finish();
    assert!(log.lines()[0].starts_with("score before: 20 of 20 in "), "{:?}", log.lines());
}

#[test]
fn a_counter_of_nobody_knows_how_many_says_at_the_end_how_many_they_were() {
    let log = Log::default();
    let mut progress = Progress::counter_lines("reading rows", 0, Box::new(log.clone()));
    progress.set_done(4096);
    progress.finish();
    assert!(log.lines()[0].starts_with("reading rows: 4096 in "), "{:?}", log.lines());
}

#[test]
fn numbers_that_are_not_finite_are_shown_and_do_no_harm() {
    let log = Log::default();
    let mut progress = Progress::training_lines(0, Box::new(log.clone()));
    let record = engine::train::metrics::TrainRecord { tokens_per_second: f64::INFINITY, ..train_record(0, f64::NAN) };
    progress.step(&record);
    assert!(log.lines()[0].contains("loss NaN"), "{:?}", log.lines());
    let mut endless = Progress::training_lines(u64::MAX, Box::new(log.clone()));
    std::thread::sleep(Duration::from_millis(1100));
    endless.step(&train_record(0, 1.0));
    assert_eq!(log.lines().len(), 2);
}

#[test]
fn a_writer_that_is_gone_does_not_stop_the_run() {
    struct Closed;
    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut progress = Progress::training_lines(1, Box::new(Closed));
    progress.step(&train_record(1, 1.0));
    progress.finish();
}
