//! Small files of a model, and fields of a JSON config by name: a wrong one is named in the error.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::err;
use crate::error::{Context, Result};

/// Bytes of the largest config that is taken.
pub(crate) const MAX_CONFIG: u64 = 4 << 20;

/// The text of a file that is not what it should be when it is larger than `most` bytes.
///
/// # Errors
/// The file cannot be read, is larger, or not UTF-8.
pub(crate) fn read_small(path: &Path, most: u64) -> Result<String> {
    let failed = || format!("cannot read `{}`", path.display());
    let file = File::open(path).context(failed)?;
    let mut text = String::new();
    file.take(most + 1).read_to_string(&mut text).context(failed)?;
    if text.len() as u64 > most {
        return Err(err!("`{}` is larger than {} MB", path.display(), most >> 20));
    }
    Ok(text)
}

/// The fields of one JSON object.
pub(crate) struct Fields<'a>(pub &'a Map<String, Value>);

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
