//! Reads a raw request head as it arrives and notes what the HTTP parser would forgive.
//!
//! hyper accepts lines that end in a bare LF, drops `Content-Length` when there is `Transfer-Encoding` too, and merges
//! equal `Content-Length`s. In front of other servers, which may read such a head differently, each is a way to smuggle a
//! request. The scan also finds where the head ends and how its body is framed, so that the next head is scanned as well.

/// What the scan holds against a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeadFault {
    #[error("a line of the request head ends in a bare line feed")]
    BareLf,
    #[error("the request has both Content-Length and Transfer-Encoding")]
    LengthAndEncoding,
    #[error("the request has more than one Content-Length")]
    TwoLengths,
    #[error("the request's Content-Length is no number")]
    BadLength,
    #[error("the request has more than one Transfer-Encoding")]
    TwoEncodings,
}

impl HeadFault {
    pub fn code(self) -> &'static str {
        match self {
            Self::BareLf => "bare-lf",
            Self::LengthAndEncoding => "length-and-encoding",
            Self::TwoLengths => "two-lengths",
            Self::BadLength => "bad-length",
            Self::TwoEncodings => "two-encodings",
        }
    }

    /// For an atomic: 0 is no fault.
    pub(crate) fn to_byte(fault: Option<Self>) -> u8 {
        match fault {
            None => 0,
            Some(Self::BareLf) => 1,
            Some(Self::LengthAndEncoding) => 2,
            Some(Self::TwoLengths) => 3,
            Some(Self::BadLength) => 4,
            Some(Self::TwoEncodings) => 5,
        }
    }

    pub(crate) fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => None,
            1 => Some(Self::BareLf),
            2 => Some(Self::LengthAndEncoding),
            3 => Some(Self::TwoLengths),
            5 => Some(Self::TwoEncodings),
            _ => Some(Self::BadLength),
        }
    }
}

/// How the body after a head is framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// This many bytes; 0 without a body.
    Length(u64),
    Chunked,
}

/// The result of a head's scan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    pub framing: Framing,
    pub fault: Option<HeadFault>,
}

/// Enough of a line to judge it: the longest name of interest, white space and a number.
const KEEP: usize = 64;

/// The state of a scan between two reads.
#[derive(Debug, Clone)]
pub struct HeadScan {
    /// The beginning of a line that has not ended yet.
    carry: [u8; KEEP],
    carried: usize,
    /// Bytes of that line, those not kept included.
    line_len: usize,
    last: u8,
    request_line_seen: bool,
    length: Option<u64>,
    encoding: bool,
    fault: Option<HeadFault>,
}

impl Default for HeadScan {
    fn default() -> Self {
        Self {
            carry: [0; KEEP],
            carried: 0,
            line_len: 0,
            last: 0,
            request_line_seen: false,
            length: None,
            encoding: false,
            fault: None,
        }
    }
}

impl HeadScan {
    /// Whether any byte of the head has come.
    pub fn is_untouched(&self) -> bool {
        !self.request_line_seen && self.line_len == 0
    }

    /// Takes the next bytes. When the head ends among them: how many belong to it, and what it says. The scan is then
    /// ready for the next head.
    pub fn feed(&mut self, bytes: &[u8]) -> Option<(usize, Head)> {
        let mut from = 0;
        while let Some(offset) = bytes.get(from..)?.iter().position(|&byte| byte == b'\n') {
            let at = from + offset;
            let line = bytes.get(from..at).unwrap_or_default();
            let ended = self.end_line(line);
            from = at + 1;
            if ended {
                let head = self.verdict();
                *self = Self::default();
                return Some((from, head));
            }
        }
        self.keep(bytes.get(from..).unwrap_or_default());
        None
    }

    fn keep(&mut self, part: &[u8]) {
        let room = self.carry.get_mut(self.carried..).unwrap_or_default();
        let n = room.len().min(part.len());
        if let (Some(room), Some(part)) = (room.get_mut(..n), part.get(..n)) {
            room.copy_from_slice(part);
        }
        self.carried += n;
        self.line_len += part.len();
        self.last = part.last().copied().unwrap_or(self.last);
    }

    /// A line feed came after `tail`. True when this was the empty line that ends the head.
    fn end_line(&mut self, tail: &[u8]) -> bool {
        let len = self.line_len + tail.len();
        let last = tail.last().copied().unwrap_or(if self.line_len > 0 { self.last } else { 0 });
        if last != b'\r' {
            self.fault.get_or_insert(HeadFault::BareLf);
        }
        let empty = len == 0 || (len == 1 && last == b'\r');
        if empty {
            self.reset_line();
            // Empty lines before the request line are skipped, as the parser does.
            return self.request_line_seen;
        }
        if self.request_line_seen {
            if self.carried == 0 {
                // No more of it than of a line that came in pieces: how a line is cut must not matter.
                self.field(tail.get(..KEEP).unwrap_or(tail), len <= KEEP);
            } else {
                self.keep(tail);
                let whole = self.line_len <= KEEP;
                let carry = self.carry;
                self.field(carry.get(..self.carried).unwrap_or_default(), whole);
            }
        }
        self.request_line_seen = true;
        self.reset_line();
        false
    }

    fn reset_line(&mut self) {
        self.carried = 0;
        self.line_len = 0;
        self.last = 0;
    }

    fn field(&mut self, line: &[u8], whole: bool) {
        if let Some(value) = value_of(line, b"content-length") {
            if self.length.is_some() {
                self.fault.get_or_insert(HeadFault::TwoLengths);
            }
            match number(value).filter(|_| whole) {
                Some(length) => self.length = Some(length),
                None => {
                    self.fault.get_or_insert(HeadFault::BadLength);
                }
            }
        } else if value_of(line, b"transfer-encoding").is_some() {
            if self.encoding {
                self.fault.get_or_insert(HeadFault::TwoEncodings);
            }
            self.encoding = true;
        }
    }

    fn verdict(&self) -> Head {
        let mut fault = self.fault;
        if self.encoding && self.length.is_some() {
            fault.get_or_insert(HeadFault::LengthAndEncoding);
        }
        let framing =
            if self.encoding { Framing::Chunked } else { Framing::Length(self.length.unwrap_or(0)) };
        Head { framing, fault }
    }
}

/// The value of the field, when `line` is one of that name. White space before the colon does not hide it.
fn value_of<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let (start, rest) = line.split_at_checked(name.len())?;
    if !start.eq_ignore_ascii_case(name) {
        return None;
    }
    rest.trim_ascii_start().strip_prefix(b":")
}

fn number(value: &[u8]) -> Option<u64> {
    let value = value.trim_ascii();
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}
