//! A server of ours over a raw file.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use weft_export::nbd::server::{Export, Server};
use weft_tests::data;
use weft_uring::{Address, FileDevice, OpenOptions, Shard, block_on};

pub(crate) const MIB: u64 = 1 << 20;

/// Serves `disk.img` in a folder of its own as `disk`, on a Unix socket and a TCP port.
pub(crate) struct Site {
    pub(crate) server: Server,
    pub(crate) folder: tempfile::TempDir,
    _shard: Shard,
}

impl Site {
    /// Over a sparse file of `size` bytes with data in each of `islands` (offset and length).
    pub(crate) fn new(size: u64, islands: &[(u64, u64)]) -> Self {
        Self::with(size, islands, false)
    }

    pub(crate) fn read_only(size: u64, islands: &[(u64, u64)]) -> Self {
        Self::with(size, islands, true)
    }

    fn with(size: u64, islands: &[(u64, u64)], read_only: bool) -> Self {
        let folder = weft_tests::temp_dir();
        let path = weft_tests::sparse_file(folder.path(), "disk.img", size);
        let file = fs::File::options().write(true).open(&path).unwrap();
        for &(offset, len) in islands {
            let bytes = data::bytes(offset, len as usize);
            file.write_all_at(&bytes, offset).unwrap();
        }
        drop(file);
        let shard = Shard::start("nbd-site").unwrap();
        let addresses = [
            Address::Unix(folder.path().join("socket")),
            "127.0.0.1:0".parse().unwrap(),
        ];
        let server = block_on(Server::start(&shard.handle(), &addresses)).unwrap();
        let options = OpenOptions {
            read_only,
            // Judges compare the file behind the server's back.
            lock: false,
            ..OpenOptions::default()
        };
        let device = FileDevice::open(&path, &options).unwrap();
        let mut export = Export::new(Arc::new(device));
        export.description = "a disk for judges".into();
        block_on(server.add("disk", export)).unwrap();
        Self {
            server,
            folder,
            _shard: shard,
        }
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.folder.path().join("disk.img")
    }

    pub(crate) fn path(&self, name: &str) -> String {
        text(&self.folder.path().join(name))
    }

    pub(crate) fn unix(&self) -> String {
        format!("nbd+unix:///disk?socket={}", self.path("socket"))
    }

    pub(crate) fn port(&self) -> u16 {
        match self.server.addresses()[1] {
            Address::Tcp(address) => address.port(),
            Address::Unix(_) => unreachable!("the second address is a TCP port"),
        }
    }

    pub(crate) fn tcp(&self) -> String {
        format!("nbd://127.0.0.1:{}/disk", self.port())
    }

    /// Both.
    pub(crate) fn urls(&self) -> [String; 2] {
        [self.unix(), self.tcp()]
    }
}

pub(crate) fn text(path: &Path) -> String {
    path.to_str().unwrap().to_string()
}

/// Whether two files hold the same bytes.
pub(crate) fn same(one: impl AsRef<Path>, other: impl AsRef<Path>) -> bool {
    fs::read(one).unwrap() == fs::read(other).unwrap()
}

/// Bytes that a file takes on its disk.
pub(crate) fn allocated(path: impl AsRef<Path>) -> u64 {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(path).unwrap().blocks() * 512
}
