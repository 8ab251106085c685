//! `skep upgrade`: a new process takes over without a refused connection, a lost request or an ended app.
//!
//! The order, seen from the old process:
//! 1. the new one is started from the program file and inherits the listening sockets and the data folder's lock;
//! 2. it reads config, certificates, keys and database, and says *prepared*. Until here nothing has changed, and every
//!    failure leaves the old process as it was;
//! 3. the old one settles its pool and freezes it; requests it may not serve any more go to the relay socket, which the
//!    new one inherited too, so they wait in its queue for the blink of an eye;
//! 4. *go*: the new one adopts the instances and serves; *ready*;
//! 5. the old one lets its tunnels end, reports their seats until then, and exits.
//!
//! When the new program fails between 3 and 5, the old process starts its own program anew in the same way: that one is known
//! to work.

pub(crate) mod heir;
pub(crate) mod wire;

use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use skep_launch::Handle;
use tokio::time::{Instant, timeout};

use crate::data_dir::Lock;
use crate::serve::Bound;
use wire::{FromHeir, Hello, OpenSeat, Passed, Receiver, Sender, TAKE_OVER, ToHeir};

/// Scanning folders and opening a database takes this long at most.
const PREPARED_WITHIN: Duration = Duration::from_secs(60);
const READY_WITHIN: Duration = Duration::from_secs(60);
/// Between two looks at the seats still in use.
const REPORT_EVERY: Duration = Duration::from_millis(250);

/// What is handed over.
pub(crate) struct Estate<'a> {
    pub(crate) lock: &'a Lock,
    /// The new one, and those of earlier generations that still live.
    pub(crate) relays: Vec<&'a UnixListener>,
    pub(crate) control: &'a UnixListener,
    pub(crate) admin: Option<&'a Bound>,
    pub(crate) public: &'a [Bound],
}

/// A new process that is prepared and waits for the word.
pub(crate) struct Successor {
    child: Child,
    sender: Sender,
    receiver: Receiver,
}

/// Where this server's own program is. Read at start: after an upgrade of the file the kernel no longer knows its name.
pub(crate) fn own_program() -> std::io::Result<PathBuf> {
    std::env::current_exe()
}

/// The program this process runs, whatever has become of its file.
pub(crate) fn running_program() -> PathBuf {
    PathBuf::from("/proc/self/exe")
}

/// Starts a new server and waits until it is prepared.
///
/// # Errors
/// Why there is none, in words for the administrator. Nothing has changed then.
pub(crate) async fn prepare(program: &Path, estate: &Estate<'_>) -> Result<Successor, String> {
    let (ours, theirs) =
        UnixStream::pair().map_err(|error| format!("no socket to hand over with: {error}"))?;
    let mut child = Command::new(program)
        .args(std::env::args_os().skip(1))
        .env(TAKE_OVER, "1")
        .stdin(Stdio::from(std::os::fd::OwnedFd::from(theirs)))
        .spawn()
        .map_err(|error| format!("{} cannot be started: {error}", program.display()))?;
    let greeted = greet(&ours, estate).and_then(|()| wire::split(ours));
    let (sender, mut receiver) = match greeted {
        Ok(parts) => parts,
        Err(error) => {
            // A program that ends at once has closed its end already; then its exit status says more.
            let broken = matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset);
            let why = unfit(if broken { Ok(None) } else { Err(error) }, &mut child).await;
            end(&mut child).await;
            return Err(why);
        }
    };
    let why = match timeout(PREPARED_WITHIN, receiver.next()).await {
        Ok(Ok(Some(FromHeir::Prepared))) => return Ok(Successor { child, sender, receiver }),
        Ok(answer) => unfit(answer, &mut child).await,
        Err(_) => format!("the new server was not prepared within {} seconds", PREPARED_WITHIN.as_secs()),
    };
    end(&mut child).await;
    Err(why)
}

fn greet(socket: &UnixStream, estate: &Estate<'_>) -> std::io::Result<()> {
    let mut what = vec![Passed::Lock, Passed::Control];
    let mut files: Vec<BorrowedFd<'_>> = vec![estate.lock.as_fd(), estate.control.as_fd()];
    for relay in &estate.relays {
        what.push(Passed::Relay);
        files.push(relay.as_fd());
    }
    if let Some(bound) = estate.admin {
        what.push(Passed::Admin(bound.asked));
        files.push(bound.listener.as_fd());
    }
    for bound in estate.public {
        what.push(Passed::Public(bound.asked));
        files.push(bound.listener.as_fd());
    }
    wire::send_hello(socket, &Hello { files: what }, &files)
}

impl Successor {
    /// Gives the word and waits until the new server serves. Call with the pool frozen.
    ///
    /// # Errors
    /// Why it does not; it is gone then.
    pub(crate) async fn go(mut self, handle: &Handle) -> Result<Ready, String> {
        let seats = open_seats(handle);
        let said = self.sender.send(&ToHeir::Go { seats: seats.clone() }).await;
        let answer = match said {
            Ok(()) => timeout(READY_WITHIN, self.receiver.next()).await,
            Err(error) => Ok(Err(error)),
        };
        let why = match answer {
            Ok(Ok(Some(FromHeir::Ready { pid }))) => return Ok(Ready { pid, sender: self.sender, seats }),
            Ok(answer) => unfit(answer, &mut self.child).await,
            Err(_) => format!("the new server did not serve within {} seconds", READY_WITHIN.as_secs()),
        };
        end(&mut self.child).await;
        Err(why)
    }
}

/// A new server that serves.
pub(crate) struct Ready {
    pub(crate) pid: u32,
    sender: Sender,
    seats: Vec<OpenSeat>,
}

impl Ready {
    /// Tells the new server which seats are still in use here, until none is, or until the deadline.
    pub(crate) async fn report_seats(mut self, handle: &Handle, within: Duration) {
        let deadline = Instant::now() + within;
        loop {
            let seats = open_seats(handle);
            if seats != self.seats {
                if self.sender.send(&ToHeir::Seats { seats: seats.clone() }).await.is_err() {
                    return;
                }
                self.seats = seats;
            }
            if self.seats.is_empty() || Instant::now() > deadline {
                return;
            }
            tokio::time::sleep(REPORT_EVERY).await;
        }
    }
}

fn open_seats(handle: &Handle) -> Vec<OpenSeat> {
    let row = |(key, app, _): (skep_launch::SeatKey, _, _)| {
        key.instance.map(|instance| OpenSeat { app, seat: key.seat, instance })
    };
    handle.open_seats().into_iter().filter_map(row).collect()
}

/// Why something else than the expected message came.
async fn unfit(answer: std::io::Result<Option<FromHeir>>, child: &mut Child) -> String {
    match answer {
        Ok(Some(FromHeir::Failed { why })) => why,
        Ok(Some(other)) => format!("the new server said {other:?} out of turn"),
        Err(error) => format!("the new server cannot be talked to: {error}"),
        Ok(None) => {
            // It has closed its end; its exit status follows at once.
            let deadline = Instant::now() + Duration::from_secs(2);
            while Instant::now() < deadline {
                if let Ok(Some(status)) = child.try_wait() {
                    return format!("the new server ended before it was ready ({status}); its log says why");
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            "the new server stopped talking before it was ready".to_owned()
        }
    }
}

/// Ends a process that is not wanted any more and waits for it.
async fn end(child: &mut Child) {
    let _ = child.kill();
    for _ in 0..500 {
        if !matches!(child.try_wait(), Ok(None)) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
