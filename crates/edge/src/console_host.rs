//! A host name of its own for the console, so that no app shares an origin with it: a script in an app's page can then
//! not use what an administrator's browser may.
//!
//! On that host there are Skep's pages and no apps; on every other host there are apps and no console. Pure.

use http::Uri;

use crate::problem::Problem;
use crate::sanitize::host::Authority;

/// Where the console answers, and where apps do.
#[derive(Debug, Clone)]
pub struct ConsoleHost {
    /// A host name without a port: the console is reached by the ports apps are reached by.
    pub host: String,
    /// What visitors call the server: `https://apps.example.org`.
    pub public_url: Option<String>,
}

/// What becomes of a request that came to the wrong host.
#[derive(Debug)]
pub(crate) enum Elsewhere {
    /// A page load is sent on.
    Moved(String),
    Refused(Problem),
}

impl ConsoleHost {
    pub(crate) fn answers_at(&self, host: &Authority) -> bool {
        host.host().eq_ignore_ascii_case(&self.host)
    }

    /// Whether a request came to the host its target answers at.
    pub(crate) fn check(
        &self,
        host: &Authority,
        https: bool,
        uri: &Uri,
        app: bool,
        navigation: bool,
    ) -> Result<(), Elsewhere> {
        let at_console = self.answers_at(host);
        let for_console = ["/_skep/console", "/_skep/api"].iter().any(|part| is_under(uri.path(), part));
        let whole = uri.path_and_query().map_or("/", |target| target.as_str());
        if at_console && app {
            if let Some(public) = self.public_url.as_ref().filter(|_| navigation) {
                return Err(Elsewhere::Moved(format!("{}{whole}", public.trim_end_matches('/'))));
            }
            let detail = format!("apps are not served on the console's host `{}`", self.host);
            return Err(Elsewhere::Refused(Problem::new(421, "console-host", detail)));
        }
        if !at_console && for_console {
            if navigation {
                let scheme = if https { "https" } else { "http" };
                let port = host.port.map_or_else(String::new, |port| format!(":{port}"));
                return Err(Elsewhere::Moved(format!("{scheme}://{}{port}{whole}", self.host)));
            }
            let detail = format!("the console and its API answer at `{}` only", self.host);
            return Err(Elsewhere::Refused(Problem::new(421, "console-host", detail)));
        }
        Ok(())
    }
}

fn is_under(path: &str, part: &str) -> bool {
    path.strip_prefix(part).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(host: &str, target: &str, app: bool, navigation: bool) -> String {
        let rule = ConsoleHost {
            host: "console.example.org".to_owned(),
            public_url: Some("https://apps.example.org".to_owned()),
        };
        let host = Authority::parse(host).unwrap();
        match rule.check(&host, true, &target.parse().unwrap(), app, navigation) {
            Ok(()) => "served".to_owned(),
            Err(Elsewhere::Moved(location)) => location,
            Err(Elsewhere::Refused(problem)) => problem.status.to_string(),
        }
    }

    #[test]
    fn the_console_and_the_apps_keep_to_their_hosts() {
        for (host, target, app, navigation, expected) in [
            ("apps.example.org", "/sales/?q=1", true, true, "served"),
            ("apps.example.org", "/", false, true, "served"),
            ("apps.example.org", "/_skep/login", false, true, "served"),
            ("apps.example.org", "/_skep/apicture", false, false, "served"),
            ("apps.example.org", "/_skep/api/v1/apps", false, false, "421"),
            (
                "apps.example.org:8443",
                "/_skep/console/?x",
                false,
                true,
                "https://console.example.org:8443/_skep/console/?x",
            ),
            ("console.example.org", "/_skep/api/v1/apps", false, false, "served"),
            ("CONSOLE.example.org:8443", "/_skep/console/", false, true, "served"),
            ("console.example.org", "/", false, true, "served"),
            ("console.example.org", "/sales/?q=1", true, true, "https://apps.example.org/sales/?q=1"),
            ("console.example.org", "/sales/data", true, false, "421"),
        ] {
            assert_eq!(outcome(host, target, app, navigation), expected, "{host} {target}");
        }
    }
}
