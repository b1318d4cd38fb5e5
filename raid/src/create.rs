//! Making an array.

mod journal;

use std::sync::Arc;

use journal::check_journal;
pub(crate) use journal::{journal_superblock, journal_writes};
use weft_block::{
    BlockDevice, Buffer, Bytes, Error, ErrorKind, IoVec, Request, Result, SECTOR, Spawner,
};

use crate::array::{Array, Lane};
use crate::assemble::{AssembleOptions, assemble, without_host};
use crate::bitmap::{BitmapHead, BitmapImage};
use crate::examine::sync_size;
use crate::geometry::Geometry;
use crate::layout::Layout;
use crate::level::{CopiesLayout, Level, ParityLayout, ZoneLayout};
use crate::superblock::{CLEAN, Features, Reshape, Role, SUPER_BYTE, Superblock, Timestamp};

/// Slots that the superblock of a new array has room for without growing, as mdadm makes it.
const ROLES: u32 = 128;
/// Bytes: md's default chunk.
pub const DEFAULT_CHUNK: u64 = 512 << 10;

/// A device that is, or is to be, part of an array.
#[derive(Clone)]
pub struct MemberDevice {
    /// What messages and status call it.
    pub path: String,
    /// The device.
    pub device: Arc<dyn BlockDevice>,
}

impl std::fmt::Debug for MemberDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.path)
    }
}

/// What makes the members of an array agree after a crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consistency {
    /// Everything is compared.
    Resync,
    /// What the write-intent bitmap remembers is compared.
    Bitmap,
    /// What was under way is put right by the partial parity log, of RAID-5 alone. It closes the write hole: a crash
    /// costs nothing, also while a member is away.
    Ppl,
    /// All changes of RAID-4, 5 or 6 go to a journal first, on a device of its own. It closes the write hole as well.
    Journal,
}

impl Consistency {
    /// What a new array takes if nothing is said.
    pub fn default_of(level: Level) -> Self {
        match level {
            Level::Raid5 => Self::Ppl,
            _ => Self::Bitmap,
        }
    }

    /// The policy of md's name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Resync, Self::Bitmap, Self::Ppl, Self::Journal]
            .into_iter()
            .find(|policy| policy.name() == name)
    }

    /// md's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Resync => "resync",
            Self::Bitmap => "bitmap",
            Self::Ppl => "ppl",
            Self::Journal => "journal",
        }
    }
}

/// What a new array is to be.
#[derive(Debug, Clone)]
pub struct CreateOptions {
    /// The level.
    pub level: Level,
    /// The layout of RAID-5 or RAID-6; left-symmetric if none is named.
    pub layout: Option<ParityLayout>,
    /// The layout of RAID-10; two copies side by side if none is named.
    pub copies: Option<CopiesLayout>,
    /// Bytes of a chunk, a power of two of at least 4 KiB; ignored by RAID-1.
    pub chunk: u64,
    /// The name in the superblock, at most 32 bytes, by custom `host:name`.
    pub name: String,
    /// Identity of the array: random.
    pub uuid: [u8; 16],
    /// Identities of the members: random, one for each.
    pub member_uuids: Vec<[u8; 16]>,
    /// What makes the members agree after a crash; ignored by RAID-0. With a journal, the last of all members holds it.
    pub consistency: Consistency,
    /// Bytes that a bit of the bitmap stands for, a power of two of at least 4 KiB; md's choice if none.
    pub bitmap_chunk: Option<u32>,
    /// Take the members' contents as in sync: only for members that are known to be all zeroes or equal.
    pub assume_clean: bool,
    /// How many of the last members are spares, before the one for the journal.
    pub spares: usize,
    /// The time.
    pub now: Timestamp,
}

impl CreateOptions {
    /// An array with md's defaults; `random` gives the identities.
    pub fn new(
        level: Level,
        name: &str,
        members: usize,
        now: Timestamp,
        mut random: impl FnMut() -> [u8; 16],
    ) -> Self {
        Self {
            level,
            layout: None,
            copies: None,
            chunk: DEFAULT_CHUNK,
            name: name.to_owned(),
            uuid: random(),
            member_uuids: (0..members).map(|_| random()).collect(),
            consistency: Consistency::default_of(level),
            bitmap_chunk: None,
            assume_clean: false,
            spares: 0,
            now,
        }
    }

    fn has_journal(&self) -> bool {
        self.consistency == Consistency::Journal
    }

    /// How many of `members` get a slot.
    fn active(&self, members: usize) -> usize {
        members.saturating_sub(self.spares + usize::from(self.has_journal()))
    }
}

/// Writes superblocks, bitmap and empty bad-block logs to the members, whatever they held, and starts the array.
///
/// # Errors
/// `Invalid` for options that make no array or members that are too small, as a sentence; nothing was written then.
/// Otherwise as the members' writes.
pub async fn create(
    options: &CreateOptions,
    members: Vec<MemberDevice>,
    spawner: &Spawner,
) -> Result<Array> {
    let plan = plan(options, &members)?;
    let (name, written) = (without_host(&options.name).to_owned(), members.clone());
    let own_spawner = std::rc::Rc::clone(spawner);
    Lane::to_the_end(spawner, async move {
        for (member, writes) in written.iter().zip(plan) {
            write_all(member, writes, &own_spawner)
                .await
                .map_err(|error| {
                    let path = &member.path;
                    error.in_context(format!("array {name} cannot be made: writing to {path}"))
                })?;
        }
        Ok(())
    })
    .await?;
    let assemble_options = AssembleOptions {
        name: None,
        force: false,
        now: options.now,
    };
    assemble(members, &assemble_options, spawner).await
}

