//! Learning rates against transformers' own schedules (see tests/fixtures/train_output/make_schedule_golden.py).

use engine::train::schedule::{Schedule, ScheduleKind, warmup_steps};
use serde::Deserialize;

#[derive(Deserialize)]
struct Case {
    kind: ScheduleKind,
    warmup_steps: usize,
    total_steps: usize,
    learning_rate: f64,
    rates: Vec<f64>,
}

#[test]
fn every_step_has_the_rate_of_transformers() {
    let cases: Vec<Case> = serde_json::from_str(include_str!("../fixtures/train_output/schedule_golden.json")).unwrap();
    assert_eq!(cases.len(), 18);
    for case in cases {
        let Case { kind, warmup_steps, total_steps, learning_rate, rates } = case;
        let schedule = Schedule { kind, warmup_steps, total_steps, learning_rate };
        for (step, rate) in rates.into_iter().enumerate() {
            let error = (schedule.at(step) - rate).abs();
            // The same formula in f64, evaluated in another order: a few roundings of values up to the peak.
            assert!(
                error <= 4.0 * f64::EPSILON * learning_rate,
                "{schedule:?} step {step}: {} is not {rate}",
                schedule.at(step)
            );
        }
    }
}

#[test]
fn past_the_end_the_rate_stays_at_zero() {
    for kind in [ScheduleKind::Linear, ScheduleKind::Cosine] {
        let schedule = Schedule { kind, warmup_steps: 2, total_steps: 10, learning_rate: 1.0 };
        for step in 10..30 {
            assert_eq!(schedule.at(step), 0.0, "{kind} step {step}");
        }
    }
}

#[test]
fn a_warmup_longer_than_the_run_never_reaches_the_peak() {
    let schedule = Schedule { kind: ScheduleKind::Cosine, warmup_steps: 20, total_steps: 10, learning_rate: 1.0 };
    assert_eq!(schedule.at(10), 0.5);
}

#[test]
fn warmup_is_a_number_of_steps_or_a_part_of_the_run() {
    for (value, steps) in [(0.0, 0), (0.1, 3), (0.04, 1), (0.999, 25), (1.0, 1), (7.0, 7), (100.0, 100)] {
        assert_eq!(warmup_steps(value, 25).unwrap(), steps, "{value}");
    }
    for value in [-1.0, -0.1, 2.5, f64::NAN, f64::INFINITY] {
        let error = warmup_steps(value, 25).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains(&format!("--warmup-steps {value}")), "{error}");
    }
}
