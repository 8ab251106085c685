//! How an app of each framework is launched: the command line and the environment that make it listen where Skep says,
//! under the URL prefix Skep says.
//!
//! A recipe names its program by [`Tool`]; whoever launches resolves that to a path and says what is missing.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use skep_model::{AppSpec, Framework, InstanceId, Source};

use super::traits;

/// Where an instance listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Endpoint {
    /// On 127.0.0.1.
    Port(u16),
    Socket(PathBuf),
}

impl Endpoint {
    fn port(&self) -> String {
        match self {
            Self::Port(port) => port.to_string(),
            Self::Socket(_) => String::new(),
        }
    }

    fn socket(&self) -> String {
        match self {
            Self::Port(_) => String::new(),
            Self::Socket(path) => path.to_string_lossy().into_owned(),
        }
    }
}

/// The program a recipe starts with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tool {
    /// The app's own Python, or the one on the path.
    Python,
    R,
    Quarto,
    /// The first word of a configured `command`.
    Named(String),
}

/// The signal that asks an app politely to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum StopSignal {
    Sigterm,
    /// What R takes as a request to leave, running `onStop` on the way.
    Sigint,
}

/// How to start one instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipe {
    pub tool: Tool,
    /// Without the program itself.
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
    pub stop_signal: StopSignal,
}

/// What a recipe is made for.
#[derive(Debug, Clone, Copy)]
pub struct Site<'a> {
    pub spec: &'a AppSpec,
    /// The entry file, relative to the app's folder.
    pub entry: Option<&'a str>,
    pub instance: &'a InstanceId,
    /// The login name of whoever the instance is for; empty when it is for everybody.
    pub user: &'a str,
    /// That user's groups.
    pub groups: &'a [String],
    pub endpoint: &'a Endpoint,
}

/// Whether an instance of this app is to listen on a Unix socket (else on a port).
pub fn wants_socket(spec: &AppSpec) -> bool {
    match &spec.command {
        Some(command) => {
            let named = |what: &str| command.iter().chain(spec.env.values()).any(|text| text.contains(what));
            named("{socket}") && !named("{port}")
        }
        None => traits(spec.framework).unix_socket && spec.framework != Framework::Command,
    }
}

/// Python packages that serve the app and need not stand in its requirements, as (module, what to install).
pub fn server_modules(framework: Framework) -> &'static [(&'static str, &'static str)] {
    match framework {
        Framework::Wsgi | Framework::Dash => &[("gunicorn", "gunicorn")],
        Framework::Asgi => &[("uvicorn", "uvicorn"), ("websockets", "websockets")],
        // Its pages load their scripts from the server instead of from a content network.
        Framework::Solara => &[("solara_assets", "solara-assets")],
        Framework::Voila => &[("voila", "voila"), ("ipykernel", "ipykernel")],
        _ => &[],
    }
}

/// The recipe for one instance.
pub fn recipe(site: Site<'_>) -> Recipe {
    let mut recipe = match &site.spec.command {
        Some(command) => own_command(site, command),
        None => by_framework(site),
    };
    recipe.env.extend(about(site));
    recipe
}

/// What is configured, and what an instance is told about itself.
fn about(site: Site<'_>) -> Vec<(String, String)> {
    let spec = site.spec;
    let mut env: Vec<_> = spec.env.iter().map(|(name, value)| (name.clone(), expand(site, value))).collect();
    // Last, because the last one counts: instances are recognised by these.
    env.extend([
        ("SKEP_APP".to_owned(), spec.id.to_string()),
        ("SKEP_INSTANCE".to_owned(), site.instance.to_string()),
        ("SKEP_BASE_PATH".to_owned(), spec.mount.base_path().to_owned()),
    ]);
    if !site.user.is_empty() {
        env.push(("SKEP_USER".to_owned(), site.user.to_owned()));
    }
    env
}

/// The words of the app's own command, and the environment, for a container: its image knows the rest.
pub(crate) fn in_container(site: Site<'_>) -> (Option<Vec<String>>, Vec<(String, String)>) {
    let command = site.spec.command.as_ref();
    let words = command.map(|words| words.iter().map(|word| expand(site, word)).collect());
    let mut env = vec![("PORT".to_owned(), site.endpoint.port())];
    env.extend(about(site));
    (words, env)
}

/// Replaces the placeholders of `command` and `env`.
fn expand(site: Site<'_>, text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('{') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let known = rest.find('}').and_then(|end| Some((placeholder(site, &rest[1..end])?, end)));
        match known {
            Some((value, end)) => {
                out.push_str(&value);
                rest = &rest[end + 1..];
            }
            None => {
                out.push('{');
                rest = &rest[1..];
            }
        }
    }
    out.push_str(rest);
    out
}

fn placeholder(site: Site<'_>, name: &str) -> Option<String> {
    Some(match name {
        "port" => site.endpoint.port(),
        "socket" => site.endpoint.socket(),
        "base_path" => site.spec.mount.base_path().to_owned(),
        "user" => site.user.to_owned(),
        "groups" => site.groups.join(","),
        "groups:upper" => site.groups.join(",").to_uppercase(),
        "app" => site.spec.id.to_string(),
        "instance" => site.instance.to_string(),
        _ => return None,
    })
}

