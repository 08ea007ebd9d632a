//! How many requests may be on their way to the app at the same time: in total, as many as there
//! are descriptors for; from one address, never so many that there is no room for others.
//!
//! An address may hold eight times as many requests as remain free (a dynamic threshold, as
//! switches use to share their buffers). A single address gets eight ninths of the total, two get
//! eight seventeenths each; for any number of addresses, some room is left for the next.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::access::network_of;
use crate::api::capacity::Full;
use crate::api::problem::Problem;

/// How soon a refused client may try again, in seconds.
const RETRY_AFTER: &str = "2";
/// An address may hold so many times what is left.
const FAIRNESS: usize = 8;

/// Limits how many requests may be on their way to the app, in all and for each address.
#[derive(Debug)]
pub struct Requests {
    open: AtomicUsize,
    most: usize,
    most_per_address: Option<usize>,
    /// Of the addresses that have connections, or requests through a trusted proxy.
    addresses: Mutex<HashMap<Option<IpAddr>, HeldRequests>>,
}

/// How many requests an address has on their way.
pub type HeldRequests = Arc<AtomicUsize>;

/// A request on its way. Given back when dropped.
#[derive(Debug)]
pub struct RequestSlot<'a> {
    requests: &'a Requests,
    held: HeldRequests,
    /// No other place keeps the count of this one.
    forget: Option<IpAddr>,
}

/// The response for a client that has too many concurrent requests.
pub fn refusal(full: Full) -> Problem {
    Problem::new(full.status(), full.to_string()).with_header("Retry-After", RETRY_AFTER)
}

impl Requests {
    /// `descriptors` is how many there are for connections; a request takes two.
    pub fn new(descriptors: usize, most_per_address: Option<usize>) -> Requests {
        Requests {
            open: AtomicUsize::new(0),
            most: (descriptors / 16).saturating_mul(7).max(1),
            most_per_address,
            addresses: Mutex::default(),
        }
    }

    /// The count of an address; see [`Requests::forget`].
    pub fn held_by(&self, network: Option<IpAddr>) -> HeldRequests {
        self.addresses.lock().entry(network).or_default().clone()
    }

    /// Gives a count back, so that addresses that are gone take no memory.
    pub fn forget(&self, network: Option<IpAddr>, held: &mut HeldRequests) {
        *held = HeldRequests::default();
        let mut addresses = self.addresses.lock();
        if addresses.get(&network).is_some_and(|held| Arc::strong_count(held) == 1) {
            addresses.remove(&network);
        }
    }

    /// Lets a request be on its way.
    ///
    /// # Errors
    /// There are too many, of this address or in all.
    pub fn take(&self, held: &HeldRequests) -> Result<RequestSlot<'_>, Full> {
        let open = self.open.fetch_add(1, Ordering::AcqRel);
        let of_address = held.fetch_add(1, Ordering::AcqRel);
        let turn = RequestSlot { requests: self, held: held.clone(), forget: None };
        if self.most_per_address.is_some_and(|most| of_address >= most) {
            return Err(Full::AddressRequests);
        }
        if of_address >= self.most.saturating_sub(open).saturating_mul(FAIRNESS) {
            return Err(Full::Requests);
        }
        Ok(turn)
    }

    /// The same for a client that a trusted proxy names.
    ///
    /// # Errors
    /// There are too many, of this address or in all.
    pub fn take_for(&self, client: IpAddr) -> Result<RequestSlot<'_>, Full> {
        let network = network_of(client.to_canonical());
        let mut held = self.held_by(Some(network));
        match self.take(&held) {
            Ok(mut turn) => {
                turn.forget = Some(network);
                Ok(turn)
            }
            Err(full) => {
                self.forget(Some(network), &mut held);
                Err(full)
            }
        }
    }
}

impl Drop for RequestSlot<'_> {
    fn drop(&mut self) {
        self.held.fetch_sub(1, Ordering::AcqRel);
        self.requests.open.fetch_sub(1, Ordering::AcqRel);
        if let Some(network) = self.forget {
            self.requests.forget(Some(network), &mut self.held);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> Option<IpAddr> {
        Some(IpAddr::from([192, 0, 2, last]))
    }

    #[test]
    fn an_address_leaves_room_for_others() {
        let requests = Requests::new(1600, None);
        assert_eq!(requests.most, 700);
        let fill = |last| -> Vec<RequestSlot<'_>> {
            let held = requests.held_by(address(last));
            std::iter::from_fn(|| requests.take(&held).ok()).collect()
        };
        let alone = fill(1);
        assert!((610..=630).contains(&alone.len()), "{}", alone.len());
        let second = fill(2);
        assert!((60..=75).contains(&second.len()), "{}", second.len());
        assert!(!fill(3).is_empty());
        drop(alone);
        assert!(fill(3).len() > 300);
        drop(second);
        assert_eq!(requests.open.load(Ordering::Acquire), 0);
    }

    #[test]
    fn the_setting_is_a_limit_and_counts_are_forgotten() {
        let requests = Requests::new(usize::MAX, Some(2));
        let mut held = requests.held_by(address(1));
        let turns = [requests.take(&held).unwrap(), requests.take(&held).unwrap()];
        assert_eq!(requests.take(&held).unwrap_err(), Full::AddressRequests);
        drop(turns);
        drop(requests.take(&held).unwrap());
        let client = "192.0.2.2".parse().unwrap();
        let turns = [requests.take_for(client).unwrap(), requests.take_for(client).unwrap()];
        assert_eq!(requests.take_for(client).unwrap_err(), Full::AddressRequests);
        drop(turns);
        requests.forget(address(1), &mut held);
        assert!(requests.addresses.lock().is_empty());
    }
}
