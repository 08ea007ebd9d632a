//! What takes memory, and where it shows.

use super::*;

const PAGE: &str = "memory.md";
const CLIENTS: usize = 100;

#[tokio::test]
async fn clients_with_values_of_their_own_and_a_full_journal() {
    let database = unique("troubles");
    let text = format!(
        "{}match: {{ key: {{ $param: key }} }}\nparams: {{ key: {{ type: int }} }}\n",
        file(&format!("{database}.orders"))
    );
    let filters = Filters::new(&[("orders", &text)]);
    let small = [("SIDESTREAM_REPLAY__MAX_BYTES", "4MiB")];
    let program = start(&mongo::uri(), &filters, &small).await;
    let mut streams = Vec::new();
    for key in 0..CLIENTS {
        let mut stream = Stream::open(program.listen, &format!("/_events/orders?key={key}")).await;
        stream.until_ready().await;
        streams.push(stream);
    }
    let journal = async || {
        View::of(&program).await.streams["upstreams"][0]["journal_bytes"].as_u64().unwrap()
    };
    while journal().await < 3 << 20 {
        write(&mongo::uri(), &database, 8, 100_000).await;
    }
    write(&mongo::uri(), &database, 40, 100_000).await;
    let view = View::of(&program).await;
    view.show("what takes memory", &["connections{transport=\"sse\"}", "subscriptions"]);
    assert!(journal().await <= 4 << 20, "{}", view.streams);
    assert_eq!(view.stream("orders")["cost"]["values"], CLIENTS);
    assert_eq!(view.stream("orders")["subscriptions"], CLIENTS);
    assert_eq!(view.streams["upstreams"][0]["routes"], CLIENTS);
    hold(PAGE, "# Memory", &view.text());
    // Who leaves takes it along.
    drop(streams);
    let values = async || View::of(&program).await.stream("orders")["cost"]["values"].clone();
    until("their values are gone", || async { values().await == 0 }).await;
}
