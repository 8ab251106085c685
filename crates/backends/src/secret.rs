//! Reading a secret from its file, for either backend.
//!
//! Whoever may write an app's folder may put a link in it at any time: `found_file` sees to that.

use std::os::unix::fs::MetadataExt;

use skep_launch::BackendError;
use skep_model::{Bound, SecretFile};

use crate::found_file::{self, Unread};

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
    let read = found_file::read(&file.path, MAX_SECRET, |meta, place| {
        let Some(Bound { within, owner }) = &file.bound else { return Ok(()) };
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
        Ok(())
    });
    read.map_err(|unread| match unread {
        Unread::TooLong(_) => "it is longer than 64 KiB".to_owned(),
        unread => unread.to_string(),
    })
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
