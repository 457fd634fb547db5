//! Hubs that refuse a push, break off, lie or spy: a clear message, exit code 1, and the folder is as it was.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use engine::error::Error;
use engine::hub::Hub;
use serde_json::json;

use crate::push::{PARTS, WHOLE, push, snapshot, trained};
use crate::standin::{Files, Request, reply, serve};
use crate::standin_upload::{Rules, serve_uploads};
use crate::tiny::assert_fails;

fn impatient(endpoint: &str) -> Hub {
    Hub { patience: Duration::from_millis(300), ..crate::hub::hub(endpoint, "/nonexistent".as_ref()) }
}

/// Pushes to a hub with these refusals, and asserts that it fails with these words.
fn refused(
    rules: Rules,
    special: impl Fn(&Request) -> Option<Vec<u8>> + Send + Sync + 'static,
    parts: &[&str],
) -> Error {
    let (_parent, folder) = trained();
    let before = snapshot(&folder);
    let hub = serve_uploads(rules, special);
    let error = push(&impatient(&hub.server.endpoint), &folder, false).unwrap_err();
    assert_eq!(error.exit_code(), 1);
    assert!(!error.report().contains("hf_secret"), "{}", error.report());
    assert_eq!(snapshot(&folder), before);
    assert!(hub.repository.lock().unwrap().commits.is_empty());
    let text = error.report();
    assert_fails(Err::<(), _>(error), parts);
    Error::new(text)
}

/// What a step of a push is asked for.
const STEPS: [(&str, &str); 6] = [
    ("/api/repos/create", "cannot create the model"),
    ("/preupload/main", "cannot ask which files are large"),
    ("/objects/batch", "cannot ask where large files go"),
    ("/storage/", "cannot upload `model.safetensors`"),
    ("/storage/verify", "cannot finish the upload of `model.safetensors`"),
    ("/commit/main", "cannot commit the files"),
];

/// Answers the requests for `step` so.
fn at(step: &'static str, answer: Vec<u8>) -> impl Fn(&Request) -> Option<Vec<u8>> + Send + Sync {
    move |request| {
        let verify = request.path.contains("/storage/verify");
        let there = request.path.contains(step) && (!verify || step == "/storage/verify");
        there.then(|| answer.clone())
    }
}

#[test]
fn every_refusal_of_every_step_says_what_could_not_be_done_and_what_helps() {
    for (step, what) in STEPS {
        for (status, said, hint) in [
            (401, "does not accept the token", "HF_TOKEN"),
            (403, "may not write to `google/tiny-it`", "OWNER/NAME"),
            (404, "does not know `google/tiny-it`", "spelling"),
            (413, "too large", "limits"),
            (409, "something else changes", "again"),
            (400, "finds it wrong", "above"),
        ] {
            if (step, status) == ("/api/repos/create", 409) {
                continue;
            }
            let body = br#"{"error": "because\nof \u001b[31m hf_secret"}"#;
            let status_text = format!("HTTP status {status}: because of \\u{{1b}}[31m ***");
            refused(WHOLE, at(step, reply(status, "", body)), &[what, said, hint, &status_text]);
        }
    }
}

#[test]
fn what_passes_is_tried_again_as_long_as_the_hub_asks_for() {
    for (step, _) in STEPS {
        for answer in [reply(429, "retry-after: 1\r\n", b""), reply(503, "retry-after: 1\r\n", b""), Vec::new()] {
            let (_parent, folder) = trained();
            let waits = !answer.is_empty();
            let times = AtomicUsize::new(0);
            let refusing = at(step, answer);
            let hub = serve_uploads(WHOLE, move |request| {
                let answer = refusing(request)?;
                (times.fetch_add(1, Ordering::Relaxed) < 1).then_some(answer)
            });
            let started = Instant::now();
            push(&impatient(&hub.server.endpoint), &folder, false).unwrap();
            assert!(!waits || started.elapsed() >= Duration::from_secs(1), "{step}: {:?}", started.elapsed());
            let weights = std::fs::read(folder.join("model.safetensors")).unwrap();
            assert!(hub.repository.lock().unwrap().files["model.safetensors"] == weights, "{step}");
        }
    }
}

