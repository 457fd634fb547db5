//! The loss plot: what is in the SVG. (That it is legible was looked at; see `ENGINE_TEST_PLOT` to look again.)

use std::fs;

use engine::train::metrics::{Record, SummaryRecord};
use engine::train::plot::plot_losses;

use crate::{eval_record, train_record};

/// The SVG of `records`.
fn plot(records: &[Record]) -> String {
    plot_losses(records).unwrap().unwrap().svg
}

/// Eight epochs that fall as the tutorial's do.
fn tutorial_like() -> Vec<Record> {
    let mut records = Vec::new();
    for step in 1..=40 {
        records.push(Record::Train(train_record(step, 9.0 * (-(step as f64) / 5.0).exp() + 0.03)));
        if step % 5 == 0 {
            records.push(Record::Eval(eval_record(step / 5, 1.6 * (-(step as f64) / 5.0).exp() + 0.46)));
        }
    }
    records.push(Record::Summary(SummaryRecord { train_runtime: 1.0, peak_memory_bytes: None }));
    records
}

/// The points of the polyline of colour `color`.
fn polyline(svg: &str, color: &str) -> Vec<(f64, f64)> {
    let line =
        svg.lines().find(|line| line.starts_with("<polyline") && line.contains(color) && line.matches(',').count() > 2);
    let line = line.unwrap_or_else(|| panic!("no curve of {color} in {svg}"));
    let points = line.split("points=\"").nth(1).unwrap().split('"').next().unwrap();
    let number = |text: &str| text.parse::<f64>().unwrap();
    points.split_whitespace().map(|pair| pair.split_once(',').map(|(x, y)| (number(x), number(y))).unwrap()).collect()
}

const TRAINING: &str = "#1F77B4";
const VALIDATION: &str = "#D62728";

#[test]
fn both_curves_the_axes_and_the_legend_are_drawn() {
    let svg = plot(&tutorial_like());
    if let Ok(path) = std::env::var("ENGINE_TEST_PLOT") {
        fs::write(path, &svg).unwrap();
    }
    for text in ["epoch", "loss (nats per token)", "training", "validation", "Loss"] {
        assert!(svg.lines().any(|line| line == text), "no text `{text}`");
    }
    let (training, validation) = (polyline(&svg, TRAINING), polyline(&svg, VALIDATION));
    assert_eq!((training.len(), validation.len()), (40, 8));
    // Both end at epoch 8, the training loss below the validation loss (y grows downwards) and all of it inside the picture.
    assert_eq!(training[39].0, validation[7].0);
    assert!(training[39].1 > validation[7].1);
    assert!(training.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1), "{training:?}");
    assert!(training.iter().all(|&(x, y)| (0.0..=900.0).contains(&x) && (0.0..=540.0).contains(&y)));
}

#[test]
fn a_spike_is_cut_off_and_the_title_says_so() {
    let mut records = tutorial_like();
    records[30] = Record::Train(train_record(26, 1e6));
    let svg = plot(&records);
    assert!(svg.contains("are cut off)"));
    let training = polyline(&svg, TRAINING);
    // The first point is the highest of the others: the spike stops level with it.
    assert_eq!(training[25].1, training[0].1, "{training:?}");
    let lowest = training.iter().map(|point| point.1).fold(0.0, f64::max);
    assert!(lowest - training[0].1 > 300.0, "the rest is not flattened: {training:?}");
}

#[test]
fn losses_that_are_not_finite_are_left_out() {
    let mut records = tutorial_like();
    records[3] = Record::Train(train_record(4, f64::NAN));
    records[4] = Record::Train(train_record(5, f64::INFINITY));
    assert_eq!(polyline(&plot(&records), TRAINING).len(), 38);
}

#[test]
fn nothing_to_plot_is_no_picture() {
    assert!(plot_losses(&[]).unwrap().is_none());
    assert!(plot_losses(&[Record::Train(train_record(1, f64::NAN))]).unwrap().is_none());
}

/// The picture's size, and its pixels as red, green, blue.
fn pixels(records: &[Record]) -> ((u32, u32), Vec<[u8; 3]>) {
    let png = plot_losses(records).unwrap().unwrap().png;
    let mut reader = png::Decoder::new(std::io::Cursor::new(&png)).read_info().unwrap();
    let mut bytes = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut bytes).unwrap();
    ((info.width, info.height), bytes.chunks(3).map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect())
}

#[test]
fn the_png_shows_the_curves_and_has_letters_on_a_machine_without_fonts() {
    let (size, both) = pixels(&tutorial_like());
    assert_eq!((size, both.len()), ((900, 540), 900 * 540));
    let count = |pixels: &[[u8; 3]], color: [u8; 3]| pixels.iter().filter(|pixel| **pixel == color).count();
    let (training, validation) = ([0x1f, 0x77, 0xb4], [0xd6, 0x27, 0x28]);
    assert!(count(&both, training) > 500 && count(&both, validation) > 500);
    // Dark pixels are axes, which are thin, and letters.
    let dark = |rows: std::ops::Range<usize>| count(&both[900 * rows.start..900 * rows.end], [0, 0, 0]);
    assert!(dark(16..44) > 40, "the title, `Loss`");
    let (_, alone) = pixels(&tutorial_like()[..1]);
    assert_eq!(count(&alone, validation), 0);
}

#[test]
fn a_run_without_evaluation_has_no_validation_curve_and_one_step_is_a_dot() {
    let svg = plot(&[Record::Train(train_record(1, 2.0))]);
    assert!(!svg.contains("validation") && !svg.contains(VALIDATION));
    assert!(svg.lines().any(|line| line.starts_with("<circle") && line.contains(TRAINING)), "{svg}");
}

#[test]
fn odd_runs_still_give_a_picture() {
    plot(&[Record::Train(train_record(1, 2.0))]);
    plot(&[Record::Eval(eval_record(1, 2.0))]);
    plot(&[Record::Eval(eval_record(0, 0.0)), Record::Train(train_record(0, 0.0))]);
    plot(&[Record::Train(train_record(1, 1e300)), Record::Train(train_record(100_000, 1e-300))]);
}
