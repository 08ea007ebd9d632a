//! `check --mongodb`: what is told of a deployment, each time with the command that mends it, and
//! nothing more once that was run.

use std::process::Command;

use mongodb::bson::{Document, doc};
use serde_json::Value;

use super::filter;
use crate::support::mongo::{Own, Setup};
use crate::support::sidecar::Filters;

/// One finding: its file, or nothing where it is about the deployment; severity, message, hint.
pub(super) type Told = (String, String, String, String);

/// The exit code of `check`, and what it tells.
pub(super) async fn check(uri: &str, filters: &Filters) -> (Option<i32>, Vec<Told>) {
    let (uri, dir) = (uri.to_owned(), filters.path().to_owned());
    let running = tokio::task::spawn_blocking(move || {
        Command::new(env!("CARGO_BIN_EXE_sidestream"))
            .args(["check", ".", "--output", "json", "--mongodb", &uri])
            .current_dir(dir)
            .output()
            .expect("the program")
    });
    let output = running.await.expect("it ran");
    let text = String::from_utf8_lossy(&output.stdout);
    let told: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    let findings = told["diagnostics"].as_array().expect("a list").iter().map(|one| {
        let text = |key: &str| one[key].as_str().unwrap_or_default().to_owned();
        let file = text("file").trim_start_matches("./").trim_end_matches(".yaml").to_owned();
        (file, text("severity"), text("message"), text("hint"))
    });
    (output.status.code(), findings.collect())
}

/// Each of these is told, in these words.
pub(super) fn assert_told(found: &[Told], rows: &[(&str, &str, &str, &str)]) {
    for (file, severity, message, hint) in rows {
        let is_told = found.iter().any(|(of, is, said, cure)| {
            of == file && is == severity && said.contains(message) && cure.contains(hint)
        });
        assert!(is_told, "{file}: {severity}: {message}: {hint}\n{found:#?}");
    }
}

#[tokio::test]
async fn each_finding_brings_what_mends_it() {
    let own = Own::start(Setup::default()).await;
    let client = own.client().await;
    let shop = client.database("shop");
    let kept = doc! { "create": "kept", "changeStreamPreAndPostImages": { "enabled": true } };
    for command in [
        doc! { "create": "Orders" },
        doc! { "create": "recent", "viewOn": "Orders", "pipeline": [] },
        doc! { "create": "weather", "timeseries": { "timeField": "at" } },
        doc! { "create": "people", "collation": { "locale": "sv" } },
        kept,
    ] {
        shop.run_command(command).await.expect("made");
    }
    let expiry = |seconds: i32| {
        let images = doc! { "preAndPostImages": { "expireAfterSeconds": seconds } };
        doc! { "setClusterParameter": { "changeStreamOptions": images } }
    };
    own.admin(expiry(30)).await.expect("a parameter");
    let images = |collection: &str| {
        format!("{}fullDocumentBeforeChange: whenAvailable\n", filter(collection))
    };
    let filters = Filters::new(&[
        ("case", &filter("shop.orders")),
        ("missing", &filter("shop.bills")),
        ("nowhere", &filter("elsewhere.*")),
        ("view", &filter("shop.recent")),
        ("series", &filter("shop.weather")),
        ("collation", &filter("shop.people")),
        ("images", &images("shop.Orders")),
        ("whole", &images("shop.*")),
        ("fine", &images("shop.kept")),
    ]);
    let (code, found) = check(&own.uri(), &filters).await;
    assert_eq!(code, Some(1), "{found:#?}");
    let at = "db.getSiblingDB(\"shop\")";
    let record = format!(
        "{at}.runCommand({{ collMod: \"Orders\", changeStreamPreAndPostImages: {{ enabled: true }} }})"
    );
    let record_both = format!(
        "[\"Orders\", \"people\"].forEach(name => {at}.runCommand({{ collMod: name, \
         changeStreamPreAndPostImages: {{ enabled: true }} }}))"
    );
    let keep = "db.adminCommand({ setClusterParameter: { changeStreamOptions: { preAndPostImages: { \
                expireAfterSeconds: 120 } } } })";
    let create = format!("{at}.createCollection(\"bills\")");
    assert_told(
        &found,
        &[
            ("case", "warning", "but it has `Orders`", "write `collection: shop.Orders`"),
            ("missing", "warning", "there is no collection `shop.bills`", &create),
            ("nowhere", "warning", "there is no database `elsewhere`", "createCollection("),
            ("view", "error", "is a view", "`collection: shop.Orders`"),
            ("series", "error", "is a time-series collection", "name an ordinary collection"),
            ("collation", "warning", "a default collation (sv)", "locale: \"simple\""),
            ("images", "warning", "does not record images", &record),
            ("whole", "warning", "`shop.Orders`, `shop.people` do not record images", &record_both),
            ("whole", "warning", "a default collation (sv)", "locale: \"simple\""),
            ("", "warning", "kept for 30 s, less than replay.window (120 s)", keep),
        ],
    );
    for (file, severity, message, hint) in &found {
        assert!(!hint.is_empty(), "{file}: {severity}: {message}");
        assert_ne!(file, "fine", "{message}");
    }

    // What they say, done.
    own.admin(expiry(120)).await.expect("a parameter");
    let enabled = doc! { "enabled": true };
    let record = doc! { "collMod": "Orders", "changeStreamPreAndPostImages": enabled };
    shop.run_command(record).await.expect("changed");
    shop.create_collection("bills").await.expect("made");
    filters.write("case", &filter("shop.Orders"));
    for gone in ["nowhere", "view", "series", "collation", "whole"] {
        filters.remove(gone);
    }
    let (code, found) = check(&own.uri(), &filters).await;
    assert_eq!((code, &found[..]), (Some(0), &[][..]));
}

