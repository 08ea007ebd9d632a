//! The rooms of `src/`: what `lib.rs` says of them is what the code does.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Files with more lines of code are split: comments and blank lines do not count.
const MAX_LINES: usize = 500;
/// A room with more files on one level gets rooms of its own.
const MAX_FILES: usize = 15;

/// Every Rust file below `dir`.
pub fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn source() -> PathBuf {
    root().join("src")
}

/// The rooms in the order of the map at the head of `lib.rs`.
fn rooms(lib: &str) -> Vec<String> {
    let listed = lib.lines().filter_map(|line| line.strip_prefix("//! - "));
    listed
        .flat_map(|line| {
            let names = line.split(':').next().unwrap_or_default();
            names.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>()
        })
        .collect()
}

/// A word, `::`, or a character of anything else, and its line.
type Token = (usize, String);

/// The tokens of a file, without its comments, texts and characters.
fn tokens(text: &str) -> Vec<Token> {
    let text: Vec<char> = text.chars().collect();
    let ahead = |at: usize| text.get(at).copied().unwrap_or('\n');
    let (mut found, mut at, mut line) = (Vec::new(), 0, 1);
    while at < text.len() {
        let begin = at;
        match text[at] {
            '/' if ahead(at + 1) == '/' => {
                while ahead(at) != '\n' {
                    at += 1;
                }
            }
            '/' if ahead(at + 1) == '*' => {
                while at < text.len() && (ahead(at), ahead(at + 1)) != ('*', '/') {
                    at += 1;
                }
                at += 2;
            }
            '"' => {
                at += 1;
                while at < text.len() && text[at] != '"' {
                    at += if text[at] == '\\' { 2 } else { 1 };
                }
                at += 1;
            }
            'b' if ahead(at + 1) == 'r' && "\"#".contains(ahead(at + 2)) => at += 1,
            // A raw text; its hashes are as many at the end.
            'r' if ahead(at + 1) == '"'
                || (ahead(at + 1) == '#' && "#\"".contains(ahead(at + 2))) =>
            {
                let hashes = text[at + 1..].iter().take_while(|c| **c == '#').count();
                at += hashes + 2;
                let is_end = |at: usize| {
                    ahead(at) == '"' && (1..=hashes).all(|hash| ahead(at + hash) == '#')
                };
                while at < text.len() && !is_end(at) {
                    at += 1;
                }
                at += hashes + 1;
            }
            '\'' if ahead(at + 1) == '\\' => {
                at += 3;
                while at < text.len() && text[at] != '\'' {
                    at += 1;
                }
                at += 1;
            }
            '\'' if ahead(at + 2) == '\'' => at += 3,
            ':' if ahead(at + 1) == ':' => {
                found.push((line, "::".to_owned()));
                at += 2;
            }
            c if c.is_alphanumeric() || c == '_' => {
                while ahead(at).is_alphanumeric() || ahead(at) == '_' {
                    at += 1;
                }
                found.push((line, text[begin..at].iter().collect()));
            }
            c => {
                if !c.is_whitespace() {
                    found.push((line, c.to_string()));
                }
                at += 1;
            }
        }
        at = at.min(text.len());
        line += text[begin..at].iter().filter(|c| **c == '\n').count();
    }
    found
}

/// What a file names at the crate's root, with the lines, in whatever way: `crate::…`, through
/// groups, through `super`. `depth` is how many modules the file is below the root.
fn named(text: &str, depth: usize) -> Vec<Token> {
    let tokens = tokens(text);
    let word = |at: usize| tokens.get(at).map_or("", |(_, word)| word.as_str());
    let (mut found, mut open, mut inline) = (Vec::new(), 0, Vec::new());
    for at in 0..tokens.len() {
        match word(at) {
            "{" => {
                if at > 1 && word(at - 2) == "mod" {
                    inline.push(open);
                }
                open += 1;
            }
            "}" => {
                open -= 1;
                inline.pop_if(|outside| *outside == open);
            }
            "crate" if word(at + 1) == "::" => follow(&tokens, at + 2, 0, &mut found),
            // `pub(crate)` names nothing; `use crate as …` would be a way round.
            "crate" if word(at + 1) != ")" => found.push(tokens[at].clone()),
            "super" if word(at + 1) == "::" => {
                follow(&tokens, at, depth + inline.len(), &mut found);
            }
            _ => {}
        }
    }
    assert_eq!(open, 0, "the braces of this are misread: {text}");
    found
}