/// What is written to one member: bytes and their place, in order.
pub(crate) type Writes = Vec<(u64, Vec<u8>)>;

/// Writes to a member in order and flushes it.
pub(crate) async fn write_all(
    member: &MemberDevice,
    writes: Writes,
    spawner: &Spawner,
) -> Result<()> {
    let queue = member.device.open(spawner)?;
    for (at, bytes) in writes {
        let data = IoVec::from(Buffer::copy_of(&bytes));
        queue.submit(Request::write(at, data)).await.result?;
    }
    queue.submit(Request::flush()).await.result
}

fn invalid<T>(why: String) -> Result<T> {
    Err(Error::new(ErrorKind::Invalid, why))
}

/// Decides everything and writes nothing: the writes for every member.
fn plan(options: &CreateOptions, members: &[MemberDevice]) -> Result<Vec<Writes>> {
    check(options, members)?;
    let block = members
        .iter()
        .map(|member| member.device.info().logical_block)
        .max()
        .unwrap_or(512);
    if block > 4096 {
        return invalid(format!(
            "a member has blocks of {block} bytes, md knows up to 4096"
        ));
    }
    let chunk = match options.level {
        Level::Raid1 => 0,
        _ => options.chunk / SECTOR,
    };
    let sectors: Vec<u64> = members
        .iter()
        .map(|member| member.device.info().size / SECTOR)
        .collect();
    let holding = sectors.len() - usize::from(options.has_journal());
    let smallest = sectors[..holding].iter().copied().min().unwrap_or(0);
    let layout = Layout::choose(smallest, chunk, options.consistency == Consistency::Ppl);
    let size = member_size(options, &members[..holding], &layout, smallest, chunk)?;
    let mut superblock = template(options, members.len(), &layout, size, chunk);
    let mut image = None;
    if has_bitmap(options) {
        let size = sync_size(&superblock);
        let Some(head) =
            BitmapHead::choose(options.uuid, size, layout.log_room, options.bitmap_chunk)
        else {
            return invalid(format!(
                "array {}: the members have no room for a bitmap",
                without_host(&options.name)
            ));
        };
        superblock.features = superblock.features.with(Features::BITMAP);
        image = Some(BitmapImage::new(
            head,
            !options.assume_clean,
            layout.log_room,
        ));
    }
    let data: Vec<u64> = sectors[..holding]
        .iter()
        .map(|sectors| (sectors - layout.data_offset) * SECTOR)
        .collect();
    // Refuses what the geometry cannot be, and says how large it will be.
    Geometry::of(&superblock, &data)?;
    let mut plan = Vec::new();
    for (number, uuid) in options.member_uuids.iter().enumerate().take(holding) {
        superblock.dev_number = number as u32;
        superblock.device_uuid = *uuid;
        superblock.data_size = sectors[number] - layout.data_offset;
        plan.push(member_writes(&superblock, image.as_ref(), block as usize));
    }
    if let Some(member) = members.get(holding) {
        superblock.dev_number = holding as u32;
        let uuid = options.member_uuids[holding];
        plan.push(journal_writes(
            without_host(&options.name),
            &superblock,
            member,
            uuid,
        )?);
    }
    Ok(plan)
}

/// What is written to a member: bitmap, bad-block log, and the superblock with its copy.
fn member_writes(superblock: &Superblock, image: Option<&BitmapImage>, block: usize) -> Writes {
    let bitmap_sectors = image.map_or(0, |image| image.bytes().len() as u64 / SECTOR);
    let bytes = superblock.to_bytes(block);
    let mut writes: Writes = Vec::new();
    if let (Some(image), Some(at)) = (image, superblock.bitmap_sector()) {
        writes.push((at * SECTOR, image.bytes().to_vec()));
    }
    if let Some(at) = superblock.bblog_sector() {
        let log = vec![0xff; usize::from(superblock.bblog_size) * SECTOR as usize];
        writes.push((at * SECTOR, log));
    }
    if let Some(at) = superblock.copy_sector(bitmap_sectors) {
        writes.push((at * SECTOR, bytes.clone()));
    }
    writes.push((SUPER_BYTE, bytes));
    writes
}

fn has_bitmap(options: &CreateOptions) -> bool {
    options.level.is_redundant() && options.consistency == Consistency::Bitmap
}

