//! Behaviour, limits and hostile input. Everything hostile runs on a 2 MiB stack, the size of a
//! server's worker thread: an overflow would abort the test process.

use std::thread;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::cache::Cache;
use super::*;

const WORKER_STACK_BYTES: usize = 2 << 20;

/// Runs `work` on a thread with the stack of a server's worker.
fn on_worker_stack<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    on_stack(WORKER_STACK_BYTES, work)
}

fn on_stack<T: Send>(bytes: usize, work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let spawned = thread::Builder::new().stack_size(bytes).spawn_scoped(scope, work);
        spawned.expect("spawn").join().expect("no panic")
    })
}

fn evaluate(text: &str, scope: &Scope<'_>) -> Result<Json, ExprError> {
    Expression::compile(text)?.evaluate(scope)
}

fn value_of(text: &str, input: &Json) -> Json {
    match evaluate(text, &Scope::new().input(input)) {
        Ok(value) => value,
        Err(error) => panic!("{text}: {:?}: {error}", error.kind),
    }
}

/// The kind of error `text` is compiled or evaluated to over `input`, on a worker's stack.
fn failure_over(text: &str, input: &Json) -> ErrorKind {
    on_worker_stack(|| match evaluate(text, &Scope::new().input(input)) {
        Ok(value) => panic!("{}: gave {value}", shortened(text)),
        Err(error) => error.kind,
    })
}

fn compile_failure(text: &str) -> ErrorKind {
    on_worker_stack(|| match Expression::compile(text) {
        Ok(_) => panic!("{}: compiled", shortened(text)),
        Err(error) => error.kind,
    })
}

fn shortened(text: &str) -> String {
    text.chars().take(60).collect()
}

/// Compiles, evaluates and drops `text` on a worker's stack, whatever comes of it.
fn survives(text: &str, input: &Json) -> Result<Json, ErrorKind> {
    on_worker_stack(|| {
        let scope = Scope::new().input(input).index(1).item(input);
        evaluate(text, &scope).map_err(|error| error.kind)
    })
}

#[test]
fn evaluates_the_language() {
    let input = json!({
        "name": "ada", "n": 7, "big": 18446744073709551615_u64, "half": 0.5, "none": null,
        "tags": ["a", "b"], "people": [{"name": "x", "age": 3}, {"name": "y", "age": 40}],
    });
    let cases = [
        ("1 + 2 * 3", json!(7)),
        ("input.n + 1", json!(8)),
        ("input.n - 1 - 2", json!(4)),
        ("input.big", json!(18446744073709551615_u64)),
        ("input.big == 18446744073709551615u", json!(true)),
        ("input.half + 1.0", json!(1.5)),
        ("input.half < 1", json!(true)),
        ("double(input.n) / 2.0", json!(3.5)),
        ("'hello ' + input.name + '!'", json!("hello ada!")),
        ("[1] + [2, 3] + []", json!([1, 2, 3])),
        ("size(input.tags) + size(input.name)", json!(5)),
        ("input.tags.size() == 2 ? 'two' : 'other'", json!("two")),
        ("input.none == null", json!(true)),
        ("has(input.name) && !has(input.missing)", json!(true)),
        ("'b' in input.tags && 'name' in input && !(1 in [2])", json!(true)),
        ("input['name'] + input.tags[1]", json!("adab")),
        ("input.people.filter(p, p.age > 18).map(p, p.name)", json!(["y"])),
        ("input.people.map(p, p.age > 18, p.name)", json!(["y"])),
        ("input.people.all(p, p.age > 1)", json!(true)),
        ("input.people.exists(p, p.name == 'x')", json!(true)),
        ("input.people.exists_one(p, p.age > 1)", json!(false)),
        ("[1, 2].exists(x, 1 / (x - 1) == 1)", json!(true)),
        (
            "{'a': 1, 'b': {'c': input.tags}}",
            json!({"a": 1, "b": {"c": ["a", "b"]}}),
        ),
        (
            "type(input.name) == string ? string(type(1) == int) : ''",
            json!("true"),
        ),
        ("type(1)", json!("int")),
        ("b'hi!'", json!("aGkh")),
        ("bytes('a') + b'b' == b'ab'", json!(true)),
        ("input.name.matches('^[a-z]+$') && matches('x1', r'\\d')", json!(true)),
        ("input.name.startsWith('a') && input.name.contains('d')", json!(true)),
        ("int('12') + int(2.9) + int(3u)", json!(17)),
        ("-input.n", json!(-7)),
        ("false && input.missing.x || true", json!(true)),
        ("{'z': 1, 'a': 2, 'm': 3}.map(k, k)", json!(["a", "m", "z"])),
    ];
    for (text, expected) in cases {
        assert_eq!(value_of(text, &input), expected, "{text}");
    }
}

