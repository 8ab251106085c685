//! Pages that say no: what went wrong, and what to do next.

use axum::http::StatusCode;
use skep_edge::Misnamed;
use skep_launch::Refusal;
use skep_model::{AppId, AppSpec};

use super::html::{Html, plain_line, spoken_ms};
use super::launch::last_lines;
use super::page::{BIG_MARK, Frame, Page, origin_of, tile};

/// What the pages have in common.
pub(crate) struct Refused<'a> {
    /// `None`: the app is not (or no longer) published.
    pub(crate) spec: Option<&'a AppSpec>,
    /// Path and query asked for.
    pub(crate) target: &'a str,
    /// Whether the visitor may see what the app wrote.
    pub(crate) show_lines: bool,
    pub(crate) portal: &'static str,
    pub(crate) request_id: u64,
}

/// What the visitor can do.
enum Next {
    /// Press a button that makes Skep forget the failure.
    Retry,
    /// Load the page again; it also does so by itself after these seconds.
    Reload(Option<u32>),
    /// Log in as somebody else.
    Account,
    /// Look at one's own instances.
    Own,
    Nothing,
}

struct Words {
    status: StatusCode,
    eyebrow: &'static str,
    says: String,
    hint: &'static str,
    next: Next,
    retry_after_seconds: Option<u64>,
}

/// A page load that was refused.
pub(crate) fn refusal_page(refused: &Refused<'_>, app: &AppId, refusal: &Refusal) -> Page {
    let hidden = (!refused.show_lines).then(|| refusal.without_log());
    let refusal = hidden.as_ref().unwrap_or(refusal);
    let (summary, lines) = match refusal {
        Refusal::StartFailed { summary, last_lines, .. } => (Some(summary.as_str()), last_lines.as_slice()),
        _ => (None, [].as_slice()),
    };
    page(refused, app, &words(refusal), summary, lines)
}

/// A page load whose instance broke off before it answered.
pub(crate) fn broken_page(refused: &Refused<'_>, app: &AppId, summary: &str) -> Page {
    let words = Words {
        status: StatusCode::BAD_GATEWAY,
        eyebrow: "No answer from",
        says: "The app stopped before it could answer.".to_owned(),
        hint: "Loading the page again usually helps: a new copy of the app is started when needed.",
        next: Next::Reload(None),
        retry_after_seconds: None,
    };
    page(refused, app, &words, Some(summary), &[])
}

/// A page load of a service none of whose tasks is well.
pub(crate) fn no_task_page(refused: &Refused<'_>, app: &AppId) -> Page {
    let words = Words {
        status: StatusCode::SERVICE_UNAVAILABLE,
        eyebrow: "Not there right now",
        says: "No copy of it is running well at the moment.".to_owned(),
        hint: "It is usually back within a minute. This page tries again by itself.",
        next: Next::Reload(Some(5)),
        retry_after_seconds: Some(5),
    };
    page(refused, app, &words, None, &[])
}

/// A page load of an app that is not for this user.
pub(crate) fn denied_page(refused: &Refused<'_>, app: &AppId, user: &str) -> Page {
    let words = Words {
        status: StatusCode::FORBIDDEN,
        eyebrow: "Not for everybody",
        says: format!("You are logged in as {user}, and this app is not open to you."),
        hint: "Ask whoever looks after it to let you in, or log in as somebody else.",
        next: Next::Account,
        retry_after_seconds: None,
    };
    page(refused, app, &words, None, &[])
}

/// A page load of an address that can be no named instance's.
pub(crate) fn misnamed_page(refused: &Refused<'_>, app: &AppId, why: Misnamed) -> Page {
    let (says, hint, next) = match why {
        Misnamed::Shared => (
            "This app is shared by everybody who uses it: nobody has one of their own, so there is none with a name.",
            "Open the app itself from the list of apps.",
            Next::Nothing,
        ),
        Misnamed::BadName => (
            "Nothing can be called what this address says after the ~.",
            "A name has 1 to 32 of a-z, 0-9, _ and -, and starts with a letter or a digit.",
            Next::Own,
        ),
    };
    let words = Words {
        status: StatusCode::NOT_FOUND,
        eyebrow: "Not found",
        says: says.to_owned(),
        hint,
        next,
        retry_after_seconds: None,
    };
    page(refused, app, &words, None, &[])
}

