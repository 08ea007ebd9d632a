//! Each layer, and the errors of each layer with their places.

mod auth;

use std::time::Duration;

use super::*;

/// A working directory with these files.
fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    dir
}

fn sources(dir: &tempfile::TempDir, env: &[(&str, &str)], flags: Flags) -> Sources {
    Sources {
        config_file: None,
        leaves_secrets: false,
        working_dir: dir.path().to_owned(),
        env: env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        flags,
    }
}

fn from_file(text: &str) -> Result<Config, ConfigErrors> {
    let dir = directory(&[("sidestream.yaml", text)]);
    Config::load(sources(&dir, &[], Flags::default()))
}

fn from_env(env: &[(&str, &str)]) -> Result<Config, ConfigErrors> {
    let dir = directory(&[]);
    Config::load(sources(&dir, env, Flags::default()))
}

#[test]
fn defaults_are_those_of_the_documentation() {
    let config = from_env(&[]).unwrap();
    assert_eq!(config.listen.to_string(), "0.0.0.0:8080");
    assert_eq!(config.admin.to_string(), "127.0.0.1:9180");
    assert_eq!(config.app.to_string(), "http://127.0.0.1:3000");
    assert_eq!(config.prefix, "/_events");
    assert!(config.filters.ends_with("filters") && config.filters.is_absolute());
    assert_eq!(config.mongodb.uri.expose(), "mongodb://127.0.0.1:27017/?replicaSet=rs0");
    assert_eq!(
        config.replay,
        Replay { window: Duration::from_secs(120), max_bytes: 64 << 20, max_concurrent: 8 }
    );
    assert_eq!(
        config.clients,
        Clients {
            heartbeat: Duration::from_secs(15),
            retry: Duration::from_secs(2),
            max_connections: 100_000,
            max_connections_per_address: None,
            max_connections_per_subject: None,
            max_values_per_subject: Some(1000),
            max_buffered: 256,
            max_duration: None,
            max_streams_per_connection: 32,
            max_requests_per_address: None,
            send_timeout: Duration::from_secs(60),
            compression: Vec::new(),
        }
    );
    assert_eq!(config.app_read_timeout, None);
    assert_eq!(config.probes, None);
    assert_eq!(config.trusted_proxies, ["127.0.0.0/8".parse().unwrap()]);
    assert_eq!(config.drain, Duration::from_secs(10));
    assert_eq!(config.tls, None);
    assert_eq!(
        config.log,
        Log { format: LogFormat::Text, level: LogLevel::Info, requests: false, requests_every: 1 }
    );
    assert_eq!(config.trace.otlp, None);
}

#[test]
fn the_file_sets_everything() {
    let dir = directory(&[("cert.pem", ""), ("key.pem", ""), ("uri", "mongodb://u:p@a/\n")]);
    let text = "\
listen: 127.0.0.1:0
admin: '[::1]:0'
app: unix:app.sock
prefix: /live/events
filters: ./my/filters
mongodb: { uri_file: uri }
replay: { window: 1s, max_bytes: 1GiB, max_concurrent: 1 }
clients:
  heartbeat: 100ms
  retry: 10ms
  max_connections: 1
  max_connections_per_address: 3
  max_buffered: 1
  max_duration: 1h
  send_timeout: 5s
  max_requests_per_address: 9
app_read_timeout: 1m
trusted_proxies:
  - 10.0.0.0/8
  - ::1
drain: 0s
tls: { cert_file: cert.pem, key_file: key.pem }
log:
  format: json
  level: trace
";
    std::fs::write(dir.path().join("other.yaml"), text).unwrap();
    let mut sources = sources(&dir, &[], Flags::default());
    sources.config_file = Some("other.yaml".into());
    let config = Config::load(sources).unwrap();
    assert_eq!(config.listen.to_string(), "127.0.0.1:0");
    assert_eq!(config.admin.to_string(), "[::1]:0");
    assert_eq!(config.app, AppAddress::Unix { path: dir.path().join("app.sock") });
    assert_eq!(config.prefix, "/live/events");
    assert_eq!(config.filters.as_os_str(), dir.path().join("my/filters").as_os_str());
    assert_eq!(config.mongodb.uri.expose(), "mongodb://u:p@a/");
    assert_eq!(config.replay.max_bytes, 1 << 30);
    assert_eq!(config.clients.heartbeat, Duration::from_millis(100));
    assert_eq!(config.clients.max_connections_per_address, Some(3));
    assert_eq!(config.clients.max_duration, Some(Duration::from_secs(3600)));
    assert_eq!(config.clients.send_timeout, Duration::from_secs(5));
    assert_eq!(config.clients.max_requests_per_address, Some(9));
    assert_eq!(config.app_read_timeout, Some(Duration::from_secs(60)));
    assert_eq!(config.trusted_proxies.len(), 2);
    assert_eq!(config.tls.unwrap().key_file, dir.path().join("key.pem"));
    assert_eq!((config.log.format, config.log.level), (LogFormat::Json, LogLevel::Trace));
}

