//! Places for connections, of which there may be more or fewer while some are taken.
//!
//! Fewer places send nobody away: those that are taken are given up as they become free.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use tokio::sync::Semaphore;

use crate::tasks::Tasks;

/// The places of some listeners. Clones share them.
#[derive(Clone, Debug)]
pub struct Places(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// One permit is one place.
    permits: Arc<Semaphore>,
    count: Mutex<usize>,
    /// Places that are taken and will not be there any more.
    owed: AtomicUsize,
    tasks: Tasks,
}

impl Places {
    /// So many.
    pub fn new(count: usize, tasks: Tasks) -> Self {
        Self(Arc::new(Inner {
            permits: Arc::new(Semaphore::new(count)),
            count: Mutex::new(count),
            owed: AtomicUsize::new(0),
            tasks,
        }))
    }

    /// What a place is taken from.
    pub fn permits(&self) -> Arc<Semaphore> {
        Arc::clone(&self.0.permits)
    }

    /// From now on there are so many.
    pub fn set(&self, count: usize) {
        let Inner {
            permits,
            count: before,
            owed,
            tasks,
        } = &*self.0;
        let mut before = before.lock().unwrap_or_else(PoisonError::into_inner);
        let (more, fewer) = (count.saturating_sub(*before), before.saturating_sub(count));
        *before = count;
        let less = |owed: usize| owed.checked_sub(1);
        let forgiven = (0..more).take_while(|_| owed.fetch_update(Relaxed, Relaxed, less).is_ok());
        permits.add_permits(more - forgiven.count());
        let taken = fewer - permits.forget_permits(fewer);
        if taken == 0 || owed.fetch_add(taken, Relaxed) > 0 {
            return;
        }
        let places = self.clone();
        tasks.background("places", async move {
            let Inner { permits, owed, .. } = &*places.0;
            while owed.load(Relaxed) > 0 {
                let Ok(permit) = permits.acquire().await else {
                    return;
                };
                if owed.fetch_update(Relaxed, Relaxed, less).is_ok() {
                    permit.forget();
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn fewer_places_send_nobody_away_and_more_are_there_at_once() {
        let places = Places::new(3, Tasks::new());
        let permits = places.permits();
        let take = || Arc::clone(&permits).try_acquire_owned().ok();
        let mut taken = vec![take().unwrap(), take().unwrap(), take().unwrap()];
        places.set(1);
        tokio::task::yield_now().await;
        for _ in 0..2 {
            assert!(take().is_none());
            drop(taken.pop());
            tokio::task::yield_now().await;
            tokio::task::yield_now().await;
        }
        assert!(take().is_none());
        drop(taken.pop());
        let last = take().unwrap();
        assert!(take().is_none());
        // What is still owed is forgiven.
        places.set(2);
        taken.push(take().unwrap());
        assert!(take().is_none());
        places.set(0);
        places.set(2);
        assert!(take().is_none());
        drop((last, taken));
        tokio::task::yield_now().await;
        tokio::task::yield_now().await;
        let both = (take(), take());
        assert!(both.0.is_some() && both.1.is_some() && take().is_none());
    }
}
