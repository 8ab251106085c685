//! From the order for an instance to a container that can be dialled.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use skep_docker::{Container, Document, Error};
use skep_launch::{BackendError, Dial, LaunchOrder, Launched, ProgressSink, Stage, Stream};
use skep_model::{AppSpec, Image, InstanceId};

use super::order::{self, Plan, labels_of};
use super::{DialBy, Inner, Instance, network};
use crate::container::labels::Labels;
use crate::container::words::{not_started, platform};
use crate::container::{self, app_error};
use crate::table::{blocking, now_ms, stopped_early};

/// How long, and how often, a launch that fell between two networks is tried again: a busy engine takes seconds for one.
const NETWORK_SETTLES: Duration = Duration::from_secs(20);
const NETWORK_AGAIN: Duration = Duration::from_millis(100);

/// Why a container does not run.
enum NotUp {
    /// Its network was being sorted out; nothing is left of the container.
    InDoubt(Error),
    Failed(BackendError),
}

impl From<BackendError> for NotUp {
    fn from(error: BackendError) -> Self {
        Self::Failed(error)
    }
}

impl Inner {
    /// Launches an instance. Whatever of it was made is removed when that fails.
    pub(super) async fn see_through(
        self: Arc<Self>,
        instance: Arc<Instance>,
        order: LaunchOrder,
        progress: ProgressSink,
    ) {
        match self.launch(&instance, &order, &progress).await {
            Ok(launched) => self.table.run(&instance, launched),
            Err(error) => {
                self.undo(&instance.id).await;
                self.table.fail(&instance, error);
            }
        }
        // It may have ended before anybody knew that it runs.
        if let Some(container) = instance.own.container() {
            self.touch(container);
        }
    }

    async fn launch(
        self: &Arc<Self>,
        instance: &Instance,
        order: &LaunchOrder,
        progress: &ProgressSink,
    ) -> Result<Launched, BackendError> {
        let (image, reference) = container::image(&order.spec)?;
        let image = &container::for_owner(image, order)?;
        let notes = self.notes.clone();
        let disk =
            |e: std::io::Error| BackendError::Platform(format!("Skep cannot use its data folder: {e}"));
        let install = blocking(move || notes.make_install()).await?.map_err(disk)?;
        self.keep_watch(&install);
        let inspected = tokio::select! {
            inspected = self.ensure_image(image, &reference, progress) => inspected?,
            // Later steps are short, and are not left half done.
            () = instance.stop_asked() => return Err(stopped_early()),
        };
        progress.report(Stage::Start, "starting the container");
        let mut labels = Labels {
            network: self.ensure_network().await?,
            install,
            id: instance.id.clone(),
            revision: order.spec.revision,
            owner: order.owner.clone(),
            variant: order.variant.clone(),
            started_at_ms: now_ms(),
            port: container::port(image, &inspected)?,
            memory_limit: order.spec.limits.memory,
        };
        let (notes, id, spec) = (self.notes.clone(), instance.id.clone(), Arc::clone(&order.spec));
        let secrets = blocking(move || {
            notes.make(&id).map_err(disk)?;
            lay_out_secrets(&notes, &id, &spec)
        });
        let secrets = secrets.await??;
        if instance.grace().is_some() || self.table.is_deserted() {
            return Err(stopped_early());
        }
        let begun = Instant::now();
        let container = loop {
            let spec = order::spec(&Plan {
                order,
                image,
                labels: &labels,
                reference: &reference,
                publish: self.config.dial == DialBy::Port,
                secrets: &secrets,
            });
            match self.put_up(instance, image, &labels, &spec).await {
                Err(NotUp::InDoubt(error)) if begun.elapsed() < NETWORK_SETTLES => {
                    tracing::info!(instance = %instance.id, %error, "its network was being sorted out; trying again");
                }
                Err(NotUp::InDoubt(error)) => return Err(not_started(image, &error)),
                Err(NotUp::Failed(error)) => return Err(error),
                Ok(container) => break container,
            }
            tokio::select! {
                () = tokio::time::sleep(NETWORK_AGAIN) => {}
                () = instance.stop_asked() => return Err(stopped_early()),
            }
            labels.network = self.ensure_network().await?;
        };
        let inspected = self.engine.inspect_container(&container).await.map_err(|e| platform(&e))?;
        let inspected =
            inspected.ok_or_else(|| app_error("its container was removed while it was started"))?;
        progress.report(Stage::Boot, "the container runs");
        if !inspected.state().running {
            // Its last words say more than that it has no address.
            let report = self.report(&inspected, false).await;
            let (summary, last_lines) = (report.1.reason, report.1.last_lines);
            return Err(BackendError::App { summary, last_lines });
        }
        self.launched(&inspected, &labels)
    }

