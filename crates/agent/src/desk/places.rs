//! Places for connections that have not said yet what they want. When there are none left the one that has been silent for
//! longest goes, of the address that has too many first: whoever speaks at once gets in, however many keep silent.

use std::collections::VecDeque;
use std::net::IpAddr;

use tokio::task::AbortHandle;

/// In all, and of one address.
const MOST: usize = 256;
const MOST_OF_ONE: usize = 64;

#[derive(Default)]
pub(super) struct Places {
    /// The oldest first.
    taken: VecDeque<Place>,
    numbers: u64,
}

struct Place {
    number: u64,
    from: IpAddr,
    task: AbortHandle,
}

impl Places {
    /// Gives a place to what `spawn` starts, which is told its number. A task that had one may be ended for it.
    pub(super) fn give(&mut self, from: IpAddr, spawn: impl FnOnce(u64) -> AbortHandle) {
        self.numbers += 1;
        let of_one = self.taken.iter().filter(|place| place.from == from).count();
        let oldest = if of_one >= MOST_OF_ONE {
            self.taken.iter().position(|place| place.from == from)
        } else {
            (self.taken.len() >= MOST).then_some(0)
        };
        if let Some(gone) = oldest.and_then(|oldest| self.taken.remove(oldest)) {
            gone.task.abort();
        }
        self.taken.push_back(Place { number: self.numbers, from, task: spawn(self.numbers) });
    }

    /// It is silent no more, or gone.
    pub(super) fn leave(&mut self, number: u64) {
        self.taken.retain(|place| place.number != number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_oldest_silent_one_goes_of_the_address_with_too_many_first() {
        let mut places = Places::default();
        let mut tasks = Vec::new();
        let mut come = |places: &mut Places, from: u8| {
            let mut number = 0;
            places.give(IpAddr::from([10, 0, 0, from]), |given| {
                number = given;
                let task = tokio::spawn(std::future::pending::<()>());
                let handle = task.abort_handle();
                tasks.push(task);
                handle
            });
            number
        };
        let first = come(&mut places, 1);
        let of = |places: &Places, from: u8| {
            places.taken.iter().filter(|place| place.from == IpAddr::from([10, 0, 0, from])).count()
        };
        for _ in 0..200 {
            come(&mut places, 2);
        }
        assert_eq!((of(&places, 1), of(&places, 2)), (1, MOST_OF_ONE), "others keep theirs");
        for from in 3..6 {
            for _ in 0..MOST_OF_ONE {
                come(&mut places, from);
            }
        }
        assert_eq!(places.taken.len(), MOST);
        assert!(places.taken.iter().all(|place| place.number != first), "the oldest of all made room");
        let last = come(&mut places, 7);
        places.leave(last);
        assert_eq!(of(&places, 7), 0);
        // Each time some of them have their turn, and learn that they are to end.
        for _ in 0..tasks.len() {
            tokio::task::yield_now().await;
        }
        let ended = tasks.iter().filter(|task| task.is_finished()).count();
        assert_eq!(ended, tasks.len() - places.taken.len() - 1);
    }
}
