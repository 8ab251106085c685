//! From the order for an instance to a task that can be dialled.

use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::StreamExt;
use serde_json::json;
use skep_agent::{Login, PullOrder};
use skep_docker::{Credentials, Document, Engine, Error, Kind, Reference};
use skep_launch::{BackendError, LaunchOrder, Launched, ProgressSink, Stage};
use skep_model::{ConfigFile, Image, InstanceId, Pull};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::order::{self, Plan, SECRET, Secret, labels_of};
use super::place::Place;
use super::swarm;
use super::task::Task;
use super::{Inner, Instance};
use crate::container::labels::{INSTALL, INSTANCE, Labels};
use crate::container::login::login_for;
use crate::container::{self, app_error};
use crate::table::{blocking, now_ms, stopped_early};

/// How long an election or a restart of the managers is waited out.
const PATIENCE: Duration = Duration::from_secs(30);
/// Networks tried for one launch.
const NETWORKS: u32 = 3;
/// A task that joins a network of the Swarm and was not even looked at for this long has no address to get there.
const UNSEEN_FOR: Duration = Duration::from_secs(15);
/// Nothing was heard of the task at all, or nobody has looked at it.
const UNHEARD_FOR: Duration = Duration::from_secs(60);
/// Making a container takes less than this, fetching an image longer.
const LONG: Duration = Duration::from_millis(700);

impl Inner {
    /// Launches an instance. Whatever of it was made is removed when that fails.
    pub(super) async fn see_through(
        self: Arc<Self>,
        instance: Arc<Instance>,
        order: LaunchOrder,
        progress: ProgressSink,
    ) {
        match self.launch(&instance, &order, &progress).await {
            Ok(launched) => {
                self.table.run(&instance, launched);
                // It may have ended before anybody knew that it runs.
                self.touch_all();
            }
            Err(error) => {
                self.clear(&instance.id).await;
                self.table.fail(&instance, error);
            }
        }
    }

    async fn launch(
        self: &Arc<Self>,
        instance: &Arc<Instance>,
        order: &LaunchOrder,
        progress: &ProgressSink,
    ) -> Result<Launched, BackendError> {
        let (image, reference) = container::image(&order.spec)?;
        let image = &container::for_owner(image, order)?;
        self.keep_watch();
        progress.report(Stage::Start, "ordering it from the Swarm");
        let patient = || {
            progress.report(Stage::Start, "waiting for a manager of the Swarm to answer");
            instance.grace().is_none()
        };
        let found = self.managers.ask_patiently(PATIENCE, patient, |engine| {
            let name = reference.to_string();
            async move { engine.inspect_image(&name).await }
        });
        let found = found.await.map_err(|e| swarm(&e))?;
        self.renew_networks().await;
        let mut labels = Labels {
            network: self.ensure_network().await?,
            install: self.config.install.clone(),
            id: instance.id.clone(),
            revision: order.spec.revision,
            owner: order.owner.clone(),
            variant: order.variant.clone(),
            started_at_ms: now_ms(),
            port: port(image, found.as_ref())?,
            memory_limit: order.spec.limits.memory,
        };
        let spec = Arc::clone(&order.spec);
        let contents = blocking(move || container::secrets(&spec)).await??;
        if instance.grace().is_some() || self.table.is_deserted() {
            return Err(stopped_early());
        }
        let secrets = self.make_secrets(&labels, contents).await?;
        let configs = self.find_configs(image).await?;
        let pinned = pinned(image, &reference, found.as_ref());
        let mut attempts = 1;
        let place = loop {
            let spec = order::service(&Plan {
                order,
                image,
                labels: &labels,
                reference: &pinned,
                secrets: &secrets,
                configs: &configs,
                stop_grace: self.config.stop_grace,
                on_workers: self.nodes.has_workers(&image.placement.constraints),
            });
            let service = self.create(&labels, &spec, &reference, patient).await?;
            instance.own.task.send_replace(None);
            *instance.own.service.lock() = Some(service.clone());
            self.watch.wake.notify_one();
            let ran = tokio::select! {
                ran = self.await_running(instance, &labels, (image, &pinned), progress) => ran,
                () = instance.stop_asked() => return Err(stopped_early()),
            };
            match ran {
                Ok(place) => break place,
                Err(Failed::Finally(error)) => return Err(error),
                Err(Failed::NetworkLeftOver(host)) if attempts < NETWORKS => {
                    attempts += 1;
                    tracing::warn!(
                        node = host,
                        "its engine was restarted and does not get over the apps' network"
                    );
                    *instance.own.service.lock() = None;
                    let service = service.as_str();
                    let remove = |engine: Engine| async move { engine.remove(Kind::Service, service).await };
                    self.managers.ask(remove).await.map_err(|e| swarm(&e))?;
                    labels.network = self.network_after(&labels.network).await?;
                }
                Err(Failed::NetworkLeftOver(host)) => return Err(left_over(&host)),
            }
        };
        let launched = self.launched(&place, labels.port);
        *instance.own.network.lock() = labels.network;
        *instance.own.since.lock() = Some(Instant::now());
        *instance.own.place.lock() = Some(place);
        progress.report(Stage::Boot, format!("the container runs on {}", launched.node));
        Ok(launched)
    }

