//! The hub, played by a server on localhost.

use std::net::TcpListener;
use std::path::{Path, PathBuf};

use engine::error::Result;
use engine::hub::{Hub, is_hub_id};
use engine::io::download::download_model;
use engine::io::safetensors::{SaveDtype, read_model, write_model};
use engine::io::source::{ModelSource, resolve_model};

use crate::standin::{Files, ID, reply, serve};
use crate::tiny::{assert_fails, config_value, specs, weights};

pub fn model_files() -> Files {
    let mut weights_file = Vec::new();
    write_model(&mut weights_file, &specs(), &weights(1), SaveDtype::Bf16).unwrap();
    Files::from([
        ("config.json".into(), config_value().to_string().into()),
        ("tokenizer.json".into(), "{}".into()),
        ("chat_template.jinja".into(), "template".into()),
        ("model.safetensors".into(), weights_file),
        ("README.md".into(), "not needed".into()),
    ])
}

pub fn hub(endpoint: &str, cache: &Path) -> Hub {
    Hub {
        endpoint: endpoint.into(),
        token: Some("hf_secret".into()),
        cache: cache.into(),
        offline: false,
        patience: Hub::PATIENCE,
    }
}

pub fn download(hub: &Hub) -> Result<PathBuf> {
    download_model(hub, ID)
}

#[test]
fn a_model_is_downloaded_once_and_then_taken_from_the_cache() {
    let cache = tempfile::tempdir().unwrap();
    let server = serve(model_files(), |_| None);
    let folder = download(&hub(&server.endpoint, cache.path())).unwrap();
    let mut out = vec![0.0; weights(1).len()];
    read_model(&folder, &specs(), &mut out).unwrap();
    assert_eq!(out, weights(1));
    assert_eq!(std::fs::read_to_string(folder.join("chat_template.jinja")).unwrap(), "template");
    assert!(!folder.join("README.md").exists());

    let requests = server.requests();
    assert!(requests.iter().all(|request| request.header("authorization") == "Bearer hf_secret"), "{requests:?}");
    assert_eq!(requests.last().unwrap().file(), "model.safetensors", "the weights come last: {requests:?}");
    assert_eq!(download(&hub(&server.endpoint, cache.path())).unwrap(), folder);
    assert!(server.requests().is_empty());
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
    let server = serve(files, |_| None);
    let folder = download(&hub(&server.endpoint, cache.path())).unwrap();
    let mut out = vec![0.0; weights(1).len()];
    read_model(&folder, &specs(), &mut out).unwrap();
    assert_eq!(out, weights(1));
    server.requests();
    download(&hub(&server.endpoint, cache.path())).unwrap();
    assert!(server.requests().is_empty());
}

#[test]
fn a_gated_model_says_where_to_accept_the_licence_and_how_to_give_a_token() {
    for status in [401, 403] {
        let cache = tempfile::tempdir().unwrap();
        let server = serve(Files::new(), move |_| Some(reply(status, "", b"no")));
        let result = download(&hub(&server.endpoint, cache.path()));
        assert_fails(result, &["`google/tiny-it`", "https://huggingface.co/google/tiny-it", "`HF_TOKEN`"]);
    }
}

#[test]
fn an_unknown_model_and_one_without_safetensors_are_told_apart() {
    let cache = tempfile::tempdir().unwrap();
    let server = serve(Files::new(), |_| Some(reply(404, "", b"no")));
    assert_fails(download(&hub(&server.endpoint, cache.path())), &["neither on this disk nor a model of the hub"]);
    let mut files = model_files();
    files.remove("model.safetensors");
    let server = serve(files, |_| None);
    assert_fails(download(&hub(&server.endpoint, cache.path())), &["has no `model.safetensors`"]);
}

#[test]
fn without_a_network_the_cache_serves_and_an_empty_one_is_named() {
    let cache = tempfile::tempdir().unwrap();
    let mut files = model_files();
    files.remove("chat_template.jinja");
    let server = serve(files, |_| None);
    let folder = download(&hub(&server.endpoint, cache.path())).unwrap();
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
fn the_settings_say_where_the_cache_is_and_nothing_panics_without_a_home() {
    let with = |settings: &'static [(&str, &str)], home: Option<&str>| {
        let setting = |name: &str| settings.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_string());
        Hub::from_settings(setting, home.map(PathBuf::from))
    };
    let cache = |settings, home| with(settings, home).unwrap().cache;
    assert_eq!(cache(&[], Some("/home/me")), Path::new("/home/me/.cache/huggingface/hub"));
    assert_eq!(cache(&[("XDG_CACHE_HOME", "/x")], Some("/home/me")), Path::new("/x/huggingface/hub"));
    assert_eq!(cache(&[("HF_HOME", "/hf")], None), Path::new("/hf/hub"));
    assert_eq!(cache(&[("HF_HOME", ""), ("HF_HUB_CACHE", "/c")], None), Path::new("/c"));
    for home in [None, Some("")] {
        assert_fails(with(&[], home), &["no place for downloads", "HF_HUB_CACHE"]);
    }
    assert_fails(
        with(&[("HF_HUB_DOWNLOAD_TIMEOUT", "soon")], Some("/home/me")),
        &["HF_HUB_DOWNLOAD_TIMEOUT", "`soon`"],
    );
    let patient = with(&[("HF_HUB_DOWNLOAD_TIMEOUT", "7"), ("HF_TOKEN", "hf_secret")], Some("/home/me")).unwrap();
    assert_eq!(patient.patience.as_secs(), 7);
    assert!(!format!("{patient:?}").contains("hf_secret"));
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
