//! The key of a file, which is read again when the file changes.

use std::sync::Arc;

use jsonwebtoken::DecodingKey;
use parking_lot::Mutex;
use tracing::{info, warn};

use super::token::Keys;
use crate::config::KeyFile;
use crate::watched::{Watched, finished};

/// The key that a file holds, as it was read last.
#[derive(Debug)]
pub struct FileKey {
    file: KeyFile,
    /// The file as it was read first.
    watched: Watched,
    // Held for a look or a swap, never across an await.
    keys: Mutex<Arc<Keys>>,
}

impl FileKey {
    /// Of a key that was just read.
    pub fn new(key: DecodingKey, file: KeyFile, watched: Watched) -> FileKey {
        FileKey { file, watched, keys: Mutex::new(Arc::new(Keys::Fixed(key))) }
    }

    /// The key in force.
    pub fn current(&self) -> Arc<Keys> {
        self.keys.lock().clone()
    }

    /// Reads the file again whenever it has changed; runs until it is dropped. A file that cannot be
    /// read, or holds no key that fits, changes nothing, and is told of once.
    pub async fn follow(&self) {
        let mut watched = self.watched.clone();
        loop {
            watched.changed().await;
            let file = self.file.clone();
            let key_file = file.path().display().to_string();
            match finished(tokio::task::spawn_blocking(move || file.read_again())).await {
                Some(Ok(key)) => {
                    *self.keys.lock() = Arc::new(Keys::Fixed(key));
                    info!(key_file, "the key of tokens was read again");
                }
                Some(Err(error)) => warn!(key_file, error, "the old key of tokens stays in use"),
                None => {}
            }
        }
    }
}
