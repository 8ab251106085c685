//! The course of one instance in this server: launch, attendance, stop.

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use skep_launch::{BackendError, Dial, ExitReport, LaunchOrder, Launched, ProgressSink, Stage, Stream};
use skep_model::InstanceId;

use futures_util::future::BoxFuture;

use super::environment::Need;
use super::folder::{self, State};
use super::identity::boot_id;
use super::order::{self, App};
use super::protocol::{LIMIT_ORDER, LOG_FILE, Order, Report, VERSION};
use super::{Inner, Instance, attend, cgroup, exit};
use crate::framework::Endpoint;
use crate::table::{blocking, not_started, now_ms, stopped_early};

/// From the start of the shim to its report.
const SHIM_DEADLINE: Duration = Duration::from_secs(20);
/// Beyond the grace of a stop: the shim kills, reaps and writes.
const STOP_MARGIN: Duration = Duration::from_secs(15);

impl Inner {
    /// Launches an instance, then attends to it until it is gone.
    pub(super) async fn see_through(
        self: Arc<Self>,
        instance: Arc<Instance>,
        order: LaunchOrder,
        progress: ProgressSink,
    ) {
        match self.launch(&instance, order, &progress).await {
            Ok((state, launched)) => {
                self.table.run(&instance, launched);
                self.attend_to_the_end(instance, state).await;
            }
            Err(error) => self.table.fail(&instance, error),
        }
    }

    async fn launch(
        self: &Arc<Self>,
        instance: &Arc<Instance>,
        order: LaunchOrder,
        progress: &ProgressSink,
    ) -> Result<(State, Launched), BackendError> {
        let spec = Arc::clone(&order.spec);
        let checked = blocking(move || {
            let app = order::check(&spec)?;
            let need = Need::of(&app.dir, spec.framework)
                .map_err(|summary| BackendError::App { summary, last_lines: Vec::new() })?;
            Ok::<_, BackendError>((app, need))
        });
        let (app, need) = checked.await??;
        let mut environment = None;
        if let Some(need) = need {
            progress.report(Stage::Environment, "looking for the app's environment");
            tokio::select! {
                built = self.environments.ensure(need, app.user.clone(), progress) => environment = Some(built?),
                () = instance.stop_asked() => return Err(stopped_early()),
            }
        }
        progress.report(Stage::Start, "starting the process");
        let (inner, started) = (Arc::clone(self), Arc::clone(instance));
        let sink = progress.clone();
        let (state, pid) =
            blocking(move || inner.start(&started, &order, &app, environment, &sink)).await??;
        let launched = Launched { dial: dialer(&state.endpoint), pid: Some(pid), node: "local".to_owned() };
        progress.report(Stage::Boot, "the process runs");
        Ok((state, launched))
    }

    /// The blocking part of a launch. Whatever it took is given back when it fails.
    fn start(
        &self,
        instance: &Instance,
        order: &LaunchOrder,
        app: &App,
        environment: Option<PathBuf>,
        progress: &ProgressSink,
    ) -> Result<(State, u32), BackendError> {
        if instance.grace().is_some() {
            return Err(stopped_early());
        }
        let short = instance.id.short();
        let user = order::become_user(&app.user);
        let paths = self.places.paths(&short, user.as_ref());
        let endpoint = self.endpoint(&order.spec, &paths)?;
        let mut state = State {
            v: VERSION,
            id: instance.id.clone(),
            boot: boot_id(),
            revision: order.spec.revision,
            owner: order.owner.clone(),
            variant: order.variant.clone(),
            started_at_ms: now_ms(),
            endpoint,
            control: paths.control.clone(),
            run: paths.run.clone(),
            groups: Vec::new(),
            memory_limit: order.spec.limits.memory,
            program: String::new(),
            entry: app.entry.clone(),
            own_environment: environment.is_some(),
        };
        let started = self.program(order, app, &state.endpoint, environment.as_deref()).and_then(|program| {
            state.program = program.argv.first().cloned().unwrap_or_default();
            self.places
                .make(&paths, user.as_ref())
                .map_err(|e| platform("make a folder for its socket", &e))?;
            let made = self.groups.make(&short, order.spec.limits);
            state.groups = made.dirs;
            instance.own.create(&state).map_err(|e| platform("make the instance's folder", &e))?;
            for warning in &made.warnings {
                tracing::warn!(instance = %instance.id, "{warning}");
                progress.report(Stage::Start, warning.as_str());
                let _ = std::fs::write(instance.own.path().join(LOG_FILE), format!("[skep] {warning}\n"));
            }
            let order = Order {
                v: VERSION,
                folder: instance.own.path().to_path_buf(),
                control: paths.control.clone(),
                argv: program.argv,
                env: program.env,
                cwd: app.dir.clone(),
                user,
                stop_signal: program.stop_signal,
                groups: state.groups.clone(),
                log_bytes: self.config.log_bytes,
            };
            self.start_shim(&instance.id, &order)
        });
        match started {
            Ok(pid) => Ok((state, pid)),
            Err(error) => {
                // A shim that never answered may yet have started something.
                attend::abandon(&instance.own, &state);
                self.clear(&state);
                instance.own.remove();
                Err(error)
            }
        }
    }

