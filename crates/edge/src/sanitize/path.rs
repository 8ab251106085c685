//! The one spelling of a path, before anything is decided by it.
//!
//! What is normalised here is what is routed, authorised and forwarded: the same bytes. Escapes of unreserved characters
//! are decoded (`%61` is `a`), dot segments are removed. What could still hide dots from us and show them to somebody who
//! decodes once more (`%2f..`, `%252e`) is refused.

use super::Refused;

/// The normalised path when it differs from `path`.
///
/// # Errors
/// When the path holds a malformed escape, a control character, or hidden dot segments.
pub fn normalise(path: &str) -> Result<Option<String>, Refused> {
    let bytes = path.as_bytes();
    let escaped = bytes.contains(&b'%');
    if !escaped && !bytes.iter().any(|b| matches!(b, b'\\' | b';')) && !has_dot_segment(bytes) {
        return Ok(None);
    }
    let decoded = if escaped { decode_unreserved(path)? } else { path.to_owned() };
    let plain = remove_dot_segments(&decoded);
    if hides_dots(&plain) {
        return Err(Refused::HiddenDots);
    }
    Ok(if plain == path { None } else { Some(plain) })
}

fn has_dot_segment(path: &[u8]) -> bool {
    path.split(|&b| b == b'/').any(|segment| segment == b"." || segment == b"..")
}

fn hex(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

/// The byte an escape at the start of `bytes` stands for.
fn escape(bytes: &[u8]) -> Option<u8> {
    match bytes {
        [b'%', high, low, ..] => Some(hex(*high)? << 4 | hex(*low)?),
        _ => None,
    }
}

fn decode_unreserved(path: &str) -> Result<String, Refused> {
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.find('%') {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        let byte = escape(from.as_bytes()).ok_or(Refused::BadPath)?;
        if byte.is_ascii_control() {
            return Err(Refused::BadPath);
        }
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push_str(from.get(..3).unwrap_or_default());
        }
        rest = from.get(3..).unwrap_or_default();
    }
    out.push_str(rest);
    Ok(out)
}

/// RFC 3986, 5.2.4, for paths that start with `/`.
fn remove_dot_segments(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            "." | ".." => {
                if segment == ".." {
                    kept.pop();
                }
                if last {
                    kept.push("");
                }
            }
            other => kept.push(other),
        }
    }
    format!("/{}", kept.join("/"))
}

/// Whether dots show up once somebody decodes further or takes `\` for `/`. Encoded slashes alone are fine: file names
/// hold them.
fn hides_dots(path: &str) -> bool {
    let mut bytes = path.as_bytes().to_vec();
    // Three rounds: nobody decodes more often, and each round can only shorten.
    for _ in 0..3 {
        let slashed: Vec<u8> = bytes.iter().map(|&b| if b == b'\\' { b'/' } else { b }).collect();
        // Path parameters (`..;x`) are cut off by some Java servers before they resolve dots.
        let dots = |segment: &[u8]| {
            let name = segment.split(|&b| b == b';').next().unwrap_or_default();
            name == b".." || name == b"." && segment.len() > 1
        };
        if slashed.split(|&b| b == b'/').any(dots) {
            return true;
        }
        let decoded = decode_once(&slashed);
        if decoded == bytes {
            return false;
        }
        bytes = decoded;
    }
    has_dot_segment(&bytes)
}

fn decode_once(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((&first, tail)) = rest.split_first() {
        if let Some(byte) = escape(rest) {
            out.push(byte);
            rest = rest.get(3..).unwrap_or_default();
        } else {
            out.push(first);
            rest = tail;
        }
    }
    out
}