fn words(refusal: &Refusal) -> Words {
    let status = StatusCode::from_u16(refusal.status()).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
    let words = |eyebrow, says: &str, hint, next| Words {
        status,
        eyebrow,
        says: says.to_owned(),
        hint,
        next,
        retry_after_seconds: Some(10),
    };
    match refusal {
        Refusal::UnknownApp => Words {
            retry_after_seconds: None,
            ..words(
                "Not found",
                "There is no app at this address.",
                "It may have been renamed.",
                Next::Nothing,
            )
        },
        Refusal::LineFull => words(
            "Very busy",
            "So many people are waiting for this app that the line is full.",
            "This page tries again every 15 seconds.",
            Next::Reload(Some(15)),
        ),
        Refusal::NoRoom => words(
            "Very busy",
            "Every place in this app is taken, and the server has no room for more.",
            "This page tries again every 15 seconds.",
            Next::Reload(Some(15)),
        ),
        Refusal::TooManyOfOne(most) => Words {
            retry_after_seconds: None,
            ..words(
                "Enough already",
                &format!(
                    "You have {most} of this app running, under other names, and may have no more at a time."
                ),
                "End one that you need no longer, then try again.",
                Next::Own,
            )
        },
        // The form itself is shown instead.
        Refusal::ChoiceNeeded | Refusal::ChoiceWithdrawn => words(
            "Before it starts",
            "This app starts with what you choose first.",
            "Open its address in an ordinary browser.",
            Next::Reload(None),
        ),
        Refusal::ChoiceDiffers => Words {
            retry_after_seconds: None,
            ..words(
                "Running already",
                "Your copy of this app runs or starts already, with other values than you chose now.",
                "Open it, or end it first.",
                Next::Own,
            )
        },
        Refusal::NoIdentity => Words {
            retry_after_seconds: None,
            ..words(
                "Nobody in particular",
                "A copy of this app with a name belongs to somebody, and this browser keeps no cookies.",
                "Allow cookies for this site, then try again.",
                Next::Reload(None),
            )
        },
        Refusal::ShareEnded => Words {
            retry_after_seconds: None,
            ..words(
                "Not shared any more",
                "The copy of this app that was shared with you has ended, or its owner has stopped sharing it.",
                "This address leads to a copy of your own again.",
                Next::Reload(None),
            )
        },
        Refusal::NotUp => Words {
            retry_after_seconds: Some(3),
            ..words(
                "One moment",
                "The copy of this app that is shared with you does not answer just now.",
                "This page tries again by itself.",
                Next::Reload(Some(3)),
            )
        },
        Refusal::StartTimeout(limit) => words(
            "Did not start in time",
            &format!("The app was given {} and has not answered.", spoken_ms(whole_ms(*limit))),
            "Try again; if that does not help, its owner may have to allow more time.",
            Next::Retry,
        ),
        Refusal::StartFailed { retry_after, .. } => Words {
            retry_after_seconds: Some(retry_after.as_secs().max(1)),
            ..words(
                "Could not start",
                "The app could not be started.",
                "Try again, or tell its owner what is written here.",
                Next::Retry,
            )
        },
        Refusal::Removed => words(
            "Not available",
            "The app is being taken down.",
            "It may come back in a new version; the list of apps shows what is there.",
            Next::Reload(None),
        ),
        Refusal::Cold => words(
            "Not running",
            "The app is not running, and this request may not start it.",
            "Open the page in an ordinary browser to start it.",
            Next::Reload(None),
        ),
        Refusal::ShuttingDown => Words {
            retry_after_seconds: Some(3),
            ..words(
                "One moment",
                "The server is being restarted.",
                "This page tries again by itself.",
                Next::Reload(Some(3)),
            )
        },
    }
}