    /// Makes the container and starts it. Answers its id.
    async fn put_up(
        &self,
        instance: &Instance,
        image: &Image,
        labels: &Labels,
        spec: &serde_json::Value,
    ) -> Result<String, NotUp> {
        let container = self.create(labels, spec).await?;
        *instance.own.container.lock() = Some(container.clone());
        for network in &image.networks {
            self.engine.connect_network(network, &container).await.map_err(|e| not_started(image, &e))?;
        }
        match self.engine.start_container(&container).await {
            Ok(_) => Ok(container),
            Err(error) if network::is_in_doubt(&error) => {
                // It belongs to a network that may be the one to go.
                *instance.own.container.lock() = None;
                self.engine.remove_container(&container).await.map_err(|e| platform(&e))?;
                Err(NotUp::InDoubt(error))
            }
            Err(error) => Err(not_started(image, &error).into()),
        }
    }

    /// Makes the container, or finds the one an earlier attempt at the same instance made.
    async fn create(&self, labels: &Labels, spec: &serde_json::Value) -> Result<String, NotUp> {
        let name = order::name(&labels.id);
        match self.engine.create_container(&name, spec).await {
            Ok(id) => Ok(id),
            Err(error) if network::is_in_doubt(&error) => Err(NotUp::InDoubt(error)),
            Err(error) if error.is_conflict() => {
                let there = self.engine.inspect_container(&name).await.map_err(|e| platform(&e))?;
                let ours = there.filter(|there| is_ours(there, &labels.install, &labels.id));
                let ours = ours.map(|there| there.id().to_owned());
                ours.ok_or_else(|| {
                    let taken = format!("another container is called `{name}`; rename or remove it");
                    NotUp::Failed(BackendError::Platform(taken))
                })
            }
            Err(error) if error.is_not_found() => {
                Err(app_error(format!("its image was removed while it was started: {error}")).into())
            }
            Err(error) => Err(refused(&error).into()),
        }
    }

    /// How a running container is dialled.
    pub(super) fn launched(&self, container: &Container, labels: &Labels) -> Result<Launched, BackendError> {
        let address = match self.config.dial {
            DialBy::Address => container
                .address_in(&labels.network)
                .map(|ip| SocketAddr::new(ip, labels.port))
                .ok_or_else(|| self.unreachable("has no address")),
            DialBy::Port => container
                .published(labels.port)
                .map(|port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port))
                .ok_or_else(|| self.unreachable("has no published port")),
        };
        let pid = container.state().pid;
        Ok(Launched { dial: Arc::new(Dialer(address?)), pid, node: "local".to_owned() })
    }

    fn unreachable(&self, what: &str) -> BackendError {
        let network = &self.config.network;
        BackendError::Platform(format!("its container {what} in the network `{network}`"))
    }

    /// Removes whatever a launch made; a container somebody else gave that name stays.
    async fn undo(&self, id: &InstanceId) {
        let (notes, known) = (self.notes.clone(), id.clone());
        let install = blocking(move || {
            notes.remove(&known);
            notes.install()
        });
        let Ok(Some(install)) = install.await else { return };
        let removed = async {
            let there = self.engine.inspect_container(&order::name(id)).await?;
            match there.filter(|there| is_ours(there, &install, id)) {
                Some(ours) => self.engine.remove_container(ours.id()).await.map(drop),
                None => Ok(()),
            }
        };
        if let Err(error) = removed.await
            && !error.is_transport()
        {
            tracing::warn!(instance = %id, %error, "what is left of a launch cannot be removed");
        }
    }
}

fn is_ours(container: &Container, install: &str, id: &InstanceId) -> bool {
    labels_of(&container.0).is_some_and(|labels| labels.install == install && labels.id == *id)
}

/// Reads each secret from its file and writes it to where the container finds it. Answers secret → file.
fn lay_out_secrets(
    notes: &super::Notes,
    id: &InstanceId,
    spec: &AppSpec,
) -> Result<BTreeMap<String, PathBuf>, BackendError> {
    let mut files = BTreeMap::new();
    for (name, value) in container::secrets(spec)? {
        let laid = notes.put_secret(id, &name, &value);
        let laid =
            laid.map_err(|e| BackendError::Platform(format!("the secret `{name}` cannot be laid out: {e}")))?;
        files.insert(name, laid);
    }
    Ok(files)
}

/// The engine would not make the container.
fn refused(error: &Error) -> BackendError {
    match error {
        Error::Refused { status: 400, message, .. } => {
            app_error(format!("its container cannot be made: {message}"))
        }
        other => platform(other),
    }
}

struct Dialer(SocketAddr);

impl Dial for Dialer {
    fn dial(&self) -> BoxFuture<'static, std::io::Result<Stream>> {
        let address = self.0;
        Box::pin(async move {
            let stream = tokio::net::TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            Ok(Stream::Tcp(stream))
        })
    }

    fn describe(&self) -> String {
        self.0.to_string()
    }
}

/// Whether a listed container runs.
pub(super) fn runs(listed: &Document) -> bool {
    matches!(listed.text("/State"), Some("running" | "paused" | "restarting"))
}
