//! Hubs that lie, spy, break off or say nothing.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::hub::{download, hub, model_files};
use crate::standin::{COMMIT, Request, contents, etag, listing, reply, respond, serve};
use crate::tiny::assert_fails;

/// All files and links below a folder, by their paths.
fn all_files(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let folder = path.is_dir() && !path.is_symlink();
        found.extend(if folder { all_files(&path) } else { vec![path.display().to_string()] });
    }
    found.sort();
    found
}

/// Whether the file was asked for; the cached model is then no model without it.
fn is(request: &Request, name: &str) -> bool {
    request.is_for_a_file() && request.file() == name
}

/// Asserts that a download from `hostile` fails, and that everything that it leaves lies in the cache and is no model.
fn leaves_nothing(special: impl Fn(&Request) -> Option<Vec<u8>> + Send + Sync + 'static, parts: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("a/b/c/cache");
    fs::create_dir_all(&cache).unwrap();
    let server = serve(model_files(), special);
    assert_fails(download(&hub(&server.endpoint, &cache)), parts);
    let inside = format!("{}/models--google--tiny-it/", cache.display());
    let files = all_files(folder.path());
    let outside: Vec<_> = files.iter().filter(|file| !file.starts_with(&inside)).collect();
    assert!(outside.is_empty(), "{outside:?}");
    let honest = serve(model_files(), |_| None);
    let model = download(&hub(&honest.endpoint, &cache)).unwrap();
    for (name, body) in model_files().iter().filter(|(name, _)| *name != "README.md") {
        assert!(fs::read(model.join(name)).unwrap() == *body, "{name}");
    }
}

#[test]
fn the_token_goes_to_the_endpoint_alone() {
    let elsewhere = serve(model_files(), |_| None);
    let storage = elsewhere.endpoint.clone();
    let server = serve(model_files(), move |request| {
        let body = model_files().get(request.file()).filter(|_| request.is_for_a_file()).cloned()?;
        let facts = format!("x-linked-etag: \"{}\"\r\nx-linked-size: {}\r\n", etag(&body), body.len());
        let headers = format!("location: {storage}/x/resolve/{}\r\nx-repo-commit: {COMMIT}\r\n", request.file());
        Some(reply(302, &(headers + &facts), b""))
    });
    let cache = tempfile::tempdir().unwrap();
    download(&hub(&server.endpoint, cache.path())).unwrap();
    let asked = elsewhere.requests();
    assert!(asked.len() >= 4);
    assert!(asked.iter().all(|request| !request.headers.contains_key("authorization")), "{asked:?}");
    assert!(server.requests().iter().all(|request| request.header("authorization") == "Bearer hf_secret"));
}

#[test]
fn a_redirection_within_the_endpoint_keeps_the_token() {
    let files = model_files();
    let moved = files.clone();
    let server = serve(files, move |request| match request.path.strip_prefix("/elsewhere/") {
        Some(name) => Some(contents(request, &moved[name], &etag(&moved[name]))),
        None if is(request, "model.safetensors") => {
            Some(reply(307, &format!("location: /elsewhere/{}\r\nx-repo-commit: {COMMIT}\r\n", request.file()), b""))
        }
        None => None,
    });
    let cache = tempfile::tempdir().unwrap();
    download(&hub(&server.endpoint, cache.path())).unwrap();
    let requests = server.requests();
    assert!(requests.iter().any(|request| request.path.starts_with("/elsewhere/")));
    assert!(requests.iter().all(|request| request.header("authorization") == "Bearer hf_secret"), "{requests:?}");
}

#[test]
fn redirections_without_an_end_or_an_address_are_refused() {
    leaves_nothing(
        |request| is(request, "config.json").then(|| reply(302, "location: config.json\r\n", b"")),
        &["config.json", "redirect"],
    );
    leaves_nothing(|request| is(request, "config.json").then(|| reply(302, "", b"")), &["config.json", "redirect"]);
    let to_a_file = |request: &Request| {
        is(request, "config.json").then(|| reply(302, "location: file:///etc/hostname\r\netag: \"x\"\r\n", b""))
    };
    leaves_nothing(to_a_file, &["config.json"]);
}

#[test]
fn an_etag_that_is_a_path_writes_nothing_outside_the_cache() {
    for tag in ["../../..", "../../../planted", "/tmp/planted-by-etag", "..", ".", "a/b", "a\\b", ""] {
        let lie = move |request: &Request| {
            let config = model_files()["config.json"].clone();
            is(request, "config.json").then(|| contents(request, &config, tag))
        };
        leaves_nothing(lie, &["config.json", "etag"]);
    }
}