/// Takes what a path, or each path of a group, names once it has gone `up` modules up.
fn follow(tokens: &[Token], mut at: usize, mut up: usize, found: &mut Vec<Token>) {
    let word = |at: usize| tokens.get(at).map_or("", |(_, word)| word.as_str());
    while word(at) == "super" && word(at + 1) == "::" {
        up = up.saturating_sub(1);
        at += 2;
    }
    if word(at) != "{" {
        if up == 0 {
            found.push(tokens[at].clone());
        }
        return;
    }
    let (mut open, mut is_first) = (1, true);
    while open > 0 {
        at += 1;
        match word(at) {
            "" => return,
            "{" => open += 1,
            "}" => open -= 1,
            _ if is_first => follow(tokens, at, up, found),
            _ => {}
        }
        is_first = open == 1 && word(at) == ",";
    }
}

/// How many modules a file is below the root, and its room.
fn place(inside: &Path) -> (usize, String) {
    let parts: Vec<_> = inside.iter().map(|part| part.to_str().unwrap()).collect();
    let is_mod = parts.last() == Some(&"mod.rs");
    (parts.len() - usize::from(is_mod), parts[0].trim_end_matches(".rs").to_owned())
}

#[test]
fn the_map_names_every_room() {
    let lib = fs::read_to_string(source().join("lib.rs")).unwrap();
    let modules: BTreeSet<String> = lib
        .lines()
        .filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';').map(str::to_owned))
        .collect();
    let listed: BTreeSet<String> = rooms(&lib).into_iter().collect();
    assert!(!listed.is_empty());
    assert_eq!(listed, modules);
}

/// Whether a path such as `feed::routes::table` or `api::reserved::Handler` leads somewhere: through
/// modules to one, or to a name in one.
fn leads_somewhere(path: &str) -> bool {
    let (mut dir, mut file) = (source(), None);
    for part in path.split("::") {
        let next = [dir.join(part).join("mod.rs"), dir.join(format!("{part}.rs"))];
        match next.into_iter().find(|next| next.is_file()) {
            Some(next) => file = Some(next),
            None => {
                let Some(file) = &file else { return false };
                let text = fs::read_to_string(file).unwrap();
                return tokens(&text).iter().any(|(_, word)| word == part);
            }
        }
        dir.push(part);
    }
    true
}

#[test]
fn the_architecture_page_agrees_with_the_rooms() {
    let lib = fs::read_to_string(source().join("lib.rs")).unwrap();
    let page = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let (begin, end) = (page.find("| room |").unwrap(), page.find("| `lib` |").unwrap());
    let table = page[begin..end].lines().filter_map(|line| line.strip_prefix("| `"));
    let listed: Vec<&str> = table
        .flat_map(|row| row.split(" |").next().unwrap_or_default().split(", "))
        .map(|name| name.trim_matches('`'))
        .collect();
    let rooms = rooms(&lib);
    let sorted = |mut names: Vec<String>| {
        names.sort();
        names
    };
    assert_eq!(sorted(listed.iter().map(|&name| name.to_owned()).collect()), sorted(rooms.clone()));
    // From here on, the order is that of the flow.
    let first = listed.iter().position(|room| *room == "yaml").unwrap();
    assert_eq!(listed[first..], rooms[first..]);
    let paths: Vec<&str> = page
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|path| path.split_once("::").is_some_and(|(room, _)| rooms.contains(&room.into())))
        .collect();
    assert!(paths.len() > 40, "{paths:?}");
    for path in paths {
        assert!(leads_somewhere(path), "ARCHITECTURE.md names {path}");
    }
    for file in page.split('`').skip(1).step_by(2).filter(|file| file.ends_with(".rs")) {
        let is_example = file.contains("NAME");
        let found = [root().join(file), source().join(file)].iter().any(|file| file.exists());
        assert!(is_example || found || !file.contains('/'), "ARCHITECTURE.md names {file}");
    }
    assert!(!leads_somewhere("feed::shelf") && !leads_somewhere("proxy::budget::UPLOADS"));
}

