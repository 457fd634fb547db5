//! The parser: the grammar, the known faults of other parsers, random round trips, random damage.

use std::time::{Duration, Instant};

use engine::chat::functiongemma::parser::{Call, Fault, FaultKind, parse_output};
use engine::chat::functiongemma::tokens::{END_CALL, ESCAPE, START_CALL, START_RESPONSE};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Map, Value, json};

/// `body` between the call's control tokens.
fn wrapped(body: &str) -> String {
    format!("{START_CALL}{body}{END_CALL}")
}

/// The one call of `body`, which must be without fault.
fn call_of(body: &str) -> (String, Value) {
    let output = parse_output(&wrapped(body));
    assert_eq!(output.faults, [], "{body}");
    let [call] = output.calls.as_slice() else { panic!("not one call in {body}: {:?}", output.calls) };
    (call.name.clone(), Value::Object(call.arguments.clone()))
}

/// The kind and the byte (counted from the body's start) of the one fault of `body`, of which no call must be left.
fn fault_of(body: &str) -> (FaultKind, usize) {
    let output = parse_output(&wrapped(body));
    assert_eq!(output.calls, [], "{body}");
    let [Fault { kind, at }] = output.faults.as_slice() else { panic!("not one fault in {body}: {:?}", output.faults) };
    (*kind, at - START_CALL.len())
}

#[test]
fn reads_what_a_trained_model_writes() {
    let output = parse_output(
        "<start_function_call>call:search_google{query:<escape>Apple Inc stock price<escape>}<end_function_call><start_function_response>",
    );
    assert_eq!(output.faults, []);
    assert_eq!(output.prose, "");
    assert_eq!(output.calls.len(), 1);
    assert_eq!(output.calls[0].name, "search_google");
    assert_eq!(Value::Object(output.calls[0].arguments.clone()), json!({"query": "Apple Inc stock price"}));
}

#[test]
fn keeps_bare_numbers_booleans_and_nested_values() {
    let (name, arguments) =
        call_of("call:f{a:1,b:-2.5,c:true,d:false,e:{x:[1,<escape>two<escape>,{y:null}],z:{}},g:[],h:1e-05}");
    assert_eq!(name, "f");
    assert_eq!(
        arguments,
        json!({"a": 1, "b": -2.5, "c": true, "d": false, "e": {"x": [1, "two", {"y": null}], "z": {}}, "g": [], "h": 1e-5})
    );
}

#[test]
fn keeps_a_number_in_escapes_a_string() {
    let (_, arguments) = call_of("call:f{a:<escape>42<escape>,b:42,c:<escape>true<escape>,d:<escape><escape>}");
    assert_eq!(arguments, json!({"a": "42", "b": 42, "c": "true", "d": ""}));
}

#[test]
fn keeps_integers_and_floats_apart() {
    let (_, arguments) =
        call_of("call:f{a:1,b:1.0,c:-9223372036854775808,d:18446744073709551615,e:36893488147419103232}");
    assert!(arguments["a"].is_u64());
    assert!(arguments["b"].is_f64());
    assert_eq!(arguments["c"].as_i64(), Some(i64::MIN));
    assert_eq!(arguments["d"].as_u64(), Some(u64::MAX));
    assert_eq!(arguments["e"].as_f64(), Some(36_893_488_147_419_103_232.0), "beyond 64 bits it becomes a float");
}

#[test]
fn keeps_line_breaks_and_punctuation_in_strings() {
    let text = "one\ntwo\r\n  {three: [4, \"5\"]}, <end_function_call> é 日本 ";
    let (_, arguments) = call_of(&format!("call:f{{a:{ESCAPE}{text}{ESCAPE}}}"));
    assert_eq!(arguments["a"], text);
}

#[test]
fn reads_several_calls_back_to_back() {
    let output = parse_output(&format!(
        "{}{}\n {}{START_RESPONSE}",
        wrapped("call:a{x:1}"),
        wrapped("call:b{}"),
        wrapped("call:a{x:2}")
    ));
    assert_eq!(output.faults, []);
    let names: Vec<&str> = output.calls.iter().map(|call| call.name.as_str()).collect();
    assert_eq!(names, ["a", "b", "a"]);
    assert_eq!(output.calls[2].arguments["x"], 2);
}

