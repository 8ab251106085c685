//! Finding, after a restart, what earlier servers started.
//!
//! Every instance folder is looked at once. A held lock means a living shim: the instance is attended to again. A free
//! one means that nothing may run any more: what is left is swept, and an end nobody was told of is reported.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use skep_launch::{Adopted, BackendError, ExitReport, Launched};
use skep_model::InstanceId;

use super::attend::conclude;
use super::folder::{self, Folder, State};
use super::launching::dialer;
use super::{Inner, exit};
use crate::framework::Endpoint;
use crate::table::blocking;

/// What became of one folder.
enum Found {
    Alive(Box<Adopted>, Box<State>),
    /// It ended, and nobody was told.
    Ended(InstanceId, ExitReport),
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
                Found::Ended(id, report) => ended.push((id, report)),
                Found::Nothing => {}
            }
        }
        self.table.tell(ended);
        let inner = Arc::clone(&self);
        // Housekeeping; the answer does not wait for it.
        tokio::task::spawn_blocking(move || inner.tidy());
        Ok(adopted)
    }

    fn look(&self) -> Vec<Found> {
        let folders = folder::list(&self.instances_dir);
        let known = |id: &InstanceId| self.table.get(id).is_some();
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
            let report = exit::report(folder, Some(&state), &exit);
            self.clear(&state);
            folder.settle();
            return Found::Ended(id, report);
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
            variant: state.variant.clone(),
            started_at_ms: state.started_at_ms,
            was_ready: ready_ms.is_some(),
            ready_ms,
            seats: folder.seats().unwrap_or_default(),
        };
        Found::Alive(Box::new(adopted), Box::new(state))
    }

    fn attend_again(self: &Arc<Self>, adopted: &Adopted, state: State) {
        let (id, launched) = (adopted.id.clone(), adopted.launched.clone());
        let folder = self.folder(&id);
        let instance = self.table.adopt(id, launched, folder);
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
