//! What cannot be looked at, or is not as drivers expect it, hides nothing else.

use std::net::SocketAddr;

use mongodb::Client;
use mongodb::bson::oid::ObjectId;
use mongodb::bson::{Document, doc};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::checks::{assert_told, check};
use super::silent::{finding, says, stream_of};
use super::{filter, insert_odd, with_bytes};
use crate::support::sidecar::{self, Filters, Program};
use crate::support::{mongo, unique, until};

const OF_WHOM: &str = "match: { who: { $param: who } }\nparams: { who: { type: string } }\n";
const OF_CUSTOMER: &str =
    "match: { customer: { $param: customer } }\nparams: { customer: { type: string } }\n";

#[tokio::test]
async fn a_document_that_cannot_be_decoded_hides_nothing() {
    let database = unique("odd");
    let client = Client::with_uri_str(mongo::uri()).await.unwrap();
    let of = |name: &str, more: &str| format!("{}{more}", filter(&format!("{database}.{name}")));
    insert_odd(&client, &database, "notes", doc! { "_id": 0_i64 }).await;
    let customer = ObjectId::new();
    insert_odd(&client, &database, "orders", doc! { "_id": 0_i64, "customer": customer }).await;
    // Nor does what a view selects.
    let stage = doc! { "$match": { "who": "xxxxxx" } };
    let view = doc! { "create": "recent", "viewOn": "notes", "pipeline": [stage] };
    let view = with_bytes(&view, b"caf\xe9 \xff");
    client.database(&database).run_raw_command(view).await.unwrap();
    let filters = Filters::new(&[
        ("missing", &of("bills", "")),
        ("notes", &of("notes", OF_WHOM)),
        ("orders", &of("orders", OF_CUSTOMER)),
        ("snapshot", &of("notes", "snapshot: true\n")),
        ("view", &of("recent", "")),
    ]);
    let sidecar = sidecar::start(&mongo::uri(), &filters, &[]).await;
    let admin = sidecar.admin;
    says(admin, "view", "broken", &["is a view", &format!("collection: {database}.notes")]).await;
    says(admin, "missing", "ready", &["there is no collection"]).await;
    says(admin, "orders", "ready", &["`customer` of", "holds ObjectIds"]).await;
    for name in ["notes", "snapshot"] {
        assert_eq!(stream_of(admin, name).await, ("ready".to_owned(), String::new()));
    }
    sidecar.finish().await;

    let (code, found) = check(&mongo::uri(), &filters).await;
    assert_eq!(code, Some(1), "{found:#?}");
    assert_told(
        &found,
        &[
            ("missing", "warning", "there is no collection", "createCollection"),
            ("orders", "warning", "holds ObjectIds", "type: objectId"),
            ("view", "error", "is a view", &database),
        ],
    );
}

/// Of what may be large, only what is compared is read; and not for long.
#[tokio::test]
async fn only_what_is_compared_is_read() {
    let database = unique("compared");
    let client = Client::with_uri_str(mongo::uri()).await.unwrap();
    let shop = client.database(&database);
    let orders = shop.collection::<Document>("orders");
    orders.insert_one(doc! { "customer": ObjectId::new(), "pad": "x" }).await.unwrap();
    shop.run_command(doc! { "profile": 2 }).await.unwrap();
    let filters = Filters::new(&[(
        "orders",
        &format!("{}{OF_CUSTOMER}", filter(&format!("{database}.orders"))),
    )]);
    let sidecar = sidecar::start(&mongo::uri(), &filters, &[]).await;
    says(sidecar.admin, "orders", "ready", &["holds ObjectIds"]).await;
    let profile = shop.collection::<Document>("system.profile");
    let read = profile.find_one(doc! { "command.find": "orders" }).await.unwrap().expect("a find");
    let read = read.get_document("command").unwrap();
    let projection = doc! { "customer": 1, "_id": 0 };
    assert_eq!(read.get_document("projection").ok(), Some(&projection), "{read}");
    assert!(read.get_bool("singleBatch").unwrap_or_default(), "{read}");
    assert!(read.contains_key("maxTimeMS"), "{read}");
    sidecar.finish().await;
}

