//! A front: takes ballots from browsers and programs, acknowledges what is durable, and hands it to workers.
//!
//! It depends on its own disk and on nothing else: polls are brought to it by workers and kept in its folder, and the
//! database may be away for as long as the disk has room. A front with a new log is not ready until a worker has
//! enrolled the log, so that no result can be final without it. Absent: SQL.

pub mod limits;
pub mod pages;
mod site;
#[cfg(not(feature = "sim"))]
pub mod slots;
mod vote;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arc_swap::ArcSwap;
use parking_lot::{Mutex, RwLock};

use crate::disk;
use crate::http::Trust;
use crate::ids::{LogId, PollId, Seq, VoterTag};
use crate::intake::{Intake, IntakeLimits};
use crate::keys::{Keys, PollKey, sha256};
use crate::log::{LogOptions, SegmentLog};
use crate::polls::Poll;
use crate::source::{LogState, Records, SEALED, Source, SourceError, Survey};
use crate::spool::{BoxFuture, Spool, SpoolError};
use crate::surroundings::World;
use limits::{Buckets, Rate};

/// A poll as a front uses it.
pub struct OpenPoll {
    pub poll: Poll,
    pub key: PollKey,
    pub cookie: String,
}

#[derive(Default)]
pub struct Catalogue {
    polls: HashMap<PollId, Arc<OpenPoll>>,
    version: String,
}

impl Catalogue {
    fn new(polls: impl IntoIterator<Item = Poll>, keys: &Keys) -> Self {
        let mut polls: Vec<Poll> = polls.into_iter().collect();
        polls.sort_by(|a, b| a.id.cmp(&b.id));
        let version = version(&polls);
        let open =
            |poll: Poll| OpenPoll { key: keys.poll(&poll.id), cookie: crate::cookie::name(&poll.id), poll };
        Self { polls: polls.into_iter().map(|p| (p.id.clone(), Arc::new(open(p)))).collect(), version }
    }

    pub fn get(&self, id: &str) -> Option<&Arc<OpenPoll>> {
        self.polls.get(id)
    }

    /// All polls by id.
    pub fn all(&self) -> Vec<&Poll> {
        let mut all: Vec<&Poll> = self.polls.values().map(|p| &p.poll).collect();
        all.sort_by(|a, b| a.id.cmp(&b.id));
        all
    }
}

/// What tells two sets of polls apart.
pub fn version(sorted: &[Poll]) -> String {
    let text = serde_json::to_vec(sorted).unwrap_or_default();
    crate::proof::hex(&sha256(&[&text])[..8])
}

/// How a front trusts what is in front of it to name who is logged in.
#[derive(Clone, Default)]
pub struct Login {
    /// The header that names the principal, believed from trusted proxies only.
    pub header: Option<String>,
    /// The public Ed25519 key of signed identities (`X-Skep-Identity`), believed from anywhere.
    pub public_key: Option<[u8; 32]>,
}

#[derive(Clone)]
pub struct FrontOptions {
    pub name: String,
    pub trust: Trust,
    pub login: Login,
    /// New cookies and refusals, by neighbourhood.
    pub prefix_rate: Rate,
    /// Votes, by voter.
    pub voter_rate: Rate,
    pub segment_bytes: u64,
    pub intake: IntakeLimits,
    /// Says where results are, for links; relative to the page when empty.
    pub results_base: String,
}

impl FrontOptions {
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            trust: Trust::default(),
            login: Login::default(),
            prefix_rate: Rate { per_second: 200.0, burst: 5_000.0 },
            voter_rate: Rate { per_second: 2.0, burst: 20.0 },
            segment_bytes: 32 << 20,
            intake: IntakeLimits::default(),
            results_base: String::new(),
        }
    }
}

/// A log of another front, whose process is gone, served until workers have all of it.
struct Adopted {
    log: LogId,
    #[cfg_attr(feature = "sim", expect(dead_code, reason = "folders are looked after outside simulations"))]
    dir: PathBuf,
    spool: Arc<dyn Spool>,
    enrolled: bool,
    /// Keeps the folder locked while it is served.
    _lock: Option<std::fs::File>,
}