fn check(options: &CreateOptions, members: &[MemberDevice]) -> Result<()> {
    let (level, name) = (options.level, without_host(&options.name));
    if options.consistency == Consistency::Ppl && level != Level::Raid5 {
        return invalid(format!(
            "array {name}: only RAID-5 has a partial parity log, {level} has not"
        ));
    }
    let active = options.active(members.len());
    if options.has_journal() {
        check_journal(name, level, active)?;
    }
    let least = level.least_members();
    if active < least as usize {
        return invalid(format!(
            "array {name}: {level} needs at least {least} members, {active} are given"
        ));
    }
    if members.len() > ROLES as usize {
        return invalid(format!(
            "array {name}: at most {ROLES} members, {} are given",
            members.len()
        ));
    }
    if options.spares > 0 && !level.is_redundant() {
        return invalid(format!("array {name}: {level} has no use for spares"));
    }
    let chunk = options.chunk;
    if level.is_striped() && !(chunk.is_power_of_two() && (4096..=1 << 30).contains(&chunk)) {
        return invalid(format!(
            "array {name}: a chunk of {chunk} bytes is not a power of two from 4 KiB to 1 GiB"
        ));
    }
    let bits = options.bitmap_chunk;
    if bits.is_some_and(|bits| bits < 4096 || !bits.is_power_of_two()) {
        return invalid(format!(
            "array {name}: bits for {} bytes are not a power of two of at least 4 KiB",
            bits.unwrap_or(0)
        ));
    }
    if options.name.len() > 32 || options.name.is_empty() {
        return invalid(format!("array {name}: a name has 1 to 32 bytes"));
    }
    if options.member_uuids.len() != members.len() {
        return invalid(format!("array {name}: every member needs an identity"));
    }
    for (index, member) in members.iter().enumerate() {
        let twice = |other: &MemberDevice| Arc::ptr_eq(&other.device, &member.device);
        if members[..index]
            .iter()
            .any(|other| twice(other) || other.path == member.path)
        {
            return invalid(format!("array {name}: {} is given twice", member.path));
        }
        if member.device.info().read_only {
            let why = format!("array {name}: {} is read-only", member.path);
            return Err(Error::new(ErrorKind::ReadOnly, why));
        }
    }
    Ok(())
}

/// Sectors of each member that the array uses.
fn member_size(
    options: &CreateOptions,
    members: &[MemberDevice],
    layout: &Layout,
    smallest: u64,
    chunk: u64,
) -> Result<u64> {
    let room = smallest.saturating_sub(layout.data_offset);
    let size = match chunk {
        // mdadm counts in KiB.
        0 => room / 2 * 2,
        chunk => room / chunk * chunk,
    };
    if size == 0 {
        let small = members
            .iter()
            .min_by_key(|member| member.device.info().size);
        return invalid(format!(
            "array {}: {} is too small, it needs more than {}",
            without_host(&options.name),
            small.map_or("a member", |member| member.path.as_str()),
            Bytes((layout.data_offset + chunk.max(2)) * SECTOR),
        ));
    }
    Ok(size)
}

/// The superblock of a new array, without what is each member's own.
fn template(
    options: &CreateOptions,
    members: usize,
    layout: &Layout,
    size: u64,
    chunk: u64,
) -> Superblock {
    let active = options.active(members);
    let mut roles = vec![Role::Spare; ROLES as usize];
    for (slot, role) in roles.iter_mut().take(active).enumerate() {
        *role = Role::Active(slot as u16);
    }
    if options.has_journal() {
        roles[members - 1] = Role::Journal;
    }
    let mut set_name = [0; 32];
    set_name[..options.name.len()].copy_from_slice(options.name.as_bytes());
    let parity = options.layout.unwrap_or(ParityLayout::LeftSymmetric);
    let (features, layout_word) = match options.level {
        Level::Raid0 => (Features::RAID0_LAYOUT, ZoneLayout::Alternate.number()),
        Level::Raid5 if options.consistency == Consistency::Ppl => (Features::PPL, parity.number()),
        Level::Raid5 | Level::Raid6 => (Features::default(), parity.number()),
        Level::Raid10 => {
            let copies = options.copies.unwrap_or(CopiesLayout::NEAR_2);
            (Features::default(), copies.number())
        }
        _ => (Features::default(), 0),
    };
    let features = match options.has_journal() {
        true => features.with(Features::JOURNAL),
        false => features,
    };
    let clean = options.assume_clean || !options.level.is_redundant();
    Superblock {
        features,
        set_uuid: options.uuid,
        set_name,
        ctime: options.now,
        level: options.level,
        layout: layout_word,
        // The members of RAID-0 use all they have.
        size: if options.level == Level::Raid0 {
            0
        } else {
            size
        },
        chunk: chunk as u32,
        raid_disks: active as u32,
        bitmap_offset: match options.consistency {
            Consistency::Ppl => layout.ppl().word(),
            _ if has_bitmap(options) => layout.log_offset as i32,
            _ => 0,
        },
        reshape: Reshape::default(),
        data_offset: layout.data_offset,
        data_size: 0,
        recovery_offset: 0,
        dev_number: 0,
        corrected_reads: 0,
        device_uuid: [0; 16],
        devflags: 0,
        bblog_shift: 0,
        bblog_size: layout.bblog_size as u16,
        bblog_offset: layout.bblog_offset as i32,
        utime: options.now,
        events: 0,
        resync_offset: if clean { CLEAN } else { 0 },
        roles,
    }
}
