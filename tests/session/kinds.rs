//! Every kind of error, as a program that calls the library meets it.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;

use engine::data::dataset::{load_rows, train_test_split};
use engine::data::rows::RowOptions;
use engine::data::tools::load_tools;
use engine::device::{DType, Device, Tensor};
use engine::error::{Context, Error, Kind, Result};
use engine::session::{Checkpoint, ExampleOptions, Examples, Run};
use engine::train::options::TrainOptions;
use engine::{bail, err};

use crate::tiny::{config, model, weights};

fn kind<T>(result: Result<T>) -> Kind {
    result.err().expect("it is an error").kind()
}

fn file(text: &str, name: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, text).unwrap();
    let path = path.to_str().unwrap().to_owned();
    (folder, path)
}

const QUICKSTART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/quickstart");

#[test]
fn what_makes_no_sense_is_a_usage_error() {
    let options = TrainOptions { warmup_steps: 1.5, ..TrainOptions::default() };
    assert_eq!(kind(options.schedule(20)), Kind::Usage);
    let model = model::<f32>(&weights(&config(), 1));
    assert_eq!(kind(Run::prepare(model, crate::rows(), Vec::new(), options)), Kind::Usage);
    assert_eq!(kind(train_test_split(vec![1, 2, 3], 3.0, false, 1)), Kind::Usage);
}

#[test]
fn rows_and_tools_that_cannot_be_used_are_about_data() {
    let (_folder, rows) = file("{oops\n", "rows.jsonl");
    assert_eq!(kind(load_rows(&rows, &RowOptions::default())), Kind::Data);
    assert_eq!(kind(load_rows("no/such/rows.jsonl", &RowOptions::default())), Kind::Data);
    let (_folder, tools) = file("[]", "tools.json");
    assert_eq!(kind(load_tools(tools)), Kind::Data);
    let checkpoint = Checkpoint::open(&format!("{QUICKSTART}/model")).unwrap();
    let (tools, _) = load_tools(format!("{QUICKSTART}/tools.json")).unwrap();
    let row_options = RowOptions { tools: Some(tools), ..Default::default() };
    let rows = load_rows(&format!("{QUICKSTART}/train.jsonl"), &row_options).unwrap();
    let short = ExampleOptions { max_length: 10, ..ExampleOptions::default() };
    assert_eq!(kind(Examples::new(&checkpoint, &rows, &short)), Kind::Data);
    let model = model::<f32>(&weights(&config(), 1));
    assert_eq!(kind(Run::prepare(model, Vec::new(), Vec::new(), TrainOptions::default())), Kind::Data);
}

#[test]
fn a_model_folder_that_cannot_be_used_is_about_the_model() {
    assert_eq!(kind(Checkpoint::open("no/such/model")), Kind::Model);
    let (folder, _) = file("{}", "config.json");
    assert_eq!(kind(Checkpoint::open(folder.path().to_str().unwrap())), Kind::Model);
    // Its small files are fine, its weights are not there.
    let folder = tempfile::tempdir().unwrap();
    for name in ["config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"] {
        std::fs::copy(format!("{QUICKSTART}/model/{name}"), folder.path().join(name)).unwrap();
    }
    let checkpoint = Checkpoint::open(folder.path().to_str().unwrap()).unwrap();
    let device = engine::session::devices::open("cpu".parse().unwrap(), None).unwrap();
    assert_eq!(kind(checkpoint.load(&device)), Kind::Model);
}

/// The address of a hub that answers every request with `status`.
#[cfg(feature = "hub")]
fn refusing_hub(status: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let request = BufReader::new(&stream).lines().map_while(|line| line.ok());
            request.take_while(|line| !line.is_empty()).for_each(drop);
            let _ = write!(stream, "HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        }
    });
    address
}

#[cfg(feature = "hub")]
#[test]
fn what_the_hub_refuses_is_gated() {
    for (status, expected) in
        [("401 Unauthorized", Kind::Gated), ("403 Forbidden", Kind::Gated), ("404 Not Found", Kind::Other)]
    {
        let cache = tempfile::tempdir().unwrap();
        let hub = engine::hub::Hub {
            endpoint: refusing_hub(status),
            token: None,
            cache: cache.path().to_owned(),
            offline: false,
            patience: engine::hub::Hub::PATIENCE,
        };
        let error = engine::io::download::download_model(&hub, "google/tiny-it").unwrap_err();
        assert_eq!(error.kind(), expected, "{}", error.report());
        // The border of models does not cover it up, and names what has no kind yet.
        let at_the_border = error.or_kind(Kind::Model).kind();
        assert_eq!(at_the_border, if expected == Kind::Gated { Kind::Gated } else { Kind::Model });
    }
}

#[test]
fn a_tensor_that_no_memory_can_hold_is_out_of_memory() {
    let too_large = |device: &Device| Tensor::zeros(device, &[1 << 58], DType::F32);
    let error = too_large(&engine::host::device()).unwrap_err();
    assert_eq!(error.kind(), Kind::OutOfMemory);
    assert!(error.report().contains("a tensor of shape [288230376151711744]"), "{}", error.report());
    #[cfg(engine_emulated)]
    assert_eq!(kind(too_large(&engine::emulated::device().unwrap())), Kind::OutOfMemory);
}

#[test]
fn what_somebody_stopped_is_interrupted_and_reported_so() {
    let error = Error::interrupted("the model as of step 5 is saved");
    assert_eq!(error.kind(), Kind::Interrupted);
    assert_eq!(error.report(), "interrupted: the model as of step 5 is saved");
}

#[test]
fn a_fault_of_the_program_is_internal() {
    let fail = || -> Result<()> { bail!("internal: {} is not {}", 1, 2) };
    assert_eq!(kind(fail()), Kind::Internal);
    assert_eq!(err!("the disk refuses").kind(), Kind::Other);
}

#[test]
fn context_keeps_the_kind_and_borders_name_only_what_has_none() {
    let error = Error::usage("no").context("in a").context("in b");
    assert_eq!(error.kind(), Kind::Usage);
    let result: Result<()> = Err(error);
    assert_eq!(kind(result.context(|| "in c")), Kind::Usage);
    assert_eq!(Error::usage("no").or_kind(Kind::Data).kind(), Kind::Usage);
    assert_eq!(err!("no").or_kind(Kind::Data).kind(), Kind::Data);
    let foreign: Result<()> = "x".parse::<u32>().map(drop).context(|| "not a number");
    assert_eq!(kind(foreign), Kind::Other);
}

#[test]
fn exit_codes_follow_from_the_kind() {
    assert_eq!(Kind::Usage.exit_code(), 2);
    assert_eq!(Kind::Interrupted.exit_code(), 130);
    for kind in [Kind::Data, Kind::Model, Kind::Gated, Kind::OutOfMemory, Kind::Internal, Kind::Other] {
        assert_eq!(kind.exit_code(), 1);
    }
}
