//! One launcher at a time: of the servers that share a Swarm and a PostgreSQL, the one that has the lease.
//!
//! It is asked for before anything is started, kept by renewing it while the Swarm's managers answer, and let go at a clean stop. A
//! server that learns that another one has it ends at once: that one may have been started because this one was given up.
//!
//! A server whose managers are away renews nothing, as it could not launch anything either. One that cannot reach the database
//! goes on: for all it knows nobody can take over, and apps must not depend on the database being there.
//! Absent on purpose: a lease where the store is a file. The lock of the data folder says the same there.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use skep_docker::Managers;
use skep_store::{Asked, Engine, Holder, Lease, Store, StoreError, Tenant};
use tokio::sync::oneshot;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

/// How long a server may be silent before another one may take its place.
const LIVES: Duration = Duration::from_secs(6);
/// Between two renewals.
const BEAT: Duration = Duration::from_millis(1500);
/// For one question to the managers, or to the store.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// Between two looks whether the lease is free.
const LOOK: Duration = Duration::from_millis(200);
/// How long a server waits for its predecessor to end or to be silent.
const WAIT: Duration = Duration::from_secs(30);
/// In the data folder: what a server that is started anew is known by.
const OWNER_FILE: &str = "server.id";

/// The lease, or the wish for it.
pub(super) struct Tenure {
    lease: Arc<Lease>,
    managers: Managers,
}

/// The lease, kept until this is dropped.
pub(super) struct Kept {
    lease: Arc<Lease>,
    lost: oneshot::Receiver<Holder>,
    _task: AbortOnDropHandle<()>,
}

impl Tenure {
    /// `None` where there is nobody to share with. `install`: the installation whose instances are launched.
    ///
    /// # Errors
    /// When another server has the lease and does not let it go, or the store does not answer. A server that takes over
    /// from one on the same data folder does not ask yet.
    pub(super) async fn begin(
        store: &Store,
        swarm: Option<(String, Managers)>,
        data: &Path,
        is_heir: bool,
    ) -> anyhow::Result<Option<Self>> {
        let Some((install, managers)) = swarm.filter(|_| store.engine() == Engine::Postgres) else {
            return Ok(None);
        };
        let tenant = Tenant { owner: owner(data)?, process: random()?, host: host() };
        let lease = Arc::new(store.lease(format!("launch:{install}"), tenant));
        if !is_heir {
            wait_for(&lease, WAIT).await?;
        }
        Ok(Some(Self { lease, managers }))
    }

    /// Renews it from now on.
    pub(super) fn keep(self) -> Kept {
        let (tell, lost) = oneshot::channel();
        let keeping = keep(Arc::clone(&self.lease), self.managers, BEAT, tell);
        Kept { lease: self.lease, lost, _task: AbortOnDropHandle::new(tokio::spawn(keeping)) }
    }
}

impl Kept {
    /// Who has it instead, as soon as that is known.
    pub(super) async fn lost(&mut self) -> Holder {
        match (&mut self.lost).await {
            Ok(holder) => holder,
            // Nobody renews it any more, so nobody will say so.
            Err(_) => std::future::pending().await,
        }
    }

    /// The next server need not wait.
    pub(super) async fn release(self) {
        match timeout(ANSWER_WITHIN, self.lease.release()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the lease runs out by itself"),
            Err(_) => tracing::warn!("the store does not answer; the lease runs out by itself"),
        }
    }
}

/// Takes the lease as soon as it can be had.
async fn wait_for(lease: &Lease, within: Duration) -> anyhow::Result<()> {
    let end = Instant::now() + within;
    let mut said = false;
    loop {
        let holder = match lease.take(LIVES).await? {
            Asked::Ours => return Ok(()),
            Asked::Held(holder) => holder,
        };
        if Instant::now() >= end {
            bail!(
                "the server on {} launches this Swarm's instances, and has been renewing its lease for the {} seconds this one waited; \
                 stop one of the two (there is to be one Skep: `replicas: 1`), or give this one another `swarm.install`",
                holder.host,
                within.as_secs()
            );
        }
        if !std::mem::replace(&mut said, true) {
            tracing::info!(
                host = holder.host,
                "another server has the lease of this Swarm's instances; waiting until it ends, or is silent for {} seconds",
                LIVES.as_secs()
            );
        }
        sleep(LOOK.min(holder.left.max(Duration::from_millis(20)))).await;
    }
}

/// Renews the lease until another has it.
async fn keep(lease: Arc<Lease>, managers: Managers, beat: Duration, lost: oneshot::Sender<Holder>) {
    let mut beats = interval(beat);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut silent = false;
    loop {
        beats.tick().await;
        let answer = managers.ask(|engine| async move { engine.inspect_swarm().await });
        let why = match timeout(ANSWER_WITHIN, answer).await {
            Ok(Ok(Some(_))) => match timeout(ANSWER_WITHIN, renew(&lease)).await {
                Ok(Ok(Asked::Ours)) => None,
                Ok(Ok(Asked::Held(holder))) => {
                    let _ = lost.send(holder);
                    return;
                }
                Ok(Err(error)) => Some(error.to_string()),
                Err(_) => Some("the store does not answer".to_owned()),
            },
            Ok(Ok(None)) => Some("this engine is no manager of a Swarm".to_owned()),
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some("no manager of the Swarm answers".to_owned()),
        };
        match why {
            Some(why) if !std::mem::replace(&mut silent, true) => {
                tracing::warn!(
                    "the lease of this Swarm's instances cannot be renewed, another server may take it: {why}"
                );
            }
            None if std::mem::take(&mut silent) => tracing::info!("the lease is renewed again"),
            _ => {}
        }
    }
}