fn own_command(site: Site<'_>, command: &[String]) -> Recipe {
    let mut words = command.iter().map(|word| expand(site, word));
    let program = words.next().unwrap_or_default();
    let mut env = Vec::new();
    if let Endpoint::Port(port) = site.endpoint {
        env.push(("PORT".to_owned(), port.to_string()));
        env.push(("HOST".to_owned(), "127.0.0.1".to_owned()));
    }
    let tool = if program == "python" || program == "python3" { Tool::Python } else { Tool::Named(program) };
    Recipe { tool, args: words.collect(), env, stop_signal: StopSignal::Sigterm }
}

fn by_framework(site: Site<'_>) -> Recipe {
    match site.spec.framework {
        Framework::ShinyR | Framework::RMarkdown => r(site),
        Framework::Quarto => quarto(site),
        _ => python(site),
    }
}

fn r(site: Site<'_>) -> Recipe {
    let (port, value) = match site.endpoint {
        Endpoint::Port(port) => ("as.integer(Sys.getenv(\"SKEP_ENDPOINT\"))", port.to_string()),
        Endpoint::Socket(_) => {
            ("structure(Sys.getenv(\"SKEP_ENDPOINT\"), mask = strtoi(\"0077\", 8L))", site.endpoint.socket())
        }
    };
    let mut env = vec![("SKEP_ENDPOINT".to_owned(), value)];
    let code = match site.spec.framework {
        Framework::RMarkdown => {
            env.push(("SKEP_ENTRY".to_owned(), site.entry.unwrap_or_default().to_owned()));
            format!(
                "rmarkdown::run(Sys.getenv(\"SKEP_ENTRY\"), shiny_args = list(port = {port}, launch.browser = FALSE))"
            )
        }
        _ => format!("shiny::runApp(\".\", port = {port}, launch.browser = FALSE)"),
    };
    let args = ["--no-save", "--no-restore", "--no-echo", "-e", &code];
    Recipe { tool: Tool::R, args: args.map(str::to_owned).to_vec(), env, stop_signal: StopSignal::Sigint }
}

fn quarto(site: Site<'_>) -> Recipe {
    let entry = site.entry.unwrap_or_default();
    let port = site.endpoint.port();
    let args = ["serve", entry, "--port", &port, "--host", "127.0.0.1", "--no-browser"];
    Recipe {
        tool: Tool::Quarto,
        args: args.map(str::to_owned).to_vec(),
        env: Vec::new(),
        stop_signal: StopSignal::Sigterm,
    }
}

fn python(site: Site<'_>) -> Recipe {
    let entry = site.entry.unwrap_or(".");
    let base = site.spec.mount.base_path();
    let slashed = site.spec.mount.as_str();
    let (port, socket) = (site.endpoint.port(), site.endpoint.socket());
    let bind = if socket.is_empty() { format!("127.0.0.1:{port}") } else { format!("unix:{socket}") };
    let script = |code: &str, rest: &[&str]| {
        let mut args = vec!["-c".to_owned(), code.to_owned()];
        args.extend(rest.iter().map(|&a| a.to_owned()));
        args
    };
    let module = |words: &str, rest: &[&str]| {
        let mut args: Vec<String> = words.split_whitespace().map(str::to_owned).collect();
        args.extend(rest.iter().map(|&a| a.to_owned()));
        args
    };
    let mut env: Vec<(&str, String)> = vec![("PYTHONUNBUFFERED", "1".to_owned())];
    let args = match site.spec.framework {
        Framework::ShinyPython => script(include_str!("launchers/shiny.py"), &[entry, &socket]),
        Framework::Streamlit => module(
            "-m streamlit run --server.headless=true --browser.gatherUsageStats=false --server.fileWatcherType=none \
             --server.address=127.0.0.1",
            &[&format!("--server.port={port}"), &format!("--server.baseUrlPath={base}"), entry],
        ),
        Framework::Dash => {
            env.push(("DASH_REQUESTS_PATHNAME_PREFIX", slashed.to_owned()));
            env.push(("DASH_ROUTES_PATHNAME_PREFIX", "/".to_owned()));
            script(include_str!("launchers/wsgi.py"), &[entry, &bind])
        }
        Framework::Wsgi => {
            env.push(("SCRIPT_NAME", base.to_owned()));
            script(include_str!("launchers/wsgi.py"), &[entry, &bind])
        }
        Framework::Asgi => script(include_str!("launchers/asgi.py"), &[entry, &socket, base]),
        Framework::NiceGui => script(include_str!("launchers/nicegui.py"), &[entry, &socket]),
        Framework::Gradio => {
            env.push(("GRADIO_ANALYTICS_ENABLED", "False".to_owned()));
            script(include_str!("launchers/gradio.py"), &[entry, &port, base])
        }
        Framework::Panel => module(
            "-m panel serve --allow-websocket-origin=* --use-xheaders --liveness",
            &["--unix-socket", &socket, "--prefix", base, entry],
        ),
        Framework::Bokeh => module(
            "-m bokeh serve --allow-websocket-origin=* --use-xheaders",
            &["--unix-socket", &socket, "--prefix", base, &bokeh_app(site, entry)],
        ),
        Framework::Voila => module(
            "-m voila --no-browser --Voila.ip=127.0.0.1",
            &[&format!("--port={port}"), &format!("--base_url={slashed}"), entry],
        ),
        Framework::Marimo => module(
            "-m marimo run --headless --host 127.0.0.1 --no-token --port",
            &[&port, "--base-url", base, entry],
        ),
        Framework::Solara => module(
            "-m solara run --production --no-open --host 127.0.0.1 --port",
            &[&port, "--root-path", base, entry],
        ),
        // Handled elsewhere, or nothing to run.
        Framework::ShinyR
        | Framework::RMarkdown
        | Framework::Quarto
        | Framework::Static
        | Framework::Command => Vec::new(),
    };
    let env = env.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    Recipe { tool: Tool::Python, args, env, stop_signal: StopSignal::Sigterm }
}

