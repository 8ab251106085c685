//! The control socket: a few connections, bounded lines, nothing believed before it parses.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};

use super::super::protocol::{Answer, Ask, LIMIT_ASK, Op, VERSION};

/// Connections at a time; further ones are closed at once.
const MAX_PEERS: usize = 8;

pub(super) struct Control {
    listener: UnixListener,
    path: Option<std::path::PathBuf>,
    peers: Vec<Peer>,
}

struct Peer {
    stream: UnixStream,
    line: Vec<u8>,
}

impl Control {
    pub(super) fn new(listener: UnixListener) -> Self {
        let _ = listener.set_nonblocking(true);
        let path = listener.local_addr().ok().and_then(|a| a.as_pathname().map(std::path::Path::to_path_buf));
        Self { listener, path, peers: Vec::new() }
    }

    pub(super) fn poll_fds<'a>(&'a self, fds: &mut Vec<PollFd<'a>>) {
        fds.push(PollFd::new(&self.listener, PollFlags::IN));
        fds.extend(self.peers.iter().map(|peer| PollFd::new(&peer.stream, PollFlags::IN)));
    }

    /// Serves whoever has something to say, without waiting for anybody. Answers the grace of a request to stop.
    pub(super) fn attend(&mut self, answer: &Answer) -> Option<Duration> {
        while let Ok((stream, _)) = self.listener.accept() {
            if self.peers.len() < MAX_PEERS && is_trusted(&stream) && stream.set_nonblocking(true).is_ok() {
                self.peers.push(Peer { stream, line: Vec::new() });
            }
        }
        let mut stop: Option<Duration> = None;
        self.peers.retain_mut(|peer| match peer.attend(answer) {
            Ok(grace) => {
                stop = match (stop, grace) {
                    (Some(a), Some(b)) => Some(a.min(b)),
                    (a, b) => a.or(b),
                };
                true
            }
            Err(()) => false,
        });
        stop
    }

    pub(super) fn close(&mut self) {
        if let Some(path) = self.path.take() {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Only the user the shim runs as, and root.
fn is_trusted(stream: &UnixStream) -> bool {
    rustix::net::sockopt::socket_peercred(stream)
        .is_ok_and(|peer| peer.uid.is_root() || peer.uid == rustix::process::geteuid())
}

impl Peer {
    /// Err: this connection is over.
    fn attend(&mut self, answer: &Answer) -> Result<Option<Duration>, ()> {
        let mut buffer = [0_u8; 512];
        let mut stop = None;
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(()),
                Ok(n) => {
                    for &byte in &buffer[..n] {
                        if byte != b'\n' {
                            self.line.push(byte);
                            if self.line.len() > LIMIT_ASK {
                                return Err(());
                            }
                            continue;
                        }
                        let grace = self.hear(answer)?;
                        stop = grace.or(stop);
                        self.line.clear();
                    }
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(stop),
                Err(_) => return Err(()),
            }
        }
    }

    fn hear(&mut self, answer: &Answer) -> Result<Option<Duration>, ()> {
        let ask: Ask = serde_json::from_slice(&self.line).map_err(|_| ())?;
        if ask.v != VERSION {
            return Err(());
        }
        let mut line = serde_json::to_vec(answer).map_err(|_| ())?;
        line.push(b'\n');
        // A peer that does not read its answers loses them and the connection.
        self.stream.write_all(&line).map_err(|_| ())?;
        Ok(match ask.op {
            Op::Status => None,
            Op::Stop => Some(Duration::from_millis(ask.grace_ms)),
        })
    }
}
