//! Filter files that change while streams are open.

use mongodb::Client;
use mongodb::bson::{Document, doc};
use serde_json::json;

use crate::support::sidecar::{self, Filters, metric};
use crate::support::sse::Stream;
use crate::support::{http, mongo, unique, until};

pub fn filter(database: &str, collection: &str, rest: &str) -> String {
    format!("collection: {database}.{collection}\naccess: public\n{rest}")
}

pub async fn insert(database: &str, collection: &str, document: Document) {
    let client = Client::with_uri_str(mongo::uri()).await.expect("a client");
    client.database(database).collection(collection).insert_one(document).await.unwrap();
}

#[tokio::test]
async fn a_changed_file_resets_its_own_streams_and_no_others() {
    let database = unique("reload");
    let filters = Filters::new(&[
        ("a", &filter(&database, "a", "match: { n: 1 }\n")),
        ("b", &filter(&database, "b", "")),
    ]);
    let sidecar = sidecar::start(&mongo::uri(), &filters, &[]).await;
    let mut a = Stream::open(sidecar.listen, "/_events/a").await;
    let mut b = Stream::open(sidecar.listen, "/_events/b").await;
    a.settled().await;
    b.settled().await;

    filters.write("a", &filter(&database, "a", "match: { n: 2 }\n"));
    let reset = a.event().await;
    assert_eq!((reset.name(), reset.json()), ("reset", json!({ "reason": "filter-changed" })));
    insert(&database, "a", doc! { "_id": 1, "n": 1 }).await;
    insert(&database, "a", doc! { "_id": 2, "n": 2 }).await;
    assert_eq!(a.event().await.json()["documentKey"]["_id"], 2);
    insert(&database, "b", doc! { "_id": 3 }).await;
    assert_eq!(b.event().await.name(), "insert");
    sidecar.finish().await;
}

#[tokio::test]
async fn a_stream_whose_parameters_no_longer_fit_ends() {
    let database = unique("reload");
    let filters = Filters::new(&[("a", &filter(&database, "a", ""))]);
    let sidecar = sidecar::start(&mongo::uri(), &filters, &[]).await;
    let mut stream = Stream::open(sidecar.listen, "/_events/a").await;
    stream.settled().await;
    let rest = "match: { n: { $param: n } }\nparams: { n: { type: int } }\n";
    filters.write("a", &filter(&database, "a", rest));
    let end = stream.event().await;
    assert_eq!((end.name(), end.json()), ("end", json!({ "reason": "filter-changed" })));
    assert_eq!(stream.block().await, None);
    sidecar.finish().await;
}

#[tokio::test]
async fn a_broken_file_changes_nothing_and_shows_in_the_metrics() {
    let database = unique("reload");
    let filters = Filters::new(&[("a", &filter(&database, "a", ""))]);
    let sidecar = sidecar::start(&mongo::uri(), &filters, &[]).await;
    let mut stream = Stream::open(sidecar.listen, "/_events/a").await;
    stream.settled().await;
    filters.write("a", "collection: [nonsense\n");
    let broken = "sidestream_filter_reloads_total{result=\"broken\"}";
    until("the broken file was read", || async { metric(sidecar.admin, broken).await >= 1.0 })
        .await;
    insert(&database, "a", doc! { "_id": 1 }).await;
    assert_eq!(stream.event().await.name(), "insert");
    let mut another = Stream::open(sidecar.listen, "/_events/a").await;
    another.settled().await;
    sidecar.finish().await;
}

#[tokio::test]
async fn a_new_file_on_a_new_collection_loses_nothing_of_the_others() {
    let database = unique("reload");
    let filters = Filters::new(&[("a", &filter(&database, "a", ""))]);
    let sidecar = sidecar::start(&mongo::uri(), &filters, &[]).await;
    let mut a = Stream::open(sidecar.listen, "/_events/a").await;
    a.settled().await;
    let numbers = 0..200;
    let writing = tokio::spawn({
        let (database, numbers) = (database.clone(), numbers.clone());
        async move {
            for number in numbers {
                insert(&database, "a", doc! { "_id": number }).await;
            }
        }
    });
    filters.write("b", &filter(&database, "b", ""));
    until("the new stream is there", || async {
        let sse = "Accept: text/event-stream\r\n";
        // HEAD answers as GET would, without opening the stream.
        http::request(sidecar.listen, "HEAD", "/_events/b", sse).await.head.status == 200
    })
    .await;
    let mut b = Stream::open(sidecar.listen, "/_events/b").await;
    insert(&database, "b", doc! { "_id": 1 }).await;
    assert_eq!(b.event().await.name(), "insert");
    for number in numbers {
        assert_eq!(a.event().await.json()["documentKey"]["_id"], number);
    }
    writing.await.unwrap();
    sidecar.finish().await;
}

#[tokio::test]
async fn a_removed_file_ends_its_streams() {
    let database = unique("reload");
    let filters = Filters::new(&[("a", &filter(&database, "a", ""))]);
    let sidecar = sidecar::start(&mongo::uri(), &filters, &[]).await;
    let mut stream = Stream::open(sidecar.listen, "/_events/a").await;
    stream.settled().await;
    filters.remove("a");
    assert_eq!(stream.event().await.name(), "end");
    assert_eq!(stream.block().await, None);
    assert_eq!(http::get(sidecar.listen, "/_events/a").await.head.status, 404);
    sidecar.finish().await;
}

