//! Long files: no number of mistakes, and no repetition, may cost its square.

use super::*;
use crate::cpu_time;

/// Ten times as much may take ten times as long, and some more: the square would be a hundred.
#[track_caller]
fn grows_in_proportion(what: &str, run: impl Fn(usize), short: usize) {
    let (less, more) = (cpu_time::of(|| run(short)), cpu_time::of(|| run(10 * short)));
    assert!(more < less * 35, "{what}: {less:?} for {short}, {more:?} for ten times as many");
}

/// A file of so many units; `#` in a unit is its number.
fn file(head: &str, unit: &str, tail: &str, count: usize) -> String {
    let units = (0..count).map(|number| unit.replace('#', &number.to_string()));
    format!("collection: a.b\naccess: public\n{head}{}{tail}", units.collect::<String>())
}

#[test]
fn time_is_in_proportion_to_the_length() {
    let rows: &[(&str, &str, &str)] = &[
        ("match:\n", "  k#: { $oid: x }\n", ""),
        ("match: {", "k#: { $oid: x },", "}"),
        ("match:\n", "  $k#: 1\n", ""),
        ("match:\n", "  k#: { $gtt: 1 }\n", ""),
        ("match: { a: {", "k#: { $in: 1 },", "} }"),
        ("", "k#: 1\n", ""),
        ("match: { a: { $in: [", "#, ", "] } }"),
        ("match: { a: { $in: [", "{ $param: p }, ", "] } }"),
        ("match: { a: {", "k#: { $param: p }, ", "} }"),
        ("project: {", "k#: 1, ", "}"),
        ("project: {", "k#: x, ", "}"),
        ("project: {", "a..k#: 1, ", "}"),
        ("params: { p: { type: string, enum: [", "x#, ", "] } }"),
        ("params: { p: { type: int, enum: [", "x#, ", "] } }"),
        ("params: {", "k#: { type: string }, ", "}"),
        ("operations: [", "insert, ", "]"),
        ("match: { a: [", "&a# 1, ", "] }"),
    ];
    for (head, unit, tail) in rows {
        let run = |count| {
            let text = file(head, unit, tail, count);
            let _ = std::hint::black_box(parse(&text));
        };
        grows_in_proportion(unit, run, 400);
    }
}

#[test]
fn findings_do_not_take_the_line_with_them() {
    let text = file("match: {", "k#: { $oid: x }, ", "}", 8_000);
    let diagnostics = parse(&text).unwrap_err();
    let bytes: usize = diagnostics.iter().map(|one| one.to_string().len()).sum();
    assert!(bytes < 100_000, "{bytes}");
    let last = diagnostics.last().unwrap();
    assert_eq!(last.message, "and 7900 more errors in this file");
}

#[test]
fn a_long_key_is_not_copied_by_what_stands_below() {
    let key = "k".repeat(400_000);
    let listed = "{ $param: p }, ".repeat(900);
    let text =
        format!("match: {{ ? {key} : {{ $in: [{listed}] }} }}\nparams: {{ p: {{ type: int }} }}\n");
    let filter = parse(&format!("collection: a.b\naccess: public\n{text}")).unwrap();
    let uses = filter.template.placeholders();
    let first = |used: &crate::matcher::PlaceholderUse| match &used.path[0] {
        crate::matcher::Step::Key(key) => key.as_ptr(),
        crate::matcher::Step::Index(_) => std::ptr::null(),
    };
    assert_eq!(uses.len(), 900);
    assert!(uses.iter().all(|used| first(used) == first(&uses[0])));
}

#[test]
fn regular_expressions_have_one_budget() {
    let refused = |text: &str| {
        shown(&parse(&format!("collection: a.b\naccess: public\n{text}")).unwrap_err())
    };
    let one = "params: { p: { type: string, pattern: '(\\w{50}){200}' } }\n";
    assert!(refused(one).contains("too large when compiled"), "{}", refused(one));
    let many = |count: usize| -> String {
        let params =
            (0..count).map(|n| format!("  p{n}: {{ type: string, pattern: '\\w{{12}}' }}\n"));
        format!("params:\n{}", params.collect::<String>())
    };
    assert!(refused(&many(90)).contains("take more than 16 MiB"), "{}", refused(&many(90)));
    let listed = "{ $regularExpression: { pattern: a } }, ".repeat(300);
    let text = format!("match: {{ a: {{ $in: [{listed}] }} }}\n");
    assert!(refused(&text).contains("take more than 16 MiB"));
}

/// What a client sends is compared with a list that was sorted when the file was read.
#[test]
fn a_long_enum_costs_little_and_is_not_recited() {
    let of = |count: usize| {
        let values: String = (0..count).map(|number| format!("x{number}, ")).collect();
        good(&format!(
            "match: {{ a: {{ $param: p }} }}\nparams: {{ p: {{ type: string, enum: [{values}] }} }}\n"
        ))
    };
    let (short, long) = (of(1_000), of(10_000));
    let ask = |filter: &Filter| {
        let query = [("p".to_owned(), "none".to_owned())];
        (0..50).for_each(|_| {
            let refusal = filter.bind(&query, None).unwrap_err().to_string();
            assert!(refusal.ends_with("and 980 more") || refusal.ends_with("and 9980 more"));
            assert!(refusal.len() < 500, "{refusal}");
        });
    };
    let (less, more) = (cpu_time::of(|| ask(&short)), cpu_time::of(|| ask(&long)));
    assert!(more < less * 5, "{less:?}, {more:?}");

    let values: String = (0..10_001).map(|number| format!("x{number}, ")).collect();
    let text = format!("params: {{ p: {{ type: string, enum: [{values}] }} }}\n");
    let diagnostics = parse(&format!("collection: a.b\naccess: public\n{text}")).unwrap_err();
    assert!(shown(&diagnostics).contains("more than 10000 values"));
}
