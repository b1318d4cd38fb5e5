//! A back end that does no work, and notes what it is told.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use vhost::VhostUserMemoryRegionBase;
use vhost::vhost_user::message::*;
use vhost::vhost_user::{
    BackendReqHandler, Error, GpuBackend, Result, VhostUserBackendReqHandlerMut,
    VhostUserProtocolFeatures, VhostUserVirtioFeatures,
};

use crate::sync::lock;
use crate::virtio::F_VERSION_1;

/// What a peer offers and what it was told.
#[derive(Default)]
pub(super) struct Notes {
    pub(super) calls: Vec<String>,
    pub(super) features: u64,
    pub(super) protocol: VhostUserProtocolFeatures2,
    pub(super) capacity: u64,
    /// The inode of the in-flight region that was set last.
    pub(super) inflight: Option<u64>,
}

/// Protocol features with a default: all that this side of the protocol knows.
#[derive(Clone, Copy)]
pub(super) struct VhostUserProtocolFeatures2(pub(super) VhostUserProtocolFeatures);

impl Default for VhostUserProtocolFeatures2 {
    fn default() -> Self {
        Self(super::features::protocol())
    }
}

/// A listening peer.
pub(super) struct Peer {
    pub(super) notes: Arc<Mutex<Notes>>,
    connection: Arc<Mutex<Option<UnixStream>>>,
    thread: Option<JoinHandle<()>>,
}

impl Peer {
    /// Listens on `path` for one front end.
    pub(super) fn listen(path: &Path, notes: Notes) -> Self {
        let _ = std::fs::remove_file(path);
        let listener = UnixListener::bind(path).unwrap();
        let notes = Arc::new(Mutex::new(notes));
        let connection = Arc::new(Mutex::new(None));
        let handler = Arc::new(Mutex::new(Handler(notes.clone())));
        let kept = connection.clone();
        let thread = std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            drop(listener);
            *lock(&kept) = Some(stream.try_clone().unwrap());
            let mut requests = BackendReqHandler::from_stream(stream, handler);
            while requests.handle_request().is_ok() {}
        });
        Self {
            notes,
            connection,
            thread: Some(thread),
        }
    }

    /// Dies as by `kill -9`: the connection closes, nothing is said.
    pub(super) fn die(mut self) -> Vec<String> {
        if let Some(stream) = lock(&self.connection).take() {
            stream.shutdown(std::net::Shutdown::Both).unwrap();
        }
        self.thread.take().unwrap().join().unwrap();
        std::mem::take(&mut lock(&self.notes).calls)
    }

    /// Waits until a call begins with `text`.
    pub(super) fn wait_for(&self, text: &str) {
        while !lock(&self.notes)
            .calls
            .iter()
            .any(|call| call.starts_with(text))
        {
            std::thread::yield_now();
        }
    }
}

struct Handler(Arc<Mutex<Notes>>);

impl Handler {
    fn note(&self, call: String) -> Result<()> {
        lock(&self.0).calls.push(call);
        Ok(())
    }
}

fn unknown<T>() -> Result<T> {
    Err(Error::InvalidOperation("not in this peer"))
}