#[test]
fn takes_a_call_without_braces_as_one_without_arguments() {
    assert_eq!(call_of("call:get_time"), ("get_time".to_owned(), json!({})));
    assert_eq!(call_of("call:get_time{}"), ("get_time".to_owned(), json!({})));
}

#[test]
fn takes_none_for_null() {
    assert_eq!(call_of("call:f{a:None,b:null,c:[None]}").1, json!({"a": null, "b": null, "c": [null]}));
}

#[test]
fn skips_white_space_between_tokens() {
    let (name, arguments) = call_of(" call : f \n{ a : 1 ,\tb : [ 1 , 2 ] , c : { } }\r\n");
    assert_eq!((name.as_str(), arguments), ("f", json!({"a": 1, "b": [1, 2], "c": {}})));
}

#[test]
fn takes_every_character_that_an_identifier_may_have() {
    let (name, arguments) = call_of("call:_a.B-9{_k.K-0:1}");
    assert_eq!((name.as_str(), arguments), ("_a.B-9", json!({"_k.K-0": 1})));
}

#[test]
fn separates_prose_from_calls_and_drops_what_ends_the_turn() {
    let output = parse_output(&format!(" Let me see.{} Done.<end_of_turn>\n<eos><pad>", wrapped("call:f{}")));
    assert_eq!((output.prose.as_str(), output.calls.len(), output.faults.len()), ("Let me see. Done.", 1, 0));
    let output = parse_output("I cannot do that: a < b.<end_of_turn>");
    assert_eq!((output.prose.as_str(), output.calls.len(), output.faults.len()), ("I cannot do that: a < b.", 0, 0));
    assert_eq!(parse_output(""), Default::default());
}

#[test]
fn names_every_fault_and_its_byte() {
    for (body, kind, at) in [
        ("", FaultKind::ExpectedCall, 0),
        ("fall:f{}", FaultKind::ExpectedCall, 0),
        ("call f{}", FaultKind::ExpectedCall, 5),
        ("call:{}", FaultKind::ExpectedName, 5),
        ("call:9f{}", FaultKind::ExpectedName, 5),
        ("call:f()", FaultKind::ExpectedEndOfCall, 6),
        ("call:f{}x", FaultKind::ExpectedEndOfCall, 8),
        ("call:f{}call:g{}", FaultKind::ExpectedEndOfCall, 8),
        ("call:f{,}", FaultKind::ExpectedKey, 7),
        ("call:f{a:1,}", FaultKind::ExpectedKey, 11),
        ("call:f{<escape>a<escape>:1}", FaultKind::ExpectedKey, 7),
        ("call:f{a}", FaultKind::ExpectedColon, 8),
        ("call:f{a:}", FaultKind::ExpectedValue, 9),
        ("call:f{a:bare words}", FaultKind::ExpectedValue, 9),
        ("call:f{a:True}", FaultKind::ExpectedValue, 9),
        ("call:f{a:\"x\"}", FaultKind::ExpectedValue, 9),
        ("call:f{a:nan}", FaultKind::ExpectedValue, 9),
        ("call:f{a:[1,]}", FaultKind::ExpectedValue, 12),
        ("call:f{a:1 b:2}", FaultKind::ExpectedCommaOrBrace, 11),
        ("call:f{a:1", FaultKind::ExpectedCommaOrBrace, 10),
        ("call:f{a:[1 2]}", FaultKind::ExpectedCommaOrBracket, 12),
        ("call:f{a:01}", FaultKind::BadNumber, 9),
        ("call:f{a:1.}", FaultKind::BadNumber, 9),
        ("call:f{a:.5}", FaultKind::BadNumber, 9),
        ("call:f{a:+1}", FaultKind::BadNumber, 9),
        ("call:f{a:1-2}", FaultKind::BadNumber, 9),
        ("call:f{a:1e999}", FaultKind::BadNumber, 9),
        ("call:f{a:-}", FaultKind::BadNumber, 9),
        ("call:f{a:1,a:1}", FaultKind::DuplicateKey, 11),
        ("call:f{a:<escape>x}", FaultKind::UnclosedString, 9),
    ] {
        assert_eq!(fault_of(body), (kind, at), "{body}");
    }
}

