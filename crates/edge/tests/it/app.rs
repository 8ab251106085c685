//! A recording app: a raw HTTP/1.1 server that keeps every byte it was sent and answers by path.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use skep_launch::{Dial, Stream};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::Notify;

/// The path the launcher probes; not recorded.
pub(crate) const HEALTH: &str = "/__health";

/// What the app saw and how it behaves.
pub(crate) struct App {
    place: Place,
    pub(crate) awake: AtomicBool,
    /// Complete heads, and for each the body as far as it came.
    requests: Mutex<Vec<Seen>>,
    pub(crate) connections: AtomicUsize,
    /// Closes idle connections without a word after this many requests on one.
    pub(crate) requests_per_connection: AtomicUsize,
    /// Nobody listens any more, as far as new connections can tell.
    pub(crate) gone: AtomicBool,
    /// How many have tried since.
    pub(crate) refused: AtomicUsize,
    /// Lets `/wait` answer.
    pub(crate) go_on: Notify,
}

enum Place {
    Tcp(std::net::SocketAddr),
    Unix(PathBuf),
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Seen {
    pub(crate) fn line(&self) -> &str {
        self.head.lines().next().unwrap()
    }

    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        let mut fields = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        fields.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

/// Dials the app, as a bare socket or as some other stream.
pub(crate) struct Dialer {
    app: Arc<App>,
    opaque: bool,
}

impl Dial for Dialer {
    fn dial(&self) -> BoxFuture<'static, io::Result<Stream>> {
        let (app, opaque) = (Arc::clone(&self.app), self.opaque);
        Box::pin(async move {
            if app.gone.load(SeqCst) {
                app.refused.fetch_add(1, SeqCst);
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            Ok(match &app.place {
                Place::Tcp(address) if opaque => Stream::Other(Box::new(TcpStream::connect(address).await?)),
                Place::Tcp(address) => Stream::Tcp(TcpStream::connect(address).await?),
                Place::Unix(path) => Stream::Unix(UnixStream::connect(path).await?),
            })
        })
    }

    fn describe(&self) -> String {
        "recording app".to_owned()
    }
}

impl App {
    pub(crate) async fn tcp() -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let app = Arc::new(Self::new(Place::Tcp(listener.local_addr().unwrap())));
        let serving = Arc::clone(&app);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).unwrap();
                tokio::spawn(Arc::clone(&serving).serve(stream));
            }
        });
        app
    }

    pub(crate) async fn unix(path: PathBuf) -> Arc<Self> {
        let listener = UnixListener::bind(&path).unwrap();
        let app = Arc::new(Self::new(Place::Unix(path)));
        let serving = Arc::clone(&app);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(Arc::clone(&serving).serve(stream));
            }
        });
        app
    }

    fn new(place: Place) -> Self {
        Self {
            place,
            awake: AtomicBool::new(true),
            requests: Mutex::default(),
            connections: AtomicUsize::new(0),
            requests_per_connection: AtomicUsize::new(usize::MAX),
            gone: AtomicBool::new(false),
            refused: AtomicUsize::new(0),
            go_on: Notify::new(),
        }
    }

    pub(crate) fn dialer(self: &Arc<Self>, opaque: bool) -> Arc<dyn Dial> {
        Arc::new(Dialer { app: Arc::clone(self), opaque })
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.requests.lock().clone()
    }

    async fn serve(self: Arc<Self>, mut stream: impl AsyncRead + AsyncWrite + Unpin) {
        let mut buffer = Vec::new();
        let mut answered = 0;
        while let Some(seen) = self.read_request(&mut stream, &mut buffer).await {
            if seen.line().contains(HEALTH) {
                let answer: &[u8] = if self.awake.load(SeqCst) {
                    b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
                } else {
                    b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
                };
                if stream.write_all(answer).await.is_err() {
                    return;
                }
                continue;
            }
            if answered == 0 {
                self.connections.fetch_add(1, SeqCst);
            }
            if self.answer(&mut stream, seen, buffer.split_off(0)).await.is_none() {
                return;
            }
            answered += 1;
            if answered >= self.requests_per_connection.load(SeqCst) {
                return;
            }
        }
    }

    async fn read_request(
        &self,
        stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
        buffer: &mut Vec<u8>,
    ) -> Option<Seen> {
        let end = loop {
            if let Some(at) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            if stream.read_buf(buffer).await.ok()? == 0 {
                return None;
            }
        };
        let head: Vec<u8> = buffer.drain(..end).collect();
        let mut seen = Seen { head: String::from_utf8_lossy(&head).into_owned(), body: Vec::new() };
        let probe = seen.line().contains(HEALTH);
        let index = (!probe).then(|| {
            let mut requests = self.requests.lock();
            requests.push(seen.clone());
            requests.len() - 1
        });
        let record = |body: &[u8]| {
            if let Some(index) = index {
                self.requests.lock()[index].body = body.to_vec();
            }
        };
        if let Some(length) = seen.field("content-length") {
            let length: usize = length.parse().unwrap();
            while buffer.len() < length {
                if stream.read_buf(buffer).await.ok()? == 0 {
                    record(buffer);
                    return None;
                }
            }
            seen.body = buffer.drain(..length).collect();
        } else if seen.field("transfer-encoding").is_some() && !seen.line().contains("/duplex") {
            loop {
                let (done, body) = unchunk(buffer);
                if done {
                    seen.body = body;
                    buffer.clear();
                    break;
                }
                if stream.read_buf(buffer).await.ok()? == 0 {
                    return None;
                }
            }
        }
        record(&seen.body);
        Some(seen)
    }

    async fn answer(
        &self,
        stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
        seen: Seen,
        early: Vec<u8>,
    ) -> Option<()> {
        let line = seen.line().to_owned();
        if seen.field("upgrade").is_some() {
            return echo_frames(stream, early).await;
        }
        let has = |word: &str| line.contains(word);
        if has("/wait") {
            self.go_on.notified().await;
        }
        if has("/break") {
            return None;
        }
        if has("/events") {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n").await.ok()?;
            for n in 0..3 {
                stream.write_all(format!("9\r\ndata: {n}\n\n\r\n").as_bytes()).await.ok()?;
                self.go_on.notified().await;
            }
            return stream.write_all(b"0\r\n\r\n").await.ok();
        }
        if has("/duplex") {
            // Each chunk of the request comes back at once.
            stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await.ok()?;
            let mut buffer = early;
            let mut sent = 0;
            loop {
                let (done, body) = unchunk(&buffer);
                if body.len() > sent {
                    let fresh = &body[sent..];
                    stream.write_all(format!("{:x}\r\n", fresh.len()).as_bytes()).await.ok()?;
                    stream.write_all(fresh).await.ok()?;
                    stream.write_all(b"\r\n").await.ok()?;
                    sent = body.len();
                }
                if done {
                    return stream.write_all(b"0\r\n\r\n").await.ok();
                }
                if stream.read_buf(&mut buffer).await.ok()? == 0 {
                    return None;
                }
            }
        }
        if has("/redirect") {
            let answer = b"HTTP/1.1 302 Found\r\nLocation: /there\r\nSet-Cookie: own=1; Path=/\r\nSet-Cookie: skep-seat=forged; Path=/\r\nContent-Length: 0\r\n\r\n";
            return stream.write_all(answer).await.ok();
        }
        if has("/big") {
            let body = vec![b'x'; 3_000_000];
            stream
                .write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes())
                .await
                .ok()?;
            return stream.write_all(&body).await.ok();
        }
        let body = if line.starts_with("HEAD") { Vec::new() } else { seen.body.clone() };
        let length = if line.starts_with("HEAD") { 42 } else { body.len() };
        stream
            .write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n").as_bytes())
            .await
            .ok()?;
        stream.write_all(&body).await.ok()
    }
}

