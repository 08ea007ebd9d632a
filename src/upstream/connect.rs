//! The one MongoDB client of the process, made in the background.
//!
//! Making it can take a while (a `mongodb+srv` name has to be resolved), and the proxy does not
//! wait for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mongodb::Client;
use mongodb::error::Error;
use mongodb::options::ClientOptions;
use tokio::sync::{Mutex, watch};
use tracing::{debug, info, warn};

use super::budget::SMALLEST_POOL;
use super::deployment::{self, Deployment, DeploymentError, HostReport};
use super::failure::{self, Failure};
use crate::config::MongodbUri;
use crate::watched::finished;

/// How long a server is looked for, unless the URI says `serverSelectionTimeoutMS`.
const SERVER_SELECTION_TIMEOUT: Duration = Duration::from_secs(10);
const UNRESOLVED: &str = "the host of mongodb.uri cannot be resolved";
/// Pause before a name is resolved again.
const RETRY: Duration = Duration::from_secs(2);
/// How long the driver may try alone, and the pause between looks at the hosts after that.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Looks in a row at which every host refuses connections before that is believed: a server that
/// starts together with the sidecar has a moment.
const REFUSALS: u32 = 3;
/// A client this young is not replaced: another feed has just done it.
const YOUNG: Duration = Duration::from_secs(1);

/// Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub struct Server {
    connected: Arc<watch::Sender<State>>,
    /// Held while the file is read: whoever comes meanwhile goes without.
    last_reading: Arc<Mutex<LastReading>>,
    /// Older than `$changeStreamSplitLargeEvent`, as far as is known.
    lacks_split: Arc<AtomicBool>,
}

#[derive(Debug, Clone)]
enum State {
    Connecting,
    /// The connection string is of no use, and will stay so.
    Refused(String),
    Connected(Box<Connected>),
}

#[derive(Debug, Clone)]
struct Connected {
    client: Client,
    options: ClientOptions,
    uri: MongodbUri,
    made_at: Instant,
}

/// The last time that `mongodb.uri_file` was read again.
#[derive(Debug, Default)]
struct LastReading {
    at: Option<Instant>,
    /// What was wrong with it, if something was.
    trouble: Option<String>,
}

/// Why MongoDB cannot be used at the start.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// Nothing answers there.
    #[error("{0}")]
    Unavailable(String),
    /// A server answers, but an operator has to act first.
    #[error("{0}")]
    Unusable(String),
    /// The connection string itself is wrong.
    #[error("mongodb.uri cannot be used: {0}")]
    Invalid(String),
}

impl Default for Server {
    fn default() -> Server {
        Server {
            connected: Arc::new(watch::Sender::new(State::Connecting)),
            last_reading: Arc::default(),
            lacks_split: Arc::default(),
        }
    }
}

impl Server {
    /// Makes the client as soon as the URI's name can be resolved, with so many connections to each
    /// server at most, unless the URI says `maxPoolSize`.
    ///
    /// # Errors
    /// A URI that is none, in words; retrying does not help.
    pub async fn connect(&self, uri: &MongodbUri, pool: u32) -> Result<(), String> {
        let (text, left_out) = uri.for_driver();
        if !left_out.is_empty() {
            let options = left_out.join(", ");
            info!(options, "options in mongodb.uri that only other drivers know are ignored");
        }
        let error = loop {
            match ClientOptions::parse(&text).await {
                Ok(mut options) => {
                    adapt(&mut options);
                    // Each change stream that waits for news holds a connection, and the driver
                    // has ten where it is not told otherwise.
                    let pool = *options.max_pool_size.get_or_insert(pool);
                    if (1..SMALLEST_POOL).contains(&pool) {
                        warn!(
                            "maxPoolSize={pool} in mongodb.uri is too small: it is {SMALLEST_POOL} here"
                        );
                        options.max_pool_size = Some(SMALLEST_POOL);
                    }
                    match Connected::new(options, uri.clone()) {
                        Ok(connected) => {
                            self.connected.send_replace(State::Connected(Box::new(connected)));
                            return Ok(());
                        }
                        Err(error) => break error,
                    }
                }
                Err(error) if Failure::of(&error) == Failure::Unreachable => {
                    let message = failure::message(&error);
                    warn!("{UNRESOLVED}: {message}");
                    tokio::time::sleep(RETRY).await;
                }
                Err(error) => break error,
            }
        };
        let reason = failure::message(&error);
        self.connected.send_replace(State::Refused(reason.clone()));
        Err(reason)
    }

    /// The client, once there is one.
    pub async fn client(&self) -> Client {
        self.connected().await.client
    }

    async fn connected(&self) -> Box<Connected> {
        let mut connected = self.connected.subscribe();
        loop {
            if let State::Connected(connected) = &*connected.borrow_and_update() {
                return connected.clone();
            }
            // The sender lives in `self`, so there is no error to hear of.
            let _ = connected.changed().await;
        }
    }

