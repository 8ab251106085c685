//! Who is taken in, and what is said to the others.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use skep_agent::{Agent, AgentConfig, AgentError, DeskConfig, JoinSecret, RefusalCode};
use skep_docker::{Address, Engine, Kind, Managers};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;

use crate::daemon::until;
use crate::stage::{Server, agent_config, desk_config, engine, install, run, secret, swarm, task_of};

async fn refused(server: &Server, task: Option<&str>) -> RefusalCode {
    let mut config = agent_config(server.address);
    config.task = task.map(str::to_owned);
    code(&told(&config).await)
}

/// Why an agent is not taken in. One that was held up on the way is sent away without a word, and asks again.
async fn told(config: &AgentConfig) -> AgentError {
    until("it is told why not", async || {
        let error = Agent::new(config.clone()).check().await.unwrap_err();
        error.refusal().is_some().then_some(error)
    })
    .await
}

fn code(error: &AgentError) -> RefusalCode {
    error.refusal().unwrap_or_else(|| panic!("{error}")).code
}

/// As soon as a manager was not too busy to be asked.
async fn refused_by_managers(server: &Server, task: Option<&str>) -> RefusalCode {
    until("a manager judges", async || {
        let code = refused(server, task).await;
        let judged = !matches!(code, RefusalCode::Unchecked | RefusalCode::TooOften);
        if !judged {
            // So many may ask in a second.
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        judged.then_some(code)
    })
    .await
}

#[tokio::test]
async fn an_agent_is_taken_in_as_a_task_of_a_service_that_says_so() {
    let (_, node) = swarm();
    let config = DeskConfig { host_agents: false, ..desk_config(&install()) };
    let server = Server::start(config).await;
    let agents = task_of(&engine(), "agents", json!({ "skep.agent": "true" })).await;
    let others = task_of(&engine(), "others", json!({})).await;

    let mut good = agent_config(server.address);
    good.task = Some(agents.clone());
    let taken_in = async || Agent::new(good.clone()).check().await.ok();
    let by = until("it is taken in", taken_in).await;
    assert_eq!(by, server.address.to_string());
    let stop = run(good);
    server.sees(node).await;
    let network =
        engine().inspect(Kind::Network, "skep_node").await.unwrap().expect("it makes the node's network");
    assert_eq!((network.flag("/ConfigOnly"), network.label("skep.network")), (Some(true), Some("instances")));

    assert_eq!(refused_by_managers(&server, None).await, RefusalCode::NoTask);
    assert_eq!(refused_by_managers(&server, Some("nosuchtask")).await, RefusalCode::UnknownTask);
    assert_eq!(refused(&server, Some("../../x")).await, RefusalCode::BadRequest);
    // Its prefix would be found, and is not its id.
    assert_eq!(refused_by_managers(&server, Some(&agents[..8])).await, RefusalCode::UnknownTask);
    assert_eq!(refused_by_managers(&server, Some(&others)).await, RefusalCode::NotAnAgent);
    engine().remove(Kind::Service, "agents").await.unwrap();
    engine().remove(Kind::Service, "others").await.unwrap();
    until("the task is taken for ended", async || {
        let code = refused(&server, Some(&agents)).await;
        matches!(code, RefusalCode::TaskEnded | RefusalCode::UnknownTask | RefusalCode::NotAnAgent)
            .then_some(())
    })
    .await;
    stop.cancel();
    server.loses(node).await;
}

#[tokio::test]
async fn a_wrong_secret_is_told_by_name_and_not_tried_for_ever_at_full_speed() {
    // No real engine: what was guessed wrong is forgiven in a second each, and a busy one takes longer to say its node.
    let dir = TempDir::new().unwrap();
    let engine = fake(dir.path(), "own", HashMap::from([("/info", node_info("n1"))]));
    let managers = Managers::new(vec![engine.clone()]);
    let server = Server::start(DeskConfig::new("i", secret(), managers)).await;
    let mut wrong = agent_config(server.address);
    wrong.engine = engine;
    wrong.secret = JoinSecret::new("not the secret at all").unwrap();
    let error = told(&wrong).await;
    assert_eq!(error.refusal().unwrap().code, RefusalCode::WrongSecret);
    assert!(error.to_string().contains("join secret"), "{error}");
    let mut held_up = false;
    for _ in 0..60 {
        held_up |= code(&told(&wrong).await) == RefusalCode::TooOften;
    }
    assert!(held_up);
}

/// A manager that answers what it is told to.
fn fake(dir: &Path, name: &str, answers: HashMap<&'static str, Value>) -> Engine {
    let path = dir.join(name);
    let listener = UnixListener::bind(&path).unwrap();
    let answers = Arc::new(answers);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answers = Arc::clone(&answers);
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.windows(4).any(|part| part == b"\r\n\r\n") {
                    if stream.read_buf(&mut head).await.unwrap() == 0 {
                        return;
                    }
                }
                let head = String::from_utf8_lossy(&head).into_owned();
                let path = head.split([' ', '?']).nth(1).unwrap().trim_start_matches("/v1.41").to_owned();
                let version = json!({ "ApiVersion": "1.41", "MinAPIVersion": "1.12" });
                let found = if path == "/version" { Some(&version) } else { answers.get(path.as_str()) };
                let status = match found {
                    None => "404 Not Found",
                    Some(Value::Null) => "503 Service Unavailable",
                    Some(_) => "200 OK",
                };
                let body =
                    found.filter(|body| !body.is_null()).map_or_else(|| "{}".to_owned(), Value::to_string);
                let length = body.len();
                let answer = format!(
                    "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
                );
                let _ = stream.write_all(answer.as_bytes()).await;
            });
        }
    });
    Engine::new(Address::unix(path))
}