    /// Starts the shim and reads its report. Answers the app's process id.
    fn start_shim(&self, id: &InstanceId, order: &Order) -> Result<u32, BackendError> {
        let said = |what: &str, e: std::io::Error| {
            BackendError::Platform(format!("cannot {what} {}: {e}", self.config.shim_exe.display()))
        };
        // In memory only, and with nobody to wait for: the order may hold secrets.
        let memory = rustix::fs::memfd_create("skep-order", rustix::fs::MemfdFlags::CLOEXEC);
        let mut file = std::fs::File::from(memory.map_err(|e| said("prepare the order of", e.into()))?);
        let text = serde_json::to_vec(order).map_err(|e| said("write the order of", e.into()))?;
        if text.len() as u64 > LIMIT_ORDER {
            let summary = "its environment variables are too long: 4 MiB together".to_owned();
            return Err(BackendError::App { summary, last_lines: Vec::new() });
        }
        std::io::Write::write_all(&mut file, &text)
            .and_then(|()| std::io::Seek::rewind(&mut file))
            .map_err(|e| said("write the order of", e))?;
        let mut child = Command::new(&self.config.shim_exe)
            .args(&self.config.shim_args)
            .arg(id.to_string())
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(file))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|e| said("start the shim", e))?;
        let line = child.stdout.take().and_then(read_report);
        if line.is_none() {
            let _ = child.kill();
        }
        // The process started here only splits off the one that stays; it is over as soon as that one speaks.
        let _ = child.wait();
        let report: Option<Report> = line.and_then(|line| serde_json::from_slice(&line).ok());
        match report {
            Some(Report::Started { app, .. }) => Ok(app.pid),
            Some(Report::Failed(summary)) => Err(BackendError::App { summary, last_lines: Vec::new() }),
            None => Err(BackendError::Platform("the shim ended or hung without a report".to_owned())),
        }
    }

    pub(super) async fn attend_to_the_end(self: Arc<Self>, instance: Arc<Instance>, state: State) {
        let exit = self.attend(&instance, &state).await;
        let (inner, ended) = (Arc::clone(&self), Arc::clone(&instance));
        let report = blocking(move || {
            let report = exit::report(&ended.own, Some(&state), &exit);
            inner.clear(&state);
            ended.own.settle();
            folder::prune(&inner.instances_dir, ended.id.app(), SystemTime::now());
            report
        });
        let report = report.await.unwrap_or_else(|error| not_started(&error));
        self.table.end(&instance, report).await;
    }

    /// Gives back everything outside the instance's folder. Idempotent.
    pub(super) fn clear(&self, state: &State) {
        for group in &state.groups {
            cgroup::remove(group);
        }
        let _ = std::fs::remove_file(&state.control);
        // Only what has our shape is removed, whatever the file it was read from says.
        if state.run.ends_with(state.id.short()) {
            let _ = std::fs::remove_dir_all(&state.run);
        }
        if let Endpoint::Port(port) = state.endpoint {
            self.places.release_port(port);
        }
    }

    pub(super) async fn stop(&self, id: &InstanceId, grace: Duration) -> Result<ExitReport, BackendError> {
        let Some(instance) = self.table.get(id) else {
            let folder = self.folder(id);
            return blocking(move || {
                let exit = folder.exit().ok_or(BackendError::Unknown)?;
                Ok(exit::report(&folder, folder.state().as_ref(), &exit))
            })
            .await?;
        };
        instance.ask_to_stop(grace);
        if let Ok(report) = tokio::time::timeout(grace + STOP_MARGIN, instance.ended()).await {
            return Ok(report);
        }
        // The shim does not do its part: without it, its app is killed and swept.
        if let Some(file) = instance.own.shim() {
            file.shim.kill();
        }
        let ended = tokio::time::timeout(STOP_MARGIN, instance.ended()).await;
        ended.map_err(|_| BackendError::Platform(format!("{id} cannot be killed")))
    }
}

fn platform(what: &str, e: &std::io::Error) -> BackendError {
    BackendError::Platform(format!("Skep cannot {what}: {e}"))
}

/// Reads one line, bounded in length and time.
fn read_report(mut out: std::process::ChildStdout) -> Option<Vec<u8>> {
    use std::io::Read;
    let deadline = Instant::now() + SHIM_DEADLINE;
    let mut line = Vec::new();
    let mut buffer = [0_u8; 4096];
    while line.len() < 64 * 1024 {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
        let mut fds = [PollFd::from_borrowed_fd(out.as_fd(), PollFlags::IN)];
        match poll(&mut fds, Some(&timeout)) {
            Ok(0) => return None,
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(_) => return None,
        }
        let read = out.read(&mut buffer).ok()?;
        line.extend_from_slice(&buffer[..read]);
        if read == 0 || line.ends_with(b"\n") {
            return Some(line);
        }
    }
    None
}

/// Connects to where an instance listens.
pub(super) fn dialer(endpoint: &Endpoint) -> Arc<dyn Dial> {
    Arc::new(Dialer(endpoint.clone()))
}

struct Dialer(Endpoint);

impl Dial for Dialer {
    fn dial(&self) -> BoxFuture<'static, std::io::Result<Stream>> {
        match &self.0 {
            Endpoint::Port(port) => {
                let address = (std::net::Ipv4Addr::LOCALHOST, *port);
                Box::pin(async move {
                    let stream = tokio::net::TcpStream::connect(address).await?;
                    stream.set_nodelay(true)?;
                    Ok(Stream::Tcp(stream))
                })
            }
            Endpoint::Socket(path) => {
                let path = path.clone();
                Box::pin(async move { tokio::net::UnixStream::connect(path).await.map(Stream::Unix) })
            }
        }
    }

    fn describe(&self) -> String {
        match &self.0 {
            Endpoint::Port(port) => format!("127.0.0.1:{port}"),
            Endpoint::Socket(path) => format!("unix:{}", path.display()),
        }
    }
}
