//! A hub on this machine: a server that answers as the real one does, or as it is told to.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use sha2::{Digest, Sha256};

/// The model that it has.
pub const ID: &str = "google/tiny-it";
/// The commit of it.
pub const COMMIT: &str = "c0ffee";

pub type Files = BTreeMap<String, Vec<u8>>;

/// What was asked.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    pub path: String,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

impl Request {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// The last part of the path.
    pub fn file(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or_default()
    }

    /// Whether it is for the contents of a file.
    pub fn is_for_a_file(&self) -> bool {
        self.path.contains("/resolve/")
    }
}

/// A server and what it was asked.
pub struct Standin {
    /// Its address.
    pub endpoint: String,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Standin {
    /// The requests since the last call.
    pub fn requests(&self) -> Vec<Request> {
        std::mem::take(&mut *self.requests.lock().unwrap())
    }
}

/// Serves `files` as the model [`ID`]; what `special` answers goes before.
pub fn serve(files: Files, special: impl Fn(&Request) -> Option<Vec<u8>> + Send + Sync + 'static) -> Standin {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let requests = Arc::new(Mutex::new(Vec::new()));
    let shared = Arc::new((files, special, requests.clone()));
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let shared = shared.clone();
            std::thread::spawn(move || {
                let request = read(&stream);
                shared.2.lock().unwrap().push(request.clone());
                let reply = shared.1(&request).unwrap_or_else(|| respond(&shared.0, &request));
                let _ = (&stream).write_all(&reply);
            });
        }
    });
    Standin { endpoint, requests }
}

fn read(stream: &TcpStream) -> Request {
    let mut reader = BufReader::new(stream);
    let lines: Vec<String> =
        reader.by_ref().lines().map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
    let mut words = lines.first().map_or("", String::as_str).split(' ').map(str::to_owned);
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let header = |line: &String| line.split_once(": ").map(|(name, value)| (name.to_lowercase(), value.to_string()));
    let headers: BTreeMap<String, String> = lines.iter().filter_map(header).collect();
    let size = headers.get("content-length").and_then(|size| size.parse().ok()).unwrap_or(0);
    let mut body = Vec::new();
    let _ = reader.take(size).read_to_end(&mut body);
    Request { method, path, headers, body }
}

/// What an honest hub answers.
pub fn respond(files: &Files, request: &Request) -> Vec<u8> {
    if request.path == format!("/api/models/{ID}/revision/main") {
        return listing(files.keys().map(String::as_str), COMMIT);
    }
    match files.get(request.file()) {
        Some(body) => contents(request, body, &etag(body)),
        None => reply(404, "", b""),
    }
}

/// The list of a repository's files.
pub fn listing<'a>(names: impl Iterator<Item = &'a str>, commit: &str) -> Vec<u8> {
    let files: Vec<_> = names.map(|name| serde_json::json!({ "rfilename": name })).collect();
    reply(200, "", serde_json::json!({"sha": commit, "siblings": files}).to_string().as_bytes())
}

/// A file, or the part of it that is asked for.
pub fn contents(request: &Request, body: &[u8], etag: &str) -> Vec<u8> {
    let headers = format!("etag: \"{etag}\"\r\nx-repo-commit: {COMMIT}\r\n");
    let Some((from, to)) = request.header("range").trim_start_matches("bytes=").split_once('-') else {
        return reply(200, &headers, body);
    };
    let from: usize = from.parse().unwrap();
    let to = to.parse().map_or(body.len(), |to: usize| to + 1);
    let range = format!("content-range: bytes {from}-{}/{}\r\n", to - 1, body.len());
    reply(206, &(headers + &range), &body[from..to])
}

pub fn reply(status: u16, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status} X\r\n{headers}content-length: {}\r\nconnection: close\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

/// The etag of a large file: the SHA-256 of its contents.
pub fn etag(body: &[u8]) -> String {
    Sha256::digest(body).iter().map(|byte| format!("{byte:02x}")).collect()
}