/// A ConfigMap is mounted as links through a directory that is swapped as a whole.
#[tokio::test]
async fn a_config_map_swap_is_a_change() {
    let database = unique("reload");
    let mount = tempfile::tempdir().unwrap();
    let version = |name: &str, text: &str| {
        std::fs::create_dir(mount.path().join(name)).unwrap();
        std::fs::write(mount.path().join(name).join("a.yaml"), text).unwrap();
        std::os::unix::fs::symlink(name, mount.path().join("..next")).unwrap();
        std::fs::rename(mount.path().join("..next"), mount.path().join("..data")).unwrap();
    };
    version("..1", &filter(&database, "a", "match: { n: 1 }\n"));
    std::os::unix::fs::symlink("..data/a.yaml", mount.path().join("a.yaml")).unwrap();
    let config = sidecar::settings(&mongo::uri(), mount.path(), sidecar::nowhere(), &[]);
    let sidecar = sidestream::Sidecar::start(config).await.unwrap();
    until("it is ready", || async { sidecar.is_ready() }).await;
    let mut stream = Stream::open(sidecar.listen, "/_events/a").await;
    stream.settled().await;
    version("..2", &filter(&database, "a", "match: { n: 2 }\n"));
    assert_eq!(stream.event().await.name(), "reset");
    insert(&database, "a", doc! { "_id": 1, "n": 1 }).await;
    insert(&database, "a", doc! { "_id": 2, "n": 2 }).await;
    assert_eq!(stream.event().await.json()["documentKey"]["_id"], 2);
    insert(&database, "a", doc! { "_id": 3, "n": 1 }).await;
    insert(&database, "a", doc! { "_id": 4, "n": 2 }).await;
    assert_eq!(stream.event().await.json()["documentKey"]["_id"], 4);
    sidecar.finish().await;
}

#[tokio::test]
async fn a_new_database_does_not_refuse_the_streams_of_the_others() {
    let (database, other) = (unique("reload"), unique("reload"));
    let filters = Filters::new(&[("a", &filter(&database, "a", ""))]);
    let sidecar = sidecar::start(&mongo::uri(), &filters, &[]).await;
    filters.write("b", &filter(&other, "b", ""));
    let sse = "Accept: text/event-stream\r\n";
    until("the new stream is there", || async {
        // Neither of them is ever refused with 503, which an EventSource takes for good.
        let a = http::request(sidecar.listen, "HEAD", "/_events/a", sse).await.head.status;
        let b = http::request(sidecar.listen, "HEAD", "/_events/b", sse).await.head.status;
        assert!(a == 200 && matches!(b, 200 | 404), "a: {a}, b: {b}");
        b == 200
    })
    .await;
    let mut b = Stream::open(sidecar.listen, "/_events/b").await;
    b.settled().await;
    insert(&other, "b", doc! { "_id": 1 }).await;
    assert_eq!(b.event().await.name(), "insert");
    sidecar.finish().await;
}

// Between the reading at the start and the first look of the one who watches.
#[tokio::test]
async fn an_edit_right_after_the_start_is_seen() {
    let database = unique("reload");
    let filters = Filters::new(&[("a", &filter(&database, "a", ""))]);
    let sidecar = sidecar::start_before(sidecar::nowhere(), &mongo::uri(), &filters, &[]).await;
    // No task of the sidecar has run yet: this runtime has one thread, and it is here.
    filters.write("b", &filter(&database, "b", ""));
    until("the new stream is there", || async {
        http::get(sidecar.listen, "/_events").await.text().contains("\"b\"")
    })
    .await;
    sidecar.finish().await;
}

#[tokio::test]
async fn an_edit_that_changes_no_meaning_resets_nobody() {
    let database = unique("reload");
    let rest = "match: { n: { $gte: 1, $lt: 9 }, kind: a }\n";
    let filters = Filters::new(&[("a", &filter(&database, "a", rest))]);
    let sidecar = sidecar::start(&mongo::uri(), &filters, &[]).await;
    let mut stream = Stream::open(sidecar.listen, "/_events/a").await;
    stream.settled().await;
    let same = format!(
        "# Orders\ndescription: said anew\nmatch:\n  kind: a\n  n:\n    $lt: 9\n    $gte: 1\n\
         access: public\ncollection: '{database}.a'\nfullDocument: updateLookup\n"
    );
    filters.write("a", &same);
    until("the new text is in force", || async {
        http::get(sidecar.listen, "/_events").await.text().contains("said anew")
    })
    .await;
    // Whoever comes now shares with those who were there.
    let mut newcomer = Stream::open(sidecar.listen, "/_events/a").await;
    newcomer.settled().await;
    insert(&database, "a", doc! { "_id": 1, "n": 1, "kind": "a" }).await;
    assert_eq!(stream.event().await.name(), "insert");
    assert_eq!(newcomer.event().await.name(), "insert");
    assert_eq!(http::get(sidecar.admin, "/streams").await.json()["upstreams"][0]["routes"], 1);

    // And one that does is told to both.
    filters.write("a", &same.replace("$lt: 9", "$lt: 5"));
    for stream in [&mut stream, &mut newcomer] {
        assert_eq!(stream.event().await.json(), json!({ "reason": "filter-changed" }));
    }
    sidecar.finish().await;
}
