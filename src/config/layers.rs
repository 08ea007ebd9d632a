//! The layers as written, merged by `figment`, each value with its place.
//!
//! Values stay text until they are resolved: no layer guesses types, so `8080` or a connection
//! string comes through every layer as it was written. What a layer alone can judge is judged
//! here: syntax, unknown keys, and a group where a value belongs or the other way round. Only
//! well-shaped values go on, so merging cannot replace a group by a value.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use figment::value::{Dict, Map, Tag, Value};
use figment::{Figment, Metadata, Profile, Provider};

use super::setting::{self, ENV_PREFIX, SETTINGS, Setting};
use super::units::mistake;
use crate::diagnostic::{Diagnostic, Lines, Source, nearest};
use crate::yaml::{self, Entry, Node};

/// The settings file that is read from the working directory where no other is named.
pub(super) const DEFAULT_FILE: &str = "sidestream.yaml";

/// Where the layers come from. Nothing else is read: not the process's own environment, nor its
/// working directory.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// `--config`; it must exist. `None`: `sidestream.yaml` in the working directory, where there
    /// is one.
    pub config_file: Option<PathBuf>,
    /// Where relative paths start.
    pub working_dir: PathBuf,
    /// All environment variables; those that do not start with `SIDESTREAM_` are ignored.
    pub env: Vec<(String, String)>,
    pub flags: Flags,
    /// Files that hold secrets or keys are not opened, nor need they exist: for commands that only
    /// look at the settings. Such a `Config` verifies no token and reaches no MongoDB.
    pub leaves_secrets: bool,
}

