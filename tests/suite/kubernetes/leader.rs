//! A certificate of the webhook's own: made by one of two replicas, trusted before it is served,
//! renewed, and handed over.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sidestream::kubernetes::webhook::{CertificateSource, Own, Webhook};

use super::cluster::Cluster;
use super::webhook::{connect, start};
use crate::support::{http, until};

const DEPLOYMENT: &str = "/apis/apps/v1/namespaces/platform/deployments/injector";
const SECRET: &str = "/api/v1/namespaces/platform/secrets/injector-tls";
const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/platform/leases/injector";
const CONFIGURATION: &str =
    "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/injector-platform";
const NAME: &str = "injector.platform.svc";

async fn cluster() -> Cluster {
    let entry =
        |name: &str| json!({ "name": name, "clientConfig": { "service": { "name": "injector" } } });
    Cluster::start(&[
        (DEPLOYMENT, json!({ "metadata": { "name": "injector", "uid": "u-1" } })),
        (CONFIGURATION, json!({ "metadata": {}, "webhooks": [entry("a.b.c"), entry("d.e.f")] })),
    ])
    .await
}

async fn replica(cluster: &Cluster, identity: &str) -> Webhook {
    let own = Own {
        namespace: "platform".into(),
        service: "injector".into(),
        secret: "injector-tls".into(),
        lease: "injector".into(),
        deployment: "injector".into(),
        configuration: "injector-platform".into(),
        identity: identity.into(),
    };
    start(CertificateSource::Own(own), Some(cluster.access())).await
}

async fn leads(webhook: &Webhook) -> bool {
    let text = http::get(webhook.probes, "/metrics").await.text();
    text.lines().any(|line| line == "sidestream_webhook_is_leader 1")
}

/// What the API server would trust.
fn authority(cluster: &Cluster) -> String {
    let configuration = cluster.object(CONFIGURATION).unwrap();
    let of = |index: usize| configuration["webhooks"][index]["clientConfig"]["caBundle"].clone();
    assert_eq!(of(0), of(1));
    let bundle = of(0).as_str().unwrap_or_default().to_owned();
    String::from_utf8(STANDARD.decode(bundle).unwrap()).unwrap()
}

