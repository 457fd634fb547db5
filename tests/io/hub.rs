//! The hub, played by a server on localhost.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use engine::error::Result;
use engine::hub::{Hub, is_hub_id};
use engine::io::download::download_model;
use engine::io::safetensors::{SaveDtype, read_model, write_model};
use engine::io::source::{ModelSource, resolve_model};

use crate::tiny::{assert_fails, config_value, specs, weights};

const ID: &str = "google/tiny-it";

/// The files of the model, and every request as `path authorization`.
struct Server {
    status: u16,
    files: HashMap<String, Vec<u8>>,
    requests: Mutex<Vec<String>>,
}

/// Starts a server that answers every request with `status` when that is not 200; gives its address.
fn serve(status: u16, files: HashMap<String, Vec<u8>>) -> (String, Arc<Server>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let server = Arc::new(Server { status, files, requests: Mutex::default() });
    let shared = Arc::clone(&server);
    std::thread::spawn(move || listener.incoming().for_each(|stream| answer(stream.unwrap(), &shared)));
    (endpoint, server)
}

fn answer(mut stream: TcpStream, server: &Server) {
    let lines = BufReader::new(&stream).lines().map_while(Result::ok).take_while(|line| !line.is_empty());
    let lines: Vec<String> = lines.collect();
    let header = |name: &str| {
        let value = |line: &str| {
            let (key, value) = line.split_once(": ")?;
            key.eq_ignore_ascii_case(name).then(|| value.to_string())
        };
        lines.iter().find_map(|line| value(line))
    };
    let path = lines.first().and_then(|line| line.split(' ').nth(1)).unwrap_or_default();
    server.requests.lock().unwrap().push(format!("{path} {}", header("authorization").unwrap_or_default()));
    let response = match server.status {
        200 => respond(server, path, &header("range").unwrap_or_default()),
        status => reply(status, "", b"no"),
    };
    let _ = stream.write_all(&response);
}

fn respond(server: &Server, path: &str, range: &str) -> Vec<u8> {
    if path == format!("/api/models/{ID}/revision/main") {
        let files: Vec<_> = server.files.keys().map(|name| serde_json::json!({"rfilename": name})).collect();
        return reply(200, "", serde_json::json!({"sha": "c0ffee", "siblings": files}).to_string().as_bytes());
    }
    let Some(body) = path.rsplit('/').next().and_then(|name| server.files.get(name)) else {
        return reply(404, "", b"");
    };
    let (from, to) = range.trim_start_matches("bytes=").split_once('-').unwrap();
    let from: usize = from.parse().unwrap();
    let to = to.parse().map_or(body.len(), |to: usize| to + 1);
    let name = path.rsplit('/').next().unwrap();
    let headers = format!(
        "etag: \"etag-of-{name}\"\r\nx-repo-commit: c0ffee\r\ncontent-range: bytes {from}-{}/{}\r\n",
        to - 1,
        body.len()
    );
    reply(206, &headers, &body[from..to])
}

fn reply(status: u16, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status} X\r\n{headers}content-length: {}\r\nconnection: close\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

fn model_files() -> HashMap<String, Vec<u8>> {
    let mut weights_file = Vec::new();
    write_model(&mut weights_file, &specs(), &weights(1), SaveDtype::Bf16).unwrap();
    HashMap::from([
        ("config.json".into(), config_value().to_string().into()),
        ("tokenizer.json".into(), "{}".into()),
        ("chat_template.jinja".into(), "template".into()),
        ("model.safetensors".into(), weights_file),
        ("README.md".into(), "not needed".into()),
    ])
}

fn hub(endpoint: &str, cache: &std::path::Path) -> Hub {
    Hub { endpoint: endpoint.into(), token: Some("hf_secret".into()), cache: cache.into(), offline: false }
}

fn download(hub: &Hub) -> Result<std::path::PathBuf> {
    download_model(hub, ID)
}

#[test]
fn a_model_is_downloaded_once_and_then_taken_from_the_cache() {
    let cache = tempfile::tempdir().unwrap();
    let (endpoint, server) = serve(200, model_files());
    let folder = download(&hub(&endpoint, cache.path())).unwrap();
    let mut out = vec![0.0; weights(1).len()];
    read_model(&folder, &specs(), &mut out).unwrap();
    assert_eq!(out, weights(1));
    assert_eq!(std::fs::read_to_string(folder.join("chat_template.jinja")).unwrap(), "template");
    assert!(!folder.join("README.md").exists());

    let requests = std::mem::take(&mut *server.requests.lock().unwrap());
    assert!(requests.iter().all(|request| request.ends_with("Bearer hf_secret")), "{requests:?}");
    assert!(requests.last().unwrap().contains("model.safetensors"), "the weights come last: {requests:?}");
    assert_eq!(download(&hub(&endpoint, cache.path())).unwrap(), folder);
    assert!(server.requests.lock().unwrap().is_empty());
}

