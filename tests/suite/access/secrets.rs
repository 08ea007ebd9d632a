//! Planted secrets are looked for in everything that the program says.

use serde_json::json;

use super::issuer::{claims, secret};
use super::server::{Reply, Server};
use super::{bearer, filter};
use crate::support::sidecar::{Filters, Program};
use crate::support::sse::Stream;
use crate::support::{http, mongo, unique, until};

#[tokio::test]
async fn secrets_show_nowhere() {
    const SECRET: &str = "planted-signing-secret-0123456789";
    const COOKIE: &str = "planted-cookie-4711";
    const CLAIM: &str = "planted-claim-0815";
    const PARAMETER: &str = "planted-parameter-42";
    let database = unique("secrets");
    let bound = "match: { a: { $claim: email }, b: { $param: b } }\n\
                 params: { b: { type: string, maxLength: 30 } }\noperations: [insert]\n";
    let filters = Filters::new(&[("mine", &filter(&database, "authenticated", bound))]);
    let app = Server::start(|question| match question.field("cookie") {
        Some(cookie) if cookie.contains("good") => Reply::json(&json!({ "email": CLAIM })),
        Some(cookie) if cookie.contains("broken") => Reply::Now(200, format!("<{CLAIM}>"), None),
        _ => Reply::status(401),
    })
    .await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("secret");
    std::fs::write(&file, SECRET).unwrap();
    let url = app.url("/me");
    let env = [
        ("SIDESTREAM_LOG__LEVEL", "trace"),
        ("SIDESTREAM_AUTH__JWT__SECRET_FILE", file.to_str().unwrap()),
        ("SIDESTREAM_AUTH__JWT__ALGORITHMS", "HS256"),
        ("SIDESTREAM_AUTH__JWT__FROM", "authorization, query:token"),
        ("SIDESTREAM_AUTH__FORWARD__URL", &url),
        ("SIDESTREAM_AUTH__FORWARD__RECHECK", "200ms"),
    ];
    let uri = mongo::uri();
    let path = filters.path().to_str().unwrap();
    let program = Program::start_ready(&["--mongodb", &uri, "--filters", path], &env).await;
    let token = secret(SECRET).sign(&claims(json!({ "email": CLAIM })));
    let signature = token.rsplit('.').next().unwrap().to_owned();
    let expired = secret(SECRET).sign(&claims(json!({ "email": CLAIM, "exp": 1 })));
    let target = format!("/_events/mine?b={PARAMETER}");
    let cookie = |kind: &str| format!("Cookie: {kind}={COOKIE}\r\n");

    let mut said = Vec::new();
    let mut held = Vec::new();
    for fields in [bearer(&token), cookie("good")] {
        held.push(Stream::open_with(program.listen, &target, &fields).await);
    }
    held.push(Stream::open(program.listen, &format!("{target}&token={token}")).await);
    for (target, fields) in [
        (target.clone(), bearer(&expired)),
        (target.clone(), cookie("broken")),
        (target.clone(), cookie("bad")),
        (target.clone(), bearer(COOKIE)),
        (format!("{target}&token={expired}"), String::new()),
        (format!("/_events/mine?x={token}&token={token}"), String::new()),
        ("/_events".to_owned(), cookie("good")),
        (format!("/nowhere?token={token}"), bearer(&token)),
    ] {
        let answer = http::request(program.listen, "GET", &target, &fields).await;
        said.push(format!("{:?} {}", answer.head, answer.text()));
    }
    let asked = app.count();
    until("open streams are asked about", || async { app.count() > asked }).await;
    for page in ["/metrics", "/streams", "/readyz"] {
        said.push(http::get(program.admin, page).await.text());
    }
    drop(held);
    let log = program.log_with("auth.forward.url gave no usable response").await;
    said.push(log);
    // What a client sends under a name that nobody declared is not given back either.
    for said in said {
        for planted in [SECRET, COOKIE, CLAIM, signature.as_str()] {
            assert!(!said.contains(planted), "{planted} in {said}");
        }
    }
    assert!(!program.log().contains(PARAMETER));
}

#[test]
fn settings_errors_and_explain_show_none() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("filters")).unwrap();
    let text = "collection: a.b\naccess: authenticated\nmatch: { c: { $claim: sub } }\n";
    std::fs::write(dir.path().join("filters/mine.yaml"), text).unwrap();
    let settings =
        "auth: { jwt: { secret: planted-secret, public_key_file: x, algorithms: [RS256] } }";
    std::fs::write(dir.path().join("sidestream.yaml"), settings).unwrap();
    let run = |arguments: &[&str]| {
        let program = env!("CARGO_BIN_EXE_sidestream");
        let output = std::process::Command::new(program)
            .args(arguments)
            .current_dir(dir.path())
            .output()
            .unwrap();
        let text = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(!text.contains("planted-secret"), "{text}");
        (output.status.code(), text)
    };
    let (code, text) = run(&["run", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    assert_eq!(code, Some(1));
    assert!(text.contains("auth.jwt.public_key_file: is given together with"), "{text}");
    for command in [&["check"][..], &["explain", "mine"]] {
        let (code, text) = run(command);
        assert_eq!(code, Some(1));
        assert!(text.contains("auth.jwt.public_key_file: is given together with"), "{text}");
    }
    std::fs::write(dir.path().join("sidestream.yaml"), "drain: 1s\n").unwrap();
    let (code, text) = run(&["explain", "mine", "--claim", "sub=ada"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("$claim sub = \"ada\""), "{text}");
    let (code, text) = run(&["explain", "mine"]);
    assert_eq!(code, Some(1));
    assert!(text.contains("needs the claim `sub`") && text.contains("--claim"), "{text}");
    // Without settings that could sign anybody in, `check` says so, and the file is good.
    let (code, text) = run(&["check"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("warning: no caller can be authenticated"), "{text}");
    let good = "auth: { forward: { url: http://127.0.0.1:3000/me } }";
    std::fs::write(dir.path().join("sidestream.yaml"), good).unwrap();
    let (_, text) = run(&["check"]);
    assert!(!text.contains("no caller can be authenticated"), "{text}");
}

#[tokio::test]
async fn without_a_source_protected_streams_are_not_served() {
    let database = unique("secrets");
    let filters = Filters::new(&[
        ("open", &filter(&database, "public", "")),
        ("mine", &filter(&database, "authenticated", "")),
        ("admins", &filter(&database, "{ match: { role: admin } }", "")),
    ]);
    let uri = mongo::uri();
    let path = filters.path().to_str().unwrap();
    let program = Program::start_ready(&["--mongodb", &uri, "--filters", path], &[]).await;
    for (stream, status) in [("open", 200), ("mine", 404), ("admins", 404)] {
        let answer = super::knock(program.listen, &format!("/_events/{stream}"), "").await;
        assert_eq!(answer.head.status, status, "{stream}");
    }
    program.log_with("set `auth.forward.url`").await;
}
