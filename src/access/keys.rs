//! The keys with which tokens are verified. An issuer's set is fetched, kept and refreshed, and
//! fetched again for a key that it did not contain.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Uri, header};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::info;

use super::http::Http;
use super::key_file::FileKey;
use super::limited::Limited;
use super::once::Once;
use super::token::{self, Keys};
use crate::config::JwtKey;
use crate::tasks::Tasks;

/// A set older than this is fetched again; meanwhile the old one is used.
const REFRESH: Duration = Duration::from_secs(300);
/// A set older than this is not used: a withdrawn key must not stay valid while the issuer is
/// down.
const MAX_AGE: Duration = Duration::from_secs(3600);
/// How long an issuer that did not answer is not asked again.
const PAUSE: Duration = Duration::from_secs(1);
const TIMEOUT: Duration = Duration::from_secs(5);
const MAX_BYTES: usize = 1024 * 1024;
/// The name of the task that reads a set.
const READING: &str = "key-set";
/// Anybody can make up key ids: so many fetches at once for ids that the set lacks, ...
const MAX_EXTRA: u32 = 5;
/// ... and one more after each of these.
const EXTRA_EVERY: Duration = Duration::from_secs(10);
/// Where no further fetch is allowed: a set that was asked for so shortly before a token came is as good
/// as one that was asked for because of it.
const RECENT: Duration = Duration::from_secs(1);

/// The keys in force.
#[derive(Debug)]
pub enum KeySource {
    /// No key was read, so no token is good.
    None,
    Fixed(Arc<Keys>),
    File(FileKey),
    Set(Arc<KeySet>),
}

impl KeySource {
    /// A key set is read when it is first needed, or by [`super::Guard::keep_keys`].
    pub fn new(key: JwtKey, http: Http, tasks: Tasks) -> KeySource {
        match key {
            JwtKey::Fixed(key) => KeySource::Fixed(Arc::new(Keys::Fixed(key))),
            JwtKey::File { key, file, watched } => {
                KeySource::File(FileKey::new(key, file, watched))
            }
            JwtKey::Unread => KeySource::None,
            JwtKey::Jwks(url) => KeySource::Set(Arc::new(KeySet::new(url, http, tasks))),
        }
    }

    /// The keys; none if the issuer has not answered for too long.
    pub async fn current(&self) -> Option<Arc<Keys>> {
        match self {
            KeySource::None => None,
            KeySource::Fixed(keys) => Some(keys.clone()),
            KeySource::File(key) => Some(key.current()),
            KeySource::Set(set) => set.current().await,
        }
    }

    /// Reads a key again whenever its file has changed; ends at once where there is no file.
    pub async fn follow(&self) {
        if let KeySource::File(key) = self {
            key.follow().await;
        }
    }

    /// The keys for a token that came at `came_at` and names one that was not known, after another request
    /// to the issuer if one is needed and allowed. A token whose key is not among these is made up, or
    /// its key was withdrawn. `None`: nobody can say, since the issuer gave no answer that is new enough.
    pub async fn another_look(&self, came_at: Instant) -> Option<Arc<Keys>> {
        match self {
            KeySource::None => None,
            KeySource::Fixed(keys) => Some(keys.clone()),
            KeySource::File(key) => Some(key.current()),
            KeySource::Set(set) => set.another_look(came_at).await,
        }
    }
}

/// An issuer's published keys.
#[derive(Debug)]
pub struct KeySet {
    url: Uri,
    http: Http,
    tasks: Tasks,
    // Held for a look or a swap, never across an await.
    state: Mutex<State>,
    fetching: Once<()>,
    trouble: Limited,
}

#[derive(Debug)]
struct State {
    keys: Option<Arc<Keys>>,
    fetched_at: Instant,
    failed_at: Option<Instant>,
    extra: u32,
    extra_since: Instant,
}

impl State {
    /// Whether the issuer is to be asked because of a token that came then; that is counted.
    fn is_look_due(&mut self, came_at: Instant) -> bool {
        let is_paused = self.failed_at.is_some_and(|at| at.elapsed() < PAUSE);
        let is_asked_since = self.keys.is_some() && self.fetched_at >= came_at;
        !is_paused && !is_asked_since && self.take_extra()
    }

    fn take_extra(&mut self) -> bool {
        while self.extra < MAX_EXTRA && self.extra_since.elapsed() >= EXTRA_EVERY {
            self.extra += 1;
            self.extra_since += EXTRA_EVERY;
        }
        if self.extra == MAX_EXTRA {
            self.extra_since = Instant::now();
        }
        let is_allowed = self.extra > 0;
        self.extra = self.extra.saturating_sub(1);
        is_allowed
    }

    /// The keys, unless they may lack one that the issuer already signed a token with that came then.
    fn seen_since(&self, came_at: Instant) -> Option<Arc<Keys>> {
        let is_new_enough = self.failed_at.is_none() && self.fetched_at + RECENT >= came_at;
        self.keys.clone().filter(|_| is_new_enough)
    }
}

impl KeySet {
    fn new(url: Uri, http: Http, tasks: Tasks) -> KeySet {
        let now = Instant::now();
        let state = State {
            keys: None,
            fetched_at: now,
            failed_at: None,
            extra: MAX_EXTRA,
            extra_since: now,
        };
        KeySet {
            url,
            http,
            tasks,
            state: Mutex::new(state),
            fetching: Once::default(),
            trouble: Limited::default(),
        }
    }