    /// Makes the service, or finds the one an earlier attempt at the same instance made.
    async fn create(
        &self,
        labels: &Labels,
        spec: &serde_json::Value,
        reference: &Reference,
        patient: impl Fn() -> bool,
    ) -> Result<String, BackendError> {
        let registry = reference.registry().to_owned();
        let login = blocking(move || login_for(&registry)).await?;
        let login = login.as_ref();
        let create = |engine: Engine| async move { engine.create_service(spec, reference, login).await };
        match self.managers.ask_patiently(PATIENCE, patient, create).await {
            Ok(id) => Ok(id),
            Err(error) if error.is_conflict() => {
                let name = order::name(&labels.id);
                let there = self.service(&labels.id).await.map_err(|e| swarm(&e))?;
                let ours = there.map(|there| there.id().to_owned());
                ours.ok_or_else(|| {
                    BackendError::Platform(format!("another service is called `{name}`; rename or remove it"))
                })
            }
            Err(error) => Err(refused(&error)),
        }
    }

    /// The service of an instance, when it is ours.
    pub(super) async fn service(&self, id: &InstanceId) -> Result<Option<Document>, Error> {
        let name = order::name(id);
        let name = name.as_str();
        let inspect = |engine: Engine| async move { engine.inspect(Kind::Service, name).await };
        let there = self.managers.ask(inspect).await?;
        let is_ours = |labels: Labels| labels.install == self.config.install && labels.id == *id;
        Ok(there.filter(|there| labels_of(there).is_some_and(is_ours)))
    }

    /// Until its task runs, or comes to nothing.
    async fn await_running(
        &self,
        instance: &Instance,
        labels: &Labels,
        (image, reference): (&Image, &str),
        progress: &ProgressSink,
    ) -> Result<Place, Failed> {
        let mut tasks = instance.own.task.subscribe();
        let ordered = Instant::now();
        let (mut state, mut since, mut told) = (String::new(), ordered, None);
        let mut pulling = None;
        loop {
            let task = tasks.borrow_and_update().clone();
            if let Some(task) = &task {
                if task.state != state {
                    (state, since) = (task.state.clone(), Instant::now());
                    pulling = None;
                }
                if let Some(loss) = self.loss_while_starting(task) {
                    return Err(BackendError::Lost(loss).into());
                }
                if task.is_over() {
                    if task.meets_left_over(&labels.network) {
                        let node = task.node.as_deref().unwrap_or_default();
                        return Err(Failed::NetworkLeftOver(self.nodes.hostname(node)));
                    }
                    return Err(self.came_to_nothing(task, image).await.into());
                }
                if let Some(place) = Place::of(task).filter(|_| task.is_running()) {
                    return Ok(place);
                }
                let told_now = self.words(task, since.elapsed());
                if told_now != told {
                    if let Some((stage, words)) = &told_now {
                        progress.report(*stage, words.as_str());
                        if *stage == Stage::Environment {
                            pulling = task.node.clone().map(|node| self.watch_pull(node, reference));
                        }
                    }
                    told = told_now;
                }
            }
            unheard(task.as_ref(), image, ordered.elapsed())?;
            tokio::select! {
                _ = timeout(Duration::from_millis(250), tasks.changed()) => {}
                words = pulled(&mut pulling) => progress.report(Stage::Environment, words),
            }
        }
    }

