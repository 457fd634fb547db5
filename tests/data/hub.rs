//! Datasets of the hub, from a server of three dozen lines on this machine.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;

use engine::data::dataset::fetch_dataset;
use engine::hub::Hub;
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
    let info = json!({"sha": "abc", "siblings": [{"rfilename": "README.md"}, {"rfilename": "data/train.jsonl"}]});
    let (status, body) = match path {
        _ if status != 200 => (status, String::new()),
        "/api/datasets/owner/name/revision/main" => (200, info.to_string()),
        "/datasets/owner/name/resolve/abc/data/train.jsonl" => (200, TRAIN.to_string()),
        "/api/datasets/owner/hostile/revision/main" => {
            (200, json!({"sha": "abc", "siblings": [{"rfilename": "/etc/train.jsonl"}]}).to_string())
        }
        _ => (404, String::new()),
    };
    let head = format!(
        "HTTP/1.1 {status} X\r\netag: \"tag\"\r\nx-repo-commit: abc\r\n\
         content-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all((head + &body).as_bytes()).unwrap();
}

fn hub(status: u16, cache: &TempDir) -> Hub {
    Hub { endpoint: serve(status), token: None, cache: cache.path().into(), offline: false, patience: Hub::PATIENCE }
}

/// The address of a server that is gone.
fn closed() -> String {
    format!("http://{}", TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap())
}

#[test]
fn the_train_file_of_a_hub_dataset_is_downloaded() {
    let cache = tempfile::tempdir().unwrap();
    let picked = fetch_dataset(&hub(200, &cache), "owner/name", None).unwrap();
    assert!(picked.named_after_split);
    assert_eq!(std::fs::read_to_string(&picked.files[0]).unwrap(), TRAIN);
    assert!(picked.files[0].ends_with("data/train.jsonl"));
}

#[test]
fn a_file_name_that_leaves_the_dataset_is_refused() {
    let cache = tempfile::tempdir().unwrap();
    let report = fetch_dataset(&hub(200, &cache), "owner/hostile", None).unwrap_err().report();
    assert!(report.contains("`/etc/train.jsonl`") && report.contains("leads out of a folder"), "{report}");
}

#[test]
fn a_refusal_of_the_hub_says_what_to_do() {
    let cache = tempfile::tempdir().unwrap();
    let report = |status| fetch_dataset(&hub(status, &cache), "owner/name", None).unwrap_err().report();
    for status in [401, 403] {
        let report = report(status);
        assert!(
            report.contains("https://huggingface.co/datasets/owner/name") && report.contains("HF_TOKEN"),
            "{report}"
        );
    }
    assert!(report(404).contains("check the spelling"));
    assert!(report(500).contains("check the connection"));
}

#[test]
fn a_missing_split_of_a_hub_dataset_is_named() {
    let cache = tempfile::tempdir().unwrap();
    let report = fetch_dataset(&hub(200, &cache), "owner/name", Some("dev")).unwrap_err().report();
    assert!(report.contains("owner/name") && report.contains("`dev`"), "{report}");
}

#[test]
fn without_a_network_the_cache_serves_what_it_has_and_no_more() {
    let cache = tempfile::tempdir().unwrap();
    let files = fetch_dataset(&hub(200, &cache), "owner/name", None).unwrap().files;
    let cut_off = Hub { endpoint: closed(), ..hub(200, &cache) };
    let offline = Hub { offline: true, ..cut_off.clone() };
    for hub in [&cut_off, &offline] {
        assert_eq!(fetch_dataset(hub, "owner/name", None).unwrap().files, files);
    }
    let refusal = |hub: &Hub, split| fetch_dataset(hub, "owner/name", split).unwrap_err().report();
    for split in [Some("dev"), Some("test")] {
        assert!(refusal(&cut_off, split).contains("cannot get the dataset `owner/name`"));
        assert!(refusal(&offline, split).contains("HF_HUB_OFFLINE"));
    }
}

#[test]
fn a_cached_dataset_of_which_a_part_is_missing_is_not_taken_for_the_whole() {
    let cache = tempfile::tempdir().unwrap();
    let path = fetch_dataset(&hub(200, &cache), "owner/name", None).unwrap().files.remove(0);
    let part = |number: u32| path.replace("train.jsonl", &format!("train-0000{number}-of-00002.jsonl"));
    std::fs::rename(&path, part(0)).unwrap();
    let offline = Hub { offline: true, ..hub(200, &cache) };
    assert!(fetch_dataset(&offline, "owner/name", None).unwrap_err().report().contains("not whole in the cache"));
    std::fs::copy(part(0), part(1)).unwrap();
    assert_eq!(fetch_dataset(&offline, "owner/name", None).unwrap().files, [part(0), part(1)]);
}

#[test]
fn the_environment_says_where_the_cache_is_and_whether_to_use_the_network() {
    let (cache, model) = (tempfile::tempdir().unwrap(), crate::tiny::folder());
    let preview = |endpoint: &str, offline: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_engine"));
        command.args(["preview", "--dataset", "owner/name", "--model"]).arg(model.path());
        command.env("HF_HUB_CACHE", cache.path()).env("HF_ENDPOINT", endpoint).env("HF_HUB_OFFLINE", offline);
        let output = command.env_remove("HF_TOKEN").output().unwrap();
        (output.status.success(), String::from_utf8(output.stderr).unwrap())
    };
    let server = serve(200);
    let (made, said) = preview(&server, "1");
    assert!(!made && said.contains("unset `HF_HUB_OFFLINE`"), "{said}");
    assert!(preview(&server, "0").0);
    assert!(cache.path().join("datasets--owner--name").is_dir());
    assert!(preview(&closed(), "1").0);
}
