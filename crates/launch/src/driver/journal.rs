//! The way of events to the journal: never waited for, and honest about losses.

use std::sync::Arc;

use skep_model::{Event, EventKind};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use crate::desk::Desk;
use crate::pool::Record;

pub(super) struct Journal {
    to: mpsc::Sender<Event>,
    desk: Arc<Desk>,
    /// Events that found the channel full since the last one that went through.
    lost: u64,
}

impl Journal {
    pub(super) fn new(to: mpsc::Sender<Event>, desk: Arc<Desk>) -> Self {
        Self { to, desk, lost: 0 }
    }

    pub(super) fn write(&mut self, record: Record) {
        self.flush();
        let Record { kind, app, instance, detail, .. } = &record;
        let instance = instance.as_ref().map(tracing::field::display);
        tracing::info!(kind = kind.name(), %app, instance, "{detail}");
        let event = Event {
            at_ms: self.desk.clock.wall(self.desk.clock.now()),
            kind: record.kind,
            app: Some(record.app),
            instance: record.instance,
            user: record.user,
            detail: record.detail,
        };
        if self.lost > 0 || matches!(self.to.try_send(event), Err(TrySendError::Full(_))) {
            self.lost += 1;
            metrics::counter!("skep_journal_lost_total").increment(1);
        }
    }

    /// Tells of losses as soon as there is room again.
    pub(super) fn flush(&mut self) {
        if self.lost == 0 {
            return;
        }
        let gap = Event {
            at_ms: self.desk.clock.wall(self.desk.clock.now()),
            kind: EventKind::Gap,
            app: None,
            instance: None,
            user: None,
            detail: format!("{} events of the launcher were lost: the journal was too slow", self.lost),
        };
        if self.to.try_send(gap).is_ok() {
            self.lost = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::Clock;
    use crate::pool::{Pool, PoolConfig};

    fn record(detail: &str) -> Record {
        Record {
            kind: EventKind::InstanceStart,
            app: "a".parse().unwrap(),
            instance: None,
            user: None,
            detail: detail.into(),
        }
    }

    #[test]
    fn losses_are_told_before_anything_else() {
        let desk = Desk::new(Pool::new(PoolConfig::default()), Clock::new());
        let (to, mut from) = mpsc::channel(2);
        let mut journal = Journal::new(to, desk);
        for n in 0..5 {
            journal.write(record(&n.to_string()));
        }
        assert_eq!(from.try_recv().unwrap().detail, "0");
        assert_eq!(from.try_recv().unwrap().detail, "1");
        journal.write(record("later"));
        let gap = from.try_recv().unwrap();
        assert_eq!(gap.kind, EventKind::Gap);
        assert!(gap.detail.starts_with("3 events"), "{}", gap.detail);
        assert_eq!(from.try_recv().unwrap().detail, "later");
    }
}
