//! The tasks that wait for a route's next delivery.
//!
//! Like `tokio::sync::Notify`, of which only `notify_waiters` would be used, but what each of perhaps
//! ten thousands of waiting clients holds is a number of eight bytes and its waker in a shared list,
//! instead of a node of its own. A client with many streams waits on many routes.
//!
//! Invariants:
//!
//! - A wake-up ends a round, and empties the list. Who has noted a round is woken by the end of it,
//!   whether its waker was on the list by then or not.
//! - First note the round ([`Wakers::watch`]), then look for deliveries, then wait. What is looked at
//!   has changed before the round ends, so no wake-up is missed.
//! - The lock is held for a moment only; no task is woken under it.

use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

/// No place in the list.
const NONE: u32 = u32::MAX;

/// The list of a route.
#[derive(Debug)]
pub struct Wakers {
    /// Changed under the lock only.
    round: AtomicU32,
    /// The first free place, or [`NONE`]. Read and changed under the lock only: beside it, since it
    /// then takes the room that is left by the round.
    free: AtomicU32,
    places: Mutex<Vec<Place>>,
}

/// A waker, or the next free place.
#[derive(Debug)]
enum Place {
    Taken(Waker),
    Free(u32),
}

/// The round that somebody waits for the end of, and the place of its waker. To be given back with
/// [`Wakers::leave`].
#[derive(Debug)]
pub struct Seat {
    round: u32,
    place: u32,
}

impl Default for Seat {
    fn default() -> Seat {
        Seat { round: 0, place: NONE }
    }
}

impl Default for Wakers {
    fn default() -> Wakers {
        let free = AtomicU32::new(NONE);
        Wakers { round: AtomicU32::new(0), free, places: Mutex::default() }
    }
}

impl Wakers {
    /// Waits for the end of the present round, or of an earlier one that this seat has noted and that
    /// has not ended.
    pub fn watch(&self, seat: &mut Seat) {
        let round = self.round.load(Ordering::Acquire);
        if seat.round != round {
            *seat = Seat { round, place: NONE };
        }
    }

    /// Ready when the round that was noted is over; else the task is woken when it is.
    pub fn poll_woken(&self, seat: &mut Seat, cx: &mut Context<'_>) -> Poll<()> {
        if self.round.load(Ordering::Acquire) != seat.round {
            return Poll::Ready(());
        }
        let mut places = self.places.lock();
        if self.round.load(Ordering::Acquire) != seat.round {
            return Poll::Ready(());
        }
        match places.get_mut(seat.place as usize) {
            Some(Place::Taken(waker)) => waker.clone_from(cx.waker()),
            _ => seat.place = self.add(&mut places, cx.waker().clone()),
        }
        Poll::Pending
    }

    fn add(&self, places: &mut Vec<Place>, waker: Waker) -> u32 {
        let place = Place::Taken(waker);
        let free = self.free.load(Ordering::Relaxed);
        if let Some(known) = places.get_mut(free as usize) {
            let next = match std::mem::replace(known, place) {
                Place::Free(next) => next,
                Place::Taken(_) => NONE,
            };
            self.free.store(next, Ordering::Relaxed);
            return free;
        }
        if places.len() == places.capacity() {
            // Most routes have one client, and by itself a list begins with room for four.
            places.reserve_exact(places.len().max(1));
        }
        places.push(place);
        // There are far fewer than that.
        u32::try_from(places.len() - 1).unwrap_or(NONE)
    }

    /// Takes a waker off the list.
    pub fn leave(&self, seat: &mut Seat) {
        let at = std::mem::replace(&mut seat.place, NONE);
        if at == NONE {
            return;
        }
        let mut places = self.places.lock();
        if self.round.load(Ordering::Acquire) != seat.round {
            return;
        }
        if let Some(place) = places.get_mut(at as usize) {
            *place = Place::Free(self.free.swap(at, Ordering::Relaxed));
        }
    }

