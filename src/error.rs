//! The one error type: what went wrong and where, what caused it, and what to do about it.
//!
//! Printed as `error:` / `caused by:` / blank line / `hint:` by [`Error::report`]. A usage error (bad flag, bad config
//! key) exits with 2, everything else with 1.

use std::fmt;

/// Result of everything in this crate that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure with a place, an optional cause and an optional hint.
pub struct Error {
    message: String,
    hint: Option<String>,
    usage: bool,
    source: Option<Box<dyn std::error::Error + Send + Sync + 'static>>,
}

impl Error {
    /// A failure of the job itself (exit code 1). `message` is lower case and names the place.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None, usage: false, source: None }
    }

    /// A fault of the command line or the config file (exit code 2).
    pub fn usage(message: impl Into<String>) -> Self {
        Self { usage: true, ..Self::new(message) }
    }

    /// What the user can do about it.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Wraps `self` as the cause of a failure described by `message`; hint and exit code carry over.
    pub fn context(self, message: impl Into<String>) -> Self {
        let (hint, usage) = (self.hint.clone(), self.usage);
        Self { message: message.into(), hint, usage, source: Some(Box::new(self)) }
    }

    /// 2 for usage errors, 1 for the rest.
    pub fn exit_code(&self) -> u8 {
        if self.usage { 2 } else { 1 }
    }

    /// The text for stderr: message, causes, hint.
    pub fn report(&self) -> String {
        let mut text = format!("error: {}", self.message);
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text += &format!("\ncaused by: {error}");
            cause = error.source();
        }
        if let Some(hint) = &self.hint {
            text += &format!("\n\nhint: {hint}");
        }
        text
    }
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
