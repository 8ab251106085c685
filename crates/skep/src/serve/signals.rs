//! What the server can be told, by signal or over the control socket.

use skep_control::ServerOrder;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

/// One order.
pub(crate) enum Order {
    /// Look at config and folders again.
    Reload,
    /// Let a new process take over; whoever asked hears its PID, or why there is none.
    Upgrade(Option<oneshot::Sender<Result<u32, String>>>),
    Stop,
}

impl From<ServerOrder> for Order {
    fn from(order: ServerOrder) -> Self {
        match order {
            ServerOrder::Reload => Self::Reload,
            ServerOrder::Upgrade(answer) => Self::Upgrade(Some(answer)),
        }
    }
}

/// SIGTERM and SIGINT stop, SIGHUP reloads, SIGUSR2 upgrades.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
    user2: Signal,
}

impl Signals {
    pub(crate) fn register() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
            user2: signal(SignalKind::user_defined2())?,
        })
    }

    pub(crate) async fn next(&mut self) -> Order {
        tokio::select! {
            _ = self.terminate.recv() => Order::Stop,
            _ = self.interrupt.recv() => Order::Stop,
            _ = self.hang_up.recv() => Order::Reload,
            _ = self.user2.recv() => Order::Upgrade(None),
        }
    }

    /// Somebody insists on stopping.
    pub(crate) async fn again(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
