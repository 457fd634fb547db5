//! A hub that is pushed to: the part of its interface that uploads need, as `huggingface_hub` uses it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::standin::{COMMIT, Files, Request, Standin, contents, etag, reply, serve};

/// What was pushed.
#[derive(Default)]
pub struct Repository {
    /// What it was created with; `None`: it was not.
    pub created: Option<Value>,
    pub files: Files,
    /// Contents in the storage, by their hash.
    pub objects: BTreeMap<String, Vec<u8>>,
    /// Parts of one that is not whole yet.
    parts: BTreeMap<u64, Vec<u8>>,
    /// The headers of the commits.
    pub commits: Vec<Value>,
}

/// How large files go.
#[derive(Clone, Copy)]
pub struct Rules {
    /// Files of so many bytes are large.
    pub large: usize,
    /// They go in parts of so many bytes; 0: in one piece.
    pub chunk: usize,
}

pub struct UploadHub {
    pub server: Standin,
    pub repository: Arc<Mutex<Repository>>,
}

/// Serves uploads; what `special` answers goes before.
pub fn serve_uploads(rules: Rules, special: impl Fn(&Request) -> Option<Vec<u8>> + Send + Sync + 'static) -> UploadHub {
    let repository = Arc::new(Mutex::new(Repository::default()));
    let shared = repository.clone();
    let answer =
        move |request: &Request| special(request).or_else(|| Some(shared.lock().unwrap().answer(rules, request)));
    UploadHub { server: serve(Files::new(), answer), repository }
}