fn whole_ms(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn page(refused: &Refused<'_>, app: &AppId, words: &Words, summary: Option<&str>, lines: &[String]) -> Page {
    let name = refused.spec.map_or(app.as_str(), |spec| spec.title.as_str());
    let mut html = Html::with_capacity(4 * 1024);
    html.raw("<main class=\"card\">\n<header class=\"head\">");
    match refused.spec {
        Some(spec) => tile(&mut html, spec),
        None => drop(html.raw(BIG_MARK)),
    }
    html.raw("<div><p class=\"eyebrow\">")
        .raw(words.eyebrow)
        .raw("</p><h1>")
        .text(name)
        .raw("</h1></div></header>\n");
    html.raw("<p class=\"says\" role=\"status\">").text(&words.says).raw("</p>\n");
    if let Some(summary) = summary {
        html.raw("<p class=\"notice\">").text(&plain_line(summary, 400)).raw("</p>\n");
    }
    html.raw("<p class=\"hint\">").raw(words.hint).raw("</p>\n");
    if !lines.is_empty() {
        html.raw("<details class=\"log\" open><summary>The last lines it wrote</summary>")
            .raw("<pre class=\"lines\" tabindex=\"0\">");
        last_lines(&mut html, lines, 50, 8 * 1024);
        html.raw("</pre></details>\n");
    }
    actions(&mut html, refused, words);
    html.raw("<p class=\"small\">Request ")
        .text(&format!("{:016x}", refused.request_id))
        .raw("</p>\n</main>\n");
    Page {
        refresh: match words.next {
            Next::Reload(seconds) => seconds,
            _ => None,
        },
        script: matches!(words.next, Next::Retry).then_some(&super::assets::LAUNCH_SCRIPT),
        retry_after_seconds: words.retry_after_seconds,
        origins: refused.spec.and_then(|spec| origin_of(spec.icon.as_ref())).into_iter().collect(),
        ..Page::new(words.status, format!("{name}: {}", words.says), Frame::InPlaceOfApp, html)
    }
}

fn actions(html: &mut Html, refused: &Refused<'_>, words: &Words) {
    html.raw("<div class=\"actions\">");
    match (&words.next, refused.spec) {
        (Next::Retry, Some(spec)) => {
            html.raw("<form method=\"post\" data-retry action=\"/_skep/apps/")
                .text(spec.id.as_str())
                .raw("/retry\"><input type=\"hidden\" name=\"to\" value=\"")
                .text(refused.target)
                .raw("\"><button class=\"button\">Try again</button></form>");
        }
        (Next::Reload(_) | Next::Retry, _) => {
            let label = if words.status == StatusCode::GONE { "Open your own" } else { "Try again" };
            html.raw("<a class=\"button\" href=\"").text(refused.target).raw("\">").raw(label).raw("</a>");
        }
        (Next::Account, _) => {
            html.raw("<a class=\"button\" href=\"/_skep/account\">Your account</a>");
        }
        (Next::Own, _) => drop(html.raw("<a class=\"button\" href=\"/_skep/apps\">What runs for you</a>")),
        (Next::Nothing, _) => {}
    }
    html.raw("<a class=\"button quiet\" href=\"").raw(refused.portal).raw("\">All apps</a></div>\n");
}

/// Nothing is published at this address. `near`: apps with similar names that the visitor may open.
pub(crate) fn not_found_page(path: &str, near: &[&AppSpec], portal: &'static str, request_id: u64) -> Page {
    let mut html = Html::with_capacity(3 * 1024);
    html.raw("<main class=\"card\">\n<header class=\"head\">").raw(BIG_MARK);
    html.raw("<div><p class=\"eyebrow\">404</p><h1>Nothing lives here</h1></div></header>\n");
    html.raw("<p class=\"says\">There is no page at ").text(&plain_line(path, 120)).raw(".</p>\n");
    if near.is_empty() {
        html.raw("<p class=\"hint\">The list of apps shows everything you can open.</p>\n");
    } else {
        html.raw("<p class=\"hint\">Perhaps you meant:</p>\n<ul class=\"near\">\n");
        for spec in near {
            html.raw("<li><a href=\"")
                .text(spec.mount.as_str())
                .raw("\">")
                .text(&spec.title)
                .raw("</a></li>\n");
        }
        html.raw("</ul>\n");
    }
    html.raw("<div class=\"actions\"><a class=\"button\" href=\"").raw(portal).raw("\">All apps</a></div>\n");
    html.raw("<p class=\"small\">Request ").text(&format!("{request_id:016x}")).raw("</p>\n</main>\n");
    Page::new(StatusCode::NOT_FOUND, "Nothing lives here", Frame::Own, html)
}

/// Up to three apps whose ids are close to what was asked for, closest first.
pub(crate) fn nearest<'a>(path: &str, apps: impl Iterator<Item = &'a AppSpec>) -> Vec<&'a AppSpec> {
    let asked: Vec<char> = path
        .trim_start_matches('/')
        .split('/')
        .next()
        .unwrap_or_default()
        .to_lowercase()
        .chars()
        .take(64)
        .collect();
    if asked.is_empty() {
        return Vec::new();
    }
    let limit = ((asked.len() + 1) / 3).max(1);
    let mut close: Vec<(usize, &AppSpec)> = apps
        .filter_map(|spec| {
            let id: Vec<char> = spec.id.as_str().chars().collect();
            let starts = asked.len() >= 3 && id.starts_with(&asked);
            let distance = if starts { 1 } else { distance(&asked, &id, limit)? };
            Some((distance, spec))
        })
        .collect();
    close.sort_by(|a, b| (a.0, &a.1.id).cmp(&(b.0, &b.1.id)));
    close.into_iter().take(3).map(|(_, spec)| spec).collect()
}

/// Edits between two words, unless they are more than `limit`.
fn distance(a: &[char], b: &[char], limit: usize) -> Option<usize> {
    if a.len().abs_diff(b.len()) > limit {
        return None;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row.last().copied().filter(|edits| *edits <= limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_count_edits_up_to_the_limit() {
        let chars = |text: &str| text.chars().collect::<Vec<_>>();
        let between = |a, b| distance(&chars(a), &chars(b), 3);
        assert_eq!(between("sales", "sales"), Some(0));
        assert_eq!(between("salse", "sales"), Some(2));
        assert_eq!(between("sale", "sales"), Some(1));
        assert_eq!(between("sales", "weather"), None);
        assert_eq!(between("", "abc"), Some(3));
    }
}
