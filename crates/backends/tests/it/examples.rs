//! The shipped examples are recognised for what they are, without a word of configuration about it.

use std::path::Path;

use skep_backends::framework::{Wanted, detect};
use skep_model::Framework;

#[test]
fn every_example_is_recognised() {
    let expected = [
        ("bokeh", Framework::Bokeh, "app.py"),
        ("dash", Framework::Dash, "app.py"),
        ("fastapi", Framework::Asgi, "app.py"),
        ("flask", Framework::Wsgi, "app.py"),
        ("gradio", Framework::Gradio, "app.py"),
        ("marimo", Framework::Marimo, "app.py"),
        ("nicegui", Framework::NiceGui, "app.py"),
        ("panel", Framework::Panel, "app.py"),
        ("quarto", Framework::Quarto, "index.qmd"),
        ("rmarkdown", Framework::RMarkdown, "index.Rmd"),
        ("shiny-python", Framework::ShinyPython, "app.py"),
        ("shiny-r", Framework::ShinyR, "app.R"),
        ("solara", Framework::Solara, "app.py"),
        ("static", Framework::Static, "index.html"),
        ("streamlit", Framework::Streamlit, "app.py"),
        ("voila", Framework::Voila, "app.ipynb"),
    ];
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/apps");
    for (folder, framework, entry) in expected {
        let found = detect(&examples.join(folder), Wanted::default());
        let found = found.map(|found| (found.framework, found.entry));
        assert_eq!(found, Ok((framework, Some(entry.to_owned()))), "{folder}");
    }
}