    /// Whether the server said that it cannot split large events (before 6.0.9).
    pub fn lacks_split(&self) -> bool {
        self.lacks_split.load(Ordering::Relaxed)
    }

    /// Remembers a refusal of `$changeStreamSplitLargeEvent`, so that later cursors do without it.
    pub fn note_lacks_split(&self) {
        self.lacks_split.store(true, Ordering::Relaxed);
    }

    /// After trouble it may be another server, or a newer one.
    pub fn forget_version(&self) {
        self.lacks_split.store(false, Ordering::Relaxed);
    }

    /// Resolves when there will never be a client, with the reason.
    async fn refused(&self) -> String {
        let mut connected = self.connected.subscribe();
        loop {
            if let State::Refused(reason) = &*connected.borrow_and_update() {
                return reason.clone();
            }
            // As above.
            let _ = connected.changed().await;
        }
    }

    /// Makes a new client in the place of the old.
    ///
    /// A driver that was told of a replica set forgets for good a host that turns out to be a
    /// standalone server or of another set, and the hosts of the URI once the set calls its members
    /// otherwise; and it takes the primary of a set that was set up anew for an outdated one. When
    /// somebody has made it right, only a new client looks there again. Nor does a driver sign in
    /// again on a connection whose user was dropped and created again. What `mongodb.uri_file` holds
    /// by then counts.
    pub async fn renew(&self) {
        let State::Connected(old) = self.connected.borrow().clone() else {
            return;
        };
        if old.made_at.elapsed() < YOUNG {
            return;
        }
        match self.read_again(&old).await {
            Some((uri, options)) => self.replace(&old, options, uri),
            None => self.replace(&old, old.options.clone(), old.uri.clone()),
        }
    }

    /// After an error of MongoDB: where it refused the credentials, and `mongodb.uri_file` holds another
    /// connection string by now, makes a client of that one.
    pub async fn note(&self, error: &Error) {
        if Failure::of(error) != Failure::Authentication {
            return;
        }
        let State::Connected(old) = self.connected.borrow().clone() else {
            return;
        };
        if let Some((uri, options)) = self.read_again(&old).await {
            self.replace(&old, options, uri);
        }
    }

    /// What `mongodb.uri_file` holds now, if that is usable and not what the old client was made of.
    async fn read_again(&self, old: &Connected) -> Option<(MongodbUri, ClientOptions)> {
        let mut last = self.last_reading.try_lock().ok()?;
        // Clients may cause this, and the file does not change so often.
        if last.at.is_some_and(|at| at.elapsed() < YOUNG) {
            return None;
        }
        let uri = old.uri.clone();
        // It may be on a disk that stalls.
        let read = finished(tokio::task::spawn_blocking(move || uri.read_again())).await??;
        let parsed = parse_again(read, old).await;
        last.at = Some(Instant::now());
        match &parsed {
            Ok(None) => {}
            Ok(Some(_)) => {
                info!("mongodb.uri_file was read again, since the old one does not help")
            }
            Err(reason) if last.trouble.as_ref() == Some(reason) => {}
            Err(reason) => warn!(
                "mongodb.uri_file cannot be used: {reason}; the old connection string stays in use"
            ),
        }
        last.trouble = parsed.as_ref().err().cloned();
        parsed.ok().flatten()
    }

    /// Puts a new client in the place of the old, unless somebody else has.
    fn replace(&self, old: &Connected, options: ClientOptions, uri: MongodbUri) {
        let new = match Connected::new(options, uri) {
            Ok(new) => new,
            Err(error) => {
                let error = failure::message(&error);
                return debug!(error, "the client stays as it is");
            }
        };
        // Cursors of the old client hold it until they are closed.
        self.connected.send_if_modified(|state| {
            let is_old =
                matches!(state, State::Connected(current) if current.made_at == old.made_at);
            if is_old {
                *state = State::Connected(Box::new(new));
            }
            is_old
        });
    }

    /// Asks the deployment what it is. Ends early when a look at the hosts shows that the driver
    /// waits in vain.
    ///
    /// # Errors
    /// [`DeploymentError`], each with what to do.
    pub async fn ask(&self) -> Result<Deployment, DeploymentError> {
        let Connected { client, options, .. } = *tokio::select! {
            connected = self.connected() => connected,
            () = tokio::time::sleep(SERVER_SELECTION_TIMEOUT) => {
                let (failure, reason) = (Failure::Unreachable, UNRESOLVED.to_string());
                return Err(DeploymentError::InVain { failure, reason });
            }
            reason = self.refused() => {
                return Err(DeploymentError::InVain { failure: Failure::ConnectionString, reason });
            }
        };
        tokio::select! {
            asked = deployment::ask(&client) => asked,
            in_vain = look_until_in_vain(&options) => Err(in_vain),
        }
    }

