//! Files become one commit of a repository of the hub, the way `huggingface_hub` does it: create the repository, ask which files
//! are large, bring those to the storage, commit.

use std::cell::RefCell;
use std::io::Read;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use url::Url;

use super::check_new_id;
use super::local::{LocalFile, Watch};
use super::send::{Message, Method, Reply, Trouble};
use super::settings::Hub;
use super::transport::Transport;
use crate::err;
use crate::error::{Context, Error, Kind, Result};

/// Bytes of files that a commit holds at most in itself: it is made in memory.
const MAX_WITHIN_COMMIT: u64 = 64 << 20;
/// What the hub says when it is busy with another repository of the same owner.
const BUSY: &str = "another conflicting operation is in progress";

/// What is pushed where.
pub struct Push<'a> {
    /// `owner/name`. It is made if there is none.
    pub id: &'a str,
    /// Only its owners may see it. One that is there and public is then refused.
    pub private: bool,
    pub files: &'a [LocalFile],
    /// The first line of the commit.
    pub message: &'a str,
    /// An error once nothing more should be sent.
    pub go_on: &'a dyn Fn() -> Result<()>,
}

/// What was pushed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// The model's page.
    pub page: String,
    /// What the hub calls the commit.
    pub commit: String,
    /// Files that it was not given, because its `.gitignore` names them.
    pub ignored: Vec<String>,
}

/// A push that is under way.
pub(super) struct Upload<'a> {
    pub hub: &'a Hub,
    pub transport: Transport,
    pub id: &'a str,
    pub watch: Watch<'a>,
}

impl Hub {
    /// Pushes files to a model of the hub, as one commit: they are all there then, or none is.
    ///
    /// # Errors
    /// The id is none, there is no token or the hub does not accept it, a file has changed meanwhile, or the hub cannot be
    /// reached, refuses, or answers with something that makes no sense. A commit that was cut off may have been made.
    pub fn push(&self, push: &Push) -> Result<Pushed> {
        self.check_push(push.id)?;
        let transport = Transport::new(&self.endpoint, self.token.as_deref(), self.patience)?;
        let bar = super::BAR.get().map_or_else(|| Box::new(()) as _, |bar| bar());
        let watch = Watch { bar: RefCell::new(bar), go_on: push.go_on, broken: RefCell::new(None) };
        let upload = Upload { hub: self, transport, id: push.id, watch };
        upload.create(push.private)?;
        let (large, small, ignored) = upload.sort(push.files)?;
        upload.upload_large(&large)?;
        let commit = upload.commit(push.message, &large, &small)?;
        Ok(Pushed { page: format!("{}/{}", self.endpoint, push.id), commit, ignored })
    }

    /// Whether a push to `id` could begin.
    ///
    /// # Errors
    /// A usage error: the id is none, there is no token, or the hub must not be asked ([`Hub::offline`]).
    pub fn check_push(&self, id: &str) -> Result<()> {
        check_new_id(id)?;
        if self.offline {
            return Err(Error::usage("`HF_HUB_OFFLINE` is set, so nothing can be pushed").hint("unset it"));
        }
        if self.token.is_none() {
            return Err(Error::usage("there is no token, so nothing can be pushed").hint(TOKEN));
        }
        Ok(())
    }
}

/// Where a token comes from.
const TOKEN: &str = "create a token that may write at https://huggingface.co/settings/tokens and set `HF_TOKEN`, or run \
                     `hf auth login`";