#[test]
fn a_room_uses_those_above_it_and_none_below() {
    let lib = fs::read_to_string(source().join("lib.rs")).unwrap();
    let rooms = rooms(&lib);
    let rank = |room: &str| rooms.iter().position(|known| known == room);
    let (mut against, mut seen) = (Vec::new(), 0);
    for path in rust_files(&source()) {
        let inside = path.strip_prefix(source()).unwrap();
        let (depth, room) = place(inside);
        // The crate's own head wires the rooms, and `main` and the helpers of tests are none.
        let Some(own) = rank(&room) else { continue };
        let text = fs::read_to_string(&path).unwrap();
        for (line, used) in named(&text, depth) {
            seen += 1;
            let is_allowed = match rank(&used) {
                Some(used) => used <= own,
                // What the wiring exports is for the commands; `cpu_time` is for tests alone.
                None => room == "cli" || used == "cpu_time",
            };
            if !is_allowed {
                against.push(format!("src/{}:{line}: {used}", inside.display()));
            }
        }
        // A file of another room, taken in by its path.
        for line in text.lines().filter(|line| line.contains("#[path")) {
            let named = line.split('"').nth(1).unwrap();
            let taken = path.parent().unwrap().join(named).canonicalize().unwrap();
            if taken.starts_with(source()) {
                against.push(format!("src/{}: {line}", inside.display()));
            }
        }
    }
    assert!(seen > 500, "only {seen} imports were seen");
    assert!(against.is_empty(), "imports against the flow:\n{}", against.join("\n"));
}

#[test]
fn no_way_of_naming_a_room_goes_unseen() {
    // In `src/api/x.rs`, two modules below the root.
    for (text, expected) in [
        ("use crate::proxy::path;", &["proxy"][..]),
        ("pub use crate::proxy::{self, path::{is_reserved, Target}};", &["proxy"]),
        (
            "use crate::{\n    admin::Pages,\n    cli::{self, run},\n    event,\n};",
            &["admin", "cli", "event"],
        ),
        ("fn f() { crate::proxy::path::resolve(\"\") }", &["proxy"]),
        ("use super::super::proxy;", &["proxy"]),
        ("use super::{sse, super::{proxy, admin}};", &["proxy", "admin"]),
        ("use super::sse;", &[]),
        ("mod tests { use super::super::sse; use super::super::super::proxy; }", &["proxy"]),
        ("mod tests {} use super::super::proxy;", &["proxy"]),
        ("use crate::*;", &["*"]),
        ("use crate as root;", &["crate"]),
        ("macro_rules! m { () => { $crate::proxy::x() } }", &["proxy"]),
        ("pub(crate) fn f() {} // crate::proxy", &[]),
        ("/* crate::proxy */ const A: &str = \"\\\" crate::proxy\"; const B: char = '\"';", &[]),
        ("const A: &[u8] = br#\"{\" crate::proxy\"#;", &[]),
        ("const A: &str = r#\"\" crate::proxy\"#; fn f<'a>() { crate::admin::x() }", &["admin"]),
    ] {
        let found: Vec<String> = named(text, 2).into_iter().map(|(_, name)| name).collect();
        assert_eq!(found, expected, "{text}");
    }
    assert_eq!(place(Path::new("api/x.rs")), (2, "api".into()));
    assert_eq!(place(Path::new("api/mod.rs")), (1, "api".into()));
    assert_eq!(place(Path::new("redact.rs")), (1, "redact".into()));
}