#[test]
fn a_commit_that_is_a_path_writes_nothing_outside_the_cache() {
    for commit in ["../../../planted", "/tmp/planted-by-commit", "..", "", "a/b"] {
        let lie = move |request: &Request| {
            let names = ["config.json", "tokenizer.json", "model.safetensors"];
            (!request.is_for_a_file()).then(|| listing(names.into_iter(), commit))
        };
        leaves_nothing(lie, &["commit"]);
    }
    // What a file's own answer says of the commit is not listened to.
    let cache = tempfile::tempdir().unwrap();
    let server = serve(model_files(), |request| {
        let body = model_files().get(request.file()).filter(|_| request.is_for_a_file()).cloned()?;
        let headers = format!("etag: \"{}\"\r\nx-repo-commit: ../../../../planted\r\n", etag(&body));
        Some(reply(200, &headers, &body))
    });
    let _ = download(&hub(&server.endpoint, &cache.path().join("a/b/c/d")));
    assert!(all_files(cache.path()).iter().all(|file| !file.contains("planted")));
}

#[test]
fn a_file_name_that_leaves_the_folder_is_refused() {
    for name in [
        "model-../../../../planted.safetensors",
        "model-/../../../../planted.safetensors",
        "model-a\\..\\planted.safetensors",
        "model-\u{1b}[31m.safetensors",
        "model-a//b.safetensors",
    ] {
        let lie = move |request: &Request| {
            let names = ["config.json", "tokenizer.json", "model.safetensors.index.json", name];
            (!request.is_for_a_file()).then(|| listing(names.into_iter(), COMMIT))
        };
        let body_for_any = move |request: &Request| {
            let hostile = request.is_for_a_file() && !model_files().contains_key(request.file());
            lie(request).or_else(|| hostile.then(|| contents(request, b"{}", &etag(b"{}"))))
        };
        leaves_nothing(body_for_any, &["file name"]);
    }
}

#[test]
fn contents_that_are_not_what_was_announced_do_not_count_as_cached() {
    let weights =
        |request: &Request| is(request, "model.safetensors").then(|| model_files()["model.safetensors"].clone());
    // One byte is another, one is missing, one is too many.
    let altered = move |request: &Request| {
        let honest = weights(request)?;
        let mut body = honest.clone();
        *body.last_mut().unwrap() ^= 1;
        Some(contents(request, &body, &etag(&honest)))
    };
    leaves_nothing(altered, &["model.safetensors", "SHA-256"]);
    for extra in [-1i64, 1] {
        let resized = move |request: &Request| {
            let honest = weights(request)?;
            let mut body = honest.clone();
            body.resize((honest.len() as i64 + extra) as usize, 0);
            let facts = format!("x-linked-etag: \"{}\"\r\nx-linked-size: {}\r\n", etag(&honest), honest.len());
            Some(reply(200, &facts, &body))
        };
        leaves_nothing(resized, &["model.safetensors"]);
    }
}

#[test]
fn small_files_are_checked_by_their_git_hash() {
    // `printf '{}' | git hash-object --stdin`, as the hub announces files that git itself keeps.
    let git = "9e26dfeeb6e641a33dae4961196235bdb965b21b";
    let honest = move |request: &Request| is(request, "tokenizer.json").then(|| contents(request, b"{}", git));
    let cache = tempfile::tempdir().unwrap();
    let server = serve(model_files(), honest);
    let model = download(&hub(&server.endpoint, cache.path())).unwrap();
    assert!(fs::read_link(model.join("tokenizer.json")).unwrap().ends_with(git));
    let lie = move |request: &Request| is(request, "tokenizer.json").then(|| contents(request, b"[]", git));
    leaves_nothing(lie, &["tokenizer.json", "SHA-1"]);
}

#[test]
fn a_download_that_breaks_off_goes_on_where_it_was() {
    let files = model_files();
    let body = files["model.safetensors"].clone();
    let half = body.len() / 2;
    let server = serve(files, move |request| {
        let whole = contents(request, &body, &etag(&body));
        let first = is(request, "model.safetensors") && request.header("range").is_empty();
        first.then(|| whole[..whole.len() - half].to_vec())
    });
    let cache = tempfile::tempdir().unwrap();
    let model = download(&hub(&server.endpoint, cache.path())).unwrap();
    assert!(fs::read(model.join("model.safetensors")).unwrap() == model_files()["model.safetensors"]);
    let requests = server.requests();
    let resumed = format!("bytes={}-", model_files()["model.safetensors"].len() - half);
    assert!(requests.iter().any(|request| request.header("range") == resumed), "{requests:?}");
}

/// Breaks every download of the weights off at a third, whatever range is asked for.
fn breaking(request: &Request) -> Option<Vec<u8>> {
    let body = model_files()["model.safetensors"].clone();
    let whole = contents(request, &body, &etag(&body));
    is(request, "model.safetensors").then(|| whole[..(whole.len() / 3).max(200)].to_vec())
}

#[test]
fn the_next_run_goes_on_where_a_broken_download_ended_even_if_that_part_is_bad() {
    for damage in [false, true] {
        let cache = tempfile::tempdir().unwrap();
        assert_fails(download(&hub(&serve(model_files(), breaking).endpoint, cache.path())), &["model.safetensors"]);
        let part =
            all_files(cache.path()).into_iter().find(|file| file.ends_with(".incomplete")).expect("a part is kept");
        if damage {
            fs::write(&part, "bad").unwrap();
        }
        let server = serve(model_files(), |_| None);
        let model = download(&hub(&server.endpoint, cache.path())).unwrap();
        assert!(fs::read(model.join("model.safetensors")).unwrap() == model_files()["model.safetensors"]);
        assert!(server.requests().iter().any(|request| request.header("range").starts_with("bytes=")));
        assert!(all_files(cache.path()).iter().all(|file| !file.ends_with(".incomplete")));
    }
}