    /// How far the image is that a node fetches, asked for until it is dropped.
    fn watch_pull(&self, node: String, reference: &str) -> Pulling {
        let (desk, image) = (self.desk.clone(), reference.to_owned());
        let host = self.nodes.hostname(&node);
        let (sender, percent) = watch::channel(0);
        let asking = AbortOnDropHandle::new(tokio::spawn(async move {
            let registry = image.parse::<Reference>().map(|image| image.registry().to_owned());
            let login = blocking(move || registry.ok().as_deref().and_then(login_for)).await.ok().flatten();
            let login = login.map(|Credentials { user, password }| Login { user, password });
            match desk.pull(&node, PullOrder { image, login }).await {
                Ok(mut percents) => {
                    while let Some(percent) = percents.next().await {
                        sender.send_replace(percent);
                    }
                }
                Err(error) => tracing::debug!(node, %error, "how far its image is cannot be told"),
            }
        }));
        Pulling { host, percent, _asking: asking }
    }

    /// What a visitor is told of a task that has been in its state for so long.
    fn words(&self, task: &Task, lasted: Duration) -> Option<(Stage, String)> {
        if task.is_unseen() && lasted >= UNSEEN_FOR {
            let words = "the Swarm's managers have not looked at it yet: they are busy, or electing a leader";
            return Some((Stage::Start, words.to_owned()));
        }
        let host = task.node.as_deref().map(|node| self.nodes.hostname(node)).unwrap_or_default();
        let (stage, mut words) = task.progress(&host, lasted >= LONG)?;
        if task.node.is_none() && task.error.is_some() && !self.nodes.has_agents() {
            words.push_str("; no agent is connected: is `skep agent` running on the nodes?");
        }
        Some((stage, words))
    }

    /// What took a task away that had not ended by itself.
    fn loss_while_starting(&self, task: &Task) -> Option<String> {
        if task.ended_by_itself() {
            return None;
        }
        let loss = task.node.as_ref().and_then(|node| self.nodes.loss(node));
        // The Swarm may have given the node up before this server has heard of it.
        let taken =
            || (task.is_over() || task.is_unwanted()).then(|| "the Swarm ended it while it started".into());
        loss.or_else(taken)
    }

    /// Why a task never ran, or not for long.
    async fn came_to_nothing(&self, task: &Task, image: &Image) -> BackendError {
        let host = task.node.as_deref().map(|node| self.nodes.hostname(node)).unwrap_or_default();
        let ran = task.error.as_deref().is_none_or(|error| error.starts_with("task: non-zero exit"));
        let Some(place) = Place::of(task) else { return task.failure(image, &host) };
        if ran && matches!(task.state.as_str(), "failed" | "complete") {
            let (_, report) = self.report_of_task(&place, task).await;
            return BackendError::App { summary: report.reason, last_lines: report.last_lines };
        }
        match task.failure(image, &host) {
            BackendError::App { summary, .. } => {
                let last_lines = container::ending::last_lines(&self.last_words(&place).await);
                BackendError::App { summary, last_lines }
            }
            other => other,
        }
    }

    /// The ids of the configs an app names.
    async fn find_configs(&self, image: &Image) -> Result<Vec<String>, BackendError> {
        let mut ids = Vec::new();
        for ConfigFile { name, .. } in &image.configs {
            let find = |engine: Engine| async move { engine.inspect(Kind::Config, name).await };
            let found = self.managers.ask(find).await.map_err(|e| swarm(&e))?;
            // By its name, not by the beginning of another one's id.
            let found =
                found.filter(|found| found.text("/Spec/Name") == Some(name.as_str())).ok_or_else(|| {
                    app_error(format!(
                        "the Swarm has no config `{name}`, which `container.configs` names; make it: \
                     `docker config create {name} FILE`"
                    ))
                })?;
            ids.push(found.id().to_owned());
        }
        Ok(ids)
    }

