//! Reading a secret from its file, for either backend.
//!
//! What is checked is the file that was opened, not its path: whoever may write an app's folder may put a link in it at any
//! time. Nothing is opened for reading before it is known to be a regular file: opening a device or a pipe may do more than
//! open it.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;

use skep_launch::BackendError;
use skep_model::{Bound, SecretFile};

/// Bytes of a secret.
const MAX_SECRET: u64 = 64 * 1024;

/// The content of the file of the secret `name`.
pub(crate) fn read(name: &str, file: &SecretFile) -> Result<Vec<u8>, BackendError> {
    contents(file).map_err(|wrong| {
        let path = file.path.display();
        let summary = format!("the secret `{name}` cannot be read from {path}: {wrong}");
        BackendError::App { summary, last_lines: Vec::new() }
    })
}

fn contents(file: &SecretFile) -> Result<Vec<u8>, String> {
    let said = |error: std::io::Error| error.to_string();
    // A handle on the place only; links are followed here, once.
    let found = File::options().read(true).custom_flags(libc::O_PATH).open(&file.path).map_err(said)?;
    let meta = found.metadata().map_err(said)?;
    if !meta.is_file() {
        return Err("it is no regular file".to_owned());
    }
    let handle = PathBuf::from(format!("/proc/self/fd/{}", found.as_raw_fd()));
    if let Some(Bound { within, owner }) = &file.bound {
        let place = handle.read_link().map_err(said)?;
        if !place.starts_with(within) {
            return Err(format!(
                "that is outside {}, and the `skep.toml` that names it belongs to user {owner}; set it in the \
                 server's config instead",
                within.display()
            ));
        }
        if meta.uid() != *owner {
            return Err(format!(
                "it belongs to user {}, and the `skep.toml` that names it to user {owner}; give both the same owner, \
                 or set it in the server's config",
                meta.uid()
            ));
        }
    }
    let mut value = Vec::new();
    let opened = File::open(&handle).map_err(said)?;
    opened.take(MAX_SECRET + 1).read_to_end(&mut value).map_err(said)?;
    if value.len() as u64 > MAX_SECRET {
        return Err("it is longer than 64 KiB".to_owned());
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    fn bound(path: &Path, within: &Path, owner: u32) -> SecretFile {
        let within = within.canonicalize().unwrap();
        SecretFile { path: path.to_owned(), bound: Some(Bound { within, owner }) }
    }

    #[test]
    fn a_link_laid_after_the_config_was_read_leads_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        let (app, key) = (dir.path().join("app"), dir.path().join("server-key"));
        std::fs::create_dir(&app).unwrap();
        std::fs::write(&key, "the server's").unwrap();
        let own = rustix::process::geteuid().as_raw();
        let k = app.join("k");
        std::fs::write(&k, "the app's").unwrap();
        assert_eq!(read("K", &bound(&k, &app, own)).unwrap(), b"the app's");

        let refused = |file: &SecretFile| read("K", file).unwrap_err().to_string();
        let other = refused(&bound(&k, &app, own + 1));
        assert!(other.contains("`K`") && other.contains(&format!("belongs to user {own}")), "{other}");

        std::fs::remove_file(&k).unwrap();
        symlink(&key, &k).unwrap();
        let outside = refused(&bound(&k, &app, own));
        assert!(outside.contains("that is outside"), "{outside}");
        assert_eq!(
            read("K", &k.clone().into()).unwrap(),
            b"the server's",
            "whom the administrator named it for"
        );

        // Further up in the path, too.
        let below = app.join("below");
        symlink(dir.path(), &below).unwrap();
        let outside = refused(&bound(&below.join("server-key"), &app, own));
        assert!(outside.contains("that is outside"), "{outside}");
        // Within the folder, links are no harm.
        std::fs::write(app.join("real"), "x").unwrap();
        symlink("real", app.join("link")).unwrap();
        assert_eq!(read("K", &bound(&app.join("link"), &app, own)).unwrap(), b"x");
    }

    #[test]
    fn only_regular_files_of_bounded_size_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let said = |path: &Path| read("K", &path.into()).unwrap_err().to_string();
        assert!(said(dir.path()).contains("no regular file"));
        assert!(said(Path::new("/dev/zero")).contains("no regular file"));
        let pipe = dir.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        assert!(said(&pipe).contains("no regular file"), "and nobody waits for a writer");
        let long = dir.path().join("long");
        std::fs::write(&long, vec![b'x'; 65_536]).unwrap();
        assert_eq!(read("K", &long.clone().into()).unwrap().len() as u64, MAX_SECRET);
        std::fs::write(&long, vec![b'x'; 65_537]).unwrap();
        assert!(said(&long).contains("longer than 64 KiB"));
        assert!(said(&dir.path().join("none")).contains("No such file"));
    }
}
