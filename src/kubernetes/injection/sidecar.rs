//! The container that is added. It meets the restricted profile of the Pod Security Standards.

use std::net::{IpAddr, SocketAddr};

use serde_json::{Map, Value, json};

use super::annotations::{Mode, Wishes};
use super::platform::Platform;
use super::{CONTAINER, ports::Taken};
use crate::config::show_duration;

/// Where the public port goes, unless it is taken.
const LISTEN_PORT: u16 = 18080;
/// Where the admin port goes, unless it is taken. On loopback.
const ADMIN_PORT: u16 = 9180;
/// Where the probes' port goes, unless it is taken.
const PROBES_PORT: u16 = 9181;

/// The name of the probes' port, by which a PodMonitor finds the metrics.
pub const PROBES_PORT_NAME: &str = "side-metrics";
/// The name of the public port where there is none to take over.
pub const FALLBACK_PORT_NAME: &str = "sidestream";

const FILTERS: &str = "sidestream-filters";
const SECRET: &str = "sidestream-secret";
const SETTINGS: &str = "sidestream-settings";
const NO_TOKEN: &str = "sidestream-no-token";

/// The volumes that may be added, by name.
pub const VOLUMES: &[&str] = &[FILTERS, SECRET, SETTINGS, NO_TOKEN];

/// Where Kubernetes mounts the account's token, in every container that has nothing there.
const TOKEN_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// The variable that says where the app is.
pub const APP_VARIABLE: &str = "SIDESTREAM_APP";

/// What the sidecar becomes in one pod.
pub struct SidecarSpec<'a> {
    pub platform: &'a Platform,
    pub wishes: &'a Wishes,
    pub mode: Mode,
    /// The number of the app's port.
    pub app: u16,
    /// The name of the port that is taken over.
    pub port_name: &'a str,
    /// The ConfigMap with the filter files.
    pub filters: &'a str,
    pub listen: u16,
    pub admin: u16,
    pub probes: u16,
}

/// The numbers of the sidecar's own ports: public, admin, probes.
pub fn own_ports(taken: &mut Taken) -> (u16, u16, u16) {
    (taken.next_free(LISTEN_PORT), taken.next_free(ADMIN_PORT), taken.next_free(PROBES_PORT))
}

