//! Calls on a node's containers.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use serde_json::json;
use skep_agent::{AgentError, ExecChunk, ExecOrder, ExecSession, RefusalCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::daemon::until;
use crate::stage::{Stage, container, task_of};

const ECHO: &str = "nc -ll -p 9000 -e cat";

fn code(error: &AgentError) -> RefusalCode {
    error.refusal().unwrap_or_else(|| panic!("{error}")).code
}

async fn dialled(stage: &Stage, id: &str, port: u16) -> skep_agent::LineStream {
    until("the port is open", async || stage.desk().dial(stage.node, id, port).await.ok()).await
}

/// Why it cannot be dialled. An engine that is busy may be too late with what it is asked for that.
async fn not_dialled(stage: &Stage, node: &str, id: &str, port: u16) -> std::io::Error {
    until("it is said why not", async || {
        stage.desk().dial(node, id, port).await.err().filter(|error| error.kind() != ErrorKind::TimedOut)
    })
    .await
}

#[tokio::test]
async fn ten_mebibytes_come_back_as_they_went_and_each_direction_ends_by_itself() {
    let stage = Stage::new().await;
    let id = stage.container(ECHO).await;
    let stream = dialled(&stage, &id, 9000).await;
    let sent: Vec<u8> =
        (0..10_u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 13).to_be_bytes()[3]).collect();
    let (mut read, mut write) = tokio::io::split(stream);
    let writing = async {
        write.write_all(&sent).await.unwrap();
        // The container sees this end, and ends its own side in turn.
        write.shutdown().await.unwrap();
    };
    let mut back = Vec::new();
    let (_, got) =
        tokio::join!(writing, tokio::time::timeout(Duration::from_secs(180), read.read_to_end(&mut back)));
    assert_eq!(got.unwrap().unwrap(), sent.len());
    assert!(back == sent, "what came back differs");
}

#[tokio::test]
async fn a_stream_works_on_another_event_loop_than_the_desks() {
    let stage = Stage::new().await;
    let id = stage.container(ECHO).await;
    drop(dialled(&stage, &id, 9000).await);
    let (desk, node) = (stage.desk().clone(), stage.node);
    let (sender, answer) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let echoed = runtime.block_on(async {
            let opened = until("it is dialled", async || desk.dial(node, &id, 9000).await.ok());
            let mut stream = opened.await;
            stream.write_all(b"over there").await.unwrap();
            let mut back = [0; 10];
            stream.read_exact(&mut back).await.unwrap();
            back
        });
        sender.send(echoed).unwrap();
    });
    assert_eq!(&answer.await.unwrap(), b"over there");
}

#[tokio::test]
async fn many_are_dialled_at_once() {
    let stage = Stage::new().await;
    let id = stage.container("httpd -f -p 8080 -h /www").await;
    drop(dialled(&stage, &id, 8080).await);
    let asked = (0..200).map(|_| async {
        // On a slow machine so many new lines at once take longer than a call waits for one.
        let mut stream = dialled(&stage, &id, 8080).await;
        stream.write_all(b"GET /index.html HTTP/1.0\r\n\r\n").await.unwrap();
        let mut back = String::new();
        stream.read_to_string(&mut back).await.unwrap();
        back.contains("hello from a container")
    });
    assert!(futures_util::future::join_all(asked).await.into_iter().all(|good| good));
}

#[tokio::test]
async fn where_nobody_listens_the_connection_is_refused() {
    let stage = Stage::new().await;
    let id = stage.container("sleep 600").await;
    let begun = Instant::now();
    let error = not_dialled(&stage, stage.node, &id, 9).await;
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
    let error = not_dialled(&stage, "nosuchnode", &id, 9).await;
    assert_eq!(error.kind(), ErrorKind::NetworkDown, "{error}");
    assert!(error.to_string().contains("no agent on node nosuchnode"), "{error}");
    let error = not_dialled(&stage, stage.node, &"0".repeat(64), 9).await;
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
}

#[tokio::test]
async fn an_address_is_forgotten_with_its_container() {
    let stage = Stage::new().await;
    let one = stage.container(ECHO).await;
    drop(dialled(&stage, &one, 9000).await);
    stage.engine.remove_container(&one).await.unwrap();
    // It most likely gets the address of the first.
    let two = container(&stage.engine, None, ECHO, &json!({})).await;
    // As soon as the engine's word of that has come.
    until("it is not found", async || {
        let error = not_dialled(&stage, stage.node, &one, 9000).await;
        (error.kind() == ErrorKind::NotFound).then_some(())
    })
    .await;
    stage.engine.remove_container(&two).await.unwrap();
}