#[test]
fn numbers_keep_their_kind() {
    let input: Json = serde_json::from_str(
        r#"{"whole": 3, "dot": 3.0, "exp": 1e2, "min": -9223372036854775808, "huge": 1e30,
            "long": 100000000000000000000}"#,
    )
    .expect("json");
    assert_eq!(value_of("type(input.whole) == int", &input), json!(true));
    assert_eq!(value_of("type(input.dot) == double", &input), json!(true));
    assert_eq!(value_of("type(input.exp) == double", &input), json!(true));
    assert_eq!(value_of("type(input.long) == double", &input), json!(true));
    assert_eq!(value_of("input.min", &input), json!(i64::MIN));
    assert_eq!(value_of("input.dot", &input).to_string(), "3.0");
    assert_eq!(failure_over("input.dot + input.whole", &input), ErrorKind::Evaluation);
    assert_eq!(
        failure_over("input.huge * input.huge * 1e300", &input),
        ErrorKind::Evaluation
    );
    assert_eq!(failure_over("0.0 / 0.0", &input), ErrorKind::Evaluation);
    assert_eq!(failure_over("input.min - 1", &input), ErrorKind::Evaluation);
    for overflow in [
        "input.min / -1",
        "input.min % -1",
        "-input.min",
        "1 / 0",
        "1 % 0",
        "0u - 1u",
    ] {
        let kind = survives(overflow, &input);
        assert_eq!(kind, Err(ErrorKind::Evaluation), "{overflow}");
    }
    let infinite: Json = serde_json::from_str("1e999").expect("json");
    assert_eq!(failure_over("input", &infinite), ErrorKind::Evaluation);
}

#[test]
fn the_scope_holds_steps_item_and_index() {
    let (build, item) = (json!({"ok": true}), json!("it"));
    let scope = Scope::new()
        .step("build", &build, "succeeded")
        .step("my-step", &Json::Null, "skipped")
        .item(&item)
        .index(4);
    let text = "steps.build.result.ok && steps['my-step'].state == 'skipped' && !has(steps.other)";
    assert_eq!(evaluate(text, &scope).expect("value"), json!(true));
    assert_eq!(evaluate("item + string(index)", &scope).expect("value"), json!("it4"));
    let missing = evaluate("input", &scope).expect_err("no input");
    assert_eq!(missing.kind, ErrorKind::UnknownVariable);
    let scope = scope.index(5);
    assert_eq!(evaluate("index", &scope).expect("value"), json!(5));
}

#[test]
fn references_tell_what_to_load() {
    let references = |text: &str| Expression::compile(text).expect(text).references().clone();
    let names = |set: &std::collections::BTreeSet<String>| set.iter().cloned().collect::<Vec<_>>().join(",");
    for (text, variables, steps, all) in [
        ("1 + 1", "", "", false),
        ("input.a == index", "index,input", "", false),
        ("steps.a.result + steps['b-c'].state", "steps", "a,b-c", false),
        ("has(steps.a) ? steps.b.result : item", "item,steps", "a,b", false),
        ("steps[item].state", "item,steps", "", true),
        ("steps.map(s, s)", "steps", "", true),
        ("size(steps) + steps.a.result", "steps", "a", true),
        ("[1].map(steps, steps.a)", "", "", false),
        ("[input].map(input, input)", "input", "", false),
        ("[1].map(x, x).filter(y, y == input)", "input", "", false),
        ("[1].all(x, steps.a.result == x)", "steps", "a", false),
    ] {
        let found = references(text);
        assert_eq!(names(&found.variables), variables, "{text}");
        assert_eq!(names(&found.steps), steps, "{text}");
        assert_eq!(found.all_steps, all, "{text}");
    }
}

