//! Access control: who the caller is, which pages may open streams, and how many streams there may
//! be.
//!
//! [`Guard::identify`] turns the credentials of a request into a [`Right`]: a [`Caller`] with
//! claims, and how long the right is valid. The filter decides what the claims open
//! (`Filter::bind`). Everything fails closed: without an answer from the authentication service, no
//! caller is admitted.
//!
//! This is the only room that touches keys and the app's answers about its users. No credential and
//! no claim appears in a log, an error or a metric.

pub mod claims;
pub mod credentials;
pub mod forward;
pub(crate) mod http;
mod key_file;
mod keys;
mod limited;
mod once;
pub mod origin;
mod sessions;
pub mod token;

#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use crate::config::{Auth, TokenSource};
use crate::tasks::Tasks;
use claims::Claims;
use credentials::{Credentials, Forwarded};
use forward::{AuthAnswer, CachedAnswer, Forward, Vouched};
use keys::KeySource;
use token::{Rules, TokenError, Verified};

pub(crate) use limited::Limited;
pub use origin::Origin;

/// An authenticated caller.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Whose streams are counted together, as a digest: the subject and its issuer. Who has no
    /// subject is who has the same claims in the same network: never anything that the client may
    /// vary, such as its cookies.
    pub subject: [u8; 32],
    pub claims: Claims,
}

impl Caller {
    /// `address` stands for who has no subject; see [`Caller::subject`].
    pub(crate) fn new(claims: Claims, address: Option<IpAddr>) -> Caller {
        let mut hash = Sha256::new();
        match claims.subject() {
            Some(subject) => {
                let issuer = claims.text("iss").unwrap_or_default();
                hash.update([0]);
                hash.update((issuer.len() as u64).to_le_bytes());
                hash.update(issuer);
                hash.update(subject);
            }
            None => {
                let network = address.map(|address| network_of(address).to_string());
                let network = network.unwrap_or_default();
                hash.update([1]);
                hash.update((network.len() as u64).to_le_bytes());
                hash.update(network);
                hash.update(claims.lasting());
            }
        }
        Caller { subject: hash.finalize().into(), claims }
    }

    /// Whether this is still the same person, as far as the claims say who it is.
    fn is_same_person(&self, other: &Caller) -> bool {
        let name = |caller: &Caller| {
            (caller.claims.subject(), caller.claims.text("iss").map(str::to_owned))
        };
        name(self) == name(other)
    }
}

/// Whose an address is: one network of IPv6 is one customer's, who may take any address in it.
pub(crate) fn network_of(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64)).into(),
    }
}

/// Why a caller is not admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthRefusal {
    /// Brings nothing to say who it is.
    Missing,
    /// Brings a token that is not taken.
    Token(TokenError),
    /// The app does not know who this is.
    Unknown,
    /// The app knows, and says no.
    Forbidden,
    /// The authentication service is unavailable. Temporary.
    Unavailable,
}

impl AuthRefusal {
    /// For the metric `auth_total{result}`.
    pub fn result(self) -> &'static str {
        match self {
            AuthRefusal::Missing => "missing",
            AuthRefusal::Token(_) | AuthRefusal::Unknown => "refused",
            AuthRefusal::Forbidden => "forbidden",
            AuthRefusal::Unavailable => "unavailable",
        }
    }

    /// When several sources refuse, the one to tell: trouble first, since it may pass; then the
    /// one that knows most.
    fn weight(self) -> u8 {
        match self {
            AuthRefusal::Missing => 0,
            AuthRefusal::Unknown => 1,
            AuthRefusal::Token(_) => 2,
            AuthRefusal::Forbidden => 3,
            AuthRefusal::Unavailable => 4,
        }
    }
}

/// The right to listen, for as long as it holds.
#[derive(Debug)]
pub struct Right {
    // A look or a swap; who it is may change a little at a recheck.
    caller: Mutex<Arc<Caller>>,
    /// Whether it is to be asked now whether the right still holds, and nobody has said yet.
    is_recheck_due: AtomicBool,
    until: Until,
}

/// Why a right has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RightEnd {
    /// It expired, or the authentication service refused it.
    Refused,
    /// Nobody has said for `auth.forward.max_outage` whether it still holds. Temporary: whoever comes
    /// back may have it again.
    Unanswered,
}

#[derive(Debug)]
enum Until {
    /// Seconds since 1970.
    Expiry(f64),
    Refused {
        forward: Arc<Forward>,
        vouched: Vouched,
        at: Instant,
    },
}

impl Right {
    /// As of the last answer: a recheck may have brought other claims.
    pub fn caller(&self) -> Arc<Caller> {
        self.caller.lock().clone()
    }

    /// Whether a recheck is due that has not been tried yet: what is written now may be written after
    /// the caller has signed out. True only while [`Right::ended`] waits for the answer.
    pub fn is_recheck_due(&self) -> bool {
        self.is_recheck_due.load(Ordering::Relaxed)
    }

    /// Whether its end is known from its beginning: nobody is asked about it meanwhile.
    pub fn ends_by_time(&self) -> bool {
        matches!(self.until, Until::Expiry(_))
    }

    /// Resolves when the right has ended, with the reason. Where other claims are known of the caller than before,
    /// [`Right::caller`] is another one from then on; whether its streams may go on with that is for
    /// them to say.
    pub async fn ended(&self) -> RightEnd {
        match &self.until {
            Until::Expiry(expires_at) => {
                let remaining = token::remaining(*expires_at, now(), fastrand::f64());
                // A sleep of nothing is not over when it is first looked at.
                if !remaining.is_zero() {
                    tokio::time::sleep(remaining).await;
                }
                RightEnd::Refused
            }
            Until::Refused { forward, vouched, at } => {
                let is_same = |again: &Arc<Caller>| {
                    let mut caller = self.caller.lock();
                    let is_same = caller.is_same_person(again);
                    if is_same && caller.claims != again.claims {
                        *caller = again.clone();
                    }
                    is_same
                };
                forward.watch(vouched.clone(), *at, &self.is_recheck_due, is_same).await
            }
        }
    }
}