    /// Each secret as one of the Swarm's, for this instance alone.
    async fn make_secrets(
        &self,
        labels: &Labels,
        contents: std::collections::BTreeMap<String, Vec<u8>>,
    ) -> Result<Vec<Secret>, BackendError> {
        let mut made = Vec::new();
        for (index, (file, content)) in contents.into_iter().enumerate() {
            let name = order::secret_name(&labels.id, index);
            let spec = json!({
                "Name": name, "Data": STANDARD.encode(content),
                "Labels": { INSTALL: labels.install, INSTANCE: labels.id.to_string(), SECRET: file },
            });
            let (spec, known) = (&spec, name.as_str());
            let make = |engine: Engine| async move {
                match engine.create(Kind::Secret, spec).await {
                    // An earlier attempt at the same instance made it.
                    Err(error) if error.is_conflict() => {
                        let there = engine.inspect(Kind::Secret, known).await?;
                        there.map(|there| there.id().to_owned()).ok_or(error)
                    }
                    made => made,
                }
            };
            let id = self.managers.ask(make).await.map_err(|error| {
                BackendError::Platform(format!("the secret `{file}` cannot be given to the Swarm: {error}"))
            })?;
            made.push(Secret { id, name, file });
        }
        Ok(made)
    }
}

/// An image that a node fetches.
struct Pulling {
    host: String,
    percent: watch::Receiver<u8>,
    _asking: AbortOnDropHandle<()>,
}

/// What is said of it next; never, when nothing is.
async fn pulled(pulling: &mut Option<Pulling>) -> String {
    if let Some(Pulling { host, percent, .. }) = pulling
        && percent.changed().await.is_ok()
    {
        return format!("pulling {} % on {host}", *percent.borrow_and_update());
    }
    std::future::pending().await
}

/// Why a task does not run.
enum Failed {
    Finally(BackendError),
    /// Its node's engine, restarted under running instances, refuses to make the network it already has. Its name.
    NetworkLeftOver(String),
}

impl From<BackendError> for Failed {
    fn from(error: BackendError) -> Self {
        Self::Finally(error)
    }
}

fn left_over(host: &str) -> BackendError {
    BackendError::Platform(format!(
        "the node {host} has too many networks of apps left over from restarts of its engine; stop the engine, remove \
         /var/lib/docker/network/files/local-kv.db and start it again"
    ))
}

/// Nothing is heard of it. Only networks of the app's own are the Swarm's to give addresses of: Skep's is each node's own.
fn unheard(task: Option<&Task>, image: &Image, ordered: Duration) -> Result<(), BackendError> {
    let said = match task {
        Some(task) if task.is_unseen() && !image.networks.is_empty() && ordered >= UNSEEN_FOR => {
            "the Swarm gives its task no address: a network it is to join is full; give that network a larger subnet, \
             or stop what else is in it"
        }
        Some(task) if task.is_unseen() && ordered >= UNHEARD_FOR => {
            "the Swarm's managers have not looked at its task for a minute: they are busy, or electing a leader"
        }
        None if ordered >= UNHEARD_FOR => "the Swarm has said nothing of its task for a minute",
        _ => return Ok(()),
    };
    Err(BackendError::Platform(said.to_owned()))
}

/// Where the app listens inside. The image may be known to no manager.
fn port(image: &Image, found: Option<&Document>) -> Result<u16, BackendError> {
    match (image.port, found) {
        (Some(port), _) => Ok(port),
        (None, Some(found)) => container::port(image, found),
        (None, None) => Err(app_error(format!(
            "the image `{}` is not on the manager, which could tell the port it exposes; set `container.port`",
            image.name
        ))),
    }
}