#[test]
fn higher_layers_win_key_by_key() {
    let text = "listen: 127.0.0.1:1\nadmin: 127.0.0.1:11\nclients: {heartbeat: 1s, retry: 1s}\n";
    let dir = directory(&[("sidestream.yaml", text)]);
    let env = [
        ("SIDESTREAM_LISTEN", "127.0.0.1:2"),
        ("SIDESTREAM_CLIENTS__HEARTBEAT", "2s"),
        ("SIDESTREAM_APP", "http://127.0.0.1:8080"),
        ("HOME", "/root"),
    ];
    let flags = Flags::from([("listen", "127.0.0.1:3")]);
    let config = Config::load(sources(&dir, &env, flags)).unwrap();
    assert_eq!(config.listen.port(), 3);
    assert_eq!(config.admin.port(), 11);
    assert_eq!(config.clients.heartbeat, Duration::from_secs(2));
    assert_eq!(config.clients.retry, Duration::from_secs(1));
    assert_eq!(config.app.authority(), "127.0.0.1:8080");
}

#[test]
fn environment_values_are_taken_as_they_are() {
    let uri = "mongodb://u:p%40x@a:1,b:2/?appName=[a],b#c";
    let config = from_env(&[
        ("SIDESTREAM_MONGODB__URI", uri),
        ("SIDESTREAM_FILTERS", "007"),
        ("SIDESTREAM_CLIENTS__MAX_BUFFERED", "1"),
        ("SIDESTREAM_TRUSTED_PROXIES", "10.0.0.0/8, ::1"),
    ]);
    let config = config.unwrap();
    assert_eq!(config.mongodb.uri.expose(), uri);
    assert!(config.filters.ends_with("007"));
    assert_eq!(config.trusted_proxies.len(), 2);
    for (value, count) in [("[10.0.0.0/8, '::1']", 2), ("[]", 0), ("10.0.0.0/8", 1)] {
        let config = from_env(&[("SIDESTREAM_TRUSTED_PROXIES", value)]).unwrap();
        assert_eq!(config.trusted_proxies.len(), count, "{value}");
    }
}

#[test]
fn what_kubernetes_injects_is_no_mistake() {
    let env = [
        ("SIDESTREAM_SERVICE_HOST", "10.0.0.1"),
        ("SIDESTREAM_SERVICE_PORT", "80"),
        ("SIDESTREAM_SERVICE_PORT_HTTP", "80"),
        ("SIDESTREAM_PORT", "tcp://10.0.0.1:80"),
        ("SIDESTREAM_PORT_80_TCP", "tcp://10.0.0.1:80"),
        ("SIDESTREAM_PORT_80_TCP_PROTO", "tcp"),
        ("SIDESTREAM_PORT_80_TCP_ADDR", "10.0.0.1"),
        ("SIDESTREAM_WEBHOOK_SERVICE_HOST", "10.0.0.2"),
    ];
    from_env(&env).unwrap();
    assert!(from_env(&[("SIDESTREAM_PORT", "8080")]).is_err());
}

/// The exact text of every mistake in a file: the cases are in `tests/mistakes.txt`, each a
/// settings file, a line `---`, and what is said about it.
#[test]
fn mistakes_in_files() {
    let mut count = 0;
    let mut wrong = String::new();
    for case in include_str!("mistakes.txt").split("=== ").skip(1) {
        let (title, case) = case.split_once('\n').unwrap();
        let (text, expected) = case.split_once("---\n").unwrap();
        let dir = directory(&[("sidestream.yaml", text), ("key.pem", auth::EC_KEY)]);
        let found = match Config::load(sources(&dir, &[], Flags::default())) {
            Ok(_) => "nothing".to_owned(),
            Err(errors) => errors.to_string(),
        };
        assert!(!found.contains("hunter2"), "{found}");
        if found.trim() != expected.trim() {
            wrong.push_str(&format!("=== {title}\n{text}---\n{found}\n\n"));
        }
        count += 1;
    }
    assert!(wrong.is_empty(), "{wrong}");
    assert!(count > 50, "only {count} cases were found");
}

