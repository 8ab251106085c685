//! Finding, after a restart, what earlier servers started.
//!
//! Every instance folder is looked at once. A held lock means a living shim: the instance is attended to again. A free
//! one means that nothing may run any more: what is left is swept, and an end nobody was told of is reported.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use skep_launch::{Adopted, BackendError, BackendEvent, Launched};
use skep_model::InstanceId;

use super::attend::conclude;
use super::environment::blocking;
use super::folder::{self, Folder, State};
use super::launching::dialer;
use super::{Inner, Instance, Life, exit};
use crate::framework::Endpoint;

/// What became of one folder.
enum Found {
    Alive(Box<Adopted>, Box<State>),
    /// It ended, and nobody was told.
    Ended(BackendEvent),
    Nothing,
}

impl Inner {
    pub(super) async fn adopt(self: Arc<Self>) -> Result<Vec<Adopted>, BackendError> {
        let inner = Arc::clone(&self);
        let found = blocking(move || inner.look()).await?;
        let mut adopted = Vec::new();
        let mut ended = Vec::new();
        for found in found {
            match found {
                Found::Alive(instance, state) => {
                    self.attend_again(&instance, *state);
                    adopted.push(*instance);
                }
                Found::Ended(event) => ended.push(event),
                Found::Nothing => {}
            }
        }
        // Not awaited: the launcher may listen only once it has this answer.
        let events = self.events.clone();
        tokio::spawn(async move {
            for event in ended {
                if events.send(event).await.is_err() {
                    return;
                }
            }
        });
        let inner = Arc::clone(&self);
        // Housekeeping; the answer does not wait for it.
        tokio::task::spawn_blocking(move || inner.tidy());
        Ok(adopted)
    }

    fn look(&self) -> Vec<Found> {
        let folders = folder::list(&self.instances_dir);
        let known = |id: &InstanceId| self.instances.lock().contains_key(id);
        folders
            .into_iter()
            .filter(|(id, _)| !known(id))
            .map(|(id, folder)| self.look_at(id, &folder))
            .collect()
    }

    fn look_at(&self, id: InstanceId, folder: &Folder) -> Found {
        if folder.is_settled() {
            return Found::Nothing;
        }
        let Some(state) = folder.state().filter(|state| state.id == id) else {
            // The server was killed while it made the folder, or somebody else put something there.
            tracing::warn!(instance = %id, "a folder without a readable state is removed");
            folder.remove();
            return Found::Nothing;
        };
        if let Some(exit) = conclude(folder, &state, false) {
            let event = BackendEvent::Exited { id, report: exit::report(folder, Some(&state), &exit) };
            self.clear(&state);
            folder.settle();
            return Found::Ended(event);
        }
        if let Endpoint::Port(port) = state.endpoint {
            self.places.keep_port(port);
        }
        let ready_ms = folder.ready_ms();
        let launched = Launched {
            dial: dialer(&state.endpoint),
            pid: folder.shim().and_then(|file| file.app).map(|app| app.pid),
            node: "local".to_owned(),
        };
        let adopted = Adopted {
            id,
            launched,
            revision: state.revision,
            owner: state.owner.clone(),
            started_at_ms: state.started_at_ms,
            was_ready: ready_ms.is_some(),
            ready_ms,
            seats: folder.seats().unwrap_or_default(),
        };
        Found::Alive(Box::new(adopted), Box::new(state))
    }

    fn attend_again(self: &Arc<Self>, adopted: &Adopted, state: State) {
        let life = Life::Running(adopted.launched.clone());
        let instance = Arc::new(Instance::new(adopted.id.clone(), self.folder(&adopted.id), life));
        self.instances.lock().insert(adopted.id.clone(), Arc::clone(&instance));
        tokio::spawn(Arc::clone(self).attend_to_the_end(instance, state));
    }

    /// Removes what nobody needs any more: folders of long-ended instances, environments unused for long,
    /// control groups without an owner.
    fn tidy(&self) {
        let now = SystemTime::now();
        let folders = folder::list(&self.instances_dir);
        let in_use: Vec<PathBuf> = folders
            .iter()
            .filter(|(_, folder)| !folder.is_settled())
            .filter_map(|(_, folder)| folder.state())
            .map(|state| PathBuf::from(state.program))
            .collect();
        let mut apps: Vec<_> = folders.into_iter().map(|(id, _)| id.app().clone()).collect();
        apps.sort_unstable();
        apps.dedup();
        for app in apps {
            folder::prune(&self.instances_dir, &app, now);
        }
        self.environments.sweep(&in_use, now);
        self.groups.tidy(now);
    }
}
