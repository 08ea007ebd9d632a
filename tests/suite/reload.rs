//! Filter files that change while streams are open.

use mongodb::Client;
use mongodb::bson::{Document, doc};
use serde_json::json;

use crate::support::sidecar::{self, Filters, Program, metric};
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
async fn an_edit_does_not_repeat_the_warnings_of_other_files() {
    let database = unique("reload");
    // Its deletes are not sent, which is worth a warning.
    let warned = filter(&database, "a", "match: { n: 1 }\n");
    let filters = Filters::new(&[("a", &warned), ("b", &filter(&database, "b", ""))]);
    let (uri, path) = (mongo::uri(), filters.path().display().to_string());
    let arguments = ["--mongodb", &uri, "--filters", &path, "--app", "http://127.0.0.1:9"];
    let sidecar = Program::start_ready(&arguments, &[]).await;
    const WARNING: &str = "deletes are not sent";
    let mut log = sidecar.log_with(WARNING).await;
    for edit in ["match: {}\nproject: { n: 1 }\n", "match: {}\nproject: { m: 1 }\n"] {
        filters.write("b", &filter(&database, "b", edit));
        let so_far = log.matches("filters changed").count();
        until("the edit is read", || async {
            sidecar.log().matches("filters changed").count() > so_far
        })
        .await;
        log = sidecar.log();
    }
    assert_eq!(log.matches(WARNING).count(), 1, "{log}");
    filters.write("a", &format!("# Moved.\n{warned}"));
    until("it is told anew where it is now", || async {
        sidecar.log().matches(WARNING).count() == 2
    })
    .await;
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

/// The ways in which editors save: with what they leave beside the file meanwhile, and in which order
/// the old text goes and the new one comes.
#[tokio::test]
async fn what_editors_do_when_they_save_is_one_change() {
    type Save = fn(&dyn Fn(&str) -> std::path::PathBuf, &str);
    fn write(path: std::path::PathBuf, text: &str) {
        std::fs::write(path, text).expect("a file");
    }
    fn rename(from: std::path::PathBuf, to: std::path::PathBuf) {
        std::fs::rename(from, to).expect("another name");
    }
    fn remove(path: std::path::PathBuf) {
        std::fs::remove_file(path).expect("no file");
    }
    let editors: [(&str, Save); 5] = [
        ("vim", |at, text| {
            // A file of this name shows whether the directory can be written.
            write(at("4913"), "");
            remove(at("4913"));
            rename(at("a.yaml"), at("a.yaml~"));
            write(at("a.yaml"), text);
            remove(at("a.yaml~"));
        }),
        ("Emacs", |at, text| {
            std::os::unix::fs::symlink("me@host.1:2", at(".#a.yaml")).expect("a lock");
            write(at("#a.yaml#"), "half a te");
            rename(at("a.yaml"), at("a.yaml~"));
            write(at("a.yaml"), text);
            remove(at("#a.yaml#"));
            remove(at(".#a.yaml"));
        }),
        ("JetBrains", |at, text| {
            write(at("a.yaml___jb_tmp___"), text);
            rename(at("a.yaml"), at("a.yaml___jb_old___"));
            rename(at("a.yaml___jb_tmp___"), at("a.yaml"));
            remove(at("a.yaml___jb_old___"));
        }),
        ("VS Code", |at, text| {
            use std::io::Write;
            let mut file = std::fs::File::create(at("a.yaml")).expect("an empty file");
            let (first, rest) = text.as_bytes().split_at(text.len() / 2);
            file.write_all(first).expect("half of it");
            file.write_all(rest).expect("all of it");
        }),
        ("sed -i", |at, text| {
            write(at("sedAbCdEf"), text);
            rename(at("sedAbCdEf"), at("a.yaml"));
        }),
    ];
    let database = unique("reload");
    let version = |n: usize| filter(&database, "a", &format!("match: {{ n: {n} }}\n"));
    let filters = Filters::new(&[("a", &version(0)), ("b", &filter(&database, "b", ""))]);
    let sidecar = sidecar::start(&mongo::uri(), &filters, &[]).await;
    let mut a = Stream::open(sidecar.listen, "/_events/a").await;
    let mut b = Stream::open(sidecar.listen, "/_events/b").await;
    a.settled().await;
    b.settled().await;
    for (index, (editor, save)) in editors.iter().enumerate() {
        let n = index + 1;
        save(&|name| filters.path().join(name), &version(n));
        let reset = a.event().await;
        assert_eq!(reset.json(), json!({ "reason": "filter-changed" }), "{editor}: {reset:?}");
        insert(&database, "a", doc! { "_id": format!("old {n}"), "n": n as i64 - 1 }).await;
        insert(&database, "a", doc! { "_id": editor, "n": n as i64 }).await;
        let event = a.event().await;
        assert_eq!(event.json()["documentKey"]["_id"], **editor, "{editor}: {event:?}");
    }
    insert(&database, "b", doc! { "_id": 1 }).await;
    assert_eq!(b.event().await.name(), "insert");
    sidecar.finish().await;
}

#[tokio::test]
async fn of_a_burst_of_edits_the_last_one_counts() {
    let database = unique("reload");
    let version = |n: i64| {
        format!(
            "description: version {n}\n{}",
            filter(&database, "a", &format!("match: {{ n: {n} }}\n"))
        )
    };
    let filters = Filters::new(&[("a", &version(0)), ("b", &filter(&database, "b", ""))]);
    let sidecar = sidecar::start(&mongo::uri(), &filters, &[]).await;
    let mut a = Stream::open(sidecar.listen, "/_events/a").await;
    let mut b = Stream::open(sidecar.listen, "/_events/b").await;
    a.settled().await;
    b.settled().await;
    for n in 1..=60 {
        filters.write("a", &version(n));
        // Others run meanwhile.
        tokio::task::yield_now().await;
    }
    until("the last version is in force", || async {
        http::get(sidecar.listen, "/_events").await.text().contains("version 60")
    })
    .await;
    insert(&database, "a", doc! { "_id": 1, "n": 60 }).await;
    insert(&database, "b", doc! { "_id": 1 }).await;
    let mut resets = 0;
    loop {
        let event = a.event().await;
        if event.name() == "insert" {
            break;
        }
        assert_eq!(event.json(), json!({ "reason": "filter-changed" }));
        resets += 1;
    }
    assert!(resets >= 1);
    assert_eq!(b.event().await.name(), "insert");
    sidecar.finish().await;
}

/// A log in the same directory, say.
#[tokio::test]
async fn a_file_that_is_written_all_the_time_holds_up_no_edit() {
    let database = unique("reload");
    let filters = Filters::new(&[("a", &filter(&database, "a", "match: { n: 1 }\n"))]);
    let sidecar = sidecar::start(&mongo::uri(), &filters, &[]).await;
    let mut stream = Stream::open(sidecar.listen, "/_events/a").await;
    stream.settled().await;
    let log = filters.path().join("log.txt");
    let logging = tokio::spawn(async move {
        let mut pace = tokio::time::interval(std::time::Duration::from_millis(10));
        for line in 0.. {
            pace.tick().await;
            std::fs::write(&log, format!("{line}\n")).expect("a file");
        }
    });
    filters.write("a", &filter(&database, "a", "match: { n: 2 }\n"));
    assert_eq!(stream.event().await.json(), json!({ "reason": "filter-changed" }));
    logging.abort();
    sidecar.finish().await;
}

#[tokio::test]
async fn a_directory_that_disappears_for_a_moment_takes_no_stream_along() {
    let database = unique("reload");
    let parent = tempfile::tempdir().unwrap();
    let (dir, away) = (parent.path().join("filters"), parent.path().join("away"));
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("a.yaml"), filter(&database, "a", "match: { n: 1 }\n")).unwrap();
    let config = sidecar::settings(&mongo::uri(), &dir, sidecar::nowhere(), &[]);
    let sidecar = sidestream::Sidecar::start(config).await.unwrap();
    until("it is ready", || async { sidecar.is_ready() }).await;
    let mut stream = Stream::open(sidecar.listen, "/_events/a").await;
    stream.settled().await;
    let told = || async { http::get(sidecar.admin, "/filters").await.text() };
    let cannot_read = "cannot read the directory";
    std::fs::rename(&dir, &away).unwrap();
    until("that is noticed", || async { told().await.contains(cannot_read) }).await;
    insert(&database, "a", doc! { "_id": 1, "n": 1 }).await;
    assert_eq!(stream.event().await.json()["documentKey"]["_id"], 1);
    let mut newcomer = Stream::open(sidecar.listen, "/_events/a").await;
    newcomer.settled().await;

    // Back, and as it was: nothing to tell.
    std::fs::rename(&away, &dir).unwrap();
    until("that is noticed too", || async { !told().await.contains(cannot_read) }).await;
    for (id, n) in [(2, 1), (3, 2)] {
        insert(&database, "a", doc! { "_id": id, "n": n }).await;
    }
    for stream in [&mut stream, &mut newcomer] {
        assert_eq!(stream.event().await.json()["documentKey"]["_id"], 2);
    }
    // And what is edited in it counts again.
    std::fs::write(dir.join("a.yaml"), filter(&database, "a", "match: { n: 2 }\n")).unwrap();
    assert_eq!(stream.event().await.json(), json!({ "reason": "filter-changed" }));
    sidecar.finish().await;
}

