//! The names of what a run writes beside its model, and replaces with it.

/// The run's records, one JSON object a line.
pub const METRICS: &str = "metrics.jsonl";
/// The same for TensorBoard, which knows event files by the word in their name.
pub const EVENTS: &str = "events.out.tfevents.engine";
/// The loss plot, drawn at the end.
pub const PLOT: &str = "loss.svg";
/// The same in pixels.
pub const PLOT_PNG: &str = "loss.png";
/// What the run is and was: settings, versions, data, scores.
pub const ABOUT: &str = "run.json";
/// The answers before training, all of them in full.
pub const ANSWERS_BEFORE: &str = "score_before.json";
/// The answers after training, all of them in full.
pub const ANSWERS_AFTER: &str = "score_after.json";
/// All of it on one page.
pub const PAGE: &str = "report.html";

/// All of them.
pub const RUN_FILES: [&str; 8] = [METRICS, EVENTS, PLOT, PLOT_PNG, ABOUT, ANSWERS_BEFORE, ANSWERS_AFTER, PAGE];
