//! Rows of a parquet file, with the null padding of Arrow's schemas taken out.

use std::ops::ControlFlow;

use serde_json::Value;

#[cfg(feature = "parquet")]
use super::rows::{Row, RowOptions};
use crate::error::Result;

/// Gives the rows of the parquet file `file` to `each` until it has enough; see [`without_padding`].
///
/// # Errors
/// Names the file; says so when the engine was built without parquet.
#[cfg(not(feature = "parquet"))]
pub fn read_values(file: &str, _each: &mut dyn FnMut(Value) -> Result<ControlFlow<()>>) -> Result<()> {
    Err(crate::err!("`{file}` cannot be read: this engine was built without parquet")
        .hint("build with `--features parquet`, or convert the file to JSON lines"))
}

/// Gives the rows of the parquet file `file` to `each` until it has enough; see [`without_padding`].
///
/// # Errors
/// Names the file; says so when the engine was built without parquet.
#[cfg(feature = "parquet")]
pub fn read_values(file: &str, each: &mut dyn FnMut(Value) -> Result<ControlFlow<()>>) -> Result<()> {
    use crate::error::Context;
    let bytes = std::fs::read(file).context(|| format!("cannot read `{file}`"))?;
    parse_values(bytes, file, each)
}

/// The rows of the contents of a file. Whatever they are, this neither panics nor takes more memory than some thousand times
/// their size.
///
/// # Errors
/// Names the file and the first bad row.
#[cfg(feature = "parquet")]
pub fn parse_rows(bytes: Vec<u8>, file: &str, options: &RowOptions) -> Result<Vec<Row>> {
    use super::rows::Origin;
    let mut rows = Vec::new();
    parse_values(bytes, file, &mut |value| {
        rows.push(Row::from_json(value, Origin::new(file, rows.len() + 1), options)?);
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(rows)
}

#[cfg(feature = "parquet")]
fn parse_values(bytes: Vec<u8>, file: &str, each: &mut dyn FnMut(Value) -> Result<ControlFlow<()>>) -> Result<()> {
    let failed = || format!("cannot read `{file}`");
    let mut unpadded = |value| each(without_padding(value));
    crate::foreign::caught(failed, || super::parquet_pages::unpack(bytes.into(), file, &mut unpadded))?
}

/// `value` without the nulls that a columnar schema forces on rows.
///
/// Arrow gives every struct of a column the same fields, so that a tool or a call carries all the properties and
/// arguments of all the others, as nulls; a template would print them. A null that the author meant cannot be told from
/// padding and goes too. Properties of which nothing is left are removed, empty argument objects stay.
pub fn without_padding(value: Value) -> Value {
    match value {
        Value::Array(items) => items.into_iter().map(without_padding).collect(),
        Value::Object(map) => {
            let mut out = serde_json::Map::new();
            for (key, item) in map.into_iter().filter(|(_, item)| !item.is_null()) {
                let item = match (key.as_str(), without_padding(item)) {
                    ("properties", Value::Object(properties)) => properties
                        .into_iter()
                        .filter(|(_, schema)| schema.as_object().is_none_or(|schema| !schema.is_empty()))
                        .collect::<serde_json::Map<_, _>>()
                        .into(),
                    (_, item) => item,
                };
                out.insert(key, item);
            }
            Value::Object(out)
        }
        other => other,
    }
}
