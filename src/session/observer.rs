//! Who is told what a run measures.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::io::atomic::replace_file;
use crate::train::metrics::{MetricsWriter, Record};
use crate::train::plot::plot_losses;
use crate::train::tensorboard::EventWriter;

/// Is told what a run measures, as it happens. One that fails is told no more, and the run goes on: a run is worth more
/// than its record.
pub trait Observer {
    /// A training step, an evaluation, or at the end the summary.
    fn record(&mut self, record: &Record) -> Result<()>;

    /// Another observer has failed.
    fn warning(&mut self, _warning: &Error) {}

    /// The run is over, however it ended; the summary has been told.
    fn end(&mut self) -> Result<()> {
        Ok(())
    }
}

/// `metrics.jsonl`.
impl Observer for MetricsWriter {
    fn record(&mut self, record: &Record) -> Result<()> {
        self.write(record).map_err(|error| error.context("no more metrics are written"))
    }
}

/// TensorBoard's event file.
impl Observer for EventWriter {
    fn record(&mut self, record: &Record) -> Result<()> {
        self.write(record).map_err(|error| error.context("no more events are written for TensorBoard"))
    }
}

/// Draws the losses when the run is over.
#[derive(Debug)]
pub struct LossPlot {
    svg: PathBuf,
    png: PathBuf,
    records: Vec<Record>,
}

impl LossPlot {
    /// Files at these places, of what the run has measured `before` and will yet.
    pub fn new(svg: &Path, png: &Path, before: Vec<Record>) -> Self {
        Self { svg: svg.to_owned(), png: png.to_owned(), records: before }
    }

    fn draw(&self) -> Result<()> {
        let Some(plot) = plot_losses(&self.records)? else { return Ok(()) };
        replace_file(&self.svg, plot.svg.as_bytes())?;
        replace_file(&self.png, &plot.png)
    }
}

impl Observer for LossPlot {
    fn record(&mut self, record: &Record) -> Result<()> {
        self.records.push(record.clone());
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        self.draw().map_err(|error| error.context("there is no loss plot"))
    }
}
