//! Both ends of the WebSocket measurements, on the standard library alone: `rustc -O ws.rs`.
//!
//! - `ws serve PORT`: answers plain requests with 200 and echoes the frames of WebSockets, one thread each;
//! - `ws echo ADDR HOST PATH COOKIE CONNECTIONS SECONDS`: 64-byte messages back and forth; prints messages and microseconds
//!   at the median and the 99th percentile;
//!   `{session}` in PATH becomes a UUID of each connection's own;
//! - `ws idle ADDR HOST PATH COOKIE CONNECTIONS`: opens WebSockets, says `ready`, waits for a line, then counts those that
//!   still echo;
//! - `ws held ADDR HOST PATH COOKIE CONNECTIONS`: sends requests, says `ready`, waits for a line, then counts those that
//!   were neither answered nor dropped.

use std::io::{self, BufRead, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use std::{env, process, thread};

/// The example of RFC 6455 and its answer: every client here uses it.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
const PAYLOAD: usize = 64;

fn main() -> io::Result<()> {
    let args: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["serve", port] => serve(port),
        ["echo", addr, host, path, cookie, connections, seconds] => {
            echo(&Target { addr, host, path, cookie }, number(connections), number(seconds))
        }
        ["idle", addr, host, path, cookie, connections] => {
            idle(&Target { addr, host, path, cookie }, number(connections))
        }
        ["held", addr, host, path, cookie, connections] => {
            held(&Target { addr, host, path, cookie }, number(connections))
        }
        _ => {
            eprintln!("usage: see the head of ws.rs");
            process::exit(2)
        }
    }
}

fn number(text: &str) -> usize {
    text.parse().unwrap_or_else(|_| {
        eprintln!("`{text}` is no number");
        process::exit(2)
    })
}

fn small_thread<T: Send + 'static>(
    run: impl FnOnce() -> T + Send + 'static,
) -> io::Result<thread::JoinHandle<T>> {
    thread::Builder::new().stack_size(64 * 1024).spawn(run)
}

// --- the app --------------------------------------------------------------------------------------------------------

fn serve(port: &str) -> io::Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", u16::try_from(number(port)).unwrap_or(0)))?;
    for stream in listener.incoming() {
        let stream = stream?;
        // An app that cannot start another thread drops the connection, which is seen and counted.
        let _ = small_thread(move || attend(stream));
    }
    Ok(())
}

fn attend(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    loop {
        let head = read_head(&mut stream)?;
        if head.is_empty() {
            return Ok(());
        }
        if head.to_ascii_lowercase().contains("upgrade: websocket") {
            let answer = format!(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {ACCEPT}\r\n\r\n"
            );
            stream.write_all(answer.as_bytes())?;
            return echo_frames(&mut stream);
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 3\r\n\r\nok\n")?;
    }
}

/// Up to the empty line, and what came with it; empty when the peer is gone.
fn read_head(stream: &mut TcpStream) -> io::Result<String> {
    let mut head = Vec::with_capacity(512);
    let mut byte = [0; 512];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        let n = stream.read(&mut byte)?;
        if n == 0 {
            return Ok(String::new());
        }
        head.extend_from_slice(&byte[..n]);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

/// Frames of up to 125 bytes; the only ones used here.
fn echo_frames(stream: &mut TcpStream) -> io::Result<()> {
    let mut have = Vec::with_capacity(4096);
    let mut buffer = [0; 4096];
    loop {
        let n = stream.read(&mut buffer)?;
        if n == 0 {
            return Ok(());
        }
        have.extend_from_slice(&buffer[..n]);
        let mut out = Vec::with_capacity(have.len());
        let mut at = 0;
        while have.len() >= at + 6 {
            let len = usize::from(have[at + 1] & 0x7f);
            if have.len() < at + 6 + len {
                break;
            }
            let mask = [have[at + 2], have[at + 3], have[at + 4], have[at + 5]];
            out.extend_from_slice(&[have[at], have[at + 1] & 0x7f]);
            out.extend(have[at + 6..at + 6 + len].iter().enumerate().map(|(i, byte)| byte ^ mask[i % 4]));
            at += 6 + len;
        }
        have.drain(..at);
        stream.write_all(&out)?;
    }
}

// --- the visitors ---------------------------------------------------------------------------------------------------

struct Target<'a> {
    addr: &'a str,
    host: &'a str,
    path: &'a str,
    cookie: &'a str,
}

impl Target<'_> {
    fn connect(&self, upgrade: bool) -> io::Result<TcpStream> {
        let mut stream = TcpStream::connect(self.addr)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(120)))?;
        let Self { host, cookie, .. } = self;
        let path = self.path.replace("{session}", &session());
        let mut head = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n");
        if !cookie.is_empty() {
            head.push_str(&format!("Cookie: {cookie}\r\n"));
        }
        if upgrade {
            head.push_str(&format!(
                "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n"
            ));
        }
        head.push_str("\r\n");
        stream.write_all(head.as_bytes())?;
        if upgrade {
            let answer = read_head(&mut stream)?;
            if !answer.starts_with("HTTP/1.1 101") || !answer.contains(ACCEPT) {
                return Err(io::Error::other(format!("no WebSocket: {answer}")));
            }
        }
        Ok(stream)
    }
}

