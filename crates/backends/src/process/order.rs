//! Turning the order for an instance into what its shim is told: program, environment, user, place, limits.
//!
//! Runs on a blocking thread. Everything that can be found wrong before anything is started is found here, and said.

use std::path::{Path, PathBuf};

use skep_launch::{BackendError, LaunchOrder};
use skep_model::{AppSpec, Framework, SecretFile, Source};

use super::environment::find_program;
use super::place::Paths;
use super::user::{self, User};
use super::{Inner, protocol};
use crate::framework::{self, Endpoint, Recipe, Site, StopSignal, Tool, Wanted};
use crate::secret;

/// What is known of the app before anything of the instance exists.
pub(super) struct App {
    pub(super) dir: PathBuf,
    pub(super) entry: Option<String>,
    pub(super) user: User,
}

/// Checks what the spec names.
pub(super) fn check(spec: &AppSpec) -> Result<App, BackendError> {
    let Source::Folder { dir, entry } = &spec.source else {
        return Err(app_error("it is published from an image, which local processes cannot run".to_owned()));
    };
    if spec.framework == Framework::Static && spec.command.is_none() {
        return Err(app_error("a static site has no process to start".to_owned()));
    }
    if !dir.is_dir() {
        return Err(app_error(format!("its folder {} is not there", dir.display())));
    }
    let mut entry = entry.clone();
    if entry.is_none() && spec.command.is_none() {
        let wanted = Wanted { framework: Some(spec.framework), command: false };
        entry = framework::detect(dir, wanted).map_err(|e| app_error(e.0))?.entry;
    }
    let user = match &spec.run_as {
        Some(name) => user::find(name).map_err(app_error)?,
        None => user::own(),
    };
    if let Some(ids) = become_user(&user) {
        user::may_enter(dir, &ids).map_err(|closed| cannot_enter(&user, &closed))?;
    }
    Ok(App { dir: dir.clone(), entry, user })
}

fn app_error(summary: String) -> BackendError {
    BackendError::App { summary, last_lines: Vec::new() }
}

fn cannot_enter(user: &User, closed: &Path) -> BackendError {
    let (name, closed) = (&user.name, closed.display());
    app_error(format!(
        "`run_as = \"{name}\"`: that user cannot enter {closed}; permit it (for example `chmod o+x {closed}`)"
    ))
}

/// The program with its arguments and its environment.
pub(super) struct Program {
    pub(super) argv: Vec<String>,
    pub(super) env: Vec<(String, String)>,
    pub(super) stop_signal: StopSignal,
}

impl Inner {
    /// Decides where the instance listens and gives that place to it.
    pub(super) fn endpoint(&self, spec: &AppSpec, paths: &Paths) -> Result<Endpoint, BackendError> {
        if framework::wants_socket(spec) {
            return Ok(Endpoint::Socket(paths.socket.clone()));
        }
        let random = getrandom::u64().unwrap_or_else(|_| u64::from(std::process::id()));
        let port = self.places.claim_port(random).map_err(|e| BackendError::Platform(e.to_string()))?;
        Ok(Endpoint::Port(port))
    }

    pub(super) fn program(
        &self,
        order: &LaunchOrder,
        app: &App,
        endpoint: &Endpoint,
        environment: Option<&Path>,
    ) -> Result<Program, BackendError> {
        if let (Some(venv), Some(ids)) = (environment, become_user(&app.user)) {
            user::may_enter(venv, &ids).map_err(|closed| cannot_enter(&app.user, &closed))?;
        }
        let (user, groups) = crate::container::whose(order);
        let entry = app.entry.as_deref();
        let site = Site { spec: &order.spec, entry, instance: &order.id, user, groups, endpoint };
        let recipe = framework::recipe(site);
        let path = match environment {
            Some(venv) => format!("{}:{}", venv.join("bin").display(), self.config.path),
            None => self.config.path.clone(),
        };
        let program = self.resolve(&recipe.tool, app, environment, &path)?;
        let Recipe { args, env: by_recipe, stop_signal, .. } = recipe;
        let mut argv = vec![text(&program)?];
        argv.extend(args);
        let mut env = base_environment(&app.user, path);
        if let Some(venv) = environment {
            env.push(("VIRTUAL_ENV".to_owned(), text(venv)?));
        }
        env.extend(by_recipe);
        env.extend(secrets(&order.spec)?);
        if let Some((name, _)) =
            env.iter().find(|(n, v)| n.is_empty() || n.contains(['=', '\0']) || v.contains('\0'))
        {
            return Err(app_error(format!("`{name}` cannot be an environment variable with that value")));
        }
        Ok(Program { argv, env, stop_signal })
    }

