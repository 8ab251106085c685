//! Polls as people define them: a TOML file, or JSON through the admin API. Parsed once, checked once.
//!
//! An error names the file, the line and the key. Invariant: a [`Poll`] has two to 200 options with distinct ids, and
//! closes after it opens. Absent: votes.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::ids::{OptionId, PollId};

/// Who counts as one voter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum Identity {
    /// A browser, by its sealed cookie.
    #[default]
    Open,
    /// The holder of an invitation code.
    Ticket,
    /// The principal that the platform in front names.
    Login,
}

/// What a second vote by the same voter does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum Changes {
    #[default]
    Latest,
    Forbid,
    /// Like `latest`, not more often than `min_interval`.
    MinInterval,
}

/// When the result may be seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum Visibility {
    #[default]
    Live,
    AfterClose,
    /// By the administrator only.
    Private,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Choice {
    pub id: OptionId,
    pub label: String,
}

/// A poll, checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Poll {
    pub id: PollId,
    pub question: String,
    pub options: Vec<Choice>,
    /// Milliseconds since 1970.
    pub opens_ms: u64,
    /// Milliseconds since 1970; the far future when it never closes by itself.
    pub closes_ms: u64,
    pub identity: Identity,
    pub changes: Changes,
    pub min_interval_ms: u64,
    pub results: Visibility,
}

/// Later than any poll: the year 9999.
pub const NEVER_MS: u64 = 253_402_300_799_000;

impl Poll {
    pub fn option(&self, id: &str) -> Option<&OptionId> {
        self.options.iter().map(|c| &c.id).find(|o| o.as_str() == id)
    }

    pub fn is_closed(&self, now_ms: u64) -> bool {
        now_ms >= self.closes_ms
    }

    pub fn is_open(&self, now_ms: u64) -> bool {
        now_ms >= self.opens_ms && !self.is_closed(now_ms)
    }

    /// Whether a change of the definition keeps what votes were cast for.
    ///
    /// # Errors
    /// Names what may not change.
    pub fn may_become(&self, next: &Poll) -> Result<(), String> {
        let kept = |c: &Choice| next.options.iter().any(|n| n.id == c.id);
        if let Some(gone) = self.options.iter().find(|c| !kept(c)) {
            return Err(format!("option {} cannot be removed: votes may have been cast for it", gone.id));
        }
        if self.identity != next.identity {
            return Err("identity cannot change: the same people would be new voters".to_owned());
        }
        if (self.changes == Changes::Forbid) != (next.changes == Changes::Forbid) {
            return Err(
                "changes cannot turn to or from \"forbid\": recorded ballots are ordered by it".to_owned()
            );
        }
        Ok(())
    }
}

/// A poll as written by people.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawPoll {
    id: String,
    question: String,
    options: Vec<RawOption>,
    opens: Option<Instant>,
    closes: Option<Instant>,
    #[serde(default)]
    identity: Identity,
    #[serde(default)]
    changes: Changes,
    min_interval: Option<String>,
    #[serde(default)]
    results: Visibility,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum RawOption {
    Name(String),
    Full { id: String, label: String },
}

/// A moment as text (`2026-05-01T12:00:00Z`) or as a TOML date-time.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum Instant {
    Toml(toml::value::Datetime),
    Text(String),
}

impl Instant {
    fn millis(&self, key: &str) -> Result<u64, String> {
        let text = match self {
            Self::Toml(date) => date.to_string(),
            Self::Text(text) => text.clone(),
        };
        let at: jiff::Timestamp = text.parse().map_err(|_| {
            format!("{key} = {text:?}: write a moment with its offset, such as 2026-05-01T12:00:00Z")
        })?;
        u64::try_from(at.as_millisecond()).map_err(|_| format!("{key} = {text:?} is before 1970"))
    }
}

