//! The pages of results: a table that is also the chart, live where there is a script.

use super::check::{Checked, Fate};
use super::{Count, ResultsOptions};
use crate::front::pages::frame;
use crate::http::escape;
use crate::polls::Poll;
use crate::proof::Statement;
use crate::source::SEALED;
use crate::store::LogRow;

#[allow(clippy::cast_precision_loss, reason = "a share shown with one decimal")]
fn share(n: u64, of: u64) -> f64 {
    if of == 0 { 0.0 } else { n as f64 * 100.0 / of as f64 }
}

fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A poll's results.
/// `fronts_base`: where fronts are; relative to the page when empty.
pub(super) fn results(
    poll: &Poll,
    count: &Count,
    statement: Option<&Statement>,
    fronts_base: &str,
) -> String {
    let vote = match fronts_base {
        "" => format!("../{}", poll.id),
        base => format!("{}/polls/{}", escape(base.trim_end_matches('/')), poll.id),
    };
    let mut rows = String::new();
    for choice in &poll.options {
        let n = count.counts.get(choice.id.as_str()).copied().unwrap_or(0);
        let percent = share(n, count.voters);
        rows.push_str(&format!(
            "<tr><th scope=\"row\">{label}</th><td class=\"n\" id=\"p-{id}\">{percent:.1} %</td>\
             <td class=\"n\" id=\"n-{id}\">{n}</td></tr>\n<tr class=\"bar-row\" aria-hidden=\"true\"><td colspan=\"3\">\
             <svg class=\"bar\" preserveAspectRatio=\"none\"><rect class=\"track\" width=\"100%\" height=\"100%\"/>\
             <rect class=\"fill\" id=\"b-{id}\" width=\"{percent:.2}%\" height=\"100%\"/></svg></td></tr>\n",
            id = choice.id,
            label = escape(&choice.label),
            n = grouped(n),
        ));
    }
    let state = if count.is_final {
        "Final"
    } else if count.closed {
        "Closed, counting"
    } else {
        "Open"
    };
    let live = if count.is_final {
        String::new()
    } else {
        format!(" data-live=\"../../api/v1/polls/{}/events\"", poll.id)
    };
    let silent = if count.silent_logs > 0 {
        "<p class=\"note\">A front has not been heard of for a while. Ballots it acknowledged may still be on its disk; \
         the count becomes final only with them.</p>"
    } else {
        ""
    };
    let body = format!(
        "<div{live}><h1>{question}</h1>\n<table><caption class=\"hint\">Votes by option</caption><thead><tr>\
         <th scope=\"col\">Option</th><td class=\"n\">Share</td><td class=\"n\">Votes</td></tr></thead><tbody>\n{rows}\
         </tbody></table>\n<dl><div><dt>Voters</dt><dd id=\"voters\">{voters}</dd></div>\
         <div><dt>Votes a second</dt><dd id=\"rate\">{rate:.0}</dd></div>\
         <div><dt>On their way</dt><dd id=\"pending\">{pending}</dd></div>\
         <div><dt>The count is</dt><dd id=\"state\">{state}</dd></div></dl>{silent}{proof}</div>\n\
         <p class=\"links\"><a href=\"{vote}\">The poll</a> <a href=\"../../check\">Check a receipt</a></p>",
        question = escape(&poll.question),
        voters = grouped(count.voters),
        rate = count.rate,
        pending = grouped(count.pending),
        proof = statement.map(proof).unwrap_or_default(),
    );
    frame(&format!("Results: {}", poll.question), "../../", Some("results.js"), &body)
}

fn proof(statement: &Statement) -> String {
    format!(
        "<h2>Proof</h2>\n<p>Every counted ballot is in a public list, under one signed root. Whoever holds a receipt can \
         find their own ballot; nobody can tell whose another one is.</p>\n<p class=\"receipt\"><code>{root}</code></p>\n\
         <p class=\"links\"><a href=\"../../api/v1/polls/{id}/statement\">Signed result (JSON)</a> \
         <a href=\"../../api/v1/polls/{id}/results.csv\">Signed result (CSV)</a> \
         <a href=\"../../api/v1/polls/{id}/ballots.csv\">All counted ballots</a></p>",
        root = escape(&statement.root),
        id = statement.poll,
    )
}

/// The page to check a receipt, with the answer if one was asked about.
pub(super) fn check(checked: Option<&Checked>) -> String {
    let answer = checked.map_or(String::new(), |c| {
        let class = match c.fate {
            Fate::Counted => "good",
            Fate::Missing | Fate::NotIssued => "bad",
            _ => "note",
        };
        let option = c.option.as_ref().map_or(String::new(), |o| {
            format!("<p>It counts for <strong>{}</strong>.</p>", escape(o.as_str()))
        });
        let root = c.statement.as_ref().map_or(String::new(), |s| {
            format!(
                "<p class=\"hint\">Root of the published count:</p><p class=\"receipt\"><code>{}</code></p>",
                escape(&s.root)
            )
        });
        format!("<div role=\"status\"><p class=\"{class}\">{}</p>{option}{root}</div>\n", escape(&c.says))
    });
    let body = format!(
        "<h1>Check a receipt</h1>\n{answer}<form method=\"post\" action=\"check\"><label class=\"field\">Your receipt\
         <textarea name=\"receipt\" required autocomplete=\"off\" autocapitalize=\"none\" spellcheck=\"false\">\
         </textarea></label><button type=\"submit\">Check</button></form>\n\
         <p class=\"hint\">A receipt shows how you voted to whoever has it and the published list. To check without \
         showing it to this server, download the list and run <code>ballot check</code>.</p>"
    );
    frame("Check a receipt", "", None, &body)
}

