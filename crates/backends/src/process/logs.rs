//! Reading what an instance wrote: the last lines, and on from there across rotations.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::stream::{self, Stream, StreamExt};

use super::protocol::{LINE_BYTES, LOG_FILE, LOG_FILE_OLD};

/// Lines anybody may ask for at once.
pub(super) const MAX_TAIL: usize = 10_000;
/// Bytes looked through for them.
const MAX_TAIL_BYTES: u64 = 4 << 20;
/// How often a followed log is looked at.
const POLL: Duration = Duration::from_millis(150);

/// The last lines, oldest first.
pub(super) fn tail(folder: &Path, lines: usize) -> Vec<String> {
    let mut found = tail_of(&folder.join(LOG_FILE), lines);
    if found.len() < lines {
        let mut older = tail_of(&folder.join(LOG_FILE_OLD), lines - found.len());
        older.append(&mut found);
        found = older;
    }
    found
}

fn tail_of(path: &Path, lines: usize) -> Vec<String> {
    let Ok(bytes) = end_of(path) else { return Vec::new() };
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].iter().map(|line| clean(line)).collect()
}

fn end_of(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let size = file.metadata()?.len();
    file.seek(SeekFrom::Start(size.saturating_sub(MAX_TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(MAX_TAIL_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Without what would move a reader's cursor.
fn clean(line: &str) -> String {
    line.trim_end_matches('\r').chars().filter(|&c| c == '\t' || c == '\u{1b}' || !c.is_control()).collect()
}

/// The last lines and then every further one, until `ended` says that nothing more is written.
pub(super) fn follow(
    folder: PathBuf,
    lines: usize,
    ended: impl Fn() -> bool + Send + 'static,
) -> impl Stream<Item = String> + Send {
    // Opened before the last lines are read, so that nothing falls between the two.
    let reader = Reader::at_end(&folder);
    let before = tail(&folder, lines);
    let after = stream::unfold((reader, ended), |(mut reader, ended)| async move {
        loop {
            // Asked before reading: what was written by then is read below.
            let over = ended();
            let (back, lines) = tokio::task::spawn_blocking(move || {
                let lines = reader.read();
                (reader, lines)
            })
            .await
            .ok()?;
            reader = back;
            if !lines.is_empty() {
                return Some((stream::iter(lines), (reader, ended)));
            }
            if over {
                // A last line without its end.
                let rest = std::mem::take(&mut reader.partial);
                let rest = (!rest.is_empty()).then(|| clean(&String::from_utf8_lossy(&rest)))?;
                return Some((stream::iter(vec![rest]), (reader, ended)));
            }
            tokio::time::sleep(POLL).await;
        }
    });
    stream::iter(before).chain(after.flatten())
}

/// Reads on in a log that is rotated underneath.
struct Reader {
    path: PathBuf,
    file: Option<File>,
    inode: u64,
    partial: Vec<u8>,
}

impl Reader {
    fn at_end(folder: &Path) -> Self {
        let mut reader = Self { path: folder.join(LOG_FILE), file: None, inode: 0, partial: Vec::new() };
        reader.open();
        if let Some(file) = &mut reader.file {
            let _ = file.seek(SeekFrom::End(0));
        }
        reader
    }

    fn open(&mut self) {
        self.file = File::open(&self.path).ok();
        self.inode = self.file.as_ref().and_then(|f| f.metadata().ok()).map_or(0, |m| m.ino());
    }

    /// The lines written since the last time; a bounded number of bytes of them.
    fn read(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        // Noted first: if the log was rotated before this moment, the old file is complete.
        let rotated = std::fs::metadata(&self.path).is_ok_and(|m| m.ino() != self.inode);
        let mut at_end = true;
        if let Some(file) = &mut self.file {
            let mut bytes = Vec::new();
            let _ = Read::by_ref(file).take(256 * 1024).read_to_end(&mut bytes);
            at_end = bytes.is_empty();
            self.partial.extend_from_slice(&bytes);
        }
        let whole = self.partial.iter().rposition(|&b| b == b'\n').map_or(0, |end| end + 1);
        let text: Vec<u8> = self.partial.drain(..whole).collect();
        lines.extend(String::from_utf8_lossy(&text).lines().map(clean));
        if self.partial.len() > 2 * LINE_BYTES {
            lines.push(clean(&String::from_utf8_lossy(&std::mem::take(&mut self.partial))));
        }
        if rotated && at_end {
            self.open();
            if lines.is_empty() {
                return self.read();
            }
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn the_tail_reaches_into_the_older_file() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(LOG_FILE_OLD), "1\n2\n3\n").unwrap();
        std::fs::write(dir.path().join(LOG_FILE), "4\r\n\u{7}5").unwrap();
        assert_eq!(tail(dir.path(), 3), ["3", "4", "5"]);
        assert_eq!(tail(dir.path(), 99).len(), 5);
        assert!(tail(Path::new("/nonexistent"), 5).is_empty());
    }

    #[tokio::test]
    async fn following_survives_rotation_and_ends() {
        use std::io::Write;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(LOG_FILE);
        std::fs::write(&path, "a\nb\n").unwrap();
        let over = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&over);
        let mut log = Box::pin(follow(dir.path().to_path_buf(), 1, move || ended.load(Ordering::Relaxed)));
        assert_eq!(log.next().await.as_deref(), Some("b"));
        let mut file = File::options().append(true).open(&path).unwrap();
        file.write_all(b"c\nd").unwrap();
        assert_eq!(log.next().await.as_deref(), Some("c"));
        file.write_all(b"d\n").unwrap();
        std::fs::rename(&path, dir.path().join(LOG_FILE_OLD)).unwrap();
        std::fs::write(&path, "e\nlast").unwrap();
        assert_eq!(log.next().await.as_deref(), Some("dd"));
        assert_eq!(log.next().await.as_deref(), Some("e"));
        over.store(true, Ordering::Relaxed);
        assert_eq!(log.next().await.as_deref(), Some("last"));
        assert_eq!(log.next().await, None);
    }
}
