//! The exports of a server and who is connected to them.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use futures_channel::oneshot;
use futures_util::FutureExt;
use futures_util::future::Shared;
use weft_block::{BlockDevice, Error, ErrorKind, Result, Spawner};

use super::perform::Target;
use crate::nbd::proto::MAX_STRING;
use crate::nbd::session::{Catalogue, ExportFacts};

/// Bytes: the longest name and description of an export. "Conventions" asks for names of at most 256 bytes.
const MAX_NAME: usize = 256;

/// Bytes: the largest block that the protocol can announce. "Block size constraints".
const MAX_MIN_BLOCK: u32 = 1 << 16;

/// A device that a [`Server`](super::Server) offers.
#[derive(Clone)]
pub struct Export {
    /// The device.
    pub device: Arc<dyn BlockDevice>,
    /// Shown to clients that list exports; may be empty.
    pub description: String,
    /// Refuse writes, whatever the device would take.
    pub read_only: bool,
}

impl Export {
    /// All of `device`, writable if it is.
    pub fn new(device: Arc<dyn BlockDevice>) -> Self {
        Self {
            device,
            description: String::new(),
            read_only: false,
        }
    }
}

impl std::fmt::Debug for Export {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Export")
            .field("device", &self.device.info())
            .field("description", &self.description)
            .field("read_only", &self.read_only)
            .finish()
    }
}

/// An export as [`Server::exports`](super::Server::exports) tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportStatus {
    /// Its name.
    pub name: String,
    /// Its description.
    pub description: String,
    /// Bytes that a client would see now.
    pub size: u64,
    /// Whether writes are refused.
    pub read_only: bool,
    /// Clients that use it now.
    pub connections: usize,
}

/// Resolves when a connection has to end.
pub(super) type Stopped = Shared<oneshot::Receiver<()>>;

/// What a connection holds of its export.
pub(super) struct Membership {
    pub(super) target: Rc<Target>,
    pub(super) stopped: Stopped,
    _presence: Rc<oneshot::Sender<()>>,
}

/// Resolves when the last connection of a removed export has ended.
pub(super) type Vacated = oneshot::Receiver<()>;

struct Served {
    export: Export,
    /// Open as long as somebody is connected.
    target: Weak<Target>,
    /// Dropped to end the connections.
    _stop: oneshot::Sender<()>,
    stopped: Stopped,
    /// Each connection holds a clone; when the last is dropped, `vacated` resolves.
    presence: Rc<oneshot::Sender<()>>,
    vacated: Vacated,
}

/// The exports by name. Lives on the server's thread.
#[derive(Default)]
pub(super) struct Exports {
    served: RefCell<BTreeMap<String, Served>>,
}