#[test]
fn comprehension_variables_shadow_and_end() {
    let input = json!([1, 2]);
    assert_eq!(value_of("input.map(input, input + 1)", &input), json!([2, 3]));
    assert_eq!(value_of("input.map(x, x).map(x, x * 2)", &input), json!([2, 4]));
    assert_eq!(compile_failure("input.map(x, x)[0] + x"), ErrorKind::UnknownVariable);
    assert_eq!(compile_failure("input.map(x, y)"), ErrorKind::UnknownVariable);
    assert_eq!(compile_failure("x.map(x, x)"), ErrorKind::UnknownVariable);
}

#[test]
fn unknown_names_are_refused() {
    for text in ["foo", "input == secret", ".input", "a.b.c", "timestamp", "[].x == y"] {
        assert_eq!(compile_failure(text), ErrorKind::UnknownVariable, "{text}");
    }
    for text in [
        "foo(1)",
        "size()",
        "size(1, 2)",
        "'a'.size(1)",
        "input.map(x)",
        "has(1, 2)",
        "map(1, 2)",
        "input.foo(1)",
        "timestamp('x')",
        "duration('1s')",
        "'a'.int()",
        "now()",
        "optional.of(1)",
    ] {
        assert_eq!(compile_failure(text), ErrorKind::UnknownFunction, "{text}");
    }
    for text in [
        "",
        "  ",
        "1 +",
        "input.?a",
        "input[?0]",
        "[?input]",
        "Foo{a: 1}",
        "has(1)",
        "@deep(1)",
        "input.map(1, 2)",
        "1 1",
        "'a",
        "`a`",
        "\0",
        "input\0",
        "ключ",
        "'\\q'",
        "// only",
        "if",
        "99999999999999999999",
        "}{",
        "input.`a`",
        "@result",
    ] {
        assert_eq!(compile_failure(text), ErrorKind::Syntax, "{text:?}");
    }
}

#[test]
fn nested_comprehensions_are_refused_wherever_they_hide() {
    for text in [
        "input.map(x, input.map(y, y))",
        "input.all(x, [1, input.exists(y, y)][1])",
        "input.filter(x, has({'a': input.filter(y, y)}.a))",
        "input.map(x, input.exists(y, y), x)",
        "input.exists_one(x, x ? size(input.map(y, y)) == 1 : false)",
        "input.map(x, x.filter(y, y).size())",
        "input.map(x, input[input.map(y, y)[0]])",
    ] {
        assert_eq!(compile_failure(text), ErrorKind::NestedComprehension, "{text}");
    }
    let input = json!([3, 1, 2]);
    let sequential = "input.map(x, x + 1).filter(x, x > 2).all(x, x in [3, 4])";
    assert_eq!(value_of(sequential, &input), json!(true));
    let inside_range = "[size(input.map(x, x)), size(input.filter(x, x > 1))].map(y, y)";
    assert_eq!(value_of(inside_range, &input), json!([3, 2]));
    let chain = format!("input{}", ".map(x, x)".repeat(30));
    assert_eq!(survives(&chain, &input), Ok(input.clone()));
    let chain = format!("input{}", ".map(x, x)".repeat(370));
    assert_eq!(survives(&chain, &input), Err(ErrorKind::TooDeep));
}

