//! A small HTTP/1.1 client: one request per connection, everything visible.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
    /// Seconds since the Unix epoch when the first byte came.
    pub(crate) first_byte_at: f64,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e} in {}: {}", self.status, self.body))
    }

    pub(crate) fn pid(&self) -> u64 {
        self.json()["pid"].as_u64().unwrap_or_else(|| panic!("no pid in {}: {}", self.status, self.body))
    }
}

/// Somebody with a browser: keeps cookies.
#[derive(Debug, Clone)]
pub(crate) struct Visitor {
    address: SocketAddr,
    host: &'static str,
    cookies: Vec<(String, String)>,
}

impl Visitor {
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self { address, host: "localhost", cookies: Vec::new() }
    }

    /// The same browser, at another server.
    pub(crate) fn at(&self, address: SocketAddr) -> Self {
        Self { address, ..self.clone() }
    }

    /// The same browser, which knows the server by another name.
    pub(crate) fn named(&self, host: &'static str) -> Self {
        Self { host, ..self.clone() }
    }

    /// `name=value; …`
    pub(crate) fn cookie_header(&self) -> String {
        let pairs: Vec<String> = self.cookies.iter().map(|(n, v)| format!("{n}={v}")).collect();
        pairs.join("; ")
    }

    /// Follows a link: a navigation.
    pub(crate) fn open(&mut self, path: &str) -> Answer {
        self.ask("GET", path, &[("Accept", "text/html,*/*;q=0.8"), ("Sec-Fetch-Mode", "navigate")], b"")
    }

    /// What a script or a program asks for: held until there is an answer.
    pub(crate) fn fetch(&mut self, path: &str) -> Answer {
        self.ask("GET", path, &[("Accept", "application/json")], b"")
    }

    pub(crate) fn ask(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        self.try_ask(method, path, headers, body).unwrap_or_else(|e| panic!("{method} {path}: {e}"))
    }

    pub(crate) fn try_ask(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> std::io::Result<Answer> {
        let mut stream = TcpStream::connect(self.address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(90)))?;
        let host = self.host;
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n");
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        if !self.cookies.is_empty() {
            head += &format!("Cookie: {}\r\n", self.cookie_header());
        }
        if !body.is_empty() {
            head += &format!("Content-Length: {}\r\n", body.len());
        }
        head += "\r\n";
        stream.write_all(head.as_bytes())?;
        stream.write_all(body)?;
        let answer = read_answer(&mut stream)?;
        for (name, value) in &answer.headers {
            if name.eq_ignore_ascii_case("set-cookie") {
                let pair = value.split(';').next().unwrap_or_default();
                let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                self.cookies.retain(|(n, _)| n != name);
                self.cookies.push((name.to_owned(), value.to_owned()));
            }
        }
        Ok(answer)
    }

    /// Opens a page as a browser does: reloads the launch page until the app is there.
    pub(crate) fn wait_for(&mut self, path: &str) -> Answer {
        let deadline = Instant::now() + Duration::from_secs(90);
        loop {
            let answer = self.open(path);
            if answer.status != 503 || Instant::now() > deadline {
                return answer;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// One connection that is kept as long as the server keeps it, as browsers do.
pub(crate) struct Kept {
    address: SocketAddr,
    stream: Option<BufReader<TcpStream>>,
}

impl Kept {
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self { address, stream: None }
    }

    /// GET; the status. A connection that the server said it closes is opened anew before, never in the middle.
    pub(crate) fn get(&mut self, path: &str) -> std::io::Result<u16> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => BufReader::new(TcpStream::connect(self.address)?),
        };
        stream.get_ref().set_read_timeout(Some(Duration::from_secs(90)))?;
        write!(stream.get_ref(), "GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n")?;
        let (mut status, mut length, mut closes) = (0, 0, false);
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line)? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            let line = line.trim().to_ascii_lowercase();
            if let Some(rest) = line.strip_prefix("http/1.1 ") {
                status = rest.split(' ').next().and_then(|code| code.parse().ok()).unwrap_or(0);
            } else if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().map_err(std::io::Error::other)?;
            } else if let Some(value) = line.strip_prefix("connection:") {
                closes = value.trim() == "close";
            } else if line.is_empty() {
                break;
            }
        }
        stream.read_exact(&mut vec![0; length])?;
        self.stream = Some(stream).filter(|_| !closes);
        Ok(status)
    }
}

fn read_answer(stream: &mut TcpStream) -> std::io::Result<Answer> {
    let mut bytes = Vec::new();
    let mut first_byte_at = 0.0;
    let mut chunk = [0; 16 << 10];
    loop {
        let got = stream.read(&mut chunk)?;
        if got == 0 {
            break;
        }
        if bytes.is_empty() {
            first_byte_at = now();
        }
        bytes.extend_from_slice(&chunk[..got]);
    }
    let broken = |what: &str| std::io::Error::other(format!("{what}: {}", String::from_utf8_lossy(&bytes)));
    let end = bytes.windows(4).position(|w| w == b"\r\n\r\n").ok_or_else(|| broken("no head"))?;
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|code| code.parse().ok());
    let status = status.ok_or_else(|| broken("no status"))?;
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect();
    let find =
        |name: &str| headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str());
    let raw = &bytes[end + 4..];
    let body = if find("transfer-encoding") == Some("chunked") {
        unchunk(raw).ok_or_else(|| broken("the chunked body broke off"))?
    } else {
        let promised = find("content-length").and_then(|length| length.parse::<usize>().ok());
        if promised.is_some_and(|length| raw.len() != length) {
            return Err(broken("the body broke off"));
        }
        raw.to_vec()
    };
    Ok(Answer { status, headers, body: String::from_utf8_lossy(&body).into_owned(), first_byte_at })
}

fn unchunk(mut raw: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = raw.windows(2).position(|w| w == b"\r\n")?;
        let size =
            usize::from_str_radix(std::str::from_utf8(&raw[..end]).ok()?.split(';').next()?.trim(), 16)
                .ok()?;
        raw = &raw[end + 2..];
        if size == 0 {
            return Some(body);
        }
        body.extend_from_slice(raw.get(..size)?);
        raw = raw.get(size + 2..)?;
    }
}

pub(crate) fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
}
