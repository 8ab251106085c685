//! A stream of JSON values, one a line: events, progress, statistics.

use serde_json::Value;

/// A line that is no JSON value. The stream goes on after it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadLine {
    #[error("a line is longer than {0} bytes")]
    TooLong(usize),
    #[error("a line is no JSON: {0}")]
    NotJson(String),
}

/// Puts lines together, wherever the chunks of the connection end. Holds at most one line.
#[derive(Debug)]
pub struct JsonLines {
    partial: Vec<u8>,
    longest: usize,
    /// The rest of a line that was too long is on its way.
    skipping: bool,
}

impl JsonLines {
    /// `longest`: bytes of a line; a longer one is reported and skipped.
    pub fn new(longest: usize) -> Self {
        Self { partial: Vec::new(), longest, skipping: false }
    }

    pub fn push(&mut self, mut chunk: &[u8]) -> Vec<Result<Value, BadLine>> {
        let mut values = Vec::new();
        while let Some(end) = chunk.iter().position(|&byte| byte == b'\n') {
            let (line, rest) = chunk.split_at(end);
            chunk = &rest[1..];
            self.take(line, &mut values);
            if std::mem::take(&mut self.skipping) {
                continue;
            }
            values.extend(read(&std::mem::take(&mut self.partial)));
        }
        self.take(chunk, &mut values);
        values
    }

    /// The last line, when it has no line end.
    pub fn finish(self) -> Option<Result<Value, BadLine>> {
        read(&self.partial)
    }

    fn take(&mut self, bytes: &[u8], values: &mut Vec<Result<Value, BadLine>>) {
        if self.skipping {
            return;
        }
        if self.partial.len() + bytes.len() > self.longest {
            self.partial = Vec::new();
            self.skipping = true;
            values.push(Err(BadLine::TooLong(self.longest)));
        } else {
            self.partial.extend_from_slice(bytes);
        }
    }
}

fn read(line: &[u8]) -> Option<Result<Value, BadLine>> {
    let line = line.trim_ascii();
    if line.is_empty() {
        return None;
    }
    Some(serde_json::from_slice(line).map_err(|error| BadLine::NotJson(error.to_string())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn a_bad_line_does_not_end_the_stream() {
        let mut lines = JsonLines::new(16);
        assert_eq!(
            lines.push(b"{\"a\":1}\r\n\n{nonsense}\n"),
            [
                Ok(json!({"a": 1})),
                Err(BadLine::NotJson("key must be a string at line 1 column 2".to_owned())),
            ]
        );
        assert_eq!(lines.push(b"[\"0123456789"), []);
        assert_eq!(lines.push(b"0123456789"), [Err(BadLine::TooLong(16))]);
        assert_eq!(lines.push(b"still the same line"), []);
        assert_eq!(lines.push(b"\"]\n{\"b\":"), []);
        assert_eq!(lines.push(b"2}"), []);
        assert_eq!(lines.finish(), Some(Ok(json!({"b": 2}))));
        // Deeply nested: refused by the parser, not by the stack.
        let deep = [b"[".repeat(100_000), b"\n".to_vec()].concat();
        assert!(matches!(JsonLines::new(1 << 20).push(&deep)[..], [Err(BadLine::NotJson(_))]));
    }

    proptest! {
        #[test]
        fn any_cut_gives_the_same_values(
            numbers in prop::collection::vec(any::<i64>(), 0..20),
            cuts in prop::collection::vec(1_usize..9, 0..200),
        ) {
            let text: String = numbers.iter().map(|n| format!("{{\"n\":{n}}}\r\n")).collect();
            let mut lines = JsonLines::new(1024);
            let (mut rest, mut cuts, mut seen) = (text.as_bytes(), cuts.into_iter(), Vec::new());
            while !rest.is_empty() {
                let (chunk, after) = rest.split_at(cuts.next().unwrap_or(5).min(rest.len()));
                seen.extend(lines.push(chunk).into_iter().map(|value| value.unwrap()["n"].as_i64().unwrap()));
                rest = after;
            }
            prop_assert_eq!(seen, numbers);
        }

        #[test]
        fn memory_stays_bounded(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..80), 0..50)) {
            let mut lines = JsonLines::new(100);
            for chunk in chunks {
                lines.push(&chunk);
                prop_assert!(lines.partial.len() <= 100);
            }
        }
    }
}
