//! The directory of filter files: which files count, what their streams are called, reading them.
//!
//! Made for a mounted ConfigMap too: there, `orders.yaml` is a link into `..data`, which is a link
//! to a directory named by time. Links are followed, and names that start with a dot are passed
//! over, so that each file is seen once. A ConfigMap's keys have no `/`: `__` in a file's name
//! stands for it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::diagnostic::{Diagnostic, Severity, nearest};
use crate::filter::{FilterSet, parse_filter};
use crate::yaml;

/// The ends of filter files' names.
pub const EXTENSIONS: [&str; 3] = ["yaml", "yml", "json"];

/// The deepest directory below the filter directory.
pub(in crate::filter) const MAX_DEPTH: usize = 8;
/// The most filter files.
pub(in crate::filter) const MAX_FILES: usize = 10_000;
/// The longest stream name, in bytes.
const MAX_NAME_BYTES: usize = 200;

/// What a directory of filter files holds.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The good filters.
    pub filters: FilterSet,
    /// Everything that was found, errors and warnings, file by file.
    pub diagnostics: Vec<Diagnostic>,
    /// The streams whose file exists but has mistakes. An older filter of that name stays in force.
    pub broken: BTreeSet<String>,
    /// The streams whose file can be read, and which may not be served: they are not in force, and
    /// neither is an older filter of that name.
    pub refused: BTreeSet<String>,
    /// Of the broken and the refused: the first thing that is wrong.
    pub reasons: BTreeMap<String, String>,
    /// A stream that is in neither `filters` nor `broken` may still be here, and is then not to be taken
    /// for removed.
    pub unlisted: Unlisted,
}

/// The directories that could not be read, by what the names of their streams begin with; nothing, where
/// that may be any stream.
#[derive(Debug, Clone, Default)]
pub struct Unlisted(Vec<String>);

impl Unlisted {
    /// Whether everything was read.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What is not known, for people.
    pub fn troubles(&self) -> impl Iterator<Item = String> {
        self.0.iter().map(|prefix| match prefix.as_str() {
            "" => "filters: the directory cannot be read, or not whole; see the log".to_owned(),
            prefix => format!("filters: the directory {prefix} cannot be read; see the log"),
        })
    }

    /// Whether a stream of this name may be in one of them.
    pub fn may_hold(&self, name: &str) -> bool {
        self.0.iter().any(|prefix| name.starts_with(prefix))
    }
}

/// Reads all filter files below a directory. Never fails: what is wrong is in the result.
pub fn load_directory(dir: &Path) -> Loaded {
    let mut walk = Walk {
        files: BTreeMap::new(),
        count: 0,
        visited: Vec::new(),
        diagnostics: Vec::new(),
        unlisted: Unlisted::default(),
    };
    walk.directory(dir, "", 0);

    let Walk { files, diagnostics, unlisted, .. } = walk;
    let mut loaded = Loaded { diagnostics, unlisted, ..Loaded::default() };
    for (name, files) in files {
        let outcome = match files.as_slice() {
            [file] => read(file).and_then(|text| parse_filter(&name, file, &text)),
            // Which of them is meant is not for us to guess.
            files => Err(twice(&name, files)),
        };
        match outcome {
            Ok(filter) => {
                loaded.diagnostics.extend(filter.warnings.iter().cloned());
                loaded.filters.0.insert(name, Arc::new(filter));
            }
            Err(diagnostics) => {
                loaded.give_reason(&name, &diagnostics);
                loaded.diagnostics.extend(diagnostics);
                loaded.broken.insert(name);
            }
        }
    }
    loaded
}

impl Loaded {
    /// Refuses the protected streams: for a sidecar whose settings name nobody who could vouch for
    /// a caller. Where the file was public before, that is taken away: it was read, and says so.
    #[must_use]
    pub fn without_source(mut self) -> Loaded {
        let filters = std::mem::take(&mut self.filters.0);
        for (name, filter) in filters {
            match &filter.needs_source {
                Some(diagnostic) => {
                    self.give_reason(&name, std::slice::from_ref(diagnostic));
                    self.diagnostics.push(diagnostic.clone());
                    self.refused.insert(name);
                }
                None => {
                    self.filters.0.insert(name, filter);
                }
            }
        }
        self
    }