#[tokio::test]
async fn a_server_that_is_no_replica_set_is_told_how_to_be_one() {
    let own = Own::standalone().await;
    let filters = Filters::new(&[("orders", &filter("shop.orders"))]);
    let (code, found) = check(&own.uri(), &filters).await;
    assert_eq!(code, Some(1), "{found:#?}");
    let [(file, severity, message, _)] = &found[..] else { panic!("{found:#?}") };
    assert_eq!((file.as_str(), severity.as_str()), ("", "error"));
    for part in ["standalone", "--replSet rs0", "rs.initiate()"] {
        assert!(message.contains(part), "{part}: {message}");
    }
}

#[tokio::test]
async fn missing_rights_are_told_with_their_grants() {
    let own = Own::start(Setup { auth: true, ..Setup::default() }).await;
    let root = own.client().await;
    root.database("shop").create_collection("orders").await.expect("made");
    let user = doc! { "createUser": "poor", "pwd": "x", "roles": [] };
    own.admin(user).await.expect("a user");
    let uri = format!("mongodb://poor:x@{}/?replicaSet=rs0", own.host(0));
    let images = format!("{}fullDocumentBeforeChange: whenAvailable\n", filter("shop.orders"));
    let filters = Filters::new(&[("orders", &images)]);
    let (code, found) = check(&uri, &filters).await;
    assert_eq!(code, Some(1), "{found:#?}");
    let role = "createRole({ role: \"changeStreamOf_shop\"";
    assert_told(&found, &[("orders", "error", "may not read the change stream", role)]);

    // With that much it can run; what it may not see is unknown, with the grant that would show it.
    let privilege = doc! {
        "resource": { "db": "shop", "collection": "" },
        "actions": ["find", "changeStream"],
    };
    let role = doc! { "createRole": "changeStreamOf_shop", "privileges": [privilege], "roles": [] };
    own.admin(role).await.expect("a role");
    let grant = |roles: Document| doc! { "grantRolesToUser": "poor", "roles": [roles] };
    own.admin(grant(doc! { "role": "changeStreamOf_shop", "db": "admin" })).await.expect("granted");
    let (code, found) = check(&uri, &filters).await;
    assert_eq!(code, Some(0), "{found:#?}");
    let of = |role: &str, database: &str| {
        format!(
            "db.getSiblingDB(\"admin\").grantRolesToUser(\"poor\", [{{ role: \"{role}\", db: \
             \"{database}\" }}])"
        )
    };
    assert_told(
        &found,
        &[
            ("orders", "warning", "may not see whether `shop.orders` records", &of("read", "shop")),
            ("", "warning", "how far back the oplog reaches", &of("read", "local")),
            ("", "warning", "how long images", &of("getClusterParameter", "admin")),
        ],
    );
    let parameters = doc! { "resource": { "cluster": true }, "actions": ["getClusterParameter"] };
    let role =
        doc! { "createRole": "getClusterParameter", "privileges": [parameters], "roles": [] };
    own.admin(role).await.expect("a role");
    for role in [("read", "shop"), ("read", "local"), ("getClusterParameter", "admin")] {
        own.admin(grant(doc! { "role": role.0, "db": role.1 })).await.expect("granted");
    }
    let (code, found) = check(&uri, &filters).await;
    assert_eq!(code, Some(0), "{found:#?}");
    let [(file, severity, message, _)] = &found[..] else { panic!("{found:#?}") };
    assert_eq!((file.as_str(), severity.as_str()), ("orders", "warning"), "{message}");
    assert!(message.contains("does not record images"), "{message}");
}
