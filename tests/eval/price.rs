//! The score of rounded weights beside that of the model as it is, and the limit on what it may fall by.

use engine::eval::price::PricedReport;
use engine::eval::report::{Answer, Report};
use engine::eval::verdict::Expected;
use serde_json::json;

const CALL: &str =
    "<start_function_call>call:weather{city:<escape>Oslo<escape>}<end_function_call><start_function_response>";
const OTHER_CITY: &str =
    "<start_function_call>call:weather{city:<escape>Rome<escape>}<end_function_call><start_function_response>";

/// A report on these answers where the weather in Oslo was asked for.
fn report(outputs: &[&str]) -> Report {
    let mut report = Report::default();
    for (i, output) in outputs.iter().enumerate() {
        let call = json!({"name": "weather", "arguments": {"city": "Oslo"}});
        let message = json!({"role": "assistant", "tool_calls": [call]});
        let answer = Answer { origin: format!("r:{i}"), output: (*output).to_owned(), ..Answer::default() };
        report.add(answer, Expected::from_messages(&[message]).unwrap(), &["weather".into()]);
    }
    report
}

fn priced() -> PricedReport {
    let before = report(&[CALL, CALL, CALL, "nothing"]);
    PricedReport::new("q4_0", before, report(&[CALL, OTHER_CITY, "nothing", CALL])).unwrap()
}

#[test]
fn each_part_of_the_score_has_its_difference() {
    let priced = priced();
    let found: Vec<_> = priced.price.iter().map(|p| (p.part, p.before, p.after, p.better, p.worse, p.points)).collect();
    assert_eq!(found[0], ("tool choice", 3, 3, 1, 1, 0.0));
    assert_eq!(found[3], ("strict: + arguments", 3, 2, 1, 2, -25.0));
    let table = priced.table();
    let line = table.lines().find(|line| line.starts_with("strict: + arguments")).unwrap();
    let words: Vec<&str> = line.split_whitespace().skip(3).collect();
    assert_eq!(words[..7], ["3", "of", "4", "2", "of", "4", "-25.0"]);
}

#[test]
fn a_fall_beyond_the_limit_is_an_error_that_names_the_part() {
    priced().check_drop(25.0).unwrap();
    let error = priced().check_drop(24.9).unwrap_err();
    assert_eq!(error.exit_code(), 1);
    let report = error.report();
    for part in ["as q4_0", "`strict: + arguments`", "25.0 points", "3 to 2 of 4", "--max-drop", "hint: "] {
        assert!(report.contains(part), "{part}: {report}");
    }
}

#[test]
fn reports_on_other_prompts_are_not_compared() {
    let fewer = report(&[CALL]);
    assert!(PricedReport::new("q4_0", report(&[CALL, CALL]), fewer).is_err());
}