    /// Wakes everybody who waits.
    pub fn wake_all(&self) {
        let places = {
            let mut places = self.places.lock();
            self.round.fetch_add(1, Ordering::AcqRel);
            self.free.store(NONE, Ordering::Relaxed);
            std::mem::take(&mut *places)
        };
        for place in places {
            if let Place::Taken(waker) = place {
                waker.wake();
            }
        }
    }

    /// Resolves at the next wake-up from now on, whenever it is first polled.
    pub fn woken(&self) -> Woken<'_> {
        let mut seat = Seat::default();
        self.watch(&mut seat);
        Woken { wakers: self, seat }
    }
}

/// See [`Wakers::woken`].
#[derive(Debug)]
pub struct Woken<'a> {
    wakers: &'a Wakers,
    seat: Seat,
}

impl Future for Woken<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Woken { wakers, seat } = &mut *self;
        wakers.poll_woken(seat, cx)
    }
}

impl Drop for Woken<'_> {
    fn drop(&mut self) {
        self.wakers.leave(&mut self.seat);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Count>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn poll(wakers: &Wakers, seat: &mut Seat, count: &Arc<Count>) -> bool {
        let waker = Waker::from(count.clone());
        wakers.poll_woken(seat, &mut Context::from_waker(&waker)).is_ready()
    }

    #[test]
    fn who_waits_is_woken_once_and_who_has_left_is_not() {
        let wakers = Wakers::default();
        let count = Arc::new(Count::default());
        let mut seats: Vec<Seat> = (0..5).map(|_| Seat::default()).collect();
        for seat in &mut seats {
            wakers.watch(seat);
            assert!(!poll(&wakers, seat, &count) && !poll(&wakers, seat, &count));
        }
        wakers.leave(&mut seats[1]);
        wakers.leave(&mut seats[3]);
        wakers.leave(&mut seats[3]);
        wakers.wake_all();
        assert_eq!(count.0.load(Ordering::Relaxed), 3);
        assert!(poll(&wakers, &mut seats[0], &count));
        wakers.wake_all();
        assert_eq!(count.0.load(Ordering::Relaxed), 3);
        // Nobody's waker is kept.
        assert_eq!(Arc::strong_count(&count), 1);
    }

    #[test]
    fn a_wake_up_that_comes_before_the_wait_is_kept() {
        let wakers = Wakers::default();
        let count = Arc::new(Count::default());
        let mut seat = Seat::default();
        wakers.watch(&mut seat);
        wakers.wake_all();
        assert!(poll(&wakers, &mut seat, &count));
        wakers.watch(&mut seat);
        assert!(!poll(&wakers, &mut seat, &count));
    }

    // A crowd that comes and goes where nothing happens must not leave a growing list behind.
    #[test]
    fn free_places_are_taken_again() {
        let wakers = Wakers::default();
        let count = Arc::new(Count::default());
        let mut seats: Vec<Seat> = (0..3).map(|_| Seat::default()).collect();
        for _ in 0..100 {
            seats.iter_mut().for_each(|seat| assert!(!poll(&wakers, seat, &count)));
            seats.iter_mut().for_each(|seat| wakers.leave(seat));
        }
        assert_eq!(wakers.places.lock().len(), 3);
        // One that was left in an earlier round is not somebody else's now.
        assert!(!poll(&wakers, &mut seats[0], &count));
        wakers.wake_all();
        wakers.watch(&mut seats[1]);
        assert!(!poll(&wakers, &mut seats[1], &count));
        wakers.leave(&mut seats[0]);
        wakers.wake_all();
        assert_eq!(count.0.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn a_place_is_as_small_as_a_waker() {
        assert_eq!((size_of::<Place>(), size_of::<Seat>()), (size_of::<Waker>(), 8));
        assert!(size_of::<Wakers>() <= 40, "{}", size_of::<Wakers>());
    }
}
