//! Files that are read again when what they hold changes: whether they were overwritten, renamed, or
//! replaced through a symbolic link as Kubernetes does.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::path::PathBuf;
use std::time::Duration;

use tokio::task::JoinHandle;

/// How often it is looked whether the files have changed.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Some files, and what they held when they were looked at last. They may hold secrets: nothing of them
/// is kept, and `Debug` shows their names.
#[derive(Clone)]
pub struct Watched {
    files: Vec<PathBuf>,
    hasher: RandomState,
    /// `None` while one of them cannot be read.
    digest: Option<u64>,
    /// Looks in a row at which one of them could not be read.
    unreadable: u32,
}

impl Watched {
    /// To be made before the files are read: what changes meanwhile is seen as a change then.
    pub fn new(files: Vec<PathBuf>) -> Watched {
        let hasher = RandomState::new();
        let digest = digest(&files, &hasher);
        Watched { files, hasher, digest, unreadable: 0 }
    }

    /// Waits until the files hold something else. Also when they cannot be read any more, once, so that
    /// this can be told; not at once, since somebody may be just replacing one of them.
    pub async fn changed(&mut self) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let (files, hasher) = (self.files.clone(), self.hasher.clone());
            // Files may be on a disk that stalls.
            let looking = tokio::task::spawn_blocking(move || digest(&files, &hasher));
            match finished(looking).await {
                Some(Some(digest)) => {
                    self.unreadable = 0;
                    if self.digest.replace(digest) != Some(digest) {
                        return;
                    }
                }
                Some(None) => {
                    self.unreadable = self.unreadable.saturating_add(1);
                    if self.unreadable == 2 {
                        return;
                    }
                }
                None => {}
            }
        }
    }
}

impl fmt::Debug for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Watched").field(&self.files).finish()
    }
}

/// What a reading came to, whose panic is one of this task; `None`: the process ends.
pub async fn finished<T>(reading: JoinHandle<T>) -> Option<T> {
    match reading.await {
        Ok(read) => Some(read),
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => None,
    }
}

/// One number for what the files hold; `None` while one of them cannot be read.
fn digest(files: &[PathBuf], hasher: &RandomState) -> Option<u64> {
    let held: Vec<Vec<u8>> =
        files.iter().map(|file| std::fs::read(file).ok()).collect::<Option<_>>()?;
    Some(hasher.hash_one(held))
}
