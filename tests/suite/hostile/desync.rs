//! The cases of [http_desync_guardian](https://github.com/aws/http-desync-guardian), read from the
//! package itself: each request, over a raw socket, with a second one behind it.

use std::path::PathBuf;
use std::process::Command;

use sidestream::yaml::{self, Node};

use crate::proxy::Pair;
use crate::proxy::raw::Raw;

const NEXT: &[u8] = b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n";

#[derive(Debug)]
struct Case {
    name: String,
    tier: String,
    request: Vec<u8>,
}

/// Where cargo keeps the package's source. Asked for this platform alone: the packages of others need
/// not have been fetched.
fn package() -> PathBuf {
    let version = Command::new(env!("CARGO")).arg("-vV").output().expect("cargo runs");
    let version = String::from_utf8(version.stdout).expect("text");
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).expect("a host");
    let metadata = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--offline"])
        .args(["--filter-platform", host])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    let metadata: serde_json::Value = serde_json::from_slice(&metadata.stdout).expect("JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    let found = packages.iter().find(|package| package["name"] == "http_desync_guardian");
    let manifest = found.expect("a dev-dependency")["manifest_path"].as_str().expect("a path");
    PathBuf::from(manifest).parent().expect("a directory").join("tests")
}

fn text(node: &Node, key: &str) -> Option<String> {
    Some(node.get(key)?.value.scalar()?.text.clone())
}

fn case(node: &Node) -> Case {
    let mut request = String::new();
    for (key, end) in [("method", " "), ("uri", " "), ("version", "\r\n")] {
        request += &text(node, key).unwrap_or_default();
        request += end;
    }
    let headers = node.get("headers").and_then(|entry| entry.value.items()).unwrap_or_default();
    let fields: Vec<(String, String)> = headers
        .iter()
        .map(|field| {
            (text(field, "name").unwrap_or_default(), text(field, "value").unwrap_or_default())
        })
        .collect();
    if !fields.iter().any(|(name, _)| name.trim().eq_ignore_ascii_case("host")) {
        request += "Host: a\r\n";
    }
    for (name, value) in &fields {
        request += &format!("{name}: {value}\r\n");
    }
    request += "\r\n";
    Case {
        name: text(node, "name").expect("a name"),
        tier: text(&node.get("expected").expect("an expectation").value, "tier").expect("a tier"),
        request: request.chars().map(|c| u8::try_from(c).unwrap_or(b'?')).collect(),
    }
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut files: Vec<PathBuf> = std::fs::read_dir(package())
        .expect("the package's tests")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    files.sort();
    for file in files {
        let source = std::fs::read_to_string(&file).expect("a file");
        let node = yaml::parse(&source).unwrap_or_else(|problems| panic!("{file:?}: {problems:?}"));
        cases.extend(node.expect("cases").items().expect("a list").iter().map(case));
    }
    cases
}

/// A body as this head announces it, for readers who know one way to announce it.
fn body(case: &Case) -> Vec<u8> {
    let head = String::from_utf8_lossy(&case.request).to_lowercase();
    let length = head.lines().find_map(|line| {
        line.strip_prefix("content-length:")?
            .trim()
            .parse::<usize>()
            .ok()
            .filter(|n| *n < 5_000_000)
    });
    match length {
        Some(length) => vec![b'x'; length],
        None if head.contains("chunked") => b"0\r\n\r\n".to_vec(),
        None => Vec::new(),
    }
}

// A body for a GET has one reading, also where it is unusual.
fn has_one_reading(case: &Case) -> bool {
    ["Get with a body and ", "Head with a body and ", "Has a CL in GET"]
        .iter()
        .any(|name| case.name.starts_with(name))
}

#[tokio::test]
async fn requests_of_the_desync_guardian() {
    let pair = Pair::start().await;
    let (mut refused, mut passed) = (0, 0);
    for case in cases() {
        let is_hostile = ["Severe", "Ambiguous"].contains(&&*case.tier) && !has_one_reading(&case);
        let mut raw = Raw::open(pair.proxy()).await;
        raw.send(&case.request).await;
        // Behind hostile heads comes what one of two readers takes for a request of its own; behind
        // the others, their body and then another request.
        if !is_hostile {
            raw.send(body(&case)).await;
        }
        raw.send(NEXT).await;
        let method = case.request.split(|byte| *byte == b' ').next().unwrap_or_default();
        let answer = raw.answer(&String::from_utf8_lossy(method)).await;
        let answer = answer.unwrap_or_else(|| panic!("no answer: {case:?}"));
        if answer.status() == 200 {
            assert!(!is_hostile, "{case:?}");
            assert_eq!(raw.answer("GET").await.expect("the next answer").status(), 200, "{case:?}");
            let reached = pair.app.take();
            assert_eq!(reached.len(), 2, "{case:?}");
            assert_eq!(reached[1].line(), "GET /next HTTP/1.1", "{case:?}");
            passed += 1;
        } else {
            assert!([400, 405, 501, 505].contains(&answer.status()), "{case:?}: {answer:?}");
            assert_eq!(answer.field("connection"), Some("close"), "{case:?}");
            // A head that is refused as a whole may have had any method.
            let rest = raw.rest().await;
            assert!(rest.is_empty() || method == b"HEAD" && rest[0] == b'{', "{case:?}");
            assert!(pair.app.take().is_empty(), "{case:?}");
            refused += 1;
        }
    }
    assert_eq!(refused + passed, 159);
    assert!(passed >= 20, "{passed}");
    pair.finish().await;
}