#[test]
fn says_that_a_text_cut_off_ends_too_early() {
    for text in [
        "",
        "ca",
        "call",
        "call:",
        "call:f",
        "call:f{",
        "call:f{a",
        "call:f{a:",
        "call:f{a:1",
        "call:f{a:[",
        "call:f{a:1}",
    ] {
        let output = parse_output(&format!("{START_CALL}{text}"));
        let kinds: Vec<FaultKind> = output.faults.iter().map(|fault| fault.kind).collect();
        let expected = if text == "ca" { FaultKind::ExpectedCall } else { FaultKind::UnexpectedEnd };
        assert_eq!(kinds, [expected], "{text}");
        assert_eq!(output.calls, []);
    }
}

#[test]
fn reports_control_tokens_outside_calls() {
    for text in [
        "a<escape>b",
        "<end_function_call>",
        "<start_function_response>",
        "<end_of_turn>x",
        "<start_function_declaration>f",
    ] {
        let kinds: Vec<FaultKind> = parse_output(text).faults.iter().map(|fault| fault.kind).collect();
        assert_eq!(kinds, [FaultKind::StrayToken], "{text}");
    }
    let output = parse_output(&format!("{}{START_RESPONSE}response:f", wrapped("call:f{}")));
    assert_eq!(output.faults.len(), 1, "a response is not the model's to write");
}

#[test]
fn goes_on_reading_behind_a_broken_call() {
    let broken = "call:a{x:<escape>y<escape>z<escape>}";
    let output = parse_output(&format!(
        "{}{}{START_CALL}call:{START_CALL}call:c{END_CALL}",
        wrapped(broken),
        wrapped("call:b{}")
    ));
    let names: Vec<&str> = output.calls.iter().map(|call| call.name.as_str()).collect();
    assert_eq!(names, ["b", "c"]);
    let kinds: Vec<FaultKind> = output.faults.iter().map(|fault| fault.kind).collect();
    assert_eq!(kinds, [FaultKind::ExpectedCommaOrBrace, FaultKind::ExpectedName]);
    assert_eq!(output.faults[0].to_string(), "expected `,` or `}` at byte 47");
}

#[test]
fn refuses_nesting_that_would_overflow_the_stack() {
    let nested =
        |open: &str, close: &str, n: usize| wrapped(&format!("call:f{{a:{}1{}}}", open.repeat(n), close.repeat(n)));
    assert_eq!(parse_output(&nested("[", "]", 127)).faults, []);
    for (open, close) in [("[", "]"), ("{a:", "}"), ("[{a:", "}]")] {
        let output = parse_output(&nested(open, close, 1_000_000));
        assert_eq!(output.faults.len(), 1);
        assert_eq!(output.faults[0].kind, FaultKind::TooDeep);
    }
}

/// Renders a value as FunctionGemma's template does (which sorts keys; the order does not matter here).
fn render(value: &Value) -> String {
    match value {
        Value::Null => "None".to_owned(),
        Value::String(text) => format!("{ESCAPE}{text}{ESCAPE}"),
        Value::Array(items) => format!("[{}]", items.iter().map(render).collect::<Vec<_>>().join(",")),
        Value::Object(members) => render_object(members),
        other => other.to_string(),
    }
}

fn render_object(members: &Map<String, Value>) -> String {
    let pairs: Vec<String> = members.iter().map(|(key, value)| format!("{key}:{}", render(value))).collect();
    format!("{{{}}}", pairs.join(","))
}

fn random_text(rng: &mut impl Rng) -> String {
    const PIECES: [&str; 14] = [
        "a",
        "42",
        " ",
        "\n",
        "{",
        "}",
        "[",
        ",",
        ":",
        "<esc",
        "é",
        "日",
        "<end_function_call>",
        "<start_function_call>",
    ];
    (0..rng.random_range(0..8)).map(|_| PIECES[rng.random_range(0..PIECES.len())]).collect()
}

fn random_object(rng: &mut impl Rng, depth: usize) -> Map<String, Value> {
    const KEYS: [&str; 5] = ["query", "a", "_b.c-9", "true", "None"];
    (0..rng.random_range(0..4)).map(|_| (KEYS[rng.random_range(0..5)].to_owned(), random_value(rng, depth))).collect()
}

