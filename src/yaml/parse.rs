//! From the parser's events to the tree. Every limit is checked here, while the tree grows.

use std::collections::HashMap;

use granit_parser::{Event, Parser, ScalarStyle, Span};

use super::{
    Entry, MAX_BYTES, MAX_DEPTH, MAX_NODES, Node, NodeKind, Place, Scalar, YamlError, merge,
};

/// Reads one document. A text that holds nothing is `Ok(None)`.
///
/// # Errors
/// Every problem that does not keep the rest from being read; a mistake in the syntax itself ends
/// the reading and is the last of the list.
pub fn parse(text: &str) -> Result<Option<Node>, Vec<YamlError>> {
    read(text, false)
}

/// The same, with the entries of mappings that `<<` names in its place.
///
/// # Errors
/// As [`parse`].
pub fn parse_merging(text: &str) -> Result<Option<Node>, Vec<YamlError>> {
    let mut root = read(text, true)?;
    if let Some(root) = &mut root {
        merge::expand(root).map_err(|problem| vec![problem])?;
    }
    Ok(root)
}

fn read(text: &str, is_merging: bool) -> Result<Option<Node>, Vec<YamlError>> {
    if text.len() > MAX_BYTES {
        return Err(vec![YamlError {
            place: Place::START,
            message: format!("the file is larger than {} KiB", MAX_BYTES / 1024),
            hint: None,
        }]);
    }
    let mut builder = Builder {
        lines: text.lines().collect(),
        lengths: text.lines().map(|line| line.trim_end().chars().count()).collect(),
        open: Vec::new(),
        root: None,
        anchors: HashMap::new(),
        nodes: 0,
        copied_bytes: 0,
        documents: 0,
        problems: Vec::new(),
        is_merging,
    };
    for event in Parser::new_from_str(text) {
        let outcome = match event {
            Ok((event, span)) => builder.take(event, span),
            Err(error) => {
                let mark = *error.marker();
                let place = Place { line: mark.line().max(1), column: mark.col() + 1, width: 1 };
                Err(YamlError {
                    place: builder.inside(place),
                    message: format!("not valid YAML: {}", error.info()),
                    hint: Some(builder.syntax_hint(place, &error.info())),
                })
            }
        };
        if let Err(problem) = outcome {
            builder.problems.push(problem);
            break;
        }
    }
    if builder.problems.is_empty() { Ok(builder.root) } else { Err(builder.problems) }
}

/// A collection whose end has not come yet.
enum Open {
    Sequence {
        place: Place,
        anchor: usize,
        items: Vec<Node>,
    },
    Mapping {
        place: Place,
        anchor: usize,
        entries: Vec<Entry>,
        lines: HashMap<String, usize>,
        key: Option<(String, Place)>,
    },
}

struct Builder<'a> {
    lines: Vec<&'a str>,
    /// Of each line, in characters, without white space at its end.
    lengths: Vec<usize>,
    open: Vec<Open>,
    root: Option<Node>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
    /// Of texts that anchors and aliases copy.
    copied_bytes: usize,
    documents: usize,
    problems: Vec<YamlError>,
    /// Whether `<<` is a key.
    is_merging: bool,
}

