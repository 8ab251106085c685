//! Programs run in a container, with a terminal and without.

use std::time::Duration;

use skep_launch::{Backend, BackendError, ExecInput, ExecOutput, Execution, ProgressSink, TerminalSize};

use super::{Harbour, web};
use crate::stage::DEADLINE;

/// Reads a program's output until it holds `text`.
async fn says(running: &mut Execution, text: &str) -> String {
    let mut said = String::new();
    while !said.contains(text) {
        let next = tokio::time::timeout(DEADLINE, running.output.recv()).await;
        match next.unwrap_or_else(|_| panic!("`{text}` in time, not {said:?}")) {
            Some(ExecOutput::Stdout(bytes)) => said.push_str(&String::from_utf8_lossy(&bytes)),
            other => panic!("{other:?} after {said:?}"),
        }
    }
    said
}

#[tokio::test]
async fn a_shell_runs_in_it_with_a_terminal_of_any_size() {
    let harbour = Harbour::new();
    let order = Harbour::order(web());
    let id = order.id.clone();
    harbour.backend.launch(order, ProgressSink::new(|_| {})).await.unwrap();
    let run = |command: &[&str], terminal| skep_launch::ExecOrder {
        command: command.iter().map(|word| (*word).to_owned()).collect(),
        env: vec!["GREETING=hello".to_owned()],
        user: None,
        terminal,
        who: "a test".to_owned(),
    };
    let size = |rows, columns| TerminalSize { rows, columns };
    let mut shell = harbour.backend.exec(&id, run(&["sh"], Some(size(30, 100)))).await.unwrap();
    let keys = |text: &str| ExecInput::Bytes(text.as_bytes().to_vec());
    shell.input.send(keys("stty size; echo $GREETING\n")).await.unwrap();
    assert!(says(&mut shell, "hello\r\n").await.contains("30 100"));
    shell.input.send(ExecInput::Resize(size(11, 222))).await.unwrap();
    shell.input.send(keys("stty size; printf 'a\\001b\\377c\\n'\n")).await.unwrap();
    let said = says(&mut shell, "c\r\n").await;
    assert!(said.contains("11 222") && said.contains("a\u{1}b\u{fffd}c"), "{said:?}");
    shell.input.send(keys("exit 7\n")).await.unwrap();
    loop {
        match shell.output.recv().await {
            Some(ExecOutput::Exit(code)) => break assert_eq!(code, 7),
            Some(ExecOutput::Stdout(_)) => {}
            other => panic!("{other:?}"),
        }
    }
    // Without a terminal, output and errors are apart, and the end of the input is an end.
    let mut cat = harbour.backend.exec(&id, run(&["sh", "-c", "echo wrong >&2; cat"], None)).await.unwrap();
    cat.input.send(keys("through")).await.unwrap();
    cat.input.send(ExecInput::End).await.unwrap();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    loop {
        match cat.output.recv().await {
            Some(ExecOutput::Stdout(bytes)) => out.extend(bytes),
            Some(ExecOutput::Stderr(bytes)) => err.extend(bytes),
            Some(ExecOutput::Exit(code)) => break assert_eq!(code, 0),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((out.as_slice(), err.as_slice()), (&b"through"[..], &b"wrong\n"[..]));
    harbour.backend.stop(&id, Duration::ZERO).await.unwrap();
    let late = harbour.backend.exec(&id, run(&["sh"], None)).await;
    assert!(matches!(late, Err(BackendError::Unknown)), "{late:?}");
}