#[test]
fn sharded_weights_are_downloaded() {
    let cache = tempfile::tempdir().unwrap();
    let mut files = model_files();
    let shard = "model-00001-of-00001.safetensors";
    let weights_file = files.remove("model.safetensors").unwrap();
    files.insert(shard.into(), weights_file);
    let map: serde_json::Map<_, _> = specs().into_iter().map(|spec| (spec.name, shard.into())).collect();
    let index = serde_json::json!({ "weight_map": map });
    files.insert("model.safetensors.index.json".into(), index.to_string().into());
    let (endpoint, server) = serve(200, files);
    let folder = download(&hub(&endpoint, cache.path())).unwrap();
    let mut out = vec![0.0; weights(1).len()];
    read_model(&folder, &specs(), &mut out).unwrap();
    assert_eq!(out, weights(1));
    server.requests.lock().unwrap().clear();
    download(&hub(&endpoint, cache.path())).unwrap();
    assert!(server.requests.lock().unwrap().is_empty());
}

#[test]
fn a_gated_model_says_where_to_accept_the_licence_and_how_to_give_a_token() {
    for status in [401, 403] {
        let cache = tempfile::tempdir().unwrap();
        let (endpoint, _) = serve(status, HashMap::new());
        let result = download(&hub(&endpoint, cache.path()));
        assert_fails(result, &["`google/tiny-it`", "https://huggingface.co/google/tiny-it", "`HF_TOKEN`"]);
    }
}

#[test]
fn an_unknown_model_and_one_without_safetensors_are_told_apart() {
    let cache = tempfile::tempdir().unwrap();
    let (endpoint, _) = serve(404, HashMap::new());
    assert_fails(download(&hub(&endpoint, cache.path())), &["neither on this disk nor a model of the hub"]);
    let mut files = model_files();
    files.remove("model.safetensors");
    let (endpoint, _) = serve(200, files);
    assert_fails(download(&hub(&endpoint, cache.path())), &["has no `model.safetensors`"]);
}

#[test]
fn without_a_network_the_cache_serves_and_an_empty_one_is_named() {
    let cache = tempfile::tempdir().unwrap();
    let mut files = model_files();
    files.remove("chat_template.jinja");
    let (endpoint, _) = serve(200, files);
    let folder = download(&hub(&endpoint, cache.path())).unwrap();
    // Nobody listens on this port any more.
    let closed = format!("http://{}", TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap());
    assert_eq!(download(&hub(&closed, cache.path())).unwrap(), folder);
    assert_eq!(download(&Hub { offline: true, ..hub(&closed, cache.path()) }).unwrap(), folder);

    let empty = tempfile::tempdir().unwrap();
    assert_fails(download(&hub(&closed, empty.path())), &["cannot get the model `google/tiny-it`", "HF_ENDPOINT"]);
    let offline = Hub { offline: true, ..hub(&closed, empty.path()) };
    assert_fails(download(&offline), &["is not whole in the cache", "HF_HUB_OFFLINE"]);
}

#[test]
fn hub_ids_are_an_owner_and_a_name() {
    for id in ["google/functiongemma-270m-it", "a/b", "Org_1/model.v2"] {
        assert!(is_hub_id(id), "{id}");
    }
    for path in ["model", "./model", "/model", "../model", "a/b/c", "a/", "/b", "a b/c", "~/model", "a/.."] {
        assert!(!is_hub_id(path), "{path}");
    }
}

#[test]
fn folders_are_models_and_other_files_and_names_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let spec = folder.path().to_str().unwrap();
    assert_eq!(resolve_model(spec).unwrap(), ModelSource::Folder(folder.path().into()));
    let file = folder.path().join("model.safetensors");
    std::fs::write(&file, "x").unwrap();
    assert_fails(resolve_model(file.to_str().unwrap()), &["is a file", "hint: "]);
    assert_fails(resolve_model("./no/such/folder"), &["`./no/such/folder` does not exist", "hint: "]);
    assert_fails(resolve_model("models/absent.gguf"), &["`models/absent.gguf` does not exist"]);
}
