//! Network namespaces: a network stack of its own for a lab, a test or a run without root.
//!
//! A namespace lives as long as something holds it: a [`Namespace`] value, a thread or process in it, or a name under
//! `/run/netns` as `ip netns` makes them. Everything in this crate acts in the namespace of the calling thread, so
//! [`Namespace::run`] carries any of it elsewhere.

#[allow(unsafe_code)] // A room of unsafe: fork for a trial of unshare, and an ioctl.
mod sys;

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

use crate::{Error, ErrorKind, Result};

/// Where names of namespaces live, shared with `ip netns`.
const NAMES: &str = "/run/netns";
/// The calling thread's namespace; `/proc/self` would be the main thread's.
const OF_THREAD: &str = "/proc/thread-self/ns/net";
/// The bit of CAP_NET_ADMIN in the masks of `/proc/self/status`.
const CAP_NET_ADMIN: u32 = 12;

/// A network namespace, held.
#[derive(Debug)]
pub struct Namespace {
    fd: OwnedFd,
}

impl Namespace {
    /// Makes a namespace without a name; its loopback is down. Needs CAP_SYS_ADMIN.
    pub fn create() -> Result<Self> {
        on_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET)
                .map_err(|e| Error::system("making a network namespace", e))?;
            Self::current()
        })?
    }

    /// Makes a namespace with a name, which `ip netns` shows and which stays until [`Namespace::remove_named`].
    pub fn create_named(name: &str) -> Result<Self> {
        let path = named_path(name)?;
        let failed = |e: io::Error| Error::system(format!("making network namespace {name}"), e);
        prepare_names().map_err(failed)?;
        fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(|e| match e.kind() {
                io::ErrorKind::AlreadyExists => Error::new(
                    ErrorKind::Busy,
                    format!("network namespace {name} exists already"),
                ),
                _ => failed(e),
            })?;
        let made = Self::create().and_then(|namespace| {
            let source = format!("/proc/self/fd/{}", namespace.fd.as_raw_fd());
            mount(
                Some(source.as_str()),
                &path,
                None::<&str>,
                MsFlags::MS_BIND,
                None::<&str>,
            )
            .map_err(|e| failed(e.into()))?;
            Ok(namespace)
        });
        if made.is_err() {
            // The name must not stay without a namespace behind it; the first error is the one to tell.
            let _ = fs::remove_file(&path);
        }
        made
    }

    /// Holds the namespace with this name. [`ErrorKind::NotFound`] if there is none.
    pub fn open_named(name: &str) -> Result<Self> {
        let path = named_path(name)?;
        let file = File::open(&path)
            .map_err(|e| Error::system(format!("opening network namespace {name}"), e))?;
        Ok(Self { fd: file.into() })
    }

    /// Takes the name away; the namespace ends with its last holder.
    pub fn remove_named(name: &str) -> Result<()> {
        let path = named_path(name)?;
        let failed = |e: io::Error| Error::system(format!("removing network namespace {name}"), e);
        match umount2(&path, MntFlags::MNT_DETACH) {
            // A name whose mount is gone already (after a crash between the two steps) is only unlinked.
            Ok(()) | Err(nix::Error::EINVAL) => fs::remove_file(&path).map_err(failed),
            Err(e) => Err(failed(e.into())),
        }
    }

    /// The names of all named namespaces, sorted.
    pub fn names() -> Result<Vec<String>> {
        let entries = match fs::read_dir(NAMES) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(Error::system("listing network namespaces", e)),
        };
        let mut names: Vec<String> = entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .collect();
        names.sort();
        Ok(names)
    }

    /// The namespace of the calling thread.
    pub fn current() -> Result<Self> {
        let file = File::open(OF_THREAD)
            .map_err(|e| Error::system("opening the network namespace of this thread", e))?;
        Ok(Self { fd: file.into() })
    }

    /// Another holder of the same namespace.
    pub fn try_clone(&self) -> Result<Self> {
        let fd = self
            .fd
            .try_clone()
            .map_err(|e| Error::system("holding a network namespace", e))?;
        Ok(Self { fd })
    }

    /// Moves the calling thread into this namespace, for good. Threads and processes that it starts begin there.
    pub fn enter(&self) -> Result<()> {
        setns(&self.fd, CloneFlags::CLONE_NEWNET)
            .map_err(|e| Error::system("entering a network namespace", e))
    }

    /// Runs `work` on a thread of its own inside this namespace and gives back what it returns. A panic in `work`
    /// goes on in the caller.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        on_thread(|| {
            self.enter()?;
            Ok(work())
        })?
    }

    /// A path by which other programs can open this namespace while this value lives (`nsenter --net=PATH`).
    pub fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.fd.as_raw_fd()).into()
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// What this process may do with networks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Possible {
    /// Links of the namespace that it is in (CAP_NET_ADMIN here).
    Here,
    /// Nothing here, but all in a user and network namespace of its own ([`enter_rootless`]), which reaches nothing
    /// outside by itself.
    Rootless,
    /// Nothing, and why.
    Nothing(String),
}

