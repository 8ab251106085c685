//! Static sites: files of a folder, read off the event loops.
//!
//! A file is opened beneath the folder by the kernel's own rules (`openat2`, `RESOLVE_BENEATH`), so no symlink leads out
//! of it; hidden files and `skep.toml` are never served. Validators, conditional requests and single ranges as in
//! RFC 9110. Absent on purpose: directory listings, compression.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{
    ACCEPT_RANGES, ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderMap,
    HeaderName, HeaderValue, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, LAST_MODIFIED, RANGE,
    X_CONTENT_TYPE_OPTIONS,
};
use http::{Method, Response, StatusCode};
use jiff::Timestamp;
use jiff::fmt::rfc2822::{DateTimeParser, DateTimePrinter};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use tokio::task::JoinHandle;

use crate::body::{EdgeBody, Source};
use crate::problem::Problem;
use crate::request::{Visit, moved};
use crate::routes::Route;

/// One read. What is left of a smaller file is read when it is opened.
const CHUNK: usize = 128 * 1024;

/// Answers a request for a static site.
pub(crate) async fn serve(site: &Route, visit: &Visit) -> Response<EdgeBody> {
    let problem = |problem: Problem| problem.respond(visit.client.request_id);
    if visit.parts.method != Method::GET && visit.parts.method != Method::HEAD {
        let mut response =
            problem(Problem::new(405, "static-site", "this is a static site; it can be read only"));
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    let not_found = || problem(Problem::new(404, "no-such-file", "there is no such file on this site"));
    let path = visit.parts.uri.path();
    let within = path.strip_prefix(site.spec.mount.as_str());
    let (Some(root), Some(within)) = (site.static_dir.clone(), within) else { return not_found() };
    let Some(relative) = relative_path(within) else { return not_found() };
    let asked = Asked::from(&visit.parts.headers);
    let head_only = visit.parts.method == Method::HEAD;
    let opened = tokio::task::spawn_blocking(move || open(&root, &relative, &asked, head_only)).await;
    match opened {
        Ok(Ok(Opened::File(plan))) => plan.respond(head_only),
        Ok(Ok(Opened::Folder)) => {
            let query = visit.parts.uri.query().map_or_else(String::new, |query| format!("?{query}"));
            moved(&format!("{path}/{query}"))
        }
        Ok(Err(error)) if is_absence(&error) => not_found(),
        Ok(Err(error)) => {
            tracing::warn!(%error, path, app = %site.spec.id, "a file of a static site cannot be read");
            problem(Problem::new(500, "unreadable-file", "the file cannot be read"))
        }
        Err(_) => problem(Problem::new(503, "shutting-down", "the server is shutting down")),
    }
}

/// Nothing to serve there, whatever the exact reason: which of them it was is not for the client.
fn is_absence(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let absent = [Errno::NOENT, Errno::NOTDIR, Errno::XDEV, Errno::LOOP, Errno::NAMETOOLONG, Errno::ACCESS];
    Errno::from_io_error(error).is_some_and(|errno| absent.contains(&errno))
        || error.kind() == io::ErrorKind::NotFound
}

/// The file a path below the mount path names, when it may name one. Ends with `/` where the path does.
pub(crate) fn relative_path(path: &str) -> Option<PathBuf> {
    let mut relative = PathBuf::new();
    let mut segments = path.split('/').peekable();
    while let Some(segment) = segments.next() {
        if segment.is_empty() {
            // Only at the end: a folder.
            return segments.peek().is_none().then(|| relative.join("index.html"));
        }
        let name = percent_decode(segment)?;
        if name.starts_with('.') || name.contains(['/', '\0']) || name == "skep.toml" {
            return None;
        }
        relative.push(name);
    }
    Some(relative)
}

fn percent_decode(segment: &str) -> Option<String> {
    let mut out = Vec::with_capacity(segment.len());
    let mut bytes = segment.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
            let (high, low) = (digit(bytes.next())?, digit(bytes.next())?);
            out.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            out.push(byte);
        }
    }
    String::from_utf8(out).ok()
}