/// Identifies callers by the configured sources: tokens, the app, or none.
#[derive(Debug)]
pub struct Guard {
    tokens: Option<Tokens>,
    forward: Option<Arc<Forward>>,
    allowed_origins: Vec<String>,
}

#[derive(Debug)]
struct Tokens {
    from: Vec<TokenSource>,
    keys: KeySource,
    rules: Rules,
}

impl Guard {
    /// Questions run in tasks of this set.
    pub fn new(auth: Auth, tasks: &Tasks) -> Guard {
        let Auth { jwt, forward, allowed_origins } = auth;
        let http = http::Http::default();
        let tokens = jwt.map(|jwt| Tokens {
            from: jwt.from,
            keys: KeySource::new(jwt.key, http.clone(), tasks.clone()),
            rules: Rules { algorithms: jwt.algorithms, issuer: jwt.issuer, audience: jwt.audience },
        });
        let forward = forward.map(|settings| Arc::new(Forward::new(settings, http, tasks.clone())));
        Guard { tokens, forward, allowed_origins }
    }

    /// Fetches what is needed before the first client comes, and then follows a key in a file, until it
    /// is dropped.
    pub async fn keep_keys(&self) {
        if let Some(tokens) = &self.tokens {
            tokens.keys.current().await;
            tokens.keys.follow().await;
        }
    }

    /// `auth.allowed_origins`.
    pub fn allowed_origins(&self) -> &[String] {
        &self.allowed_origins
    }

    /// Takes out of a request what says who it is from. Tokens leave the query. `address`: where the
    /// client is, as far as trusted proxies tell.
    pub fn credentials<'v>(
        &self,
        values: &dyn Fn(&str) -> Vec<&'v [u8]>,
        query: &mut Vec<(String, String)>,
        origin: Origin<'_>,
        address: Option<IpAddr>,
    ) -> Credentials {
        let tokens = match &self.tokens {
            Some(tokens) => credentials::tokens(&tokens.from, values, query),
            None => Vec::new(),
        };
        let forwarded = match &self.forward {
            Some(forward) => Forwarded {
                fields: forward.pick(values),
                host: origin.host.unwrap_or_default().to_vec(),
                scheme: origin.scheme.unwrap_or_default().to_vec(),
                address,
            },
            None => Forwarded::default(),
        };
        Credentials { tokens, forwarded, address }
    }

    /// Finds out who it is: the sources in order, tokens first; the first that vouches decides.
    ///
    /// # Errors
    /// [`AuthRefusal`]
    pub async fn identify(&self, credentials: Credentials) -> Result<Right, AuthRefusal> {
        let Credentials { tokens, forwarded, address } = credentials;
        let mut refusal = AuthRefusal::Missing;
        let mut refuse = |next: AuthRefusal| {
            if next.weight() > refusal.weight() {
                refusal = next;
            }
        };
        if let Some(source) = &self.tokens {
            for token in &tokens {
                match source.verify(token).await {
                    Ok(verified) => return Ok(right_of(verified, address)),
                    Err(next) => refuse(next),
                }
            }
        }
        if let Some(forward) = &self.forward
            && !forwarded.fields.is_empty()
        {
            if forwarded.is_oversized() {
                refuse(AuthRefusal::Unknown);
                return Err(refusal);
            }
            match forward.ask(&Arc::new(forwarded)).await {
                Some(CachedAnswer { verdict: AuthAnswer::Vouched(vouched), at }) => {
                    let caller = Mutex::new(vouched.caller.clone());
                    let forward = forward.clone();
                    let until = Until::Refused { forward, vouched, at };
                    return Ok(Right { caller, is_recheck_due: AtomicBool::new(false), until });
                }
                Some(CachedAnswer { verdict: AuthAnswer::Unknown, .. }) => {
                    refuse(AuthRefusal::Unknown)
                }
                Some(CachedAnswer { verdict: AuthAnswer::Forbidden, .. }) => {
                    refuse(AuthRefusal::Forbidden)
                }
                None => refuse(AuthRefusal::Unavailable),
            }
        }
        Err(refusal)
    }
}

impl Tokens {
    async fn verify(&self, token: &str) -> Result<Verified, AuthRefusal> {
        let came_at = Instant::now();
        let keys = self.keys.current().await.ok_or(AuthRefusal::Unavailable)?;
        let verify =
            |keys| token::verify(token, keys, &self.rules, now()).map_err(AuthRefusal::Token);
        let first = verify(&keys);
        if !matches!(first, Err(AuthRefusal::Token(TokenError::UnknownKey))) {
            return first;
        }
        // Perhaps the issuer has a new key. Where it does not say, this may be its user.
        let newer = self.keys.another_look(came_at).await.ok_or(AuthRefusal::Unavailable)?;
        verify(&newer)
    }
}

fn right_of(verified: Verified, address: Option<IpAddr>) -> Right {
    let Verified { claims, expires_at } = verified;
    let caller = Caller::new(claims, address);
    let caller = Mutex::new(Arc::new(caller));
    Right { caller, is_recheck_due: AtomicBool::new(false), until: Until::Expiry(expires_at) }
}

/// Seconds since 1970.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |now| now.as_secs_f64())
}