#[test]
fn a_hub_that_does_not_know_parts_sends_the_whole_again() {
    let cache = tempfile::tempdir().unwrap();
    assert!(download(&hub(&serve(model_files(), breaking).endpoint, cache.path())).is_err());
    let server = serve(model_files(), |request| {
        let mut request = request.clone();
        request.headers.remove("range");
        Some(respond(&model_files(), &request))
    });
    let model = download(&hub(&server.endpoint, cache.path())).unwrap();
    assert!(fs::read(model.join("model.safetensors")).unwrap() == model_files()["model.safetensors"]);
}

#[test]
fn a_bad_cached_file_is_fetched_again_and_named_where_that_cannot_be() {
    let cache = tempfile::tempdir().unwrap();
    let server = serve(model_files(), |_| None);
    let model = download(&hub(&server.endpoint, cache.path())).unwrap();
    for name in ["model.safetensors", "tokenizer.json"] {
        let good = fs::read(model.join(name)).unwrap();
        for bad in [&good[..good.len() - 1], &vec![b' '; good.len()][..], b""] {
            fs::write(model.join(name), bad).unwrap();
            let offline = engine::hub::Hub { offline: true, ..hub(&server.endpoint, cache.path()) };
            assert_fails(download(&offline), &["is not whole in the cache"]);
            server.requests();
            assert_eq!(download(&hub(&server.endpoint, cache.path())).unwrap(), model);
            assert!(fs::read(model.join(name)).unwrap() == good, "{name}");
            let asked = server.requests();
            assert!(asked.iter().filter(|r| r.is_for_a_file()).all(|r| r.file() == name), "{asked:?}");
        }
    }
}

#[test]
fn a_hub_that_never_answers_is_given_up() {
    let silent = |request: &Request| {
        let file = request.is_for_a_file();
        file.then(|| std::thread::sleep(Duration::from_secs(30))).map(|()| Vec::new())
    };
    let cache = tempfile::tempdir().unwrap();
    let server = serve(model_files(), silent);
    let patient = engine::hub::Hub { patience: Duration::from_millis(300), ..hub(&server.endpoint, cache.path()) };
    let started = Instant::now();
    assert_fails(download(&patient), &["config.json", "timeout"]);
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());

    let server = serve(model_files(), |_| {
        std::thread::sleep(Duration::from_secs(30));
        None
    });
    let patient = engine::hub::Hub { patience: Duration::from_millis(300), ..hub(&server.endpoint, cache.path()) };
    assert_fails(download(&patient), &["cannot get the model", "timeout"]);
}

#[test]
fn a_hub_that_drips_is_given_up() {
    use std::io::Write;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nconte");
                while stream.write_all(b"n").is_ok() {
                    std::thread::sleep(Duration::from_millis(20));
                }
            });
        }
    });
    let cache = tempfile::tempdir().unwrap();
    let patient = engine::hub::Hub { patience: Duration::from_millis(300), ..hub(&endpoint, cache.path()) };
    let started = Instant::now();
    assert_fails(download(&patient), &["cannot get the model"]);
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
}

#[test]
fn a_size_that_no_disk_has_is_refused_before_the_download() {
    let lie = |request: &Request| {
        let facts = format!("x-linked-etag: \"{}\"\r\nx-linked-size: {}\r\n", etag(b"x"), u64::MAX / 2);
        is(request, "model.safetensors").then(|| reply(200, &facts, b"x"))
    };
    leaves_nothing(lie, &["model.safetensors", "free"]);
}

#[test]
fn a_ref_that_is_a_path_finds_nothing() {
    let cache = tempfile::tempdir().unwrap();
    let server = serve(model_files(), |_| None);
    let model = download(&hub(&server.endpoint, cache.path())).unwrap();
    let elsewhere = cache.path().join("elsewhere");
    fs::rename(&model, &elsewhere).unwrap();
    let reference = cache.path().join("models--google--tiny-it/refs/main");
    for commit in ["../../elsewhere".to_string(), elsewhere.display().to_string()] {
        fs::write(&reference, commit).unwrap();
        let offline = engine::hub::Hub { offline: true, ..hub(&server.endpoint, cache.path()) };
        assert_fails(download(&offline), &["is not whole in the cache"]);
    }
}

#[test]
fn the_cache_is_laid_out_as_huggingface_hub_does() {
    let cache = tempfile::tempdir().unwrap();
    let server = serve(model_files(), |_| None);
    download(&hub(&server.endpoint, cache.path())).unwrap();
    let repo = cache.path().join("models--google--tiny-it");
    assert_eq!(fs::read_to_string(repo.join("refs/main")).unwrap(), COMMIT);
    let link = fs::read_link(repo.join("snapshots").join(COMMIT).join("config.json")).unwrap();
    assert_eq!(link, Path::new("../../blobs").join(etag(&model_files()["config.json"])));
}
