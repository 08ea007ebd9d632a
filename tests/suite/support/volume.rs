//! A directory of files as Kubernetes mounts a Secret or a ConfigMap.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// Each file is a link through the link `..data`, which is replaced when the contents change.
pub struct Volume {
    dir: tempfile::TempDir,
    version: u32,
}

impl Volume {
    /// With one file.
    pub fn new(name: &str, text: &str) -> Volume {
        let mut volume = Volume { dir: tempfile::tempdir().expect("a directory"), version: 0 };
        volume.swap(name, text);
        symlink(Path::new("..data").join(name), volume.path(name)).expect("a link");
        volume
    }

    /// Where it is.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Gives the file another text, all at once.
    pub fn swap(&mut self, name: &str, text: &str) {
        let old = self.path(&format!("..{}", self.version));
        self.version += 1;
        let new = format!("..{}", self.version);
        std::fs::create_dir(self.path(&new)).expect("a directory");
        std::fs::write(self.path(&new).join(name), text).expect("a file");
        symlink(&new, self.path("..data_tmp")).expect("a link");
        std::fs::rename(self.path("..data_tmp"), self.path("..data")).expect("a link");
        if old.exists() {
            std::fs::remove_dir_all(old).expect("removed");
        }
    }
}