    fn give_reason(&mut self, name: &str, diagnostics: &[Diagnostic]) {
        let Some(first) = diagnostics.iter().find(|diagnostic| diagnostic.is_error()) else {
            return;
        };
        let reason = format!("{}: {}", first.origin, first.message);
        self.reasons.insert(name.to_owned(), reason);
    }
}

fn twice(name: &str, files: &[PathBuf]) -> Vec<Diagnostic> {
    let first = files.first().map(|file| file.display().to_string()).unwrap_or_default();
    files
        .iter()
        .skip(1)
        .map(|file| {
            error(file, format!("the stream `{name}` is also declared by {first}"))
                .hint("keep one of them, or rename one")
        })
        .collect()
}

/// Extensions that look like ours and are other formats.
const OTHER_FORMATS: [&str; 2] = ["xml", "toml"];

/// A file whose name is nearly that of a filter file: its writer surely thinks that it is one.
fn near_miss(path: &Path, file_name: &str) -> Option<Diagnostic> {
    let (stem, extension) = file_name.rsplit_once('.')?;
    // What editors keep beside a file for a while: `a.yaml~`, `#a.yaml#`, `a.yaml___jb_tmp___`.
    if !extension.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return None;
    }
    // `a.yaml.txt`, as editors on Windows save it.
    let inner = stem.rsplit_once('.').filter(|_| matches!(extension, "txt" | "TXT"));
    let (stem, extension) = inner.unwrap_or((stem, extension));
    let lower = extension.to_ascii_lowercase();
    let known = match EXTENSIONS.into_iter().find(|known| *known == lower) {
        Some(known) => known,
        None if inner.is_some() || OTHER_FORMATS.contains(&lower.as_str()) || lower.len() < 3 => {
            return None;
        }
        None => nearest(&lower, EXTENSIONS)?,
    };
    let message = format!("`{file_name}` is not read: filter files end with .yaml, .yml or .json");
    let warning = Diagnostic::of_file(Severity::Warning, path, message);
    Some(warning.hint(format!("rename it to `{stem}.{known}`")))
}

fn error(file: &Path, message: String) -> Diagnostic {
    Diagnostic::of_file(Severity::Error, file, message)
}

struct Walk {
    /// By stream name; more than one file is an error.
    files: BTreeMap<String, Vec<PathBuf>>,
    count: usize,
    /// The real paths of the directories on the way down, against links that go in circles.
    visited: Vec<PathBuf>,
    diagnostics: Vec<Diagnostic>,
    unlisted: Unlisted,
}

impl Walk {
    fn directory(&mut self, dir: &Path, prefix: &str, depth: usize) {
        if let Err(failure) = self.enter(dir, prefix, depth) {
            self.unlisted.0.push(prefix.to_owned());
            let message = format!("cannot read the directory: {failure}");
            let hint = match failure.kind() {
                io::ErrorKind::NotADirectory => "name the directory that the file is in",
                _ => "it must exist and be readable",
            };
            self.diagnostics.push(error(dir, message).hint(hint));
        }
    }

    fn enter(&mut self, dir: &Path, prefix: &str, depth: usize) -> io::Result<()> {
        let real = fs::canonicalize(dir)?;
        if self.visited.contains(&real) {
            let message = "the directory contains itself through a link".to_owned();
            self.diagnostics.push(error(dir, message).hint("remove the link"));
            return Ok(());
        }
        if depth > MAX_DEPTH {
            let message = format!("more than {MAX_DEPTH} directories deep");
            self.diagnostics.push(error(dir, message).hint("move the files up"));
            return Ok(());
        }
        let mut entries: Vec<PathBuf> =
            fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
        // The order of a directory is an accident; that of the diagnostics is not.
        entries.sort();
        self.visited.push(real);
        for path in entries {
            self.entry(&path, prefix, depth);
        }
        self.visited.pop();
        Ok(())
    }

