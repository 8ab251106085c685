//! Deadlines by a loop's coarse clock, for waits that nearly always end in time: setting one and taking it back costs a
//! slot in a list, not an entry in the runtime's timer. They come up to two [`TICK`](crate::conn::TICK)s late, never early.

use std::cell::RefCell;
use std::future::Future;
use std::pin::pin;
use std::task::{Poll, Waker};
use std::time::Duration;

use crate::conn::{tick, ticks};

/// The wait took too long.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Late;

/// One loop's running waits.
#[derive(Default)]
pub(crate) struct Deadlines {
    list: RefCell<List>,
}

#[derive(Default)]
struct List {
    /// When each is late, and whom to wake then.
    waits: Vec<Option<(u32, Waker)>>,
    free: Vec<usize>,
}

/// A place in the list, given back when the wait is over or given up.
struct Place<'a> {
    of: &'a Deadlines,
    index: usize,
}

impl Deadlines {
    /// Waits for `future`, not much longer than `limit`.
    ///
    /// # Errors
    /// [`Late`].
    pub(crate) async fn within<F: Future>(&self, limit: Duration, future: F) -> Result<F::Output, Late> {
        let due = tick().saturating_add(ticks(limit)).saturating_add(1);
        let mut future = pin!(future);
        let mut place: Option<Place<'_>> = None;
        std::future::poll_fn(|cx| {
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(Ok(output));
            }
            if tick() >= due {
                return Poll::Ready(Err(Late));
            }
            place.get_or_insert_with(|| self.take_place()).note(due, cx.waker());
            Poll::Pending
        })
        .await
    }

    /// Wakes who is late. Called with every step of the clock.
    pub(crate) fn ring(&self) {
        let now = tick();
        let list = self.list.borrow();
        let late = list.waits.iter().flatten().filter(|(due, _)| now >= *due);
        late.for_each(|(_, waker)| waker.wake_by_ref());
    }

    fn take_place(&self) -> Place<'_> {
        let mut list = self.list.borrow_mut();
        let index = list.free.pop().unwrap_or_else(|| {
            list.waits.push(None);
            list.waits.len() - 1
        });
        Place { of: self, index }
    }
}

impl Place<'_> {
    fn note(&self, due: u32, waker: &Waker) {
        if let Some(wait) = self.of.list.borrow_mut().waits.get_mut(self.index)
            && !wait.as_ref().is_some_and(|(_, known)| known.will_wake(waker))
        {
            *wait = Some((due, waker.clone()));
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut list = self.of.list.borrow_mut();
        if let Some(wait) = list.waits.get_mut(self.index) {
            *wait = None;
        }
        list.free.push(self.index);
        if list.free.len() == list.waits.len() {
            // Nobody waits: what a rush needed is given back, all but a little.
            list.waits.truncate(64);
            list.waits.shrink_to(64);
            list.free.retain(|index| *index < 64);
            list.free.shrink_to(64);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    use std::task::{Context, Wake};

    use super::*;
    use crate::conn::{TICK, set_tick};

    #[derive(Default)]
    struct Bell(AtomicUsize);

    impl Wake for Bell {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, SeqCst);
        }
    }

    #[test]
    fn late_waits_are_woken_once_they_are_late_and_places_are_used_again() {
        set_tick(100);
        let deadlines = Deadlines::default();
        let bell = Arc::new(Bell::default());
        let waker = Waker::from(Arc::clone(&bell));
        let mut cx = Context::from_waker(&waker);
        let mut long = pin!(deadlines.within(TICK * 40, std::future::pending::<()>()));
        assert!(long.as_mut().poll(&mut cx).is_pending());
        for round in 0..3 {
            set_tick(100 + round * 5);
            let mut short = pin!(deadlines.within(TICK * 2, std::future::pending::<()>()));
            assert!(short.as_mut().poll(&mut cx).is_pending());
            set_tick(102 + round * 5);
            deadlines.ring();
            assert_eq!(bell.0.load(SeqCst), round as usize, "not before its time");
            set_tick(103 + round * 5);
            deadlines.ring();
            assert_eq!(bell.0.load(SeqCst), round as usize + 1);
            assert_eq!(short.as_mut().poll(&mut cx), Poll::Ready(Err(Late)));
        }
        let most = deadlines.list.borrow().waits.len();
        assert!(most <= 4, "{most} places");
        set_tick(200);
        deadlines.ring();
        assert_eq!(long.as_mut().poll(&mut cx), Poll::Ready(Err(Late)));
    }

    #[test]
    fn what_ends_in_time_leaves_nothing() {
        set_tick(1);
        let deadlines = Deadlines::default();
        let mut cx = Context::from_waker(Waker::noop());
        let mut ready = pin!(deadlines.within(TICK, std::future::ready(7)));
        assert_eq!(ready.as_mut().poll(&mut cx), Poll::Ready(Ok(7)));
        let rush: Vec<_> = (0..1000)
            .map(|_| {
                let mut wait = Box::pin(deadlines.within(TICK, std::future::pending::<()>()));
                assert!(wait.as_mut().poll(&mut cx).is_pending());
                wait
            })
            .collect();
        assert_eq!(deadlines.list.borrow().waits.len(), 1000);
        drop(rush);
        let list = deadlines.list.borrow();
        assert_eq!((list.waits.len(), list.free.len()), (64, 64));
        assert!(list.waits.iter().all(Option::is_none));
    }
}