/// The payload so far, and whether the last chunk came.
pub(crate) fn unchunk(mut bytes: &[u8]) -> (bool, Vec<u8>) {
    let mut body = Vec::new();
    loop {
        let Some(at) = bytes.windows(2).position(|window| window == b"\r\n") else { return (false, body) };
        let size = usize::from_str_radix(std::str::from_utf8(&bytes[..at]).unwrap(), 16).unwrap();
        if size == 0 {
            return (bytes.len() >= at + 4, body);
        }
        if bytes.len() < at + 2 + size + 2 {
            return (false, body);
        }
        body.extend(&bytes[at + 2..at + 2 + size]);
        bytes = &bytes[at + 4 + size..];
    }
}

/// Switches protocols, says hello, sends everything back, and after the client's end says goodbye.
async fn echo_frames(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), early: Vec<u8>) -> Option<()> {
    stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\nhello").await.ok()?;
    stream.write_all(&early).await.ok()?;
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let n = stream.read(&mut buffer).await.ok()?;
        if n == 0 {
            stream.write_all(b"bye").await.ok()?;
            stream.shutdown().await.ok()?;
            // Until the other side is gone, too.
            let _ = tokio::time::timeout(Duration::from_secs(5), stream.read(&mut buffer)).await;
            return None;
        }
        stream.write_all(&buffer[..n]).await.ok()?;
    }
}
