//! What the server says on stderr when it starts.

use std::future::Future;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use skep_control::Invitation;

use super::listen::Listening;
use crate::cli::count;
use crate::cli::paint::Paint;
use crate::config::Config;
use crate::config::auth_keys::Provider;

/// Shorter waits need no explanation.
const LONG: Duration = Duration::from_millis(1500);
const LINES_AT_MOST: usize = 12;

/// Waits, and says what for when it takes long.
pub(crate) async fn patiently<T>(what: &str, wait: impl Future<Output = T>) -> T {
    tokio::pin!(wait);
    let start = Instant::now();
    loop {
        tokio::select! {
            done = &mut wait => return done,
            () = tokio::time::sleep(LONG) => {
                let _ = writeln!(io::stderr(), "{what}: {} s so far", start.elapsed().as_secs());
            }
        }
    }
}

/// Says where the apps are and what is wrong with those that are not.
pub(crate) fn print(
    config: &Config,
    listening: &Listening,
    set_up: Option<&Invitation>,
    insecure_http_login: bool,
) {
    let mut text = Vec::new();
    let paint = Paint::of(io::stderr().is_terminal());
    // A server without a terminal to talk to must not fail for it.
    let _ = write(&mut text, paint, config, listening);
    let _ = write_login(&mut text, paint, config, listening, set_up, insecure_http_login);
    // In one piece: whoever reads the address in a log finds the rest there, too.
    let _ = io::stderr().write_all(&text);
}

fn write(out: &mut impl Write, paint: Paint, config: &Config, listening: &Listening) -> io::Result<()> {
    writeln!(out, "{} {}", paint.strong("Skep"), env!("CARGO_PKG_VERSION"))?;
    let scheme = if config.server.tls.is_some() { "https" } else { "http" };
    for bound in &listening.public {
        let address = bound.address;
        writeln!(out, "  {}", paint.strong(format!("{scheme}://{address}/")))?;
    }
    if let Some(bound) = &listening.admin {
        let address = bound.address;
        writeln!(out, "  http://{address}/metrics {}", paint.faint("(admin)"))?;
    }
    writeln!(out, "  {}", count(config.apps.len(), "app"))?;
    for app in config.apps.iter().take(LINES_AT_MOST) {
        let kind = paint.faint(format!("{} · {}", app.title, app.framework.title()));
        writeln!(out, "    {:24} {kind}", app.mount.as_str())?;
    }
    if config.apps.len() > LINES_AT_MOST {
        writeln!(out, "    … and {} more", config.apps.len() - LINES_AT_MOST)?;
    }
    if config.apps.is_empty() {
        let mend = "name an app's folder or a folder of apps: `skep serve PATH`";
        writeln!(out, "  {} nothing is published; {mend}", paint.warn("!"))?;
    }
    let refused = config.refused.iter().map(|problem| (paint.bad("✗"), problem.to_string()));
    let warnings = config.warnings.iter().map(|warning| (paint.warn("!"), warning.clone()));
    let unknown = config
        .unrecognised
        .iter()
        .map(|(folder, why)| (paint.warn("!"), format!("{}: {why}", folder.display())));
    let all: Vec<_> = refused.chain(warnings).chain(unknown).collect();
    for (mark, text) in all.iter().take(LINES_AT_MOST) {
        writeln!(out, "  {mark} {text}")?;
    }
    if all.len() > LINES_AT_MOST {
        writeln!(out, "  … and {} more; see `skep config check`", all.len() - LINES_AT_MOST)?;
    }
    Ok(())
}

/// The first administrator's way in, and what keeps people from logging in.
fn write_login(
    out: &mut impl Write,
    paint: Paint,
    config: &Config,
    listening: &Listening,
    set_up: Option<&Invitation>,
    insecure_http_login: bool,
) -> io::Result<()> {
    if config.server.auth.provider == Provider::None {
        return Ok(());
    }
    if let Some(link) = set_up {
        writeln!(
            out,
            "  {} nobody administers this server yet. Open this once, within a day:",
            paint.warn("!")
        )?;
        writeln!(out, "    {}", paint.strong(&link.url))?;
    }
    let open = listening.public.iter().any(|bound| !bound.address.ip().is_loopback());
    let encrypted = config.server.tls.is_some() || !config.server.trusted_proxies.is_empty();
    if open && !encrypted && !insecure_http_login {
        let mend = "give it `tls.cert` and `tls.key`, name a proxy with TLS in `trusted_proxies`, or add --insecure-http-login";
        writeln!(out, "  {} from other machines nobody can log in over plain HTTP; {mend}", paint.warn("!"))?;
    }
    Ok(())
}
