//! The quickstart through the library: a tiny model learns from 20 rows which of two search tools knows what.

use engine::chat::tokenizer::LossOn;
use engine::data::{dataset::load_rows, rows::RowOptions, tools::load_tools};
use engine::error::Result;
use engine::io::folder::{Existing, OutputFolder};
use engine::io::safetensors::SaveDtype;
use engine::session::{Checkpoint, DeviceName, ExampleOptions, Examples, Generation, Run, devices, score};
use engine::train::{options::TrainOptions, schedule::ScheduleKind};

fn main() -> Result<()> {
    let (tools, _) = load_tools("examples/quickstart/tools.json")?;
    let rows = RowOptions { tools: Some(tools), ..Default::default() };
    let train = load_rows("examples/quickstart/train.jsonl", &rows)?;
    let test = load_rows("examples/quickstart/test.jsonl", &rows)?;

    let checkpoint = Checkpoint::open("examples/quickstart/model")?;
    let model = checkpoint.load(&devices::open(DeviceName::Auto, None)?)?;
    let options = ExampleOptions { loss: Some(LossOn::Completion), ..Default::default() };
    let examples = |rows| Examples::new(&checkpoint, rows, &options);
    let (train, eval) = (examples(&train)?.examples, examples(&test)?.examples);
    let before = score(&checkpoint, &model, &test, &Generation::default(), |_, _| Ok(()))?;

    let options = TrainOptions {
        num_train_epochs: 8.0,
        per_device_train_batch_size: 4,
        learning_rate: 8e-4,
        lr_scheduler_type: ScheduleKind::Constant,
        shuffle: false,
        ..Default::default()
    };
    let mut run = Run::prepare(model, train, eval, options)?;
    run.run_to_end()?;
    let model = run.finish().model;
    let mut folder = OutputFolder::claim("target/quickstart/finetuned".as_ref(), Existing::Overwrite)?;
    checkpoint.save(&model, &mut folder, SaveDtype::Bf16)?;

    let after = score(&checkpoint, &model, &test, &Generation::default(), |_, _| Ok(()))?;
    let [before, after] = [before, after].map(|report| report.map_or(0, |report| report.score.correct));
    println!("right tool, of 20 prompts: {before} before, {after} after");
    Ok(())
}