/// The conditions a request came with.
struct Asked {
    none_match: Vec<String>,
    modified_since: Option<Timestamp>,
    range: Option<String>,
    if_range: Option<String>,
}

impl Asked {
    fn from(headers: &HeaderMap) -> Self {
        let text = |name: HeaderName| headers.get(name)?.to_str().ok().map(str::to_owned);
        let tags = headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
        Self {
            none_match: tags.flat_map(|value| value.split(',')).map(|tag| tag.trim().to_owned()).collect(),
            modified_since: text(IF_MODIFIED_SINCE).and_then(|date| parse_date(&date)),
            range: text(RANGE),
            if_range: text(IF_RANGE),
        }
    }
}

fn parse_date(text: &str) -> Option<Timestamp> {
    DateTimeParser::new().parse_timestamp(text).ok()
}

enum Opened {
    File(Plan),
    Folder,
}

/// An answer, worked out; its first bytes are read already.
struct Plan {
    status: StatusCode,
    headers: HeaderMap,
    body: FileStream,
}

impl Plan {
    fn respond(self, head_only: bool) -> Response<EdgeBody> {
        let body = if head_only || self.body.remaining == 0 {
            EdgeBody::empty()
        } else {
            EdgeBody::new(Source::File(self.body))
        };
        let mut response = Response::new(body);
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers;
        response
    }
}

fn open(root: &Path, relative: &Path, asked: &Asked, head_only: bool) -> io::Result<Opened> {
    let mut file = open_beneath(root, relative)?;
    let meta = file.metadata()?;
    if meta.is_dir() {
        // A folder is only answered for when there is something to see in it.
        open_beneath(root, &relative.join("index.html"))?;
        return Ok(Opened::Folder);
    }
    if !meta.is_file() {
        return Err(io::ErrorKind::NotFound.into());
    }
    let len = meta.len();
    let modified = Timestamp::from_second(meta.mtime()).unwrap_or(Timestamp::UNIX_EPOCH);
    let etag = format!("\"{:x}-{len:x}-{:x}{:09x}\"", meta.ino(), meta.mtime(), meta.mtime_nsec());
    let mut headers = HeaderMap::new();
    let mut set = |name: HeaderName, value: String| {
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(name, value);
        }
    };
    set(ETAG, etag.clone());
    if let Ok(date) = DateTimePrinter::new().timestamp_to_rfc9110_string(&modified) {
        set(LAST_MODIFIED, date);
    }
    set(CACHE_CONTROL, "no-cache".to_owned());
    set(ACCEPT_RANGES, "bytes".to_owned());
    set(X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned());
    let plan = |status, headers, body| Ok(Opened::File(Plan { status, headers, body }));
    if is_unchanged(asked, &etag, modified) {
        return plan(StatusCode::NOT_MODIFIED, headers, FileStream::none());
    }
    set(CONTENT_TYPE, content_type(relative).to_owned());
    let range_holds = asked
        .if_range
        .as_ref()
        .is_none_or(|condition| *condition == etag || parse_date(condition) == Some(modified));
    let range = asked.range.as_deref().filter(|_| range_holds).and_then(|range| parse_range(range, len));
    let (status, first, count) = match range {
        None => (StatusCode::OK, 0, len),
        Some(Range::Part { first, last }) => {
            set(CONTENT_RANGE, format!("bytes {first}-{last}/{len}"));
            (StatusCode::PARTIAL_CONTENT, first, last - first + 1)
        }
        Some(Range::Unsatisfiable) => {
            set(CONTENT_RANGE, format!("bytes */{len}"));
            set(CONTENT_LENGTH, "0".to_owned());
            return plan(StatusCode::RANGE_NOT_SATISFIABLE, headers, FileStream::none());
        }
    };
    set(CONTENT_LENGTH, count.to_string());
    if head_only || count == 0 {
        return plan(status, headers, FileStream::none());
    }
    if first > 0 {
        file.seek(SeekFrom::Start(first))?;
    }
    let body = FileStream::start(file, count)?;
    plan(status, headers, body)
}

