//! Fields of a JSON config, by name: a wrong one is named in the error.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::err;
use crate::error::{Context, Result};

/// The fields of one JSON object.
pub(super) struct Fields<'a>(pub &'a Map<String, Value>);

impl Fields<'_> {
    /// The field, or `None` where it is absent or null.
    pub fn optional<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => T::deserialize(value).map(Some).context(|| format!("field `{name}` is wrong")),
        }
    }

    /// The field, which must be there.
    pub fn required<T: DeserializeOwned>(&self, name: &str) -> Result<T> {
        self.optional(name)?.ok_or_else(|| err!("field `{name}` is missing"))
    }
}

/// One token id or a list of them.
#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a token id or a list of them")]
pub(super) enum TokenIds {
    One(u32),
    Many(Vec<u32>),
}

impl TokenIds {
    pub fn into_vec(self) -> Vec<u32> {
        match self {
            Self::One(id) => vec![id],
            Self::Many(ids) => ids,
        }
    }
}