impl Builder<'_> {
    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), YamlError> {
        let place = self.place(&span);
        match event {
            Event::DocumentStart(..) => {
                self.documents += 1;
                if self.documents > 1 {
                    return Err(problem(place, "a second document in one file")
                        .hint("keep one document, and drop the `---` before this one"));
                }
            }
            Event::Scalar(text, style, anchor, tag) => {
                let is_forced_text = match tag {
                    Some(tag) if tag.is_yaml_core_schema_tag("str") => true,
                    Some(tag) => return Err(unknown_tag(place, &tag.original())),
                    None => false,
                };
                let is_plain = style == ScalarStyle::Plain && !is_forced_text;
                // The parser calls an absent value `~`; only its width tells the two apart.
                let is_absent = is_plain && span.is_empty();
                let text = if is_absent { String::new() } else { text.into_owned() };
                let scalar = Scalar { text, is_plain, is_tagged: is_forced_text };
                self.close(Node { place, kind: NodeKind::Scalar(scalar) }, anchor)?;
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.descend(place, tag.map(|tag| tag.original()))?;
                self.open.push(Open::Sequence { place, anchor, items: Vec::new() });
            }
            Event::MappingStart(_, anchor, tag) => {
                self.descend(place, tag.map(|tag| tag.original()))?;
                self.open.push(Open::Mapping {
                    place,
                    anchor,
                    entries: Vec::new(),
                    lines: HashMap::new(),
                    key: None,
                });
            }
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(Open::Sequence { place, anchor, items }) => {
                    let place = self.until(place, &span);
                    self.close(Node { place, kind: NodeKind::Sequence(items) }, anchor)?;
                }
                Some(Open::Mapping { place, anchor, entries, .. }) => {
                    let place = self.until(place, &span);
                    self.close(Node { place, kind: NodeKind::Mapping(entries) }, anchor)?;
                }
                None => {}
            },
            Event::Alias(id) => {
                // An anchor inside itself is not there yet: the parser knows it, we do not.
                let Some(node) = self.anchors.get(&id) else {
                    return Err(problem(place, "an alias to something that contains it"));
                };
                let size = Size::of(node);
                self.charge(size, place)?;
                let Some(mut node) = self.anchors.get(&id).cloned() else { return Ok(()) };
                node.place = place;
                self.close(node, 0)?;
            }
            // Comments, starts and ends say nothing about the tree.
            _ => {}
        }
        Ok(())
    }

    fn descend(&self, place: Place, tag: Option<String>) -> Result<(), YamlError> {
        if let Some(tag) = tag {
            return Err(unknown_tag(place, &tag));
        }
        if self.open.len() >= MAX_DEPTH {
            return Err(problem(place, format!("nested deeper than {MAX_DEPTH} levels")));
        }
        Ok(())
    }

    /// A node is complete: it becomes a key, a value, an item, or the root.
    fn close(&mut self, node: Node, anchor: usize) -> Result<(), YamlError> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return Err(problem(node.place, format!("more than {MAX_NODES} values")));
        }
        if anchor != 0 {
            // Anchors within anchors are kept once for each.
            self.charge(Size::of(&node), node.place)?;
            self.anchors.insert(anchor, node.clone());
        }
        match self.open.last_mut() {
            None => self.root = Some(node),
            Some(Open::Sequence { items, .. }) => items.push(node),
            Some(Open::Mapping { entries, lines, key, .. }) => match key.take() {
                Some((name, key_place)) => {
                    if let Some(earlier) = lines.get(&name) {
                        self.problems.push(
                            problem(key_place, format!("`{}` is written twice", shown(&name)))
                                .hint(format!("it is also on line {earlier}")),
                        );
                    } else {
                        lines.insert(name.clone(), key_place.line);
                        entries.push(Entry { key: name, key_place, value: node });
                    }
                }
                None => {
                    let NodeKind::Scalar(scalar) = node.kind else {
                        return Err(problem(node.place, "a key must be text")
                            .hint("text that starts with `{` or `[` needs quotes around it"));
                    };
                    let is_merge = scalar.is_plain && scalar.text == "<<";
                    if is_merge && !self.is_merging {
                        return Err(problem(node.place, "merge keys (`<<`) are not supported")
                            .hint("write the keys out"));
                    }
                    let name = if is_merge { merge::KEY.to_owned() } else { scalar.text };
                    *key = Some((name, node.place));
                }
            },
        }
        Ok(())
    }

    /// Accounts for a copy before it is made.
    fn charge(&mut self, size: Size, place: Place) -> Result<(), YamlError> {
        self.nodes += size.nodes;
        self.copied_bytes += size.bytes;
        if self.nodes > MAX_NODES {
            return Err(problem(place, format!("more than {MAX_NODES} values")));
        }
        if self.copied_bytes > MAX_BYTES {
            let most = MAX_BYTES / 1024;
            return Err(problem(place, format!("more than {most} KiB of text behind aliases")));
        }
        Ok(())
    }

    fn place(&self, span: &Span) -> Place {
        let line = span.start.line().max(1);
        let column = span.start.col() + 1;
        let width = if span.end.line() == span.start.line() {
            span.end.col().saturating_sub(span.start.col())
        } else {
            usize::MAX
        };
        self.inside(Place { line, column, width })
    }

    /// What to look at where the parser gave up.
    fn syntax_hint(&self, place: Place, said: &str) -> String {
        let has_tab =
            |line: &&str| line.trim_start_matches(' ').starts_with('\t') && !line.trim().is_empty();
        let near = self.lines.iter().take(place.line).rev().take(2);
        if near.into_iter().any(has_tab) {
            return "indent with spaces: YAML takes no tabs".to_owned();
        }
        let line = self.lines.get(place.line - 1).copied().unwrap_or_default();
        let at = line.chars().nth(place.column - 1);
        if said.contains("mapping values are not allowed") {
            return "text that contains `: ` needs quotes around it".to_owned();
        }
        match at {
            Some(first @ ('@' | '`' | '%' | '*' | '&' | '!' | '|' | '>')) => {
                format!("text that starts with `{first}` needs quotes around it")
            }
            Some('[' | '{') if said.contains("expected ',' or") => {
                "between brackets, text that contains `[`, `]`, `{`, `}` or `,` needs quotes"
                    .to_owned()
            }
            _ => "look at the brackets, quotes and indentation here and on the lines above; text \
                  with `: `, ` #` or a special first character needs quotes"
                .to_owned(),
        }
    }

    /// A collection's place: to its end where that is on the same line, else its first character.
    fn until(&self, start: Place, end: &Span) -> Place {
        if end.end.line() != start.line {
            return start;
        }
        self.inside(Place { width: (end.end.col() + 1).saturating_sub(start.column), ..start })
    }

    /// Cuts a place to the text: never past its line's end, at least one character wide.
    fn inside(&self, place: Place) -> Place {
        let line = place.line.min(self.lines.len().max(1));
        let length = self.lengths.get(line - 1).copied().unwrap_or_default();
        let column = if line == place.line { place.column.min(length + 1) } else { length + 1 };
        let width = place.width.min((length + 1).saturating_sub(column)).max(1);
        Place { line, column, width }
    }
}

