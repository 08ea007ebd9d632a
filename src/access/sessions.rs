//! The answers that are kept about credentials, and the queue of requests to the app. Both are
//! bounded, because clients can invent credentials.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::forward::{AuthAnswer, CachedAnswer};
use super::network_of;
use super::once::Once;

/// Answers that are kept, about as many credentials.
const MAX_KEPT: usize = 16 * 1024;
/// Of those, answers that admit a caller, which include the credential (up to 16 KiB).
const MAX_VOUCHED: usize = 4 * 1024;
/// How often old ones are searched for, at least.
const SWEEP_EVERY: Duration = Duration::from_secs(10);

/// One credential.
#[derive(Debug, Default)]
pub(super) struct Session {
    pub said: Mutex<Option<CachedAnswer>>,
    pub trouble_at: Mutex<Option<Instant>>,
    /// Nothing: trouble.
    pub question: Once<Option<CachedAnswer>>,
}

impl Session {
    fn is_vouched(&self) -> bool {
        matches!(&*self.said.lock(), Some(CachedAnswer { verdict: AuthAnswer::Vouched(_), .. }))
    }
}

/// By digest of the credentials.
#[derive(Debug)]
pub(super) struct Sessions {
    known: HashMap<[u8; 32], Arc<Session>>,
    swept_at: Instant,
}

impl Default for Sessions {
    fn default() -> Sessions {
        Sessions { known: HashMap::new(), swept_at: Instant::now() }
    }
}

impl Sessions {
    /// The one of this credential; `cache`: how long an answer holds.
    pub fn of(&mut self, digest: [u8; 32], cache: Duration) -> Arc<Session> {
        if let Some(session) = self.known.get(&digest) {
            return session.clone();
        }
        if self.swept_at.elapsed() >= SWEEP_EVERY {
            self.sweep(cache);
        }
        if self.known.len() >= MAX_KEPT {
            self.sweep(cache);
            self.make_room();
        }
        self.known.entry(digest).or_default().clone()
    }

    /// Drops answers that have expired and for which no request waits.
    fn sweep(&mut self, cache: Duration) {
        self.swept_at = Instant::now();
        let mut vouched = 0;
        self.known.retain(|_, session| {
            let is_fresh = |said: &CachedAnswer| said.at.elapsed() < cache;
            let is_kept = is_in_use(session) || session.said.lock().as_ref().is_some_and(is_fresh);
            // Too many: those are asked about again, no more.
            if is_kept && session.is_vouched() {
                vouched += 1;
                return vouched <= MAX_VOUCHED || is_in_use(session);
            }
            is_kept
        });
        if self.known.capacity() > 4 * self.known.len() {
            self.known.shrink_to(2 * self.known.len());
        }
    }

    /// Still too many, all fresh: refusals go first, and half of all goes, so that this is seldom.
    fn make_room(&mut self) {
        for keeps_vouched in [true, false] {
            let mut excess = self.known.len().saturating_sub(MAX_KEPT / 2);
            self.known.retain(|_, session| {
                let is_spared = is_in_use(session) || (keeps_vouched && session.is_vouched());
                if excess == 0 || is_spared {
                    return true;
                }
                excess -= 1;
                false
            });
        }
    }
}

/// Whether a request waits for its answer.
fn is_in_use(session: &Arc<Session>) -> bool {
    Arc::strong_count(session) > 1
}

/// Turns by address, so that one of them does not have them all. Behind a balancer that is not
/// trusted all clients have one address, so it has many.
#[derive(Debug)]
pub(super) struct Turns {
    at_once: usize,
    waiting: usize,
    addresses: Mutex<HashMap<IpAddr, Arc<Address>>>,
}

#[derive(Debug)]
struct Address {
    at_once: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
}

/// A place among those of one address who ask or wait to.
pub(super) struct Waiting<'a> {
    turns: &'a Turns,
    network: Option<IpAddr>,
    address: Option<Arc<Address>>,
    place: Option<OwnedSemaphorePermit>,
}

impl Turns {
    /// So many at once, and so many with those who wait.
    pub fn new(at_once: usize, waiting: usize) -> Turns {
        Turns { at_once, waiting, addresses: Mutex::default() }
    }

    /// A place; `None` if this address has too many. Without an address there is no limit here.
    pub fn of(&self, address: Option<IpAddr>) -> Option<Waiting<'_>> {
        let Some(network) = address.map(network_of) else {
            return Some(Waiting { turns: self, network: None, address: None, place: None });
        };
        let mut addresses = self.addresses.lock();
        let address = addresses.entry(network).or_insert_with(|| {
            Arc::new(Address {
                at_once: Arc::new(Semaphore::new(self.at_once)),
                waiting: Arc::new(Semaphore::new(self.waiting)),
            })
        });
        // A new address has room, so none without anybody is left behind here.
        let place = address.waiting.clone().try_acquire_owned().ok()?;
        let address = Some(address.clone());
        Some(Waiting { turns: self, network: Some(network), address, place: Some(place) })
    }
}

impl Waiting<'_> {
    /// Waits for a turn. `None` never happens: nothing closes a semaphore here.
    pub async fn acquire(&self) -> Option<Option<OwnedSemaphorePermit>> {
        match &self.address {
            None => Some(None),
            Some(address) => address.at_once.clone().acquire_owned().await.ok().map(Some),
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let (Some(network), Some(address)) = (self.network, self.address.take()) else { return };
        drop(self.place.take());
        let mut addresses = self.turns.addresses.lock();
        // Nobody else asks or waits, and under the lock nobody comes.
        if address.waiting.available_permits() == self.turns.waiting {
            addresses.remove(&network);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(verdict: AuthAnswer) -> Option<CachedAnswer> {
        Some(CachedAnswer { verdict, at: Instant::now() })
    }

    fn digest(number: usize) -> [u8; 32] {
        let mut digest = [0; 32];
        digest[..8].copy_from_slice(&number.to_le_bytes());
        digest
    }

    #[tokio::test(start_paused = true)]
    async fn made_up_credentials_are_forgotten() {
        let cache = Duration::from_secs(3600);
        let mut sessions = Sessions::default();
        let waiting = sessions.of(digest(0), cache);
        for number in 1..3 * MAX_KEPT {
            *sessions.of(digest(number), cache).said.lock() = said(AuthAnswer::Unknown);
            assert!(sessions.known.len() <= MAX_KEPT);
        }
        assert!(Arc::ptr_eq(&waiting, &sessions.of(digest(0), cache)), "somebody waits for it");
        tokio::time::advance(cache).await;
        // One that has not been asked about: which of the others were kept is a matter of luck.
        sessions.of(digest(3 * MAX_KEPT), cache);
        assert_eq!(sessions.known.len(), 2);
    }

    #[tokio::test]
    async fn one_address_has_its_share_of_the_turns() {
        let turns = Turns::new(1, 2);
        let address = |last| Some(IpAddr::from([192, 0, 2, last]));
        let one = turns.of(address(1)).unwrap();
        let _turn = one.acquire().await;
        let two = turns.of(address(1)).unwrap();
        assert!(turns.of(address(1)).is_none());
        assert!(futures_util::FutureExt::now_or_never(two.acquire()).is_none());
        let other = turns.of(address(2)).unwrap();
        assert!(other.acquire().await.is_some() && turns.of(None).is_some());
        drop((one, two, other));
        assert!(turns.addresses.lock().is_empty());
    }
}
