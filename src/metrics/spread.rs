//! A histogram that many threads observe at once, each in one of its own: threads that change the same
//! number take turns at it, and every event to every client is an observation.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Histogram, HistogramOpts};

/// More threads share.
const MOST: usize = 64;

/// Shown as one.
#[derive(Debug, Clone)]
pub struct SpreadHistogram(Arc<[Histogram]>);

thread_local! {
    static THREAD: Cell<usize> = {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        Cell::new(NEXT.fetch_add(1, Ordering::Relaxed))
    };
}

impl SpreadHistogram {
    /// One for each processor.
    ///
    /// # Errors
    /// As [`Histogram::with_opts`]: a name or buckets that are not valid.
    pub fn with_opts(opts: &HistogramOpts) -> prometheus::Result<SpreadHistogram> {
        let count = std::thread::available_parallelism().map_or(1, usize::from).min(MOST);
        let all: prometheus::Result<_> =
            (0..count).map(|_| Histogram::with_opts(opts.clone())).collect();
        all.map(SpreadHistogram)
    }

    /// One observation.
    pub fn observe(&self, value: f64) {
        // There is at least one.
        self.0[THREAD.get() % self.0.len()].observe(value);
    }
}

impl Collector for SpreadHistogram {
    fn desc(&self) -> Vec<&Desc> {
        self.0[0].desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut families = self.0[0].collect();
        for other in &self.0[1..] {
            for (family, other) in families.iter_mut().zip(other.collect()) {
                for (metric, other) in family.mut_metric().iter_mut().zip(other.get_metric()) {
                    let (mut sum, other) = (metric.get_histogram().clone(), other.get_histogram());
                    sum.set_sample_count(sum.get_sample_count() + other.get_sample_count());
                    sum.set_sample_sum(sum.get_sample_sum() + other.get_sample_sum());
                    let mut buckets = sum.get_bucket().to_vec();
                    for (bucket, other) in buckets.iter_mut().zip(other.get_bucket()) {
                        let count = bucket.cumulative_count() + other.cumulative_count();
                        bucket.set_cumulative_count(count);
                    }
                    sum.set_bucket(buckets);
                    metric.set_histogram(sum);
                }
            }
        }
        families
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_threads_are_in_the_sum() {
        let opts = HistogramOpts::new("a", "b").buckets(vec![1.0, 2.0]);
        let spread = SpreadHistogram::with_opts(&opts).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..5 {
                let spread = &spread;
                scope.spawn(move || spread.observe(f64::from(thread)));
            }
        });
        let families = spread.collect();
        let [family] = families.as_slice() else { panic!("{families:?}") };
        let found = family.get_metric()[0].get_histogram();
        let buckets: Vec<u64> = found.get_bucket().iter().map(|it| it.cumulative_count()).collect();
        assert_eq!((found.get_sample_count(), found.get_sample_sum()), (5, 10.0));
        assert_eq!(buckets, [2, 3]);
    }
}