impl Exports {
    pub(super) fn add(&self, name: &str, export: Export) -> Result<()> {
        check_name(name)?;
        if export.description.len() > MAX_STRING || export.description.contains('\0') {
            let message = format!("the description of export {name:?} is too long or holds a NUL");
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        let block = export.device.info().logical_block;
        if block > MAX_MIN_BLOCK {
            let message = format!(
                "export {name:?} has blocks of {block} bytes, and NBD knows none above 65536"
            );
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        let mut served = self.served.borrow_mut();
        if served.contains_key(name) {
            let message = format!("there is already an export {name:?}");
            return Err(Error::new(ErrorKind::Busy, message));
        }
        let (stop, stopped) = oneshot::channel();
        let (presence, vacated) = oneshot::channel();
        let entry = Served {
            export,
            target: Weak::new(),
            _stop: stop,
            stopped: stopped.shared(),
            presence: Rc::new(presence),
            vacated,
        };
        served.insert(name.to_string(), entry);
        Ok(())
    }

    /// Takes an export away and tells its connections to end.
    pub(super) fn remove(&self, name: &str) -> Result<Vacated> {
        let Some(served) = self.served.borrow_mut().remove(name) else {
            let message = format!("there is no export {name:?}");
            return Err(Error::new(ErrorKind::Invalid, message));
        };
        Ok(served.vacated)
    }

    /// Takes all exports away.
    pub(super) fn remove_all(&self) -> Vec<Vacated> {
        let served = std::mem::take(&mut *self.served.borrow_mut());
        served.into_values().map(|served| served.vacated).collect()
    }

    pub(super) fn status(&self) -> Vec<ExportStatus> {
        let served = self.served.borrow();
        served
            .iter()
            .map(|(name, served)| {
                let facts = facts(name, &served.export);
                ExportStatus {
                    name: facts.name,
                    description: facts.description,
                    size: facts.size,
                    read_only: facts.read_only,
                    connections: Rc::strong_count(&served.presence) - 1,
                }
            })
            .collect()
    }

    /// Counts a connection in; opens the device's queue for the first.
    pub(super) fn join(&self, name: &str, spawner: &Spawner) -> Result<Membership> {
        let mut served = self.served.borrow_mut();
        let Some(served) = served.get_mut(name) else {
            let message = format!("export {name:?} was removed meanwhile");
            return Err(Error::new(ErrorKind::Offline, message));
        };
        let target = match served.target.upgrade() {
            Some(target) => target,
            None => {
                let target = Rc::new(Target::open(&served.export.device, spawner)?);
                served.target = Rc::downgrade(&target);
                target
            }
        };
        Ok(Membership {
            target,
            stopped: served.stopped.clone(),
            _presence: Rc::clone(&served.presence),
        })
    }
}

impl Catalogue for Exports {
    fn find(&self, name: &str) -> Option<ExportFacts> {
        let served = self.served.borrow();
        if let Some((name, served)) = served.get_key_value(name) {
            return Some(facts(name, &served.export));
        }
        // The only export is the default one, whatever its name.
        let mut all = served.iter();
        match (name, all.next(), all.next()) {
            ("", Some((name, served)), None) => Some(facts(name, &served.export)),
            _ => None,
        }
    }

    fn list(&self) -> Vec<(String, String)> {
        let served = self.served.borrow();
        served
            .iter()
            .map(|(name, served)| (name.clone(), served.export.description.clone()))
            .collect()
    }
}

fn check_name(name: &str) -> Result<()> {
    if name.len() > MAX_NAME || name.contains('\0') {
        let message = "an export's name has at most 256 bytes and no NUL";
        return Err(Error::new(ErrorKind::Invalid, message));
    }
    Ok(())
}

/// Asked anew for every client, so a resize is seen by those who connect after it.
fn facts(name: &str, export: &Export) -> ExportFacts {
    let info = export.device.info();
    let wanted = if info.optimal_io.is_power_of_two() {
        info.optimal_io
    } else {
        info.physical_block
    };
    let preferred = wanted.clamp(4096, 4 << 20).max(info.logical_block);
    let read_only = export.read_only || info.read_only;
    ExportFacts {
        name: name.to_string(),
        description: export.description.clone(),
        size: info.size,
        min_block: info.logical_block,
        preferred_block: preferred.next_power_of_two(),
        read_only,
        trim: info.discard && !read_only,
    }
}

#[cfg(test)]
mod tests {
    use weft_sim::{Executor, MemoryDevice};

    use super::*;

    fn memory(size: u64) -> Export {
        Export::new(Arc::new(MemoryDevice::new(size)))
    }

    #[test]
    fn the_only_export_is_the_default_one() {
        let exports = Exports::default();
        exports.add("a", memory(512)).unwrap();
        assert_eq!(exports.find("").unwrap().name, "a");
        exports.add("b", memory(1024)).unwrap();
        assert!(exports.find("").is_none());
        exports.add("", memory(2048)).unwrap();
        assert_eq!(exports.find("").unwrap().size, 2048);
    }

    #[test]
    fn names_are_unique_and_fit_the_protocol() {
        let exports = Exports::default();
        exports.add("a", memory(512)).unwrap();
        let kind = |name: &str| exports.add(name, memory(512)).unwrap_err().kind();
        assert_eq!(kind("a"), ErrorKind::Busy);
        assert_eq!(kind("a\0"), ErrorKind::Invalid);
        assert_eq!(kind(&"a".repeat(257)), ErrorKind::Invalid);
        assert_eq!(exports.remove("b").unwrap_err().kind(), ErrorKind::Invalid);
    }

    #[test]
    fn removal_stops_connections_and_waits_for_them() {
        let executor = Executor::new(1);
        let exports = Exports::default();
        exports.add("a", memory(512)).unwrap();
        let first = exports.join("a", &executor.spawner()).unwrap();
        let second = exports.join("a", &executor.spawner()).unwrap();
        assert!(Rc::ptr_eq(&first.target, &second.target), "one queue");
        assert_eq!(exports.status()[0].connections, 2);
        assert!(first.stopped.clone().now_or_never().is_none());

        let mut vacated = exports.remove("a").unwrap();
        assert!(first.stopped.clone().now_or_never().is_some());
        assert!(exports.join("a", &executor.spawner()).is_err());
        drop(first);
        assert!((&mut vacated).now_or_never().is_none());
        drop(second);
        assert!((&mut vacated).now_or_never().is_some());
    }

    #[test]
    fn a_resize_is_seen_by_those_who_ask_later() {
        let device = Arc::new(MemoryDevice::new(512));
        let exports = Exports::default();
        exports.add("a", Export::new(device.clone())).unwrap();
        device.resize(4096);
        assert_eq!(exports.find("a").unwrap().size, 4096);
    }
}