#[test]
fn nesting_is_bounded_before_and_after_parsing() {
    for (open, close) in [("(", ")"), ("[", "]"), ("size(", ")"), ("{1: ", "}"), ("[0][", "]")] {
        let nested = |depth: usize| format!("{}0{}", open.repeat(depth), close.repeat(depth));
        assert_ne!(survives(&nested(8), &Json::Null), Err(ErrorKind::TooDeep), "{open}");
        for depth in [9, 15, 100] {
            assert_eq!(compile_failure(&nested(depth)), ErrorKind::TooDeep, "{open}");
        }
    }
    for text in [
        "[".repeat(4096),
        "{".repeat(4096),
        "(".repeat(4096),
        "input[".repeat(600),
        "!".repeat(4096),
        "-".repeat(4096),
        format!("{}true", "!".repeat(9)),
        format!("{}true", "! ".repeat(2000)),
        format!("{}1", "- ".repeat(2000)),
        format!("{}1", "true?1:".repeat(9)),
        format!("{}1", "a?b:".repeat(1000)),
        format!("{}1", "a?".repeat(2000)),
        format!("{}{}", "!(".repeat(9), ")".repeat(9)),
        format!("{}input{}", "input.map(x, ".repeat(9), ")".repeat(9)),
        format!("{}true{}", "!size(!".repeat(8), ")".repeat(8)),
        format!("{}1{}", "1 + (".repeat(600), ")".repeat(600)),
    ] {
        assert_eq!(compile_failure(&text), ErrorKind::TooDeep, "{}", shortened(&text));
    }
    let brackets_in_text = format!("'{}' + r\"{}\\\" // {}", "(".repeat(50), "[".repeat(50), "{".repeat(50));
    assert!(survives(&brackets_in_text, &Json::Null).is_ok());
    let separate = vec!["(true ? 1 : 2)"; 40].join(",");
    assert!(survives(&format!("[{separate}]"), &Json::Null).is_ok());
    assert!(survives("true ? 1 : false ? 2 : 3", &Json::Null).is_ok());
    assert_eq!(survives("!!!true", &Json::Null), Ok(json!(false)));
}

#[test]
fn long_chains_neither_overflow_nor_fail_needlessly() {
    let chain = |term: &str, operator: &str| {
        let count = (MAX_TEXT_BYTES + operator.len()) / (term.len() + operator.len());
        vec![term; count].join(operator)
    };
    let input = json!({"a": 1});
    assert_eq!(survives(&chain("1", "+"), &input), Ok(json!(2048)));
    assert_eq!(survives(&chain("'a'", "+"), &input), Ok(json!("a".repeat(1024))));
    assert_eq!(survives(&chain("false", "||"), &input), Ok(json!(false)));
    assert_eq!(survives(&chain("true", "&&"), &input), Ok(json!(true)));
    for (term, operator) in [
        ("1", "-"),
        ("1", "*"),
        ("1", "/"),
        ("1", "<"),
        ("1", "=="),
        ("1", " in "),
        ("input", "."),
        ("1", "- -"),
        ("1", "+1-"),
    ] {
        let text = chain(term, operator);
        assert_eq!(compile_failure(&text), ErrorKind::TooDeep, "{}", shortened(&text));
    }
    assert_eq!(survives(&["1"; 100].join("-"), &input), Ok(json!(-98)));
    let text = format!("input{}", "[0]".repeat(1300));
    assert_eq!(compile_failure(&text), ErrorKind::TooDeep);
    let text = format!("'a'{}", ".size()".repeat(500));
    assert_eq!(compile_failure(&text), ErrorKind::TooDeep);
    let list = format!("[{}]", chain("1", ",").get(..4001).expect("long"));
    assert_eq!(survives(&format!("size({list})"), &input), Ok(json!(2001)));
    assert_eq!(compile_failure(&"1".repeat(4097)), ErrorKind::TooLong);
}

/// A worker's stack is not all ours: half of it has to do, also for the deepest data.
#[test]
fn half_a_small_stack_is_enough() {
    let mut deep = json!({"a": 1});
    for _ in 0..120 {
        deep = json!([deep]);
    }
    for length in 1..=16 {
        for (head, link) in [
            ("input == input", " == true"),
            ("input", ".map(x, x)"),
            ("1", " - index"),
            ("[input].filter(x, x == input)", "[0]"),
            ("[[input]].all(x, [x] == [x])", " != false"),
        ] {
            let text = format!("{head}{}", link.repeat(length));
            on_stack(1 << 20, || {
                let scope = Scope::new().input(&deep).index(1);
                let _ = Expression::compile(&text).map(|compiled| compiled.evaluate(&scope));
            });
        }
    }
}

/// The tallest trees which compile, with every kind of operation at the bottom.
#[test]
fn everything_that_compiles_is_evaluated_on_a_small_stack() {
    let input = json!({"a": [1], "s": "x"});
    let mut compiled = 0;
    for length in [
        1, 5, 10, 14, 15, 16, 20, 40, 60, 62, 63, 64, 100, 120, 125, 126, 127, 128,
    ] {
        for (head, link, tail) in [
            ("input", ".a", ""),
            ("input.a", ".map(x, x)", ""),
            ("input.a", ".filter(x, x == 1 && size(input.s + 'y') == 2)", ""),
            ("1", " - index", ""),
            ("'s'", ".matches('s')", ""),
            ("input.a", "[0]", ""),
            ("1", " == 1", ""),
            ("[size([{'a': [int(string(1", " * 2", "))]}.a[0]])]"),
        ] {
            let text = format!("{head}{}{tail}", link.repeat(length));
            compiled += usize::from(survives(&text, &input) != Err(ErrorKind::TooDeep));
        }
    }
    assert!(compiled > 60, "{compiled}");
}

