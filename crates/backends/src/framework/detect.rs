//! Recognises the framework of an app from its folder.
//!
//! Bounded: one listing of at most [`MAX_FILES`] names, and the first [`MAX_READ`] bytes of a handful of files.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use skep_model::Framework;

use super::python;

const MAX_FILES: usize = 4096;
const MAX_READ: u64 = 128 * 1024;

/// What is known beforehand, from `skep.toml`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wanted {
    /// `framework = "…"`: only the entry file is looked for.
    pub framework: Option<Framework>,
    /// Whether a `command` is set: then nothing needs recognising.
    pub command: bool,
}

/// What a folder holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detection {
    pub framework: Framework,
    /// The file it starts from, relative to the folder. `None` where the framework takes the folder itself.
    pub entry: Option<String>,
    /// A title found in the entry file.
    pub title: Option<String>,
    /// The names, in the folder, of files whose change means a new revision. Some of them need not exist yet.
    pub watch: Vec<String>,
}

/// A folder that holds no app Skep recognises, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotRecognised(pub String);

/// Recognises the app in a folder.
///
/// # Errors
/// Says what was looked for and how to mend it, when nothing is recognised or the folder cannot be read.
pub fn detect(dir: &Path, wanted: Wanted) -> Result<Detection, NotRecognised> {
    let names = list(dir)?;
    let folder = Folder { dir, names };
    if wanted.command && wanted.framework.is_none() {
        return Ok(found(&folder, Framework::Command, None));
    }
    match wanted.framework {
        Some(framework) => {
            let entry = entry_for(&folder, framework)?;
            Ok(found(&folder, framework, entry))
        }
        None => recognise(&folder),
    }
}

struct Folder<'a> {
    dir: &'a Path,
    /// Plain files, sorted.
    names: Vec<String>,
}

