//! Something that is wrong with a dataset, and where.

use std::fmt;

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Problem {
    UndeclaredTool,
    UnknownArgument,
    MissingArgument,
    WrongType,
    NotInEnum,
    NullPadding,
    /// A word of a schema that the template leaves out.
    Dropped,
    /// A property that the template leaves out, or of which it leaves the type.
    Swallowed,
    /// A part of a schema that the template writes as something else.
    Garbled,
    DuplicateTool,
    NoTrigger,
    QuotedResponse,
    EndsWithUser,
    DuplicateRow,
    InBoth,
    Imbalance,
    /// Longer than allowed: cut off or left out.
    TooLong,
    /// Longer than allowed, and the run stops at it.
    Refused,
    NothingScored,
    ControlToken,
    NotRendered,
}

impl Problem {
    /// Whether it makes the row, its tool or the score worthless; the others are worth a look.
    pub fn is_error(self) -> bool {
        use Problem::*;
        !matches!(
            self,
            Dropped | NoTrigger | QuotedResponse | EndsWithUser | DuplicateRow | Imbalance | TooLong | ControlToken
        )
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UndeclaredTool => "undeclared tool",
            Self::UnknownArgument => "unknown argument",
            Self::MissingArgument => "missing argument",
            Self::WrongType => "wrong type",
            Self::NotInEnum => "not in enum",
            Self::NullPadding => "null padding",
            Self::Dropped => "left out by the template",
            Self::Swallowed => "swallowed by the template",
            Self::Garbled => "garbled by the template",
            Self::DuplicateTool => "duplicate tool",
            Self::NoTrigger => "no trigger sentence",
            Self::QuotedResponse => "quoted tool response",
            Self::EndsWithUser => "ends with the user",
            Self::DuplicateRow => "duplicate row",
            Self::InBoth => "in training and evaluation",
            Self::Imbalance => "imbalance",
            Self::TooLong | Self::Refused => "too long",
            Self::NothingScored => "nothing scored",
            Self::ControlToken => "control token",
            Self::NotRendered => "not rendered",
        })
    }
}

/// Something that is wrong, and where.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// `file:line`, or what the finding is about where it is not a single row.
    pub place: String,
    pub problem: Problem,
    pub text: String,
}

impl Finding {
    pub fn new(place: impl ToString, problem: Problem, text: impl Into<String>) -> Self {
        Self { place: place.to_string(), problem, text: text.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.place, self.problem, self.text)
    }
}
