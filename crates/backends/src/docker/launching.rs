//! From the order for an instance to a container that can be dialled.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde_json::json;
use skep_docker::{Container, Document, Error, Kind};
use skep_launch::{BackendError, Dial, LaunchOrder, Launched, ProgressSink, Stage, Stream};
use skep_model::{AppSpec, Image, InstanceId};

use super::image::platform;
use super::order::{self, Labels, Plan};
use super::{DialBy, Inner, Instance, Life, app_error, blocking, now_ms};
use crate::secret;

impl Inner {
    /// Launches an instance. Whatever of it was made is removed when that fails.
    pub(super) async fn see_through(
        self: Arc<Self>,
        instance: Arc<Instance>,
        order: LaunchOrder,
        progress: ProgressSink,
    ) {
        let launched = self.launch(&instance, &order, &progress).await;
        let life = match launched {
            Ok(launched) => Life::Running(launched),
            Err(error) => {
                self.undo(&instance.id).await;
                self.instances.lock().remove(&instance.id);
                Life::Failed(error)
            }
        };
        instance.life.send_replace(life);
        // It may have ended before anybody knew that it runs.
        let container = instance.container.lock().clone();
        if let Some(container) = container {
            self.touch(container);
        }
    }

    async fn launch(
        self: &Arc<Self>,
        instance: &Instance,
        order: &LaunchOrder,
        progress: &ProgressSink,
    ) -> Result<Launched, BackendError> {
        let (image, reference) = order::image(&order.spec)?;
        let notes = self.notes.clone();
        let disk =
            |e: std::io::Error| BackendError::Platform(format!("Skep cannot use its data folder: {e}"));
        let install = blocking(move || notes.make_install()).await?.map_err(disk)?;
        // The launcher orders starts only once it knows what is alive, or has given up to learn it.
        self.watch.adopted.store(true, Ordering::Release);
        self.keep_watch(&install);
        let mut stop = instance.stop.subscribe();
        let inspected = tokio::select! {
            inspected = self.ensure_image(image, &reference, progress) => inspected?,
            // Later steps are short, and are not left half done.
            _ = stop.wait_for(|stop| *stop) => return Err(stopped_early()),
        };
        progress.report(Stage::Start, "starting the container");
        let labels = Labels {
            network: self.ensure_network().await?,
            install,
            id: instance.id.clone(),
            revision: order.spec.revision,
            owner: order.owner.clone(),
            started_at_ms: now_ms(),
            port: order::port(image, &inspected)?,
            memory_limit: order.spec.limits.memory,
        };
        let (notes, id, spec) = (self.notes.clone(), instance.id.clone(), Arc::clone(&order.spec));
        let secrets = blocking(move || {
            notes.make(&id).map_err(disk)?;
            lay_out_secrets(&notes, &id, &spec)
        });
        let secrets = secrets.await??;
        if *instance.stop.borrow() || self.events.is_closed() {
            return Err(stopped_early());
        }
        let spec = order::container(&Plan {
            order,
            image,
            labels: &labels,
            reference: &reference,
            publish: self.config.dial == DialBy::Port,
            secrets: &secrets,
        });
        let container = self.create(&labels, &spec).await?;
        *instance.container.lock() = Some(container.clone());
        for network in &image.networks {
            self.engine.connect_network(network, &container).await.map_err(|e| not_started(image, &e))?;
        }
        let started = unambiguous(|| self.engine.start_container(&container)).await;
        started.map_err(|e| not_started(image, &e))?;
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

    /// Makes the container, or finds the one an earlier attempt at the same instance made.
    async fn create(&self, labels: &Labels, spec: &serde_json::Value) -> Result<String, BackendError> {
        let name = order::name(&labels.id);
        match unambiguous(|| self.engine.create_container(&name, spec)).await {
            Ok(id) => Ok(id),
            Err(error) if error.is_conflict() => {
                let there = self.engine.inspect_container(&name).await.map_err(|e| platform(&e))?;
                let ours = there.filter(|there| is_ours(there, &labels.install, &labels.id));
                let ours = ours.map(|there| there.id().to_owned());
                ours.ok_or_else(|| {
                    BackendError::Platform(format!(
                        "another container is called `{name}`; rename or remove it"
                    ))
                })
            }
            Err(error) if error.is_not_found() => {
                Err(app_error(format!("its image was removed while it was started: {error}")))
            }
            Err(error) => Err(refused(&error)),
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

    /// The id of the network every instance is in. Made without traffic between its containers; one that is there is used
    /// as it is.
    async fn ensure_network(&self) -> Result<String, BackendError> {
        // Names of networks are not unique: of two that are made at once, both come to be.
        let _one_at_a_time = self.network.lock().await;
        if let Some(id) = self.find_network().await? {
            return Ok(id);
        }
        let name = &self.config.network;
        let spec = json!({
            "Name": name,
            "Driver": "bridge",
            "CheckDuplicate": true,
            "Options": { "com.docker.network.bridge.enable_icc": "false" },
            "Labels": { "skep.network": "instances" },
        });
        let made = match self.engine.create(Kind::Network, &spec).await {
            Ok(made) => Some(made),
            Err(error) if error.is_conflict() => None,
            Err(error) => {
                return Err(BackendError::Platform(format!("the network `{name}` cannot be made: {error}")));
            }
        };
        // Another server on this engine may have been at it, too: all take the same one.
        let id = self.find_network().await?;
        if let Some(made) = made.filter(|made| id.as_ref().is_some_and(|id| id != made)) {
            let _ = self.engine.remove(Kind::Network, &made).await;
        }
        id.ok_or_else(|| {
            BackendError::Platform(format!("the network `{name}` was removed while it was made"))
        })
    }

    /// The oldest network of the configured name.
    async fn find_network(&self) -> Result<Option<String>, BackendError> {
        let name = self.config.network.as_str();
        let found = self.engine.list(Kind::Network, &[("name", name)]).await.map_err(|e| platform(&e))?;
        let exact = found.iter().filter(|network| network.text("/Name") == Some(name));
        let oldest = exact.min_by_key(|network| (network.text("/Created"), network.id()));
        Ok(oldest.map(|network| network.id().to_owned()))
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

fn stopped_early() -> BackendError {
    BackendError::Platform("stopped before it was started".to_owned())
}

fn is_ours(container: &Container, install: &str, id: &InstanceId) -> bool {
    Labels::of(&container.0).is_some_and(|labels| labels.install == install && labels.id == *id)
}

/// Reads each secret from its file and writes it to where the container finds it. Answers secret → file.
fn lay_out_secrets(
    notes: &super::Notes,
    id: &InstanceId,
    spec: &AppSpec,
) -> Result<BTreeMap<String, PathBuf>, BackendError> {
    let mut files = BTreeMap::new();
    for (name, file) in &spec.secrets {
        let value = secret::read(name, file)?;
        let laid = notes.put_secret(id, name, &value);
        let laid =
            laid.map_err(|e| BackendError::Platform(format!("the secret `{name}` cannot be laid out: {e}")))?;
        files.insert(name.clone(), laid);
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

/// The container was made and did not start.
fn not_started(image: &Image, error: &Error) -> BackendError {
    let Some(said) = error.message() else { return platform(error) };
    let name = &image.name;
    let has = |words: &[&str]| words.iter().any(|word| said.contains(word));
    if has(&["no space left"]) {
        return platform(error);
    }
    if has(&["executable file not found", "no such file or directory: unknown"]) {
        return app_error(format!(
            "a program it is to run is not in the image `{name}`: {}",
            innermost(said)
        ));
    }
    if has(&["unable to find user", "no matching entries in passwd"]) {
        return app_error(format!(
            "`container.user` is not known in the image `{name}`: {}",
            innermost(said)
        ));
    }
    if has(&["permission denied", "exec format error", "OCI runtime", "oci runtime", "mount"])
        || error.is_not_found()
    {
        return app_error(format!("its container does not start: {}", innermost(said)));
    }
    BackendError::Platform(format!("its container does not start: {said}"))
}

/// The end of a chain of causes, where the cause is.
fn innermost(said: &str) -> String {
    let said = said.strip_suffix(": unknown").unwrap_or(said);
    let at = ["unable to start container process: ", "runc create failed: ", "error during container init: "]
        .iter()
        .filter_map(|mark| said.find(mark).map(|at| at + mark.len()))
        .max();
    said[at.unwrap_or(0)..].to_owned()
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

/// While servers that start at once make their network, there are two of its name for a moment, and the engine, which looks
/// it up by name even when told its id, takes neither.
async fn unambiguous<T, F>(call: impl Fn() -> F) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    let mut tries = 0;
    loop {
        match call().await {
            Err(error) if tries < 20 && error.to_string().contains("is ambiguous") => tries += 1,
            done => return done,
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_that_fails_is_explained() {
        let image = Image::new("team/app");
        let said = |message: &str| {
            let (call, message) = ("POST".to_owned(), message.to_owned());
            not_started(&image, &Error::Refused { call, status: 500, message })
        };
        let missing = said(
            "failed to create shim task: OCI runtime create failed: runc create failed: unable to start container \
             process: exec: \"nosuch\": executable file not found in $PATH: unknown",
        );
        assert_eq!(
            missing.to_string(),
            "a program it is to run is not in the image `team/app`: exec: \"nosuch\": executable file not found in $PATH"
        );
        let user = said("unable to find user nobody2: no matching entries in passwd file");
        assert!(user.to_string().contains("`container.user` is not known"), "{user}");
        assert!(
            matches!(said("write /x: no space left on device"), BackendError::Platform(t) if t.contains("full"))
        );
        assert!(matches!(said("driver failed programming external connectivity"), BackendError::Platform(_)));
    }

    #[tokio::test]
    async fn two_networks_of_one_name_are_waited_out() {
        let answer = |message: &str| {
            let (call, message) = ("POST".to_owned(), message.to_owned());
            Err::<(), _>(Error::Refused { call, status: 400, message })
        };
        let calls = std::cell::Cell::new(0);
        let call = || {
            calls.set(calls.get() + 1);
            let ambiguous = answer("network skep is ambiguous (2 matches found on name)");
            std::future::ready(if calls.get() < 3 { ambiguous } else { Ok(()) })
        };
        assert!(unambiguous(call).await.is_ok());
        assert_eq!(calls.get(), 3);
        assert!(unambiguous(|| std::future::ready(answer("no such image"))).await.is_err());
    }
}