pub struct Front {
    options: FrontOptions,
    keys: Arc<Keys>,
    world: World,
    catalogue: ArcSwap<Catalogue>,
    dir: PathBuf,
    log: LogId,
    intake: Arc<Intake>,
    enrolled: AtomicBool,
    /// No ballot will ever be added to the own log again.
    sealed: AtomicBool,
    finished: AtomicBool,
    /// Records of the own log before this one are in the database.
    asked_from: AtomicU64,
    adopted: RwLock<Vec<Adopted>>,
    prefixes: Buckets<u64>,
    voters: Buckets<VoterTag>,
    /// Voters of polls that forbid changes, and tickets, that this front saw: for a clear answer at once. What counts
    /// is decided by the merge.
    seen: Mutex<HashMap<(PollId, VoterTag), u64>>,
}

const POLLS_FILE: &str = "polls.json";
const ENROLLED_FILE: &str = "enrolled";
const SEALED_FILE: &str = "sealed";

/// Leaves a durable mark in a folder.
fn mark(dir: &Path, name: &str) -> Result<(), SpoolError> {
    let made = || -> std::io::Result<()> {
        let file = disk::OpenOptions::new().write(true).create(true).truncate(true).open(dir.join(name))?;
        file.sync_all()?;
        disk::sync_dir(dir)
    };
    made().map_err(|e| SpoolError::Failed(format!("cannot write {}: {e}", dir.join(name).display())))
}

fn is_marked(dir: &Path, name: &str) -> bool {
    disk::metadata(dir.join(name)).is_ok()
}

/// The folder of the log within a front's folder.
fn log_dir(dir: &Path) -> PathBuf {
    dir.join("log")
}

/// Whether a front's folder was sealed: its log gets no ballots any more.
pub fn is_sealed(dir: &Path) -> bool {
    is_marked(dir, SEALED_FILE)
}

impl Front {
    /// Opens the front's folder: its log, recovered, and the polls it knew.
    ///
    /// # Errors
    /// As [`SegmentLog::open`].
    pub fn open(
        dir: &Path,
        options: FrontOptions,
        keys: Arc<Keys>,
        world: World,
        polls: Vec<Poll>,
    ) -> Result<Arc<Self>, SpoolError> {
        crate::log::create_dir_durably(dir)
            .map_err(|e| SpoolError::Failed(format!("cannot create {}: {e}", dir.display())))?;
        let mut id = [0; 16];
        world.fill(&mut id);
        let log_options =
            LogOptions { segment_bytes: options.segment_bytes, ..LogOptions::new(log_dir(dir)) };
        let max_batch = options.intake.max_batch.min(log_options.max_batch());
        let spool: Arc<dyn Spool> = Arc::new(SegmentLog::open(log_options, LogId(id))?);
        let log = spool.standing().log;
        let known = kept_polls(dir).unwrap_or_default();
        let mut all: HashMap<PollId, Poll> = known.into_iter().map(|p| (p.id.clone(), p)).collect();
        all.extend(polls.into_iter().map(|p| (p.id.clone(), p)));
        let catalogue = Catalogue::new(all.into_values(), &keys);
        Ok(Arc::new(Self {
            intake: Arc::new(Intake::new(spool, IntakeLimits { max_batch, ..options.intake })),
            prefixes: Buckets::new(options.prefix_rate),
            voters: Buckets::new(options.voter_rate),
            enrolled: AtomicBool::new(is_marked(dir, ENROLLED_FILE)),
            sealed: AtomicBool::new(false),
            finished: AtomicBool::new(false),
            asked_from: AtomicU64::new(0),
            adopted: RwLock::default(),
            seen: Mutex::default(),
            catalogue: ArcSwap::from_pointee(catalogue),
            dir: dir.to_owned(),
            log,
            options,
            keys,
            world,
        }))
    }

    pub fn intake(&self) -> &Arc<Intake> {
        &self.intake
    }

    pub fn log(&self) -> LogId {
        self.log
    }

    /// Whether a worker has entered this front's log in the database.
    fn is_enrolled(&self) -> bool {
        self.enrolled.load(Ordering::Acquire)
    }