impl Upload<'_> {
    /// Makes the repository, if there is none.
    fn create(&self, private: bool) -> Result<()> {
        let (owner, name) = self.id.split_once('/').unwrap_or_default();
        let mut body = json!({"name": name, "organization": owner, "type": "model"});
        if private {
            body["visibility"] = "private".into();
        }
        let url = self.transport.url("api/repos/create")?;
        let body = body.to_string();
        let mut left = 5;
        let refused = loop {
            match self.post(url.clone(), &json_type(), body.as_bytes()) {
                Ok(_) => return Ok(()),
                Err(Trouble::Status { status: 409, said }) if said.contains(BUSY) && left > 0 => left -= 1,
                Err(Trouble::Status { status: 409, .. }) => break None,
                // A token that may not make repositories may write to one that is there.
                Err(trouble @ Trouble::Status { status: 401..=403, .. }) => break Some(trouble),
                Err(trouble) => return Err(self.explain("create the model", trouble)),
            }
            std::thread::sleep(std::time::Duration::from_secs(1).min(self.hub.patience));
        };
        if !private && refused.is_none() {
            return Ok(());
        }
        let what = "look at the model";
        let nothing = || -> Result<Box<dyn Read>> { Ok(Box::new(std::io::empty())) };
        let url = self.transport.url(&format!("api/models/{}", self.id))?;
        let there = match (self.send(Method::Get, url, &[], 0, &nothing), refused) {
            (Ok(reply), _) => self.parse(what, &reply.text)?,
            (Err(_), Some(refused)) => return Err(self.explain("create the model", refused)),
            (Err(trouble), None) => return Err(self.explain(what, trouble)),
        };
        if private && there["private"] != true {
            return Err(err!("`{}` exists and is not private: nothing was pushed", self.id)
                .hint("make it private in its settings on the hub, choose another id, or leave out `--hub-private`"));
        }
        Ok(())
    }

    /// The files that go to the storage, those that go into the commit, and the names of those that the hub ignores.
    fn sort<'f>(&self, files: &'f [LocalFile]) -> Result<(Vec<&'f LocalFile>, Vec<&'f LocalFile>, Vec<String>)> {
        let listed = files
            .iter()
            .map(|file| json!({"path": file.name, "sample": STANDARD.encode(&file.sample), "size": file.size}));
        let body = json!({"files": listed.collect::<Vec<_>>()});
        let what = "ask which files are large";
        let url = self.transport.url(&format!("api/models/{}/preupload/main", self.id))?;
        let answer = self.post_json(url, &json_type(), &body).map_err(|trouble| self.explain(what, trouble))?;
        let answered = answer["files"].as_array().ok_or_else(|| self.nonsense(what))?;
        let (mut large, mut small, mut ignored) = (Vec::new(), Vec::new(), Vec::new());
        for file in files {
            let said = answered.iter().find(|said| said["path"] == *file.name);
            let said = said.ok_or_else(|| self.nonsense(what))?;
            match said["uploadMode"].as_str() {
                _ if said["shouldIgnore"] == true => ignored.push(file.name.clone()),
                // Storage takes nothing that is empty.
                Some("lfs") if file.size > 0 => large.push(file),
                Some("lfs" | "regular") => small.push(file),
                _ => return Err(self.nonsense(what)),
            }
        }
        let within: u64 = small.iter().map(|file| file.size).sum();
        if within > MAX_WITHIN_COMMIT {
            return Err(err!("the hub wants {} MB within the commit, which is too much for one", within >> 20)
                .hint("name the large files in the model's `.gitattributes` on the hub, as `filter=lfs`"));
        }
        Ok((large, small, ignored))
    }

    fn commit(&self, message: &str, large: &[&LocalFile], small: &[&LocalFile]) -> Result<String> {
        let mut lines = vec![json!({"key": "header", "value": {"summary": message, "description": ""}})];
        for file in small {
            let content = STANDARD.encode(file.bytes()?);
            lines.push(json!({"key": "file", "value": {"content": content, "path": file.name, "encoding": "base64"}}));
        }
        for LocalFile { name, size, sha256, .. } in large {
            let value = json!({"path": name, "algo": "sha256", "oid": sha256, "size": size});
            lines.push(json!({"key": "lfsFile", "value": value}));
        }
        let body: String = lines.iter().map(|line| format!("{line}\n")).collect();
        let what = "commit the files";
        let url = self.transport.url(&format!("api/models/{}/commit/main", self.id))?;
        let headers = [("content-type".into(), "application/x-ndjson".into())];
        let reply = self.post(url, &headers, body.as_bytes()).map_err(|trouble| self.explain(what, trouble))?;
        let answer = self.parse(what, &reply.text)?;
        answer["commitOid"].as_str().map(str::to_owned).ok_or_else(|| self.nonsense(what))
    }

    pub(super) fn post_json(&self, url: Url, headers: &[(String, String)], body: &Value) -> Result<Value, Trouble> {
        let mut headers = headers.to_vec();
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type")) {
            headers.extend(json_type());
        }
        let reply = self.post(url, &headers, body.to_string().as_bytes())?;
        // Some answers are empty, or a word.
        Ok(serde_json::from_str(&reply.text).unwrap_or_default())
    }

    pub(super) fn post(&self, url: Url, headers: &[(String, String)], body: &[u8]) -> Result<Reply, Trouble> {
        let reader = || -> Result<Box<dyn Read + '_>> { Ok(Box::new(body)) };
        self.send(Method::Post, url, headers, body.len() as u64, &reader)
    }

    #[expect(clippy::needless_lifetimes, reason = "what a closure gives back cannot have an elided one")]
    pub(super) fn send<'b>(
        &self,
        method: Method,
        url: Url,
        headers: &[(String, String)],
        size: u64,
        body: &'b dyn Fn() -> Result<Box<dyn Read + 'b>>,
    ) -> Result<Reply, Trouble> {
        self.transport.send_message(&Message { method, url, headers, size, body, go_on: self.watch.go_on })
    }

    fn parse(&self, what: &str, text: &str) -> Result<Value> {
        serde_json::from_str(text).context(|| self.nonsense(what).to_string())
    }

    /// The hub has answered, but not as a hub does.
    pub(super) fn nonsense(&self, what: &str) -> Error {
        err!("cannot {what}: the hub answers in no known way").hint("is `HF_ENDPOINT` the address of a hub?")
    }

    /// Says what a refusal means and what to do about it.
    pub(super) fn explain(&self, what: &str, trouble: Trouble) -> Error {
        let (status, cause) = match trouble {
            Trouble::Other(error) if error.kind() == Kind::Interrupted => return error,
            Trouble::Other(error) => return error.context(format!("cannot {what}")),
            Trouble::Connection(error) => (0, error),
            Trouble::Status { status, said } => {
                let colon = if said.is_empty() { "" } else { ": " };
                (status, err!("the answer has HTTP status {status}{colon}{said}"))
            }
        };
        let id = self.id;
        let (message, hint) = match status {
            401 => (format!("cannot {what}: the hub does not accept the token"), TOKEN.into()),
            402 | 403 => (
                format!("cannot {what}: the token may not write to `{id}`"),
                format!("is OWNER/NAME your own, or of an organization that you may write for? {TOKEN}"),
            ),
            404 => (
                format!("cannot {what}: the hub does not know `{id}`, or the token may not see it"),
                "check the spelling of the id and the rights of the token".into(),
            ),
            409 | 412 => (
                format!("cannot {what}: the hub says that something else changes `{id}`"),
                "push again in a moment".into(),
            ),
            413 => (format!("cannot {what}: it is too large for the hub"), "look at the limits of the account".into()),
            429 => (format!("cannot {what}: the hub wants fewer requests"), "push again in some minutes".into()),
            400 | 422 => (format!("cannot {what}: the hub finds it wrong"), "what the hub says is above".into()),
            _ => (
                format!("cannot {what}"),
                "check the connection (`HF_ENDPOINT` names another hub), and push again".into(),
            ),
        };
        let kind = if matches!(status, 401..=403) { Kind::Gated } else { Kind::Other };
        cause.context(message).hint(hint).of_kind(kind)
    }
}

fn json_type() -> [(String, String); 1] {
    [("content-type".into(), "application/json".into())]
}