impl VhostUserBackendReqHandlerMut for Handler {
    fn set_owner(&mut self) -> Result<()> {
        self.note("owner".into())
    }
    fn reset_owner(&mut self) -> Result<()> {
        unknown()
    }
    fn reset_device(&mut self) -> Result<()> {
        unknown()
    }
    fn get_features(&mut self) -> Result<u64> {
        let own = VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits() | F_VERSION_1;
        Ok(lock(&self.0).features | own)
    }
    fn set_features(&mut self, features: u64) -> Result<()> {
        self.note(format!("features {features:#x}"))
    }
    fn set_mem_table(
        &mut self,
        regions: &[VhostUserMemoryRegion],
        files: Vec<File>,
        _: Option<bool>,
    ) -> Result<Option<Vec<VhostUserMemoryRegionBase>>> {
        let sizes: Vec<u64> = regions.iter().map(|region| region.memory_size).collect();
        self.note(format!("memory {sizes:?} in {} files", files.len()))?;
        Ok(None)
    }
    fn set_vring_num(&mut self, index: u32, num: u32) -> Result<()> {
        self.note(format!("ring {index} size {num}"))
    }
    fn set_vring_addr(
        &mut self,
        index: u32,
        _: VhostUserVringAddrFlags,
        descriptor: u64,
        used: u64,
        available: u64,
        _: u64,
    ) -> Result<()> {
        let (available, used) = (available - descriptor, used - descriptor);
        self.note(format!("ring {index} at +0 +{available:#x} +{used:#x}"))
    }
    fn set_vring_base(&mut self, index: u32, base: u32) -> Result<()> {
        self.note(format!("ring {index} base {base}"))
    }
    fn get_vring_base(&mut self, index: u32) -> Result<VhostUserVringState> {
        self.note(format!("ring {index} stop"))?;
        Ok(VhostUserVringState::new(index, 0))
    }
    fn set_vring_kick(&mut self, index: u8, _: Option<File>) -> Result<()> {
        self.note(format!("ring {index} kick"))
    }
    fn set_vring_call(&mut self, index: u8, _: Option<File>) -> Result<()> {
        self.note(format!("ring {index} call"))
    }
    fn set_vring_err(&mut self, _: u8, _: Option<File>) -> Result<()> {
        unknown()
    }
    fn get_protocol_features(&mut self) -> Result<VhostUserProtocolFeatures> {
        Ok(lock(&self.0).protocol.0)
    }
    fn set_protocol_features(&mut self, _: u64) -> Result<()> {
        self.note("protocol".into())
    }
    fn get_queue_num(&mut self) -> Result<u64> {
        Ok(2)
    }
    fn set_vring_enable(&mut self, index: u32, enable: bool) -> Result<()> {
        self.note(format!("ring {index} enable {enable}"))
    }
    fn get_config(&mut self, offset: u32, size: u32, _: VhostUserConfigFlags) -> Result<Vec<u8>> {
        let mut config = lock(&self.0).capacity.to_le_bytes().to_vec();
        config.resize(256, 0);
        Ok(config[offset as usize..][..size as usize].to_vec())
    }
    fn set_config(&mut self, offset: u32, bytes: &[u8], _: VhostUserConfigFlags) -> Result<()> {
        self.note(format!("config {offset} {bytes:?}"))
    }
    fn set_gpu_socket(&mut self, _: GpuBackend) -> Result<()> {
        unknown()
    }
    fn get_shared_object(&mut self, _: VhostUserSharedMsg) -> Result<File> {
        unknown()
    }
    fn get_inflight_fd(&mut self, wanted: &VhostUserInflight) -> Result<(VhostUserInflight, File)> {
        self.note(format!("inflight get {} x {}", { wanted.num_queues }, {
            wanted.queue_size
        }))?;
        let file = tempfile::tempfile().unwrap();
        file.set_len(4096).unwrap();
        let layout = VhostUserInflight::new(4096, 0, wanted.num_queues, wanted.queue_size);
        Ok((layout, file))
    }
    fn set_inflight_fd(&mut self, _: &VhostUserInflight, file: File) -> Result<()> {
        lock(&self.0).inflight = Some(file.metadata().unwrap().ino());
        self.note("inflight set".into())
    }
    fn get_max_mem_slots(&mut self) -> Result<u64> {
        unknown()
    }
    fn add_mem_region(
        &mut self,
        _: &VhostUserSingleMemoryRegion,
        _: File,
        _: Option<bool>,
    ) -> Result<Option<VhostUserMemoryRegionBase>> {
        unknown()
    }
    fn remove_mem_region(&mut self, _: &VhostUserSingleMemoryRegion) -> Result<()> {
        unknown()
    }
    fn set_device_state_fd(
        &mut self,
        _: VhostTransferStateDirection,
        _: VhostTransferStatePhase,
        _: File,
    ) -> Result<Option<File>> {
        unknown()
    }
    fn check_device_state(&mut self) -> Result<()> {
        unknown()
    }
    fn get_shmem_config(&mut self) -> Result<VhostUserShMemConfig> {
        unknown()
    }
    fn set_log_base(&mut self, _: &VhostUserLog, _: File) -> Result<()> {
        unknown()
    }
}