    fn entry(&mut self, path: &Path, prefix: &str, depth: usize) {
        let Some(file_name) = path.file_name() else { return };
        let file_name = file_name.to_string_lossy();
        if file_name.starts_with('.') {
            return;
        }
        let (stem, is_filter) = match file_name.rsplit_once('.') {
            Some((stem, extension)) if EXTENSIONS.contains(&extension) => (stem, true),
            _ => (&*file_name, false),
        };
        // Follows links, also a link to a directory.
        let metadata = match fs::metadata(path) {
            Ok(metadata) => metadata,
            // Reading it says why, and makes its stream a broken one, not a removed one.
            Err(_) if is_filter => {
                if let Some(name) = self.segment(path, prefix, stem) {
                    self.add(name, path);
                }
                return;
            }
            // A dangling link that is nothing of ours.
            Err(_) => return,
        };
        if metadata.is_dir() {
            // A directory may be called `a.yaml`, too.
            let Some(prefix) = self.segment(path, prefix, &file_name) else { return };
            return self.directory(path, &format!("{prefix}/"), depth + 1);
        }
        if !is_filter {
            self.diagnostics.extend(near_miss(path, &file_name));
            return;
        }
        let Some(name) = self.segment(path, prefix, stem) else { return };
        self.add(name, path);
    }

    fn add(&mut self, name: String, path: &Path) {
        self.count += 1;
        if self.count == MAX_FILES + 1 {
            // Of any name.
            self.unlisted.0.push(String::new());
            let message = format!("more than {MAX_FILES} filter files; the rest is not read");
            self.diagnostics.push(error(path, message));
        }
        if self.count <= MAX_FILES {
            self.files.entry(name).or_default().push(path.to_owned());
        }
    }

    /// The name so far with one more segment, where that is a good one; several of them, where `__`
    /// stands for a `/`.
    fn segment(&mut self, path: &Path, prefix: &str, segment: &str) -> Option<String> {
        let segment = segment.replace("__", "/");
        let mut parts = segment.split('/');
        let name = format!("{prefix}{segment}");
        if !parts.all(|part| !part.is_empty() && part.chars().all(is_good))
            || name.len() > MAX_NAME_BYTES
            // It is asked for the description of all streams.
            || name == "asyncapi.json"
        {
            let hint = format!(
                "streams are named by their path: use letters, digits and _ . -, \
                 at most {MAX_NAME_BYTES} of them; __ stands for / between two names"
            );
            let message = format!("`{}` cannot be a stream's name", name.escape_debug());
            self.diagnostics.push(error(path, message).hint(hint));
            return None;
        }
        Some(name)
    }
}

/// Whether a file of this path below the directory, without its extension, makes a stream.
pub fn is_stream_name(name: &str) -> bool {
    let is_part =
        |part: &str| !part.is_empty() && !part.starts_with('.') && part.chars().all(is_good);
    name.len() <= MAX_NAME_BYTES
        && !name.contains("__")
        && name.split('/').count() <= MAX_DEPTH
        && name.split('/').all(is_part)
}

/// The characters of a stream's name, between its `/`.
fn is_good(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '.' || c == '-'
}

/// Reads one file, within bounds.
fn read(path: &Path) -> Result<String, Vec<Diagnostic>> {
    use io::Read;
    let failed = |message: String| vec![error(path, message)];
    let cannot_read = |failure: io::Error| failed(format!("cannot read the file: {failure}"));
    // Opening a pipe would wait for a writer.
    if !fs::metadata(path).map_err(cannot_read)?.is_file() {
        return Err(failed("cannot read the file: not a regular file".to_owned()));
    }
    let file = fs::File::open(path).map_err(cannot_read)?;
    let mut bytes = Vec::new();
    file.take(yaml::MAX_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(cannot_read)?;
    if bytes.len() > yaml::MAX_BYTES {
        let length = fs::metadata(path).map_err(cannot_read)?.len();
        let most = yaml::MAX_BYTES;
        return Err(failed(format!("the file has {length} bytes, more than the {most} allowed")));
    }
    String::from_utf8(bytes).map_err(|_| failed("the file is not UTF-8".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_listed_hides_its_own_streams() {
        let unlisted = Unlisted(vec!["tenants/".to_owned()]);
        let names = ["tenants/a", "tenants", "orders"];
        assert_eq!(names.map(|name| unlisted.may_hold(name)), [true, false, false]);
        assert!(Unlisted(vec![String::new()]).may_hold("orders"));
        assert!(!Unlisted::default().may_hold("orders"));
    }
}