impl Folder<'_> {
    fn has(&self, name: &str) -> bool {
        self.names.binary_search_by(|n| n.as_str().cmp(name)).is_ok()
    }

    /// Names ending so, sorted.
    fn ending(&self, ends: &[&str]) -> impl Iterator<Item = &String> {
        self.names.iter().filter(move |name| ends.iter().any(|end| name.ends_with(end)))
    }

    /// The beginning of a file; empty when it cannot be read.
    fn read(&self, name: &str) -> String {
        let mut bytes = Vec::new();
        if let Ok(file) = File::open(self.dir.join(name)) {
            let _ = file.take(MAX_READ).read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

fn list(dir: &Path) -> Result<Vec<String>, NotRecognised> {
    let entries = std::fs::read_dir(dir)
        .map_err(|e| NotRecognised(format!("the folder {} cannot be read: {e}", dir.display())))?;
    let mut names: Vec<String> = entries
        .take(MAX_FILES)
        .filter_map(Result::ok)
        .filter(|e| e.file_type().is_ok_and(|t| !t.is_dir()))
        .filter_map(|e| e.file_name().into_string().ok())
        .filter(|name| !name.starts_with('.'))
        .collect();
    names.sort_unstable();
    Ok(names)
}

/// Python files an app usually starts from, in the order they are tried.
const PYTHON_ENTRIES: [&str; 13] = [
    "app.py",
    "main.py",
    "streamlit_app.py",
    "server.py",
    "application.py",
    "asgi.py",
    "wsgi.py",
    "dashboard.py",
    "index.py",
    "home.py",
    "Home.py",
    "run.py",
    "serve.py",
];

fn recognise(folder: &Folder<'_>) -> Result<Detection, NotRecognised> {
    if let Some(entry) = r_entry(folder) {
        return Ok(found(folder, Framework::ShinyR, Some(entry)));
    }
    if let Some((framework, entry)) = document(folder) {
        return Ok(found(folder, framework, Some(entry)));
    }
    let entries = python_entries(folder);
    for entry in &entries {
        if let Some(framework) = python::Source::read(&folder.read(entry)).framework() {
            return Ok(found(folder, framework, Some(entry.clone())));
        }
    }
    if let Some(entry) = django(folder) {
        return Ok(found(folder, Framework::Wsgi, Some(entry)));
    }
    // The entry file may import the framework through a module of its own.
    if let Some(entry) = entries.first()
        && let Some(framework) = framework_of_requirements(folder)
    {
        return Ok(found(folder, framework, Some(entry.clone())));
    }
    if let Some(notebook) = notebook(folder) {
        return Ok(found(folder, Framework::Voila, Some(notebook)));
    }
    if folder.has("index.html") {
        return Ok(found(folder, Framework::Static, Some("index.html".to_owned())));
    }
    Err(nothing(folder, &entries))
}

fn nothing(folder: &Folder<'_>, entries: &[String]) -> NotRecognised {
    let why = match entries {
        [] if folder.names.is_empty() => "the folder holds no files".to_owned(),
        [] => "the folder holds none of app.R, server.R, app.py, main.py, a Shiny document, a notebook or index.html"
            .to_owned(),
        [entry, ..] => format!(
            "{entry} imports no web framework Skep knows, so it would open no port; set `framework` or `command` in skep.toml"
        ),
    };
    NotRecognised(why)
}

/// The entry file of an app whose framework is configured.
fn entry_for(folder: &Folder<'_>, framework: Framework) -> Result<Option<String>, NotRecognised> {
    let missing = |what: &str| {
        NotRecognised(format!("`framework = \"{framework}\"` is set, but the folder holds no {what}"))
    };
    let first = |ends: &[&str]| folder.ending(ends).next().cloned();
    let entry = match framework {
        Framework::Command => None,
        Framework::Static => folder.has("index.html").then(|| "index.html".to_owned()),
        Framework::ShinyR => Some(r_entry(folder).ok_or_else(|| missing("app.R or server.R"))?),
        Framework::RMarkdown => Some(first(&[".Rmd", ".rmd"]).ok_or_else(|| missing(".Rmd file"))?),
        Framework::Quarto => Some(first(&[".qmd"]).ok_or_else(|| missing(".qmd file"))?),
        Framework::Voila => Some(notebook(folder).ok_or_else(|| missing("notebook (.ipynb)"))?),
        Framework::Bokeh | Framework::Panel if python_entries(folder).is_empty() => {
            Some(notebook(folder).ok_or_else(|| missing("app.py, main.py or notebook"))?)
        }
        _ => {
            let entries = python_entries(folder);
            let fits = |e: &&String| python::Source::read(&folder.read(e)).framework() == Some(framework);
            let entry = entries.iter().find(fits).or(entries.first()).cloned().or_else(|| django(folder));
            Some(entry.ok_or_else(|| missing("app.py, main.py or any other Python file"))?)
        }
    };
    Ok(entry)
}

fn r_entry(folder: &Folder<'_>) -> Option<String> {
    let app = ["app.R", "app.r"].into_iter().find(|name| folder.has(name));
    app.or_else(|| ["server.R", "server.r"].into_iter().find(|name| folder.has(name))).map(str::to_owned)
}

/// An R Markdown or Quarto document that runs on a server. `index` comes first.
fn document(folder: &Folder<'_>) -> Option<(Framework, String)> {
    let mut documents: Vec<&String> = folder.ending(&[".Rmd", ".rmd", ".qmd"]).take(20).collect();
    documents.sort_by_key(|name| !name.starts_with("index."));
    documents.into_iter().find_map(|name| {
        let text = folder.read(name);
        let header = header(&text)?;
        let framework = if name.ends_with(".qmd") { Framework::Quarto } else { Framework::RMarkdown };
        runs_on_server(header, framework).then(|| (framework, name.clone()))
    })
}

/// The YAML header of a document, without its fences.
fn header(text: &str) -> Option<&str> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let body =
        text.strip_prefix("---").and_then(|t| t.strip_prefix("\r\n").or_else(|| t.strip_prefix('\n')))?;
    let end = body.find("\n---").or_else(|| body.find("\n..."))?;
    body.get(..end)
}

/// The value of a top-level key of a header, unquoted.
fn header_value<'a>(header: &'a str, key: &str) -> Option<&'a str> {
    header.lines().find_map(|line| {
        let value = line.strip_prefix(key)?.trim_start().strip_prefix(':')?;
        let value = value.split(" #").next().unwrap_or_default();
        Some(value.trim().trim_matches(['"', '\'']))
    })
}

