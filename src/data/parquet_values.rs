//! Parquet's rows as JSON, until they become absurdly large.

use ::parquet::record::{Field, Row};
use serde_json::Value;

use crate::err;
use crate::error::Result;

/// Bytes that a decoded value takes beside its text.
const VALUE_BYTES: usize = 64;

/// Decodes rows until they have become absurdly large.
pub struct Decoder {
    /// Bytes that may still be decoded.
    left: usize,
    most: usize,
}

impl Decoder {
    /// For a file of `size` bytes: dictionaries and repeated rows make much of little, but not anything.
    pub fn for_file_of(size: usize) -> Self {
        let most = size.saturating_mul(1024).saturating_add(256 << 20);
        Self { left: most, most }
    }

    pub fn group(&mut self, row: &Row) -> Result<Value> {
        let mut map = serde_json::Map::new();
        for (name, field) in row.get_column_iter() {
            self.spend(name.len())?;
            map.insert(name.clone(), self.value(field)?);
        }
        Ok(map.into())
    }

    fn value(&mut self, field: &Field) -> Result<Value> {
        self.spend(match field {
            Field::Str(text) => text.len(),
            Field::Bytes(bytes) => bytes.len(),
            _ => 0,
        })?;
        Ok(match field {
            Field::Bool(flag) => (*flag).into(),
            Field::Byte(number) => (*number).into(),
            Field::Short(number) => (*number).into(),
            Field::Int(number) => (*number).into(),
            Field::Long(number) => (*number).into(),
            Field::UByte(number) => (*number).into(),
            Field::UShort(number) => (*number).into(),
            Field::UInt(number) => (*number).into(),
            Field::ULong(number) => (*number).into(),
            Field::Float(number) => f64::from(*number).into(),
            Field::Double(number) => (*number).into(),
            Field::Str(text) => text.as_str().into(),
            Field::Bytes(bytes) => String::from_utf8_lossy(bytes.data()).into(),
            Field::Group(row) => self.group(row)?,
            Field::ListInternal(list) => {
                list.elements().iter().map(|item| self.value(item)).collect::<Result<Vec<_>>>()?.into()
            }
            Field::MapInternal(map) => self.map(map.entries())?,
            Field::Null => Value::Null,
            other => other.to_string().into(),
        })
    }

    fn map(&mut self, entries: &[(Field, Field)]) -> Result<Value> {
        let mut map = serde_json::Map::new();
        for (key, item) in entries {
            let key = key.to_string().trim_matches('"').to_string();
            self.spend(key.len())?;
            map.insert(key, self.value(item)?);
        }
        Ok(map.into())
    }

    fn spend(&mut self, bytes: usize) -> Result<()> {
        let left = self.left.checked_sub(bytes.saturating_add(VALUE_BYTES));
        self.left = left.ok_or_else(|| {
            err!("its rows become larger than {} MB, more than a file of this size holds", self.most >> 20)
                .hint("split it into several files, or write it as JSON lines")
        })?;
        Ok(())
    }
}