/// A `main.py` means a directory app to Bokeh, which then also serves its `static/` and `templates/`.
fn bokeh_app(site: Site<'_>, entry: &str) -> String {
    match &site.spec.source {
        Source::Folder { dir, .. } if entry == "main.py" => dir.to_string_lossy().into_owned(),
        _ => entry.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::framework::test_spec;
    use skep_model::Mount;

    fn made(framework: Framework, command: Option<&[&str]>, endpoint: &Endpoint) -> Recipe {
        let mut spec = test_spec("sales", framework);
        spec.command = command.map(|words| words.iter().map(|w| (*w).to_owned()).collect());
        spec.env.insert("WHERE".to_owned(), "{base_path}|{user}|{nothing}|{".to_owned());
        let instance = InstanceId::new(spec.id.clone(), 7);
        recipe(Site {
            spec: &spec,
            entry: Some("app.py"),
            instance: &instance,
            user: "ada",
            groups: &[],
            endpoint,
        })
    }

    fn value<'a>(recipe: &'a Recipe, name: &str) -> Option<&'a str> {
        recipe.env.iter().rev().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    #[test]
    fn every_framework_names_its_endpoint_and_prefix() {
        for framework in Framework::ALL {
            if matches!(framework, Framework::Static | Framework::Command) {
                continue;
            }
            let spec = test_spec("sales", framework);
            let endpoint = if wants_socket(&spec) {
                Endpoint::Socket("/run/x/app".into())
            } else {
                Endpoint::Port(20_123)
            };
            let made = made(framework, None, &endpoint);
            let all = format!("{:?} {:?}", made.args, made.env);
            let wanted = if wants_socket(&spec) { "/run/x/app" } else { "20123" };
            assert!(all.contains(wanted), "{framework}: {all}");
            assert!(all.contains("/sales"), "{framework}: {all}");
        }
    }

    #[test]
    fn placeholders_are_expanded_and_others_left_alone() {
        let command = ["serve", "--at={port}", "--for", "{app}{instance}", "{\"a\": {port}}"];
        let made = made(Framework::Command, Some(&command), &Endpoint::Port(20_001));
        assert_eq!(made.tool, Tool::Named("serve".to_owned()));
        assert_eq!(made.args[0], "--at=20001");
        assert_eq!(made.args[2], "salessales.0000000000000007");
        assert_eq!(made.args[3], "{\"a\": 20001}");
        assert_eq!(value(&made, "WHERE"), Some("/sales|ada|{nothing}|{"));
        assert_eq!(value(&made, "PORT"), Some("20001"));
        assert_eq!(value(&made, "SKEP_USER"), Some("ada"));
    }

    #[test]
    fn a_command_gets_a_socket_only_when_it_asks_for_one() {
        let mut spec = test_spec("sales", Framework::Command);
        for (command, socket) in
            [("x", false), ("x {port}", false), ("x {socket}", true), ("{socket}{port}", false)]
        {
            spec.command = Some(vec![command.to_owned()]);
            assert_eq!(wants_socket(&spec), socket, "{command}");
        }
        spec.env.insert("S".to_owned(), "{socket}".to_owned());
        spec.command = Some(vec!["x".to_owned()]);
        assert!(wants_socket(&spec));
    }

    #[test]
    fn at_the_root_the_prefix_is_empty() {
        let mut spec = test_spec("sales", Framework::Streamlit);
        spec.mount = Mount::root();
        let instance = InstanceId::new(spec.id.clone(), 7);
        let endpoint = Endpoint::Port(20_001);
        let site = Site {
            spec: &spec,
            entry: Some("app.py"),
            instance: &instance,
            user: "",
            groups: &[],
            endpoint: &endpoint,
        };
        let made = recipe(site);
        assert!(made.args.contains(&"--server.baseUrlPath=".to_owned()), "{:?}", made.args);
        assert_eq!(value(&made, "SKEP_USER"), None);
    }
}
