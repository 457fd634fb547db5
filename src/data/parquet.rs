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
    use super::rows::Origin;
    use crate::error::Context;
    use ::parquet::file::reader::{FileReader, SerializedFileReader};

    let place = || format!("cannot read `{file}`");
    let reader = SerializedFileReader::new(std::fs::File::open(file).context(place)?).map_err(|e| refused(file, e))?;
    let rows = reader.get_row_iter(None).map_err(|e| refused(file, e))?;
    rows.enumerate()
        .map(|(i, row)| {
            let value = decode::group(&row.map_err(|e| refused(file, e))?);
            Row::from_json(without_padding(value), Origin::new(file, i + 1), options)
        })
        .collect()
}

#[cfg(feature = "parquet")]
fn refused(file: &str, error: ::parquet::errors::ParquetError) -> crate::error::Error {
    let text = error.to_string();
    let failed = crate::err!("cannot read `{file}`: {text}");
    if text.to_lowercase().contains("disabled feature") || text.to_lowercase().contains("codec") {
        return failed.hint("this compression is not built in: write the file with snappy or gzip, or as JSON lines");
    }
    failed
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

#[cfg(feature = "parquet")]
mod decode {
    use ::parquet::record::{Field, Row};
    use serde_json::Value;

    pub fn group(row: &Row) -> Value {
        row.get_column_iter()
            .map(|(name, field)| (name.clone(), value(field)))
            .collect::<serde_json::Map<_, _>>()
            .into()
    }

    fn value(field: &Field) -> Value {
        match field {
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
            Field::Group(row) => group(row),
            Field::ListInternal(list) => list.elements().iter().map(value).collect(),
            Field::MapInternal(map) => map
                .entries()
                .iter()
                .map(|(key, item)| (key.to_string().trim_matches('"').to_string(), value(item)))
                .collect::<serde_json::Map<_, _>>()
                .into(),
            Field::Null => Value::Null,
            other => other.to_string().into(),
        }
    }
}