/// The flags that set something, as given: the key of the setting, and the value.
#[derive(Debug, Clone, Default)]
pub struct Flags(pub Vec<(&'static str, String)>);

impl<const N: usize> From<[(&'static str, &str); N]> for Flags {
    fn from(given: [(&'static str, &str); N]) -> Flags {
        Flags(given.map(|(key, value)| (key, value.to_owned())).into())
    }
}

/// What the layers say: for each key that is set, the value of the highest layer. May hold
/// secrets, hence no `Debug`.
pub struct Declared {
    values: BTreeMap<&'static str, Written>,
    file: SettingsFile,
}

/// A value as written.
pub struct Written {
    pub raw: Raw,
    pub origin: Source,
    /// The place of each item of a list that has its own.
    pub item_origins: Vec<Source>,
    /// The layer: 0 defaults, 1 file, 2 environment, 3 flags.
    pub rank: usize,
}

/// As text: what type a setting has is known later.
pub enum Raw {
    Text(String),
    List(Vec<String>),
}

impl Declared {
    /// The value of a setting, where a layer sets it.
    pub fn get(&self, key: &str) -> Option<&Written> {
        self.values.get(key)
    }

    /// The mistakes, each with its line where it is in the file, and these first and in the
    /// file's order.
    pub(super) fn with_sources(&self, mut mistakes: Vec<Diagnostic>) -> Vec<Diagnostic> {
        mistakes.sort_by_key(|mistake| match &mistake.origin {
            Source::File { place, .. } => (place.line, place.column),
            _ => (usize::MAX, 0),
        });
        let lines = Lines::with_secrets(&self.file.text, self.file.visible.iter().copied());
        mistakes.into_iter().map(|mistake| mistake.with_source(&lines)).collect()
    }
}

/// The settings file as it may be shown under a mistake.
#[derive(Default)]
struct SettingsFile {
    text: String,
    /// The keys, and the values of settings that are no secrets. A secret under a wrong key, or in
    /// a file that is no YAML, is none of them.
    visible: Vec<yaml::Place>,
}

/// Reads and merges all layers. What could be read is there even where there are problems, so
/// that its mistakes are reported too.
pub(super) fn declare(sources: &Sources) -> (Declared, Vec<Diagnostic>) {
    let mut problems = Vec::new();
    let mut file = SettingsFile::default();
    let layers = [
        default_layer(),
        file_layer(sources, &mut file, &mut problems),
        env_layer(&sources.env, &mut problems),
        flag_layer(&sources.flags),
    ];
    let mut figment = Figment::new();
    for layer in &layers {
        figment = figment.merge(layer);
    }

    let mut values = BTreeMap::new();
    // Our own providers do not fail, so neither does merging them.
    let merged = figment.data().unwrap_or_default().remove(&Profile::Default).unwrap_or_default();
    let merged = Value::Dict(Tag::Default, merged);
    for setting in SETTINGS.iter() {
        let Some(value) = merged.find_ref(setting.key) else { continue };
        let name = figment.get_metadata(value.tag()).map(|metadata| metadata.name.as_ref());
        let Some(rank) = layers.iter().position(|layer| Some(layer.name) == name) else { continue };
        let raw = match value {
            Value::Array(_, items) => Raw::List(
                items.iter().filter_map(|item| item.as_str()).map(str::to_owned).collect(),
            ),
            value => Raw::Text(value.as_str().unwrap_or_default().to_owned()),
        };
        let origin_of = |key: &str| layers[rank].origins.get(key).cloned();
        let origin = origin_of(setting.key).unwrap_or(Source::Default);
        let item_origins =
            (0..).map_while(|index| origin_of(&format!("{}[{index}]", setting.key))).collect();
        values.insert(setting.key, Written { raw, origin, item_origins, rank });
    }
    (Declared { values, file }, problems)
}

/// One layer, for `figment` to merge.
struct Layer {
    name: &'static str,
    dict: Dict,
    origins: HashMap<String, Source>,
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.name)
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Map::from([(Profile::Default, self.dict.clone())]))
    }
}

impl Layer {
    fn new(name: &'static str) -> Layer {
        Layer { name, dict: Dict::new(), origins: HashMap::new() }
    }

    /// Sets a key of the table, dotted; the groups on the way are made.
    fn set(&mut self, key: &str, raw: Raw, origin: Source) {
        self.origins.insert(key.to_owned(), origin);
        let value = match raw {
            Raw::Text(text) => Value::from(text),
            Raw::List(items) => Value::from(items),
        };
        insert(&mut self.dict, key, value);
    }
}

fn insert(dict: &mut Dict, key: &str, value: Value) {
    match key.split_once('.') {
        None => {
            dict.insert(key.to_owned(), value);
        }
        Some((group, rest)) => {
            let inner = dict.entry(group.to_owned()).or_insert_with(|| Value::from(Dict::new()));
            if let Value::Dict(_, inner) = inner {
                insert(inner, rest, value);
            }
        }
    }
}

fn default_layer() -> Layer {
    let mut layer = Layer::new("defaults");
    for setting in SETTINGS.iter() {
        let Some(default) = setting.default else { continue };
        layer.set(setting.key, raw_text(setting, default), Source::Default);
    }
    layer
}

fn flag_layer(flags: &Flags) -> Layer {
    let mut layer = Layer::new("flags");
    for (key, value) in &flags.0 {
        // Without a flag in the declaration, no command line can set it; tests may.
        let Some(setting) = setting::find(key) else { continue };
        let flag = setting.flag.unwrap_or(setting.key);
        layer.set(setting.key, raw_text(setting, value), Source::Flag(flag.into()));
    }
    layer
}

fn env_layer(env: &[(String, String)], problems: &mut Vec<Diagnostic>) -> Layer {
    let mut layer = Layer::new("environment");
    let names: Vec<(String, &Setting)> =
        SETTINGS.iter().map(|setting| (setting.variable(), setting)).collect();
    for (name, value) in env {
        let Some(rest) = name.strip_prefix(ENV_PREFIX) else { continue };
        let key = rest.to_lowercase().replace("__", ".");
        let mut problem = |key: &str, message: &str, hint: String| {
            problems.push(mistake(key, Source::Environment(name.clone()), message, hint));
        };
        if let Some((_, setting)) = names.iter().find(|(known, _)| known == name) {
            if value.trim().is_empty() {
                let hint = match () {
                    () if setting.list_example().is_some() => {
                        "unset the variable, or write [] for none"
                    }
                    _ => "unset the variable, or give it a value",
                };
                problem(setting.key, "is empty", hint.into());
                continue;
            }
            if value.contains(char::REPLACEMENT_CHARACTER) {
                problem(setting.key, "is not UTF-8", "give it a value that is text".into());
                continue;
            }
            // As at the end of a file: `echo` and an encoded Secret bring one that is not meant.
            let value = value.trim_end_matches(['\r', '\n']);
            layer.set(setting.key, raw_text(setting, value), Source::Environment(name.clone()));
        } else if is_injected_by_kubernetes(name, value) {
            // Nobody wrote it: every pod gets these when a Service is named `sidestream`.
        } else if setting::is_group(&key) {
            let example = setting::members(&key).remove(0);
            let example = setting::variable(&format!("{key}.{example}"));
            problem(&key, "is a group of settings", format!("set its members: {example}=…"));
        } else {
            let known = names.iter().filter_map(|(known, _)| known.strip_prefix(ENV_PREFIX));
            let hint = match nearest(rest, known) {
                Some(known) => format!("did you mean {ENV_PREFIX}{known}?"),
                None => "levels are separated by `__`, as in SIDESTREAM_CLIENTS__HEARTBEAT".into(),
            };
            problem("", "not a setting", hint);
        }
    }
    layer
}

/// The variables that Kubernetes makes of a Service `sidestream` or `sidestream-…`.
fn is_injected_by_kubernetes(name: &str, value: &str) -> bool {
    let is_url = ["tcp://", "udp://", "sctp://"].iter().any(|scheme| value.starts_with(scheme));
    name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || (name.ends_with("_PORT") && is_url)
        || ["_TCP", "_UDP", "_SCTP"].iter().any(|protocol| {
            name.split_once("_PORT_").is_some_and(|(_, rest)| rest.contains(protocol))
        })
}

fn file_layer(sources: &Sources, file: &mut SettingsFile, problems: &mut Vec<Diagnostic>) -> Layer {
    let mut layer = Layer::new("file");
    let (shown, path) = match &sources.config_file {
        Some(file) => (file.clone(), sources.working_dir.join(file)),
        None => (PathBuf::from(DEFAULT_FILE), sources.working_dir.join(DEFAULT_FILE)),
    };
    let mut problem = |place, message: String, hint: String| {
        problems.push(mistake("", Source::file(&shown, place), message, hint));
    };
    let start = yaml::Place::START;
    file.text = match std::fs::read(&path) {
        Ok(bytes) => match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(_) => {
                problem(start, "the file is not UTF-8".into(), "save it as UTF-8".into());
                return layer;
            }
        },
        Err(error)
            if sources.config_file.is_none()
                && error.kind() == std::io::ErrorKind::NotFound
                && path.symlink_metadata().is_err() =>
        {
            return layer;
        }
        Err(error) => {
            let hint = "name an existing, readable file with --config".into();
            problem(start, format!("cannot read the file: {error}"), hint);
            return layer;
        }
    };
    let root = match yaml::parse(&file.text) {
        Ok(root) => root,
        Err(found) => {
            for found in found {
                let hint = found.hint.unwrap_or_else(|| "see the syntax of YAML 1.2".into());
                problem(found.place, found.message, hint);
            }
            file.visible = visible_by_line(&file.text);
            return layer;
        }
    };
    match root {
        Some(root) if !root.is_null() => {
            let visible = &mut file.visible;
            FileReader { path: &shown, layer: &mut layer, visible, problems }.group("", &root);
        }
        // An empty file, or comments only.
        _ => {}
    }
    layer
}

/// What may be shown of a text that is no YAML: a known key at the beginning of a line, and what
/// is behind it if it is a setting without secrets and plainly a single value.
fn visible_by_line(text: &str) -> Vec<yaml::Place> {
    let mut visible = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let name = line.trim_start_matches([' ', '-']);
        let column = line.len() - name.len() + 1;
        let Some((name, rest)) = name.split_once(':') else { continue };
        let is_it = |key: &str| key.split('.').any(|part| part == name);
        let mut known = SETTINGS.iter().filter(|setting| is_it(setting.key)).peekable();
        if known.peek().is_none() {
            continue;
        }
        let is_harmless = known.all(|setting| setting.name() == name && !setting.is_secret())
            && !rest.contains([':', '@', ',']);
        // A known name is ASCII, so bytes are characters up to here.
        let width = if is_harmless { usize::MAX } else { name.len() };
        visible.push(yaml::Place { line: index + 1, column, width });
    }
    visible
}

