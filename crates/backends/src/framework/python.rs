//! Reads Python source just far enough to know what it imports.
//!
//! No parser: strings and comments are blanked, then import statements are read line by line. Good enough to tell one
//! framework from another, and never confused by a docstring that mentions one.

use skep_model::Framework;

/// What a source file imports and says, with strings and comments taken out.
#[derive(Debug, Default)]
pub(super) struct Source {
    /// Dotted names imported at the top level (`bokeh.io`, `dash`), and what `from … import` took (`bokeh.io.curdoc`).
    top: Vec<String>,
    /// The same from indented lines.
    inner: Vec<String>,
    code: String,
}

impl Source {
    pub(super) fn read(text: &str) -> Self {
        let code = blank_strings_and_comments(text);
        let mut source = Self::default();
        // A parenthesised import list goes on over several lines.
        let joined = join_parentheses(&code);
        for line in joined.lines() {
            let statement = line.trim_start();
            let into = if statement.len() == line.len() { &mut source.top } else { &mut source.inner };
            for part in statement.split(';') {
                read_import(part.trim(), into);
            }
        }
        source.code = code;
        source
    }

    /// The framework this file is an app of. Imports at the top level decide; indented ones only when those say nothing.
    pub(super) fn framework(&self) -> Option<Framework> {
        self.decide(&self.top).or_else(|| self.decide(&self.inner))
    }

    fn decide(&self, imports: &[String]) -> Option<Framework> {
        let has = |name: &str| imports.iter().any(|i| is_or_under(i, name));
        let says = |text: &str| self.code.contains(text);
        let asgi = has("fastapi") || has("starlette");
        if has("marimo") && says("marimo.App") {
            return Some(Framework::Marimo);
        }
        // A page of the one framework mounted into an app of the other: the outer one is served.
        if asgi && (says("mount_gradio_app") || says("run_with") || has("panel.io.fastapi")) {
            return Some(Framework::Asgi);
        }
        RANKED.iter().find(|(name, _)| has(name)).map(|&(_, framework)| framework)
    }
}

/// Names of packages and the framework each means, the more telling first: an app that imports both Dash and Flask is a
/// Dash app; one that imports Flask and Bokeh embeds plots in a Flask app.
const RANKED: [(&str, Framework); 26] = [
    ("streamlit", Framework::Streamlit),
    ("shiny", Framework::ShinyPython),
    ("gradio", Framework::Gradio),
    ("nicegui", Framework::NiceGui),
    ("solara", Framework::Solara),
    ("dash", Framework::Dash),
    ("panel", Framework::Panel),
    ("fastapi", Framework::Asgi),
    ("starlette", Framework::Asgi),
    ("litestar", Framework::Asgi),
    ("quart", Framework::Asgi),
    ("sanic", Framework::Asgi),
    ("blacksheep", Framework::Asgi),
    ("falcon.asgi", Framework::Asgi),
    ("django.core.asgi", Framework::Asgi),
    ("flask", Framework::Wsgi),
    ("django.core.wsgi", Framework::Wsgi),
    ("bottle", Framework::Wsgi),
    ("falcon", Framework::Wsgi),
    ("pyramid", Framework::Wsgi),
    ("werkzeug", Framework::Wsgi),
    ("webpy", Framework::Wsgi),
    ("wsgiref", Framework::Wsgi),
    ("bokeh", Framework::Bokeh),
    ("vizro", Framework::Dash),
    ("taipy", Framework::Wsgi),
];

/// The framework a list of requirements speaks of, when the entry file itself does not say.
pub(super) fn framework_of_requirements(text: &str) -> Option<Framework> {
    let names: Vec<String> = text.lines().filter_map(requirement_name).collect();
    let listed = |name: &str| names.iter().any(|n| n == name);
    if listed("marimo") && !RANKED.iter().any(|(name, _)| listed(name)) {
        return Some(Framework::Marimo);
    }
    RANKED.iter().find(|(name, _)| listed(name)).map(|&(_, framework)| framework)
}

/// `Streamlit[extra] >= 1.2  # why` → `streamlit`
fn requirement_name(line: &str) -> Option<String> {
    let line = line.trim().trim_matches(['"', '\'', ',']);
    let end = line.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')));
    let name = &line[..end.unwrap_or(line.len())];
    let starts_well = name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    starts_well.then(|| name.to_ascii_lowercase().replace('_', "-"))
}

