//! `skep serve`: the only place where the parts are put together.
//!
//! Two halves. [`prepare`] does everything that can fail without touching what runs: config, keys, certificates, database,
//! sockets. [`Server::start`] then starts the launcher (which adopts what is alive), the control plane and the edge, and
//! cannot fail for reasons of config. A server that takes over from another one waits between the two for its word.

mod banner;
mod doors;
mod keys;
mod listen;
mod live;
mod publish;
mod signals;
mod swarm;
mod tenure;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use skep_backends::docker::{DockerBackend, DockerConfig};
use skep_backends::process::{ProcessBackend, ProcessConfig};
use skep_control::{Control, ControlConfig, Deps, LoginConfig, LoginDeps, ServerOrder};
use skep_edge::{Certificates, Edge};
use skep_identity::KeyRing;
use skep_launch::driver::{self, DriverConfig, DriverTask};
use skep_launch::pool::PoolConfig;
use skep_launch::{Backend, Handle};
use skep_model::{Event, EventKind};
use skep_store::{Holder, Location, Store};
use skep_telemetry::Exposition;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::cli::{Everywhere, ServeArgs};
use crate::config::auth_keys::Provider;
use crate::config::{Config, Dirty, Loader};
use crate::data_dir::{DataDir, KEY_FILE, Lock};
use crate::upgrade::heir::{Heir, Inheritance, Sockets};
use crate::upgrade::wire::OpenSeat;
use crate::upgrade::{self, Estate};
use crate::{init, logging, systemd};
use listen::Listening;
pub(crate) use listen::{Bound, raise_file_limit};
use publish::Publisher;
use signals::{Order, Signals};
use tenure::{Kept, Tenure};

/// Threads of the runtime that carries launcher, control plane and database. Requests have loops of their own.
const CONTROL_THREADS: usize = 2;
const JOURNAL_QUEUE: usize = 4096;
const BACKEND_QUEUE: usize = 1024;
const CALL_QUEUE: usize = 1024;
const ORDER_QUEUE: usize = 16;
/// How long open requests get when the server stops.
const STOP_WITHIN: Duration = Duration::from_secs(10);
/// How long they get when another server has taken this one's place.
const STEP_DOWN_WITHIN: Duration = Duration::from_secs(2);
/// How long whoever waits for an app is still served here when a new server takes over; after that the new one does. Short:
/// everybody else waits meanwhile.
const SETTLE_WITHIN: Duration = Duration::from_millis(250);
/// How long tunnels live on in a server that has been replaced.
const TUNNELS_WITHIN: Duration = Duration::from_secs(12 * 3600);

/// Runs the server until it is told to stop.
pub(crate) fn run(everywhere: &Everywhere, args: ServeArgs) -> anyhow::Result<ExitCode> {
    let inherited = Inheritance::receive()?;
    let data = everywhere.data_dir()?;
    if init::is_needed() && inherited.is_none() {
        return init::run(&data);
    }
    logging::start();
    raise_file_limit();
    let program = upgrade::own_program().context("the server's own program cannot be found")?;
    let data = DataDir::open(data)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(CONTROL_THREADS)
        .thread_name("skep-control")
        .enable_all()
        .build()?;
    let outcome = runtime.block_on(Box::pin(serve(args, data, program, inherited)));
    runtime.shutdown_timeout(Duration::from_secs(2));
    outcome
}

async fn serve(
    args: ServeArgs,
    data: DataDir,
    program: PathBuf,
    inherited: Option<Inheritance>,
) -> anyhow::Result<ExitCode> {
    let (lock, sockets, mut heir) = match inherited {
        Some(inherited) => {
            let (lock, sockets, heir) = inherited.into_parts()?;
            (lock, sockets, Some(heir))
        }
        None => (data.lock()?, Sockets::default(), None),
    };
    let mut signals = Signals::register()?;
    let prepared = async {
        let prepared = tokio::select! {
            prepared = prepare(&args, &data, lock, sockets, heir.is_some()) => prepared?,
            // It may wait for long, for another server's lease for example.
            () = signals.again() => return Ok(None),
        };
        let seats = match &mut heir {
            Some(heir) => heir.prepared().await?,
            None => Vec::new(),
        };
        Server::start(prepared, &args, &data, program).await.map(|server| Some((server, seats)))
    };
    let (server, seats) = match Box::pin(prepared).await {
        Ok(Some(started)) => started,
        Ok(None) => {
            if let Some(heir) = heir {
                heir.failed(&anyhow::anyhow!("it was told to stop before it had started")).await;
            }
            return Ok(ExitCode::SUCCESS);
        }
        Err(error) => {
            if let Some(heir) = heir {
                heir.failed(&error).await;
            }
            return Err(error);
        }
    };
    if let Some(heir) = heir {
        server.succeed(heir, seats).await?;
    }
    systemd::notify(&format!("READY=1\nMAINPID={}", std::process::id()));
    server.run(signals, args.stop_apps_on_exit).await
}

