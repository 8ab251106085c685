//! `skep exec`: a program in an instance, on whichever node that is, with this terminal.

use std::io::{self, IsTerminal, Read, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;
use http::Method;
use http_body_util::Empty;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use rustix::termios::{self, OptionalActions, Termios};
use serde_json::Value;
use skep_control::terminal::{self, Message, PROTOCOL};
use skep_launch::{ExecInput, ExecOrder, ExecOutput, TerminalSize};
use tokio::io::AsyncWrite;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::{Everywhere, client};
use crate::data_dir::DataDir;

#[derive(Debug, Args)]
pub(crate) struct ExecArgs {
    /// As this user of the container
    #[arg(short, long, value_name = "USER")]
    user: Option<String>,
    /// Without a terminal, also when this is one: output and errors stay apart
    #[arg(short = 'T', long)]
    no_terminal: bool,
    /// An app (its newest instance) or an instance
    #[arg(value_name = "APP|INSTANCE")]
    target: String,
    /// The program and its arguments [default: sh]
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// The exit status is the program's.
pub(crate) fn exec(everywhere: &Everywhere, args: ExecArgs) -> anyhow::Result<ExitCode> {
    let data = everywhere.data_dir()?;
    let instance = instance_of(&data, &args.target)?;
    let interactive = !args.no_terminal && io::stdin().is_terminal() && io::stdout().is_terminal();
    let order = ExecOrder {
        command: if args.command.is_empty() { vec!["sh".to_owned()] } else { args.command },
        env: std::env::var("TERM")
            .ok()
            .filter(|_| interactive)
            .map(|term| format!("TERM={term}"))
            .into_iter()
            .collect(),
        user: args.user,
        terminal: interactive.then(size),
        who: std::env::var("SUDO_USER")
            .or_else(|_| std::env::var("USER"))
            .unwrap_or_else(|_| "operator".to_owned()),
    };
    let code = client::on_runtime(async {
        let stream = connect(&data, &instance).await?;
        let _raw = if interactive { Some(Raw::enter()?) } else { None };
        attend(stream, order, interactive).await
    })?;
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}

/// The instance meant: itself, or the newest of an app.
fn instance_of(data: &Path, target: &str) -> anyhow::Result<String> {
    let target = client::in_path(target)?;
    let rows: Vec<Value> = client::json(data, Method::GET, "/_skep/api/v1/instances")?;
    let named = |key: &str, row: &&Value| row[key].as_str() == Some(target);
    let found = rows.iter().find(|row| named("id", row)).or_else(|| {
        let own = rows.iter().filter(|row| named("app", row));
        own.max_by_key(|row| row["started_at"].as_str().unwrap_or_default().to_owned())
    });
    match found.and_then(|row| row["id"].as_str()) {
        Some(id) => Ok(id.to_owned()),
        None => bail!("nothing called `{target}` runs; `skep ps` lists what does"),
    }
}

async fn connect(data: &Path, instance: &str) -> anyhow::Result<TokioIo<hyper::upgrade::Upgraded>> {
    let socket = DataDir::connect(data)?;
    socket.set_nonblocking(true)?;
    let socket = tokio::net::UnixStream::from_std(socket)?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket)).await?;
    tokio::spawn(connection.with_upgrades());
    let request = http::Request::post(format!("/_skep/api/v1/instances/{instance}/exec"))
        .header(http::header::HOST, "localhost")
        .header(http::header::CONNECTION, "upgrade")
        .header(http::header::UPGRADE, PROTOCOL)
        .body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await.context("the server did not answer")?;
    if response.status() != http::StatusCode::SWITCHING_PROTOCOLS {
        return Err(client::refused(response).await);
    }
    Ok(TokioIo::new(hyper::upgrade::on(response).await.context("the server broke off")?))
}

async fn attend(
    stream: TokioIo<hyper::upgrade::Upgraded>,
    order: ExecOrder,
    interactive: bool,
) -> anyhow::Result<i64> {
    let (mut read, mut write) = tokio::io::split(stream);
    terminal::write(&mut write, &Message::Order(order)).await?;
    let input = tokio::spawn(async move { feed(&mut write, interactive).await });
    let end = loop {
        match terminal::read(&mut read).await.context("the connection broke")? {
            Some(Message::Output(ExecOutput::Stdout(bytes))) => put(&mut io::stdout().lock(), &bytes)?,
            Some(Message::Output(ExecOutput::Stderr(bytes))) => put(&mut io::stderr().lock(), &bytes)?,
            Some(Message::Output(ExecOutput::Exit(code))) => break Ok(code),
            Some(Message::Output(ExecOutput::Broken(why))) => break Err(anyhow::anyhow!(why)),
            Some(_) | None => bail!("the server broke off"),
        }
    };
    input.abort();
    end
}

fn put(to: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    to.write_all(bytes)?;
    to.flush()
}

/// Keys and changes of the terminal's size, until there are no more.
async fn feed(write: &mut (impl AsyncWrite + Unpin), interactive: bool) -> io::Result<()> {
    let mut resized = signal(SignalKind::window_change())?;
    let mut keys = keys();
    loop {
        let input = tokio::select! {
            bytes = keys.recv() => bytes.map_or(ExecInput::End, ExecInput::Bytes),
            Some(()) = resized.recv(), if interactive => ExecInput::Resize(size()),
        };
        let over = input == ExecInput::End;
        terminal::write(write, &Message::Input(input)).await?;
        if over {
            // Open until the program ends: closing it would end the program's output, too.
            std::future::pending::<()>().await;
        }
    }
}

/// What is typed. Read on a thread that nobody waits for: it may be waiting for a key when the program has ended.
fn keys() -> mpsc::Receiver<Vec<u8>> {
    let (sender, keys) = mpsc::channel(8);
    std::thread::spawn(move || {
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(n @ 1..) = io::stdin().lock().read(&mut buffer) {
            if sender.blocking_send(buffer[..n].to_vec()).is_err() {
                break;
            }
        }
    });
    keys
}

fn size() -> TerminalSize {
    match termios::tcgetwinsize(io::stdout()) {
        Ok(size) if size.ws_row > 0 => TerminalSize { rows: size.ws_row, columns: size.ws_col },
        _ => TerminalSize { rows: 24, columns: 80 },
    }
}

/// The terminal passes on every key as it is; as it was, once dropped.
struct Raw(Termios);

impl Raw {
    fn enter() -> anyhow::Result<Self> {
        let before = termios::tcgetattr(io::stdin()).context("the terminal's mode cannot be read")?;
        let mut raw = before.clone();
        raw.make_raw();
        termios::tcsetattr(io::stdin(), OptionalActions::Now, &raw)?;
        Ok(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = termios::tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
    }
}
