//! A front's pages. Plain forms that work without JavaScript, on a phone and with a screen reader; the script only
//! spares a page load and counts attempts. All text that came from people is escaped.

use crate::http::{Problem, Reply, asset as file, escape};
use crate::ids::OptionId;
use crate::polls::{Changes, Identity, Poll, Visibility};

const CSS: &str = include_str!("../pages/ballot.css");
const VOTE_JS: &str = include_str!("../pages/vote.js");
const RESULTS_JS: &str = include_str!("../pages/results.js");
const ICON: &str = include_str!("../pages/icon.svg");

/// The files that pages refer to.
pub fn asset(name: &str) -> Option<Reply> {
    match name {
        "ballot.css" => Some(file("text/css; charset=utf-8", CSS)),
        "vote.js" => Some(file("text/javascript; charset=utf-8", VOTE_JS)),
        "results.js" => Some(file("text/javascript; charset=utf-8", RESULTS_JS)),
        "icon.svg" => Some(file("image/svg+xml", ICON)),
        _ => None,
    }
}

/// A whole page. `up` leads from the page's address to the root, such as `../`.
pub fn frame(title: &str, up: &str, script: Option<&str>, main: &str) -> String {
    let script =
        script.map_or(String::new(), |s| format!("<script src=\"{up}assets/{s}\" defer></script>\n"));
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{title}</title>\n\
         <link rel=\"stylesheet\" href=\"{up}assets/ballot.css\">\n<link rel=\"icon\" href=\"{up}assets/icon.svg\">\n\
         {script}</head>\n<body>\n<a class=\"skip\" href=\"#main\">Skip to content</a>\n\
         <header><a class=\"brand\" href=\"{up}./\"><img src=\"{up}assets/icon.svg\" alt=\"\" width=\"28\" height=\"28\">\
         ballot</a></header>\n<main id=\"main\">\n{main}\n</main>\n\
         <footer>Every vote is on disk before it is acknowledged, and counted exactly once.</footer>\n</body>\n</html>\n",
        title = escape(title),
    )
}

/// What a poll's page depends on.
pub struct View<'a> {
    pub poll: &'a Poll,
    pub now_ms: u64,
    pub voted: bool,
    /// Whether this browser holds what it needs to vote.
    pub invited: bool,
}

fn moment(ms: u64) -> String {
    let at = jiff::Timestamp::from_millisecond(i64::try_from(ms).unwrap_or(i64::MAX));
    at.map_or_else(|_| "later".to_owned(), |t| t.strftime("%-d %B %Y, %H:%M UTC").to_string())
}

fn results_link(poll: &Poll, base: &str) -> String {
    if poll.results == Visibility::Private {
        return String::new();
    }
    let when = if poll.results == Visibility::AfterClose { " (after the poll closes)" } else { "" };
    let href = if base.is_empty() {
        format!("{}/results", poll.id)
    } else {
        format!("{}/polls/{}/results", escape(base.trim_end_matches('/')), poll.id)
    };
    format!("<p class=\"links\"><a href=\"{href}\">See the results{when}</a></p>")
}

/// The page to vote on.
pub fn vote(view: &View<'_>, results_base: &str) -> String {
    let poll = view.poll;
    let question = escape(&poll.question);
    let results = results_link(poll, results_base);
    let body = if view.now_ms < poll.opens_ms {
        format!("<h1>{question}</h1>\n<p class=\"note\">This poll opens on {}.</p>", moment(poll.opens_ms))
    } else if poll.is_closed(view.now_ms) {
        format!("<h1>{question}</h1>\n<p class=\"note\">This poll is closed.</p>\n{results}")
    } else {
        form(view, &question, &results)
    };
    frame(&poll.question, "../", Some("vote.js"), &body)
}

fn form(view: &View<'_>, question: &str, results: &str) -> String {
    let poll = view.poll;
    let mut options = String::new();
    for choice in &poll.options {
        options.push_str(&format!(
            "<label class=\"option\"><input type=\"radio\" name=\"option\" value=\"{}\" required>\
             <span>{}</span></label>\n",
            choice.id,
            escape(&choice.label)
        ));
    }
    let ticket = if poll.identity == Identity::Ticket && !view.invited {
        "<label class=\"field\">Your ticket<input name=\"ticket\" autocomplete=\"off\" autocapitalize=\"none\" \
         spellcheck=\"false\" required></label>\n"
    } else {
        ""
    };
    let said = match (view.voted, poll.changes) {
        (true, Changes::Forbid) => {
            "<p class=\"note\">You have voted. This poll does not let votes be changed.</p>"
        }
        (true, _) => "<p class=\"note\">You have voted. Voting again replaces your earlier vote.</p>",
        (false, Changes::Forbid) => "<p class=\"hint\">You can vote once; the vote cannot be changed.</p>",
        (false, _) => "<p class=\"hint\">You can change your vote until the poll closes.</p>",
    };
    let closes = if poll.closes_ms < crate::polls::NEVER_MS {
        format!("<p class=\"hint\">Closes on {}.</p>", moment(poll.closes_ms))
    } else {
        String::new()
    };
    format!(
        "<form method=\"post\" action=\"{id}\" data-api=\"../api/v1/polls/{id}/ballots\" data-poll=\"{id}\">\n\
         <fieldset>\n<legend><h1>{question}</h1></legend>\n{said}\n{options}{ticket}</fieldset>\n\
         <button type=\"submit\">Vote</button>\n</form>\n\
         <div id=\"said\" role=\"status\" aria-live=\"polite\"></div>\n{closes}{results}",
        id = poll.id,
    )
}