/// What a server needs, in order and untouched.
struct Prepared {
    loader: Loader,
    config: Config,
    docker: DockerConfig,
    swarm: Option<swarm::Prepared>,
    lock: Lock,
    exposition: Exposition,
    keys: Arc<KeyRing>,
    key_file: PathBuf,
    store: Store,
    tenure: Option<Tenure>,
    certificates: Option<Certificates>,
    listening: Listening,
}

async fn prepare(
    args: &ServeArgs,
    data: &DataDir,
    lock: Lock,
    sockets: Sockets,
    is_heir: bool,
) -> anyhow::Result<Prepared> {
    let (loader, mut config) = load(args).await?;
    if !args.listen.is_empty() {
        config.server.listen.clone_from(&args.listen);
    }
    if config.server.listen.is_empty() {
        config.server.listen.push(crate::config::server_keys::DEFAULT_LISTEN);
    }
    config.server.admin_listen = args.admin_listen.or(config.server.admin_listen);
    let login = config.server.auth.provider != Provider::None;
    listen::refuse_open_addresses(&config.server.listen, login || args.insecure_no_auth)?;
    let certificates = match &config.server.tls {
        Some(tls) => Some(Certificates::from_files(&tls.cert, &tls.key)?),
        None => None,
    };
    let docker = config.server.docker.config(data.path().to_owned())?;
    let key_file = config.server.cookie_key_file.clone().unwrap_or_else(|| data.path().join(KEY_FILE));
    let keys = Arc::new(KeyRing::load_or_create(&key_file)?);
    let location = match args.store.as_ref().or(config.server.database.as_ref()) {
        Some(location) => location.parse()?,
        None => Location::Sqlite(data.path().join("skep.db")),
    };
    let store = Store::open(&location).await?;
    // Before any port is taken: a server that waits its turn answers nobody.
    let tenure = Tenure::begin(&store, swarm::shared(&config.server)?, data.path(), is_heir).await?;
    let swarm = swarm::prepare(&config.server, data.path(), is_heir).await?;
    let exposition = skep_telemetry::install()?;
    let listening = Listening::open(&config.server, data, sockets)?;
    Ok(Prepared {
        loader,
        config,
        docker,
        swarm,
        lock,
        exposition,
        keys,
        key_file,
        store,
        tenure,
        certificates,
        listening,
    })
}

/// Reads config and folders off the runtime, saying so when it takes long.
async fn load(args: &ServeArgs) -> anyhow::Result<(Loader, Config)> {
    let mut loader = match &args.shinyproxy_config {
        Some(file) => Loader::shinyproxy(file.clone(), args.paths.clone()),
        None => Loader::new(args.config.clone(), args.paths.clone()),
    };
    let reading = tokio::task::spawn_blocking(move || {
        let config = loader.load(&Dirty::All);
        (loader, config)
    });
    let (loader, config) = banner::patiently("reading the apps' folders", reading).await?;
    Ok((loader, config?))
}

/// Everything that runs.
struct Server {
    handle: Handle,
    driver: DriverTask,
    edge: Edge,
    journal: mpsc::Sender<Event>,
    record: AbortOnDropHandle<()>,
    count: Counting,
    live: live::Live,
    orders: mpsc::Receiver<ServerOrder>,
    /// Where agents of a Swarm call in.
    agents: Option<swarm::Agents>,
    tenure: Option<Kept>,
    /// Control socket and admin address.
    serving: Vec<AbortOnDropHandle<()>>,
    listening: Listening,
    lock: Lock,
    program: PathBuf,
    data: PathBuf,
    /// Once another server has taken over: where requests go.
    relay: Option<listen::Relay>,
}

