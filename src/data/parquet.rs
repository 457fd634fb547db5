//! Rows of a parquet file, with the null padding of Arrow's schemas taken out.

use serde_json::Value;

use super::rows::{Row, RowOptions};
use crate::error::Result;

/// Rows of the parquet file `file`; see [`without_padding`].
///
/// # Errors
/// Names the file and the row; says so when the engine was built without parquet.
#[cfg(not(feature = "parquet"))]
pub fn read_rows(file: &str, _options: &RowOptions) -> Result<Vec<Row>> {
    Err(crate::err!("`{file}` cannot be read: this engine was built without parquet")
        .hint("build with `--features parquet`, or convert the file to JSON lines"))
}

/// Rows of the parquet file `file`; see [`without_padding`].
///
/// # Errors
/// Names the file and the row; says so when the engine was built without parquet.
#[cfg(feature = "parquet")]
pub fn read_rows(file: &str, options: &RowOptions) -> Result<Vec<Row>> {
    use crate::error::Context;
    let bytes = std::fs::read(file).context(|| format!("cannot read `{file}`"))?;
    parse_rows(bytes, file, options)
}

/// [`read_rows`] of the contents of a file. Whatever they are, this neither panics nor takes more memory than some thousand
/// times their size.
///
/// # Errors
/// As [`read_rows`].
#[cfg(feature = "parquet")]
pub fn parse_rows(bytes: Vec<u8>, file: &str, options: &RowOptions) -> Result<Vec<Row>> {
    use super::parquet_pages::unpack;
    use super::rows::Origin;
    let failed = || format!("cannot read `{file}`");
    let mut rows = Vec::new();
    let mut add = |value| {
        rows.push(Row::from_json(without_padding(value), Origin::new(file, rows.len() + 1), options)?);
        Ok(())
    };
    crate::foreign::caught(failed, || unpack(bytes.into(), file, &mut add))??;
    Ok(rows)
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