/// One that is gone, or of a former process of this server, is taken anew.
async fn renew(lease: &Lease) -> Result<Asked, StoreError> {
    if lease.renew(LIVES).await? { Ok(Asked::Ours) } else { lease.take(LIVES).await }
}

/// What this server is known by, made at its first start.
fn owner(data: &Path) -> anyhow::Result<String> {
    let file = data.join(OWNER_FILE);
    let known = std::fs::read_to_string(&file).map(|text| text.trim().to_owned()).unwrap_or_default();
    if !known.is_empty() && known.len() <= 64 {
        return Ok(known);
    }
    let new = random()?;
    std::fs::write(&file, format!("{new}\n"))
        .with_context(|| format!("{} cannot be written", file.display()))?;
    Ok(new)
}

fn random() -> anyhow::Result<String> {
    let number = getrandom::u64().context("the system gives no random numbers")?;
    Ok(format!("{number:016x}"))
}

fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_known_by_its_data_folder() {
        let folder = tempfile::tempdir().unwrap();
        let first = owner(folder.path()).unwrap();
        assert_eq!(first.len(), 16);
        assert_eq!(owner(folder.path()).unwrap(), first);
        let other = tempfile::tempdir().unwrap();
        assert_ne!(owner(other.path()).unwrap(), first);
    }

    async fn store(folder: &tempfile::TempDir) -> Store {
        Store::open(&skep_store::Location::Sqlite(folder.path().join("skep.db"))).await.unwrap()
    }

    fn lease(store: &Store, owner: &str) -> Arc<Lease> {
        let tenant = Tenant { owner: owner.to_owned(), process: owner.to_owned(), host: owner.to_owned() };
        Arc::new(store.lease("launch:skep".to_owned(), tenant))
    }

    #[tokio::test]
    async fn a_second_server_waits_and_then_says_who_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(&folder).await;
        let (one, two) = (lease(&store, "one"), lease(&store, "two"));
        wait_for(&one, Duration::ZERO).await.unwrap();
        let refused = wait_for(&two, Duration::from_millis(100)).await.unwrap_err().to_string();
        assert!(refused.contains("the server on one") && refused.contains("replicas: 1"), "{refused}");
        let waiting = tokio::spawn({
            let two = Arc::clone(&two);
            async move { wait_for(&two, Duration::from_secs(20)).await }
        });
        sleep(Duration::from_millis(50)).await;
        one.release().await.unwrap();
        waiting.await.unwrap().unwrap();
        store.close().await;
    }

    /// A manager that answers, as far as it matters here.
    async fn manager(answers: tokio::sync::watch::Receiver<bool>) -> Managers {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let answers = answers.clone();
                tokio::spawn(async move {
                    let mut head = [0; 4096];
                    while stream.read(&mut head).await.is_ok_and(|n| n > 0) {
                        let (status, body) = match *answers.borrow() {
                            true => ("200 OK", r#"{"ID":"s","ApiVersion":"1.41","MinAPIVersion":"1.12"}"#),
                            false => (
                                "503 Service Unavailable",
                                r#"{"message":"This node is not a swarm manager."}"#,
                            ),
                        };
                        let answer = format!(
                            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                            body.len()
                        );
                        if stream.write_all(answer.as_bytes()).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        let engine = skep_docker::Engine::new(format!("tcp://{address}").parse().unwrap());
        Managers::new(vec![engine])
    }

    #[tokio::test]
    async fn it_is_renewed_while_managers_answer_and_its_loss_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(&folder).await;
        let (one, two) = (lease(&store, "one"), lease(&store, "two"));
        // As good as run out; the first beat renews it.
        assert_eq!(one.take(Duration::from_millis(1)).await.unwrap(), Asked::Ours);
        let (answers, answering) = tokio::sync::watch::channel(true);
        let (tell, mut lost) = oneshot::channel();
        let keeping = keep(Arc::clone(&one), manager(answering).await, Duration::from_millis(20), tell);
        let _keeping = AbortOnDropHandle::new(tokio::spawn(keeping));
        let end = Instant::now() + Duration::from_secs(10);
        // Renewed, it has seconds left; a rival that has not the heart to take it only asks.
        while !one.renew(LIVES).await.unwrap() {
            assert!(Instant::now() < end);
        }
        let Asked::Held(holder) = two.take(LIVES).await.unwrap() else { panic!("nobody renews it") };
        assert!(holder.left > LIVES / 2);
        assert!(lost.try_recv().is_err());
        // The managers give this server up: it lets the lease run out, and another takes it.
        answers.send(false).unwrap();
        while two.take(LIVES).await.unwrap() != Asked::Ours {
            assert!(Instant::now() < end + LIVES, "it is renewed all the same");
            sleep(Duration::from_millis(50)).await;
        }
        answers.send(true).unwrap();
        let holder = timeout(Duration::from_secs(10), lost).await.unwrap().unwrap();
        assert_eq!(holder.host, "two");
        store.close().await;
    }
}
