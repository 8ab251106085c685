//! Further programs in a container of another node, through its agent.

use skep_agent::{Desk, ExecChunk, ExecInput as Input};
use skep_launch::{BackendError, ExecInput, ExecOrder, ExecOutput, Execution};
use tokio::sync::mpsc;

use super::agent;
use super::place::Place;

/// Pieces under way in each direction.
const QUEUE: usize = 32;

/// Starts the program and keeps two tasks at it, which end with it or with whoever asked.
pub(super) async fn start(desk: &Desk, place: &Place, order: ExecOrder) -> Result<Execution, BackendError> {
    let order = skep_agent::ExecOrder {
        cmd: order.command,
        env: order.env,
        tty: order.terminal.map(|size| (size.rows, size.columns)),
        user: order.user,
        who: order.who,
    };
    let session = desk.exec(&place.node, &place.container, order).await.map_err(|error| agent(&error))?;
    let (to, mut from) = session.split();
    let (input, inputs) = mpsc::channel(QUEUE);
    let (outputs, output) = mpsc::channel(QUEUE);
    tokio::spawn(feed(to, inputs));
    tokio::spawn(async move {
        loop {
            let output = match from.next().await {
                Ok(Some(ExecChunk::Stdout(bytes))) => ExecOutput::Stdout(bytes.to_vec()),
                Ok(Some(ExecChunk::Stderr(bytes))) => ExecOutput::Stderr(bytes.to_vec()),
                Ok(Some(ExecChunk::Exit(code))) => ExecOutput::Exit(code),
                Ok(None) => return,
                Err(error) => ExecOutput::Broken(error.to_string()),
            };
            let over = matches!(output, ExecOutput::Exit(_) | ExecOutput::Broken(_));
            if outputs.send(output).await.is_err() || over {
                return;
            }
        }
    });
    Ok(Execution { input, output })
}

async fn feed(mut to: Input, mut inputs: mpsc::Receiver<ExecInput>) {
    while let Some(input) = inputs.recv().await {
        let done = match input {
            ExecInput::Bytes(bytes) => to.write(&bytes).await,
            ExecInput::Resize(size) => to.resize(size.rows, size.columns).await,
            ExecInput::End => break,
        };
        if done.is_err() {
            return;
        }
    }
    let _ = to.finish().await;
    // What is dropped now closes the program's connection; its output is read until whoever asked is gone.
    while inputs.recv().await.is_some() {}
}