    /// Why this front takes no ballots now, if it does not.
    pub fn unready(&self) -> Option<String> {
        if !self.is_enrolled() {
            return Some("this front's log is new and no worker has enrolled it yet".to_owned());
        }
        self.intake.refusing().map(|r| r.to_string())
    }

    /// Takes no more ballots; those accepted are still made durable, acknowledged and handed to workers.
    pub fn drain(&self) {
        self.intake.drain();
    }

    /// Whether every accepted ballot is on the disk.
    fn is_at_rest(&self) -> bool {
        let moment = self.intake.moment(self.world.now_ms());
        self.intake.spool().standing().end == moment.end
    }

    /// Marks the own log as complete, so that results can be final without this front. Only while draining.
    ///
    /// # Errors
    /// When the mark cannot be made durable.
    pub fn seal(&self) -> Result<bool, SpoolError> {
        if self.intake.refusing().is_none() || !self.is_at_rest() {
            return Ok(false);
        }
        mark(&self.dir, SEALED_FILE)?;
        self.sealed.store(true, Ordering::Release);
        Ok(true)
    }

    /// Whether workers have asked beyond the last record: all of it is in the database.
    pub fn is_taken(&self) -> bool {
        self.is_at_rest() && self.intake.spool().standing().end <= self.asked_from.load(Ordering::Acquire)
    }

    /// Whether a worker has taken everything and said so.
    pub fn is_finished(&self) -> bool {
        self.finished.load(Ordering::Acquire) && self.adopted.read().is_empty()
    }

    /// Serves the log of a front that is gone. The log is sealed first, so that it never grows again.
    ///
    /// # Errors
    /// As [`SegmentLog::open`].
    pub fn adopt(&self, dir: &Path, lock: Option<std::fs::File>) -> Result<LogId, SpoolError> {
        mark(dir, SEALED_FILE)?;
        let options =
            LogOptions { segment_bytes: self.options.segment_bytes, ..LogOptions::new(log_dir(dir)) };
        let spool: Arc<dyn Spool> = Arc::new(SegmentLog::open(options, LogId([0; 16]))?);
        let log = spool.standing().log;
        let enrolled = is_marked(dir, ENROLLED_FILE);
        tracing::info!(%log, dir = %dir.display(), "adopted the log of a front that is gone");
        self.adopted.write().push(Adopted { log, dir: dir.to_owned(), spool, enrolled, _lock: lock });
        Ok(log)
    }

    #[cfg(not(feature = "sim"))]
    fn is_served(&self, dir: &Path) -> bool {
        self.dir == dir || self.adopted.read().iter().any(|a| a.dir == dir)
    }

    fn states(&self) -> Vec<LogState> {
        let moment = self.intake.moment(self.world.now_ms());
        let own = LogState {
            log: self.log.to_string(),
            start: self.intake.spool().standing().start,
            end: moment.end,
            reading: if self.sealed.load(Ordering::Acquire) { SEALED } else { moment.reading },
            enrolled: self.is_enrolled(),
        };
        let mut states = vec![own];
        for adopted in self.adopted.read().iter() {
            let standing = adopted.spool.standing();
            states.push(LogState {
                log: adopted.log.to_string(),
                start: standing.start,
                end: standing.end,
                reading: SEALED,
                enrolled: adopted.enrolled,
            });
        }
        states
    }

    fn spool_of(&self, log: LogId) -> Option<Arc<dyn Spool>> {
        if log == self.log {
            return Some(Arc::clone(self.intake.spool()));
        }
        self.adopted.read().iter().find(|a| a.log == log).map(|a| Arc::clone(&a.spool))
    }

    async fn read_records(&self, log: LogId, from: Seq, max_bytes: usize) -> Result<Records, String> {
        let spool = self.spool_of(log).ok_or_else(|| format!("there is no log {log} here"))?;
        if log == self.log {
            self.asked_from.fetch_max(from, Ordering::AcqRel);
        }
        spool.release(from).await.map_err(|e| e.to_string())?;
        let chunk = spool.read(from, max_bytes).await.map_err(|e| e.to_string())?;
        Ok(Records { first: chunk.first, count: chunk.count, bytes: chunk.bytes })
    }

