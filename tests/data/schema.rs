//! Schemas as pydantic and Anthropic write them, and what becomes of them.

use engine::data::schema::resolve;
use engine::data::tools::normalize_tools;
use serde_json::{Value, json};

fn refused(schema: Value) -> String {
    resolve(&schema).unwrap_err().report()
}

#[test]
fn references_and_alternatives_with_null_are_written_out() {
    let schema = json!({
        "$defs": {"Unit": {"type": "string", "enum": ["C", "F"], "title": "Unit"}},
        "type": "object",
        "properties": {
            "unit": {"$ref": "#/$defs/Unit", "description": "D"},
            "days": {"anyOf": [{"type": "integer"}, {"type": "null"}], "default": null},
            "either": {"anyOf": [{"type": "integer"}, {"type": "string"}]},
            "maybe": {"anyOf": [{"anyOf": [{"type": "integer"}, {"type": "string"}]}, {"type": "null"}]},
            "$ref": {"type": "string"}
        }
    });
    let properties = json!({
        "unit": {"type": "string", "enum": ["C", "F"], "title": "Unit", "description": "D"},
        "days": {"type": "integer", "default": null},
        "either": {"anyOf": [{"type": "integer"}, {"type": "string"}]},
        "maybe": {"anyOf": [{"type": "integer"}, {"type": "string"}]},
        "$ref": {"type": "string"}
    });
    assert_eq!(resolve(&schema).unwrap(), json!({"type": "object", "properties": properties}));
}

#[test]
fn schemas_that_do_not_end_are_refused() {
    let tree = json!({"$defs": {"Node": {"type": "object", "properties": {"left": {"$ref": "#/$defs/Node"}}}}, "$ref": "#/$defs/Node"});
    assert!(refused(tree).contains("`#/$defs/Node` contains itself"));
    assert!(refused(json!({"$ref": "#/$defs/No"})).contains("which the schema does not define"));
    assert!(refused(json!({"$ref": "http://x/y"})).contains("hint:"));
    assert!(refused(json!({"$ref": 7})).contains("not a string"));
    let doubling: serde_json::Map<String, Value> = (0..40)
        .map(|i| (format!("d{i}"), json!({"properties": {"a": {"$ref": format!("#/$defs/d{}", i + 1)}, "b": {"$ref": format!("#/$defs/d{}", i + 1)}}})))
        .chain([("d40".to_string(), json!({"type": "string"}))])
        .collect();
    assert!(refused(json!({"$defs": doubling, "$ref": "#/$defs/d0"})).contains("more than 100000 values"));
    let mut deep = json!({});
    for _ in 0..200 {
        deep = json!({"items": deep});
    }
    assert!(refused(deep).contains("nested deeper"));
}

#[test]
fn anthropics_input_schema_is_parameters_and_not_beside_them() {
    let schema = json!({"type": "object", "properties": {"a": {"type": "string"}}});
    let tool = json!({"name": "f", "description": "d", "input_schema": schema});
    let (tools, wrote_out) = normalize_tools(&json!([tool])).unwrap();
    assert!(!wrote_out);
    assert_eq!(
        tools,
        [json!({"type": "function", "function": {"name": "f", "description": "d", "parameters": schema}})]
    );
    let both = json!([{"name": "f", "input_schema": schema, "parameters": schema}]);
    let report = normalize_tools(&both).unwrap_err().report();
    assert!(report.contains("both `parameters` and `input_schema`") && report.contains("hint:"), "{report}");
}

#[test]
fn that_a_schema_was_written_out_is_said() {
    let property = json!({"anyOf": [{"type": "integer"}, {"type": "null"}]});
    let tool = json!({"name": "f", "parameters": {"type": "object", "properties": {"a": property}}});
    assert!(normalize_tools(&json!([tool])).unwrap().1);
}