fn runs_on_server(header: &str, framework: Framework) -> bool {
    if header_value(header, "runtime").is_some_and(|v| v.starts_with("shiny")) {
        return true;
    }
    match header_value(header, "server") {
        Some("shiny") => true,
        // `server:` with `type: shiny` below it.
        Some("") => header
            .lines()
            .skip_while(|l| !l.starts_with("server"))
            .skip(1)
            .take_while(|l| l.starts_with(' '))
            .any(|l| framework == Framework::Quarto && header_value(l.trim_start(), "type") == Some("shiny")),
        _ => false,
    }
}

/// Python files to look into, the likeliest first. A lone file of any other name counts too.
fn python_entries(folder: &Folder<'_>) -> Vec<String> {
    let known: Vec<String> =
        PYTHON_ENTRIES.iter().filter(|name| folder.has(name)).map(|name| (*name).to_owned()).collect();
    if !known.is_empty() {
        return known;
    }
    let mut others = folder.ending(&[".py"]).filter(|n| *n != "setup.py" && *n != "manage.py");
    match (others.next(), others.next()) {
        (Some(only), None) => vec![only.clone()],
        _ => Vec::new(),
    }
}

/// The WSGI module of a Django project, found through `manage.py`.
fn django(folder: &Folder<'_>) -> Option<String> {
    if !folder.has("manage.py") {
        return None;
    }
    let text = folder.read("manage.py");
    let after = text.split_once("DJANGO_SETTINGS_MODULE")?.1;
    let settings = after.split(['"', '\'']).find(|part| part.ends_with(".settings"))?;
    let package = settings.strip_suffix(".settings")?.replace('.', "/");
    let entry = format!("{package}/wsgi.py");
    let safe = !entry.split('/').any(|part| part == ".." || part.is_empty());
    (safe && folder.dir.join(&entry).is_file()).then_some(entry)
}

fn framework_of_requirements(folder: &Folder<'_>) -> Option<Framework> {
    ["requirements.txt", "pyproject.toml"]
        .into_iter()
        .filter(|name| folder.has(name))
        .find_map(|name| python::framework_of_requirements(&folder.read(name)))
}

/// The notebook to show: one with a usual name, else the first.
fn notebook(folder: &Folder<'_>) -> Option<String> {
    let usual = ["index.ipynb", "app.ipynb", "main.ipynb", "dashboard.ipynb"];
    let named = usual.into_iter().find(|name| folder.has(name)).map(str::to_owned);
    named.or_else(|| folder.ending(&[".ipynb"]).next().cloned())
}

fn found(folder: &Folder<'_>, framework: Framework, entry: Option<String>) -> Detection {
    let title = entry.as_deref().and_then(|name| title(framework, &folder.read(name)));
    let mut watch: Vec<String> = entry.iter().cloned().collect();
    let always = ["skep.toml", "restart.txt"];
    let also: &[&str] = match framework {
        Framework::ShinyR => &["ui.R", "server.R", "global.R", "app.R", "renv.lock", "DESCRIPTION"],
        Framework::RMarkdown | Framework::Quarto => &["global.R", "_quarto.yml", "renv.lock"],
        Framework::Static => &[],
        _ => &["requirements.txt", "pyproject.toml", ".python-version"],
    };
    for name in also.iter().chain(&always) {
        if !watch.iter().any(|w| w == name) {
            watch.push((*name).to_owned());
        }
    }
    Detection { framework, entry, title, watch }
}

