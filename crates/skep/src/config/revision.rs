//! The fingerprint that says whether new visitors need a new instance.
//!
//! It covers what an instance is made of: the launch-relevant part of the settled keys, the contents of the entry file and
//! the requirements, and when `restart.txt` was last touched. It does not cover titles, seats or timeouts: changing those
//! does not ask for a new process. It is the same on every machine and in every version that computes it alike, because
//! a restarted Skep compares it with what running instances were started as.

use std::collections::BTreeMap;
use std::fs::Metadata;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use sha2::{Digest, Sha256};
use skep_model::{AppSpec, Revision};

use super::discover::CONFIG_FILE;

/// Larger files count by size and time of change.
const READ_AT_MOST: u64 = 1 << 20;

/// Touching this file in an app's folder asks for new instances.
pub(crate) const RESTART_FILE: &str = "restart.txt";

/// What the watched files of a folder look like now. Its `skep.toml` counts by what it says, in [`of_spec`].
pub(crate) fn of_files(dir: &Path, names: &[String]) -> u64 {
    let mut hash = Sha256::new();
    let mut sorted: Vec<&String> =
        names.iter().filter(|name| *name != RESTART_FILE && *name != CONFIG_FILE).collect();
    sorted.sort();
    sorted.dedup();
    for name in sorted {
        part(&mut hash, name.as_bytes());
        let path = dir.join(name);
        let Ok(meta) = std::fs::metadata(&path) else { continue };
        if meta.is_file() && meta.len() <= READ_AT_MOST {
            part(&mut hash, &contents(&path));
        } else {
            stamp(&mut hash, &meta);
        }
    }
    if let Ok(meta) = std::fs::metadata(dir.join(RESTART_FILE)) {
        part(&mut hash, RESTART_FILE.as_bytes());
        stamp(&mut hash, &meta);
    }
    first_eight(hash)
}

/// The revision of a spec (whose own `revision` is ignored) over files that look like `files`.
pub(crate) fn of_spec(spec: &AppSpec, files: u64) -> Revision {
    let mut hash = Sha256::new();
    part(&mut hash, &files.to_be_bytes());
    // What a file must be when it is opened does not make another instance.
    let secrets: BTreeMap<_, _> = spec.secrets.iter().map(|(name, file)| (name, &file.path)).collect();
    part(&mut hash, spec.framework.name().as_bytes());
    part(&mut hash, spec.mount.as_str().as_bytes());
    part(&mut hash, format!("{:?}", (spec.prefix, &spec.source, spec.backend)).as_bytes());
    part(&mut hash, format!("{:?}", (&spec.command, &spec.env, secrets)).as_bytes());
    part(&mut hash, format!("{:?}", (spec.per_user, spec.limits, &spec.run_as)).as_bytes());
    Revision(first_eight(hash))
}

/// Length first, so that neighbouring parts cannot be shifted into each other.
fn part(hash: &mut Sha256, bytes: &[u8]) {
    hash.update((bytes.len() as u64).to_be_bytes());
    hash.update(bytes);
}

fn stamp(hash: &mut Sha256, meta: &Metadata) {
    for number in [meta.mtime(), meta.mtime_nsec()] {
        hash.update(number.to_be_bytes());
    }
    hash.update(meta.len().to_be_bytes());
}

fn contents(path: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Ok(file) = std::fs::File::open(path) {
        // A file that cannot be read is as good as empty here; the launch will say what is wrong with it.
        let _ = file.take(READ_AT_MOST).read_to_end(&mut bytes);
    }
    bytes
}

fn first_eight(hash: Sha256) -> u64 {
    let digest = hash.finalize();
    digest.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_count_and_touching_does_not_except_for_restart_txt() {
        let dir = tempfile::tempdir().unwrap();
        let names = ["app.py".to_owned(), "requirements.txt".to_owned()];
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        let touch = |name: &str| {
            let file = std::fs::File::options().write(true).open(dir.path().join(name)).unwrap();
            file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
        };
        write("app.py", "one");
        let first = of_files(dir.path(), &names);
        touch("app.py");
        write("notes.txt", "beside the code");
        assert_eq!(of_files(dir.path(), &names), first);
        write("app.py", "two");
        let second = of_files(dir.path(), &names);
        assert_ne!(second, first);
        write("restart.txt", "");
        let third = of_files(dir.path(), &names);
        assert_ne!(third, second);
        touch("restart.txt");
        assert_ne!(of_files(dir.path(), &names), third);
        write("requirements.txt", "");
        assert_ne!(of_files(dir.path(), &names), third, "an empty file is not the same as none");
    }
}
