//! Tool declarations: reading `--tools` files, the accepted forms, and what the chat template silently leaves out.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::json;
use super::schema::resolve;
use crate::error::{Context, Kind, Result};
use crate::{bail, err};

/// Words of JSON Schema. FunctionGemma's chat template takes properties with these names for the words and leaves them out.
pub const DROPPED_PROPERTIES: [&str; 5] = ["description", "type", "properties", "required", "nullable"];

/// What is said of schemas that are not what they were.
pub const WROTE_OUT: &str = "the template shows neither `$ref` nor `anyOf` with null, so what they stand for is written out in the \
                             schemas of tools; give the trained model its tools written out, too";

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
    let value = json::parse(&text).context(place)?;
    let (tools, wrote_out) = normalize_tools(&value).context(place)?;
    if tools.is_empty() {
        return Err(err!("`{}` declares no tools", path.display()));
    }
    let note = wrote_out.then(|| format!("`{}`: {WROTE_OUT}", path.display()));
    let warnings = dropped_property_warnings(&tools).into_iter().chain(note).collect();
    Ok((tools, warnings))
}

/// Tools as a list of `{"type": "function", "function": {"name", ..}}`, and whether a schema is not what it was: see
/// [`WROTE_OUT`]. Lists and single tools may be JSON strings.
///
/// # Errors
/// Something that is not a list of tools; the tool's number is named.
pub fn normalize_tools(value: &Value) -> Result<(Vec<Value>, bool)> {
    match value {
        Value::Array(items) => {
            let mut wrote_out = false;
            let tool = |(i, tool)| normalize_tool(tool, &mut wrote_out).context(|| format!("in tool {}", i + 1));
            let tools = items.iter().enumerate().map(tool).collect::<Result<Vec<_>>>()?;
            Ok((tools, wrote_out))
        }
        Value::String(text) => match json::parse(text) {
            Ok(Value::Array(items)) => normalize_tools(&Value::Array(items)),
            Ok(_) => bail!("`tools` is a string but no JSON list"),
            Err(error) => bail!("`tools` is a string but no JSON list: {}", json::reason(&error)),
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

fn normalize_tool(tool: &Value, wrote_out: &mut bool) -> Result<Value> {
    let parsed: Value;
    let object = match tool {
        Value::Object(object) => object,
        Value::String(text) => {
            parsed = json::parse(text).context(|| "a tool is a string that is not JSON")?;
            parsed.as_object().ok_or_else(|| err!("a tool is not a JSON object"))?
        }
        _ => bail!("a tool is not a JSON object"),
    };
    match object.get("function") {
        Some(Value::Object(function)) => {
            let mut object = object.clone();
            object.insert("function".into(), normalize_function(function, wrote_out)?);
            Ok(object.into())
        }
        Some(_) => bail!("the `function` of a tool is not a JSON object"),
        None => Ok(json!({"type": "function", "function": normalize_function(object, wrote_out)?})),
    }
}

/// With `parameters`, also where Anthropic's `input_schema` stands in their place, and what pydantic writes resolved.
fn normalize_function(function: &Map<String, Value>, wrote_out: &mut bool) -> Result<Value> {
    let mut function = function.clone();
    if let Some(schema) = function.remove("input_schema").filter(|schema| !schema.is_null()) {
        if function.get("parameters").is_some_and(|parameters| !parameters.is_null()) {
            return Err(err!("the tool has both `parameters` and `input_schema`").hint("keep one of them"));
        }
        function.insert("parameters".into(), schema);
    }
    check_function(&function)?;
    if let Some(parameters @ Value::Object(_)) = function.get("parameters") {
        let name = function["name"].as_str().unwrap_or("?");
        let resolved = resolve(parameters).context(|| format!("in the parameters of `{name}`"))?;
        *wrote_out |= resolved != *parameters;
        function.insert("parameters".into(), resolved);
    }
    Ok(function.into())
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
