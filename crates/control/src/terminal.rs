//! What goes over the connection of a program that is run in an instance: `kind u8, length u32 big-endian, payload`, both ways.
//!
//! The order comes first. Every byte value passes; lengths are bounded.

use std::io;

use skep_launch::{ExecInput, ExecOrder, ExecOutput, TerminalSize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// What `Upgrade` says.
pub const PROTOCOL: &str = "skep-exec";
/// Bytes of one payload.
const MOST: usize = 256 * 1024;

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    Order(ExecOrder),
    Input(ExecInput),
    Output(ExecOutput),
}

impl Message {
    fn parts(&self) -> (u8, Vec<u8>) {
        match self {
            Self::Order(order) => (b'o', serde_json::to_vec(order).unwrap_or_default()),
            Self::Input(ExecInput::Bytes(bytes)) => (b'i', bytes.clone()),
            Self::Input(ExecInput::Resize(size)) => {
                (b'r', [size.rows.to_be_bytes(), size.columns.to_be_bytes()].concat())
            }
            Self::Input(ExecInput::End) => (b'e', Vec::new()),
            Self::Output(ExecOutput::Stdout(bytes)) => (b'1', bytes.clone()),
            Self::Output(ExecOutput::Stderr(bytes)) => (b'2', bytes.clone()),
            Self::Output(ExecOutput::Exit(code)) => (b'x', code.to_be_bytes().to_vec()),
            Self::Output(ExecOutput::Broken(why)) => (b'!', why.clone().into_bytes()),
        }
    }

    fn of(kind: u8, payload: Vec<u8>) -> Option<Self> {
        Some(match kind {
            b'o' => Self::Order(serde_json::from_slice(&payload).ok()?),
            b'i' => Self::Input(ExecInput::Bytes(payload)),
            b'r' => {
                let [a, b, c, d] = payload.try_into().ok()?;
                let (rows, columns) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
                Self::Input(ExecInput::Resize(TerminalSize { rows, columns }))
            }
            b'e' => Self::Input(ExecInput::End),
            b'1' => Self::Output(ExecOutput::Stdout(payload)),
            b'2' => Self::Output(ExecOutput::Stderr(payload)),
            b'x' => Self::Output(ExecOutput::Exit(i64::from_be_bytes(payload.try_into().ok()?))),
            b'!' => Self::Output(ExecOutput::Broken(String::from_utf8_lossy(&payload).into_owned())),
            _ => return None,
        })
    }
}

/// # Errors
/// When the connection is gone, or the message too long.
pub async fn write(to: &mut (impl AsyncWrite + Unpin), message: &Message) -> io::Result<()> {
    let (kind, payload) = message.parts();
    let length = u32::try_from(payload.len()).ok().filter(|_| payload.len() <= MOST);
    let length = length.ok_or(io::ErrorKind::InvalidInput)?;
    let mut frame = Vec::with_capacity(payload.len() + 5);
    frame.push(kind);
    frame.extend(length.to_be_bytes());
    frame.extend(payload);
    to.write_all(&frame).await?;
    to.flush().await
}

/// The next message; `None` at the end.
///
/// # Errors
/// When the connection broke, or what came is no message.
pub async fn read(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Message>> {
    let mut head = [0; 5];
    match from.read_exact(&mut head).await {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    };
    let [kind, a, b, c, d] = head;
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    if length > MOST {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut payload = vec![0; length];
    from.read_exact(&mut payload).await?;
    Message::of(kind, payload).map(Some).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_message_arrives_as_it_was_sent() {
        let order = ExecOrder {
            command: vec!["sh".to_owned(), "-c".to_owned(), "é \u{1}".to_owned()],
            env: vec!["TERM=xterm".to_owned()],
            user: None,
            terminal: Some(TerminalSize { rows: 24, columns: 80 }),
            who: "ada".to_owned(),
        };
        let messages = [
            Message::Order(order),
            Message::Input(ExecInput::Bytes((0..=255).collect())),
            Message::Input(ExecInput::Resize(TerminalSize { rows: 1, columns: 65_535 })),
            Message::Input(ExecInput::End),
            Message::Output(ExecOutput::Stdout(Vec::new())),
            Message::Output(ExecOutput::Stderr(b"x".to_vec())),
            Message::Output(ExecOutput::Exit(-1)),
            Message::Output(ExecOutput::Broken("gone".to_owned())),
        ];
        let mut wire = Vec::new();
        for message in &messages {
            write(&mut wire, message).await.unwrap();
        }
        let mut from = wire.as_slice();
        for message in messages {
            assert_eq!(read(&mut from).await.unwrap(), Some(message));
        }
        assert_eq!(read(&mut from).await.unwrap(), None);
    }

    #[tokio::test]
    async fn nonsense_is_refused_and_takes_no_memory() {
        for bad in
            [&b"o\xff\xff\xff\xff"[..], b"?\0\0\0\0", b"r\0\0\0\x01x", b"o\0\0\0\x02{}", b"i\0\0\0\x05abc"]
        {
            assert!(read(&mut &bad[..]).await.is_err(), "{bad:?}");
        }
        let long = Message::Input(ExecInput::Bytes(vec![0; MOST + 1]));
        assert!(write(&mut Vec::new(), &long).await.is_err());
    }
}