#[test]
fn files_are_short_and_rooms_are_small() {
    let mut against = Vec::new();
    for dir in ["src", "tests", "benches", "fuzz"] {
        let files = rust_files(&root().join(dir));
        assert!(!files.is_empty(), "{dir}");
        for path in files {
            let text = fs::read_to_string(&path).unwrap();
            let is_code = |line: &&str| !line.is_empty() && !line.starts_with("//");
            let lines = text.lines().map(str::trim).filter(is_code).count();
            if lines > MAX_LINES {
                against.push(format!("{}: {lines} lines", path.display()));
            }
        }
    }
    let files = rust_files(&source());
    let dirs: BTreeSet<&Path> = files.iter().map(|path| path.parent().unwrap()).collect();
    for dir in dirs {
        let count = files.iter().filter(|path| path.parent() == Some(dir)).count();
        if count > MAX_FILES {
            against.push(format!("{}: {count} files", dir.display()));
        }
    }
    assert!(against.is_empty(), "{}", against.join("\n"));
}

/// The public items of a file that have no docstring, with their lines, and how many public items
/// there are. What is there for tests alone is not looked at.
fn undocumented(text: &str) -> (Vec<Token>, usize) {
    const KINDS: [&str; 7] = ["fn", "struct", "enum", "trait", "const", "static", "type"];
    let (mut found, mut seen) = (Vec::new(), 0);
    let (mut has_docstring, mut is_for_tests) = (false, false);
    // Whether an attribute goes on in the next line.
    let mut is_inside = false;
    for (at, line) in text.lines().map(str::trim).enumerate() {
        if is_inside || line.starts_with("#[") {
            is_for_tests |= line == "#[cfg(test)]";
            is_inside = !line.ends_with(']');
            continue;
        }
        if is_for_tests && line.starts_with("mod ") && line.ends_with('{') {
            // The last of its file.
            break;
        }
        if let Some(item) = line.strip_prefix("pub ") {
            let mut words = item.split(' ').filter(|word| !["async", "unsafe"].contains(word));
            let is_item = words.next().is_some_and(|word| KINDS.contains(&word));
            // What a macro writes has its docstring where the macro is used.
            if is_item && !is_for_tests && !item.contains('$') {
                seen += 1;
                if !has_docstring {
                    found.push((at + 1, line.to_owned()));
                }
            }
        }
        (has_docstring, is_for_tests) = (line.starts_with("///"), false);
    }
    (found, seen)
}

#[test]
fn public_items_have_docstrings() {
    let (mut against, mut seen) = (Vec::new(), 0);
    for path in rust_files(&source()) {
        let (found, public) = undocumented(&fs::read_to_string(&path).unwrap());
        seen += public;
        let path = path.strip_prefix(root()).unwrap().display().to_string();
        against.extend(found.iter().map(|(line, item)| format!("{path}:{line}: {item}")));
    }
    assert!(seen > 1000, "only {seen} public items were seen");
    assert!(against.is_empty(), "public items without a docstring:\n{}", against.join("\n"));
}

#[test]
fn no_docstring_is_missed_and_none_is_taken_for_one() {
    for (text, expected) in [
        ("/// Says it.\npub fn f() {}", &[][..]),
        ("/// Says it.\n#[derive(Debug)]\n#[command(\n    name = \"x\"\n)]\npub struct S;", &[]),
        ("pub const fn f() {}\n", &[1]),
        ("// A comment.\npub async fn f() {}", &[2]),
        ("/// Of another.\nfn f() {}\npub static S: u8 = 0;", &[3]),
        ("/// Says it.\n\npub enum E {}", &[3]),
        ("impl S {\n    #[must_use]\n    pub unsafe fn f() {}\n}", &[3]),
        ("pub mod m;\npub use m::f;\npub(crate) fn g() {}\npub field: u8,", &[]),
        ("() => { $(#[$attribute])*\npub struct $name {} }", &[]),
        ("#[cfg(test)]\nmod tests {\n    pub fn f() {}\n}", &[]),
        ("#[cfg(test)]\nuse x;\n#[cfg(test)]\npub fn f() {}\npub fn g() {}", &[5]),
    ] {
        let found: Vec<usize> = undocumented(text).0.into_iter().map(|(line, _)| line).collect();
        assert_eq!(found, expected, "{text}");
    }
}