impl Repository {
    fn answer(&mut self, rules: Rules, request: &Request) -> Vec<u8> {
        let path = request.path.split('?').next().unwrap();
        let body = || serde_json::from_slice::<Value>(&request.body).unwrap_or_default();
        let base = format!("http://{}", request.header("host"));
        match (&*request.method, path) {
            (_, "/api/repos/create") => self.create(&base, body()),
            ("POST", path) if path.ends_with("/preupload/main") => ok(&preupload(rules, &body())),
            ("POST", path) if path.ends_with("/info/lfs/objects/batch") => ok(&self.batch(rules, &base, &body())),
            ("PUT", path) => self.store(path, request),
            ("POST", "/storage/complete") => self.complete(&body()),
            ("POST", "/storage/verify") => match self.objects.contains_key(text(&body()["oid"])) {
                true => ok(&json!({})),
                false => reply(422, "", br#"{"message": "the object is not there"}"#),
            },
            ("POST", path) if path.ends_with("/commit/main") => {
                let id = path.trim_start_matches("/api/models/").trim_end_matches("/commit/main");
                self.commit(&format!("{base}/{id}"), &request.body)
            }
            (_, path) if path.contains("/resolve/") => match self.files.get(request.file()) {
                Some(file) => contents(request, file, &etag(file)),
                None => reply(404, "x-error-code: EntryNotFound\r\n", b""),
            },
            ("GET", path) if path.contains("/tree/") => {
                let file = |(name, body): (&String, &Vec<u8>)| json!({"type": "file", "path": name, "size": body.len(), "oid": etag(body)});
                ok(&self.files.iter().map(file).collect())
            }
            ("GET", path) if path.starts_with("/api/models/") => match &self.created {
                Some(created) => ok(&self.about(created)),
                None => reply(404, "", b""),
            },
            _ => reply(404, "", b""),
        }
    }

    fn about(&self, created: &Value) -> Value {
        let id = format!("{}/{}", text(&created["organization"]), text(&created["name"]));
        let files: Vec<_> = self.files.keys().map(|name| json!({ "rfilename": name })).collect();
        json!({"id": id, "sha": COMMIT, "siblings": files, "private": created["visibility"] == "private"})
    }

    fn create(&mut self, base: &str, body: Value) -> Vec<u8> {
        let url = format!("{base}/{}/{}", text(&body["organization"]), text(&body["name"]));
        if self.created.is_some() {
            let answer = json!({"error": "You already created this model repo", "url": url});
            return reply(409, "", answer.to_string().as_bytes());
        }
        self.created = Some(body);
        ok(&json!({ "url": url }))
    }

    fn batch(&self, rules: Rules, base: &str, body: &Value) -> Value {
        assert_eq!((text(&body["operation"]), text(&body["hash_algo"])), ("upload", "sha256"));
        let objects = body["objects"].as_array().unwrap().iter().map(|object| {
            let (oid, size) = (text(&object["oid"]), object["size"].as_u64().unwrap() as usize);
            if self.objects.contains_key(oid) {
                return json!({"oid": oid, "size": size});
            }
            let verify = json!({"href": format!("{base}/storage/verify")});
            let upload = match rules.chunk {
                0 => json!({"href": format!("{base}/storage/{oid}?sig=s3cret"), "header": {"x-storage": "yes"}}),
                chunk => {
                    let mut header = json!({"chunk_size": chunk.to_string()});
                    for part in 1..=size.div_ceil(chunk) {
                        header[format!("{part:05}")] = format!("{base}/storage/part/{part}?sig=s3cret").into();
                    }
                    json!({"href": format!("{base}/storage/complete"), "header": header})
                }
            };
            json!({"oid": oid, "size": size, "actions": {"upload": upload, "verify": verify}})
        });
        json!({"transfer": "basic", "objects": objects.collect::<Vec<_>>()})
    }

    fn store(&mut self, path: &str, request: &Request) -> Vec<u8> {
        if request.headers.contains_key("transfer-encoding") {
            return reply(501, "", b"");
        }
        if let Some(part) = path.strip_prefix("/storage/part/") {
            self.parts.insert(part.parse().unwrap(), request.body.clone());
            return reply(200, &format!("etag: \"{part}\"\r\n"), b"");
        }
        assert_eq!(path, format!("/storage/{}", etag(&request.body)));
        self.objects.insert(etag(&request.body), request.body.clone());
        reply(200, "", b"")
    }

    fn complete(&mut self, body: &Value) -> Vec<u8> {
        let parts = body["parts"].as_array().unwrap();
        let numbers: Vec<u64> = parts.iter().map(|part| part["partNumber"].as_u64().unwrap()).collect();
        assert_eq!(numbers, (1..=self.parts.len() as u64).collect::<Vec<_>>());
        assert!(parts.iter().all(|part| part["etag"] == format!("\"{}\"", part["partNumber"])), "{parts:?}");
        let whole: Vec<u8> = std::mem::take(&mut self.parts).into_values().flatten().collect();
        assert_eq!(etag(&whole), text(&body["oid"]));
        self.objects.insert(etag(&whole), whole);
        ok(&json!({}))
    }

    /// `page`: that of the repository.
    fn commit(&mut self, page: &str, body: &[u8]) -> Vec<u8> {
        for line in body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let line: Value = serde_json::from_slice(line).unwrap();
            let value = &line["value"];
            let contents = match text(&line["key"]) {
                "header" => {
                    self.commits.push(value.clone());
                    continue;
                }
                "file" => decoded(text(&value["content"])),
                "lfsFile" => self.objects[text(&value["oid"])].clone(),
                other => panic!("{other}"),
            };
            self.files.insert(text(&value["path"]).into(), contents);
        }
        ok(&json!({"commitUrl": format!("{page}/commit/{COMMIT}"), "commitOid": COMMIT}))
    }
}

fn preupload(rules: Rules, body: &Value) -> Value {
    let mode = |file: &Value| {
        let large = file["size"].as_u64().unwrap() as usize >= rules.large;
        let mode = if large { "lfs" } else { "regular" };
        json!({"path": file["path"], "uploadMode": mode, "shouldIgnore": file["path"] == "loss.svg.ignored"})
    };
    json!({"files": body["files"].as_array().unwrap().iter().map(mode).collect::<Vec<_>>()})
}

fn ok(value: &Value) -> Vec<u8> {
    reply(200, "content-type: application/json\r\n", value.to_string().as_bytes())
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Base64, written here so that the test does not trust the crate that it tests.
fn decoded(text: &str) -> Vec<u8> {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digits = text.bytes().filter(|byte| *byte != b'=').map(|byte| LETTERS.iter().position(|l| *l == byte).unwrap());
    let (mut bits, mut count, mut out) = (0usize, 0, Vec::new());
    for digit in digits {
        (bits, count) = (bits << 6 | digit, count + 6);
        if count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    out
}
