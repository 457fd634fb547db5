//! Requests that bring something to a hub: sent again where that may help, never to whom the hub redirects.

use std::io::Read;
use std::time::{Duration, Instant};

use ureq::http::{HeaderMap, Response, StatusCode, header};
use ureq::typestate::WithBody;
use ureq::{Body, RequestBuilder, SendBody};
use url::Url;

use super::transport::{Transport, target};
use crate::err;
use crate::error::{Context, Error, Result};

/// Times that a request is sent at most, as `huggingface_hub` does.
const ATTEMPTS: u32 = 6;
/// A hub that wants to be left alone for longer than this is left alone for good.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Bytes of an answer that are read at most: the addresses of ten thousand parts fit.
const MAX_ANSWER: u64 = 32 << 20;
/// Bytes of a refusal that are read at most, and characters that are shown of it.
const MAX_REFUSAL: u64 = 64 << 10;
const SHOWN: usize = 300;
/// Redirections within the endpoint that are followed for one request.
const MAX_REDIRECTIONS: usize = 5;

/// How a request is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    Get,
    Post,
    Put,
}

/// Opens what is sent, anew for each attempt.
pub(super) type Opened<'b> = &'b dyn Fn() -> Result<Box<dyn Read + 'b>>;

/// What is sent.
pub(super) struct Message<'a, 'b> {
    pub method: Method,
    pub url: Url,
    pub headers: &'a [(String, String)],
    /// Bytes of the body.
    pub size: u64,
    /// The body from its beginning, for every attempt anew.
    pub body: Opened<'b>,
    /// An error once somebody wants no more attempts.
    pub go_on: &'a dyn Fn() -> Result<()>,
}

/// An answer that is a success.
pub(super) struct Reply {
    pub headers: HeaderMap,
    pub text: String,
}

/// Why there is none.
pub(super) enum Trouble {
    /// Who was asked answered with this HTTP status and these words, which may be empty.
    Status {
        status: u16,
        said: String,
    },
    Connection(Error),
    /// Nothing that another attempt would mend.
    Other(Error),
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

impl Transport {
    /// Sends `message`. What is refused for the moment (HTTP status 429, 500, 502, 503, 504) or cut off is sent again after a
    /// while, which the answer's `Retry-After` may set.
    pub fn send_message(&self, message: &Message) -> Result<Reply, Trouble> {
        let mut wait = Duration::from_secs(1);
        for attempt in 1.. {
            let mut asked = None;
            let trouble = match self.attempt(message, &mut asked) {
                Ok(reply) => return Ok(reply),
                Err(trouble) => trouble,
            };
            let may_pass =
                matches!(trouble, Trouble::Connection(_) | Trouble::Status { status: 429 | 500 | 502..=504, .. });
            if !may_pass || attempt == ATTEMPTS || asked.is_some_and(|asked| asked > LONGEST_WAIT) {
                return Err(trouble);
            }
            pause(asked.unwrap_or(wait.min(self.patience)), message.go_on)?;
            wait = (2 * wait).min(Duration::from_secs(8));
        }
        Err(Trouble::Other(err!("internal: no attempt was made")))
    }

    fn attempt(&self, message: &Message, asked: &mut Option<Duration>) -> Result<Reply, Trouble> {
        let mut url = message.url.clone();
        for _ in 0..=MAX_REDIRECTIONS {
            let response = self.once(message, &url)?;
            let (head, mut body) = response.into_parts();
            if head.status.is_redirection() {
                url = self.redirected(&url, head.status, &head.headers)?;
                continue;
            }
            let limit = if head.status.is_success() { MAX_ANSWER } else { MAX_REFUSAL };
            let text = body.with_config().limit(limit).lossy_utf8(true).read_to_string();
            if head.status.is_success() {
                let text = text.context(|| format!("the answer of `{}` broke off", shown(&url)));
                return Ok(Reply { headers: head.headers, text: text.map_err(Trouble::Connection)? });
            }
            *asked = retry_after(&head.headers);
            let said = self.said(&head.headers, &text.unwrap_or_default());
            return Err(Trouble::Status { status: head.status.as_u16(), said });
        }
        Err(Trouble::Other(err!("more than {MAX_REDIRECTIONS} redirections, the last one to `{}`", shown(&url))))
    }

    /// Where a request goes again: what was meant for the endpoint stays there.
    fn redirected(&self, from: &Url, status: StatusCode, headers: &HeaderMap) -> Result<Url> {
        let to = target(from, headers)?;
        let kept = matches!(status.as_u16(), 307 | 308);
        if kept && to.origin() == from.origin() {
            return Ok(to);
        }
        let why = if kept { "which is another host" } else { "which would lose what is sent" };
        Err(err!("`{}` redirects (HTTP status {}) to `{}`, {why}", shown(from), status.as_u16(), shown(&to)).hint(
            "nothing was sent there; `HF_ENDPOINT` must be the hub's own address, and the model's id its present one",
        ))
    }

    fn once(&self, message: &Message, url: &Url) -> Result<Response<Body>, Trouble> {
        let token = self.token.as_ref().filter(|_| self.is_endpoint(url)).map(|token| format!("Bearer {token}"));
        let sent = match message.method {
            Method::Get => with_headers(self.agent.get(url.as_str()), message.headers, token).call(),
            Method::Post => send(with_headers(self.agent.post(url.as_str()), message.headers, token), message)?,
            Method::Put => send(with_headers(self.agent.put(url.as_str()), message.headers, token), message)?,
        };
        sent.context(|| format!("no answer from `{}`", shown(url))).map_err(Trouble::Connection)
    }

    /// What a refusal says for people, without the token, should it hold that.
    fn said(&self, headers: &HeaderMap, text: &str) -> String {
        let header = headers.get("x-error-message").and_then(|value| value.to_str().ok()).map(str::to_owned);
        let json: Option<serde_json::Value> = serde_json::from_str(text).ok();
        let field = |name: &str| json.as_ref()?.get(name)?.as_str().map(str::to_owned);
        let mut said = header.or_else(|| field("error")).or_else(|| field("message")).unwrap_or_default();
        if let Some(token) = &self.token {
            said = said.replace(token.as_str(), "***");
        }
        said.replace(['\n', '\r', '\t'], " ").chars().take(SHOWN).collect()
    }
}

/// The endpoint may name an authorization of its own for a request to itself.
fn with_headers<B>(
    mut request: RequestBuilder<B>,
    headers: &[(String, String)],
    token: Option<String>,
) -> RequestBuilder<B> {
    for (name, value) in headers {
        request = request.header(name, value);
    }
    match token {
        Some(token) if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("authorization")) => {
            request.header(header::AUTHORIZATION, token)
        }
        _ => request,
    }
}

/// With a size and not in chunks, which storage refuses.
fn send(request: RequestBuilder<WithBody>, message: &Message) -> Result<Result<Response<Body>, ureq::Error>> {
    let mut body = (message.body)()?;
    let request = request.header(header::CONTENT_LENGTH, message.size);
    Ok(request.send(SendBody::from_reader(&mut *body)))
}

/// An address for people: what follows its `?` may be a signature.
pub(super) fn shown(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.into()
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// Sleeps, and wakes when somebody wants no more.
fn pause(time: Duration, go_on: &dyn Fn() -> Result<()>) -> Result<()> {
    let begun = Instant::now();
    loop {
        go_on()?;
        let left = time.saturating_sub(begun.elapsed());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(Duration::from_millis(100)));
    }
}