/// All polls, when results stand alone.
pub(super) fn index(polls: &[Poll]) -> String {
    let list: String = polls
        .iter()
        .map(|p| format!("<li><a href=\"polls/{}/results\">{}</a></li>\n", p.id, escape(&p.question)))
        .collect();
    let body = format!(
        "<h1>Results</h1>\n<ul class=\"polls\">\n{list}</ul>\n<p class=\"links\"><a href=\"check\">Check a receipt</a> \
         <a href=\"status\">Fronts</a></p>"
    );
    frame("Results", "", None, &body)
}

/// What an administrator should look at.
pub(super) fn alarms(logs: &[LogRow], now_ms: u64, options: &ResultsOptions) -> Vec<String> {
    let mut alarms = Vec::new();
    let living: Vec<&LogRow> = logs.iter().filter(|l| !l.retired && l.settled != SEALED).collect();
    for log in &living {
        let silent_ms = now_ms.saturating_sub(log.seen_ms);
        if log.seen_ms > 0 && silent_ms > options.silent_ms {
            let known = log.seen_end.saturating_sub(log.position);
            alarms.push(format!(
                "log {} of front {} was last heard of {} s ago, with {known} ballots known to be on its disk: bring its \
                 volume back, or give the log up (POST api/v1/admin/logs/{}/retire)",
                log.log,
                log.front,
                silent_ms / 1000,
                log.log
            ));
        }
    }
    let offsets = || {
        living.iter().filter(|l| now_ms.saturating_sub(l.seen_ms) <= options.silent_ms).map(|l| l.offset_ms)
    };
    if let (Some(least), Some(most)) = (offsets().min(), offsets().max())
        && most - least > options.clock_alarm_ms
    {
        alarms.push(format!(
            "the fronts' clocks differ by {} ms: votes of one person on two devices may be ordered wrongly",
            most - least
        ));
    }
    alarms
}

/// The fronts' logs and what to see to.
pub(super) fn status(logs: &[LogRow], now_ms: u64, options: &ResultsOptions) -> String {
    let mut rows = String::new();
    for log in logs {
        let state = if log.retired {
            "given up"
        } else if log.settled == SEALED {
            "finished"
        } else if now_ms.saturating_sub(log.seen_ms) > options.silent_ms {
            "silent"
        } else {
            "in use"
        };
        rows.push_str(&format!(
            "<tr><th scope=\"row\">{}</th><td>{state}</td><td class=\"n\">{}</td><td class=\"n\">{}</td>\
             <td class=\"n\">{} ms</td></tr>\n",
            escape(&log.front),
            grouped(log.position),
            grouped(log.seen_end.saturating_sub(log.position)),
            log.offset_ms
        ));
    }
    let alarms: String = alarms(logs, now_ms, options)
        .iter()
        .map(|a| format!("<p class=\"note\">{}</p>", escape(a)))
        .collect();
    let body = format!(
        "<h1>Fronts</h1>\n{alarms}<table><thead><tr><th scope=\"col\">Front</th><td>Log</td><td class=\"n\">Merged</td>\
         <td class=\"n\">On their way</td><td class=\"n\">Clock</td></tr></thead><tbody>\n{rows}</tbody></table>"
    );
    frame("Fronts", "", None, &body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }

    #[test]
    fn silence_and_clocks_raise_alarms() {
        let log = |front: &str, seen_ms, offset_ms| LogRow {
            log: crate::ids::LogId([1; 16]),
            front: front.into(),
            position: 5,
            seen_end: 9,
            settled: 1,
            seen_ms,
            offset_ms,
            retired: false,
        };
        let options = ResultsOptions::default();
        assert!(alarms(&[log("a", 100_000, 0), log("b", 100_000, 900)], 100_000, &options).is_empty());
        let found =
            alarms(&[log("a", 100_000, -600), log("b", 100_000, 900), log("c", 1, 0)], 100_000, &options);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(
            found[0].contains("front c") && found[0].contains("4 ballots") && found[1].contains("1500 ms")
        );
    }

    #[test]
    fn links_lead_to_fronts_elsewhere() {
        let poll = crate::polls::demo();
        let count = Count {
            counts: Default::default(),
            voters: 0,
            pending: 0,
            is_final: false,
            closed: false,
            rate: 0.0,
            silent_logs: 0,
        };
        for (base, link) in [
            ("", format!("\"../{}\"", poll.id)),
            ("/", format!("\"/polls/{}\"", poll.id)),
            ("https://vote.example.org", format!("\"https://vote.example.org/polls/{}\"", poll.id)),
        ] {
            let page = results(&poll, &count, None, base);
            assert!(page.contains(&format!("<a href={link}>The poll</a>")), "{page}");
        }
    }
}
