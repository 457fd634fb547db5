//! Datasets of the hub, from a server of three dozen lines on this machine.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};

use engine::data::hub::fetch_dataset_from;
use hf_hub::api::sync::ApiBuilder;
use serde_json::json;
use tempfile::TempDir;

const TRAIN: &str = "{\"text\": \"a\"}\n";

/// Serves the dataset `owner/name` with `data/train.jsonl`, or `status` for everything; returns its address.
fn serve(status: u16) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || listener.incoming().flatten().for_each(|stream| answer(stream, status)));
    address
}

fn answer(mut stream: TcpStream, status: u16) {
    let lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
    let request: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
    let path = request.first().and_then(|line| line.split(' ').nth(1)).unwrap_or("");
    let ranged = request.iter().any(|line| line.eq_ignore_ascii_case("range: bytes=0-0"));
    let info = json!({"sha": "abc", "siblings": [{"rfilename": "README.md"}, {"rfilename": "data/train.jsonl"}]});
    let (status, body) = match path {
        _ if status != 200 => (status, String::new()),
        "/api/datasets/owner/name/revision/main" => (200, info.to_string()),
        "/datasets/owner/name/resolve/main/data/train.jsonl" if ranged => (206, TRAIN[..1].to_string()),
        "/datasets/owner/name/resolve/main/data/train.jsonl" => (200, TRAIN.to_string()),
        _ => (404, String::new()),
    };
    let head = format!(
        "HTTP/1.1 {status} X\r\netag: \"tag\"\r\nx-repo-commit: abc\r\ncontent-range: bytes 0-0/{}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        TRAIN.len(),
        body.len()
    );
    stream.write_all((head + &body).as_bytes()).unwrap();
}

fn hub(status: u16, cache: &TempDir) -> ApiBuilder {
    let builder = ApiBuilder::new().with_endpoint(serve(status)).with_token(None).with_progress(false);
    builder.with_cache_dir(cache.path().to_path_buf())
}

#[test]
fn the_train_file_of_a_hub_dataset_is_downloaded() {
    let cache = tempfile::tempdir().unwrap();
    let picked = fetch_dataset_from(hub(200, &cache), "owner/name", None).unwrap();
    assert!(picked.named_after_split);
    assert_eq!(std::fs::read_to_string(&picked.files[0]).unwrap(), TRAIN);
    assert!(picked.files[0].ends_with("data/train.jsonl"));
}

#[test]
fn a_refusal_of_the_hub_says_what_to_do() {
    let cache = tempfile::tempdir().unwrap();
    let report = |status| fetch_dataset_from(hub(status, &cache), "owner/name", None).unwrap_err().report();
    for status in [401, 403] {
        let report = report(status);
        assert!(
            report.contains("https://huggingface.co/datasets/owner/name") && report.contains("HF_TOKEN"),
            "{report}"
        );
    }
    assert!(report(404).contains("check the spelling"));
    assert!(report(500).contains("check the network"));
}

#[test]
fn a_missing_split_of_a_hub_dataset_is_named() {
    let cache = tempfile::tempdir().unwrap();
    let report = fetch_dataset_from(hub(200, &cache), "owner/name", Some("dev")).unwrap_err().report();
    assert!(report.contains("owner/name") && report.contains("`dev`"), "{report}");
}