#[test]
fn files_without_settings_are_fine() {
    for text in ["", "# nothing\n", "---\n", "clients:\n  # heartbeat: 1s\nlog: ~\n"] {
        from_file(text).unwrap();
    }
}

#[test]
fn environment_and_flag_errors() {
    let dir = directory(&[]);
    let rows: &[(&str, &str, &str)] = &[
        (
            "SIDESTREAM_MONGODB_URI",
            "mongodb://u:hunter2@a",
            "environment variable SIDESTREAM_MONGODB_URI: error: not a setting\n  \
             hint: did you mean SIDESTREAM_MONGODB__URI?",
        ),
        (
            "SIDESTREAM_BANANA",
            "1",
            "environment variable SIDESTREAM_BANANA: error: not a setting\n  \
             hint: levels are separated by `__`, as in SIDESTREAM_CLIENTS__HEARTBEAT",
        ),
        (
            "SIDESTREAM_CLIENTS",
            "1",
            "environment variable SIDESTREAM_CLIENTS: error: clients: is a group of settings\n  \
             hint: set its members: SIDESTREAM_CLIENTS__HEARTBEAT=…",
        ),
        (
            "SIDESTREAM_LISTEN",
            "8080",
            "environment variable SIDESTREAM_LISTEN: error: listen: `8080` is not an address \
             with a port\n  hint: write 0.0.0.0:8080 for every interface, 127.0.0.1:8080 for \
             this host",
        ),
        (
            "SIDESTREAM_LISTEN",
            "",
            "environment variable SIDESTREAM_LISTEN: error: listen: is empty\n  \
             hint: unset the variable, or give it a value",
        ),
        // What a byte that is no text was read as.
        (
            "SIDESTREAM_MONGODB__URI",
            "mongodb://u:p\u{FFFD}ss@h",
            "environment variable SIDESTREAM_MONGODB__URI: error: mongodb.uri: is not UTF-8\n  \
             hint: give it a value that is text",
        ),
        (
            "SIDESTREAM_MONGODB__URI",
            "mongodb://h/?replicaSet=rs0\n# password=hunter2\n",
            "environment variable SIDESTREAM_MONGODB__URI: error: mongodb.uri: the connection string \
             has a line break, or another control character\n  \
             hint: write it on one line, and nothing else beside it",
        ),
    ];
    for (name, value, expected) in rows {
        let errors = from_env(&[(*name, *value)]).expect_err(name);
        assert_eq!(errors.to_string(), *expected, "{name}");
    }
    let flags = Flags::from([("prefix", "events")]);
    let errors = Config::load(sources(&dir, &[], flags)).unwrap_err();
    assert_eq!(
        errors.to_string(),
        "--prefix: error: prefix: `events` does not start with `/`\n  \
         hint: write a path such as /_events"
    );
}

#[test]
fn all_mistakes_at_once() {
    let text = "listne: 1\ndrain: 10\nclients: { retry: 1, max_buffered: many }\n";
    let dir = directory(&[("sidestream.yaml", text)]);
    let flags = Flags::from([("app", "app")]);
    let env = [("SIDESTREAM_PREFIX", "/"), ("SIDESTREAM_LOG__LEVEL", "loud")];
    let errors = Config::load(sources(&dir, &env, flags)).unwrap_err();
    let keys: Vec<_> = errors.diagnostics.iter().map(|p| p.key.as_str()).collect();
    assert_eq!(
        keys,
        ["listne", "drain", "clients.retry", "clients.max_buffered", "app", "prefix", "log.level"]
    );
}

#[test]
fn the_named_file_must_exist() {
    let dir = directory(&[]);
    let mut sources = sources(&dir, &[], Flags::default());
    sources.config_file = Some("nowhere.yaml".into());
    let errors = Config::load(sources).unwrap_err().to_string();
    assert!(errors.starts_with("nowhere.yaml:1:1: error: cannot read the file: "), "{errors}");
}