fn node_info(node: &str) -> Value {
    json!({ "Swarm": { "NodeID": node, "LocalNodeState": "active" }, "ServerVersion": "x" })
}

fn task(node: &str, desired: &str, state: &str) -> Value {
    json!({ "ID": "task1", "NodeID": node, "ServiceID": "service1", "DesiredState": desired, "Status": { "State": state } })
}

/// What an agent on `n1` that runs as `task1` hears, with managers that say this.
async fn judged(
    managers: Vec<HashMap<&'static str, Value>>,
    host_agents: bool,
) -> Result<String, AgentError> {
    let dir = TempDir::new().unwrap();
    let engines = managers
        .into_iter()
        .enumerate()
        .map(|(n, answers)| fake(dir.path(), &n.to_string(), answers))
        .collect();
    let config = DeskConfig { host_agents, ..DeskConfig::new("i", secret(), Managers::new(engines)) };
    let server = Server::start(config).await;
    let mut agent = agent_config(server.address);
    agent.engine = fake(dir.path(), "own", HashMap::from([("/info", node_info("n1"))]));
    agent.task = Some("task1".to_owned());
    // One that was held up on the way hears nothing, and asks again.
    let outcome = until("it is judged", async || {
        let outcome = Agent::new(agent.clone()).check().await;
        let said = outcome.as_ref().err().is_none_or(|error| error.refusal().is_some());
        said.then_some(outcome)
    })
    .await;
    server.stop().await;
    outcome
}

#[tokio::test]
async fn the_managers_word_decides() {
    let up = json!({ "ID": "n1", "Status": { "State": "ready" } });
    let agents = json!({ "ID": "service1", "Spec": { "Labels": { "skep.agent": "true" } } });
    let good = HashMap::from([
        ("/nodes/n1", up),
        ("/tasks/task1", task("n1", "running", "running")),
        ("/services/service1", agents),
    ]);
    let with = |path: &'static str, value: Value| {
        let mut changed = good.clone();
        changed.insert(path, value);
        vec![changed]
    };
    assert!(judged(vec![good.clone()], false).await.is_ok());
    // A container is started before its task is taken for running.
    assert!(judged(with("/tasks/task1", task("n1", "running", "starting")), false).await.is_ok());
    for (answers, expected) in [
        (vec![HashMap::new()], RefusalCode::UnknownNode),
        (with("/nodes/n1", json!({ "ID": "n1", "Status": { "State": "down" } })), RefusalCode::NodeDown),
        // A node's name given for its id.
        (with("/nodes/n1", json!({ "ID": "n9", "Status": { "State": "ready" } })), RefusalCode::UnknownNode),
        (with("/tasks/task1", task("n2", "running", "running")), RefusalCode::TaskElsewhere),
        (with("/tasks/task1", task("n1", "shutdown", "running")), RefusalCode::TaskEnded),
        (with("/tasks/task1", task("n1", "running", "failed")), RefusalCode::TaskEnded),
        (with("/services/service1", json!({ "Spec": { "Labels": {} } })), RefusalCode::NotAnAgent),
        (
            with("/services/service1", json!({ "Spec": { "Labels": { "skep.agent": "false" } } })),
            RefusalCode::NotAnAgent,
        ),
        (vec![], RefusalCode::Unchecked),
        (with("/nodes/n1", Value::Null), RefusalCode::Unchecked),
    ] {
        // A task that is named must be right, also where it need not be named.
        assert_eq!(code(&judged(answers.clone(), false).await.unwrap_err()), expected);
        assert_eq!(code(&judged(answers, true).await.unwrap_err()), expected);
    }
    // A manager that cannot answer is passed over.
    let lost = good.keys().map(|path| (*path, Value::Null)).collect();
    assert!(judged(vec![lost, good], false).await.is_ok());
}

