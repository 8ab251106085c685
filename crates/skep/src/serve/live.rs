//! Changes while the server runs: folders, config, certificates.
//!
//! One task reads, everybody else receives finished lists. What is broken keeps its last good state and is told once, in the
//! log and in the journal.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use skep_control::PortalConfig;
use skep_control::services::ServiceAsk;
use skep_edge::Certificates;
use skep_launch::Handle;
use skep_model::{AppSpec, Event, EventKind};
use tokio::sync::{mpsc, watch};
use tokio_util::task::AbortOnDropHandle;

use super::note;
use super::publish::Publisher;
use crate::config::{Config, Dirty, Loader, ServerKeys};
use crate::systemd;
use crate::watch::Watcher;

/// Between two looks at the certificate files.
const CERTIFICATES_EVERY: Duration = Duration::from_secs(30);

/// The task's handle. Dropping it ends the watching.
pub(crate) struct Live {
    task: Option<AbortOnDropHandle<()>>,
    reload: mpsc::Sender<()>,
}

impl Live {
    pub(crate) fn start(
        loader: Loader,
        config: Config,
        handle: Handle,
        publisher: Publisher,
        told: Told,
        journal: mpsc::Sender<Event>,
        certificates: Option<Certificates>,
    ) -> Self {
        let (reload, asked) = mpsc::channel(1);
        let mistakes = config.refused.iter().map(ToString::to_string).collect();
        let loader = Some(loader);
        let follower = Follower { loader, config, handle, publisher, told, journal, certificates, mistakes };
        Self { task: Some(AbortOnDropHandle::new(tokio::spawn(follower.follow(asked)))), reload }
    }

    /// Looks at everything again. One look in waiting is enough.
    pub(crate) fn reload(&self) {
        let _ = self.reload.try_send(());
    }

    /// Publishes nothing from now on.
    pub(crate) fn pause(&mut self) {
        self.task = None;
    }
}

struct Follower {
    /// Away while it reads, on a thread that may block.
    loader: Option<Loader>,
    config: Config,
    handle: Handle,
    publisher: Publisher,
    told: Told,
    journal: mpsc::Sender<Event>,
    certificates: Option<Certificates>,
    /// Mistakes told already.
    mistakes: BTreeSet<String>,
}

/// What others follow.
pub(crate) struct Told {
    /// Services the config names.
    pub(crate) services: watch::Sender<Arc<[ServiceAsk]>>,
    pub(crate) portal: watch::Sender<Arc<PortalConfig>>,
}

impl Follower {
    async fn follow(mut self, mut asked: mpsc::Receiver<()>) {
        let mut watcher = Watcher::new();
        let mut certificates = tokio::time::interval(CERTIFICATES_EVERY);
        let mut seen = self.certificate_times();
        watcher.follow(self.config.watched.clone(), &Dirty::All);
        if let Some(why) = watcher.polling() {
            tracing::warn!("{why}");
        }
        // What changed after it was read and before it was watched.
        self.look(Dirty::All).await;
        self.watch_found(&mut watcher, &Dirty::All).await;
        loop {
            let mut by_hand = false;
            let dirty = tokio::select! {
                dirty = watcher.changed() => dirty,
                Some(()) = asked.recv() => {
                    by_hand = true;
                    Dirty::All
                }
                _ = certificates.tick() => {
                    let times = self.certificate_times();
                    if times != seen {
                        seen = times;
                        self.reload_certificates();
                    }
                    continue;
                }
            };
            if by_hand {
                systemd::notify(&format!("RELOADING=1\nMONOTONIC_USEC={}", systemd::monotonic_usec()));
                self.reload_certificates();
            }
            self.look(dirty.clone()).await;
            let polling = watcher.polling().is_some();
            self.watch_found(&mut watcher, &dirty).await;
            if let Some(why) = watcher.polling().filter(|_| !polling) {
                tracing::warn!("{why}");
            }
            if by_hand {
                systemd::notify("READY=1");
            }
        }
    }

