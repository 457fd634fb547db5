//! Python's text forms, against values printed by Python 3.

use engine::chat::{python, strftime};
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
fn dates_are_right_across_leap_years() {
    assert_eq!(strftime::at("%A %d %B %Y %H:%M:%S %%", 0), "Thursday 01 January 1970 00:00:00 %");
    assert_eq!(strftime::at("%a %d %b %y %m", 951_782_400), "Tue 29 Feb 00 02");
    assert_eq!(strftime::at("%Y-%m-%d", 1_767_225_599), "2025-12-31");
    assert_eq!(strftime::at("%Q %", 0), "%Q %");
}