/// The image by its digest, when a manager has it: nodes that have it too need not ask its registry then.
fn pinned(image: &Image, reference: &Reference, found: Option<&Document>) -> String {
    let digests =
        found.filter(|_| image.pull != Pull::Always).and_then(|found| found.at("/RepoDigests")?.as_array());
    let same = |digest: &&str| {
        digest.parse::<Reference>().is_ok_and(|digest| {
            (digest.name(), digest.registry()) == (reference.name(), reference.registry())
        })
    };
    let mut digests = digests.into_iter().flatten().filter_map(|digest| digest.as_str());
    digests.find(same).map_or_else(|| reference.to_string(), str::to_owned)
}

/// The managers would not make the service.
fn refused(error: &Error) -> BackendError {
    let Error::Refused { status, message, .. } = error else { return swarm(error) };
    // What their own checks find comes as an internal error, in the words of their own calls.
    let found = ["code = InvalidArgument", "constraint", "code = NotFound"];
    if !matches!(status, 400 | 404) && !found.iter().any(|words| message.contains(words)) {
        return swarm(error);
    }
    let said = message.split_once(" desc = ").map_or(message.as_str(), |(_, said)| said);
    app_error(format!("its service cannot be made: {said}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_pinned_where_that_is_known() {
        let reference: Reference = "registry.example/team/app:1".parse().unwrap();
        let digest = format!("registry.example/team/app@sha256:{}", "a".repeat(64));
        let found = Document::new(json!({ "RepoDigests": ["other/app@sha256:00", digest] }));
        let mut image = Image::new("registry.example/team/app:1");
        assert_eq!(pinned(&image, &reference, Some(&found)), digest);
        assert_eq!(pinned(&image, &reference, None), reference.to_string());
        let built_here = Document::new(json!({ "RepoDigests": [] }));
        assert_eq!(pinned(&image, &reference, Some(&built_here)), reference.to_string());
        image.pull = Pull::Always;
        assert_eq!(pinned(&image, &reference, Some(&found)), reference.to_string());
        assert!(port(&image, None).unwrap_err().to_string().contains("container.port"));
    }

    #[test]
    fn what_the_managers_refuse_is_the_apps_and_their_trouble_is_not() {
        let said = |status, message: &str| {
            let (call, message) = ("POST /services/create".to_owned(), message.to_owned());
            refused(&Error::Refused { call, status, message })
        };
        let constraint =
            said(500, "rpc error: code = Unknown desc = constraint expected one operator from ==, !=");
        assert_eq!(
            constraint.to_string(),
            "its service cannot be made: constraint expected one operator from ==, !="
        );
        assert!(matches!(said(404, "network absent not found"), BackendError::App { .. }));
        assert!(matches!(said(500, "The swarm does not have a leader"), BackendError::Platform(_)));
        assert!(matches!(said(500, "write: no space left on device"), BackendError::Platform(_)));
    }

    #[test]
    fn a_silent_swarm_is_not_waited_for_for_ever() {
        let unseen = Task::of(&Document::new(json!({ "Status": { "State": "new" } })));
        let seen = Task::of(&Document::new(json!({ "Status": { "State": "pending" } })));
        let alone = Image::new("team/app");
        let joining = Image { networks: vec!["db".to_owned()], ..alone.clone() };
        assert!(unheard(Some(&unseen), &joining, Duration::from_secs(14)).is_ok());
        let full = unheard(Some(&unseen), &joining, UNSEEN_FOR).unwrap_err().to_string();
        assert!(full.contains("network it is to join is full"), "{full}");
        assert!(unheard(Some(&unseen), &alone, UNSEEN_FOR).is_ok(), "it has no network that could be full");
        let busy = unheard(Some(&unseen), &alone, UNHEARD_FOR).unwrap_err().to_string();
        assert!(busy.contains("managers have not looked at its task"), "{busy}");
        assert!(
            unheard(Some(&seen), &joining, Duration::from_secs(3600)).is_ok(),
            "that is the start timeout's"
        );
        assert!(unheard(None, &alone, UNSEEN_FOR).is_ok() && unheard(None, &alone, UNHEARD_FOR).is_err());
    }
}