/// A key as it may be shown: what is no name may be a secret with a mistake before it
/// (`uri:mongodb://…`).
fn show_key(key: &str) -> &str {
    let is_name = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    if key.len() <= MAX_KEY_BYTES && key.chars().all(is_name) { key } else { "***" }
}

/// Far more than any key needs.
const MAX_KEY_BYTES: usize = 64;

struct FileReader<'a> {
    path: &'a Path,
    layer: &'a mut Layer,
    /// What may be shown of the file.
    visible: &'a mut Vec<yaml::Place>,
    problems: &'a mut Vec<Diagnostic>,
}

impl FileReader<'_> {
    fn origin(&self, place: yaml::Place) -> Source {
        Source::file(self.path, place)
    }

    fn problem(&mut self, key: &str, place: yaml::Place, message: String, hint: String) {
        self.problems.push(mistake(key, self.origin(place), message, hint));
    }

    /// Lets a value be shown, if it is a value of this setting that is not a secret.
    fn show_value(&mut self, setting: &Setting, node: &Node) {
        if setting.is_secret() {
            return;
        }
        match (node.scalar(), node.items()) {
            (Some(scalar), _) if !scalar.text.contains('@') => self.visible.push(node.place),
            (_, Some(items)) => items.iter().for_each(|item| self.show_value(setting, item)),
            _ => {}
        }
    }

    fn group(&mut self, group: &str, node: &Node) {
        let Some(entries) = node.entries() else {
            let hint = format!("it holds the keys {}", setting::members(group).join(", "));
            let message = format!("expected a mapping, found {}", node.noun());
            return self.problem(group, node.place, message, hint);
        };
        for entry in entries {
            let name = show_key(&entry.key);
            if name == entry.key {
                self.visible.push(entry.key_place);
            }
            let key = match group {
                "" => name.to_owned(),
                group => format!("{group}.{name}"),
            };
            if entry.key.contains('.') {
                let hint = "write levels as nested keys, as in `clients: { heartbeat: 15s }`";
                self.problem(&key, entry.key_place, "unknown key".into(), hint.into());
            } else if let Some(setting) = setting::find(&key) {
                self.value(setting, entry);
            } else if setting::is_group(&key) {
                // A group whose keys are all commented out is as good as none.
                if !entry.value.is_null() {
                    self.group(&key, &entry.value);
                }
            } else {
                self.unknown(group, entry, &key);
            }
        }
    }

    fn unknown(&mut self, group: &str, entry: &Entry, key: &str) {
        let name = entry.key.as_str();
        let members = setting::members(group);
        let in_group = |name: &str| match group {
            "" => name.to_owned(),
            group => format!("{group}.{name}"),
        };
        // First among its siblings, then anywhere: `heartbeat` at the top level.
        let sibling = nearest(name, members.iter().map(String::as_str)).map(in_group);
        let anywhere =
            || SETTINGS.iter().find(|setting| setting.name() == name).map(|setting| setting.key);
        let meant = sibling.or_else(|| anywhere().map(str::to_owned));
        let hint = match &meant {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => format!("known keys here: {}", members.join(", ")),
        };
        if let Some(setting) = meant.as_deref().and_then(setting::find) {
            self.show_value(setting, &entry.value);
        }
        self.problem(key, entry.key_place, "unknown key".into(), hint);
    }

    fn value(&mut self, setting: &'static Setting, entry: &Entry) {
        let (key, node) = (setting.key, &entry.value);
        self.show_value(setting, node);
        if node.is_null() {
            let hint = "give it a value, or remove the key for the default";
            return self.problem(key, entry.key_place, "has no value".into(), hint.into());
        }
        let origin = self.origin(node.place);
        if let Some(scalar) = node.scalar() {
            return self.layer.set(key, raw_text(setting, &scalar.text), origin);
        }
        let items = match (setting.list_example(), node.items()) {
            (Some(_), Some(items)) => items,
            (Some(example), None) => {
                let message = format!("expected a list, found {}", node.noun());
                return self.problem(key, node.place, message, format!("write {example}"));
            }
            _ => {
                let message = format!("expected one value, found {}", node.noun());
                let hint = match setting.default {
                    Some(default) => format!("for example {key}: {default}", key = setting.name()),
                    None => "write one value".to_owned(),
                };
                return self.problem(key, node.place, message, hint);
            }
        };
        let mut texts = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let Some(scalar) = item.scalar() else {
                let message = format!("expected text, found {}", item.noun());
                let example = setting.list_example().unwrap_or_default();
                self.problem(key, item.place, message, format!("write {example}"));
                continue;
            };
            let item_origin = self.origin(item.place);
            self.layer.origins.insert(format!("{key}[{index}]"), item_origin);
            texts.push(scalar.text.clone());
        }
        self.layer.set(key, Raw::List(texts), origin);
    }
}

/// A value that came as one text. Lists are written with commas, or as `[a, b]`.
fn raw_text(setting: &Setting, text: &str) -> Raw {
    if setting.list_example().is_none() {
        return Raw::Text(text.to_owned());
    }
    let inner = text.trim();
    let inner = inner.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(inner);
    let items = inner.split(',').map(|item| item.trim().trim_matches(['"', '\'']).to_owned());
    // `[]` and a trailing comma leave an empty item, which says nothing.
    Raw::List(items.filter(|item| !item.is_empty()).collect())
}