impl SidecarSpec<'_> {
    /// The container.
    pub fn container(&self) -> Value {
        let SidecarSpec { platform, wishes, mode, .. } = self;
        let mut container = Map::new();
        let mut put = |key: &str, value: Value| container.insert(key.to_owned(), value);
        put("name", CONTAINER.into());
        put("image", platform.image.as_str().into());
        if let Some(policy) = &platform.pull_policy {
            put("imagePullPolicy", policy.as_str().into());
        }
        if *mode == Mode::Native {
            put("restartPolicy", "Always".into());
        }
        put("args", self.args());
        put("env", self.env());
        put(
            "ports",
            json!([
                { "name": self.port_name, "containerPort": self.listen, "protocol": "TCP" },
                { "name": PROBES_PORT_NAME, "containerPort": self.probes, "protocol": "TCP" },
            ]),
        );
        let memory = wishes.memory.as_ref().unwrap_or(&platform.memory);
        put(
            "resources",
            json!({
                "requests": {
                    "cpu": wishes.cpu.as_ref().unwrap_or(&platform.cpu),
                    "memory": memory,
                },
                "limits": { "memory": memory },
            }),
        );
        // None of the three waits for MongoDB: the app is served without it. What waits is a stream.
        put("startupProbe", self.probe("/healthz", 1, 60));
        put("livenessProbe", self.probe("/healthz", 10, 3));
        put("readinessProbe", self.probe("/readyz", 5, 2));
        let wait = show_duration(platform.pre_stop);
        put(
            "lifecycle",
            json!({ "preStop": { "exec": {
                "command": ["/sidestream", "drain", "--for", wait],
            }}}),
        );
        put("securityContext", security_context(platform.run_as_user));
        put("volumeMounts", Value::Array(self.mounts()));
        Value::Object(container)
    }

    /// The volumes that the container mounts.
    pub fn volumes(&self) -> Vec<Value> {
        // Optional: a pod must start without its filters, which may come later.
        let filters = json!({ "name": self.filters, "optional": true });
        let mut volumes = vec![json!({ "name": FILTERS, "configMap": filters })];
        if let Some(secret) = &self.wishes.mongodb_secret {
            volumes.push(json!({ "name": SECRET, "secret": { "secretName": secret } }));
        }
        if let Some(settings) = &self.wishes.settings {
            volumes.push(json!({ "name": SETTINGS, "configMap": { "name": settings } }));
        }
        // Empty, and in the place of the account's token: the app may need that, and what faces the
        // network does not. In memory, since others keep autoscalers from removing a node.
        volumes.push(json!({ "name": NO_TOKEN, "emptyDir": { "medium": "Memory" } }));
        volumes
    }

    fn args(&self) -> Value {
        match self.wishes.settings {
            Some(_) => json!([
                "run",
                "--wait",
                "--config",
                format!("{}/sidestream.yaml", mount_path(SETTINGS)),
            ]),
            None => json!(["run", "--wait"]),
        }
    }

    /// Settings by environment: above those of the app team's file.
    fn env(&self) -> Value {
        let SidecarSpec { platform, wishes, .. } = self;
        let bind = |port| SocketAddr::new(platform.bind, port).to_string();
        let admin = SocketAddr::new(IpAddr::from([127, 0, 0, 1]), self.admin).to_string();
        let mut env = vec![
            variable("SIDESTREAM_LISTEN", &bind(self.listen)),
            variable("SIDESTREAM_ADMIN", &admin),
            variable("SIDESTREAM_PROBES", &bind(self.probes)),
            variable(APP_VARIABLE, &format!("http://127.0.0.1:{}", self.app)),
            variable("SIDESTREAM_FILTERS", &mount_path(FILTERS)),
            variable("SIDESTREAM_TRUSTED_PROXIES", &platform.trusted_proxies.join(",")),
            variable("SIDESTREAM_DRAIN", &show_duration(platform.drain)),
        ];
        if let Some(prefix) = &wishes.prefix {
            env.push(variable("SIDESTREAM_PREFIX", prefix));
        }
        if wishes.mongodb_secret.is_some() {
            let uri = format!("{}/uri", mount_path(SECRET));
            env.push(variable("SIDESTREAM_MONGODB__URI_FILE", &uri));
        }
        Value::Array(env)
    }

    fn mounts(&self) -> Vec<Value> {
        let named = |volume: &Value| volume.get("name").and_then(Value::as_str).map(str::to_owned);
        let mount = |name: String| {
            let path = mount_path(&name);
            json!({ "name": name, "mountPath": path, "readOnly": true })
        };
        self.volumes().iter().filter_map(named).map(mount).collect()
    }

    fn probe(&self, path: &str, period_seconds: u32, failures: u32) -> Value {
        json!({
            "httpGet": { "path": path, "port": self.probes },
            "periodSeconds": period_seconds,
            "failureThreshold": failures,
            "timeoutSeconds": 2,
        })
    }
}

/// `sidestream-filters` is at `/etc/sidestream/filters`.
fn mount_path(volume: &str) -> String {
    if volume == NO_TOKEN {
        return TOKEN_PATH.to_owned();
    }
    let name = volume.strip_prefix("sidestream-").unwrap_or(volume);
    format!("/etc/sidestream/{name}")
}

fn variable(name: &str, value: &str) -> Value {
    json!({ "name": name, "value": value })
}

fn security_context(user: Option<u32>) -> Value {
    let mut context = json!({ "runAsNonRoot": true });
    if let Some(user) = user {
        context["runAsUser"] = user.into();
        context["runAsGroup"] = user.into();
    }
    context["allowPrivilegeEscalation"] = false.into();
    context["readOnlyRootFilesystem"] = true.into();
    context["capabilities"] = json!({ "drop": ["ALL"] });
    context["seccompProfile"] = json!({ "type": "RuntimeDefault" });
    context
}
