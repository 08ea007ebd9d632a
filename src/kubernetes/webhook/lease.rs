//! Leader election among the replicas: the leader holds a Lease, as in Kubernetes' own controllers.
//!
//! Clocks are not compared. Another replica's lease has lapsed if this replica has seen no change
//! of it for long enough.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Own;
use super::api::{Api, ApiError};

/// How long a lease lasts without being renewed.
const DURATION: Duration = Duration::from_secs(15);

/// Our part in the election.
pub struct Election {
    api: Api,
    collection: String,
    object: String,
    name: String,
    identity: String,
    /// What another's lease looked like, and since when.
    seen: Option<(Value, Instant)>,
    /// Until when we lead, by our own clock.
    leads_until: Option<Instant>,
}

impl Election {
    /// Takes no part until [`Election::step`] is called. `own` names the Lease and this replica.
    pub fn new(api: Api, own: &Own) -> Election {
        let collection =
            format!("/apis/coordination.k8s.io/v1/namespaces/{}/leases", own.namespace);
        Election {
            api,
            object: format!("{collection}/{}", own.lease),
            collection,
            name: own.lease.clone(),
            identity: own.identity.clone(),
            seen: None,
            leads_until: None,
        }
    }

    /// Whether we lead right now.
    pub fn leads(&self) -> bool {
        self.leads_until.is_some_and(|until| Instant::now() < until)
    }

    /// Renews, takes or watches the lease, and says whether we lead now. `owner` is what a new
    /// lease belongs to.
    ///
    /// # Errors
    /// What the API says. The lead lasts until its lease lapses all the same.
    pub async fn step(&mut self, owner: &Value) -> Result<bool, ApiError> {
        // Counted from before the call, so that we stop before others may begin.
        let asked = Instant::now();
        let lease = match self.api.get(&self.object).await {
            Ok(lease) => lease,
            Err(error) if error.is_missing() => {
                let lease = self.fresh(owner);
                let made = self.api.create(&self.collection, &lease).await;
                return self.settle(asked, made);
            }
            Err(error) => return Err(error),
        };
        let holder = lease.pointer("/spec/holderIdentity").and_then(Value::as_str).unwrap_or("");
        if holder != self.identity && !holder.is_empty() && !self.has_lapsed(&lease) {
            self.leads_until = None;
            return Ok(false);
        }
        let renewed = self.renewed(&lease, holder);
        let made = self.api.replace(&self.object, &renewed).await;
        self.settle(asked, made)
    }

    /// Gives up the leadership, so that no replica has to wait for it to lapse.
    pub async fn release(&mut self) {
        if !self.leads() {
            return;
        }
        self.leads_until = None;
        // Where that fails, it lapses.
        if let Ok(mut lease) = self.api.get(&self.object).await {
            let held = lease.pointer("/spec/holderIdentity").and_then(Value::as_str);
            if held == Some(self.identity.as_str()) {
                lease["spec"]["holderIdentity"] = "".into();
                let _ = self.api.replace(&self.object, &lease).await;
            }
        }
    }

    fn settle(&mut self, asked: Instant, made: Result<Value, ApiError>) -> Result<bool, ApiError> {
        match made {
            Ok(_) => {
                self.seen = None;
                self.leads_until = Some(asked + DURATION);
                Ok(true)
            }
            Err(error) if error.is_conflict() => {
                self.leads_until = None;
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    fn has_lapsed(&mut self, lease: &Value) -> bool {
        let spec = lease.get("spec").cloned().unwrap_or_default();
        let seconds = spec.get("leaseDurationSeconds").and_then(Value::as_u64);
        let duration = seconds.map_or(DURATION, Duration::from_secs);
        match &self.seen {
            Some((seen, since)) if *seen == spec => since.elapsed() > duration,
            _ => {
                self.seen = Some((spec, Instant::now()));
                false
            }
        }
    }

    fn fresh(&self, owner: &Value) -> Value {
        json!({
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": { "name": self.name, "ownerReferences": [owner] },
            "spec": {
                "holderIdentity": self.identity,
                "leaseDurationSeconds": DURATION.as_secs(),
                "acquireTime": now(),
                "renewTime": now(),
                "leaseTransitions": 0,
            },
        })
    }

    fn renewed(&self, lease: &Value, holder: &str) -> Value {
        let mut lease = lease.clone();
        if !lease["spec"].is_object() {
            lease["spec"] = json!({});
        }
        let spec = &mut lease["spec"];
        if holder != self.identity {
            let transitions = spec["leaseTransitions"].as_u64().unwrap_or_default();
            spec["leaseTransitions"] = (transitions + 1).into();
            spec["acquireTime"] = now().into();
        }
        spec["holderIdentity"] = self.identity.as_str().into();
        spec["leaseDurationSeconds"] = DURATION.as_secs().into();
        spec["renewTime"] = now().into();
        lease
    }
}

/// A MicroTime of Kubernetes.
fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}