fn holder(cluster: &Cluster) -> String {
    let lease = cluster.object(LEASE).unwrap_or_default();
    lease["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn one_of_two_leads_and_both_serve_what_is_trusted() {
    let cluster = cluster().await;
    let (first, second) = (replica(&cluster, "pod-1").await, replica(&cluster, "pod-2").await);
    until("both are ready", || async { first.is_ready() && second.is_ready() }).await;
    until("one leads", || async { leads(&first).await != leads(&second).await }).await;
    for webhook in [&first, &second] {
        assert!(connect(webhook.listen, NAME, &authority(&cluster)).await.is_some());
    }
    let created = cluster.log().iter().filter(|line| line.starts_with("POST")).count();
    assert!(created <= 4, "{:?}", cluster.log());
    let secret = cluster.object(SECRET).unwrap();
    let lease = cluster.object(LEASE).unwrap();
    for object in [&secret, &lease] {
        let owner = &object["metadata"]["ownerReferences"][0];
        assert_eq!((&owner["kind"], &owner["uid"]), (&json!("Deployment"), &json!("u-1")));
    }

    let mut before = lease["spec"].clone();
    until("the leader renews its lease", || {
        let now = cluster.object(LEASE).unwrap()["spec"].clone();
        let is_same_leader = now["holderIdentity"] == before["holderIdentity"];
        let is_renewed = is_same_leader && now["renewTime"] != before["renewTime"];
        before = now;
        async move { is_renewed }
    })
    .await;

    // An upgrade that resets the field is mended.
    let mut reset = cluster.object(CONFIGURATION).unwrap();
    reset["webhooks"][1]["clientConfig"].as_object_mut().unwrap().remove("caBundle");
    cluster.set(CONFIGURATION, reset);
    until("the authority is there again", || async {
        let found = cluster.object(CONFIGURATION).unwrap();
        found["webhooks"][1]["clientConfig"]["caBundle"].is_string()
    })
    .await;

    // The certificate is due: both serve the next one, and at every moment what is trusted.
    let old = authority(&cluster);
    let mut due = cluster.object(SECRET).unwrap();
    due["data"]["renew-at"] = STANDARD.encode("0").into();
    cluster.set(SECRET, due);
    until("another authority is trusted beside the old one", || async {
        let trusted = authority(&cluster);
        trusted != old && trusted.contains(old.trim_end())
    })
    .await;
    let trusted = authority(&cluster);
    let alone: String = trusted.replace(old.trim_end(), "");
    until("both serve the new one", || async {
        let mut is_new = true;
        for webhook in [&first, &second] {
            assert!(connect(webhook.listen, NAME, &trusted).await.is_some());
            is_new &= connect(webhook.listen, NAME, &alone).await.is_some();
        }
        is_new
    })
    .await;

    // Trusted before it was stored, and so before any replica could serve it.
    let log = cluster.log();
    let at = log.iter().position(|line| *line == format!("PUT {SECRET}"));
    let at = at.expect("the Secret was replaced");
    let is_trust = |line: &String| *line == format!("PATCH {CONFIGURATION}");
    assert!(log[..at].iter().any(is_trust) && !log[at..].iter().any(is_trust), "{log:?}");

    // The leader leaves and says so; the other one need not wait for the lease to lapse.
    let leader = holder(&cluster);
    let (leaving, staying) = if leader == "pod-1" { (first, second) } else { (second, first) };
    leaving.finish().await;
    until("the other one leads", || async { leads(&staying).await }).await;
    assert_ne!(holder(&cluster), leader);
    staying.finish().await;
    assert_eq!(holder(&cluster), "", "the last one gives it up, too");
}

#[tokio::test]
async fn a_leader_that_vanished_is_followed_when_its_lease_has_lapsed() {
    let cluster = cluster().await;
    let lease = |seconds: u64| {
        json!({
            "metadata": { "name": "injector" },
            "spec": {
                "holderIdentity": "gone",
                "leaseDurationSeconds": seconds,
                // By its clock it is renewed for years to come: clocks are not believed.
                "renewTime": "2099-01-01T00:00:00.000000Z",
            },
        })
    };
    cluster.set(LEASE, lease(12));
    let webhook = replica(&cluster, "pod-1").await;
    until("it waits", || async {
        cluster.log().iter().filter(|line| **line == format!("GET {LEASE}")).count() >= 2
    })
    .await;
    assert!(!webhook.is_ready() && !leads(&webhook).await);
    until("it leads", || async { leads(&webhook).await }).await;
    let transitions = cluster.object(LEASE).unwrap()["spec"]["leaseTransitions"].clone();
    assert_eq!(transitions, Value::from(1));
    until("it is ready", || async { webhook.is_ready() }).await;
    webhook.finish().await;
}

fn asked_for_lease(cluster: &Cluster) -> usize {
    cluster.log().iter().filter(|line| **line == format!("GET {LEASE}")).count()
}

/// A lease of another replica's.
fn lease_of(holder: &str, seconds: u64, renewed: usize) -> Value {
    json!({
        "metadata": { "name": "injector" },
        "spec": {
            "holderIdentity": holder,
            "leaseDurationSeconds": seconds,
            "renewTime": format!("2026-01-01T00:00:00.{renewed:06}Z"),
        },
    })
}

#[tokio::test]
async fn a_lease_that_is_renewed_is_never_taken() {
    let cluster = cluster().await;
    cluster.set(LEASE, lease_of("other", 12, 0));
    let webhook = replica(&cluster, "pod-1").await;
    // It looks every five seconds. After each look, the holder renews; five looks take longer than the
    // lease lasts.
    for looks in 1..=5 {
        until("it looks again", || async { asked_for_lease(&cluster) >= looks }).await;
        assert_eq!(holder(&cluster), "other", "after {looks} looks");
        cluster.set(LEASE, lease_of("other", 12, looks));
    }
    assert!(!leads(&webhook).await && cluster.object(SECRET).is_none());
    webhook.finish().await;
    assert_eq!(holder(&cluster), "other", "only the holder gives it up");
}

#[tokio::test]
async fn a_replica_that_was_overtaken_does_not_lead() {
    for is_released in [false, true] {
        let cluster = cluster().await;
        if is_released {
            cluster.set(LEASE, lease_of("", 15, 0));
        }
        cluster.overtake(LEASE, lease_of("other", 3600, 1));
        let webhook = replica(&cluster, "pod-1").await;
        until("it has looked again", || async { asked_for_lease(&cluster) >= 2 }).await;
        assert_eq!(holder(&cluster), "other");
        assert!(!leads(&webhook).await);
        assert!(
            !cluster.log().iter().any(|line| line.starts_with("POST") && line.contains("secrets"))
        );
        webhook.finish().await;
    }
}

#[tokio::test]
async fn a_certificate_that_cannot_be_used_is_replaced() {
    let cluster = cluster().await;
    let webhook = replica(&cluster, "pod-1").await;
    until("it is ready", || async { webhook.is_ready() }).await;
    let in_a_year = std::time::SystemTime::now() + std::time::Duration::from_secs(365 * 24 * 3600);
    let in_a_year = in_a_year.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs().to_string();
    // The last one was made by a clock that was far ahead: it is not valid for long.
    for (key, value) in
        [("tls.crt", "no certificate"), ("tls.key", ""), ("ca.crt", "x"), ("renew-at", &in_a_year)]
    {
        let old = authority(&cluster);
        let mut secret = cluster.object(SECRET).unwrap();
        secret["data"][key] = STANDARD.encode(value).into();
        cluster.set(SECRET, secret);
        until(&format!("another certificate is trusted after {key}"), || async {
            !authority(&cluster).starts_with(old.split("-----END").next().unwrap())
        })
        .await;
        until("and served", || async {
            let newest = authority(&cluster);
            let newest = newest.split_inclusive("-----END CERTIFICATE-----\n").next().unwrap();
            connect(webhook.listen, NAME, newest).await.is_some()
        })
        .await;
    }
    webhook.finish().await;
}
