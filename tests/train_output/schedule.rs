//! Learning rates against transformers' own schedules (see tests/fixtures/train_output/make_schedule_golden.py).

use engine::train::schedule::{Schedule, ScheduleKind, ScheduleKwargs, warmup_steps};
use serde::Deserialize;

#[derive(Deserialize)]
struct Case {
    kind: ScheduleKind,
    kwargs: ScheduleKwargs,
    warmup_steps: usize,
    total_steps: usize,
    learning_rate: f64,
    rates: Vec<f64>,
}

#[test]
fn every_step_has_the_rate_of_transformers() {
    let cases: Vec<Case> = serde_json::from_str(include_str!("../fixtures/train_output/schedule_golden.json")).unwrap();
    assert_eq!(cases.len(), 68);
    for case in cases {
        let Case { kind, kwargs, warmup_steps, total_steps, learning_rate, rates } = case;
        let schedule = Schedule { kind, kwargs, warmup_steps, total_steps, learning_rate };
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
    for kind in [ScheduleKind::Linear, ScheduleKind::Cosine, ScheduleKind::CosineWithRestarts] {
        let schedule = Schedule { kind, warmup_steps: 2, total_steps: 10, learning_rate: 1.0, ..Schedule::default() };
        for step in 10..30 {
            assert_eq!(schedule.at(step), 0.0, "{kind} step {step}");
        }
    }
}

#[test]
fn a_warmup_longer_than_the_run_never_reaches_the_peak() {
    let kind = ScheduleKind::Cosine;
    let schedule = Schedule { kind, warmup_steps: 20, total_steps: 10, learning_rate: 1.0, ..Schedule::default() };
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

#[test]
fn kwargs_are_read_from_json_or_pairs() {
    let expected = ScheduleKwargs { min_lr_rate: Some(0.1), num_cycles: Some(1.5), ..ScheduleKwargs::default() };
    for text in [
        "{\"min_lr_rate\": 0.1, \"num_cycles\": 1.5}",
        "min_lr_rate=0.1,num_cycles=1.5",
        " num_cycles = 1.5, min_lr_rate = 1e-1",
    ] {
        assert_eq!(ScheduleKwargs::parse(text).unwrap(), expected, "{text}");
    }
    assert_eq!(ScheduleKwargs::parse(&expected.to_string()).unwrap(), expected);
    for bad in ["power", "power=", "power=x", "cycles=2", "{\"power\": \"1\"}", "power=-1", "[1]", "power=1,power=2"] {
        let error = ScheduleKwargs::parse(bad).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{bad}");
    }
}

#[test]
fn kwargs_must_suit_the_schedule() {
    use ScheduleKind::*;
    for (kind, text, said) in [
        (Linear, "power=1", "`linear` does not take `power`; it takes nothing"),
        (Cosine, "min_lr=1", "`cosine` does not take `min_lr`; it takes `num_cycles`"),
        (CosineWithMinLr, "num_cycles=1", "needs `min_lr` or `min_lr_rate`"),
        (CosineWithMinLr, "min_lr=1e-6,min_lr_rate=0.1", "one of the two"),
        (Polynomial, "lr_end=0.1", "not below the peak"),
        (InverseSqrt, "timescale=0", "above 0"),
    ] {
        let error = ScheduleKwargs::parse(text).unwrap().check(kind, 1e-3).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains(said), "{error}");
    }
}
