//! The loss plot: training and validation loss against epochs, as an SVG and as a PNG.

use std::fmt;
use std::sync::Once;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::register_font;

use super::metrics::Record;
use crate::err;
use crate::error::Result;

const SIZE: (u32, u32) = (900, 540);
const TRAINING: RGBColor = RGBColor(0x1f, 0x77, 0xb4);
const VALIDATION: RGBColor = RGBColor(0xd6, 0x27, 0x28);
const GRID: RGBColor = RGBColor(0xdd, 0xdd, 0xdd);
const FONT: &str = "sans-serif";

/// One curve: (epoch, loss), in order.
type Curve = Vec<(f64, f64)>;

/// The plot as files have it.
pub struct Plot {
    pub svg: String,
    pub png: Vec<u8>,
}

/// Draws the losses of `records`; None when none is finite.
///
/// Both axes begin at 0. A spike in the training loss that would flatten everything else is cut off, and the title says so.
///
/// # Errors
/// It cannot be drawn.
pub fn plot_losses(records: &[Record]) -> Result<Option<Plot>> {
    static REGISTERED: Once = Once::new();
    // The letters of the PNG, and the widths of those of the SVG. It fails for fonts that are none.
    REGISTERED.call_once(|| drop(register_font(FONT, FontStyle::Normal, dejavu::sans::regular())));
    let (training, validation) = curves(records);
    if training.is_empty() && validation.is_empty() {
        return Ok(None);
    }
    let (mut svg, mut pixels) = (String::new(), vec![0; 3 * (SIZE.0 * SIZE.1) as usize]);
    let cannot = |error: &dyn fmt::Display| err!("cannot draw the loss plot: {error}");
    draw(&SVGBackend::with_string(&mut svg, SIZE).into_drawing_area(), &training, &validation)
        .map_err(|e| cannot(&e))?;
    draw(&BitMapBackend::with_buffer(&mut pixels, SIZE).into_drawing_area(), &training, &validation)
        .map_err(|e| cannot(&e))?;
    let png = encoded(&pixels).map_err(|e| cannot(&e))?;
    Ok(Some(Plot { svg, png }))
}

/// Rows of red, green and blue as a PNG.
fn encoded(pixels: &[u8]) -> std::result::Result<Vec<u8>, png::EncodingError> {
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, SIZE.0, SIZE.1);
    encoder.set_color(png::ColorType::Rgb);
    encoder.write_header()?.write_image_data(pixels)?;
    Ok(file)
}

/// The training and the validation curve, without the points that are not finite.
fn curves(records: &[Record]) -> (Curve, Curve) {
    let (mut training, mut validation) = (Curve::new(), Curve::new());
    for record in records {
        match record {
            Record::Train(train) => training.push((train.epoch, train.loss)),
            Record::Eval(eval) => validation.push((eval.epoch, eval.eval_loss)),
            Record::Score(_) | Record::Summary(_) => {}
        }
    }
    let finite = |curve: &mut Curve| curve.retain(|(epoch, loss)| epoch.is_finite() && loss.is_finite());
    finite(&mut training);
    finite(&mut validation);
    (training, validation)
}

/// The top of the loss axis: the highest loss that is no spike. A spike is a training loss, not the first one, above three
/// times what nine in ten of them stay under, and above every validation loss.
fn top(training: &Curve, validation: &Curve) -> f64 {
    let mut losses: Vec<f64> = training.iter().map(|point| point.1).collect();
    losses.sort_by(f64::total_cmp);
    let usual = losses.get(losses.len() * 9 / 10).copied().unwrap_or(0.0);
    let kept = training.iter().take(1).chain(validation).map(|point| point.1).fold(0.0, f64::max);
    let limit = kept.max(3.0 * usual);
    let top = losses.into_iter().filter(|loss| *loss <= limit).fold(kept, f64::max);
    if top > 0.0 { top } else { 1.0 }
}

type DrawResult<B> = std::result::Result<(), DrawingAreaErrorKind<<B as DrawingBackend>::ErrorType>>;

fn draw<B: DrawingBackend>(area: &DrawingArea<B, Shift>, training: &Curve, validation: &Curve) -> DrawResult<B> {
    area.fill(&WHITE)?;
    let top = top(training, validation);
    let last_epoch = training.iter().chain(validation).map(|point| point.0).fold(0.0, f64::max);
    let cut = training.iter().any(|point| point.1 > top);
    let title = if cut { format!("Loss (values above {top:.3} are cut off)") } else { "Loss".to_owned() };

    let mut chart = ChartBuilder::on(area)
        .caption(title, (FONT, 24))
        .margin(16)
        .x_label_area_size(48)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..last_epoch.max(f64::MIN_POSITIVE), 0.0..top * 1.05)?;
    chart
        .configure_mesh()
        .x_desc("epoch")
        .y_desc("loss (nats per token)")
        .label_style((FONT, 15))
        .axis_desc_style((FONT, 17))
        .bold_line_style(GRID)
        .light_line_style(TRANSPARENT)
        .draw()?;
    // A line through one point would be invisible: it gets a dot. Evaluations are few, and all get one.
    let dot = if training.len() == 1 { 4 } else { 0 };
    let cut_off = training.iter().map(|&(epoch, loss)| (epoch, loss.min(top))).collect();
    for (name, curve, color, dot) in
        [("training", cut_off, TRAINING, dot), ("validation", validation.clone(), VALIDATION, 4)]
    {
        if curve.is_empty() {
            continue;
        }
        let style = color.stroke_width(2);
        chart
            .draw_series(LineSeries::new(curve, style).point_size(dot))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 24, y)], style));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE)
        .border_style(GRID)
        .label_font((FONT, 16))
        .draw()?;
    area.present()
}