    async fn current(self: &Arc<KeySet>) -> Option<Arc<Keys>> {
        let (keys, age, is_paused) = {
            let state = self.state.lock();
            let is_paused = state.failed_at.is_some_and(|at| at.elapsed() < PAUSE);
            (state.keys.clone(), state.fetched_at.elapsed(), is_paused)
        };
        let usable = keys.filter(|_| age < MAX_AGE);
        if usable.is_some() && age < REFRESH || is_paused {
            return usable;
        }
        if usable.is_some() {
            self.begin_to_fetch();
            return usable;
        }
        self.fetch().await;
        self.state.lock().keys.clone()
    }

    async fn another_look(self: &Arc<KeySet>, came_at: Instant) -> Option<Arc<Keys>> {
        // Not across the await.
        let is_due = self.state.lock().is_look_due(came_at);
        if is_due {
            self.fetch().await;
        }
        self.state.lock().seen_since(came_at)
    }

    async fn fetch(self: &Arc<KeySet>) {
        let mut answer = self.begin_to_fetch();
        // An error is a panic, or the end of the process.
        let _ = answer.wait_for(Option::is_some).await;
    }

    fn begin_to_fetch(self: &Arc<KeySet>) -> watch::Receiver<Option<()>> {
        let me = self.clone();
        self.fetching.begin((&self.tasks, READING), || async move {
            let mut attempt = Attempt { set: me, is_over: false };
            attempt.set.fetch_now().await;
            attempt.is_over = true;
        })
    }

    async fn fetch_now(&self) {
        let began = Instant::now();
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        let answer = self.http.get(&self.url, headers, MAX_BYTES, TIMEOUT).await;
        let keys = answer.and_then(|answer| match answer.status {
            200 => token::read_key_set(&answer.body).map_err(str::to_owned),
            status => Err(format!("the answer is {status}")),
        });
        let mut state = self.state.lock();
        match keys {
            Ok(keys) => {
                info!(count = keys.len(), "auth.jwt.jwks_url: keys read");
                state.keys = Some(Arc::new(Keys::Set(keys)));
                state.fetched_at = began;
                state.failed_at = None;
            }
            Err(reason) => {
                self.trouble.warn(&format!("auth.jwt.jwks_url cannot be used: {reason}"));
                state.failed_at = Some(Instant::now());
                // Too old is too old, also where the next question waits.
                if state.fetched_at.elapsed() >= MAX_AGE {
                    state.keys = None;
                }
            }
        }
    }
}

/// A set that is being read.
struct Attempt {
    set: Arc<KeySet>,
    is_over: bool,
}

impl Drop for Attempt {
    /// In a panic: the next one comes after a pause, as after any other trouble.
    fn drop(&mut self) {
        if !self.is_over {
            self.set.state.lock().failed_at = Some(Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;
    use crate::metrics::Metrics;

    fn set() -> KeySet {
        KeySet::new(Uri::from_static("http://127.0.0.1:9/"), Http::default(), Tasks::default())
    }

    #[tokio::test(start_paused = true)]
    async fn looks_for_made_up_keys_are_limited() {
        let set = set();
        let looks = || {
            let mut state = set.state.lock();
            (0..20).filter(|_| state.is_look_due(Instant::now())).count()
        };
        assert_eq!(looks(), MAX_EXTRA as usize);
        tokio::time::advance(EXTRA_EVERY * 2).await;
        assert_eq!(looks(), 2);
        tokio::time::advance(EXTRA_EVERY * 1000).await;
        set.state.lock().failed_at = Some(Instant::now());
        assert_eq!(looks(), 0, "it did not answer just now");
        tokio::time::advance(PAUSE).await;
        assert_eq!(looks(), MAX_EXTRA as usize);
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_is_made_up_only_if_the_issuer_was_heard_since() {
        let set = set();
        let mut state = set.state.lock();
        assert!(state.seen_since(Instant::now()).is_none(), "nothing was read");
        state.keys = Some(Arc::new(Keys::Set(Vec::new())));
        let fetched_at = Instant::now();
        state.fetched_at = fetched_at;
        assert!(!state.is_look_due(fetched_at), "it was asked since the token came");
        assert!(state.seen_since(fetched_at + RECENT).is_some());
        let later = fetched_at + RECENT + Duration::from_millis(1);
        assert!(state.seen_since(later).is_none(), "it may have a new key by then");
        assert!(state.is_look_due(later));
        state.failed_at = Some(Instant::now());
        assert!(state.seen_since(fetched_at).is_none(), "it was asked, and did not answer");
    }

    #[tokio::test(start_paused = true)]
    async fn a_refresh_that_panics_is_counted_and_comes_again_while_the_old_set_is_used() {
        // Connects, and is not answered.
        let issuer = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", issuer.local_addr().unwrap()).parse().unwrap();
        let metrics = Metrics::default();
        let tasks = Tasks::new(&metrics);
        let set = Arc::new(KeySet::new(url, Http::default(), tasks.clone()));
        set.state.lock().keys = Some(Arc::new(Keys::Set(Vec::new())));
        let panics = || metrics.task_panics_total.with_label_values(&[READING]).get();
        for count in 1..=2 {
            tokio::time::advance(REFRESH).await;
            tasks.make_panic(READING);
            assert!(set.current().await.is_some());
            tasks.finished().await;
            assert_eq!(panics(), count);
            // Not at once: who asks meanwhile has the old set.
            assert!(set.current().await.is_some());
            tasks.finished().await;
            assert!(set.state.lock().failed_at.is_some());
        }
    }
}
