//! Requests to a hub: the token goes to the endpoint alone, and nobody is waited for without an end.

use std::time::Duration;

use ureq::http::{HeaderMap, header};
use ureq::{Agent, Body};
use url::Url;

use crate::err;
use crate::error::{Context, Error, Result};

/// Redirections that are followed for one request.
const MAX_REDIRECTIONS: usize = 10;

/// Sends requests, redirections included.
pub(super) struct Transport {
    pub(super) agent: Agent,
    endpoint: Url,
    pub(super) token: Option<String>,
    /// The longest wait between two attempts at what is sent, where the hub does not say how long.
    pub(super) patience: Duration,
}

/// Why there is no answer.
pub(super) enum Failure {
    /// The hub answered with this HTTP status.
    Status(u16),
    /// The connection failed.
    Connection(Error),
    /// The hub answered, but with something that cannot be used; or this machine has a problem of its own.
    Other(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

/// What the endpoint itself says of a file. Whoever it redirects to is not asked.
#[derive(Default)]
pub(super) struct Facts {
    /// The name of the contents: for large files their SHA-256, for others git's hash of them.
    pub etag: Option<String>,
    /// Bytes.
    pub size: Option<u64>,
    /// The etag is about the file that a redirection leads to.
    linked: bool,
}

/// An answer to a request, after all redirections.
pub(super) struct Answer {
    pub facts: Facts,
    pub headers: HeaderMap,
    pub body: Body,
    /// Whether it holds just the part that was asked for.
    pub partial: bool,
}

impl Transport {
    /// Requests to `endpoint`, which get `token`. Every phase of a request, and every wait for more of a body or to
    /// get more of one out, may take `patience`.
    pub fn new(endpoint: &str, token: Option<&str>, patience: Duration) -> Result<Self> {
        let url = Url::parse(endpoint).context(|| format!("the hub's address `{endpoint}` is not one"));
        let endpoint =
            url.map_err(|error| error.hint("set `HF_ENDPOINT` to something like `https://huggingface.co`"))?;
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .user_agent(concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")))
            // Sizes and hashes are those of the file, not of something compressed.
            .accept_encoding("identity")
            .timeout_resolve(Some(patience))
            .timeout_connect(Some(patience))
            .timeout_send_request(Some(patience))
            .timeout_recv_response(Some(patience))
            .timeout_per_read(Some(patience))
            .timeout_per_write(Some(patience))
            .build();
        Ok(Self { agent: agent.into(), endpoint, token: token.map(str::to_string), patience })
    }

    /// The address of `path` at the endpoint; a segment is whatever stands between slashes.
    pub fn url(&self, path: &str) -> Result<Url> {
        let mut url = self.endpoint.clone();
        let Ok(mut segments) = url.path_segments_mut() else {
            return Err(err!("the hub's address `{}` cannot have a path", self.endpoint));
        };
        segments.pop_if_empty().extend(path.split('/'));
        drop(segments);
        Ok(url)
    }

    /// Asks for `url`, from byte `from` if that is not 0.
    pub fn get(&self, mut url: Url, from: u64) -> Result<Answer, Failure> {
        let mut facts = Facts::default();
        for _ in 0..=MAX_REDIRECTIONS {
            let response = self.send(&url, from)?;
            let (status, at_endpoint) = (response.status(), self.is_endpoint(&url));
            if at_endpoint {
                facts.hear(response.headers());
            }
            if status.is_redirection() {
                url = target(&url, response.headers())?;
                continue;
            }
            if !status.is_success() {
                return Err(Failure::Status(status.as_u16()));
            }
            let (head, body) = response.into_parts();
            return Ok(Answer { facts, partial: status.as_u16() == 206, headers: head.headers, body });
        }
        Err(Failure::Other(err!("more than {MAX_REDIRECTIONS} redirections, the last one to `{url}`")))
    }

    fn send(&self, url: &Url, from: u64) -> Result<ureq::http::Response<Body>, Failure> {
        let mut request = self.agent.get(url.as_str());
        if from > 0 {
            request = request.header(header::RANGE, format!("bytes={from}-"));
        }
        if let Some(token) = self.token.as_ref().filter(|_| self.is_endpoint(url)) {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        request.call().context(|| format!("no answer from `{url}`")).map_err(Failure::Connection)
    }

    /// Same scheme, host and port.
    pub(super) fn is_endpoint(&self, url: &Url) -> bool {
        url.origin() == self.endpoint.origin()
    }
}

/// Where a redirection leads.
pub(super) fn target(from: &Url, headers: &HeaderMap) -> Result<Url> {
    let location = headers.get(header::LOCATION).and_then(|value| value.to_str().ok());
    let Some(location) = location else { return Err(err!("`{from}` redirects to nowhere")) };
    let failed = || format!("`{from}` redirects to `{}`, which is no address", location.escape_debug());
    let url = from.join(location).context(failed)?;
    if matches!(url.scheme(), "http" | "https") { Ok(url) } else { Err(err!("{}", failed())) }
}

impl Facts {
    /// Takes in the headers of an answer of the endpoint. `x-linked-*` are about the file that a redirection leads to.
    fn hear(&mut self, headers: &HeaderMap) {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let linked = text("x-linked-etag");
        if let Some(etag) = linked.or(text("etag").filter(|_| !self.linked)) {
            self.etag = Some(etag.trim_start_matches("W/").trim_matches('"').into());
            self.linked = linked.is_some();
        }
        if let Some(size) = text("x-linked-size").and_then(|size| size.parse().ok()) {
            self.size = Some(size);
        }
    }
}