fn duration_ms(text: &str) -> Result<u64, String> {
    let bad = || format!("min_interval = {text:?}: write a number and ms, s, m or h, such as \"30s\"");
    let split = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
    let number: u64 = text[..split].parse().map_err(|_| bad())?;
    let factor = match &text[split..] {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(bad()),
    };
    number.checked_mul(factor).ok_or_else(bad)
}

impl RawPoll {
    /// # Errors
    /// Names the key and what to write instead.
    pub fn check(self) -> Result<Poll, String> {
        let id = PollId::try_from(self.id).map_err(|e| format!("id: {e}"))?;
        if self.question.trim().is_empty() || self.question.len() > 500 {
            return Err("question: write 1 to 500 characters".to_owned());
        }
        let mut options = Vec::new();
        for raw in self.options {
            let (name, label) = match raw {
                RawOption::Name(name) => (name.clone(), capitalised(&name)),
                RawOption::Full { id, label } => (id, label),
            };
            let id = OptionId::try_from(name).map_err(|e| format!("options: {e}"))?;
            if label.trim().is_empty() || label.len() > 200 {
                return Err(format!("options: the label of {id} must have 1 to 200 characters"));
            }
            options.push(Choice { id, label });
        }
        let distinct: HashSet<&OptionId> = options.iter().map(|c| &c.id).collect();
        if distinct.len() != options.len() {
            return Err("options: two have the same id".to_owned());
        }
        if !(2..=200).contains(&options.len()) {
            return Err("options: a poll needs 2 to 200".to_owned());
        }
        let opens_ms = self.opens.map_or(Ok(0), |i| i.millis("opens"))?;
        let closes_ms = self.closes.map_or(Ok(NEVER_MS), |i| i.millis("closes"))?;
        if closes_ms <= opens_ms {
            return Err("closes: must be after opens".to_owned());
        }
        let min_interval_ms = self.min_interval.as_deref().map_or(Ok(0), duration_ms)?;
        if (self.changes == Changes::MinInterval) != (min_interval_ms > 0) {
            return Err(
                "min_interval: goes together with changes = \"min_interval\", and only with it".to_owned()
            );
        }
        Ok(Poll {
            id,
            question: self.question,
            options,
            opens_ms,
            closes_ms,
            identity: self.identity,
            changes: self.changes,
            min_interval_ms,
            results: self.results,
        })
    }
}

fn capitalised(name: &str) -> String {
    let text = name.replace(['-', '_'], " ");
    let mut chars = text.chars();
    chars.next().map(|c| c.to_uppercase().chain(chars).collect()).unwrap_or_default()
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    #[serde(default)]
    polls: Vec<toml::Spanned<RawPoll>>,
}

#[derive(Debug, thiserror::Error)]
pub enum PollsError {
    #[error("cannot read the polls file {path}: {error}")]
    Io { path: String, error: std::io::Error },
    #[error("{path}:{line}: {what}")]
    Wrong { path: String, line: usize, what: String },
}

fn line_at(text: &str, at: usize) -> usize {
    text.as_bytes().iter().take(at).filter(|b| **b == b'\n').count() + 1
}

/// The polls in the text of a polls file.
///
/// # Errors
/// Names the file, the line and the key.
pub fn parse(path: &str, text: &str) -> Result<Vec<Poll>, PollsError> {
    let wrong =
        |at: usize, what: String| PollsError::Wrong { path: path.to_owned(), line: line_at(text, at), what };
    let file: RawFile =
        toml::from_str(text).map_err(|e| wrong(e.span().map_or(0, |s| s.start), e.message().to_owned()))?;
    let mut polls: BTreeMap<PollId, Poll> = BTreeMap::new();
    for raw in file.polls {
        let at = raw.span().start;
        let poll = raw.into_inner().check().map_err(|what| wrong(at, what))?;
        if let Some(twice) = polls.insert(poll.id.clone(), poll) {
            return Err(wrong(at, format!("id: there is another poll {}", twice.id)));
        }
    }
    Ok(polls.into_values().collect())
}