/// What a voter without JavaScript sees after voting.
pub fn thanks(poll: &Poll, option: &OptionId, receipt: &str, results_base: &str) -> String {
    let label = poll.options.iter().find(|c| c.id == *option).map_or("", |c| c.label.as_str());
    let body = format!(
        "<h1>Your vote is recorded</h1>\n<p>{} — <strong>{}</strong></p>\n\
         <p>Your receipt. Keep it to yourself: with it you can check, after the poll closes, that your vote was \
         counted.</p>\n<p class=\"receipt\"><code>{}</code></p>\n\
         <p class=\"links\"><a href=\"{}\">Back to the poll</a></p>\n{}",
        escape(&poll.question),
        escape(label),
        escape(receipt),
        poll.id,
        results_link(poll, results_base),
    );
    frame("Your vote is recorded", "../", None, &body)
}

/// All polls.
pub fn index(polls: &[&Poll], results_base: &str, now_ms: u64) -> String {
    let mut list = String::new();
    for poll in polls {
        let state = if poll.is_open(now_ms) {
            "open"
        } else if poll.is_closed(now_ms) {
            "closed"
        } else {
            "not open yet"
        };
        list.push_str(&format!(
            "<li><a href=\"polls/{}\">{}</a> <span class=\"state\">{state}</span></li>\n",
            poll.id,
            escape(&poll.question)
        ));
    }
    let body = if polls.is_empty() {
        "<h1>Polls</h1>\n<p class=\"note\">There is no poll yet.</p>".to_owned()
    } else {
        format!("<h1>Polls</h1>\n<ul class=\"polls\">\n{list}</ul>")
    };
    let results = match results_base {
        "" => String::new(),
        base => escape(base.trim_end_matches('/')) + "/",
    };
    let check = format!("\n<p class=\"links\"><a href=\"{results}check\">Check a receipt</a></p>");
    frame("Polls", "", None, &(body + &check))
}

/// A refusal for people. `depth` is the number of parts of the address.
pub fn problem(problem: &Problem, depth: usize) -> String {
    let up = "../".repeat(depth.saturating_sub(1));
    let title = match problem.status.as_u16() {
        404 => "Not found",
        409 | 410 | 403 => "This vote was not taken",
        429 => "One moment",
        503 => "Not now",
        _ => "This did not work",
    };
    let body = format!(
        "<h1>{title}</h1>\n<p class=\"note\" role=\"alert\">{}</p>\n<p class=\"links\"><a href=\"{up}./\">All polls</a></p>",
        escape(&capital(&problem.detail))
    );
    frame(title, &up, None, &body)
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    let mut out: String = chars.next().map(|c| c.to_uppercase().collect()).unwrap_or_default();
    out.push_str(chars.as_str());
    out.push('.');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_wrote_is_escaped() {
        let mut poll = crate::polls::demo();
        poll.question = "<script>alert(1)</script>".to_owned();
        poll.options[0].label = "\"><img>".to_owned();
        let view = View { poll: &poll, now_ms: 1, voted: false, invited: true };
        for page in [vote(&view, ""), index(&[&poll], "", 1), thanks(&poll, &poll.options[0].id, "<b>", "")] {
            assert!(
                !page.contains("<script>alert") && !page.contains("<img>") && !page.contains("<b>"),
                "{page}"
            );
        }
    }

    #[test]
    fn the_form_needs_no_script() {
        let poll = crate::polls::demo();
        let page = vote(&View { poll: &poll, now_ms: 1, voted: false, invited: true }, "");
        for part in
            ["method=\"post\"", "<fieldset>", "<legend>", "type=\"radio\"", "type=\"submit\"", "aria-live"]
        {
            assert!(page.contains(part), "{part}");
        }
        assert!(
            !vote(&View { poll: &poll, now_ms: u64::MAX, voted: false, invited: true }, "").contains("<form")
        );
    }

    #[test]
    fn links_lead_to_results_elsewhere() {
        let poll = crate::polls::demo();
        let view = View { poll: &poll, now_ms: 1, voted: false, invited: true };
        for base in ["/results", "/results/"] {
            assert!(vote(&view, base).contains(&format!("href=\"/results/polls/{}/results\"", poll.id)));
            assert!(index(&[&poll], base, 1).contains("href=\"/results/check\""));
        }
        assert!(index(&[&poll], "", 1).contains("href=\"check\""));
    }
}
