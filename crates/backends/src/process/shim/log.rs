//! The log of an instance: two files of bounded size, lines of bounded length.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::super::protocol::{LINE_BYTES, LOG_FILE, LOG_FILE_OLD};

const CUT: &[u8] = b" [... the rest of this line was left out]";

pub(super) struct LogFile {
    path: PathBuf,
    old: PathBuf,
    file: File,
    size: u64,
    /// Where the newer file makes room for the next.
    limit: u64,
    line: usize,
    /// Bytes that could not be written, since the last that could.
    lost: u64,
    out: Vec<u8>,
}

impl LogFile {
    pub(super) fn open(folder: &Path, limit: u64) -> io::Result<Self> {
        let path = folder.join(LOG_FILE);
        let file = File::options().create(true).append(true).open(&path)?;
        let size = file.metadata()?.len();
        let old = folder.join(LOG_FILE_OLD);
        Ok(Self { path, old, file, size, limit: limit.max(4096), line: 0, lost: 0, out: Vec::new() })
    }

    /// Appends what the app wrote. Never fails and never waits for more than the disk: what cannot be written is
    /// counted and dropped.
    pub(super) fn write(&mut self, bytes: &[u8]) {
        self.out.clear();
        if self.lost > 0 {
            let note = format!("\n[{} bytes of this log could not be written]\n", self.lost);
            self.out.extend_from_slice(note.as_bytes());
        }
        for piece in bytes.split_inclusive(|&b| b == b'\n') {
            self.add(piece);
        }
        if self.size + self.out.len() as u64 > self.limit {
            self.rotate();
        }
        match self.file.write_all(&self.out) {
            Ok(()) => {
                self.size += self.out.len() as u64;
                self.lost = 0;
            }
            Err(_) => self.lost += bytes.len() as u64,
        }
    }

    /// A line or a part of one; beyond the limit only its end is kept.
    fn add(&mut self, piece: &[u8]) {
        let ends = piece.last() == Some(&b'\n');
        let room = LINE_BYTES.saturating_sub(self.line);
        let content = if ends { &piece[..piece.len() - 1] } else { piece };
        if content.len() <= room {
            self.out.extend_from_slice(content);
        } else {
            self.out.extend_from_slice(&content[..room]);
            if self.line <= LINE_BYTES {
                self.out.extend_from_slice(CUT);
            }
        }
        // One beyond the limit says that the cut was marked.
        self.line = (self.line + content.len()).min(LINE_BYTES + 1);
        if ends {
            self.out.push(b'\n');
            self.line = 0;
        }
    }

    fn rotate(&mut self) {
        if std::fs::rename(&self.path, &self.old).is_err() {
            return;
        }
        if let Ok(file) = File::options().create(true).append(true).open(&self.path) {
            self.file = file;
            self.size = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(path: &Path) -> String {
        String::from_utf8(std::fs::read(path).unwrap()).unwrap()
    }

    #[test]
    fn long_lines_are_cut_once_however_they_arrive() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = LogFile::open(dir.path(), 1 << 20).unwrap();
        for _ in 0..10 {
            log.write(&vec![b'x'; LINE_BYTES / 3]);
        }
        log.write(b"yyy\nnext\n");
        log.write(&[vec![b'z'; LINE_BYTES], b"\n".to_vec()].concat());
        let text = text(&dir.path().join(LOG_FILE));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[0].len(), LINE_BYTES + CUT.len());
        assert_eq!(lines[1], "next");
        assert_eq!(lines[2].len(), LINE_BYTES, "a line of just the limit is whole");
    }

    #[test]
    fn the_log_is_bounded_and_keeps_the_newest() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = LogFile::open(dir.path(), 10_000).unwrap();
        for n in 0..5_000 {
            log.write(format!("line {n}\n").as_bytes());
        }
        let (new, old) = (text(&dir.path().join(LOG_FILE)), text(&dir.path().join(LOG_FILE_OLD)));
        assert!(new.len() <= 10_000 && old.len() <= 10_000);
        assert!(new.ends_with("line 4999\n"));
        let both = old + &new;
        let count = both.lines().count();
        assert!(both.starts_with(&format!("line {}\n", 5_000 - count)), "nothing missing in between");
    }
}