#[test]
fn evaluation_is_bounded_in_work_and_memory() {
    let text = json!({"s": "x".repeat(1 << 20), "n": (0..100_000).collect::<Vec<_>>()});
    let sum = vec!["input.s"; 500].join("+");
    let started = Instant::now();
    for expression in [
        sum.as_str(),
        "input.n.map(x, input.s)",
        "input.n.map(x, input.n)",
        "input.n.map(x, input.n + input.n)",
        "input.n.exists(x, input.n == [x])",
        "input.n.all(x, input.n == input.n)",
        "input.n.exists(x, input.s - 1 == 1)",
        "input.n.filter(x, -x in input.n)",
        "input.n.exists(x, input.s.contains(string(x) + 'y'))",
        "input.n.exists(x, size(input.s) == x - 1)",
        "input.n.exists(x, input.s < input.s)",
        "input.n.exists(x, input.n < 1) || true",
        "input.n.exists(x, {input.s: 1} == {})",
        "input.n.exists(x, [input.s] == [])",
        "input.n.exists(x, input.s.matches('a'))",
        "input.s.matches('[ab]*x[ab]{400}c')",
        "input.n.exists(x, 'a'.matches(string(x) + '[a-z]{1,100}b'))",
    ] {
        let kind = failure_over(expression, &text);
        assert_eq!(kind, ErrorKind::TooMuchWork, "{}", shortened(expression));
    }
    let long_body = format!("input.n.all(x, {})", vec!["true"; 500].join("&&"));
    assert_eq!(failure_over(&long_body, &text), ErrorKind::TooMuchWork);
    for free in [
        "input.n[0.5] == 1",
        "input.n[input] == 1",
        "string(input.n) == ''",
        "input.n.x",
    ] {
        let expression = format!("input.n.exists(x, {free})");
        assert_eq!(failure_over(&expression, &text), ErrorKind::Evaluation, "{free}");
    }
    assert_eq!(failure_over("input.s", &text), ErrorKind::ResultTooLarge);
    assert!(started.elapsed() < Duration::from_secs(120), "{:?}", started.elapsed());
    assert_eq!(
        value_of("input.n.filter(x, x > 99998 && x % 2 == 1)", &text),
        json!([99999])
    );
    assert_eq!(value_of("size(input.s + input.s + input.s)", &text), json!(3 << 20));
    assert_eq!(
        value_of("input.n.exists(x, size(input.n) == x + 1)", &text),
        json!(true)
    );
}

#[test]
fn patterns_are_bounded() {
    let input = json!("x");
    for pattern in ["(", "a{100000}", "(a{200}){200}", "\\\\w{500}"] {
        let text = format!("input.matches('{pattern}')");
        assert_eq!(failure_over(&text, &input), ErrorKind::Evaluation, "{pattern}");
    }
    let long = format!("input.matches('{}')", "x".repeat(1025));
    assert_eq!(failure_over(&long, &input), ErrorKind::Evaluation);
    assert_eq!(failure_over("matches(1, 'a')", &input), ErrorKind::Evaluation);
    let typical = r"'a.b+c@example.org'.matches(r'^[\w.+-]+@[\w-]+\.[a-z]{2,}$')";
    assert_eq!(value_of(typical, &input), json!(true));
}

#[test]
fn results_are_bounded_and_json() {
    let mut deep = json!(1);
    for _ in 0..32 {
        deep = json!([deep]);
    }
    assert_eq!(value_of("input", &deep), deep);
    assert_eq!(failure_over("[input]", &deep), ErrorKind::ResultTooLarge);
    let mut deeper = json!(1);
    for _ in 0..129 {
        deeper = json!([deeper]);
    }
    assert_eq!(failure_over("input == 1", &deeper), ErrorKind::Evaluation);
    for text in ["{1: 2}", "{true: 1}", "[{'a': {1u: 2}}]"] {
        assert_eq!(failure_over(text, &deep), ErrorKind::Evaluation, "{text}");
    }
    let quotes = json!("\"".repeat(600_000));
    assert_eq!(failure_over("input", &quotes), ErrorKind::ResultTooLarge);
    let fits = json!("é".repeat(500_000));
    assert_eq!(value_of("input", &fits), fits);
}

