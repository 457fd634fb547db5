//! JSON schemas as pydantic writes them, without what a chat template cannot follow: `$ref`, and `anyOf` with null.

use serde_json::{Map, Value};

use crate::error::Result;
use crate::{bail, err};

/// Values inside one another, references followed.
const MAX_DEPTH: usize = 128;
/// Values that a schema may become: references to references double with each.
const MAX_VALUES: usize = 100_000;

/// `schema` with each `$ref` replaced by what it names in `$defs` or `definitions`, `anyOf`, `oneOf` and `allOf` by their one
/// part that is not null, and without the definitions. An `anyOf` of several parts stays.
///
/// # Errors
/// A reference that leads nowhere, back to itself or outside, or a schema of absurd size.
pub fn resolve(schema: &Value) -> Result<Value> {
    if !refers(schema, 0)? {
        return Ok(schema.clone());
    }
    let mut resolver = Resolver { root: schema, open: Vec::new(), left: MAX_VALUES };
    resolver.value(schema, false, 0)
}

/// Whether there is anything to resolve: most schemas stay as they are.
fn refers(schema: &Value, depth: usize) -> Result<bool> {
    if depth > MAX_DEPTH {
        bail!("the schema is nested deeper than {MAX_DEPTH}");
    }
    let inside: Vec<&Value> = match schema {
        Value::Object(map) => {
            if ["$ref", "anyOf", "oneOf", "allOf"].iter().any(|word| map.contains_key(*word)) {
                return Ok(true);
            }
            map.values().collect()
        }
        Value::Array(items) => items.iter().collect(),
        _ => return Ok(false),
    };
    inside.into_iter().try_fold(false, |found, item| Ok(found || refers(item, depth + 1)?))
}

struct Resolver<'a> {
    root: &'a Value,
    /// The references that are being followed.
    open: Vec<&'a str>,
    left: usize,
}

impl<'a> Resolver<'a> {
    /// `is_map`: the keys of `value` are names of properties, not words of JSON Schema.
    fn value(&mut self, value: &'a Value, is_map: bool, depth: usize) -> Result<Value> {
        if depth > MAX_DEPTH {
            bail!("the schema is nested deeper than {MAX_DEPTH}, its references followed");
        }
        self.left = self.left.checked_sub(1).ok_or_else(|| {
            err!("the schema has more than {MAX_VALUES} values, its references followed").hint("simplify it")
        })?;
        match value {
            Value::Array(items) => {
                items.iter().map(|item| self.value(item, false, depth + 1)).collect::<Result<Vec<_>>>().map(Value::from)
            }
            Value::Object(map) if is_map => self.properties(map, depth),
            Value::Object(map) => self.schema(map, depth),
            other => Ok(other.clone()),
        }
    }

    fn properties(&mut self, map: &'a Map<String, Value>, depth: usize) -> Result<Value> {
        let mut out = Map::new();
        for (key, item) in map {
            out.insert(key.clone(), self.value(item, false, depth + 1)?);
        }
        Ok(out.into())
    }

    fn schema(&mut self, map: &'a Map<String, Value>, depth: usize) -> Result<Value> {
        let mut out = Map::new();
        for (key, item) in map {
            let item = match key.as_str() {
                "$ref" => {
                    let Value::Object(target) = self.follow(item, depth)? else {
                        bail!("`$ref` names {item}, which is no schema")
                    };
                    merge(&mut out, target, map, key);
                    continue;
                }
                "anyOf" | "oneOf" | "allOf" => match sole(item) {
                    Some(part) => {
                        let Value::Object(part) = self.value(part, false, depth + 1)? else {
                            bail!("a part of `{key}` is no schema")
                        };
                        merge(&mut out, part, map, key);
                        continue;
                    }
                    None => self.value(item, false, depth + 1)?,
                },
                // Followed where something refers to them.
                "$defs" | "definitions" if depth == 0 => continue,
                // Not schemas, whatever they look like.
                "default" | "enum" | "const" | "examples" => item.clone(),
                "properties" => self.value(item, true, depth + 1)?,
                _ => self.value(item, false, depth + 1)?,
            };
            out.insert(key.clone(), item);
        }
        Ok(out.into())
    }

    /// What `reference` names.
    fn follow(&mut self, reference: &'a Value, depth: usize) -> Result<Value> {
        let Some(text) = reference.as_str() else { bail!("`$ref` is {reference}, not a string") };
        let target = text.strip_prefix('#').filter(|pointer| !pointer.is_empty());
        let Some(target) = target.and_then(|pointer| self.root.pointer(pointer)) else {
            return Err(err!("`$ref` names `{text}`, which the schema does not define")
                .hint("a reference is `#/$defs/Name` into the `$defs` of the same `parameters`"));
        };
        if self.open.contains(&text) {
            return Err(err!("`{text}` contains itself, so that it cannot be written out")
                .hint("a chat template needs schemas that end: describe the inner level as an object"));
        }
        self.open.push(text);
        let resolved = self.value(target, false, depth + 1);
        self.open.pop();
        resolved
    }
}

/// The one part that is not null.
fn sole(parts: &Value) -> Option<&Value> {
    let mut parts = parts.as_array()?.iter().filter(|part| part["type"] != "null");
    parts.next().filter(|_| parts.next().is_none())
}

/// Adds what a part says to a schema, whose own words win over all but `word`, in whose place the part stands.
fn merge(out: &mut Map<String, Value>, part: Map<String, Value>, own: &Map<String, Value>, word: &str) {
    out.extend(part.into_iter().filter(|(key, _)| key == word || !own.contains_key(key)));
}