/// A relay to the shared server that holds back what asks for the collections of one database.
struct Relay {
    address: SocketAddr,
    is_open: watch::Sender<bool>,
}

impl Relay {
    async fn new(database: &str) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let relay = Relay { address, is_open: watch::Sender::new(false) };
        let (opened, database) = (relay.is_open.clone(), database.to_owned());
        tokio::spawn(async move {
            let uri = mongo::uri();
            let host = uri.strip_prefix("mongodb://").unwrap().split('/').next().unwrap();
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let server = TcpStream::connect(host).await.unwrap();
                let (from_client, mut to_client) = client.into_split();
                let (mut from_server, to_server) = server.into_split();
                tokio::spawn(async move { copy(&mut from_server, &mut to_client).await });
                let (is_open, database) = (opened.subscribe(), database.clone());
                tokio::spawn(pass_on(from_client, to_server, is_open, database));
            }
        });
        relay
    }
}

/// Passes on what a client asks, message by message.
async fn pass_on(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut is_open: watch::Receiver<bool>,
    database: String,
) -> std::io::Result<()> {
    loop {
        // Its length in bytes, itself included, comes first.
        let length = from.read_u32_le().await?;
        let mut message = length.to_le_bytes().to_vec();
        message.resize(length as usize, 0);
        from.read_exact(&mut message[4..]).await?;
        let has = |part: &[u8]| message.windows(part.len()).any(|window| window == part);
        if has(b"listCollections") && has(database.as_bytes()) {
            let _ = is_open.wait_for(|is_open| *is_open).await;
        }
        to.write_all(&message).await?;
    }
}

#[tokio::test]
async fn a_database_that_does_not_answer_hides_no_other() {
    // In the order of their names, it comes first.
    let (stuck, other) = (unique("a_stuck"), unique("other"));
    let client = Client::with_uri_str(mongo::uri()).await.unwrap();
    let view = doc! { "create": "recent", "viewOn": "orders", "pipeline": [] };
    client.database(&other).run_command(view).await.unwrap();
    let filters = Filters::new(&[
        ("stuck/bills", &filter(&format!("{stuck}.bills"))),
        ("stuck/orders", &filter(&format!("{stuck}.orders"))),
        ("view", &filter(&format!("{other}.recent"))),
    ]);
    let relay = Relay::new(&stuck).await;
    let (dir, uri) = (
        filters.path().display().to_string(),
        format!("mongodb://{}/?directConnection=true", relay.address),
    );
    let program = Program::start_ready(&["--filters", &dir, "--mongodb", &uri], &[]).await;
    let admin = program.admin;
    says(admin, "view", "broken", &["is a view"]).await;
    let what = format!("the collections of `{stuck}` could not be inspected: no answer");
    for name in ["stuck/bills", "stuck/orders"] {
        says(admin, name, "ready", &[&what]).await;
        assert_eq!(finding(admin, name, "not-inspected").await, 1.0);
    }
    // What has one cause is told once.
    program.log_with(&what).await;
    let log = program.log();
    let told: Vec<&str> = log.lines().filter(|line| line.contains(&what)).collect();
    assert_eq!(told.len(), 1, "{told:#?}");
    assert!(told[0].contains("stuck/bills, stuck/orders") && told[0].contains("WARN"), "{told:?}");
    // What is known stays known.
    says(admin, "view", "broken", &["is a view"]).await;

    relay.is_open.send_replace(true);
    until("it is looked at", || async {
        let (state, reason) = stream_of(admin, "stuck/orders").await;
        state == "ready" && reason.contains("there is no collection")
    })
    .await;
    assert_eq!(finding(admin, "stuck/orders", "not-inspected").await, 0.0);
}
