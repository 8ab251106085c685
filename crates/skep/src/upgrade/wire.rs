//! What two generations of the server say to each other over their private socket.
//!
//! One JSON object per line, in the order of the variants. The first message carries open files along (`SCM_RIGHTS`), named
//! by [`Hello::files`]. The versions may differ, so fields are only ever added.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};
use skep_launch::SeatKey;
use skep_model::{AppId, InstanceId, SeatId};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

/// Set in the environment of a server that takes over: its standard input is the socket.
pub(crate) const TAKE_OVER: &str = "SKEP_TAKE_OVER";

/// The kernel passes at most 253 at once; each is one listening address.
const FILES_AT_MOST: usize = 128;
const LINE_AT_MOST: u64 = 64 << 20;
const FIRST_LINE_AT_MOST: usize = 64 << 10;

/// The old process begins.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Hello {
    /// What each file that comes along is, in order.
    pub(crate) files: Vec<Passed>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Passed {
    /// The data folder's lock.
    Lock,
    /// Listens for requests that the old process, or one before it, may not serve any more.
    Relay,
    /// The control socket.
    Control,
    Admin(std::net::SocketAddr),
    Public(std::net::SocketAddr),
}

/// From the new process to the old one.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum FromHeir {
    /// Config, certificates, keys and database are in order; nothing has been touched yet.
    Prepared,
    /// Instances are adopted and requests are being served.
    Ready { pid: u32 },
    /// It will not come to that.
    Failed { why: String },
}

/// From the old process to the new one, after [`Hello`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ToHeir {
    /// The pool is frozen: instances are yours. These seats are still in use here.
    Go { seats: Vec<OpenSeat> },
    /// The seats still in use here now; those missing are free.
    Seats { seats: Vec<OpenSeat> },
}

/// A seat with requests or tunnels on it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct OpenSeat {
    pub(crate) app: AppId,
    pub(crate) seat: SeatId,
    pub(crate) instance: InstanceId,
}

impl OpenSeat {
    pub(crate) fn key(&self) -> SeatKey {
        SeatKey { seat: self.seat, instance: Some(self.instance.clone()) }
    }
}

/// Sends the first message and the files it names.
pub(crate) fn send_hello(socket: &UnixStream, hello: &Hello, files: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut line = serde_json::to_vec(hello)?;
    line.push(b'\n');
    if line.len() > FIRST_LINE_AT_MOST || files.len() > FILES_AT_MOST {
        return Err(io::Error::other("too many listening addresses to hand over"));
    }
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES_AT_MOST))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    ancillary.push(SendAncillaryMessage::ScmRights(files));
    let sent = sendmsg(socket, &[IoSlice::new(&line)], &mut ancillary, SendFlags::NOSIGNAL)?;
    io::Write::write_all(&mut &*socket, &line[sent..])
}

/// Receives the first message and its files.
pub(crate) fn receive_hello(socket: &UnixStream, patience: Duration) -> io::Result<(Hello, Vec<OwnedFd>)> {
    socket.set_read_timeout(Some(patience))?;
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES_AT_MOST))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut line = vec![0; FIRST_LINE_AT_MOST + 1];
    let mut files = Vec::new();
    let mut length = 0;
    while !line[..length].ends_with(b"\n") {
        let mut into = [IoSliceMut::new(&mut line[length..])];
        let got = recvmsg(socket.as_fd(), &mut into, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = message {
                files.extend(received);
            }
        }
        if got.bytes == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the old server said nothing"));
        }
        length += got.bytes;
    }
    socket.set_read_timeout(None)?;
    let hello: Hello = serde_json::from_slice(&line[..length])?;
    if hello.files.len() != files.len() {
        return Err(io::Error::other("the old server named other files than it sent"));
    }
    Ok((hello, files))
}

/// Messages out.
pub(crate) struct Sender(OwnedWriteHalf);

/// Messages in.
pub(crate) struct Receiver(BufReader<OwnedReadHalf>);

/// The socket's two directions, on the current runtime.
pub(crate) fn split(socket: UnixStream) -> io::Result<(Sender, Receiver)> {
    socket.set_nonblocking(true)?;
    let (read, write) = tokio::net::UnixStream::from_std(socket)?.into_split();
    Ok((Sender(write), Receiver(BufReader::new(read))))
}

impl Sender {
    pub(crate) async fn send(&mut self, message: &impl Serialize) -> io::Result<()> {
        let mut line = serde_json::to_vec(message)?;
        line.push(b'\n');
        self.0.write_all(&line).await
    }
}

impl Receiver {
    /// The next message; `None` when the other side is gone.
    pub(crate) async fn next<T: for<'de> Deserialize<'de>>(&mut self) -> io::Result<Option<T>> {
        let mut line = Vec::new();
        let length = match (&mut self.0).take(LINE_AT_MOST).read_until(b'\n', &mut line).await {
            // It went without having read everything we said.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => 0,
            read => read?,
        };
        if length == 0 || line.last() != Some(&b'\n') {
            return Ok(None);
        }
        Ok(Some(serde_json::from_slice(&line)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Seek, Write};

    #[test]
    fn files_come_along_with_the_first_message() {
        let (old, new) = UnixStream::pair().unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"still here").unwrap();
        let address = "127.0.0.1:80".parse().unwrap();
        let hello = Hello { files: vec![Passed::Lock, Passed::Public(address)] };
        send_hello(&old, &hello, &[file.as_fd(), old.as_fd()]).unwrap();
        drop(file);
        let (received, files) = receive_hello(&new, Duration::from_secs(5)).unwrap();
        assert_eq!(received.files, hello.files);
        let mut file = std::fs::File::from(files.into_iter().next().unwrap());
        file.rewind().unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "still here");
    }

    #[tokio::test]
    async fn messages_keep_their_order_and_an_end_is_seen() {
        let (old, new) = UnixStream::pair().unwrap();
        let (_to_old, mut from_old) = split(new).unwrap();
        {
            let (mut to_new, _from_new) = split(old).unwrap();
            let seat = OpenSeat {
                app: "a".parse().unwrap(),
                seat: SeatId(7),
                instance: "a.0000000000000001".parse().unwrap(),
            };
            to_new.send(&ToHeir::Go { seats: vec![seat.clone()] }).await.unwrap();
            to_new.send(&ToHeir::Seats { seats: vec![] }).await.unwrap();
            match from_old.next().await.unwrap() {
                Some(ToHeir::Go { seats }) => assert_eq!(seats, [seat]),
                other => panic!("{other:?}"),
            }
        }
        assert!(matches!(from_old.next().await.unwrap(), Some(ToHeir::Seats { .. })));
        assert!(from_old.next::<ToHeir>().await.unwrap().is_none());
    }
}