#[test]
fn the_higher_layer_decides_between_a_secret_and_its_file() {
    let dir = directory(&[
        ("sidestream.yaml", "mongodb: { uri: 'mongodb://file' }\n"),
        ("uri", "mongodb://secret\r\n"),
        ("empty", "\n"),
    ]);
    let by_env = [("SIDESTREAM_MONGODB__URI_FILE", "uri")];
    let config = Config::load(sources(&dir, &by_env, Flags::default())).unwrap();
    assert_eq!(config.mongodb.uri.expose(), "mongodb://secret");
    let flags = Flags::from([("mongodb.uri", "mongodb://flag")]);
    let config = Config::load(sources(&dir, &by_env, flags)).unwrap();
    assert_eq!(config.mongodb.uri.expose(), "mongodb://flag");
    for (file, expected) in [("nowhere", "cannot read "), ("empty", "is empty")] {
        let env = [("SIDESTREAM_MONGODB__URI_FILE", file)];
        let errors = Config::load(sources(&dir, &env, Flags::default())).unwrap_err().to_string();
        assert!(errors.contains(expected), "{errors}");
        assert!(errors.starts_with("environment variable SIDESTREAM_MONGODB__URI_FILE: "));
    }
}

// `echo` ends what it prints with one, and so does a Secret that was made of that.
#[test]
fn a_variables_last_line_break_is_not_its_own() {
    let config =
        from_env(&[("SIDESTREAM_MONGODB__URI", "mongodb://h/?replicaSet=rs0\r\n")]).unwrap();
    assert_eq!(config.mongodb.uri.expose(), "mongodb://h/?replicaSet=rs0");
}

#[cfg(unix)]
#[test]
fn a_settings_file_that_is_a_link_to_nowhere_is_not_passed_over() {
    let dir = directory(&[]);
    std::os::unix::fs::symlink("..data/gone", dir.path().join("sidestream.yaml")).unwrap();
    let errors = Config::load(sources(&dir, &[], Flags::default())).unwrap_err().to_string();
    assert!(errors.starts_with("sidestream.yaml:1:1: error: cannot read the file: "), "{errors}");
}

#[test]
fn secrets_never_show() {
    let dir = directory(&[("uri", "mongodb://u:hunter2")]);
    for env in [
        [("SIDESTREAM_MONGODB__URI", "mongodb://u:hunter2")],
        [("SIDESTREAM_MONGODB__URI", "hunter2")],
        [("SIDESTREAM_MONGODB__URI_FILE", "uri")],
        [("SIDESTREAM_APP", "mongodb://u:hunter2@a")],
        [("SIDESTREAM_LISTEN", "mongodb://u:hunter2@a")],
    ] {
        let errors = Config::load(sources(&dir, &env, Flags::default())).unwrap_err();
        assert!(!format!("{errors} {errors:?}").contains("hunter2"), "{errors}");
    }
    let config = from_env(&[("SIDESTREAM_MONGODB__URI", "mongodb://u:hunter2@a/")]).unwrap();
    assert!(!format!("{config:?}").contains("hunter2"));
    assert_eq!(config.mongodb.uri.redacted(), "mongodb://***@a/");
}

#[test]
fn the_table_is_sound() {
    for setting in SETTINGS.iter() {
        let same = SETTINGS.iter().filter(|other| other.key == setting.key).count();
        assert_eq!(same, 1, "{}", setting.key);
        assert!(!setting::is_group(setting.key), "{}", setting.key);
        assert!(setting.about.ends_with('.'));
    }
}

proptest::proptest! {
    /// Whatever is written, there is a config or a list of mistakes, each with something to do.
    #[test]
    fn any_settings(
        lines in proptest::collection::vec(
            "(listen|admin|app|prefix|filters|drain|trusted_proxies|tls|log|mongodb|clients): \
             (\\[[a-z0-9:/., ]{0,9}\\]|\\{ [a-z_]{1,9}: [a-z0-9]{0,5} \\}|[0-9]{0,5}[a-zB]{0,3}|\\PC{0,12})",
            0..5,
        ),
        value in "\\PC{1,20}|\\[?[0-9./, :]{0,20}\\]?|(unix|http)://?[a-z0-9:@/]{0,9}",
        index in 0..SETTINGS.len(),
    ) {
        let dir = directory(&[("sidestream.yaml", &lines.join("\n"))]);
        let variable = SETTINGS[index].variable();
        let env = [(variable.as_str(), value.as_str())];
        if let Err(errors) = Config::load(sources(&dir, &env, Flags::default())) {
            proptest::prop_assert!(!errors.diagnostics.is_empty());
            for mistake in &errors.diagnostics {
                let has_hint = mistake.hint.as_ref().is_some_and(|hint| !hint.is_empty());
                proptest::prop_assert!(!mistake.message.is_empty() && has_hint);
            }
        }
    }
}