impl Server {
    async fn start(
        prepared: Prepared,
        args: &ServeArgs,
        data: &DataDir,
        program: PathBuf,
    ) -> anyhow::Result<Self> {
        let Prepared {
            loader,
            config,
            docker,
            swarm,
            mut lock,
            exposition,
            keys,
            key_file,
            store,
            tenure,
            certificates,
            listening,
        } = prepared;
        let (journal, events) = mpsc::channel(JOURNAL_QUEUE);
        let (backend_events, reports) = mpsc::channel(BACKEND_QUEUE);
        let processes = ProcessConfig::new(data.path().to_owned(), program.clone());
        let mut backends: Vec<Arc<dyn Backend>> = vec![
            ProcessBackend::open(processes, backend_events.clone())?,
            DockerBackend::new(docker, backend_events.clone()),
        ];
        let publisher = Publisher::new(&config.apps);
        let (services, asked) = watch::channel(config.routes.as_slice().into());
        let (portal, look) = watch::channel(Arc::clone(&config.portal));
        let agents = swarm.map(|swarm| {
            let (reach, publisher) = (swarm.reach(swarm::own_names(&config)), publisher.clone());
            let follow = skep_control::services::follow(reach, asked, move |all| publisher.set_services(all));
            tokio::spawn(follow);
            let (backend, agents) = swarm.start(backend_events);
            backends.push(backend);
            agents
        });
        let (handle, driver) =
            driver::start(driver_config(&config), backends.clone(), reports, journal.clone());
        handle.set_apps(config.apps.clone());
        let (orders_in, orders) = mpsc::channel(ORDER_QUEUE);
        let deps = Deps {
            handle: handle.clone(),
            backends,
            store,
            exposition,
            config: ControlConfig { portal: look, ..control_config(&config, args, &listening) },
            keys: Arc::clone(&keys),
            orders: orders_in,
        };
        let control = match login_config(&config, args) {
            None => Control::new(deps),
            Some(login) => {
                let (keys, journal) = (Arc::clone(&keys), journal.clone());
                Control::with_login(deps, LoginDeps { keys, journal, config: login })
            }
        };
        control.read_users().await?;
        tokio::spawn(control.clone().keep_users());
        tokio::spawn(keys::follow(key_file, Arc::clone(&keys)));
        let (calls, calls_in) = mpsc::channel(CALL_QUEUE);
        tokio::spawn(control.clone().serve(calls_in));
        let record = AbortOnDropHandle::new(tokio::spawn(control.clone().record(events)));
        let end_of_count = CancellationToken::new();
        let count = control.clone().count_visits(end_of_count.clone());
        let count = Counting { end: end_of_count, task: AbortOnDropHandle::new(tokio::spawn(count)) };
        let edge_config = doors::edge_config(&config, args, certificates.clone(), &listening)?;
        let admission = control.admission();
        let edge = Edge::start_with_login(
            edge_config,
            handle.clone(),
            &keys,
            publisher.subscribe(),
            calls,
            admission,
        )?;
        let serving = listening.serve_control(&control)?;
        lock.sign()?;
        let set_up = match config.server.auth.provider {
            Provider::None => None,
            Provider::Local => control.roster().set_up_link().await?,
        };
        banner::print(&config, &listening, set_up.as_ref(), args.insecure_http_login);
        let server = Self {
            live: live::Live::start(
                loader,
                config,
                handle.clone(),
                publisher,
                live::Told { services, portal },
                journal.clone(),
                certificates,
            ),
            handle,
            driver,
            edge,
            journal,
            record,
            count,
            orders,
            agents,
            tenure: tenure.map(Tenure::keep),
            serving,
            listening,
            lock,
            program,
            data: data.path().to_owned(),
            relay: None,
        };
        server.note(EventKind::ServerStart, format!("skep {}", env!("CARGO_PKG_VERSION")));
        Ok(server)
    }

    /// The old server's last word has been heard: its place is taken.
    async fn succeed(&self, mut heir: Heir, seats: Vec<OpenSeat>) -> anyhow::Result<()> {
        heir.ready().await?;
        tokio::spawn(heir.mind_seats(self.handle.clone(), seats));
        Ok(())
    }

