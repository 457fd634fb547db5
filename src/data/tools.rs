//! Tool declarations: reading `--tools` files, the accepted forms, and what the chat template silently leaves out.

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::error::{Context, Kind, Result};
use crate::{bail, err};

/// Words of JSON Schema. FunctionGemma's chat template takes properties with these names for the words and leaves them out.
pub const DROPPED_PROPERTIES: [&str; 5] = ["description", "type", "properties", "required", "nullable"];

/// Tools of a JSON file, a list in OpenAI form or of bare functions, and warnings about what the template drops.
///
/// # Errors
/// Names the file: unreadable, not JSON, not a list, a tool without a name.
pub fn load_tools(path: impl AsRef<Path>) -> Result<(Vec<Value>, Vec<String>)> {
    read_tools(path.as_ref()).map_err(|error| error.or_kind(Kind::Data))
}

fn read_tools(path: &Path) -> Result<(Vec<Value>, Vec<String>)> {
    let place = || format!("cannot read tools from `{}`", path.display());
    let text = std::fs::read_to_string(path).context(place)?;
    let value: Value = serde_json::from_str(&text).context(place)?;
    let tools = normalize_tools(&value).context(place)?;
    if tools.is_empty() {
        return Err(err!("`{}` declares no tools", path.display()));
    }
    let warnings = dropped_property_warnings(&tools);
    Ok((tools, warnings))
}

/// Tools as a list of `{"type": "function", "function": {"name", ..}}`. Lists and single tools may be JSON strings.
///
/// # Errors
/// Something that is not a list of tools; the tool's number is named.
pub fn normalize_tools(value: &Value) -> Result<Vec<Value>> {
    match value {
        Value::Array(items) => items
            .iter()
            .enumerate()
            .map(|(i, tool)| normalize_tool(tool).context(|| format!("in tool {}", i + 1)))
            .collect(),
        Value::String(text) => match serde_json::from_str(text) {
            Ok(Value::Array(items)) => normalize_tools(&Value::Array(items)),
            _ => bail!("`tools` is a string but no JSON list"),
        },
        _ => {
            Err(err!("`tools` is not a list")
                .hint("tools are a JSON list of {\"type\": \"function\", \"function\": {..}}"))
        }
    }
}

/// The name of a tool in OpenAI form.
pub fn tool_name(tool: &Value) -> Option<&str> {
    tool["function"]["name"].as_str()
}

/// One warning for each property that FunctionGemma's template leaves out because of its name.
pub fn dropped_property_warnings(tools: &[Value]) -> Vec<String> {
    let mut warnings = Vec::new();
    for tool in tools {
        let mut dropped = Vec::new();
        collect_dropped(&tool["function"]["parameters"], &mut dropped);
        for property in dropped {
            warnings.push(format!(
                "tool `{}`: FunctionGemma's chat template leaves out the property `{property}` because of its name, so \
                 that the model never sees it; rename it",
                tool_name(tool).unwrap_or("?")
            ));
        }
    }
    warnings
}

fn collect_dropped(schema: &Value, dropped: &mut Vec<String>) {
    if let Value::Object(properties) = &schema["properties"] {
        for (name, property) in properties {
            if DROPPED_PROPERTIES.contains(&name.as_str()) {
                dropped.push(name.clone());
            }
            collect_dropped(property, dropped);
        }
    }
    if schema["items"].is_object() {
        collect_dropped(&schema["items"], dropped);
    }
}

fn normalize_tool(tool: &Value) -> Result<Value> {
    let parsed: Value;
    let object = match tool {
        Value::Object(object) => object,
        Value::String(text) => {
            parsed = serde_json::from_str(text).context(|| "a tool is a string that is not JSON")?;
            parsed.as_object().ok_or_else(|| err!("a tool is not a JSON object"))?
        }
        _ => bail!("a tool is not a JSON object"),
    };
    match object.get("function") {
        Some(Value::Object(function)) => {
            check_function(function)?;
            Ok(Value::Object(object.clone()))
        }
        Some(_) => bail!("the `function` of a tool is not a JSON object"),
        None => {
            check_function(object)?;
            Ok(json!({"type": "function", "function": object}))
        }
    }
}

fn check_function(function: &Map<String, Value>) -> Result<()> {
    if function.get("name").and_then(Value::as_str).is_none_or(str::is_empty) {
        return Err(
            err!("the tool has no `name`").hint("a tool is {\"type\": \"function\", \"function\": {\"name\", ..}}")
        );
    }
    match function.get("parameters") {
        None | Some(Value::Null | Value::Object(_)) => Ok(()),
        Some(_) => bail!("the `parameters` of a tool are not a JSON object"),
    }
}
