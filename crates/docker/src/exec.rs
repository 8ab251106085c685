//! Running a further program in a container, with or without a terminal.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::task::AbortOnDropHandle;

use crate::call::{Call, encode};
use crate::{Document, Engine, Error};

/// What to run.
#[derive(Debug, Clone, Default)]
pub struct ExecOrder {
    pub command: Vec<String>,
    /// `NAME=value`
    pub env: Vec<String>,
    pub user: Option<String>,
    /// With a terminal the bytes are raw; without one the output comes in frames ([`crate::Demux`]).
    pub terminal: bool,
    /// Columns and rows of the terminal.
    pub size: Option<(u16, u16)>,
}

/// A running program: what is written goes to its input, what is read is its output, untouched. Dropping it closes the
/// connection; the program may go on.
pub struct Exec {
    control: ExecControl,
    io: TokioIo<Upgraded>,
    _driver: AbortOnDropHandle<()>,
}

/// What is asked and told about a running program beside its input and output.
#[derive(Clone)]
pub struct ExecControl {
    id: String,
    engine: Engine,
}

impl Engine {
    /// Starts a program in a running container.
    pub async fn exec(&self, container: &str, order: &ExecOrder) -> Result<Exec, Error> {
        let spec = json!({
            "Cmd": order.command, "Env": order.env, "User": order.user.as_deref().unwrap_or_default(),
            "Tty": order.terminal, "AttachStdin": true, "AttachStdout": true, "AttachStderr": true,
        });
        let call = Call::post(format!("/containers/{}/exec", encode(container))).json(&spec);
        let id = Document(self.send(call).await?.json().await?).id().to_owned();
        let call = Call::post(format!("/exec/{}/start", encode(&id)))
            .header("connection", "Upgrade".to_owned())
            .header("upgrade", "tcp".to_owned())
            .json(&json!({ "Detach": false, "Tty": order.terminal }));
        let (upgraded, driver) = self.send(call).await?.upgraded().await?;
        let control = ExecControl { id, engine: self.clone() };
        if let Some((columns, rows)) = order.size {
            control.resize(columns, rows).await?;
        }
        Ok(Exec { control, io: TokioIo::new(upgraded), _driver: driver })
    }
}

impl Exec {
    /// Tells the program the size of its terminal.
    pub async fn resize(&self, columns: u16, rows: u16) -> Result<(), Error> {
        self.control.resize(columns, rows).await
    }

    /// Its exit status; `None` while it runs.
    pub async fn exit_code(&self) -> Result<Option<i64>, Error> {
        self.control.exit_code().await
    }

    /// For whoever splits the program's input from its output.
    pub fn control(&self) -> ExecControl {
        self.control.clone()
    }
}

impl ExecControl {
    /// Tells the program the size of its terminal.
    pub async fn resize(&self, columns: u16, rows: u16) -> Result<(), Error> {
        let call = Call::post(format!("/exec/{}/resize", encode(&self.id)))
            .query("w", &columns.to_string())
            .query("h", &rows.to_string());
        self.engine.send(call).await.map(drop)
    }

    /// Its exit status; `None` while it runs.
    pub async fn exit_code(&self) -> Result<Option<i64>, Error> {
        let call = Call::get(format!("/exec/{}/json", encode(&self.id)));
        let exec = Document(self.engine.send(call).await?.json().await?);
        Ok(exec.number("/ExitCode").filter(|_| exec.flag("/Running") == Some(false)))
    }
}

impl AsyncRead for Exec {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Exec {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