fn random_value(rng: &mut impl Rng, depth: usize) -> Value {
    match rng.random_range(0..if depth < 4 { 8 } else { 6 }) {
        0 => Value::Null,
        1 => json!(rng.random::<bool>()),
        2 => json!(rng.random::<i64>()),
        3 => json!(rng.random_range(0..100)),
        4 => json!(rng.random_range(-1e6..1e6)),
        5 => json!(random_text(rng)),
        6 => (0..rng.random_range(0..4)).map(|_| random_value(rng, depth + 1)).collect(),
        _ => Value::Object(random_object(rng, depth + 1)),
    }
}

fn random_output(rng: &mut impl Rng) -> (Vec<Call>, String) {
    let count = rng.random_range(1..4);
    let calls: Vec<Call> =
        (0..count).map(|n| Call { name: format!("tool_{n}"), arguments: random_object(rng, 0) }).collect();
    let render = |call: &Call| wrapped(&format!("call:{}{}", call.name, render_object(&call.arguments)));
    let text = calls.iter().map(render).collect::<String>() + START_RESPONSE;
    (calls, text)
}

#[test]
fn what_is_rendered_is_read_back_equal() {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    for _ in 0..2000 {
        let (calls, text) = random_output(&mut rng);
        let output = parse_output(&text);
        assert_eq!(output.faults, [], "{text}");
        assert_eq!(output.calls, calls, "{text}");
        assert_eq!(output.prose, "", "{text}");
    }
}

#[test]
fn damaged_calls_never_panic_and_faults_lie_inside_the_text() {
    const PIECES: [&str; 16] = [
        START_CALL,
        END_CALL,
        START_RESPONSE,
        ESCAPE,
        "<end_of_turn>",
        "call",
        ":",
        "{",
        "}",
        "[",
        "]",
        ",",
        "1e",
        "x",
        "é",
        "<",
    ];
    let mut rng = ChaCha8Rng::seed_from_u64(11);
    let check = |text: &str| {
        for fault in parse_output(text).faults {
            assert!(text.is_char_boundary(fault.at), "{fault} in {text}");
        }
    };
    for _ in 0..300 {
        let (_, text) = random_output(&mut rng);
        let mut bytes = text.clone().into_bytes();
        for end in (0..text.len()).filter(|end| text.is_char_boundary(*end)) {
            check(&text[..end]);
        }
        for _ in 0..5 {
            let at = rng.random_range(0..bytes.len());
            bytes[at] = rng.random();
            check(&String::from_utf8_lossy(&bytes));
        }
        check(&(0..rng.random_range(0..60)).map(|_| PIECES[rng.random_range(0..16)]).collect::<String>());
        let noise: Vec<u8> = (0..200).map(|_| rng.random()).collect();
        check(&String::from_utf8_lossy(&noise));
    }
}

#[test]
fn a_call_cut_off_anywhere_is_never_taken_for_a_whole_one() {
    let text = wrapped("call:f{a:<escape>x<escape>,b:[1,2.5,{c:true}]}");
    for end in START_CALL.len()..text.len() {
        let output = parse_output(&text[..end]);
        assert_eq!(output.calls, [], "{}", &text[..end]);
        assert!(!output.faults.is_empty(), "{}", &text[..end]);
    }
}

#[test]
fn a_megabyte_of_anything_is_read_in_time() {
    let started = Instant::now();
    let nested = format!("{}{}", "<start_function_call>call:f{a:", "[".repeat(100));
    let open = "<start_function_call>";
    for piece in [
        "<start_function_call>",
        "<start_function_call>call:f{",
        "<start_function_call>call:f{a:<escape>",
        "<escape>",
        "<end_function_call>",
        "<",
        "<start_function_call>call:f{a:1}",
        &nested,
        "[",
        "9",
        "<start_function_call>x",
    ] {
        for text in [
            piece.repeat((1 << 20) / piece.len()),
            format!("{open}call:f{{a:{}", piece.repeat((1 << 20) / piece.len())),
        ] {
            parse_output(&text);
        }
    }
    let digits = format!("{open}call:f{{a:1.{}e-9}}<end_function_call>", "1".repeat(1 << 20));
    assert_eq!(parse_output(&digits).calls.len(), 1);
    let keys: String = (0..100_000).map(|i| format!("k{i}:1,")).collect();
    assert_eq!(
        parse_output(&format!("{open}call:f{{{keys}z:1}}<end_function_call>")).calls[0].arguments.len(),
        100_001
    );
    // Each of these takes milliseconds; the scan to the end for every opened call took minutes.
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
}
