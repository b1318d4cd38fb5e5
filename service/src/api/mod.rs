//! What the program and the daemon exchange, as JSON: requests, descriptions and errors.
//!
//! Bytes are numbers, times RFC 3339 text. A DISK is text: an absolute path, `VG/LV`, an array's name, an NBD URL, or
//! `qcow2:DISK` for the image in another one.

mod error;
mod host;
mod image;
mod lab;
mod machine;
mod network;
mod size;
mod status;
mod storage;
mod vpn;

pub use error::{Error, ErrorBody, ErrorKind, Result};
pub use host::{Host, HostLink};
pub use image::{
    ImageBacking, ImageBackup, ImageBitmap, ImageBitmapChange, ImageBitmapWanted, ImageCheck,
    ImageComparison, ImageCopy, ImageDisk, ImageExtent, ImageInfo, ImageJoin, ImageKeySlot,
    ImageLink, ImageLuks, ImageMeasure, ImageMirror, ImageOverlay, ImageSnapshot,
    ImageSnapshotWanted, ImageSync, ImageWanted, Qcow2Info,
};
pub use lab::{Action, Change, Event, LabRequest, Plan};
pub use machine::{Console, Engine, Machine, MachineState, Stop, VmRun};
pub use network::{
    DhcpSetting, Lease, NetCreate, NetMode, NetStretch, NetStretched, Network, Port, PortAdd,
};
pub use size::{MemberSize, Size, VolumeSize};
pub use status::{Advice, Health, Status};
pub use storage::{
    Array, ArrayState, Disk, DiskCreate, DiskList, DiskUse, Examination, Export, ExportAdd, Group,
    LvCreate, Member, MemberRole, MemberState, Mismatch, PhysicalVolume, RaidAssemble, RaidCreate,
    RaidGrow, RaidMember, RaidRepair, RaidReplace, RaidSync, RaidWriteMostly, Rename, Resize,
    Scrub, Segment, Stripe, Sync, SyncAction, VgCreate, VgImport, Volume, VolumeKind,
};
pub use vpn::{
    PeerAdd, PeerName, PeerState, Vpn, VpnCreate, VpnExport, VpnExported, VpnImport, VpnImported,
    VpnPeer, VpnState,
};
