//! Large files: where a hub wants them (git-lfs's batch interface), and how they get there, in one piece or in parts.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use ureq::http::HeaderMap;
use url::Url;

use super::local::LocalFile;
use super::send::{Method, Trouble};
use super::upload::Upload;
use crate::err;
use crate::error::Result;

/// What git-lfs says and hears.
const JSON: &str = "application/vnd.git-lfs+json";
/// Headers of an upload that are about the connection, which is ours.
const OURS: [&str; 5] = ["connection", "content-length", "expect", "host", "transfer-encoding"];

/// What is to be done with one file: nothing, if the hub has its contents.
#[derive(Default)]
struct Instructions {
    upload: Option<Action>,
    verify: Option<Action>,
}

/// A request that the hub asks for.
struct Action {
    href: Url,
    headers: Vec<(String, String)>,
    /// Bytes of every part but the last, and where each goes.
    parts: Option<(u64, Vec<Url>)>,
}

impl Upload<'_> {
    /// Brings the contents of `files` to the hub's storage. They are of no commit yet.
    pub(super) fn upload_large(&self, files: &[&LocalFile]) -> Result<()> {
        if files.is_empty() {
            return Ok(());
        }
        let mut instructions = self.batch(files)?;
        for file in files {
            let Instructions { upload, verify } = instructions.remove(&file.sha256).unwrap_or_default();
            let Some(upload) = upload else { continue };
            self.put(file, &upload)?;
            if let Some(verify) = verify {
                let body = json!({"oid": file.sha256, "size": file.size});
                let what = format!("finish the upload of `{}`", file.name);
                self.post_json(verify.href, &verify.headers, &body).map_err(|t| self.explain(&what, t))?;
            }
        }
        Ok(())
    }

    /// What the hub wants to be done, by the hash of the contents.
    fn batch(&self, files: &[&LocalFile]) -> Result<BTreeMap<String, Instructions>> {
        let objects: Vec<Value> = files.iter().map(|f| json!({"oid": f.sha256, "size": f.size})).collect();
        let body = json!({
            "operation": "upload",
            "transfers": ["basic", "multipart"],
            "objects": objects,
            "hash_algo": "sha256",
            "ref": {"name": "main"},
        });
        let url = self.transport.url(&format!("{}.git/info/lfs/objects/batch", self.id))?;
        let headers = [("accept", JSON), ("content-type", JSON)].map(|(name, value)| (name.into(), value.into()));
        let what = "ask where large files go";
        let answer = self.post_json(url, &headers, &body).map_err(|trouble| self.explain(what, trouble))?;
        let objects = answer["objects"].as_array().ok_or_else(|| self.nonsense(what))?;
        let mut found = BTreeMap::new();
        for file in files {
            let object = objects.iter().find(|object| object["oid"] == *file.sha256);
            let object = object.ok_or_else(|| self.nonsense(what))?;
            if let Some(error) = object.get("error") {
                let (code, said) = (&error["code"], error["message"].as_str().unwrap_or_default());
                let said: String = said.chars().take(300).collect();
                return Err(err!("the hub does not take `{}`: {said} (code {code})", file.name));
            }
            let action = |name: &str| self.action(file, &object["actions"][name]);
            found.insert(file.sha256.clone(), Instructions { upload: action("upload")?, verify: action("verify")? });
        }
        Ok(found)
    }

    fn action(&self, file: &LocalFile, value: &Value) -> Result<Option<Action>> {
        if value.is_null() {
            return Ok(None);
        }
        let nonsense = || self.nonsense(&format!("say where `{}` goes", file.name));
        let href = self.address(value["href"].as_str().ok_or_else(nonsense)?)?;
        let header = value["header"].as_object();
        let mut action = Action { href, headers: Vec::new(), parts: None };
        let Some(header) = header else { return Ok(Some(action)) };
        if let Some(size) = header.get("chunk_size") {
            let size = size.as_u64().or_else(|| size.as_str()?.parse().ok()).filter(|size| *size > 0);
            let size = size.ok_or_else(nonsense)?;
            let mut parts = BTreeMap::new();
            for (name, url) in header.iter().filter(|(name, _)| name.bytes().all(|b| b.is_ascii_digit())) {
                let number: u64 = name.parse().map_err(|_| nonsense())?;
                parts.insert(number, self.address(url.as_str().ok_or_else(nonsense)?)?);
            }
            if parts.len() as u64 != file.size.div_ceil(size) {
                return Err(nonsense());
            }
            action.parts = Some((size, parts.into_values().collect()));
            return Ok(Some(action));
        }
        for (name, value) in header.iter().filter(|(name, _)| !OURS.contains(&&*name.to_lowercase())) {
            action.headers.push((name.clone(), value.as_str().ok_or_else(nonsense)?.into()));
        }
        Ok(Some(action))
    }

    /// An address that the hub names. One that encrypts does not send anybody to one that does not.
    fn address(&self, text: &str) -> Result<Url> {
        let url = self.at_mirror(text)?;
        let encrypted = self.transport.url("")?.scheme() == "https";
        let shown = super::send::shown(&url);
        match url.scheme() {
            "https" => Ok(url),
            "http" if !encrypted => Ok(url),
            "http" => Err(err!("the hub wants an upload to `{shown}`, which is not encrypted as the hub is")),
            _ => Err(err!("the hub wants an upload to `{shown}`, where none can go")),
        }
    }

    /// A hub behind another address may still name its public one.
    fn at_mirror(&self, text: &str) -> Result<Url> {
        let bad = |_| err!("the hub wants an upload to `{}`, which is no address", text.escape_debug());
        match text.strip_prefix("https://huggingface.co/") {
            Some(rest) => Url::parse(&format!("{}/{rest}", self.hub.endpoint)).map_err(bad),
            None => Url::parse(text).map_err(bad),
        }
    }

    fn put(&self, file: &LocalFile, action: &Action) -> Result<()> {
        let shown = file.name.replace(|c: char| !c.is_ascii(), "?");
        self.watch.bar.borrow_mut().init(file.size.try_into().unwrap_or(usize::MAX), &shown);
        match &action.parts {
            None => drop(self.put_part(file, &action.href, &action.headers, (0, file.size))?),
            Some((size, urls)) => self.put_parts(file, action, *size, urls)?,
        }
        self.watch.bar.borrow_mut().finish();
        Ok(())
    }

    fn put_parts(&self, file: &LocalFile, action: &Action, size: u64, urls: &[Url]) -> Result<()> {
        let mut parts = Vec::new();
        for (number, url) in (1..).zip(urls) {
            let from = (number - 1) * size;
            let headers = self.put_part(file, url, &[], (from, size.min(file.size - from)))?;
            let etag = headers.get("etag").and_then(|value| value.to_str().ok()).filter(|etag| !etag.is_empty());
            let etag = etag.ok_or_else(|| self.nonsense(&format!("take part {number} of `{}`", file.name)))?;
            parts.push(json!({"partNumber": number, "etag": etag}));
        }
        let headers = [("accept", JSON), ("content-type", JSON)].map(|(name, value)| (name.into(), value.into()));
        let body = json!({"oid": file.sha256, "parts": parts});
        let what = format!("put the parts of `{}` together", file.name);
        let reply = self.post(action.href.clone(), &headers, body.to_string().as_bytes());
        reply.map(drop).map_err(|trouble| self.explain(&what, trouble))
    }

    fn put_part(
        &self,
        file: &LocalFile,
        url: &Url,
        headers: &[(String, String)],
        (from, size): (u64, u64),
    ) -> Result<HeaderMap> {
        let body = || -> Result<Box<dyn std::io::Read + '_>> { Ok(Box::new(file.part(from, size, &self.watch)?)) };
        let reply = self.send(Method::Put, url.clone(), headers, size, &body);
        let reply = reply.map_err(|trouble| match (self.watch.broken.take(), trouble) {
            (Some(broken), _) => Trouble::Other(broken),
            // What its status means at the hub it does not mean elsewhere.
            (None, Trouble::Status { status, .. }) if !self.transport.is_endpoint(url) => {
                Trouble::Connection(err!("the storage answers with HTTP status {status}"))
            }
            (None, trouble) => trouble,
        });
        Ok(reply.map_err(|trouble| self.explain(&format!("upload `{}`", file.name), trouble))?.headers)
    }
}
