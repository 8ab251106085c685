//! Further programs in a container: a shell for whoever looks after the app.

use std::time::Duration;

use skep_docker::{Demux, Engine, Error, Exec, ExecControl, Source};
use skep_launch::{BackendError, ExecInput, ExecOrder, ExecOutput, Execution};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

/// Pieces under way in each direction.
const QUEUE: usize = 32;
const PIECE: usize = 16 * 1024;
/// The engine learns of a program's end a little after its output has ended.
const STATUS_WITHIN: Duration = Duration::from_secs(10);
const STATUS_EVERY: Duration = Duration::from_millis(20);

/// Starts the program and keeps two tasks at it, which end with it or with whoever asked.
pub(super) async fn start(
    engine: &Engine,
    container: &str,
    order: ExecOrder,
) -> Result<Execution, BackendError> {
    let terminal = order.terminal.is_some();
    let order = skep_docker::ExecOrder {
        command: order.command,
        env: order.env,
        user: order.user,
        terminal,
        size: order.terminal.map(|size| (size.columns, size.rows)),
    };
    let exec = engine.exec(container, &order).await.map_err(|error| match error.is_not_found() {
        true => BackendError::Unknown,
        false => BackendError::Platform(error.to_string()),
    })?;
    let control = exec.control();
    let (read, write) = tokio::io::split(exec);
    let (input, inputs) = mpsc::channel(QUEUE);
    let (outputs, output) = mpsc::channel(QUEUE);
    tokio::spawn(feed(write, control.clone(), inputs));
    tokio::spawn(async move {
        let end = match drain(read, terminal, &outputs).await {
            Ok(true) => match status(&control).await {
                Ok(Some(code)) => ExecOutput::Exit(code),
                Ok(None) => ExecOutput::Broken("its connection ended before it did".to_owned()),
                Err(error) => ExecOutput::Broken(error.to_string()),
            },
            // Nobody listens any more.
            Ok(false) => return,
            Err(error) => ExecOutput::Broken(error),
        };
        let _ = outputs.send(end).await;
    });
    Ok(Execution { input, output })
}

async fn feed(mut write: WriteHalf<Exec>, control: ExecControl, mut inputs: mpsc::Receiver<ExecInput>) {
    while let Some(input) = inputs.recv().await {
        let written = match input {
            ExecInput::Bytes(bytes) => write.write_all(&bytes).await.is_ok() && write.flush().await.is_ok(),
            ExecInput::Resize(size) => {
                // A program that has just ended has no terminal any more.
                let _ = control.resize(size.columns, size.rows).await;
                true
            }
            ExecInput::End => false,
        };
        if !written {
            break;
        }
    }
    let _ = write.shutdown().await;
}

/// The status of a program whose output has ended; none when it runs on.
async fn status(control: &ExecControl) -> Result<Option<i64>, Error> {
    let until = Instant::now() + STATUS_WITHIN;
    loop {
        match control.exit_code().await {
            Ok(None) if Instant::now() < until => sleep(STATUS_EVERY).await,
            answer => return answer,
        }
    }
}

/// Passes on what it writes. Answers whether somebody listened to the end.
async fn drain(
    mut read: ReadHalf<Exec>,
    terminal: bool,
    outputs: &mpsc::Sender<ExecOutput>,
) -> Result<bool, String> {
    let (mut demux, mut buffer) = (Demux::default(), vec![0; PIECE]);
    loop {
        let n = read.read(&mut buffer).await.map_err(|error| error.to_string())?;
        if n == 0 {
            return Ok(true);
        }
        let piece = &buffer[..n];
        if terminal {
            if outputs.send(ExecOutput::Stdout(piece.to_vec())).await.is_err() {
                return Ok(false);
            }
            continue;
        }
        for frame in demux.push(piece.to_vec().into()).map_err(|error| error.to_string())? {
            let bytes = frame.bytes.to_vec();
            let output = match frame.source {
                Source::Stderr | Source::Engine => ExecOutput::Stderr(bytes),
                Source::Stdout | Source::Stdin => ExecOutput::Stdout(bytes),
            };
            if outputs.send(output).await.is_err() {
                return Ok(false);
            }
        }
    }
}