#[test]
fn a_result_is_priced_as_it_is_written() {
    for json in [json!("a\"\\\n\u{1}\u{7f}é"), json!(""), json!("\t\u{8}\u{c}\r\u{1f}")] {
        let text = json.as_str().expect("text");
        assert_eq!(value::quoted_bytes(text), json.to_string().len());
    }
}

#[test]
fn errors_name_types_and_stay_short() {
    let input = json!({"secret": {"password": "hunter2"}, "long": "k".repeat(100_000)});
    for text in [
        "input.secret - 1",
        "input.secret < input",
        "input.secret + 'a'",
        "-input.secret",
    ] {
        let error = evaluate(text, &Scope::new().input(&input)).expect_err(text);
        assert!(!error.message.contains("hunter2"), "{error}");
        assert!(error.message.len() < 410, "{error}");
    }
    let error = evaluate("input[input.long]", &Scope::new().input(&input)).expect_err("no key");
    assert_eq!(error.kind, ErrorKind::Evaluation);
    assert!(error.message.len() < 410);
}

#[test]
fn templates_replace_and_interpolate() {
    let input = json!({"name": "ada", "n": 2, "tags": ["x"], "none": null});
    let template = json!({
        "typed": "${ input.tags }", "number": "${input.n}", "text": "Hi ${input.name} x${input.n}!",
        "json": "t=${input.tags} ${input.none}", "escaped": "$${input.n} costs $5 $$ $",
        "brace": "${ {'a': '}'} }", "two": "${input.n}${input.n}", "plain": [1, true, null, {"k": "v"}],
        "mixed": "$${a} ${input.n} $${b}", "${input.n}": "key", "": "",
    });
    let compiled = Template::compile(&template).expect("template");
    let value = compiled.evaluate(&Scope::new().input(&input)).expect("value");
    assert_eq!(
        value,
        json!({
            "typed": ["x"], "number": 2, "text": "Hi ada x2!", "json": "t=[\"x\"] null",
            "escaped": "${input.n} costs $5 $$ $", "brace": {"a": "}"}, "two": "22",
            "plain": [1, true, null, {"k": "v"}], "mixed": "${a} 2 ${b}", "${input.n}": "key", "": "",
        })
    );
    assert_eq!(compiled.references().variables.len(), 1);
}

#[test]
fn templates_are_bounded() {
    let kind = |json: Json| on_worker_stack(|| Template::compile(&json).expect_err("refused").kind);
    for text in ["${", "a ${input", "${'}", "${{}", "${}", "${ input.a }} ${"] {
        assert_eq!(kind(json!(text)), ErrorKind::Syntax, "{text}");
    }
    assert_eq!(kind(json!("${1}".repeat(257))), ErrorKind::TooLong);
    assert_eq!(kind(json!("x".repeat(1 << 20))), ErrorKind::TooLong);
    assert_eq!(kind(json!(format!("${{{}}}", "1".repeat(5000)))), ErrorKind::TooLong);
    let mut deep = json!("${1}");
    for _ in 0..33 {
        deep = json!([deep]);
    }
    assert_eq!(kind(deep), ErrorKind::TooDeep);
    let input = json!({"s": "x".repeat(600_000), "n": (0..100_000).collect::<Vec<_>>()});
    let evaluated = |json: Json| {
        let template = Template::compile(&json).expect("template");
        let scope = Scope::new().input(&input);
        template.evaluate(&scope).expect_err("refused").kind
    };
    assert_eq!(
        evaluated(json!(["${input.s}", "${input.s}"])),
        ErrorKind::ResultTooLarge
    );
    assert_eq!(evaluated(json!("a${input.s} ${input.s}")), ErrorKind::ResultTooLarge);
    let costly = vec!["${size(input.n.filter(x, x > 5))}"; 20];
    assert_eq!(evaluated(json!(costly)), ErrorKind::TooMuchWork);
}

