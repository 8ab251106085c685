//! The app frameworks Skep knows how to launch, and what differs between them as seen from outside.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// How an app is launched. `Command` is anything that listens where it is told to; `Static` is a folder of files and has
/// no process at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Framework {
    ShinyR,
    RMarkdown,
    Quarto,
    ShinyPython,
    Streamlit,
    Dash,
    Gradio,
    Panel,
    Bokeh,
    Voila,
    Marimo,
    NiceGui,
    Solara,
    /// Flask, Django or any other WSGI callable, under gunicorn.
    Wsgi,
    /// FastAPI, Starlette or any other ASGI callable, under uvicorn.
    Asgi,
    Static,
    Command,
}

/// What becomes of the app's mount path when a request is forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Prefix {
    /// The app is told its base path and receives the full path.
    Keep,
    /// The mount path is removed; the app learns it from `X-Forwarded-Prefix` (and, where it can, from its launch flags).
    Strip,
}

impl Framework {
    pub const ALL: [Self; 17] = [
        Self::ShinyR,
        Self::RMarkdown,
        Self::Quarto,
        Self::ShinyPython,
        Self::Streamlit,
        Self::Dash,
        Self::Gradio,
        Self::Panel,
        Self::Bokeh,
        Self::Voila,
        Self::Marimo,
        Self::NiceGui,
        Self::Solara,
        Self::Wsgi,
        Self::Asgi,
        Self::Static,
        Self::Command,
    ];

    /// The name used in `framework = "…"` and shown in lists.
    pub fn name(self) -> &'static str {
        match self {
            Self::ShinyR => "shiny-r",
            Self::RMarkdown => "rmarkdown",
            Self::Quarto => "quarto",
            Self::ShinyPython => "shiny-python",
            Self::Streamlit => "streamlit",
            Self::Dash => "dash",
            Self::Gradio => "gradio",
            Self::Panel => "panel",
            Self::Bokeh => "bokeh",
            Self::Voila => "voila",
            Self::Marimo => "marimo",
            Self::NiceGui => "nicegui",
            Self::Solara => "solara",
            Self::Wsgi => "wsgi",
            Self::Asgi => "asgi",
            Self::Static => "static",
            Self::Command => "command",
        }
    }

    /// The name a visitor recognises.
    pub fn title(self) -> &'static str {
        match self {
            Self::ShinyR => "Shiny for R",
            Self::RMarkdown => "R Markdown",
            Self::Quarto => "Quarto",
            Self::ShinyPython => "Shiny for Python",
            Self::Streamlit => "Streamlit",
            Self::Dash => "Dash",
            Self::Gradio => "Gradio",
            Self::Panel => "Panel",
            Self::Bokeh => "Bokeh",
            Self::Voila => "Voila",
            Self::Marimo => "marimo",
            Self::NiceGui => "NiceGUI",
            Self::Solara => "Solara",
            Self::Wsgi => "Python (WSGI)",
            Self::Asgi => "Python (ASGI)",
            Self::Static => "Static site",
            Self::Command => "Command",
        }
    }

    /// Seats per instance when nothing is configured. Frameworks that keep a session per visitor get few, because one
    /// busy session slows its neighbours; plain request/response servers get many.
    pub fn default_seats(self) -> u32 {
        match self {
            Self::Voila => 10,
            Self::Wsgi | Self::Asgi | Self::Dash | Self::Command => 200,
            _ => 20,
        }
    }
}

impl fmt::Display for Framework {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Framework {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let alias = match text {
            "shiny" | "r-shiny" => Some(Self::ShinyR),
            "flask" | "django" => Some(Self::Wsgi),
            "fastapi" | "starlette" => Some(Self::Asgi),
            _ => None,
        };
        alias.or_else(|| Self::ALL.into_iter().find(|f| f.name() == text)).ok_or_else(|| {
            let names: Vec<_> = Self::ALL.into_iter().map(Self::name).collect();
            format!("`{text}` is not a framework Skep knows; it is one of {}", names.join(", "))
        })
    }
}

impl TryFrom<String> for Framework {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Framework> for String {
    fn from(framework: Framework) -> Self {
        framework.name().to_owned()
    }
}