fn message() -> Vec<u8> {
    let mut frame = vec![0x82, 0x80 | PAYLOAD as u8, 1, 2, 3, 4];
    frame.extend((0..PAYLOAD).map(|i| (i as u8) ^ [1, 2, 3, 4][i % 4]));
    frame
}

/// A name for a connection, in the form of a UUID, that none had before.
fn session() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
    format!("{:08x}-0000-4000-8000-{:012x}", COUNT.fetch_add(1, Relaxed), since & 0xffff_ffff_ffff)
}

/// One message there and back, checked.
fn once(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    stream.write_all(message)?;
    let mut answer = [0; 2 + PAYLOAD];
    stream.read_exact(&mut answer)?;
    let good = answer[0] == 0x82 && answer[2..].iter().enumerate().all(|(i, &byte)| byte == i as u8);
    if good { Ok(()) } else { Err(io::Error::other("the echo is not what was sent")) }
}

fn echo(target: &Target<'_>, connections: usize, seconds: usize) -> io::Result<()> {
    let mut threads = Vec::new();
    let streams: Vec<TcpStream> = (0..connections).map(|_| target.connect(true)).collect::<Result<_, _>>()?;
    let end = Instant::now() + Duration::from_secs(seconds as u64);
    for mut stream in streams {
        threads.push(small_thread(move || -> io::Result<Vec<u32>> {
            let message = message();
            let mut times = Vec::new();
            while Instant::now() < end {
                let began = Instant::now();
                once(&mut stream, &message)?;
                times.push(u32::try_from(began.elapsed().as_micros()).unwrap_or(u32::MAX));
            }
            Ok(times)
        })?);
    }
    let mut times = Vec::new();
    for thread in threads {
        times.extend(thread.join().map_err(|_| io::Error::other("a thread panicked"))??);
    }
    times.sort_unstable();
    let at = |share: f64| times.get((times.len() as f64 * share) as usize).copied().unwrap_or(0);
    println!("{} {} {}", times.len(), at(0.5), at(0.99));
    Ok(())
}

fn wait_for_line() -> io::Result<()> {
    println!("ready");
    io::stdout().flush()?;
    io::stdin().lock().read_line(&mut String::new()).map(drop)
}

fn idle(target: &Target<'_>, connections: usize) -> io::Result<()> {
    let mut streams: Vec<TcpStream> =
        (0..connections).map(|_| target.connect(true)).collect::<Result<_, _>>()?;
    wait_for_line()?;
    let message = message();
    let alive = streams.iter_mut().filter_map(|stream| once(stream, &message).ok()).count();
    println!("{alive}");
    Ok(())
}

fn held(target: &Target<'_>, connections: usize) -> io::Result<()> {
    let streams: Vec<TcpStream> =
        (0..connections).map(|_| target.connect(false)).collect::<Result<_, _>>()?;
    wait_for_line()?;
    let waiting = |stream: &TcpStream| {
        let silent = stream.set_nonblocking(true).and_then(|()| stream.peek(&mut [0]));
        matches!(silent, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    };
    println!("{}", streams.iter().filter(|stream| waiting(stream)).count());
    Ok(())
}
