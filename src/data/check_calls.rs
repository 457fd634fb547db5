//! Whether a call's arguments keep to its tool's schema: names, what is required, types, enumerations.

use serde_json::{Map, Value};

use super::finding::Problem;

/// Tells `add` of each argument of the tool `name` that breaks the schema `parameters`.
pub fn check_call(name: &str, parameters: &Value, arguments: &Value, add: &mut dyn FnMut(Problem, String)) {
    let empty = Map::new();
    let call = Call { name };
    let schema = parameters.as_object().unwrap_or(&empty);
    if let Value::Object(arguments) = arguments {
        call.object(schema, arguments, "", add);
    }
}

struct Call<'a> {
    name: &'a str,
}

impl Call<'_> {
    /// `path` ends with a dot where it is not empty.
    fn object(
        &self,
        schema: &Map<String, Value>,
        object: &Map<String, Value>,
        path: &str,
        add: &mut dyn FnMut(Problem, String),
    ) {
        let name = self.name;
        let properties = schema.get("properties").and_then(Value::as_object);
        // An object of which nothing is said may hold anything; the arguments of a tool may not.
        let is_open = schema.get("additionalProperties").is_some_and(|more| *more != false)
            || (properties.is_none() && !path.is_empty());
        for (key, value) in object {
            match properties.and_then(|properties| properties.get(key)) {
                Some(property) => self.value(property, value, &format!("{path}{key}"), add),
                None if is_open => {}
                None if value.is_null() => {
                    let text = format!("`{name}` is given `{path}{key}` as null and has no such argument");
                    add(Problem::NullPadding, text);
                }
                None => {
                    let known = properties.into_iter().flat_map(Map::keys).map(|key| format!("`{key}`"));
                    let known = known.collect::<Vec<_>>().join(", ");
                    let has = if known.is_empty() { "none".into() } else { known };
                    add(Problem::UnknownArgument, format!("`{name}` has no argument `{path}{key}`; it has {has}"));
                }
            }
        }
        let required = schema.get("required").and_then(Value::as_array).into_iter().flatten();
        for key in required.filter_map(Value::as_str).filter(|key| !object.contains_key(*key)) {
            add(Problem::MissingArgument, format!("`{name}` requires the argument `{path}{key}`"));
        }
    }

    fn value(&self, schema: &Value, value: &Value, path: &str, add: &mut dyn FnMut(Problem, String)) {
        let Value::Object(schema) = schema else { return };
        let name = self.name;
        for word in ["anyOf", "oneOf"] {
            let Some(branches) = schema.get(word).and_then(Value::as_array) else { continue };
            if !branches.iter().any(|branch| self.fits(branch, value, path)) {
                add(Problem::WrongType, format!("`{path}` of `{name}` is {value}, which fits nothing of its `{word}`"));
            }
        }
        let types = types(schema);
        if !types.is_empty() && !types.iter().any(|kind| is_of(kind, value)) {
            let nullable = schema.get("nullable").is_some_and(|nullable| *nullable == true);
            match value {
                Value::Null if nullable => {}
                Value::Null => {
                    let text = format!("`{path}` of `{name}` is null; leave out what a call does not give");
                    add(Problem::NullPadding, text);
                }
                _ => {
                    let types = types.join(" or ");
                    add(Problem::WrongType, format!("`{path}` of `{name}` is {value}, not of type {types}"));
                }
            }
            return;
        }
        if let Some(values) = schema.get("enum").and_then(Value::as_array).filter(|values| !values.contains(value)) {
            let known = values.iter().map(Value::to_string).collect::<Vec<_>>().join(", ");
            add(Problem::NotInEnum, format!("`{path}` of `{name}` is {value}, not one of {known}"));
        }
        match value {
            Value::Object(object) => self.object(schema, object, &format!("{path}."), add),
            Value::Array(items) => {
                let Some(schema) = schema.get("items") else { return };
                items.iter().enumerate().for_each(|(i, item)| self.value(schema, item, &format!("{path}[{i}]"), add));
            }
            _ => {}
        }
    }

    fn fits(&self, schema: &Value, value: &Value, path: &str) -> bool {
        let mut fits = true;
        self.value(schema, value, path, &mut |_, _| fits = false);
        fits
    }
}

/// The types that a schema allows, in small letters.
fn types(schema: &Map<String, Value>) -> Vec<String> {
    match schema.get("type") {
        Some(Value::String(kind)) => vec![kind.to_lowercase()],
        Some(Value::Array(kinds)) => kinds.iter().filter_map(Value::as_str).map(str::to_lowercase).collect(),
        _ => Vec::new(),
    }
}

fn is_of(kind: &str, value: &Value) -> bool {
    match kind {
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "number" => value.is_number(),
        "integer" => value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|number| number.fract() == 0.0),
        "object" => value.is_object(),
        "array" => value.is_array(),
        "null" => value.is_null(),
        // Words of other schema languages say nothing here.
        _ => true,
    }
}