    /// Serves until a signal or an upgrade ends it.
    async fn run(mut self, mut signals: Signals, stop_apps: bool) -> anyhow::Result<ExitCode> {
        loop {
            let order = tokio::select! {
                order = signals.next() => order,
                Some(order) = self.orders.recv() => order.into(),
                holder = lost(&mut self.tenure) => return Ok(self.step_down(holder).await),
            };
            match order {
                Order::Reload => self.live.reload(),
                Order::Upgrade(answer) => match Box::pin(self.hand_over()).await {
                    Ok((successor, failure)) => return self.leave(successor, failure, answer, signals).await,
                    Err(failed) => {
                        let why = failed.to_string();
                        tracing::error!("{why}");
                        if let Some(answer) = answer {
                            let _ = answer.send(Err(why));
                        }
                        if let NoSuccessor::Stranded(_) = failed {
                            // Frozen, with its requests on their way to nobody: whoever watches over us starts anew.
                            tokio::time::sleep(Duration::from_millis(100)).await;
                            return Ok(ExitCode::FAILURE);
                        }
                    }
                },
                Order::Stop => return self.stop(signals, stop_apps).await,
            }
        }
    }

    async fn stop(self, mut signals: Signals, stop_apps: bool) -> anyhow::Result<ExitCode> {
        tracing::info!("stopping; open requests get {} seconds", STOP_WITHIN.as_secs());
        systemd::notify("STOPPING=1");
        self.note(EventKind::ServerStop, "told to stop".to_owned());
        let gently = async {
            drop(self.live);
            self.edge.drain(STOP_WITHIN).await;
            self.handle.shutdown(stop_apps).await;
            self.driver.ended().await;
            drop(self.journal);
            self.count.finish().await;
            let _ = self.record.await;
            if let Some(tenure) = self.tenure {
                tenure.release().await;
            }
        };
        tokio::select! {
            () = gently => Ok(ExitCode::SUCCESS),
            () = signals.again() => Ok(ExitCode::from(130)),
        }
    }

    /// Another server launches from now on: this one begins nothing more, leaves what runs to that one, and ends.
    async fn step_down(self, holder: Holder) -> ExitCode {
        tracing::error!(
            "the server on {} has taken over the lease of this Swarm's instances, because this one could not renew it; this one ends, \
             and leaves all instances to that one",
            holder.host
        );
        systemd::notify("STOPPING=1");
        self.note(EventKind::ServerStop, format!("the server on {} launches from now on", holder.host));
        drop(self.live);
        // What is being ended ends there, too.
        let _ = tokio::time::timeout(STEP_DOWN_WITHIN, self.handle.shutdown(false)).await;
        self.edge.drain(STEP_DOWN_WITHIN).await;
        drop(self.journal);
        ExitCode::FAILURE
    }

    /// Starts a new server and gives everything to it; or to this version anew, and says why.
    async fn hand_over(&mut self) -> Result<(upgrade::Ready, Option<String>), NoSuccessor> {
        let relay = listen::Relay::bind(&self.data)
            .map_err(|error| NoSuccessor::Unchanged(format!("no relay socket: {error:#}")))?;
        let estate = Estate {
            lock: &self.lock,
            relays: self.listening.relays_in_use().chain([&relay.listener]).collect(),
            control: &self.listening.control,
            admin: self.listening.admin.as_ref(),
            public: &self.listening.public,
        };
        let successor = upgrade::prepare(&self.program, &estate).await.map_err(NoSuccessor::Unchanged)?;
        // From here on there is no way back. The new server has the same name in the lease, and renews it as its own.
        self.tenure = None;
        self.live.pause();
        self.serving.clear();
        self.edge.hand_over(relay.path.clone());
        self.handle.drain_for_handover(SETTLE_WITHIN).await;
        if let Some(agents) = &self.agents {
            agents.leave();
        }
        let ready = match successor.go(&self.handle).await {
            Ok(ready) => (ready, None),
            Err(why) => {
                tracing::error!("the new server failed ({why}); starting this version anew");
                let anew = async {
                    let again = upgrade::prepare(&upgrade::running_program(), &estate).await?;
                    again.go(&self.handle).await
                };
                match anew.await {
                    Ok(ready) => (ready, Some(why)),
                    Err(second) => {
                        return Err(NoSuccessor::Stranded(format!("{why}; nor did this version: {second}")));
                    }
                }
            }
        };
        self.relay = Some(relay);
        Ok(ready)
    }

