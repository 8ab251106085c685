//! A container's log line by line, each with its time; when followed, to its very end.

use std::collections::VecDeque;
use std::pin::{Pin, pin};
use std::time::Duration;

use futures_util::stream::{self, Stream, StreamExt};

use crate::frames::Source;
use crate::{Engine, Error, LogLine, LogOptions};

/// Lines at the end of a followed log that are looked for once more.
const LAST_WORDS: usize = 200;
const LAST_WORDS_WITHIN: Duration = Duration::from_secs(10);

/// One line a container wrote, and when the engine took it (RFC 3339).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StampedLine {
    pub source: Source,
    pub time: String,
    pub text: String,
}

struct Follower<L> {
    engine: Engine,
    id: String,
    options: LogOptions,
    /// `None` once it has ended.
    log: Option<Pin<Box<L>>>,
    /// Of the line before.
    time: String,
    last_words: VecDeque<StampedLine>,
}

impl Engine {
    /// As [`Engine::container_logs`], with times. An engine that follows a log leaves it as soon as the container ends, with what
    /// was written just before still to come: that is read once more, as long as the container is there.
    ///
    /// # Errors
    /// When there is no such container, or the engine does not answer.
    pub async fn container_log_to_its_end(
        &self,
        id: &str,
        options: LogOptions,
    ) -> Result<impl Stream<Item = Result<StampedLine, Error>> + Send + use<>, Error> {
        let options = LogOptions { timestamps: true, ..options };
        let follower = Follower {
            log: Some(Box::pin(self.container_logs(id, options).await?)),
            engine: self.clone(),
            id: id.to_owned(),
            options,
            time: String::new(),
            last_words: VecDeque::new(),
        };
        Ok(stream::unfold(follower, |mut follower| async move {
            loop {
                if let Some(line) = follower.last_words.pop_front() {
                    return Some((Ok(line), follower));
                }
                match follower.log.as_mut()?.next().await {
                    Some(Ok(said)) => return Some((Ok(stamped(said, &mut follower.time)), follower)),
                    Some(Err(error)) => {
                        follower.log = None;
                        return Some((Err(error), follower));
                    }
                    None => {
                        follower.log = None;
                        if follower.options.follow {
                            let words = last_words(&follower.engine, &follower.id, follower.options);
                            let words =
                                tokio::time::timeout(LAST_WORDS_WITHIN, words).await.unwrap_or_default();
                            // Of one length, so that they sort as text.
                            let fresh = words.into_iter().filter(|said| said.time > follower.time);
                            follower.last_words = fresh.collect();
                        }
                    }
                }
            }
        }))
    }
}

async fn last_words(engine: &Engine, id: &str, options: LogOptions) -> Vec<StampedLine> {
    let options = LogOptions { tail: Some(LAST_WORDS), follow: false, ..options };
    let Ok(log) = engine.container_logs(id, options).await else { return Vec::new() };
    let mut log = pin!(log);
    let (mut time, mut found) = (String::new(), Vec::new());
    while let Some(Ok(said)) = log.next().await {
        found.push(stamped(said, &mut time));
    }
    found
}

/// Takes the time from the front of a line. A long line comes in pieces, of which the first has one.
fn stamped(said: LogLine, time: &mut String) -> StampedLine {
    let LogLine { source, mut text } = said;
    let front = text.split_once(' ').map_or(text.as_str(), |(front, _)| front);
    if is_time(front) {
        front.clone_into(time);
        // An empty line is its time alone.
        let rest = text.len().min(front.len() + 1);
        text.drain(..rest);
    }
    StampedLine { source, time: time.clone(), text }
}

fn is_time(front: &str) -> bool {
    let bytes = front.as_bytes();
    bytes.len() >= 20 && bytes[..4].iter().all(u8::is_ascii_digit) && (bytes[4], bytes[10]) == (b'-', b'T')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_parted_from_its_time() {
        let mut time = String::new();
        let mut of = |text: &str| {
            let line = stamped(LogLine { source: Source::Stderr, text: text.to_owned() }, &mut time);
            assert_eq!(line.source, Source::Stderr);
            (line.time, line.text)
        };
        let first = "2026-11-22T12:00:00.123456789Z".to_owned();
        assert_eq!(of(&format!("{first} hello  world")), (first.clone(), "hello  world".to_owned()));
        assert_eq!(of("the rest of a long line"), (first, "the rest of a long line".to_owned()));
        let second = "2026-11-22T12:00:01Z".to_owned();
        assert_eq!(of(&second), (second.clone(), String::new()));
        assert_eq!(of(&format!("{second} ")), (second, String::new()));
    }
}
