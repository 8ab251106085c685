//! A client that sends exactly the bytes it is given.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::app::unchunk;

pub(crate) struct Client<S = TcpStream> {
    pub(crate) stream: S,
    buffer: Vec<u8>,
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn fields<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let fields = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        fields.filter(move |(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        let mut fields = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        fields.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// The `code` of a problem document.
    pub(crate) fn code(&self) -> String {
        assert_eq!(self.field("content-type"), Some("application/problem+json"), "{self:?}");
        let document: serde_json::Value = serde_json::from_slice(&self.body).unwrap();
        assert_eq!(document["status"], self.status);
        document["code"].as_str().unwrap().to_owned()
    }
}

impl<S> std::fmt::Debug for Client<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "read so far: {:?}", String::from_utf8_lossy(&self.buffer))
    }
}

impl Client {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self::over(stream)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    pub(crate) fn over(stream: S) -> Self {
        Self { stream, buffer: Vec::new() }
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    async fn more(&mut self) -> std::io::Result<usize> {
        let read = self.stream.read_buf(&mut self.buffer);
        tokio::time::timeout(Duration::from_secs(60), read).await.expect("an answer within 60 s")
    }

    /// Waits for bytes, exactly as many.
    pub(crate) async fn take(&mut self, n: usize) -> Vec<u8> {
        while self.buffer.len() < n {
            assert_ne!(self.more().await.unwrap(), 0, "the connection ended after {:?}", self.buffer);
        }
        self.buffer.drain(..n).collect()
    }

    /// Everything until the server closes.
    pub(crate) async fn rest(&mut self) -> Vec<u8> {
        while matches!(self.more().await, Ok(1..)) {}
        std::mem::take(&mut self.buffer)
    }

    /// The head of the next answer.
    pub(crate) async fn head(&mut self) -> Answer {
        self.try_head().await.expect("an answer")
    }

    pub(crate) async fn try_head(&mut self) -> Option<Answer> {
        loop {
            if let Some(at) = self.buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                let head: Vec<u8> = self.buffer.drain(..at + 4).collect();
                let head = String::from_utf8(head).unwrap();
                let status = head[9..12].parse().unwrap();
                return Some(Answer { status, head, body: Vec::new() });
            }
            if !matches!(self.more().await, Ok(1..)) {
                return None;
            }
        }
    }

    /// The next answer, to its end.
    pub(crate) async fn answer(&mut self) -> Answer {
        self.try_answer().await.expect("an answer")
    }

    pub(crate) async fn try_answer(&mut self) -> Option<Answer> {
        let mut answer = self.try_head().await?;
        if let Some(length) = answer.field("content-length") {
            let length = length.parse().unwrap();
            while self.buffer.len() < length {
                if !matches!(self.more().await, Ok(1..)) {
                    return None;
                }
            }
            answer.body = self.buffer.drain(..length).collect();
        } else if answer.field("transfer-encoding").is_some() {
            loop {
                let (done, body) = unchunk(&self.buffer);
                if done {
                    answer.body = body;
                    self.buffer.clear();
                    break;
                }
                if !matches!(self.more().await, Ok(1..)) {
                    return None;
                }
            }
        }
        Some(answer)
    }

    /// Chunked payload so far, once there is at least this much.
    pub(crate) async fn chunks(&mut self, at_least: usize) -> Vec<u8> {
        loop {
            let (_, body) = unchunk(&self.buffer);
            if body.len() >= at_least {
                return body;
            }
            assert_ne!(self.more().await.unwrap(), 0);
        }
    }

    pub(crate) async fn get(&mut self, path: &str) -> Answer {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")).await;
        self.answer().await
    }
}