// The streams stay as they are, which nobody would notice who looks at streams alone.
#[tokio::test]
async fn a_directory_that_cannot_be_read_is_told_where_people_look() {
    let database = unique("reload");
    let filters = Filters::new(&[("a", &filter(&database, "a", ""))]);
    let sidecar = sidecar::start(&mongo::uri(), &filters, &[]).await;
    let unread = || async { metric(sidecar.admin, "sidestream_filter_directories_unread").await };
    let ready = || async { http::get(sidecar.admin, "/readyz").await.text() };
    let broken = "sidestream_filter_reloads_total{result=\"broken\"}";
    assert_eq!((unread().await, metric(sidecar.admin, broken).await), (0.0, 0.0));
    let away = filters.path().with_extension("away");
    std::fs::rename(filters.path(), &away).unwrap();
    until("it is told", || async { unread().await == 1.0 }).await;
    assert!(metric(sidecar.admin, broken).await >= 1.0);
    let told = "filters: the directory cannot be read, or not whole; see the log\n";
    assert!(ready().await.contains(told), "{}", ready().await);
    let mut stream = Stream::open(sidecar.listen, "/_events/a").await;
    stream.until_ready().await;
    std::fs::rename(&away, filters.path()).unwrap();
    until("it is over", || async { unread().await == 0.0 }).await;
    assert!(!ready().await.contains("filters: "));
    insert(&database, "a", doc! { "_id": 1 }).await;
    assert_eq!(stream.event().await.name(), "insert");
    sidecar.finish().await;
}
