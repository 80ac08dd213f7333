use super::*;
use serde_json::json;

fn refused(schema: &Value) -> String {
    check(&schema.to_string()).expect_err("refused")
}

#[test]
fn an_input_is_held_against_its_schema() {
    let schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": {
            "path": { "type": "string", "pattern": "^[a-z/]+$" },
            "lines": { "type": "array", "items": { "$ref": "#/$defs/line" } },
            "count": { "type": "integer", "maximum": 9_007_199_254_740_993_u64 },
        },
        "required": ["path"],
        "$defs": { "line": { "type": "integer", "minimum": 0 } },
    })
    .to_string();
    check(&schema).unwrap();
    check_input(&schema, &json!({ "path": "a/b", "lines": [1, 2], "count": 3 })).unwrap();
    let violations = check_input(&schema, &json!({ "path": "A", "lines": [1, -2, "x"] })).unwrap_err();
    let fields: Vec<&str> = violations.iter().map(|violation| violation.field.as_str()).collect();
    assert_eq!(fields, ["input/lines/1", "input/lines/2", "input/path"]);
    check_input("", &json!([])).unwrap();
}

#[test]
fn at_most_twenty_places_are_told_and_briefly() {
    let schema = json!({ "items": { "type": "integer" } }).to_string();
    let input = json!(vec!["é".repeat(1_000); 500]);
    let violations = check_input(&schema, &input).unwrap_err();
    assert_eq!(violations.len(), 20);
    assert!(violations.iter().all(|violation| violation.description.len() < 320));
    let input = json!(vec!["x"; 100_000]);
    assert_eq!(check_input(&schema, &input).unwrap_err().len(), 1);
}

#[test]
fn what_is_no_schema_is_refused() {
    assert!(check("{").is_err());
    assert!(check("[]").is_err());
    assert!(check("true").is_err());
    assert!(check(&format!("{{\"description\":\"{}\"}}", "x".repeat(MAX_SCHEMA))).is_err());
    assert!(refused(&json!({ "type": "strange" })).contains("JSON Schema"));
    assert!(refused(&json!({ "$schema": "https://example.com/mine" })).contains("$schema"));
    assert!(refused(&json!({ "$ref": "https://example.com/schema" })).contains("$ref"));
    assert!(refused(&json!({ "$ref": "#/$defs/missing" })).contains("$ref"));
    assert!(refused(&json!({ "$ref": "#anchor", "$anchor": "anchor" })).contains("$ref"));
    assert!(refused(&json!({ "$dynamicRef": "#x" })).contains("$dynamicRef"));
    assert!(refused(&json!({ "properties": { "a": { "$id": "https://example.com/a" } } })).contains("$id"));
    assert!(refused(&json!({ "pattern": "(a)\\1" })).contains("JSON Schema"));
    assert!(refused(&json!({ "pattern": "((a{1,1000}){1,1000}){1,1000}" })).contains("JSON Schema"));
    let patterns: serde_json::Map<_, _> = (0..100).map(|n| (format!("p{n}"), json!({ "pattern": "a" }))).collect();
    assert!(refused(&json!({ "properties": patterns })).contains("patterns"));
}

/// A value that nests `depth` deep under the field `c`.
fn nested(depth: usize) -> Value {
    (0..depth).fold(json!({}), |inner, _| json!({ "c": inner }))
}

#[test]
fn a_schema_that_doubles_at_every_level_is_not_run() {
    let branch = json!({ "properties": { "c": { "$ref": "#" } } });
    let schema = json!({ "allOf": [branch, branch] }).to_string();
    check(&schema).unwrap();
    check_input(&schema, &nested(5)).unwrap();
    let violations = check_input(&schema, &nested(30)).unwrap_err();
    assert!(violations[0].description.contains("too many steps"));
}

#[test]
fn a_schema_that_goes_round_in_circles_is_not_run() {
    let schema = json!({ "$defs": { "a": { "allOf": [{ "$ref": "#/$defs/a" }] } }, "$ref": "#/$defs/a" }).to_string();
    if check(&schema).is_ok() {
        assert!(
            check_input(&schema, &json!(1)).unwrap_err()[0]
                .description
                .contains("too deep")
        );
    }
}

#[test]
fn the_deepest_check_fits_on_a_small_stack() {
    let schema = json!({ "anyOf": [{ "allOf": [{ "properties": { "c": { "$ref": "#" } }, "required": [] }] }, { "type": "null" }] });
    let deep_schema = (0..40).fold(json!({ "type": "object" }), |inner, _| json!({ "allOf": [inner] }));
    let check_both = move || {
        check_input(&schema.to_string(), &nested(31)).unwrap();
        check_input(&deep_schema.to_string(), &json!({})).unwrap();
    };
    std::thread::Builder::new()
        .stack_size(2 << 20)
        .spawn(check_both)
        .unwrap()
        .join()
        .unwrap();
}

#[test]
fn the_cache_is_bounded() {
    for number in 0..200 {
        let patterns: serde_json::Map<_, _> = (0..60)
            .map(|n| (format!("p{n}"), json!({ "pattern": format!("a{number}") })))
            .collect();
        check(&json!({ "properties": patterns }).to_string()).unwrap();
        let cache = CACHE.lock().unwrap();
        assert!(cache.weight <= CACHE_BYTES);
        assert_eq!(
            cache.weight,
            cache
                .entries
                .values()
                .map(|(compiled, _)| compiled.weight)
                .sum::<usize>()
        );
    }
}
