//! Reading a small file of which somebody else may change what its path leads to.
//!
//! What is judged is the file that was found, not its path: whoever may write a folder on the way may put a link there at any
//! time. Nothing is opened for reading before it is known to be a regular file: opening a device or a pipe may do more than open
//! it, or wait for whoever writes.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Why a file was not read.
#[derive(Debug, thiserror::Error)]
pub enum Unread<E> {
    #[error(transparent)]
    Failed(#[from] io::Error),
    #[error("it is no regular file")]
    NotAFile,
    #[error("it is longer than {0} bytes")]
    TooLong(u64),
    #[error("{0}")]
    Refused(E),
}

/// The content of a regular file of at most `most` bytes. `judge` is shown what was found, and where it really lies.
///
/// # Errors
/// What stood in the way, or what `judge` says.
pub fn read<E>(
    path: &Path,
    most: u64,
    judge: impl FnOnce(&Metadata, &Path) -> Result<(), E>,
) -> Result<Vec<u8>, Unread<E>> {
    // A handle on the place only; links are followed here, once.
    let found = File::options().read(true).custom_flags(libc::O_PATH).open(path)?;
    let meta = found.metadata()?;
    if !meta.is_file() {
        return Err(Unread::NotAFile);
    }
    let handle = PathBuf::from(format!("/proc/self/fd/{}", found.as_raw_fd()));
    judge(&meta, &handle.read_link()?).map_err(Unread::Refused)?;
    let mut content = Vec::new();
    File::open(&handle)?.take(most + 1).read_to_end(&mut content)?;
    if content.len() as u64 > most {
        return Err(Unread::TooLong(most));
    }
    Ok(content)
}
