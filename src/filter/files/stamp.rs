//! Whether a directory of filter files may have changed, without reading the files: names, sizes
//! and times. Of other files only the names: one that is nearly a filter file's is told of.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::filter::directory::{EXTENSIONS, MAX_DEPTH, MAX_FILES};

/// File systems count time in steps, some of a second or two: of two changes within one step the
/// second one may leave no trace.
const STEP_SECONDS: i64 = 3;

/// What a directory looks like from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    looks: u64,
    /// Whether the newest change is so long ago that another one would show.
    is_settled: bool,
}

impl Stamp {
    /// Whether the files are surely what they were when `before` was taken. It has to have been
    /// taken before they were read.
    pub fn is_unchanged_since(&self, before: &Stamp) -> bool {
        before.is_settled && before.looks == self.looks
    }
}

/// Takes the stamp of a directory, as it is read by [`super::load_directory`]: links are followed,
/// names with a dot in front passed over.
pub fn stamp(dir: &Path) -> Stamp {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map_or(0, |now| i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
    let mut walk = Walk { hasher: DefaultHasher::new(), newest: i64::MIN, entries: 0 };
    walk.directory(dir, 0);
    let is_settled = walk.newest < now.saturating_sub(STEP_SECONDS);
    Stamp { looks: walk.hasher.finish(), is_settled }
}

struct Walk {
    hasher: DefaultHasher,
    /// When the newest change was made, in seconds.
    newest: i64,
    entries: usize,
}

impl Walk {
    fn directory(&mut self, dir: &Path, depth: usize) {
        let Ok(entries) = fs::read_dir(dir) else {
            return "unreadable".hash(&mut self.hasher);
        };
        let mut paths: Vec<_> = entries.map(|entry| entry.map(|entry| entry.path()).ok()).collect();
        paths.sort();
        for path in paths {
            let Some(path) = path else {
                "unreadable".hash(&mut self.hasher);
                continue;
            };
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let is_filter =
                name.rsplit_once('.').is_some_and(|(_, extension)| EXTENSIONS.contains(&extension));
            self.entries += 1;
            // A directory that is full of other things is looked at by reading.
            if name.starts_with('.') || self.entries > 2 * MAX_FILES {
                continue;
            }
            match fs::metadata(&path) {
                Ok(metadata) if metadata.is_dir() => {
                    path.hash(&mut self.hasher);
                    if depth < MAX_DEPTH {
                        self.directory(&path, depth + 1);
                    }
                }
                Ok(metadata) if is_filter => self.file(&path, &metadata),
                Err(error) if is_filter => (path, error.kind()).hash(&mut self.hasher),
                _ => path.hash(&mut self.hasher),
            }
        }
    }

    fn file(&mut self, path: &Path, metadata: &fs::Metadata) {
        let times =
            (metadata.mtime(), metadata.mtime_nsec(), metadata.ctime(), metadata.ctime_nsec());
        let place = (metadata.dev(), metadata.ino());
        // Rights too: a file that cannot be read may be readable now.
        (path, place, metadata.len(), metadata.mode(), times).hash(&mut self.hasher);
        // The time that nobody can set.
        self.newest = self.newest.max(metadata.ctime());
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// As it will be when a while has passed.
    fn later(dir: &Path) -> Stamp {
        Stamp { is_settled: true, ..stamp(dir) }
    }

    #[test]
    fn changes_show() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let mut before = later(dir.path());
        let mut expect = |is_changed: bool, what: &str| {
            let now = later(dir.path());
            assert_eq!(!now.is_unchanged_since(&before), is_changed, "{what}");
            before = now;
        };
        fs::write(at("a.yaml"), "a").unwrap();
        expect(true, "a new file");
        fs::write(at("a.yaml"), "b").unwrap();
        let old = SystemTime::now() - Duration::from_secs(60);
        fs::File::open(at("a.yaml")).unwrap().set_modified(old).unwrap();
        expect(true, "another text of the same length");
        fs::write(at("a.yaml.txt"), "x").unwrap();
        expect(true, "a name that is told of");
        fs::write(at("a.yaml.txt"), "longer").unwrap();
        expect(false, "another text that nobody reads");
        fs::write(at(".a.yaml.swp"), "x").unwrap();
        expect(false, "a hidden file");
        fs::create_dir(at("shop")).unwrap();
        fs::write(at("shop/b.json"), "{}").unwrap();
        expect(true, "a file further down");
        fs::rename(at("a.yaml"), at("c.yaml")).unwrap();
        expect(true, "another name");
        fs::remove_file(at("c.yaml")).unwrap();
        expect(true, "one less");
        expect(false, "nothing");
    }

    #[test]
    fn a_file_that_was_just_written_may_change_again_unseen() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a.yaml"), "a").unwrap();
        let before = stamp(dir.path());
        assert!(!stamp(dir.path()).is_unchanged_since(&before));
    }
}
