//! The frameworks: recognising one in a folder, what it expects of a server, and how it is launched.
//!
//! Everything here is a function of what it is given (a folder's listing and the beginnings of a few files): nothing is
//! started, nothing is written.

mod detect;
mod python;
mod recipe;

pub use detect::{Detection, NotRecognised, Wanted, detect};
pub(crate) use recipe::in_container;
pub use recipe::{Endpoint, Recipe, Site, StopSignal, Tool, recipe, server_modules, wants_socket};

use skep_model::{Framework, Health, Mount, Prefix};

/// What a framework expects of whoever stands in front of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traits {
    pub prefix: Prefix,
    /// With `{base_path}` for `` or `/sales`.
    health_path: &'static str,
    health_strict: bool,
    /// Whether it can listen on a Unix socket.
    pub unix_socket: bool,
    pub default_seats: u32,
}

impl Traits {
    /// The health check of an app of this framework that sets none of its own.
    pub fn health(&self, mount: &Mount) -> Health {
        Health {
            path: self.health_path.replace("{base_path}", mount.base_path()),
            strict: self.health_strict,
        }
    }
}

/// What differs between frameworks as seen from outside.
///
/// Health paths are chosen to answer without running the app's own code where the framework has such a path, so that an
/// app busy with one visitor's computation is not mistaken for a stuck one.
pub fn traits(framework: Framework) -> Traits {
    use Prefix::{Keep, Strip};
    let (prefix, health_path, health_strict, unix_socket) = match framework {
        // Served by httpuv's own thread: R may be computing.
        Framework::ShinyR | Framework::RMarkdown | Framework::Quarto => {
            (Strip, "/shared/shiny-testmode.js", false, framework != Framework::Quarto)
        }
        Framework::ShinyPython => (Strip, "/", false, true),
        Framework::Streamlit => (Keep, "{base_path}/_stcore/health", true, false),
        Framework::Dash => (Strip, "/_favicon.ico", false, true),
        Framework::Gradio => (Strip, "/gradio_api/app_id", false, false),
        Framework::Panel => (Keep, "{base_path}/liveness", true, true),
        // Redirects to the document; opening that itself would make a session for every probe.
        Framework::Bokeh => (Keep, "{base_path}/", false, true),
        // A page would start a kernel.
        Framework::Voila => (Keep, "{base_path}/voila/static/voila.js", false, false),
        Framework::Marimo => (Keep, "{base_path}/health", true, false),
        // Refused with 400 before any page is built.
        Framework::NiceGui => (Strip, "/_nicegui_ws/socket.io/", false, true),
        Framework::Solara => (Strip, "/readyz", true, false),
        Framework::Wsgi => (Keep, "{base_path}/", false, true),
        Framework::Asgi => (Strip, "/", false, true),
        Framework::Static => (Strip, "/", false, false),
        Framework::Command => (Strip, "/", false, true),
    };
    Traits { prefix, health_path, health_strict, unix_socket, default_seats: framework.default_seats() }
}

#[cfg(test)]
pub(crate) fn test_spec(id: &str, framework: Framework) -> skep_model::AppSpec {
    use std::time::Duration;
    let id: skep_model::AppId = id.parse().unwrap();
    let mount = Mount::of(&id);
    let traits = traits(framework);
    skep_model::AppSpec {
        title: id.to_string(),
        health: traits.health(&mount),
        id,
        mount,
        description: String::new(),
        icon: None,
        section: None,
        framework,
        prefix: traits.prefix,
        source: skep_model::Source::Folder { dir: "/nonexistent".into(), entry: None },
        backend: skep_model::BackendKind::Process,
        revision: skep_model::Revision(1),
        command: None,
        env: std::collections::BTreeMap::new(),
        secrets: std::collections::BTreeMap::new(),
        seats: 20,
        min_seats: 0,
        max_instances: 1,
        per_user: false,
        max_instances_per_user: 1,
        parameters: skep_model::Parameters::default(),
        stop_on_logout: false,
        start_timeout: Duration::from_secs(60),
        idle_timeout: Duration::from_secs(60),
        inactivity_timeout: None,
        max_lifetime: None,
        max_waiting: 10,
        access: skep_model::Access::default(),
        allowed_origins: Vec::new(),
        limits: skep_model::Limits::default(),
        run_as: None,
        hold: skep_model::Hold::Page,
    }
}