#[test]
fn what_does_not_pass_is_given_up() {
    refused(WHOLE, at("/preupload/main", reply(429, "", b"")), &["wants fewer requests", "in some minutes"]);
    refused(WHOLE, at("/commit/main", reply(503, "", b"")), &["cannot commit the files", "HTTP status 503"]);
    refused(
        WHOLE,
        at("/storage/", Vec::new()),
        &["cannot upload `model.safetensors`", "no answer from", "HF_ENDPOINT"],
    );
    // An hour is too long: it is told and not waited for.
    let started = Instant::now();
    refused(WHOLE, at("/commit/main", reply(429, "retry-after: 3600\r\n", b"")), &["wants fewer requests"]);
    assert!(started.elapsed() < Duration::from_secs(10));
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (_parent, folder) = trained();
    let unreachable = impatient(&format!("http://{closed}"));
    assert_fails(push(&unreachable, &folder, false), &["cannot create the model", "no answer", "HF_ENDPOINT"]);
}

#[test]
fn a_hub_that_never_answers_a_push_is_given_up() {
    let started = Instant::now();
    let silent = |request: &Request| {
        request.path.contains("/preupload").then(|| std::thread::sleep(Duration::from_secs(30))).map(|()| Vec::new())
    };
    refused(WHOLE, silent, &["cannot ask which files are large", "timeout"]);
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
}

#[test]
fn a_redirection_to_another_host_gets_neither_the_token_nor_the_files() {
    for (step, what) in STEPS {
        for status in [302, 307, 308] {
            let elsewhere = serve(Files::new(), |_| None);
            let location = format!("location: {}/x\r\n", elsewhere.endpoint);
            refused(WHOLE, at(step, reply(status, &location, b"")), &[what, "redirects", &elsewhere.endpoint]);
            assert!(elsewhere.requests().is_empty());
        }
    }
}

#[test]
fn a_redirection_within_the_endpoint_is_followed_with_all_that_is_sent() {
    let (_parent, folder) = trained();
    let hub = serve_uploads(WHOLE, |request| {
        let new = request.path.strip_prefix("/api/models/google/tiny-it/")?;
        Some(reply(307, &format!("location: /api/models/google/renamed/{new}\r\n"), b""))
    });
    push(&impatient(&hub.server.endpoint), &folder, false).unwrap();
    assert!(hub.repository.lock().unwrap().files.contains_key("run.json"));
    let renamed = |request: &Request| request.path.contains("/renamed/") && request.header("authorization").is_empty();
    assert!(!hub.server.requests().iter().any(renamed));
}