/// The polls in a file.
///
/// # Errors
/// When it cannot be read, or as [`parse`].
pub fn load(path: &Path) -> Result<Vec<Poll>, PollsError> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|error| PollsError::Io { path: name.clone(), error })?;
    parse(&name, &text)
}

/// The poll that is open when no polls file is given.
pub fn demo() -> Poll {
    let option = |id: &str, label: &str| RawOption::Full { id: id.to_owned(), label: label.to_owned() };
    let raw = RawPoll {
        id: "pets".to_owned(),
        question: "Cats or dogs?".to_owned(),
        options: vec![option("cats", "Cats"), option("dogs", "Dogs")],
        opens: None,
        closes: None,
        identity: Identity::Open,
        changes: Changes::Latest,
        min_interval: None,
        results: Visibility::Live,
    };
    match raw.check() {
        Ok(poll) => poll,
        Err(what) => unreachable!("the demo poll is well-formed: {what}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
[[polls]]
id = "lunch"
question = "Where do we eat?"
options = ["thai-place", { id = "home", label = "At home" }]
opens = 2026-01-01T00:00:00Z
closes = "2026-02-01T12:00:00+01:00"
identity = "ticket"
changes = "min_interval"
min_interval = "30s"
results = "after_close"
"#;

    #[test]
    fn a_polls_file_is_read() {
        let polls = parse("polls.toml", GOOD).expect("good");
        let poll = &polls[0];
        assert_eq!((poll.opens_ms, poll.closes_ms), (1_767_225_600_000, 1_769_943_600_000));
        assert_eq!(poll.options[0].label, "Thai place");
        assert_eq!(
            (poll.identity, poll.changes, poll.min_interval_ms),
            (Identity::Ticket, Changes::MinInterval, 30_000)
        );
        assert_eq!(poll.results, Visibility::AfterClose);
        let json = serde_json::to_string(poll).expect("json");
        assert_eq!(&serde_json::from_str::<Poll>(&json).expect("json"), poll);
    }

    #[test]
    fn errors_name_file_line_and_key() {
        let cases = [
            ("question = \"Where do we eat?\"", "quesion = \"x\"", "polls.toml:4:", "quesion"),
            ("id = \"lunch\"", "id = \"Lunch!\"", "polls.toml:2:", "id:"),
            ("min_interval = \"30s\"", "min_interval = \"30 days\"", "polls.toml:2:", "min_interval"),
            ("results = \"after_close\"", "results = \"later\"", "polls.toml:11:", "after_close"),
            ("closes = \"2026-02-01T12:00:00+01:00\"", "closes = \"tomorrow\"", "polls.toml:2:", "closes"),
            (
                "closes = \"2026-02-01T12:00:00+01:00\"",
                "closes = 2025-01-01T00:00:00Z",
                "polls.toml:2:",
                "closes",
            ),
            (
                "[\"thai-place\", { id = \"home\", label = \"At home\" }]",
                "[\"a\", \"a\"]",
                "polls.toml:2:",
                "options",
            ),
            (
                "[\"thai-place\", { id = \"home\", label = \"At home\" }]",
                "[\"a\"]",
                "polls.toml:2:",
                "options",
            ),
        ];
        for (from, to, place, key) in cases {
            let text = GOOD.replace(from, to);
            assert_ne!(text, GOOD, "{from}");
            let error = parse("polls.toml", &text).expect_err(to).to_string();
            assert!(error.starts_with(place) && error.contains(key), "{to}: {error}");
        }
        let twice = format!("{GOOD}{GOOD}");
        assert!(parse("polls.toml", &twice).expect_err("twice").to_string().starts_with("polls.toml:13:"));
    }

    #[test]
    fn a_poll_keeps_what_was_voted_for() {
        let poll = demo();
        let mut next = poll.clone();
        next.options.pop();
        assert!(poll.may_become(&next).is_err());
        let mut next = poll.clone();
        next.closes_ms = 5;
        assert!(poll.may_become(&next).is_ok());
        next.changes = Changes::Forbid;
        assert!(poll.may_become(&next).is_err());
    }
}
