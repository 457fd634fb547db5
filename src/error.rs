//! The one error type: what went wrong and where, what caused it, and what to do about it.
//!
//! Printed as `error:` / `caused by:` / blank line / `hint:` by [`Error::report`]. Every error has a [`Kind`], set where it
//! is made or at the border of a part ([`Error::or_kind`]); context keeps it, and the exit code follows from it.

use std::borrow::Cow;
use std::fmt;

/// Result of everything in this crate that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What sort of failure it is: programs tell failures apart by it, and the exit code follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The command line, the config file or an option of the library asks for something that makes no sense.
    Usage,
    /// A row, a dataset or a tools file cannot be used.
    Data,
    /// A model folder or GGUF cannot be used.
    Model,
    /// The hub wants a token, or a licence to be accepted.
    Gated,
    /// The device or the host has no memory left.
    OutOfMemory,
    /// Somebody asked the job to stop (Ctrl-C).
    Interrupted,
    /// A fault of this program.
    Internal,
    /// None of these: a disk, a network, a device that is missing.
    Other,
}

impl Kind {
    /// 2 for usage errors, 130 for interrupted jobs (128 + SIGINT, as shells have it), 1 for the rest.
    pub fn exit_code(self) -> u8 {
        match self {
            Kind::Usage => 2,
            Kind::Interrupted => 130,
            _ => 1,
        }
    }
}

/// What the message of an internal error begins with.
const INTERNAL: &str = "internal: ";

/// A failure with a place, a kind, an optional cause and an optional hint.
pub struct Error {
    message: String,
    hint: Option<String>,
    kind: Kind,
    source: Option<Box<dyn std::error::Error + Send + Sync + 'static>>,
}

impl Error {
    /// A failure. `message` is lower case and names the place. Its kind is [`Kind::Internal`] when the message begins with
    /// `internal: `, else [`Kind::Other`].
    pub fn new(message: impl Into<String>) -> Self {
        let message = message.into();
        let kind = if message.starts_with(INTERNAL) { Kind::Internal } else { Kind::Other };
        Self { message, hint: None, kind, source: None }
    }

    /// A fault of the command line, the config file or an option.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(message).of_kind(Kind::Usage)
    }

    /// Somebody stopped the job. `message` says what became of the work.
    pub fn interrupted(message: impl Into<String>) -> Self {
        Self::new(message).of_kind(Kind::Interrupted)
    }

    /// Says what kind of failure this is.
    pub fn of_kind(self, kind: Kind) -> Self {
        Self { kind, ..self }
    }

    /// The kind of failures that nobody below has told apart: `load_rows` says that they are about data, but a refusal of
    /// the hub stays one.
    pub fn or_kind(self, kind: Kind) -> Self {
        if self.kind == Kind::Other { self.of_kind(kind) } else { self }
    }

    /// What the user can do about it.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Wraps `self` as the cause of a failure described by `message`; hint and kind carry over.
    pub fn context(self, message: impl Into<String>) -> Self {
        let (hint, kind) = (self.hint.clone(), self.kind);
        Self { message: message.into(), hint, kind, source: Some(Box::new(self)) }
    }

    /// What the user can do about it, if that is known.
    pub fn advice(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// Message and causes on one line, for a list of failures.
    pub fn line(&self) -> String {
        let causes = std::iter::successors(std::error::Error::source(self), |error| error.source());
        std::iter::once(self.message.clone()).chain(causes.map(ToString::to_string)).collect::<Vec<_>>().join(": ")
    }

    /// What sort of failure it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// [`Kind::exit_code`] of its kind.
    pub fn exit_code(&self) -> u8 {
        self.kind.exit_code()
    }

    /// The text for stderr: message, causes, hint.
    pub fn report(&self) -> String {
        self.text(if self.kind == Kind::Interrupted { "interrupted" } else { "error" })
    }

    /// [`report`](Self::report) of a failure that the job survives.
    pub fn warning(&self) -> String {
        self.text("warning")
    }

    fn text(&self, first: &str) -> String {
        let mut text = format!("{first}: {}", self.message);
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text += &format!("\ncaused by: {error}");
            cause = error.source();
        }
        if let Some(hint) = &self.hint {
            text += &format!("\n\nhint: {hint}");
        }
        printable(&text).into_owned()
    }
}

/// `text` for a screen. What data say is shown and not obeyed: control characters but line breaks and tabs, and those that
/// override the direction of writing, are written as `\u{1b}`. Everything that a command prints and that may hold names,
/// prompts or answers goes through here; [`Error::report`] does it itself.
pub fn printable(text: &str) -> Cow<'_, str> {
    let obeyed = |c: char| match c {
        '\n' | '\t' => false,
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => true,
        c => c.is_control(),
    };
    if !text.contains(obeyed) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match obeyed(c) {
            true => out.extend(c.escape_unicode()),
            false => out.push(c),
        }
    }
    Cow::Owned(out)
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.report())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|e| e as &(dyn std::error::Error + 'static))
    }
}

/// Adds a place to any error: `file.read().context(|| format!("cannot read `{path}`"))?`.
pub trait Context<T> {
    /// Wraps the error, if any, as the cause of the failure that `message` describes.
    fn context<M: Into<String>>(self, message: impl FnOnce() -> M) -> Result<T>;
}

impl<T, E: std::error::Error + Send + Sync + 'static> Context<T> for std::result::Result<T, E> {
    fn context<M: Into<String>>(self, message: impl FnOnce() -> M) -> Result<T> {
        self.map_err(|source| {
            let boxed: Box<dyn std::error::Error + Send + Sync> = Box::new(source);
            match boxed.downcast::<Error>() {
                Ok(inner) => inner.context(message()),
                Err(source) => Error { source: Some(source), ..Error::new(message()) },
            }
        })
    }
}

/// `err!("cannot read `{path}`")`: an [`Error`] from a format string.
#[macro_export]
macro_rules! err {
    ($($arg:tt)*) => { $crate::error::Error::new(format!($($arg)*)) };
}

/// `bail!(..)`: return early with [`err!`].
#[macro_export]
macro_rules! bail {
    ($($arg:tt)*) => { return Err($crate::err!($($arg)*)) };
}
