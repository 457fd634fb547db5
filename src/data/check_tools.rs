//! What FunctionGemma's chat template makes of a tool's schema: what it leaves out, and what it writes as something else.

use serde_json::{Map, Value};

use super::finding::Problem;
use super::tools::{DROPPED_PROPERTIES, tool_name};

/// Words that say something about a value and that the template does not know.
const UNKNOWN_WORDS: [&str; 15] = [
    "default",
    "const",
    "pattern",
    "format",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "examples",
    "additionalProperties",
];
const ALTERNATIVES: [&str; 3] = ["anyOf", "oneOf", "allOf"];

/// Tells `add` of each part of a tool that the model will not see as it is written.
pub fn check_tool(tool: &Value, add: &mut dyn FnMut(Problem, String)) {
    let name = tool_name(tool).unwrap_or("?");
    let function = &tool["function"];
    if function["description"].as_str().is_none_or(str::is_empty) {
        add(Problem::Dropped, format!("the tool `{name}` has no description: the model sees an empty one"));
    }
    let Some(parameters) = function["parameters"].as_object().filter(|map| !map.is_empty()) else { return };
    match parameters.get("type") {
        Some(Value::String(_)) => {}
        Some(Value::Array(_)) => add(Problem::Garbled, format!("the parameters of `{name}` have a list for a `type`")),
        _ => {
            let text = format!("the parameters of `{name}` have no `type`, and their closing brace is left out");
            add(Problem::Garbled, text);
        }
    }
    let mut walk = Walk { name, add };
    walk.alternatives(parameters, &format!("the parameters of `{name}`"));
    walk.properties(parameters, "", 0);
}

struct Walk<'a> {
    name: &'a str,
    add: &'a mut dyn FnMut(Problem, String),
}

impl Walk<'_> {
    /// `path` ends with a dot where it is not empty.
    fn properties(&mut self, schema: &Map<String, Value>, path: &str, depth: usize) {
        let Some(properties) = schema.get("properties").and_then(Value::as_object).filter(|_| depth < 64) else {
            return;
        };
        for (key, property) in properties {
            let shown = format!("`{path}{key}` of `{}`", self.name);
            if DROPPED_PROPERTIES.contains(&key.as_str()) {
                (self.add)(Problem::Swallowed, format!("{shown} is left out because of its name; rename it"));
            }
            let Value::Object(property) = property else {
                (self.add)(Problem::NullPadding, format!("{shown} is {property}, not a schema"));
                continue;
            };
            self.property(property, &shown);
            self.properties(property, &format!("{path}{key}."), depth + 1);
            if let Some(items) = property.get("items").and_then(Value::as_object) {
                self.alternatives(items, &format!("the items of {shown}"));
                self.properties(items, &format!("{path}{key}[]."), depth + 1);
            }
        }
    }

    fn property(&mut self, property: &Map<String, Value>, shown: &str) {
        // A default of null says that there is none.
        let nulls = property.iter().filter(|(key, value)| value.is_null() && *key != "default");
        let nulls = nulls.map(|(key, _)| format!("`{key}`")).collect::<Vec<_>>().join(", ");
        if !nulls.is_empty() {
            (self.add)(Problem::NullPadding, format!("{shown} has nothing but null under {nulls}; remove these"));
        }
        self.alternatives(property, shown);
        let kind = property.get("type");
        let has_alternatives = ALTERNATIVES.iter().any(|word| property.contains_key(*word));
        match kind {
            Some(Value::String(_)) => {}
            Some(Value::Array(kinds)) => {
                let kinds = kinds.iter().filter_map(Value::as_str).map(|kind| format!("'{}'", kind.to_uppercase()));
                let text = format!("[{}]", kinds.collect::<Vec<_>>().join(", "));
                (self.add)(Problem::Garbled, format!("the type of {shown} is written as Python's list `{text}`"));
            }
            _ if has_alternatives => {}
            _ => (self.add)(Problem::Garbled, format!("{shown} has no type: the model sees an empty one")),
        }
        let is_text = kind.and_then(Value::as_str).is_some_and(|kind| kind.eq_ignore_ascii_case("string"));
        let is_given = |word: &&str| property.get(*word).is_some_and(|value| !value.is_null());
        let mut dropped: Vec<&str> = UNKNOWN_WORDS.into_iter().filter(is_given).collect();
        if property.contains_key("enum") && !is_text {
            dropped.push("enum");
        }
        if !dropped.is_empty() {
            let words = dropped.join("`, `");
            let text = format!("`{words}` of {shown}; say it in the description if the model needs it");
            (self.add)(Problem::Dropped, text);
        }
    }

    fn alternatives(&mut self, schema: &Map<String, Value>, shown: &str) {
        for word in ALTERNATIVES.into_iter().filter(|word| schema.contains_key(*word)) {
            (self.add)(Problem::Swallowed, format!("`{word}` of {shown}: the model sees none of the alternatives"));
        }
    }
}