fn is_or_under(import: &str, name: &str) -> bool {
    import.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

fn read_import(statement: &str, into: &mut Vec<String>) {
    let mut words = statement.split_whitespace();
    match words.next() {
        Some("import") => {
            let names = statement.trim_start_matches("import").split(',');
            into.extend(names.filter_map(|n| n.split_whitespace().next()).map(str::to_owned));
        }
        Some("from") => {
            let Some(module) = words.next().filter(|m| !m.starts_with('.')) else { return };
            into.push(module.to_owned());
            let Some((_, taken)) = statement.split_once(" import ") else { return };
            let taken = taken.trim_matches(['(', ')', ' ']).split(',');
            into.extend(
                taken.filter_map(|n| n.split_whitespace().next()).map(|name| format!("{module}.{name}")),
            );
        }
        _ => {}
    }
}

/// Puts what stands between parentheses on one line.
fn join_parentheses(code: &str) -> String {
    let mut depth = 0_usize;
    code.chars()
        .map(|c| {
            match c {
                '(' => depth += 1,
                ')' => depth = depth.saturating_sub(1),
                '\n' if depth > 0 => return ' ',
                _ => {}
            }
            c
        })
        .collect()
}

/// Replaces the inside of strings and comments by nothing, keeping line breaks.
fn blank_strings_and_comments(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let quote = ["\"\"\"", "'''", "\"", "'"].into_iter().find(|q| rest.starts_with(q));
        if let Some(quote) = quote {
            out.push_str(quote);
            let (inside, after) = split_string(&rest[quote.len()..], quote);
            out.extend(inside.chars().filter(|&c| c == '\n'));
            out.push_str(quote);
            rest = after;
        } else if c == '#' {
            rest = &rest[rest.find('\n').unwrap_or(rest.len())..];
        } else if let Some(after) = rest.strip_prefix("\\\n") {
            // A continued line.
            out.push(' ');
            rest = after;
        } else {
            out.push(c);
            rest = &rest[c.len_utf8()..];
        }
    }
    out
}

/// Splits what follows an opening quote into the string and what comes after the closing quote. A string in single
/// quotes ends with its line at the latest.
fn split_string<'a>(text: &'a str, quote: &str) -> (&'a str, &'a str) {
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        if escaped {
            escaped = false;
        } else if c == '\\' {
            escaped = true;
        } else if text[at..].starts_with(quote) {
            return (&text[..at], &text[at + quote.len()..]);
        } else if c == '\n' && quote.len() == 1 {
            return (&text[..at], &text[at..]);
        }
    }
    (text, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Option<Framework> {
        Source::read(text).framework()
    }

    #[test]
    fn imports_decide() {
        assert_eq!(of("import streamlit as st\n"), Some(Framework::Streamlit));
        assert_eq!(of("import os, gradio as gr"), Some(Framework::Gradio));
        assert_eq!(of("from dash import (\n  Dash,\n  html,\n)\n"), Some(Framework::Dash));
        assert_eq!(of("from shiny.express import ui"), Some(Framework::ShinyPython));
        assert_eq!(of("from flask import Flask\nfrom bokeh.embed import components"), Some(Framework::Wsgi));
        assert_eq!(of("from bokeh.io import curdoc"), Some(Framework::Bokeh));
        assert_eq!(of("import marimo\napp = marimo.App()"), Some(Framework::Marimo));
        assert_eq!(of("from falcon import asgi\napp = asgi.App()"), Some(Framework::Asgi));
        assert_eq!(of("import falcon\n"), Some(Framework::Wsgi));
        assert_eq!(of("try:\n    import panel\nexcept ImportError:\n    raise"), Some(Framework::Panel));
        assert_eq!(of("import pandas; import solara"), Some(Framework::Solara));
        assert_eq!(
            of(
                "import gradio as gr\nfrom fastapi import FastAPI\napp = gr.mount_gradio_app(FastAPI(), d, path='/')"
            ),
            Some(Framework::Asgi)
        );
        assert_eq!(of("import dashboard\nfrom . import streamlit\n"), None);
    }

    #[test]
    fn text_in_strings_and_comments_says_nothing() {
        assert_eq!(of("\"\"\"\nimport streamlit\n\"\"\"\nimport flask\n"), Some(Framework::Wsgi));
        assert_eq!(of("# import streamlit\nx = 'a\\'b'\nimport dash"), Some(Framework::Dash));
        assert_eq!(of("x = '''never closed\nimport dash"), None);
        assert_eq!(of("s = 'unclosed\nimport dash"), Some(Framework::Dash));
    }

    #[test]
    fn requirements_name_the_framework() {
        assert_eq!(
            framework_of_requirements("pandas\nStreamlit[snowflake]>=1.2 # ui\n"),
            Some(Framework::Streamlit)
        );
        assert_eq!(framework_of_requirements("-r base.txt\n--hash=1\npandas"), None);
        assert_eq!(framework_of_requirements("marimo"), Some(Framework::Marimo));
        assert_eq!(framework_of_requirements("  \"dash>=2\",\n"), Some(Framework::Dash));
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read(text in "(?s).{0,300}") {
            let _ = Source::read(&text).framework();
            let _ = framework_of_requirements(&text);
        }
    }
}