    fn resolve(
        &self,
        tool: &Tool,
        app: &App,
        environment: Option<&Path>,
        path: &str,
    ) -> Result<PathBuf, BackendError> {
        let named =
            |name: &str, missing: &str| find_program(name, path).ok_or_else(|| app_error(missing.to_owned()));
        match tool {
            Tool::Python => match environment {
                Some(venv) => Ok(venv.join("bin/python")),
                None => Ok(self.environments.interpreter(&app.user)?.path),
            },
            Tool::R => named("R", "R is not installed: there is no `R` on the path Skep was started with"),
            Tool::Quarto => named(
                "quarto",
                "Quarto is not installed: there is no `quarto` on the path Skep was started with",
            ),
            Tool::Named(name) if name.contains('/') => {
                let file = app.dir.join(name);
                let there = file.is_file();
                there.then_some(file).ok_or_else(|| app_error(format!("its command `{name}` does not exist")))
            }
            Tool::Named(name) => named(
                name,
                &format!("its command `{name}` was found neither in the app's environment nor on the path"),
            ),
        }
    }
}

/// The environment every app starts from: nothing of the server's own beyond these.
fn base_environment(user: &User, path: String) -> Vec<(String, String)> {
    let own = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let mut env = vec![
        ("PATH".to_owned(), path),
        ("HOME".to_owned(), user.home.to_string_lossy().into_owned()),
        ("USER".to_owned(), user.name.clone()),
        ("LOGNAME".to_owned(), user.name.clone()),
        ("SHELL".to_owned(), user.shell.clone()),
        ("LANG".to_owned(), own("LANG").unwrap_or_else(|| "C.UTF-8".to_owned())),
    ];
    for name in ["LC_ALL", "TZ", "TMPDIR"] {
        if let Some(value) = own(name) {
            env.push((name.to_owned(), value));
        }
    }
    env
}

/// Reads each secret from its file. One line end at the file's end is not part of it.
fn secrets(spec: &AppSpec) -> Result<Vec<(String, String)>, BackendError> {
    let read = |(name, file): (&String, &SecretFile)| -> Result<(String, String), BackendError> {
        let mut value = String::from_utf8(secret::read(name, file)?).map_err(|_| {
            let path = file.path.display();
            app_error(format!("the secret `{name}` cannot be read from {path}: it is not valid UTF-8"))
        })?;
        let end = value.strip_suffix('\n').map_or(value.len(), |v| v.strip_suffix('\r').unwrap_or(v).len());
        value.truncate(end);
        Ok((name.clone(), value))
    };
    spec.secrets.iter().map(read).collect()
}

pub(super) fn text(path: &Path) -> Result<String, BackendError> {
    let text = path.to_str().map(str::to_owned);
    text.ok_or_else(|| app_error(format!("the path {} is not valid UTF-8", path.display())))
}

/// The user to become, when it is another than our own.
pub(super) fn become_user(user: &User) -> Option<protocol::Ids> {
    (rustix::process::geteuid().as_raw() != user.ids.uid).then(|| user.ids.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::framework::test_spec;

    #[test]
    fn secrets_come_from_files_and_their_absence_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let mut spec = test_spec("sales", Framework::Command);
        std::fs::write(dir.path().join("a"), "s3cret\r\n").unwrap();
        spec.secrets.insert("A".to_owned(), dir.path().join("a").into());
        assert_eq!(secrets(&spec).unwrap(), [("A".to_owned(), "s3cret".to_owned())]);
        spec.secrets.insert("B".to_owned(), dir.path().join("b").into());
        let said = secrets(&spec).unwrap_err().to_string();
        assert!(said.contains("`B`") && said.contains("No such file"), "{said}");
    }

    #[test]
    fn what_cannot_run_as_a_process_is_refused_with_a_reason() {
        let mut spec = test_spec("sales", Framework::Streamlit);
        assert!(check(&spec).map(drop).unwrap_err().to_string().contains("is not there"));
        spec.source = Source::Image(Box::new(skep_model::Image::new("x")));
        assert!(check(&spec).map(drop).unwrap_err().to_string().contains("image"));
        let dir = tempfile::tempdir().unwrap();
        spec.source = Source::Folder { dir: dir.path().to_path_buf(), entry: None };
        assert!(check(&spec).map(drop).unwrap_err().to_string().contains("app.py"));
        std::fs::write(dir.path().join("app.py"), "").unwrap();
        assert_eq!(check(&spec).unwrap().entry.as_deref(), Some("app.py"));
    }
}
