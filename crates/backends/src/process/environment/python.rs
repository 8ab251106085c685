//! Finding programs: on the path, and usable by the user the app runs as.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use skep_launch::BackendError;

use super::super::user::User;

/// A Python that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct Interpreter {
    pub(in super::super) path: PathBuf,
    pub(in super::super) version: String,
}

/// The first executable file of this name on the path.
pub(in super::super) fn find_program(name: &str, path: &str) -> Option<PathBuf> {
    candidates(name, path).next()
}

fn candidates(name: &str, path: &str) -> impl Iterator<Item = PathBuf> {
    let folders: Vec<PathBuf> = std::env::split_paths(path).filter(|folder| folder.is_absolute()).collect();
    let name = name.to_owned();
    folders.into_iter().map(move |folder| folder.join(&name)).filter(|file| is_program(file))
}

fn is_program(file: &Path) -> bool {
    file.is_file() && rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok()
}

/// The first Python 3 on the path that starts for this user.
pub(super) fn find(path: &str, user: &User) -> Result<Interpreter, BackendError> {
    let ask = "import sys; print(sys.executable); print(sys.version.split()[0])";
    let mut seen = None;
    for candidate in candidates("python3", path).chain(candidates("python", path)) {
        let said = run_as(Command::new(&candidate).args(["-I", "-c", ask]).env("PATH", path), user);
        if let Some(said) = said {
            let mut lines = said.lines();
            if let (Some(executable), Some(version)) = (lines.next(), lines.next())
                && version.starts_with("3.")
            {
                return Ok(Interpreter { path: PathBuf::from(executable), version: version.to_owned() });
            }
        }
        seen = Some(candidate);
    }
    let summary = match seen {
        Some(seen) => {
            format!("no Python 3 on the path can be started by user {} (tried {})", user.name, seen.display())
        }
        None => "Python is not installed: there is no `python3` on the path Skep was started with".to_owned(),
    };
    Err(BackendError::App { summary, last_lines: Vec::new() })
}

/// The first `uv` on the path that starts for this user.
pub(super) fn find_uv(path: &str, user: &User) -> Option<PathBuf> {
    candidates("uv", path)
        .find(|uv| run_as(Command::new(uv).arg("--version").env("PATH", path), user).is_some())
}

fn run_as(command: &mut Command, user: &User) -> Option<String> {
    command.stdin(Stdio::null()).stderr(Stdio::null()).current_dir("/").env("HOME", &user.home);
    if rustix::process::geteuid().as_raw() != user.ids.uid {
        command.uid(user.ids.uid).gid(user.ids.gid);
    }
    let done = command.output().ok()?;
    done.status.success().then(|| String::from_utf8_lossy(&done.stdout).into_owned())
}
