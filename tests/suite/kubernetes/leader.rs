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

    // The leader leaves and says so; the other one need not wait for the lease to lapse.
    let leader = holder(&cluster);
    let (leaving, staying) = if leader == "pod-1" { (first, second) } else { (second, first) };
    leaving.finish().await;
    until("the other one leads", || async { leads(&staying).await }).await;
    assert_ne!(holder(&cluster), leader);
    staying.finish().await;
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