    /// Asks the server what it is, once.
    ///
    /// # Errors
    /// [`ProbeError`], with what to do.
    pub async fn probe(&self) -> Result<Deployment, ProbeError> {
        let mut connected = self.connected.subscribe();
        let known = connected.wait_for(|state| !matches!(state, State::Connecting));
        let options = match tokio::time::timeout(SERVER_SELECTION_TIMEOUT, known).await {
            Ok(Ok(state)) => match &*state {
                State::Connected(connected) => connected.options.clone(),
                State::Refused(reason) => return Err(ProbeError::Invalid(reason.clone())),
                State::Connecting => unreachable!("it was waited for"),
            },
            _ => return Err(ProbeError::Unavailable(UNRESOLVED.to_string())),
        };
        let error = match self.ask().await {
            Ok(deployment) => return Ok(deployment),
            Err(error) => error,
        };
        if error.failure() != Failure::Unreachable {
            let advice = error.failure().advice("admin");
            return Err(ProbeError::Unusable(error.explain(None, &advice)));
        }
        match deployment::look(&options).await {
            HostReport::InVain(_, reason) | HostReport::Member(reason) => {
                Err(ProbeError::Unusable(reason))
            }
            HostReport::Mute(reason) => Err(ProbeError::Unavailable(reason)),
            HostReport::Unresolved => Err(ProbeError::Unavailable(format!(
                "the name cannot be resolved: {}",
                deployment::hosts(&options)
            ))),
            HostReport::Refused | HostReport::Silent => Err(ProbeError::Unavailable(format!(
                "nothing answers at {}: {}",
                deployment::hosts(&options),
                Failure::Unreachable.advice("")
            ))),
        }
    }

    /// After no server could be chosen: why, as a look at the hosts tells. Where one answers all the
    /// same, the next attempt is made with a new client.
    pub async fn diagnose(&self) -> String {
        let options = self.connected().await.options;
        match deployment::look(&options).await {
            HostReport::InVain(_, reason)
            | HostReport::Member(reason)
            | HostReport::Mute(reason) => {
                self.renew().await;
                reason
            }
            HostReport::Unresolved => {
                format!("the name cannot be resolved: {}", deployment::hosts(&options))
            }
            HostReport::Refused | HostReport::Silent => {
                format!("nothing answers at {}", deployment::hosts(&options))
            }
        }
    }

    /// Closes the connections; cursors have to be closed before.
    pub async fn close(&self) {
        let state = self.connected.borrow().clone();
        if let State::Connected(connected) = state {
            connected.client.shutdown().immediate(true).await;
        }
    }
}

impl Connected {
    fn new(options: ClientOptions, uri: MongodbUri) -> Result<Connected, Error> {
        let client = Client::with_options(options.clone())?;
        Ok(Connected { client, options, uri, made_at: Instant::now() })
    }
}

/// What is the same for every client, whatever the URI says.
fn adapt(options: &mut ClientOptions) {
    options.app_name.get_or_insert_with(|| "sidestream".to_string());
    options.server_selection_timeout.get_or_insert(SERVER_SELECTION_TIMEOUT);
    // When a change stream is resumed by the driver (3.9) and that attempt is tried again, the second
    // one goes without the token, from where the stream once began. Every read here is repeated by us.
    options.retry_reads = Some(false);
    // MongoDB refuses a change stream that is asked for with `local`. What needs another one says so.
    options.read_concern = None;
}

/// A connection string that was read again; `None` if it is the old one.
///
/// # Errors
/// Why it cannot be used, without any part of it.
async fn parse_again(
    read: Result<MongodbUri, String>,
    old: &Connected,
) -> Result<Option<(MongodbUri, ClientOptions)>, String> {
    let uri = read?;
    if uri == old.uri {
        return Ok(None);
    }
    let (text, _) = uri.for_driver();
    // Its name may have to be resolved.
    let parsed = tokio::time::timeout(SERVER_SELECTION_TIMEOUT, ClientOptions::parse(&text)).await;
    let mut options = match parsed {
        Ok(Ok(options)) => options,
        Ok(Err(error)) if Failure::of(&error) != Failure::Unreachable => {
            // The driver's own words may repeat what it does not understand.
            return Err("it holds a connection string that is invalid".to_owned());
        }
        _ => return Err("its host cannot be resolved".to_owned()),
    };
    adapt(&mut options);
    // Change streams were shared out by this one.
    options.max_pool_size = old.options.max_pool_size;
    Ok(Some((uri, options)))
}

async fn look_until_in_vain(options: &ClientOptions) -> DeploymentError {
    let mut refusals = 0;
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        refusals = match deployment::look(options).await {
            HostReport::InVain(failure, reason) => {
                return DeploymentError::InVain { failure, reason };
            }
            HostReport::Refused => refusals + 1,
            HostReport::Member(_)
            | HostReport::Mute(_)
            | HostReport::Unresolved
            | HostReport::Silent => 0,
        };
        if refusals == REFUSALS {
            let reason = format!("nothing listens at {}", deployment::hosts(options));
            return DeploymentError::InVain { failure: Failure::Unreachable, reason };
        }
    }
}