fn title(framework: Framework, text: &str) -> Option<String> {
    let title = match framework {
        Framework::RMarkdown | Framework::Quarto => header_value(header(text)?, "title")?.to_owned(),
        Framework::Static => {
            let lower = text.to_ascii_lowercase();
            let start = lower.find("<title>")? + "<title>".len();
            let end = start + lower.get(start..)?.find("</title>")?;
            text.get(start..end)?.split_whitespace().collect::<Vec<_>>().join(" ")
        }
        _ => return None,
    };
    let good = !title.is_empty() && title.chars().count() <= 120 && !title.chars().any(char::is_control);
    good.then_some(title)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        dir
    }

    fn of(files: &[(&str, &str)]) -> Result<(Framework, Option<String>), String> {
        let dir = folder(files);
        detect(dir.path(), Wanted::default()).map(|d| (d.framework, d.entry)).map_err(|e| e.0)
    }

    fn is(files: &[(&str, &str)], framework: Framework, entry: &str) {
        assert_eq!(of(files), Ok((framework, Some(entry.to_owned()))));
    }

    #[test]
    fn r_apps_and_documents() {
        is(&[("app.R", ""), ("index.html", "")], Framework::ShinyR, "app.R");
        is(&[("server.R", ""), ("ui.R", ""), ("app.py", "import dash")], Framework::ShinyR, "server.R");
        let rmd = "---\ntitle: \"Sales: a look\"\nruntime: shiny\n---\ntext";
        is(&[("doc.Rmd", rmd)], Framework::RMarkdown, "doc.Rmd");
        is(&[("a.Rmd", rmd), ("index.Rmd", rmd)], Framework::RMarkdown, "index.Rmd");
        is(&[("d.qmd", "---\r\nserver: shiny\r\n---\r\n")], Framework::Quarto, "d.qmd");
        is(&[("d.qmd", "---\nformat: html\nserver:\n  type: shiny\n---\n")], Framework::Quarto, "d.qmd");
        assert!(of(&[("d.qmd", "---\nformat: html\n---\n")]).is_err());
        let dir = folder(&[("doc.Rmd", rmd)]);
        assert_eq!(detect(dir.path(), Wanted::default()).unwrap().title.as_deref(), Some("Sales: a look"));
    }

    #[test]
    fn python_apps() {
        is(&[("app.py", "import streamlit as st")], Framework::Streamlit, "app.py");
        is(&[("app.py", "import os"), ("main.py", "from nicegui import ui")], Framework::NiceGui, "main.py");
        is(&[("sales.py", "import panel as pn")], Framework::Panel, "sales.py");
        is(&[("app.py", "from my import app"), ("requirements.txt", "fastapi\n")], Framework::Asgi, "app.py");
        is(
            &[("manage.py", "setdefault('DJANGO_SETTINGS_MODULE', 'site1.settings')"), ("site1/wsgi.py", "")],
            Framework::Wsgi,
            "site1/wsgi.py",
        );
        is(&[("b.ipynb", "{}"), ("a.ipynb", "{}")], Framework::Voila, "a.ipynb");
    }

    #[test]
    fn files_and_nothing() {
        is(&[("index.html", "<title> My\n site</title>")], Framework::Static, "index.html");
        let plain = of(&[("app.py", "print('hello')")]).unwrap_err();
        assert!(plain.contains("app.py imports no web framework"), "{plain}");
        assert!(of(&[]).unwrap_err().contains("no files"));
        assert!(of(&[(".hidden", "")]).unwrap_err().contains("no files"));
        assert!(of(&[("data.csv", "")]).unwrap_err().contains("app.R"));
        let gone = detect(Path::new("/nonexistent"), Wanted::default()).unwrap_err();
        assert!(gone.0.contains("/nonexistent"));
    }

    #[test]
    fn what_is_configured_wins() {
        let dir = folder(&[("app.py", "print(1)"), ("index.html", "")]);
        let command = detect(dir.path(), Wanted { framework: None, command: true }).unwrap();
        assert_eq!((command.framework, command.entry), (Framework::Command, None));
        let wanted = |framework| Wanted { framework: Some(framework), command: false };
        let forced = detect(dir.path(), wanted(Framework::Streamlit)).unwrap();
        assert_eq!(forced.entry.as_deref(), Some("app.py"));
        let wrong = detect(dir.path(), wanted(Framework::ShinyR)).unwrap_err();
        assert!(wrong.0.contains("app.R or server.R"), "{wrong}");
    }

    #[test]
    fn watched_files_include_those_that_do_not_exist_yet() {
        let dir = folder(&[("app.py", "import dash")]);
        let watch = detect(dir.path(), Wanted::default()).unwrap().watch;
        assert_eq!(watch[0], "app.py");
        for name in ["requirements.txt", "skep.toml", "restart.txt"] {
            assert!(watch.iter().any(|w| w == name), "{name}");
        }
    }
}
