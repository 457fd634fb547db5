//! Python's text forms, against values printed by Python 3.

use engine::chat::python;
use serde_json::{Value, json};

#[test]
fn floats_have_the_digits_and_the_exponents_of_python() {
    let cases = [
        ("0.1", "0.1"),
        ("-0.0", "-0.0"),
        ("100.0", "100.0"),
        ("1e15", "1000000000000000.0"),
        ("1e16", "1e+16"),
        ("1.5e300", "1.5e+300"),
        ("0.0001", "0.0001"),
        ("0.00001", "1e-05"),
        ("1.25e-7", "1.25e-07"),
        ("51.24817837550541", "51.24817837550541"),
        ("9007199254740993", "9007199254740993"),
    ];
    for (json, expected) in cases {
        let value: Value = serde_json::from_str(json).unwrap();
        assert_eq!(python::repr(&value), expected);
    }
}

#[test]
fn strings_are_quoted_as_repr_quotes_them() {
    assert_eq!(python::repr(&json!("it's")), "\"it's\"");
    assert_eq!(python::repr(&json!("it's \"x\"")), r#"'it\'s "x"'"#);
    assert_eq!(python::repr(&json!("a\\b\n\u{7}é")), r"'a\\b\n\x07é'");
    assert_eq!(python::text(&json!("it's")), "it's");
}

#[test]
fn strip_takes_unicode_white_space_and_ascii_separators() {
    assert_eq!(python::strip("\u{1c}\u{a0}\u{3000} a b \r\n\u{1f}"), "a b");
}

#[test]
fn moments_are_written_as_strftime_writes_them_and_what_it_does_not_know_stays() {
    let written = |moment: &str, format: &str| python::strftime(&moment.parse().unwrap(), format);
    let epoch = "1970-01-01T00:00:00[UTC]";
    assert_eq!(written(epoch, "%A %d %B %Y %H:%M:%S %%"), "Thursday 01 January 1970 00:00:00 %");
    assert_eq!(written("2000-02-29T00:00:00[UTC]", "%a %d %b %y %m %j"), "Tue 29 Feb 00 02 060");
    assert_eq!(written("2025-12-31T23:59:59[UTC]", "%Y-%m-%d %I:%M %p"), "2025-12-31 11:59 PM");
    assert_eq!(written(epoch, "%J %"), "%J %");
}

#[test]
fn json_is_written_on_one_line_or_indented_as_json_dumps_writes_it() {
    let value = json!({"a": [1e20, 1e-7, -0.0, 3, true, null], "é\n": {"b": {}, "c": []}});
    let one_line = "{\"a\": [1e+20, 1e-07, -0.0, 3, true, null], \"é\\n\": {\"b\": {}, \"c\": []}}";
    assert_eq!(python::json_dumps(&value, None), one_line);
    let value = json!({"a": [1e-7, {}], "b": {"c": []}});
    let indented = "{\n \"a\": [\n  1e-07,\n  {}\n ],\n \"b\": {\n  \"c\": []\n }\n}";
    assert_eq!(python::json_dumps(&value, Some(1)), indented);
    assert_eq!(python::json_dumps(&json!([1, 2]), Some(0)), "[\n1,\n2\n]");
}