fn is_unchanged(asked: &Asked, etag: &str, modified: Timestamp) -> bool {
    if asked.none_match.is_empty() {
        return asked.modified_since.is_some_and(|since| modified <= since);
    }
    asked.none_match.iter().any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag)
}

/// Opens a path beneath the folder; a symlink that leads out of it is an error.
fn open_beneath(root: &Path, relative: &Path) -> io::Result<File> {
    let folder =
        rustix::fs::openat(CWD, root, OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::PATH, Mode::empty())?;
    // Without NONBLOCK, opening a FIFO would wait for its writer.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    match rustix::fs::openat2(&folder, relative, flags, Mode::empty(), beneath) {
        Ok(fd) => Ok(fd.into()),
        // A kernel or sandbox without openat2: no symlink at all, component by component.
        Err(rustix::io::Errno::NOSYS | rustix::io::Errno::PERM) => {
            let mut current = folder;
            let mut components = relative.components().peekable();
            while let Some(component) = components.next() {
                let last = components.peek().is_none();
                let kind = if last { flags } else { OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::PATH };
                let opened = rustix::fs::openat(
                    &current,
                    component.as_os_str(),
                    kind | OFlags::NOFOLLOW,
                    Mode::empty(),
                )?;
                current = opened;
            }
            Ok(current.into())
        }
        Err(errno) => Err(errno.into()),
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Range {
    /// Both ends included.
    Part {
        first: u64,
        last: u64,
    },
    Unsatisfiable,
}

/// A single byte range. `None`: not one we understand; the whole file is the answer then.
fn parse_range(text: &str, len: u64) -> Option<Range> {
    let (first, last) = text.trim().strip_prefix("bytes=")?.split_once('-')?;
    let number = |digits: &str| {
        let good = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        good.then(|| digits.parse::<u64>().unwrap_or(u64::MAX))
    };
    let (first, last) = match (first.trim(), last.trim()) {
        ("", suffix) => {
            let count = number(suffix)?;
            if count == 0 || len == 0 {
                return Some(Range::Unsatisfiable);
            }
            (len.saturating_sub(count), len - 1)
        }
        (first, "") => (number(first)?, len.saturating_sub(1)),
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            if last < first {
                return None;
            }
            (first, last.min(len.saturating_sub(1)))
        }
    };
    Some(if first >= len { Range::Unsatisfiable } else { Range::Part { first, last } })
}

#[cfg(fuzzing)]
pub(crate) fn check_range(text: &str, len: u64) {
    if let Some(Range::Part { first, last }) = parse_range(text, len) {
        assert!(first <= last && last < len, "{text} of {len}: {first} to {last}");
    }
}

#[cfg(fuzzing)]
pub(crate) fn check_date(text: &str) {
    let _ = parse_date(text);
}

fn content_type(path: &Path) -> &'static str {
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    match extension.to_ascii_lowercase().as_str() {
        "html" | "htm" => "text/html; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "js" | "mjs" => "text/javascript; charset=utf-8",
        "json" | "map" | "ipynb" => "application/json",
        "geojson" => "application/geo+json",
        "webmanifest" => "application/manifest+json",
        "txt" | "log" => "text/plain; charset=utf-8",
        "md" => "text/markdown; charset=utf-8",
        "csv" => "text/csv; charset=utf-8",
        "xml" => "application/xml",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "gif" => "image/gif",
        "webp" => "image/webp",
        "avif" => "image/avif",
        "ico" => "image/x-icon",
        "woff" => "font/woff",
        "woff2" => "font/woff2",
        "ttf" => "font/ttf",
        "otf" => "font/otf",
        "wasm" => "application/wasm",
        "pdf" => "application/pdf",
        "zip" => "application/zip",
        "gz" | "tgz" => "application/gzip",
        "mp4" => "video/mp4",
        "webm" => "video/webm",
        "mp3" => "audio/mpeg",
        "wav" => "audio/wav",
        "parquet" => "application/vnd.apache.parquet",
        _ => "application/octet-stream",
    }
}