#[tokio::test]
async fn containers_of_others_are_left_alone_whatever_is_asked() {
    let stage = Stage::new().await;
    let foreign = container(&stage.engine, None, ECHO, &json!({})).await;
    let other = container(&stage.engine, Some("another-installation"), ECHO, &json!({})).await;
    for id in [&foreign, &other] {
        let (desk, node) = (stage.desk(), stage.node);
        let error = not_dialled(&stage, node, id, 9000).await;
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
        assert_eq!(code(&desk.stats(node, id).await.unwrap_err()), RefusalCode::NotOurs);
        assert_eq!(code(&desk.inspect(node, id).await.unwrap_err()), RefusalCode::NotOurs);
        assert_eq!(code(&desk.logs(node, id, 1, false).await.err().unwrap()), RefusalCode::NotOurs);
        assert_eq!(code(&desk.exec(node, id, order(&["id"])).await.err().unwrap()), RefusalCode::NotOurs);
        stage.engine.remove_container(id).await.unwrap();
    }
    // Nor is a name taken for an id.
    let own = stage.container("sleep 600").await;
    let named = stage.engine.inspect_container(&own).await.unwrap().unwrap();
    let name = named.0.text("/Name").unwrap().trim_start_matches('/').to_owned();
    let error = stage.desk().inspect(stage.node, &name).await.unwrap_err();
    assert_eq!(code(&error), RefusalCode::BadRequest);
}

#[tokio::test]
async fn a_task_of_the_swarm_may_be_asked_about() {
    let stage = Stage::new().await;
    let task = task_of(&stage.engine, "asked", json!({})).await;
    let task = stage.engine.inspect(skep_docker::Kind::Task, &task).await.unwrap().unwrap();
    let id = task.text("/Status/ContainerStatus/ContainerID").unwrap();
    let found = stage.desk().inspect(stage.node, id).await.unwrap().unwrap();
    assert!(found.running && found.labels.contains_key("com.docker.swarm.task.id"));
    stage.engine.remove(skep_docker::Kind::Service, "asked").await.unwrap();
}

#[tokio::test]
async fn what_the_agent_does_not_allow_is_refused_by_name() {
    let stage = Stage::with(|config| config.allow = "dial,inspect".parse().unwrap()).await;
    let id = stage.container(ECHO).await;
    let (desk, node) = (stage.desk(), stage.node);
    let error = desk.exec(node, &id, order(&["id"])).await.err().unwrap();
    assert_eq!(code(&error), RefusalCode::NotAllowed);
    assert!(error.to_string().contains("without `exec` in its --allow"), "{error}");
    assert_eq!(code(&desk.logs(node, &id, 1, false).await.err().unwrap()), RefusalCode::NotAllowed);
    assert_eq!(code(&desk.stats(node, &id).await.unwrap_err()), RefusalCode::NotAllowed);
    assert!(desk.inspect(node, &id).await.unwrap().unwrap().running);
    drop(dialled(&stage, &id, 9000).await);
}

#[tokio::test]
async fn a_container_is_seen_as_its_node_sees_it() {
    let stage = Stage::new().await;
    let id = stage.container("trap 'exit 7' TERM; while :; do sleep 0.05; done").await;
    let found = stage.desk().inspect(stage.node, &id).await.unwrap().unwrap();
    assert_eq!((found.id.as_str(), found.running, found.exit_code), (id.as_str(), true, None));
    assert_eq!(found.addresses.len(), 1);
    assert_eq!(found.labels.get("skep.install"), Some(&stage.install));
    let ended = until("it has ended", async || {
        // Again and again: it may not know yet what to do about it.
        let _ = stage.engine.kill_container(&id, "TERM").await;
        stage.desk().inspect(stage.node, &id).await.unwrap().filter(|found| !found.running)
    })
    .await;
    assert_eq!((ended.exit_code, ended.oom_killed, ended.status.as_str()), (Some(7), false, "exited"));
    stage.engine.remove_container(&id).await.unwrap();
    assert_eq!(stage.desk().inspect(stage.node, &id).await.unwrap(), None);
}

#[tokio::test]
async fn what_a_container_uses_is_told() {
    let stage = Stage::new().await;
    let id = stage.container("while :; do :; done").await;
    let first = until("it is measured", async || stage.desk().stats(stage.node, &id).await.ok()).await;
    assert!(first.processes >= 1 && first.memory_bytes > 0, "{first:?}");
    until("it uses more", async || {
        let now = stage.desk().stats(stage.node, &id).await.ok()?;
        (now.cpu_seconds > first.cpu_seconds).then_some(())
    })
    .await;
    stage.engine.remove_container(&id).await.unwrap();
}