    /// Watches what was found. Folders that come under watch only now may have changed in between, and are looked at again.
    async fn watch_found(&mut self, watcher: &mut Watcher, dirty: &Dirty) {
        let mut new = watcher.follow(self.config.watched.clone(), dirty);
        while !new.is_empty() {
            self.look(Dirty::Folders(new)).await;
            new = watcher.follow(self.config.watched.clone(), &Dirty::Folders(BTreeSet::new()));
        }
    }

    /// Reads what is dirty and publishes what came of it.
    async fn look(&mut self, dirty: Dirty) {
        let Some(mut loader) = self.loader.take() else { return };
        let read = tokio::task::spawn_blocking(move || {
            let config = loader.load(&dirty);
            (loader, config)
        });
        let Ok((loader, config)) = read.await else {
            tracing::error!("reading the config ended by a panic; changes are not followed any more");
            return;
        };
        self.loader = Some(loader);
        match config {
            Ok(config) => self.publish(config),
            Err(problems) => self.tell(problems.0.iter().map(ToString::to_string).collect()),
        }
    }

    fn publish(&mut self, mut config: Config) {
        // What the command line said stays said.
        config.server.listen.clone_from(&self.config.server.listen);
        config.server.admin_listen = self.config.server.admin_listen;
        self.tell(config.refused.iter().map(ToString::to_string).collect());
        if config.server != self.config.server {
            let text = "the [server] part of the config has changed; `skep upgrade` puts it into effect";
            tracing::warn!("{text}");
            note(&self.journal, EventKind::ConfigChanged, text.to_owned());
        }
        let changes = changes(&self.config.apps, &config.apps);
        if !changes.is_empty() {
            self.handle.set_apps(config.apps.clone());
            self.publisher.set_apps(&config.apps);
            let text = changes.join(", ");
            tracing::info!("{text}");
            note(&self.journal, EventKind::ConfigChanged, text);
        }
        if config.routes != self.config.routes {
            self.told.services.send_replace(config.routes.as_slice().into());
            note(&self.journal, EventKind::ConfigChanged, "the routes to services have changed".to_owned());
        }
        if config.portal != self.config.portal {
            self.told.portal.send_replace(Arc::clone(&config.portal));
        }
        self.config = config;
    }

    /// Says each mistake once, and again when it has been mended and made anew.
    fn tell(&mut self, mistakes: BTreeSet<String>) {
        for mistake in mistakes.difference(&self.mistakes) {
            tracing::error!("{mistake} (the last good state stays in effect)");
            note(&self.journal, EventKind::ConfigRefused, mistake.clone());
        }
        self.mistakes = mistakes;
    }

    fn reload_certificates(&self) {
        let (Some(certificates), Some(tls)) = (&self.certificates, &self.config.server.tls) else { return };
        match certificates.reload(&tls.cert, &tls.key) {
            Ok(()) => tracing::info!("the certificate {} was read again", tls.cert.display()),
            Err(error) => {
                let text = format!("the new certificate is not used: {error}");
                tracing::error!("{text}");
                note(&self.journal, EventKind::ConfigRefused, text);
            }
        }
    }

    fn certificate_times(&self) -> Vec<Option<SystemTime>> {
        let ServerKeys { tls: Some(tls), .. } = &self.config.server else { return Vec::new() };
        let time = |path: &PathBuf| std::fs::metadata(path).and_then(|meta| meta.modified()).ok();
        [&tls.cert, &tls.key].into_iter().map(time).collect()
    }
}

/// What changed between two lists, both by id: `sales is new`, `maps has a new version`.
fn changes(before: &[Arc<AppSpec>], after: &[Arc<AppSpec>]) -> Vec<String> {
    let mut changes = Vec::new();
    for app in after {
        match before.binary_search_by(|other| other.id.cmp(&app.id)) {
            Err(_) => changes.push(format!("{} is new", app.id)),
            Ok(at) if before[at].revision != app.revision => {
                changes.push(format!("{} has a new version", app.id))
            }
            Ok(at) if before[at] != *app => changes.push(format!("{} has new settings", app.id)),
            Ok(_) => {}
        }
    }
    for app in before {
        if after.binary_search_by(|other| other.id.cmp(&app.id)).is_err() {
            changes.push(format!("{} is gone", app.id));
        }
    }
    changes
}