/// A file on its way out, one chunk read ahead at most.
pub(crate) struct FileStream {
    remaining: u64,
    ready: Option<Bytes>,
    file: Option<File>,
    reading: Option<JoinHandle<io::Result<(File, Bytes)>>>,
}

impl FileStream {
    fn none() -> Self {
        Self { remaining: 0, ready: None, file: None, reading: None }
    }

    fn start(file: File, remaining: u64) -> io::Result<Self> {
        let (file, first) = read_chunk(file, remaining)?;
        Ok(Self { remaining, ready: Some(first), file: Some(file), reading: None })
    }

    /// Bytes not yet handed out.
    pub(crate) fn remaining(&self) -> u64 {
        self.remaining
    }

    pub(crate) fn is_done(&self) -> bool {
        self.remaining == 0
    }

    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        loop {
            if let Some(chunk) = self.ready.take() {
                self.remaining = self.remaining.saturating_sub(chunk.len() as u64);
                return Poll::Ready(Some(Ok(chunk)));
            }
            if self.remaining == 0 {
                return Poll::Ready(None);
            }
            let mut reading = match (self.reading.take(), self.file.take()) {
                (Some(reading), _) => reading,
                (None, Some(file)) => {
                    let remaining = self.remaining;
                    tokio::task::spawn_blocking(move || read_chunk(file, remaining))
                }
                (None, None) => return Poll::Ready(Some(Err(io::ErrorKind::UnexpectedEof.into()))),
            };
            match Pin::new(&mut reading).poll(cx) {
                Poll::Pending => {
                    self.reading = Some(reading);
                    return Poll::Pending;
                }
                Poll::Ready(Ok(Ok((file, chunk)))) => {
                    self.file = Some(file);
                    self.ready = Some(chunk);
                }
                Poll::Ready(Ok(Err(error))) => return Poll::Ready(Some(Err(error))),
                Poll::Ready(Err(error)) => return Poll::Ready(Some(Err(io::Error::other(error)))),
            }
        }
    }
}

fn read_chunk(mut file: File, remaining: u64) -> io::Result<(File, Bytes)> {
    let want = usize::try_from(remaining).unwrap_or(CHUNK).min(CHUNK);
    let mut chunk = vec![0; want];
    // A file that shrank meanwhile cannot keep the length promised: the connection breaks, as it must.
    file.read_exact(&mut chunk)?;
    Ok((file, chunk.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_files_or_nothing() {
        for (path, file) in [
            ("", "index.html"),
            ("a/", "a/index.html"),
            ("a/b.css", "a/b.css"),
            ("a%20b/%C3%A9.txt", "a b/é.txt"),
        ] {
            assert_eq!(relative_path(path).unwrap(), Path::new(file), "{path}");
        }
        for bad in [
            ".git/config",
            "a/.env",
            "skep.toml",
            "a/skep.toml",
            "a//b",
            "a%2fb",
            "a%00",
            "%2e%2e/x",
            "%ff",
            "%4",
        ] {
            assert_eq!(relative_path(bad), None, "{bad}");
        }
    }

    #[test]
    fn ranges_are_cut_to_the_file() {
        let part = |first, last| Some(Range::Part { first, last });
        for (text, expected) in [
            ("bytes=0-0", part(0, 0)),
            ("bytes=2-", part(2, 9)),
            ("bytes=-3", part(7, 9)),
            ("bytes=-30", part(0, 9)),
            ("bytes=5-99999999999999999999999", part(5, 9)),
            ("bytes=10-", Some(Range::Unsatisfiable)),
            ("bytes=-0", Some(Range::Unsatisfiable)),
            ("bytes=3-2", None),
            ("bytes=0-1,3-4", None),
            ("lines=0-1", None),
            ("bytes=a-b", None),
            ("bytes=-", None),
        ] {
            assert_eq!(parse_range(text, 10), expected, "{text}");
        }
        assert_eq!(parse_range("bytes=0-", 0), Some(Range::Unsatisfiable));
    }
}