#[test]
fn the_cache_shares_and_forgets() {
    let first = compile_cached("1 + 41").expect("expression");
    let again = compile_cached("1 + 41").expect("expression");
    assert!(Arc::ptr_eq(&first, &again));
    assert_eq!(compile_cached("1 +").expect_err("syntax").kind, ErrorKind::Syntax);
    let mut cache = Cache::default();
    let short = Expression::compile("1").expect("expression");
    cache.insert(Arc::clone(&short));
    cache.insert(short);
    assert_eq!(cache.size(), (1, 1));
    for number in 0..80 {
        let text = format!("'{number}{}'", "x".repeat(4000));
        cache.insert(Expression::compile(&text).expect("expression"));
        assert!(cache.get("1").is_some(), "used all the time");
    }
    assert!(cache.size().0 < 70 && cache.size().1 <= 256 << 10);
    assert!(cache.get(&format!("'0{}'", "x".repeat(4000))).is_none());
}

#[test]
fn expressions_are_shared_between_threads() {
    fn shareable<T: Send + Sync>() {}
    shareable::<Expression>();
    shareable::<Template>();
    shareable::<Scope<'_>>();
}

/// Pieces of CEL, sensible and not.
fn token() -> impl Strategy<Value = &'static str> {
    proptest::sample::select(vec![
        "input",
        "steps",
        "item",
        "index",
        "x",
        "a",
        "input.a",
        "1",
        "2u",
        "0.5",
        "-1",
        "'s'",
        "\"",
        "'",
        "r'",
        "b'x'",
        "true",
        "null",
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        ",",
        ":",
        "?",
        ".",
        "!",
        "-",
        "+",
        "*",
        "/",
        "%",
        "==",
        "<",
        "in",
        "&&",
        "||",
        " ",
        "//",
        "\n",
        "\\",
        ".map(x, ",
        ".all(x, ",
        ".filter(x, x",
        "has(",
        "size(",
        "matches(",
        "[0]",
        "${",
        "}",
        "$",
        "`",
        "@",
        "é",
        "\0",
        "\u{1F600}",
        ".size()",
        "0x",
        "1e9",
        "if",
        "\"\"\"",
        "input.n",
        "in",
    ])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn compiling_never_aborts_and_evaluating_is_deterministic(
        tokens in proptest::collection::vec(token(), 0..24),
    ) {
        let text = tokens.concat();
        let input = json!({"a": {"z": 1, "b": [1, 2]}, "n": 3});
        let first = survives(&text, &input);
        prop_assert_eq!(first, survives(&text, &input));
    }

    #[test]
    fn likely_expressions_are_deterministic(
        terms in proptest::collection::vec((
            proptest::sample::select(vec![
                "input.a.map(k, k)", "input.n", "1", "size(input.a)", "input.a.b", "'x'",
                "{'q': 1, 'c': 2}", "[input.a]", "input.a.exists(k, k == 'b')", "index",
            ]),
            proptest::sample::select(vec!["+", "==", "-", "in", "<", "!=", "*"]),
        ), 1..6),
    ) {
        let text: Vec<_> = terms.iter().map(|(term, operator)| format!("{term} {operator} ")).collect();
        let text = format!("{}1", text.concat());
        let input = json!({"a": {"z": 1, "b": [1, 2]}, "n": 3});
        let scope = Scope::new().input(&input).index(0);
        let first = evaluate(&text, &scope);
        let fresh = Scope::new().input(&input).index(0);
        prop_assert_eq!(first, evaluate(&text, &fresh));
    }

    #[test]
    fn any_text_is_a_template_or_an_error(text in "\\PC{0,40}", tokens in proptest::collection::vec(token(), 0..8)) {
        let template = json!([text, tokens.concat()]);
        let input = json!({"a": 1});
        if let Ok(template) = Template::compile(&template) {
            let scope = Scope::new().input(&input);
            prop_assert_eq!(template.evaluate(&scope), template.evaluate(&scope));
        }
    }

    #[test]
    fn text_without_dollars_is_itself(text in "[^$]{0,80}") {
        let template = Template::compile(&json!({"k": text.clone()})).expect("template");
        prop_assert_eq!(template.evaluate(&Scope::new()).expect("value"), json!({"k": text}));
    }
}
