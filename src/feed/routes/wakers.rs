//! The tasks that wait for a route's next delivery.
//!
//! Like `tokio::sync::Notify`, of which only `notify_waiters` would be used, but what each of perhaps
//! ten thousands of waiting clients holds is a number of eight bytes and its waker in a shared list,
//! instead of a node of its own. A client with many streams waits on many routes. Where a single one
//! waits, as on most routes with values of their own, its waker is in place.
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
    places: Mutex<Places>,
}

/// The wakers, each at its place.
#[derive(Debug)]
enum Places {
    /// The first one, and no other.
    One(Waker),
    /// Boxed, so that this is no larger than a waker. `None`: nobody.
    Several(Option<Box<List>>),
}

impl Default for Places {
    fn default() -> Places {
        Places::Several(None)
    }
}

impl Places {
    /// The waker at a place, if it is taken.
    fn waker(&mut self, at: u32) -> Option<&mut Waker> {
        match self {
            Places::One(waker) if at == 0 => Some(waker),
            Places::Several(Some(several)) => match several.get_mut(at as usize)? {
                Place::Taken(waker) => Some(waker),
                Place::Free(_) => None,
            },
            Places::One(_) | Places::Several(None) => None,
        }
    }
}

type List = Vec<Place>;

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

impl Seat {
    /// The round that was noted.
    pub fn round(&self) -> u32 {
        self.round
    }
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
    /// has not ended. Says whether a round has ended since the seat noted one.
    pub fn watch(&self, seat: &mut Seat) -> bool {
        let round = self.round.load(Ordering::Acquire);
        let has_ended = seat.round != round;
        if has_ended {
            *seat = Seat { round, place: NONE };
        }
        has_ended
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
        match places.waker(seat.place) {
            Some(waker) => waker.clone_from(cx.waker()),
            None => seat.place = self.add(&mut places, cx.waker().clone()),
        }
        Poll::Pending
    }

    fn add(&self, places: &mut Places, waker: Waker) -> u32 {
        let mut several = match std::mem::take(places) {
            Places::Several(None) => {
                *places = Places::One(waker);
                return 0;
            }
            Places::One(first) => Box::new(vec![Place::Taken(first)]),
            Places::Several(Some(several)) => several,
        };
        let place = self.add_to(&mut several, Place::Taken(waker));
        *places = Places::Several(Some(several));
        place
    }

    fn add_to(&self, places: &mut Vec<Place>, place: Place) -> u32 {
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
            // By itself, a list begins with room for four.
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
        match &mut *places {
            Places::One(_) => *places = Places::default(),
            Places::Several(several) => {
                if let Some(place) = several.as_mut().and_then(|them| them.get_mut(at as usize)) {
                    *place = Place::Free(self.free.swap(at, Ordering::Relaxed));
                }
            }
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
        match places {
            Places::One(waker) => waker.wake(),
            Places::Several(several) => {
                for place in several.into_iter().flat_map(|several| *several) {
                    if let Place::Taken(waker) = place {
                        waker.wake();
                    }
                }
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
        let places = wakers.places.lock();
        assert!(matches!(&*places, Places::Several(Some(several)) if several.len() == 3));
        drop(places);
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
        assert_eq!((size_of::<Places>(), size_of::<Wakers>()), (16, 32));
    }

    #[test]
    fn a_single_one_comes_and_goes_without_a_list() {
        let wakers = Wakers::default();
        let count = Arc::new(Count::default());
        let [mut first, mut second] = [Seat::default(), Seat::default()];
        for seat in [&mut first, &mut second] {
            assert!(!poll(&wakers, seat, &count) && !poll(&wakers, seat, &count));
            assert!(matches!(*wakers.places.lock(), Places::One(_)));
            wakers.leave(seat);
            assert!(matches!(*wakers.places.lock(), Places::Several(None)));
        }
        assert!(!poll(&wakers, &mut first, &count) && !poll(&wakers, &mut second, &count));
        wakers.leave(&mut first);
        wakers.wake_all();
        assert_eq!((count.0.load(Ordering::Relaxed), Arc::strong_count(&count)), (1, 1));
    }
}
