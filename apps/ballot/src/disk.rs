//! The file system as the log uses it. In a simulation build it is the simulated one, so that the shipped log code
//! runs under crashes and torn writes; otherwise it is `std::fs`.
//!
//! Absent: anything asynchronous. Whoever calls this does so on a thread that may wait for a disk.

use std::io;
use std::path::Path;

#[cfg(not(feature = "sim"))]
pub use std::fs::{File, OpenOptions, create_dir, metadata, read_dir, remove_file, rename};
#[cfg(feature = "sim")]
pub use turmoil::fs::shim::std::fs::{
    File, OpenOptions, create_dir, metadata, read_dir, remove_file, rename,
};

/// Makes the entries of a folder durable: without this a new file may be gone after a power cut, however well
/// its content was synced.
#[cfg(not(feature = "sim"))]
pub fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

#[cfg(feature = "sim")]
pub fn sync_dir(path: &Path) -> io::Result<()> {
    if faults::active(faults::Fault::NoDirectorySync) {
        return Ok(());
    }
    turmoil::fs::shim::std::fs::sync_dir(path)
}

/// Makes a file's content durable.
pub fn sync_data(file: &File) -> io::Result<()> {
    #[cfg(feature = "sim")]
    if faults::active(faults::Fault::NoSync) {
        return Ok(());
    }
    file.sync_data()
}

/// Lets simulated time pass between a write and its sync, so that a crash can fall between them. On a real disk the
/// wait is in the call itself.
pub async fn latency() {
    #[cfg(feature = "sim")]
    tokio::time::sleep(std::time::Duration::from_micros(700)).await;
}

/// Planted faults: what the simulation must catch.
#[cfg(feature = "sim")]
pub mod faults {
    use std::cell::Cell;

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum Fault {
        NoSync,
        NoDirectorySync,
    }

    thread_local! {
        static PLANTED: Cell<Option<Fault>> = const { Cell::new(None) };
    }

    /// Plants one fault for this thread's simulations, or none.
    pub fn plant(fault: Option<Fault>) {
        PLANTED.with(|slot| slot.set(fault));
    }

    pub(crate) fn active(fault: Fault) -> bool {
        PLANTED.with(|slot| slot.get() == Some(fault))
    }
}