    fn set_enrolled(&self, log: LogId) -> Result<(), SpoolError> {
        if log == self.log {
            if !self.is_enrolled() {
                mark(&self.dir, ENROLLED_FILE)?;
                self.enrolled.store(true, Ordering::Release);
            }
        } else if let Some(adopted) = self.adopted.write().iter_mut().find(|a| a.log == log) {
            adopted.enrolled = true;
        }
        Ok(())
    }

    fn set_finished(&self, log: LogId) {
        if log == self.log {
            self.finished.store(self.sealed.load(Ordering::Acquire), Ordering::Release);
            return;
        }
        let mut adopted = self.adopted.write();
        if let Some(i) = adopted.iter().position(|a| a.log == log) {
            let done = adopted.remove(i);
            #[cfg(not(feature = "sim"))]
            if let Err(error) = std::fs::remove_dir_all(&done.dir) {
                tracing::warn!(%error, dir = %done.dir.display(), "cannot remove the folder of a finished log");
            }
            tracing::info!(log = %done.log, "an adopted log is finished");
        }
    }

    fn set_polls(&self, polls: &[Poll]) -> Result<(), String> {
        let catalogue = Catalogue::new(polls.iter().cloned(), &self.keys);
        if catalogue.version == self.catalogue.load().version {
            return Ok(());
        }
        keep_polls(&self.dir, polls).map_err(|e| format!("cannot keep the polls: {e}"))?;
        self.catalogue.store(Arc::new(catalogue));
        Ok(())
    }
}

fn kept_polls(dir: &Path) -> Option<Vec<Poll>> {
    use std::os::unix::fs::FileExt;
    let file = disk::OpenOptions::new().read(true).open(dir.join(POLLS_FILE)).ok()?;
    let mut bytes = vec![0; usize::try_from(file.metadata().ok()?.len()).ok()?];
    file.read_exact_at(&mut bytes, 0).ok()?;
    // A torn file is as good as none: workers bring the polls again.
    serde_json::from_slice(&bytes).ok()
}

/// Beside the old polls first: a disk without room for new ones must not cost the old ones.
fn keep_polls(dir: &Path, polls: &[Poll]) -> std::io::Result<()> {
    use std::os::unix::fs::FileExt;
    let (bytes, new) = (serde_json::to_vec(polls)?, dir.join("polls.new"));
    let file = disk::OpenOptions::new().write(true).create(true).truncate(true).open(&new)?;
    file.write_all_at(&bytes, 0)?;
    file.sync_all()?;
    disk::rename(&new, dir.join(POLLS_FILE))?;
    disk::sync_dir(dir)
}

impl Source for Front {
    fn name(&self) -> String {
        self.options.name.clone()
    }

    fn survey(&self) -> BoxFuture<'_, Result<Survey, SourceError>> {
        Box::pin(async move {
            Ok(Survey {
                front: self.options.name.clone(),
                now_ms: self.world.now_ms(),
                catalogue: self.catalogue.load().version.clone(),
                logs: self.states(),
            })
        })
    }

    fn records(
        &self,
        log: LogId,
        from: Seq,
        max_bytes: usize,
    ) -> BoxFuture<'_, Result<Records, SourceError>> {
        Box::pin(async move {
            let refused = |what| SourceError::Refused { front: self.name(), what };
            self.read_records(log, from, max_bytes).await.map_err(refused)
        })
    }

    fn enrolled(&self, log: LogId) -> BoxFuture<'_, Result<(), SourceError>> {
        let refused = |e: SpoolError| SourceError::Refused { front: self.name(), what: e.to_string() };
        Box::pin(std::future::ready(self.set_enrolled(log).map_err(refused)))
    }

    fn finished(&self, log: LogId) -> BoxFuture<'_, Result<(), SourceError>> {
        self.set_finished(log);
        Box::pin(std::future::ready(Ok(())))
    }

    fn put_polls<'a>(&'a self, polls: &'a [Poll]) -> BoxFuture<'a, Result<(), SourceError>> {
        let refused = |what| SourceError::Refused { front: self.name(), what };
        Box::pin(std::future::ready(self.set_polls(polls).map_err(refused)))
    }
}
