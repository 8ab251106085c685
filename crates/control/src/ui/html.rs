//! Text that is HTML, built so that foreign text cannot become markup.
//!
//! Markup enters only as `&'static str` ([`Html::raw`]); everything that arrives at run time goes through
//! [`Html::text`], which escapes it for element content and for quoted attribute values alike.

use std::fmt::Write as _;

#[derive(Debug, Default, Clone)]
pub(crate) struct Html(String);

impl Html {
    pub(crate) fn with_capacity(bytes: usize) -> Self {
        Self(String::with_capacity(bytes))
    }

    /// Markup of our own.
    pub(crate) fn raw(&mut self, markup: &'static str) -> &mut Self {
        self.0.push_str(markup);
        self
    }

    /// Foreign text.
    pub(crate) fn text(&mut self, text: &str) -> &mut Self {
        for c in text.chars() {
            match c {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                '\'' => self.0.push_str("&#39;"),
                // Control characters have no meaning in HTML; NUL is even forbidden.
                '\n' | '\t' => self.0.push(c),
                _ if c.is_control() => self.0.push('\u{fffd}'),
                _ => self.0.push(c),
            }
        }
        self
    }

    pub(crate) fn number(&mut self, number: u64) -> &mut Self {
        let _ = write!(self.0, "{number}");
        self
    }

    pub(crate) fn add(&mut self, other: &Self) -> &mut Self {
        self.0.push_str(&other.0);
        self
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn into_string(self) -> String {
        self.0
    }
}

/// One line of a log as a person may read it: without terminal escape sequences and control characters, and at most
/// `max_chars` long.
pub(crate) fn plain_line(line: &str, max_chars: usize) -> String {
    let mut plain = String::new();
    let mut taken = 0;
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\u{1b}' => skip_escape(&mut chars),
            '\t' => plain.push(' '),
            _ if c.is_control() => {}
            _ if taken == max_chars => {
                plain.push('…');
                break;
            }
            _ => {
                plain.push(c);
                taken += 1;
            }
        }
    }
    plain
}

/// Skips what follows an ESC: a control sequence up to its final byte, or a single character.
fn skip_escape(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) {
    if chars.next_if_eq(&'[').is_some() {
        while chars.next_if(|c| matches!(c, '\u{20}'..='\u{3f}')).is_some() {}
        let _ = chars.next_if(|c| matches!(c, '\u{40}'..='\u{7e}'));
    } else if chars.next_if_eq(&']').is_some() {
        // An operating-system command (a window title): until BEL or the next ESC.
        while chars.next_if(|c| !matches!(c, '\u{7}' | '\u{1b}')).is_some() {}
        let _ = chars.next();
    } else {
        let _ = chars.next();
    }
}

/// A duration as people say it: `4 s`, `1 min 05 s`, `2 h 03 min`.
pub(crate) fn spoken_ms(ms: u64) -> String {
    let seconds = ms.div_ceil(1000);
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        _ => format!("{} h {:02} min", seconds / 3600, seconds % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_stays_text() {
        let mut html = Html::default();
        html.raw("<b title=\"").text("a\" onclick='x'").raw("\">").text("<script>&\0\u{1b}[1m").raw("</b>");
        assert_eq!(
            html.into_string(),
            "<b title=\"a&quot; onclick=&#39;x&#39;\">&lt;script&gt;&amp;\u{fffd}\u{fffd}[1m</b>"
        );
    }

    #[test]
    fn log_lines_lose_what_only_terminals_understand() {
        assert_eq!(plain_line("\u{1b}[1;31mred\u{1b}[0m\tplain\r", 100), "red plain");
        assert_eq!(plain_line("\u{1b}]0;title\u{7}rest", 100), "rest");
        assert_eq!(plain_line("abcdef", 3), "abc…");
        assert_eq!(plain_line("\u{1b}", 3), "");
        assert_eq!(plain_line("\u{1b}[", 3), "");
    }

    #[test]
    fn durations_read_well() {
        let said: Vec<_> = [0, 1, 4_000, 59_001, 65_000, 7_380_000].into_iter().map(spoken_ms).collect();
        assert_eq!(said, ["0 s", "1 s", "4 s", "1 min 00 s", "1 min 05 s", "2 h 03 min"]);
    }
}