/// Tells what is possible here, by trying it in a child process where it must be tried.
pub fn possible() -> Possible {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    if has_net_admin(&status) {
        return Possible::Here;
    }
    match sys::try_unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNET) {
        Ok(()) => Possible::Rootless,
        Err(e) => Possible::Nothing(format!(
            "networks need root (CAP_NET_ADMIN), or user namespaces, which this system refuses: {e}"
        )),
    }
}

fn has_net_admin(status: &str) -> bool {
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask & (1 << CAP_NET_ADMIN) != 0)
}

/// Moves the whole process into a user namespace in which it is root, and a network namespace in which it may do
/// everything, with its loopback up. Must be called while the process has a single thread (before any runtime starts); the kernel answers
/// otherwise with an error, and nothing has changed.
pub fn enter_rootless() -> Result<()> {
    let uid = nix::unistd::geteuid();
    let gid = nix::unistd::getegid();
    let failed = |e: io::Error| Error::system("entering a user and network namespace", e);
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET).map_err(|e| failed(e.into()))?;
    // user_namespaces(7): without privileges setgroups must be denied before a gid is mapped.
    fs::write("/proc/self/setgroups", "deny").map_err(failed)?;
    fs::write("/proc/self/uid_map", format!("0 {uid} 1")).map_err(failed)?;
    fs::write("/proc/self/gid_map", format!("0 {gid} 1")).map_err(failed)?;
    sys::loopback_up().map_err(failed)
}

/// Runs `work` on a thread that ends with it, so that what it does to its namespaces ends too.
fn on_thread<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("weft-netns".into())
            .spawn_scoped(scope, work)
            .map_err(|e| Error::system("starting a thread for a network namespace", e))?;
        match thread.join() {
            Ok(value) => Ok(value),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

fn named_path(name: &str) -> Result<PathBuf> {
    let bad = name.is_empty()
        || name.len() > 255
        || name == "."
        || name == ".."
        || name.bytes().any(|byte| byte == b'/' || byte == 0);
    if bad {
        return Err(Error::new(
            ErrorKind::Invalid,
            format!("{name:?} is no name for a network namespace"),
        ));
    }
    Ok(PathBuf::from(NAMES).join(name))
}

/// Makes `/run/netns` a shared mount, as `ip netns` does, so that a name removed here is removed in every mount
/// namespace that has seen it.
fn prepare_names() -> io::Result<()> {
    fs::create_dir_all(NAMES)?;
    let share = || {
        mount(
            None::<&str>,
            NAMES,
            None::<&str>,
            MsFlags::MS_SHARED | MsFlags::MS_REC,
            None::<&str>,
        )
    };
    match share() {
        Ok(()) => Ok(()),
        // Not a mount point yet.
        Err(nix::Error::EINVAL) => {
            mount(
                Some(NAMES),
                NAMES,
                None::<&str>,
                MsFlags::MS_BIND | MsFlags::MS_REC,
                None::<&str>,
            )?;
            Ok(share()?)
        }
        Err(e) => Err(e.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_capabilities() {
        assert!(has_net_admin("Name:\tx\nCapEff:\t0000000000001000\n"));
        assert!(!has_net_admin("CapEff:\t0000000000000fff\n"));
        assert!(!has_net_admin(""));
    }

    #[test]
    fn a_closure_runs_elsewhere_and_the_caller_stays() {
        if possible() != Possible::Here {
            return;
        }
        let Ok(namespace) = Namespace::create() else {
            return;
        };
        let before = fs::read_link(OF_THREAD).unwrap();
        let inside = namespace.run(|| fs::read_link(OF_THREAD).unwrap()).unwrap();
        assert_ne!(inside, before);
        assert_eq!(fs::read_link(OF_THREAD).unwrap(), before);
        let interfaces = namespace
            .run(|| fs::read_to_string("/proc/thread-self/net/dev").unwrap())
            .unwrap();
        assert!(interfaces.contains("lo:"));
    }

    #[test]
    fn names_are_checked() {
        for bad in ["", "..", "a/b"] {
            assert_eq!(
                Namespace::open_named(bad).unwrap_err().kind(),
                ErrorKind::Invalid
            );
        }
        assert_eq!(
            Namespace::open_named("weft-no-such-namespace")
                .unwrap_err()
                .kind(),
            ErrorKind::NotFound
        );
    }
}
