//! The operating-system user an app runs as.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::protocol::Ids;

/// A user of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct User {
    pub(super) name: String,
    pub(super) home: PathBuf,
    pub(super) shell: String,
    pub(super) ids: Ids,
}

/// Finds a user by name and checks that this process may become it.
///
/// # Errors
/// Says why not, in one sentence.
pub(super) fn find(name: &str) -> Result<User, String> {
    let well_formed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '$' | '@');
    if name.is_empty() || name.starts_with('-') || !name.chars().all(well_formed) {
        return Err(format!("`run_as = \"{name}\"` is no user name"));
    }
    let local = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let user = local.lines().find_map(|line| parse(line, name)).or_else(|| {
        // Users of a directory service are not in the file.
        let entry = output(Command::new("getent").args(["passwd", name]))?;
        entry.lines().find_map(|line| parse(line, name))
    });
    let mut user = user.ok_or_else(|| format!("`run_as = \"{name}\"`: this machine has no such user"))?;
    let own = rustix::process::geteuid();
    if !own.is_root() && own.as_raw() != user.ids.uid {
        return Err(format!(
            "`run_as = \"{name}\"` is not permitted: only root may start processes as another user, and Skep runs as user {}",
            own.as_raw()
        ));
    }
    if own.is_root() {
        let listed = output(Command::new("id").args(["-G", name])).unwrap_or_default();
        user.ids.groups = listed.split_ascii_whitespace().filter_map(|id| id.parse().ok()).collect();
    }
    Ok(user)
}

/// The user this process runs as.
pub(super) fn own() -> User {
    let uid = rustix::process::geteuid().as_raw();
    let local = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let entry = local.lines().find(|line| line.split(':').nth(2) == Some(uid.to_string().as_str()));
    let known = entry.and_then(|line| parse(line, line.split(':').next()?));
    let mut user = known.unwrap_or_else(|| User {
        name: uid.to_string(),
        home: PathBuf::from("/"),
        shell: "/bin/sh".to_owned(),
        ids: Ids { uid, gid: rustix::process::getegid().as_raw(), groups: Vec::new() },
    });
    if let Some(home) = std::env::var_os("HOME").filter(|home| Path::new(home).is_absolute()) {
        user.home = PathBuf::from(home);
    }
    user
}

/// Whether a user gets into a folder. Err: the first folder on the way that is closed to it.
pub(super) fn may_enter(folder: &Path, user: &Ids) -> Result<(), PathBuf> {
    let mut way: Vec<&Path> = folder.ancestors().collect();
    way.reverse();
    for step in way {
        let Ok(meta) = fs::metadata(step) else { return Err(step.to_path_buf()) };
        let mode = meta.mode();
        let enter = if meta.uid() == user.uid {
            mode & 0o100
        } else if meta.gid() == user.gid || user.groups.contains(&meta.gid()) {
            mode & 0o010
        } else {
            mode & 0o001
        };
        if enter == 0 && user.uid != 0 {
            return Err(step.to_path_buf());
        }
    }
    Ok(())
}

fn parse(line: &str, name: &str) -> Option<User> {
    let fields: Vec<&str> = line.split(':').collect();
    if fields.first() != Some(&name) || fields.len() < 7 {
        return None;
    }
    Some(User {
        name: name.to_owned(),
        home: PathBuf::from(fields.get(5)?),
        shell: (*fields.get(6)?).to_owned(),
        ids: Ids { uid: fields.get(2)?.parse().ok()?, gid: fields.get(3)?.parse().ok()?, groups: Vec::new() },
    })
}

fn output(command: &mut Command) -> Option<String> {
    let done = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    done.status.success().then(|| String::from_utf8_lossy(&done.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_or_refused_with_a_reason() {
        for (name, why) in
            [("", "no user name"), ("-x", "no user name"), ("no-such-user-here", "no such user")]
        {
            let said = find(name).unwrap_err();
            assert!(said.contains(why), "{name}: {said}");
        }
        let own = own();
        assert_eq!(own.ids.uid, rustix::process::geteuid().as_raw());
        assert_eq!(find(&own.name).map(|user| user.ids.uid), Ok(own.ids.uid));
        if own.ids.uid != 0 {
            assert!(find("root").unwrap_err().contains("only root"));
        }
        let closed = tempfile::tempdir().unwrap();
        fs::set_permissions(closed.path(), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        let stranger = Ids { uid: 54_321, gid: 54_321, groups: Vec::new() };
        assert_eq!(may_enter(&closed.path().join("x"), &stranger), Err(closed.path().to_path_buf()));
        assert_eq!(may_enter(Path::new("/usr/bin"), &stranger), Ok(()));
        let line = "x:y:5:6:Some One:/srv/x:/bin/bash";
        assert_eq!(parse(line, "x").map(|u| u.ids.gid), Some(6));
        assert_eq!(parse("x:y:5", "x"), None);
    }
}