    /// Lets tunnels end, then goes.
    async fn leave(
        self,
        successor: upgrade::Ready,
        failure: Option<String>,
        answer: Option<oneshot::Sender<Result<u32, String>>>,
        mut signals: Signals,
    ) -> anyhow::Result<ExitCode> {
        let pid = successor.pid;
        systemd::notify(&format!("MAINPID={pid}"));
        tracing::info!("process {pid} serves from now on; this one goes when its last tunnel closes");
        self.note(EventKind::ServerHandover, format!("process {pid} took over from {}", std::process::id()));
        if let Some(answer) = answer {
            let went_wrong = |why| format!("{why}; the version of before serves again, as process {pid}");
            let _ = answer.send(failure.map_or(Ok(pid), |why| Err(went_wrong(why))));
        }
        drop(self.live);
        drop(self.orders);
        drop(self.journal);
        self.driver.ended().await;
        self.count.finish().await;
        let _ = self.record.await;
        tokio::select! {
            () = successor.report_seats(&self.handle, TUNNELS_WITHIN) => {}
            () = signals.again() => {}
        }
        self.edge.drain(STOP_WITHIN).await;
        Ok(ExitCode::SUCCESS)
    }

    fn note(&self, kind: EventKind, detail: String) {
        note(&self.journal, kind, detail);
    }
}

/// The count of visits, which has a last word to write.
struct Counting {
    end: CancellationToken,
    task: AbortOnDropHandle<()>,
}

impl Counting {
    async fn finish(self) {
        self.end.cancel();
        let _ = self.task.await;
    }
}

/// Who has the lease instead, once that is so.
async fn lost(tenure: &mut Option<Kept>) -> Holder {
    match tenure {
        Some(kept) => kept.lost().await,
        None => std::future::pending().await,
    }
}

/// Why no other server took over.
#[derive(Debug, thiserror::Error)]
enum NoSuccessor {
    #[error("the upgrade did not happen, and this server goes on: {0}")]
    Unchanged(String),
    #[error("no server could take over, and this one ends: {0}")]
    Stranded(String),
}

/// Writes an event of the server itself to the journal; never waits for it.
fn note(journal: &mpsc::Sender<Event>, kind: EventKind, detail: String) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let at_ms = i64::try_from(now.as_millis()).unwrap_or(i64::MAX);
    if journal.try_send(Event { at_ms, kind, app: None, instance: None, user: None, detail }).is_err() {
        tracing::warn!("the journal is too busy to take `{}`", kind.name());
    }
}

fn driver_config(config: &Config) -> DriverConfig {
    let usual = PoolConfig::default();
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    let starts = u32::try_from(cores * 2).unwrap_or(usual.max_starts).max(4);
    let pool = PoolConfig {
        max_instances: config.server.max_instances,
        max_starts: config.server.max_starting.unwrap_or(starts),
        // Who says how many means it: when a node of a Swarm is lost, they may all be of one app.
        max_starts_per_app: config.server.max_starting.unwrap_or(usual.max_starts_per_app),
        ..usual
    };
    DriverConfig { pool, ..DriverConfig::default() }
}

fn control_config(config: &Config, args: &ServeArgs, listening: &Listening) -> ControlConfig {
    let server = &config.server;
    ControlConfig {
        // Whoever can reach a loopback address without a login is at the machine itself.
        show_logs: server.auth.provider == Provider::None && !args.insecure_no_auth,
        address: public_address(config, listening),
        journal_age: server.journal_retention,
        share_lifetime: server.share_lifetime,
        apps_elsewhere: server.console_host.as_ref().and(server.public_url.as_ref()).map(|url| url.0.clone()),
        ..ControlConfig::default()
    }
}

/// Where people reach the server, as far as it can know.
fn public_address(config: &Config, listening: &Listening) -> String {
    let scheme = if config.server.tls.is_some() { "https" } else { "http" };
    let listened = || {
        let (ip, port) = listening.public.first().map(|bound| (bound.address.ip(), bound.address.port()))?;
        // No browser can open an address that means all of them.
        let host = if ip.is_unspecified() { "localhost".to_owned() } else { url_host(ip) };
        Some(format!("{scheme}://{host}:{port}"))
    };
    config.server.public_url.as_ref().map(|url| url.0.clone()).or_else(listened).unwrap_or_default()
}

fn url_host(ip: std::net::IpAddr) -> String {
    if ip.is_ipv6() { format!("[{ip}]") } else { ip.to_string() }
}

/// How people log in, when they do.
fn login_config(config: &Config, args: &ServeArgs) -> Option<LoginConfig> {
    let auth = &config.server.auth;
    match auth.provider {
        Provider::None => None,
        Provider::Local => Some(LoginConfig {
            rules: auth.session,
            throttle: auth.throttle,
            insecure_http: args.insecure_http_login,
        }),
    }
}
