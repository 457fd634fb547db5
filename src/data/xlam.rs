//! xLAM's tools: their parameters are a map from names to Python's types, `{"city": {"type": "str, optional"}}`, and no schema.

use serde_json::{Map, Value, json};

/// Types inside one another, in `List[List[int]]`.
const MOST_LEVELS: usize = 16;

/// xLAM's tools with JSON schemas for parameters. What is a schema already stays as it is, and so does what is no tool.
pub fn with_schemas(tools: Vec<Value>) -> Vec<Value> {
    let tool = |mut tool: Value| {
        let place = if tool["function"].is_object() { "/function/parameters" } else { "/parameters" };
        if let Some(parameters) = tool.pointer_mut(place)
            && let Some(map) = parameters.as_object().filter(|parameters| is_map(parameters))
        {
            *parameters = schema(map);
        }
        tool
    };
    tools.into_iter().map(tool).collect()
}

/// Whether `parameters` maps names to descriptions: a schema says `properties`, or that it is an object.
fn is_map(parameters: &Map<String, Value>) -> bool {
    let is_schema = parameters.get("properties").is_some_and(|properties| !properties["type"].is_string())
        || parameters.get("type").is_some_and(Value::is_string);
    !is_schema && parameters.values().all(Value::is_object)
}

fn schema(parameters: &Map<String, Value>) -> Value {
    let mut properties = Map::new();
    let mut required = Vec::new();
    for (name, parameter) in parameters {
        let text = parameter["type"].as_str().unwrap_or("str");
        let (kind, is_optional) = match text.split_once(", optional") {
            Some((kind, _)) => (kind, true),
            None => (text, parameter.get("default").is_some()),
        };
        if !is_optional {
            required.push(name.as_str());
        }
        let mut property = parameter.as_object().cloned().unwrap_or_default();
        if let Value::Object(kind) = type_of(kind.trim(), 0) {
            property.extend(kind);
        }
        properties.insert(name.clone(), property.into());
    }
    let mut schema = json!({"type": "object", "properties": properties});
    if !required.is_empty() {
        schema["required"] = required.into();
    }
    schema
}

/// The schema of a type in Python's words, of at most [`MOST_LEVELS`] levels.
fn type_of(kind: &str, depth: usize) -> Value {
    let (name, inner) = match kind.split_once('[') {
        Some((name, inner)) => (name.trim(), inner.trim_end().strip_suffix(']')),
        None => (kind, None),
    };
    let first = |inner: &str| match depth {
        MOST_LEVELS.. => json!({"type": "string"}),
        _ => type_of(top_level(inner).next().unwrap_or("str"), depth + 1),
    };
    match name.to_ascii_lowercase().as_str() {
        "int" | "integer" => json!({"type": "integer"}),
        "float" | "number" => json!({"type": "number"}),
        "bool" | "boolean" => json!({"type": "boolean"}),
        "dict" | "object" => json!({"type": "object"}),
        "list" | "tuple" | "set" | "array" => match inner {
            Some(inner) => json!({"type": "array", "items": first(inner)}),
            None => json!({"type": "array"}),
        },
        "optional" | "union" if inner.is_some() => first(inner.unwrap_or_default()),
        _ => json!({"type": "string"}),
    }
}

/// The parts of `List[int], str`.
fn top_level(text: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0;
    text.split(move |c| {
        match c {
            '[' => depth += 1,
            ']' => depth -= 1,
            _ => {}
        }
        c == ',' && depth == 0
    })
    .map(str::trim)
}