#[tokio::test]
async fn a_log_is_read_with_its_times_and_followed_to_the_end() {
    let stage = Stage::new().await;
    let id = stage.container("echo one; echo two >&2; echo; sleep 2; printf three").await;
    let log = stage.desk().logs(stage.node, &id, 100, true).await.unwrap();
    let lines: Vec<_> = log.collect().await;
    let mut texts: Vec<&str> = lines.iter().map(|line| line.text.as_str()).collect();
    assert_eq!(texts.pop(), Some("three"), "{lines:?}");
    texts.sort_unstable();
    assert_eq!(texts, ["", "one", "two"]);
    assert!(lines.iter().all(|line| line.time.ends_with('Z') && line.time.len() > 20), "{lines:?}");
    let two = lines.iter().find(|line| line.text == "two").unwrap();
    assert_eq!(two.channel, skep_agent::wire::Channel::Stderr);
    let last: Vec<_> = stage.desk().logs(stage.node, &id, 1, false).await.unwrap().collect().await;
    assert_eq!(last.iter().map(|line| line.text.as_str()).collect::<Vec<_>>(), ["three"]);
}

fn order(cmd: &[&str]) -> ExecOrder {
    let cmd = cmd.iter().map(|&part| part.to_owned()).collect();
    ExecOrder { cmd, who: "ada".to_owned(), ..ExecOrder::default() }
}

/// All it writes, and its status.
async fn finish(session: &mut ExecSession) -> (Vec<u8>, Vec<u8>, i64) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    loop {
        let chunk = tokio::time::timeout(Duration::from_secs(60), session.output.next()).await.unwrap();
        match chunk.unwrap().unwrap() {
            ExecChunk::Stdout(bytes) => out.extend_from_slice(&bytes),
            ExecChunk::Stderr(bytes) => err.extend_from_slice(&bytes),
            ExecChunk::Exit(code) => return (out, err, code),
        }
    }
}

#[tokio::test]
async fn a_program_is_run_with_input_outputs_and_status() {
    let stage = Stage::new().await;
    let id = stage.container("sleep 600").await;
    let script = "cat; echo \"$GREETING\" >&2; id -un >&2; exit 3";
    let mut order = order(&["sh", "-c", script]);
    order.env = vec!["GREETING=hello".to_owned()];
    order.user = Some("nobody".to_owned());
    let mut session = stage.desk().exec(stage.node, &id, order).await.unwrap();
    let every_byte: Vec<u8> = (0..200_000_u32).map(|n| n.to_be_bytes()[3]).collect();
    let (mut input, output) = session.split();
    let sent = every_byte.clone();
    let writing = tokio::spawn(async move {
        input.write(&sent).await.unwrap();
        input.finish().await.unwrap();
        input
    });
    session = ExecSession { input: writing.await.unwrap(), output };
    let (out, err, code) = finish(&mut session).await;
    assert!(out == every_byte, "{} bytes came back", out.len());
    assert_eq!((String::from_utf8(err).unwrap().as_str(), code), ("hello\nnobody\n", 3));
    assert_eq!(session.output.next().await.unwrap(), None);
}

#[tokio::test]
async fn a_terminal_passes_every_byte_and_learns_its_size() {
    let stage = Stage::new().await;
    let id = stage.container("sleep 600").await;
    let mut order = order(&["sh"]);
    order.tty = Some((24, 80));
    let mut session = stage.desk().exec(stage.node, &id, order).await.unwrap();
    let mut seen = Vec::new();
    let wait_for = async |session: &mut ExecSession, seen: &mut Vec<u8>, what: &[u8]| {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !seen.windows(what.len()).any(|part| part == what) {
            assert!(Instant::now() < deadline, "never: {}", String::from_utf8_lossy(seen));
            match session.output.next().await.unwrap().unwrap() {
                ExecChunk::Stdout(bytes) => seen.extend_from_slice(&bytes),
                other => panic!("{other:?}"),
            }
        }
    };
    session.input.write(b"stty size\n").await.unwrap();
    wait_for(&mut session, &mut seen, b"24 80").await;
    session.input.write(b"printf '<\\001\\000\\002>'\n").await.unwrap();
    wait_for(&mut session, &mut seen, b"<\x01\x00\x02>").await;
    session.input.resize(50, 132).await.unwrap();
    // The size arrives beside the input, not in order with it.
    session
        .input
        .write(b"until [ \"$(stty size)\" = '50 132' ]; do :; done; echo re''sized\n")
        .await
        .unwrap();
    wait_for(&mut session, &mut seen, b"resized").await;
    session.input.write(b"exit 5\n").await.unwrap();
    let (_, _, code) = finish(&mut session).await;
    assert_eq!(code, 5);
}

#[tokio::test]
async fn an_exec_without_a_name_is_refused_and_one_without_a_program_fails() {
    let stage = Stage::new().await;
    let id = stage.container("sleep 600").await;
    let mut nobody = order(&["id"]);
    nobody.who = String::new();
    let error = stage.desk().exec(stage.node, &id, nobody).await.err().unwrap();
    assert_eq!(code(&error), RefusalCode::NotAllowed);
    let status = match stage.desk().exec(stage.node, &id, order(&["/no/such/program"])).await {
        // Engines differ in when they notice.
        Err(error) => i64::from(code(&error) == RefusalCode::Engine),
        Ok(mut session) => finish(&mut session).await.2,
    };
    assert_ne!(status, 0);
}
