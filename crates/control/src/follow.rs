//! The launch page's stream: one line of JSON per change of the start, until the app is ready or has failed.
//!
//! Lines are a [`LaunchStatus`] with one more member, `says` (the situation in a sentence), or
//! `{"log": [lines], "fresh": bool}` (fresh: the log begins anew), or `{"again": true}` for a visitor who has lost the
//! place in the line and must load the page anew.
//! What the app wrote, a failure's last lines included, is only for those who may see its log.
//! An empty line every ten seconds shows that both ends are alive.

use std::time::Duration;

use futures_util::stream::BoxStream;
use futures_util::{FutureExt, StreamExt};
use serde::Serialize;
use skep_launch::{LaunchStatus, LogQuery, Stage};
use skep_model::{AppId, InstanceId, SeatId};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use crate::control::Control;
use crate::streams::Feed;
use crate::ui::html::plain_line;
use crate::ui::launch::says;

const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// Changes closer together than this become one line.
const QUIET: Duration = Duration::from_millis(20);
/// The page asks again after this long; nothing is followed for ever.
const LONGEST: Duration = Duration::from_secs(15 * 60);
/// How long a visitor may be without a place and without an instance being started.
const PLACELESS: Duration = Duration::from_millis(1500);
const LOG_TAIL: usize = 12;
const LINE_CHARS: usize = 300;
/// Lines sent at once; a flood is thinned to its end.
const LOG_BURST: usize = 40;

#[derive(Serialize)]
struct StatusLine<'a> {
    #[serde(flatten)]
    status: &'a LaunchStatus,
    says: String,
}

#[derive(Serialize)]
struct LogLine<'a> {
    log: &'a [String],
    /// The log begins anew: what the page shows of it is to be replaced.
    fresh: bool,
}

/// Writes the stream. `shows_log`: whoever follows may see what the app writes.
pub(crate) async fn follow(control: Control, app: AppId, seat: SeatId, shows_log: bool, feed: Feed) {
    let deadline = Instant::now() + LONGEST;
    let mut keep_alive = interval(KEEP_ALIVE);
    keep_alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
    keep_alive.reset();
    let mut log = Log::default();
    let mut shown: Option<LaunchStatus> = None;
    let mut placeless_since: Option<Instant> = None;
    while Instant::now() < deadline {
        // First listen, then look: a change in between is not missed.
        let changed = control.handle().changed(&app);
        tokio::pin!(changed);
        let changed_already = changed.as_mut().now_or_never().is_some();
        let mut status = control.handle().status(&app, Some(seat));
        if !shows_log && let Some(failure) = &mut status.failure {
            failure.hide_log();
        }
        let over = status.stage == Stage::Ready || status.failure.is_some();
        let placeless = !over && status.place.is_none() && status.instance.is_none();
        let since = placeless.then(|| placeless_since.unwrap_or_else(Instant::now));
        placeless_since = since;
        if since.is_some_and(|since| since.elapsed() > PLACELESS) {
            // Nothing is being started for this visitor; only a new page load changes that.
            feed.send("{\"again\":true}\n").await;
            return;
        }
        if shown.as_ref().is_none_or(|shown| differs(shown, &status)) {
            let line = line(&StatusLine { status: &status, says: says(&status) });
            if !feed.send(line).await || over {
                return;
            }
        }
        if shows_log {
            log.attach(&control, status.instance.as_ref()).await;
        }
        shown = Some(status);
        // The first of several changes was told at once; the others are told together.
        sleep(QUIET).await;
        if changed_already {
            continue;
        }
        let alive = tokio::select! {
            () = &mut changed => true,
            (fresh, lines) = log.next() => feed.send(line(&LogLine { log: &lines, fresh })).await,
            _ = keep_alive.tick() => feed.send("\n").await,
        };
        if !alive {
            return;
        }
    }
}

/// Whether a visitor would see a difference; time passes on the page by itself.
fn differs(a: &LaunchStatus, b: &LaunchStatus) -> bool {
    (a.stage, &a.detail, a.place, a.waiting, a.usual_ms, &a.instance, &a.before)
        != (b.stage, &b.detail, b.place, b.waiting, b.usual_ms, &b.instance, &b.before)
        || a.failure.is_some() != b.failure.is_some()
}

fn line(value: &impl Serialize) -> String {
    // Our own types always serialise; an empty line would only be a keep-alive.
    let mut text = serde_json::to_string(value).unwrap_or_default();
    text.push('\n');
    text
}

/// The log of the instance being waited for.
#[derive(Default)]
struct Log {
    of: Option<InstanceId>,
    lines: Option<BoxStream<'static, String>>,
    /// Read and not yet sent.
    read: Vec<String>,
    /// Nothing of this log was sent yet.
    fresh: bool,
}

impl Log {
    /// Follows the log of another instance from now on, if it is another.
    async fn attach(&mut self, control: &Control, instance: Option<&InstanceId>) {
        if self.of.as_ref() == instance || instance.is_none() {
            return;
        }
        self.of = instance.cloned();
        self.lines = None;
        self.read.clear();
        self.fresh = true;
        if let Some(instance) = instance {
            let query = LogQuery { tail: LOG_TAIL, follow: true };
            // A start must not wait for its log.
            let opened = timeout(Duration::from_millis(500), control.logs(instance, query)).await;
            self.lines = opened.ok().and_then(Result::ok);
        }
    }

    /// The next lines, several at once when they are there. Never resolves without a log. May be dropped at any time:
    /// what was read stays for the next call.
    async fn next(&mut self) -> (bool, Vec<String>) {
        if self.read.is_empty() {
            match &mut self.lines {
                None => return std::future::pending().await,
                Some(stream) => match stream.next().await {
                    Some(line) => self.read.push(plain_line(&line, LINE_CHARS)),
                    None => {
                        self.lines = None;
                        return std::future::pending().await;
                    }
                },
            }
        }
        sleep(QUIET).await;
        if let Some(stream) = &mut self.lines {
            while let Some(Some(line)) = stream.next().now_or_never() {
                if self.read.len() == LOG_BURST {
                    self.read.remove(0);
                }
                self.read.push(plain_line(&line, LINE_CHARS));
            }
        }
        (std::mem::take(&mut self.fresh), std::mem::take(&mut self.read))
    }
}
