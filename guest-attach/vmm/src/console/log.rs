//! A log file that never grows over its bound.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// The least bound, so that halving it leaves something.
const MIN_BYTES: u64 = 4096;

/// The console's log: the latest output, at most `limit` bytes of it.
pub(crate) struct Log {
    file: File,
    length: u64,
    limit: u64,
}

impl Log {
    /// Opens or makes the file at `path`; what it holds already is kept.
    pub(crate) fn open(path: &Path, limit: u64) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        let length = file.metadata()?.len();
        let limit = limit.max(MIN_BYTES);
        Ok(Self {
            file,
            length,
            limit,
        })
    }

    /// Appends; when the file is full, its older half goes first.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let bytes = &bytes[bytes.len().saturating_sub((self.limit / 2) as usize)..];
        if self.length + bytes.len() as u64 > self.limit {
            self.halve()?;
        }
        self.file.write_all_at(bytes, self.length)?;
        self.length += bytes.len() as u64;
        Ok(())
    }

    fn halve(&mut self) -> io::Result<()> {
        let keep = self.length.min(self.limit / 2);
        let mut latest = vec![0; keep as usize];
        self.file.read_exact_at(&mut latest, self.length - keep)?;
        // Whole lines only, where there are lines.
        let start = latest
            .iter()
            .position(|&byte| byte == b'\n')
            .map_or(0, |at| at + 1);
        self.file.write_all_at(&latest[start..], 0)?;
        self.length = (latest.len() - start) as u64;
        self.file.set_len(self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_output_stays_within_the_bound() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut log = Log::open(&path, 4096).unwrap();
        for line in 0..1000 {
            log.append(format!("line {line}\n").as_bytes()).unwrap();
            assert!(std::fs::metadata(&path).unwrap().len() <= 4096);
        }
        log.append(&[b'x'; 5000]).unwrap();
        log.append(b"\nlast\n").unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.ends_with("x\nlast\n"));
        assert!(text.len() <= 4096);
    }

    #[test]
    fn a_second_run_goes_on_where_the_first_ended() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        Log::open(&path, 4096).unwrap().append(b"one\n").unwrap();
        Log::open(&path, 4096).unwrap().append(b"two\n").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"one\ntwo\n");
    }
}