#[test]
fn storage_elsewhere_gets_no_token_but_what_the_hub_says() {
    for rules in [WHOLE, PARTS] {
        let (_parent, folder) = trained();
        let storage = serve(Files::new(), |_| Some(reply(200, "etag: \"e\"\r\n", b"")));
        let place = storage.endpoint.clone();
        let hub = serve_uploads(rules, move |request| {
            if request.path.contains("/storage/complete") || request.path.contains("/storage/verify") {
                return Some(reply(200, "", b"{}"));
            }
            if !request.path.contains("/objects/batch") {
                return request.path.contains("/commit/").then(|| reply(200, "", br#"{"commitOid": "c"}"#));
            }
            let body: serde_json::Value = serde_json::from_slice(&request.body).unwrap();
            let objects = body["objects"].as_array().unwrap().iter().map(|object| {
                let base = format!("http://{}/storage", request.header("host"));
                let size = object["size"].as_u64().unwrap() as usize;
                let mut upload =
                    json!({"href": format!("{place}/put?sig=1"), "header": {"x-storage": "yes", "Host": "evil"}});
                if rules.chunk > 0 {
                    upload = json!({"href": format!("{base}/complete"), "header": {"chunk_size": rules.chunk}});
                    for part in 1..=size.div_ceil(rules.chunk) {
                        upload["header"][part.to_string()] = format!("{place}/put/{part}").into();
                    }
                }
                let actions = json!({"upload": upload, "verify": {"href": format!("{base}/verify")}});
                json!({"oid": object["oid"], "size": size, "actions": actions})
            });
            Some(reply(200, "", json!({"objects": objects.collect::<Vec<_>>()}).to_string().as_bytes()))
        });
        push(&impatient(&hub.server.endpoint), &folder, false).unwrap();
        let stored = storage.requests();
        assert!(!stored.is_empty());
        for request in stored {
            assert_eq!((&*request.method, request.header("authorization")), ("PUT", ""));
            assert!(rules.chunk > 0 || request.header("x-storage") == "yes", "{:?}", request.headers);
            assert_ne!(request.header("host"), "evil");
            assert_eq!(request.header("content-length"), request.body.len().to_string());
        }
        let asked = hub.server.requests();
        assert!(asked.iter().all(|request| request.header("authorization") == "Bearer hf_secret"));
    }
}

#[test]
fn answers_that_make_no_sense_are_refused() {
    let nonsense = "answers in no known way";
    for body in ["", "[]", "{\"files\": []}", "{\"files\": [{\"path\": \"config.json\", \"uploadMode\": \"x\"}]}"] {
        refused(WHOLE, at("/preupload/main", reply(200, "", body.as_bytes())), &[nonsense, "HF_ENDPOINT"]);
    }
    for body in ["", "{\"objects\": []}", "{\"objects\": [{\"oid\": \"x\"}]}"] {
        refused(WHOLE, at("/objects/batch", reply(200, "", body.as_bytes())), &[nonsense, "HF_ENDPOINT"]);
    }
    for body in ["", "{}", "{\"commitOid\": 1}"] {
        let hub = serve_uploads(WHOLE, at("/commit/main", reply(200, "", body.as_bytes())));
        let (_parent, folder) = trained();
        assert_fails(push(&impatient(&hub.server.endpoint), &folder, false), &["cannot commit the files", nonsense]);
    }
    for (action, said) in [
        (json!({"href": 1}), nonsense),
        (json!({"href": "file:///etc/passwd"}), "where none can go"),
        (json!({"href": "no address"}), "no address"),
        (json!({"href": "http://x/", "header": {"chunk_size": 0}}), nonsense),
        (json!({"href": "http://x/", "header": {"chunk_size": 100, "1": "http://x/"}}), nonsense),
        (json!({"href": "http://x/", "header": {"chunk_size": "many"}}), nonsense),
        (json!({"href": "http://x/", "header": {"a": 1}}), nonsense),
    ] {
        let with_action = move |request: &Request| {
            let body: serde_json::Value = serde_json::from_slice(&request.body).ok()?;
            let objects = body["objects"].as_array()?.iter();
            let objects: Vec<_> = objects.map(|o| json!({"oid": o["oid"], "actions": {"upload": action}})).collect();
            Some(reply(200, "", json!({ "objects": objects }).to_string().as_bytes()))
        };
        refused(WHOLE, with_action, &[said]);
    }
    let error = |request: &Request| {
        let body: serde_json::Value = serde_json::from_slice(&request.body).ok()?;
        let objects = body["objects"].as_array()?.iter();
        let error = json!({"code": 422, "message": "no room"});
        let objects: Vec<_> = objects.map(|o| json!({"oid": o["oid"], "error": error})).collect();
        Some(reply(200, "", json!({ "objects": objects }).to_string().as_bytes()))
    };
    refused(WHOLE, error, &["does not take `", "no room (code 422)"]);
}

#[test]
fn an_answer_without_an_end_is_cut() {
    let endless = reply(200, "", &vec![b' '; 33 << 20]);
    refused(WHOLE, at("/preupload/main", endless), &["cannot ask which files are large", "broke off"]);
}

#[test]
fn a_repository_that_a_token_may_not_create_but_write_to_is_pushed_to() {
    let (_parent, folder) = trained();
    let hub = serve_uploads(WHOLE, |request| match (&*request.method, &*request.path) {
        (_, "/api/repos/create") => Some(reply(403, "", b"{}")),
        ("GET", "/api/models/google/tiny-it") => Some(reply(200, "", br#"{"private": false}"#)),
        _ => None,
    });
    push(&impatient(&hub.server.endpoint), &folder, false).unwrap();
    assert!(hub.repository.lock().unwrap().files.contains_key("model.safetensors"));
}

#[test]
fn without_a_token_or_offline_nothing_is_asked() {
    let (_parent, folder) = trained();
    let hub = serve_uploads(WHOLE, |_| None);
    let with = impatient(&hub.server.endpoint);
    for (hub, said) in [
        (Hub { token: None, ..with.clone() }, "there is no token"),
        (Hub { offline: true, ..with.clone() }, "HF_HUB_OFFLINE"),
    ] {
        let error = push(&hub, &folder, false).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert_fails(Err::<(), _>(error), &[said, "hint: "]);
    }
    assert!(hub.server.requests().is_empty());
}