#[tokio::test]
async fn what_is_wrong_is_said_with_what_mends_it() {
    let dir = TempDir::new().unwrap();
    let nobody = agent_config("127.0.0.1:1".parse().unwrap());
    let with_engine = |info: Value| {
        let mut config = nobody.clone();
        static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let name = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed).to_string();
        config.engine = fake(dir.path(), &name, HashMap::from([("/info", info)]));
        config
    };
    let says = async |config| Agent::new(config).check().await.unwrap_err().to_string();

    let text = says(with_engine(json!({ "Swarm": { "LocalNodeState": "inactive" } }))).await;
    assert!(text.contains("no active node of a Swarm") && text.contains("docker swarm join"), "{text}");
    let text = says(with_engine(node_info("n1"))).await;
    assert!(text.contains("127.0.0.1:1 cannot be reached"), "{text}");
    let mut no_manager = with_engine(node_info("n1"));
    no_manager.servers.clear();
    assert!(says(no_manager).await.contains("names no manager"));

    // Something else listens there.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut wrong = with_engine(node_info("n1"));
    wrong.servers = vec![listener.local_addr().unwrap().to_string()];
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    let text = says(wrong).await;
    assert!(text.contains("agents' port"), "{text}");
}

#[tokio::test]
async fn a_node_is_taken_in_once_it_has_its_network() {
    let dir = TempDir::new().unwrap();
    let up = json!({ "ID": "n1", "Status": { "State": "ready" } });
    let node = |config_only: bool| {
        // An engine lists those of longer names, too.
        let networks = json!([{ "Name": "skep_node_2" }, { "Name": "skep_node", "ConfigOnly": config_only }]);
        let answers = [("/info", node_info("n1")), ("/nodes/n1", up.clone()), ("/networks", networks)];
        fake(dir.path(), "own", HashMap::from(answers))
    };
    let engine = node(false);
    let managers = Managers::new(vec![engine.clone()]);
    let config = DeskConfig { host_agents: true, ..DeskConfig::new("i", secret(), managers) };
    let server = Server::start(config).await;
    let mut config = agent_config(server.address);
    config.engine = engine;
    let stop = run(config);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(server.desk.nodes().borrow().is_empty(), "no instance could run there");
    std::fs::remove_file(dir.path().join("own")).unwrap();
    node(true);
    server.sees("n1").await;
    stop.cancel();
}

#[tokio::test]
async fn certificates_are_renewed_before_they_expire() {
    let (_, node) = swarm();
    // Long enough for a busy manager to be asked again before the end of one.
    let lives = Duration::from_secs(24);
    let server = Server::start(DeskConfig { certificate_lives: lives, ..desk_config(&install()) }).await;
    let stop = run(agent_config(server.address));
    server.sees(node).await;
    // Through two and a half lives the agent is there and answers, with nothing refused in between.
    let mut nodes = server.desk.nodes();
    nodes.mark_unchanged();
    let begun = std::time::Instant::now();
    while begun.elapsed() < lives * 5 / 2 {
        assert_eq!(server.desk.inspect(node, &"0".repeat(64)).await.unwrap(), None);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(!nodes.has_changed().unwrap(), "it was away in between");
    stop.cancel();
}

#[tokio::test]
async fn while_no_manager_answers_a_certificate_is_good_for_new_lines_until_it_ends() {
    let (_, node) = swarm();
    let dir = TempDir::new().unwrap();
    let path: &'static str = Box::leak(format!("/nodes/{node}").into_boxed_str());
    let up = json!({ "ID": node, "Status": { "State": "ready" } });
    let managers = vec![fake(dir.path(), "manager", HashMap::from([(path, up)]))];
    let lives = Duration::from_secs(24);
    let config =
        DeskConfig { certificate_lives: lives, managers: Managers::new(managers), ..desk_config(&install()) };
    let server = Server::start(config).await;
    let begun = std::time::Instant::now();
    let stop = run(agent_config(server.address));
    server.sees(node).await;
    std::fs::remove_file(dir.path().join("manager")).unwrap();
    assert_eq!(refused(&server, None).await, RefusalCode::Unchecked);
    tokio::time::sleep((lives / 2 + Duration::from_millis(300)).saturating_sub(begun.elapsed())).await;
    // More calls than there were idle lines.
    let mut calls = 0;
    while begun.elapsed() < lives * 3 / 4 || calls <= 20 {
        assert_eq!(server.desk.inspect(node, &"0".repeat(64)).await.unwrap(), None);
        calls += 1;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    stop.cancel();
}