/// What a copy of a node takes.
#[derive(Default)]
struct Size {
    nodes: usize,
    bytes: usize,
}

impl Size {
    fn of(node: &Node) -> Size {
        let mut size = Size::default();
        size.add(node);
        size
    }

    fn add(&mut self, node: &Node) {
        self.nodes += 1;
        match &node.kind {
            NodeKind::Scalar(scalar) => self.bytes += scalar.text.len(),
            NodeKind::Sequence(items) => items.iter().for_each(|item| self.add(item)),
            NodeKind::Mapping(entries) => {
                for entry in entries {
                    self.nodes += 1;
                    self.bytes += entry.key.len();
                    self.add(&entry.value);
                }
            }
        }
    }
}

fn unknown_tag(place: Place, tag: &str) -> YamlError {
    problem(place, format!("the tag `{tag}` is not supported"))
        .hint("only !!str is; for BSON types write Extended JSON, for example { $oid: … }")
}

/// A key as its author wrote it.
fn shown(name: &str) -> &str {
    if name == merge::KEY { "<<" } else { name }
}

fn problem(place: Place, message: impl Into<String>) -> YamlError {
    YamlError { place, message: message.into(), hint: None }
}

impl YamlError {
    fn hint(mut self, hint: impl Into<String>) -> YamlError {
        self.hint = Some(hint.into());
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(node: &Node, path: &str, into: &mut Vec<String>) {
        let place = node.place;
        into.push(format!("{path} {}:{}+{}", place.line, place.column, place.width));
        for entry in node.entries().unwrap_or_default() {
            let key = entry.key_place;
            let path = format!("{path}.{}", entry.key);
            into.push(format!("{path}= {}:{}+{}", key.line, key.column, key.width));
            places(&entry.value, &path, into);
        }
        for (index, item) in node.items().unwrap_or_default().iter().enumerate() {
            places(item, &format!("{path}[{index}]"), into);
        }
    }

    #[test]
    fn every_key_and_value_has_its_place() {
        let text = "a: 1\nb:\n  c: [x, \"é\", {d: 2}]\n  - \n".replace("  - \n", "");
        let tree = parse(&text).unwrap().unwrap();
        let mut found = Vec::new();
        places(&tree, "", &mut found);
        let expected = [
            " 1:1+1",
            ".a= 1:1+1",
            ".a 1:4+1",
            ".b= 2:1+1",
            ".b 3:3+1",
            ".b.c= 3:3+1",
            ".b.c 3:6+16",
            ".b.c[0] 3:7+1",
            ".b.c[1] 3:10+3",
            ".b.c[2] 3:15+6",
            ".b.c[2].d= 3:16+1",
            ".b.c[2].d 3:19+1",
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn json_is_read_too() {
        let tree = parse("{\n\t\"a\": [1, \"x\"],\n\t\"b\": {\"c\": null}\n}\n").unwrap().unwrap();
        assert_eq!(tree.entries().unwrap().len(), 2);
        assert!(tree.get("b").unwrap().value.get("c").unwrap().value.is_null());
    }

    #[test]
    fn an_absent_value_is_not_a_tilde() {
        let tree = parse("a:\nb: ~\nc: [~, ]\nd: ''\n").unwrap().unwrap();
        let text = |key| &tree.get(key).unwrap().value.scalar().unwrap().text;
        assert_eq!((text("a").as_str(), text("b").as_str(), text("d").as_str()), ("", "~", ""));
        assert!(!tree.get("d").unwrap().value.is_null());
    }

    #[test]
    fn nothing_is_none() {
        for text in ["", "\n", "# a comment\n", "---\n"] {
            let tree = parse(text).unwrap();
            assert!(tree.is_none_or(|node| node.is_null()), "{text:?}");
        }
    }

    #[test]
    fn problems() {
        let deep = format!("{}{}", "[".repeat(150), "]".repeat(150));
        let rows: &[(&str, &str)] = &[
            ("a: 1\nb: 2\na: 3\nb: 4\n", "3:1 `a` is written twice | 4:1 `b` is written twice"),
            ("a: 1\n---\nb: 1\n", "2:1 a second document in one file"),
            ("a: !!int 1\n", "1:10 the tag `!!int` is not supported"),
            ("a: &x 1\nb:\n  <<: *x\n", "3:3 merge keys (`<<`) are not supported"),
            ("[a]: 1\n", "1:1 a key must be text"),
            ("a: &x [*x]\n", "1:8 an alias to something that contains it"),
            (&deep, "1:101 nested deeper than 100 levels"),
        ];
        for (text, expected) in rows {
            let problems = parse(text).unwrap_err();
            let shown: Vec<_> = problems
                .iter()
                .map(|p| format!("{}:{} {}", p.place.line, p.place.column, p.message))
                .collect();
            assert_eq!(shown.join(" | "), *expected, "{text}");
        }
    }

    #[test]
    fn aliases_are_followed_but_cannot_explode() {
        let tree = parse("a: &x {n: 1}\nb: *x\n").unwrap().unwrap();
        assert!(tree.get("b").unwrap().value.get("n").is_some());

        let mut bomb = String::from("a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n");
        for level in 1..12 {
            let alias = format!("*a{}", level - 1);
            let items = vec![alias; 10].join(", ");
            bomb.push_str(&format!("a{level}: &a{level} [{items}]\n"));
        }
        let problems = parse(&bomb).unwrap_err();
        assert_eq!(problems[0].message, "more than 50000 values");

        let long = format!("a: &x {}\nb: [{}]\n", "y".repeat(2_000), "*x,".repeat(20_000));
        let problems = parse(&long).unwrap_err();
        assert_eq!(problems[0].message, "more than 1024 KiB of text behind aliases");

        let within = (0..90).map(|n| format!("&n{n} [")).collect::<String>();
        let nested = format!("{within}{}{}", "1,".repeat(2_000), "]".repeat(90));
        assert_eq!(parse(&nested).unwrap_err()[0].message, "more than 50000 values");
    }

    /// Every place is cut to its line, which must not be measured for each.
    #[test]
    fn one_long_line_takes_time_in_proportion() {
        let time = |values: usize| {
            let text = format!("[{}]", "1,".repeat(values));
            crate::cpu_time::of(|| assert!(parse(&text).is_ok()))
        };
        let (short, long) = (time(4_000), time(40_000));
        assert!(long < short * 30, "{short:?}, {long:?}");
    }

    #[test]
    fn broken_syntax_has_a_place_inside_the_text() {
        for text in ["a: [1, 2", "a: 'x", "a:\n\t- b", "a: b: c", "{", "\"\\q\"", "a: *nowhere"] {
            let problems = parse(text).unwrap_err();
            let place = problems[0].place;
            assert!(place.line <= text.lines().count(), "{text}: {place:?}");
            assert!(problems[0].message.starts_with("not valid YAML: "), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn never_panics(text in "[-a-z0-9:{}\\[\\]&*!'\" \n\t#|>~%,?é]{0,200}") {
            let _ = parse(&text);
        }
    }
}
