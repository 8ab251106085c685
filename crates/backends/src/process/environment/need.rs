//! What an app's environment has to hold, read from the files beside it.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use skep_model::Framework;

use super::super::user::User;
use super::python::Interpreter;
use crate::framework::server_modules;

/// Changes when environments built before must not be used any more.
const RECIPE: u32 = 1;
/// Bytes read of any requirements file.
const MAX_FILE: u64 = 1 << 20;
/// Requirements files included from one another.
const MAX_FILES: usize = 16;

/// The requirements of one app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct Need {
    pub(super) dir: PathBuf,
    pub(super) from: From,
    /// Everything the requirements say, included files too.
    text: String,
    /// What serves the app and need not stand in the requirements.
    pub(super) servers: &'static [(&'static str, &'static str)],
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum From {
    /// `requirements.txt`, used as it stands.
    Requirements,
    /// The `dependencies` of `pyproject.toml`.
    Project(Vec<String>),
}

impl Need {
    /// What stands beside the app. `None`: nothing, so it runs on the machine's own Python.
    ///
    /// # Errors
    /// When a file is there but cannot be used.
    pub(in super::super) fn of(dir: &Path, framework: Framework) -> Result<Option<Self>, String> {
        let r = matches!(framework, Framework::ShinyR | Framework::RMarkdown | Framework::Quarto);
        if r || framework == Framework::Static {
            return Ok(None);
        }
        let servers = server_modules(framework);
        if dir.join("requirements.txt").is_file() {
            let mut text = String::new();
            let mut left = MAX_FILES;
            gather(dir, Path::new("requirements.txt"), &mut left, &mut text)?;
            return Ok(Some(Self { dir: dir.to_path_buf(), from: From::Requirements, text, servers }));
        }
        if !dir.join("pyproject.toml").is_file() {
            return Ok(None);
        }
        let text = read(&dir.join("pyproject.toml"))?;
        let names = dependencies(&text).map_err(|e| format!("pyproject.toml cannot be read: {e}"))?;
        Ok((!names.is_empty()).then(|| {
            let text = names.join("\n");
            Self { dir: dir.to_path_buf(), from: From::Project(names), text, servers }
        }))
    }

    pub(super) fn file_name(&self) -> &'static str {
        match self.from {
            From::Requirements => "requirements.txt",
            From::Project(_) => "pyproject.toml",
        }
    }

    /// A name for what will come out: the same for the same needs, wherever they stand.
    pub(super) fn key(&self, interpreter: &Interpreter, user: &User) -> String {
        let mut hash = Sha256::new();
        let mut part = |text: &str| {
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text.as_bytes());
        };
        part(&RECIPE.to_string());
        part(&interpreter.version);
        part(&interpreter.path.to_string_lossy());
        part(&user.ids.uid.to_string());
        for (module, _) in self.servers {
            part(module);
        }
        part(&self.text);
        if refers_to_the_folder(&self.text) {
            part(&self.dir.to_string_lossy());
        }
        let mut key = String::with_capacity(32);
        for byte in hash.finalize().iter().take(16) {
            let _ = write!(key, "{byte:02x}");
        }
        key
    }
}

pub(super) fn is_key(name: &str) -> bool {
    name.len() == 32 && name.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Packages given as a path are the folder's own.
fn refers_to_the_folder(text: &str) -> bool {
    text.lines().map(str::trim_start).any(|line| {
        ["-e", "--editable", ".", "/", "file:", "-f", "--find-links"]
            .iter()
            .any(|start| line.starts_with(start))
            || line.contains("@ file:")
    })
}

/// The text of a requirements file and of those it includes with `-r` and `-c`.
fn gather(dir: &Path, name: &Path, left: &mut usize, into: &mut String) -> Result<(), String> {
    *left =
        left.checked_sub(1).ok_or("the requirements include too many files, or one another in a circle")?;
    let path = dir.join(name);
    let text = read(&path)?;
    let folder = path.parent().unwrap_or(dir).to_path_buf();
    for line in text.lines().map(str::trim) {
        let included = ["-r", "-c", "--requirement", "--constraint"]
            .iter()
            .find_map(|flag| line.strip_prefix(flag))
            .filter(|rest| rest.starts_with([' ', '=', '\t']));
        if let Some(included) = included {
            let included = included.trim_start_matches([' ', '=', '\t']);
            let included = included.split(" #").next().unwrap_or_default().trim();
            if !included.contains("://") {
                gather(&folder, Path::new(included), left, into)?;
            }
        }
    }
    into.push_str(&text);
    into.push('\n');
    Ok(())
}

fn read(path: &Path) -> Result<String, String> {
    let mut bytes = Vec::new();
    let said = |e: std::io::Error| format!("{} cannot be read: {e}", path.display());
    File::open(path).map_err(said)?.take(MAX_FILE).read_to_end(&mut bytes).map_err(said)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn dependencies(text: &str) -> Result<Vec<String>, toml::de::Error> {
    let table: toml::Table = text.parse()?;
    let listed = table.get("project").and_then(|p| p.get("dependencies")).and_then(|d| d.as_array());
    let names = listed.into_iter().flatten().filter_map(|d| d.as_str());
    // One line each in the file that is made of them.
    Ok(names.filter(|name| !name.contains(['\n', '\r'])).map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interpreter() -> Interpreter {
        Interpreter { path: "/usr/bin/python3".into(), version: "3.11.2".to_owned() }
    }

    fn key(dir: &Path, framework: Framework) -> String {
        Need::of(dir, framework).unwrap().unwrap().key(&interpreter(), &super::super::super::user::own())
    }

    #[test]
    fn the_key_follows_what_is_required() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::write(a.path().join("requirements.txt"), "dash\n-r more.txt # x\n").unwrap();
        std::fs::write(a.path().join("more.txt"), "pandas\n").unwrap();
        std::fs::write(b.path().join("requirements.txt"), "dash\n-r more.txt # x\n").unwrap();
        std::fs::write(b.path().join("more.txt"), "pandas\n").unwrap();
        let first = key(a.path(), Framework::Dash);
        assert!(is_key(&first));
        assert_eq!(first, key(b.path(), Framework::Dash), "the folder does not matter");
        assert_ne!(first, key(a.path(), Framework::Asgi), "another server does");
        std::fs::write(b.path().join("more.txt"), "pandas<3\n").unwrap();
        assert_ne!(first, key(b.path(), Framework::Dash), "an included file does");
        std::fs::write(b.path().join("more.txt"), "-r requirements.txt").unwrap();
        assert!(Need::of(b.path(), Framework::Dash).unwrap_err().contains("circle"));
    }

    #[test]
    fn projects_and_nothing() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Need::of(dir.path(), Framework::Dash), Ok(None));
        std::fs::write(dir.path().join("pyproject.toml"), "[tool.black]\nline-length = 9\n").unwrap();
        assert_eq!(Need::of(dir.path(), Framework::Dash), Ok(None));
        std::fs::write(dir.path().join("pyproject.toml"), "[project]\ndependencies = [\"dash>2\"]\n")
            .unwrap();
        let need = Need::of(dir.path(), Framework::Dash).unwrap().unwrap();
        assert_eq!(need.from, From::Project(vec!["dash>2".to_owned()]));
        assert_eq!(Need::of(dir.path(), Framework::ShinyR), Ok(None));
        std::fs::write(dir.path().join("pyproject.toml"), "[project\n").unwrap();
        assert!(Need::of(dir.path(), Framework::Dash).unwrap_err().contains("pyproject.toml"));
    }
}
