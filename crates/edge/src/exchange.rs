//! One request and its answer, from the first look at the head to the last byte: the record that is logged and counted
//! whatever happens in between.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use http::Method;
use http::uri::PathAndQuery;
use skep_launch::Lease;
use skep_model::{AppId, InstanceId};

use crate::access_log::Record;
use crate::conn::ConnState;
use crate::guard::Guard;
use crate::services::Attended;
use crate::worker::Worker;

/// Dropped when the exchange is over, in whichever way; that is when it is logged.
pub(crate) struct Exchange {
    worker: Rc<Worker>,
    conn: Option<Arc<ConnState>>,
    started: Instant,
    pub(crate) record: Record,
    lease: Option<Lease>,
    attended: Option<Attended>,
    /// This one is an open tunnel.
    tunnel: bool,
    /// The loop ends it when its login does.
    guarded: bool,
}

impl Exchange {
    pub(crate) fn begin(
        worker: &Rc<Worker>,
        conn: &Arc<ConnState>,
        method: &Method,
        target: Option<&PathAndQuery>,
    ) -> Box<Self> {
        conn.begin();
        let record = Record {
            request_id: worker.next_request_id(),
            client: conn.peer,
            method: method.clone(),
            target: target.cloned(),
            status: 0,
            bytes: 0,
            duration: std::time::Duration::ZERO,
            app: None,
            instance: None,
            held: None,
            note: None,
        };
        let (worker, conn) = (Rc::clone(worker), Some(Arc::clone(conn)));
        Box::new(Self {
            worker,
            conn,
            started: Instant::now(),
            record,
            lease: None,
            attended: None,
            tunnel: false,
            guarded: false,
        })
    }

    pub(crate) fn request_id(&self) -> u64 {
        self.record.request_id
    }

    pub(crate) fn note_app(&mut self, app: &AppId) {
        self.record.app = Some(app.clone());
    }

    pub(crate) fn note_instance(&mut self, instance: &InstanceId) {
        self.record.instance = Some(instance.clone());
    }

    pub(crate) fn note_held(&mut self, since: Instant) {
        self.record.held = Some(since.elapsed());
    }

    /// Something went wrong after the answer had begun, or instead of one.
    pub(crate) fn note_broken(&mut self, what: &str) {
        self.record.note.get_or_insert_with(|| what.to_owned());
    }

    pub(crate) fn add_bytes(&mut self, n: usize) {
        self.record.bytes += n as u64;
    }

    /// The seat is held until the exchange ends.
    pub(crate) fn hold_lease(&mut self, lease: Lease) {
        self.lease = Some(lease);
    }

    /// Counts as one of a service's task's until the exchange ends, or another task takes it.
    pub(crate) fn attend(&mut self, attended: Attended) {
        self.attended = Some(attended);
    }

    pub(crate) fn take_lease(&mut self) -> Option<Lease> {
        self.lease.take()
    }

    /// Ends this exchange, whatever it is at then, when the login behind it ends.
    pub(crate) fn guard(&mut self, guard: Guard) {
        self.guarded = true;
        self.worker.guards.borrow_mut().insert(self.record.request_id, guard);
    }

    /// For as long as it waits for a task of a service it has nothing that could be taken away, and is admitted anew before
    /// it gets anything.
    pub(crate) fn note_waiting(&self, waits: bool) {
        if let Some(guard) = self.worker.guards.borrow_mut().get_mut(&self.record.request_id) {
            guard.waits = waits;
        }
    }

    /// The exchange goes on in the task that calls this.
    pub(crate) fn moved_here(&self) {
        if let Some(guard) = self.worker.guards.borrow_mut().get_mut(&self.record.request_id) {
            guard.task = tokio::task::try_id();
        }
    }

    /// From here on the exchange is a tunnel: the connection is no longer hyper's.
    pub(crate) fn become_tunnel(&mut self) {
        self.tunnel = true;
        self.worker.tunnel_opened();
        // The path is a slice of the buffer its head came in, which a tunnel must not keep.
        self.record.target = self.record.target.take().and_then(|target| target.as_str().parse().ok());
        if let Some(conn) = self.conn.take() {
            conn.end();
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if let Some(conn) = &self.conn {
            conn.end();
        }
        if self.guarded {
            self.worker.guards.borrow_mut().remove(&self.record.request_id);
        }
        if self.tunnel {
            self.worker.tunnel_closed();
        }
        self.record.duration = self.started.elapsed();
        if self.record.status == 0 {
            // Nobody was there to be answered.
            self.record.status = 499;
        }
        self.worker.finished(&self.record);
    }
}
