//! Where the daemon keeps its state and where it listens.
//!
//! Root uses `/var/lib/weft` and `/run/weft`, everybody else the XDG folders. `WEFT_STATE` moves the state, and the
//! run-time folder into it; `WEFT_SOCKET` moves the API's socket alone.

use std::fs::File;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use crate::api::{Error, ErrorKind, Result};

/// The longest path that a Unix socket takes, without its closing NUL.
const SOCKET_PATH_MAX: usize = 107;

/// The folders of one daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// What outlives a restart of the host.
    pub state: PathBuf,
    /// What does not: sockets and consoles.
    pub run: PathBuf,
    /// The API's socket.
    pub socket: PathBuf,
}

impl Paths {
    /// The folders that the environment asks for.
    ///
    /// # Errors
    /// `Invalid` if no folder can be told or the socket's path is too long.
    pub fn from_environment() -> Result<Self> {
        let root = nix::unistd::geteuid().is_root();
        let variable = |name: &str| {
            std::env::var_os(name)
                .map(PathBuf::from)
                .filter(|path| path.is_absolute())
        };
        Self::choose(root, nix::unistd::getuid().as_raw(), variable)
    }

    fn choose(root: bool, uid: u32, variable: impl Fn(&str) -> Option<PathBuf>) -> Result<Self> {
        let (state, run) = if let Some(state) = variable("WEFT_STATE") {
            let run = state.join("run");
            (state, run)
        } else if root {
            (PathBuf::from("/var/lib/weft"), PathBuf::from("/run/weft"))
        } else {
            let home = variable("HOME");
            let state = variable("XDG_STATE_HOME")
                .or_else(|| home.map(|home| home.join(".local/state")))
                .ok_or_else(|| {
                    Error::general(
                        ErrorKind::Invalid,
                        "there is no home folder to keep state in; set WEFT_STATE",
                    )
                })?;
            let run = variable("XDG_RUNTIME_DIR")
                .unwrap_or_else(|| PathBuf::from(format!("/tmp/weft-{uid}")));
            (state.join("weft"), run.join("weft"))
        };
        let socket = variable("WEFT_SOCKET").unwrap_or_else(|| run.join("weft.sock"));
        let paths = Self { state, run, socket };
        fits_a_socket(&paths.socket)?;
        Ok(paths)
    }

    /// The store's file.
    pub fn store(&self) -> PathBuf {
        self.state.join("inventory.redb")
    }

    /// The file whose lock says that a daemon runs.
    pub fn lock(&self) -> PathBuf {
        self.state.join("daemon.lock")
    }

    /// Where a daemon that was started by a command writes its log.
    pub fn log(&self) -> PathBuf {
        self.state.join("daemon.log")
    }

    /// The folder of tunnels' secrets.
    pub fn secrets(&self) -> PathBuf {
        self.state.join("vpn")
    }

    /// The folder of one machine's sockets and console.
    pub fn machine(&self, name: &str) -> PathBuf {
        self.run.join("vm").join(name)
    }

    /// Whether a daemon holds this state.
    pub fn is_served(&self) -> bool {
        File::open(self.lock())
            .is_ok_and(|file| Flock::lock(file, FlockArg::LockSharedNonblock).is_err())
    }

    /// Makes the folders, for their owner alone.
    ///
    /// # Errors
    /// `Permission` or `Io`, naming the folder.
    pub fn make(&self) -> Result<()> {
        use std::os::unix::fs::DirBuilderExt;
        for folder in [&self.state, &self.run] {
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(folder)
                .map_err(|error| {
                    let name = folder.display().to_string();
                    Error::from_io(&name, &format!("the folder {name} cannot be made"), &error)
                })?;
        }
        Ok(())
    }
}

/// Whether a Unix socket can be bound to `path`.
///
/// # Errors
/// `Invalid` if the path is too long for the kernel.
pub fn fits_a_socket(path: &Path) -> Result<()> {
    if path.as_os_str().len() > SOCKET_PATH_MAX {
        let name = path.display().to_string();
        return Err(Error::new(
            ErrorKind::Invalid,
            name.clone(),
            format!(
                "{name} is longer than the {SOCKET_PATH_MAX} bytes of a Unix socket's path; \
                 choose a shorter WEFT_STATE"
            ),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(root: bool, set: &'static [(&'static str, &'static str)]) -> Paths {
        Paths::choose(root, 1000, |name| {
            set.iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| PathBuf::from(value))
        })
        .unwrap()
    }

    #[test]
    fn the_environment_decides() {
        assert_eq!(with(true, &[]).socket, Path::new("/run/weft/weft.sock"));
        let user = with(
            false,
            &[("HOME", "/home/ann"), ("XDG_RUNTIME_DIR", "/run/user/1000")],
        );
        assert_eq!(user.state, Path::new("/home/ann/.local/state/weft"));
        assert_eq!(user.socket, Path::new("/run/user/1000/weft/weft.sock"));
        let moved = with(
            true,
            &[("WEFT_STATE", "/srv/lab"), ("WEFT_SOCKET", "/tmp/w.sock")],
        );
        assert_eq!(moved.run, Path::new("/srv/lab/run"));
        assert_eq!(moved.socket, Path::new("/tmp/w.sock"));
    }

    #[test]
    fn a_socket_path_that_the_kernel_refuses_is_refused_first() {
        let long = "/x".repeat(60);
        assert!(fits_a_socket(Path::new(&long)).is_err());
    }
}
