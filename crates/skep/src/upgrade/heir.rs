//! The new generation's side of a hand-over: what it inherits, and what it tells the old one.

use std::collections::{HashMap, HashSet};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use anyhow::{Context, bail};
use skep_launch::{Handle, Lease};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::wire::{self, FromHeir, OpenSeat, Passed, Receiver, Sender, TAKE_OVER, ToHeir};
use crate::data_dir::Lock;

/// Between two attempts to hold a seat on an instance that is not adopted yet.
const TRY_AGAIN: Duration = Duration::from_millis(100);

/// Everything the old process gave.
pub(crate) struct Inheritance {
    pub(crate) lock: Lock,
    pub(crate) sockets: Sockets,
    socket: UnixStream,
}

/// Listening sockets from the old process. Connections that came in the meantime wait in them.
#[derive(Default)]
pub(crate) struct Sockets {
    pub(crate) public: Vec<(SocketAddr, TcpListener)>,
    pub(crate) admin: Vec<(SocketAddr, TcpListener)>,
    pub(crate) control: Option<UnixListener>,
    pub(crate) relays: Vec<UnixListener>,
}

/// The conversation with the old process.
pub(crate) struct Heir {
    sender: Sender,
    receiver: Receiver,
}

impl Inheritance {
    /// `None` when this process was started by hand. Call before there are threads: it replaces standard input.
    pub(crate) fn receive() -> anyhow::Result<Option<Self>> {
        if std::env::var_os(TAKE_OVER).is_none() {
            return Ok(None);
        }
        let socket = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned()?);
        rustix::stdio::dup2_stdin(std::fs::File::open("/dev/null")?)?;
        let (hello, files) = wire::receive_hello(&socket, Duration::from_secs(30))
            .context("the server that is to be replaced cannot be heard")?;
        let mut lock = None;
        let mut sockets = Sockets::default();
        for (what, file) in hello.files.into_iter().zip(files) {
            match what {
                Passed::Lock => lock = Some(Lock::inherit(file)),
                Passed::Relay => sockets.relays.push(file.into()),
                Passed::Control => sockets.control = Some(file.into()),
                Passed::Admin(asked) => sockets.admin.push((asked, file.into())),
                Passed::Public(asked) => sockets.public.push((asked, file.into())),
            }
        }
        match lock {
            Some(lock) => Ok(Some(Self { lock, sockets, socket })),
            None => bail!("the server that is to be replaced did not hand over the data folder"),
        }
    }

    /// Takes the conversation up on the current runtime.
    pub(crate) fn into_parts(self) -> anyhow::Result<(Lock, Sockets, Heir)> {
        let (sender, receiver) = wire::split(self.socket)?;
        Ok((self.lock, self.sockets, Heir { sender, receiver }))
    }
}

impl Heir {
    /// Says that everything that can fail has not, and waits for the old process to let go. Answers the seats it still
    /// uses.
    pub(crate) async fn prepared(&mut self) -> anyhow::Result<Vec<OpenSeat>> {
        self.sender.send(&FromHeir::Prepared).await?;
        match self.receiver.next().await? {
            Some(ToHeir::Go { seats }) => Ok(seats),
            _ => bail!("the server that was to be replaced stays"),
        }
    }

    pub(crate) async fn ready(&mut self) -> anyhow::Result<()> {
        let pid = std::process::id();
        self.sender.send(&FromHeir::Ready { pid }).await.context("the old server is gone already")
    }

    pub(crate) async fn failed(mut self, error: &anyhow::Error) {
        let _ = self.sender.send(&FromHeir::Failed { why: format!("{error:#}") }).await;
    }

    /// Holds the seats the old process still uses, until it says otherwise or ends.
    pub(crate) async fn mind_seats(self, handle: Handle, seats: Vec<OpenSeat>) {
        // Reading goes on by itself: a message must not be torn by what else happens here.
        let (sender, mut news) = mpsc::channel(4);
        let mut receiver = self.receiver;
        let _reading = AbortOnDropHandle::new(tokio::spawn(async move {
            while let Ok(Some(ToHeir::Seats { seats } | ToHeir::Go { seats })) = receiver.next().await {
                if sender.send(seats).await.is_err() {
                    return;
                }
            }
        }));
        let mut wanted: HashSet<OpenSeat> = seats.into_iter().collect();
        let mut held: HashMap<OpenSeat, Lease> = HashMap::new();
        loop {
            held.retain(|seat, _| wanted.contains(seat));
            let mut missing = false;
            for seat in &wanted {
                if held.contains_key(seat) {
                    continue;
                }
                match handle.open_foreign(&seat.app, &seat.key()) {
                    Some(lease) => {
                        held.insert(seat.clone(), lease);
                    }
                    // Not adopted yet, or gone for good: the old process will soon notice that, too.
                    None => missing = true,
                }
            }
            tokio::select! {
                news = news.recv() => match news {
                    Some(seats) => wanted = seats.into_iter().collect(),
                    None => return,
                },
                () = tokio::time::sleep(TRY_AGAIN), if missing => {}
            }
        }
    }
}
