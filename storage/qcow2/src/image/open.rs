//! Opening: from bytes of a stranger to an image that can be read and written.

use std::sync::Arc;

use weft_block::{
    BlockDevice, BlockQueue, Buffer, Error, ErrorKind, IoVec, Request, Result, Spawner,
};

use super::core::{Core, Parts, corrupt};
use super::lane::read_within;
use super::pages::Pages;
use super::redo::RedoMemory;
use super::space::Space;
use super::state::State;
use super::table::Table;
use crate::format::{Encryption, Header, autoclear, incompatible};
use crate::luks::{Area, Cipher, MAX_AREA_BYTES, MasterKey};

/// Bytes of tables that are kept in memory unless told otherwise: those of a disk of 1 TiB with the default cluster, and
/// their refcounts. Only what is used is taken.
pub const DEFAULT_CACHE: u64 = 192 << 20;

/// Bytes that are read at once.
const READ: u64 = 1 << 20;

/// How to open an image.
#[derive(Clone)]
pub struct OpenOptions {
    /// Refuse writes.
    pub read_only: bool,
    /// What the image calls its backing file.
    pub backing: Option<Arc<dyn BlockDevice>>,
    /// Read what is not in the image as zeroes, although it names a backing file: for who looks at the tables alone.
    pub without_backing: bool,
    /// What the image calls its data file.
    pub data_file: Option<Arc<dyn BlockDevice>>,
    /// The key of an encrypted image, which [`read_encryption`] and a passphrase give.
    pub key: Option<Arc<MasterKey>>,
    /// Open an encrypted image without its key: for who looks at the tables alone. Its data is refused.
    pub without_key: bool,
    /// Bytes of tables that are kept in memory at most.
    pub cache: u64,
    /// Open the snapshot with this id or name in place of the disk, to read it.
    pub snapshot: Option<String>,
    /// Let what was acknowledged outlive the process, not only what was flushed: by this memory, in which the next opening
    /// finds what the file does not hold. Version 2 has no way to say in the file that there is such memory; there each
    /// change of a table is flushed before it is acknowledged.
    pub redo: Option<RedoMemory>,
    /// Open an image that is marked as corrupt, to repair it.
    pub for_repair: bool,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self {
            read_only: false,
            backing: None,
            without_backing: false,
            data_file: None,
            key: None,
            without_key: false,
            cache: DEFAULT_CACHE,
            snapshot: None,
            redo: None,
            for_repair: false,
        }
    }
}

/// Reads the header of the image in `file`: what tells which files an opening needs.
///
/// # Errors
/// `Invalid` if it is no image, `Unsupported`, `Corrupt`, and as reading the file.
pub async fn read_header(file: &dyn BlockDevice, spawner: &Spawner) -> Result<Header> {
    let reader = Reader::new(file, spawner)?;
    Ok(reader.header().await?.0)
}

/// Reads what an encrypted image says of its keys; nothing if it is not encrypted. [`Area::unlock`] makes a key of it,
/// and takes seconds of CPU by design: it is not for a thread that serves disks.
///
/// # Errors
/// As [`read_header`], and `Unsupported` or `Corrupt` for what the area holds.
pub async fn read_encryption(file: &dyn BlockDevice, spawner: &Spawner) -> Result<Option<Area>> {
    let reader = Reader::new(file, spawner)?;
    let (header, _) = reader.header().await?;
    match header.encryption {
        Encryption::Luks => reader.encryption(&header).await.map(Some),
        Encryption::None | Encryption::Aes => Ok(None),
    }
}

/// Opens the image in `file`.
pub(super) async fn open(
    file: Arc<dyn BlockDevice>,
    options: OpenOptions,
    spawner: &Spawner,
) -> Result<Core> {
    let read_only = options.read_only || options.snapshot.is_some() || file.info().read_only;
    let reader = Reader::new(&*file, spawner)?;
    let (mut header, head) = reader.header().await?;
    check_openable(&header, &options, read_only)?;
    let block = u64::from(file.info().logical_block);
    if block > header.geometry.cluster() {
        let sentence = format!(
            "clusters of {} bytes need a file that is written in smaller pieces than {block} bytes",
            header.geometry.cluster()
        );
        return Err(Error::new(ErrorKind::Unsupported, sentence));
    }
    let l1 = reader.table(
        "L1 table",
        header.l1_offset,
        u64::from(header.l1_entries) * 8,
    );
    let l1 = Table::parse(header.l1_offset, &l1.await?, block);
    let bytes = u64::from(header.refcount_table_clusters) << header.geometry.cluster_bits();
    let refcounts = reader.table("refcount table", header.refcount_table_offset, bytes);
    let refcounts = Table::parse(header.refcount_table_offset, &refcounts.await?, block);
    let space = space(&*file, &header, read_only);
    let pages = Pages::new(options.cache, header.geometry.cluster(), block);
    let stale = header.autoclear & !autoclear::KNOWN;
    if !read_only && stale != 0 {
        // Whoever set them could trust what they say until now.
        header.autoclear &= !stale;
        let mut head = head.clone();
        header.patch(&mut head);
        reader.write_head(&head).await?;
    }
    let mut head = head;
    header.patch(&mut head);
    let data_file = options
        .data_file
        .filter(|_| header.has(incompatible::DATA_FILE));
    let cipher = match (&options.key, header.encryption) {
        (Some(key), Encryption::Luks) => {
            let area = reader.encryption(&header).await?;
            Some(Arc::new(Cipher::new(area.header(), key)?))
        }
        _ => None,
    };
    let parts = Parts {
        file: Arc::clone(&file),
        data_file,
        backing: options.backing.filter(|_| !options.without_backing),
        locked: header.encryption == Encryption::Luks && cipher.is_none(),
        cipher,
        read_only,
    };
    let state = State::new((header, head), l1, refcounts, pages, space);
    Ok(Core::new(parts, state))
}

fn check_openable(header: &Header, options: &OpenOptions, read_only: bool) -> Result<()> {
    let unsupported = |sentence: &str| Err(Error::new(ErrorKind::Unsupported, sentence));
    match header.encryption {
        Encryption::None => {}
        Encryption::Aes => {
            return unsupported(
                "the image is encrypted in QEMU's first way, which is broken and not read here",
            );
        }
        Encryption::Luks if options.key.is_none() && !options.without_key => {
            let sentence = "the image is encrypted, and no key was given";
            return Err(Error::new(ErrorKind::Invalid, sentence));
        }
        Encryption::Luks => {}
    }
    if let Some(path) = &header.backing_path
        && options.backing.is_none()
        && !options.without_backing
    {
        let sentence = format!("the image needs its backing file {path}, which was not given");
        return Err(Error::new(ErrorKind::Invalid, sentence));
    }
    if header.has(incompatible::DATA_FILE) && options.data_file.is_none() {
        let name = header
            .extensions
            .data_file
            .as_deref()
            .unwrap_or("without a name");
        let sentence = format!("the image needs its data file {name}, which was not given");
        return Err(Error::new(ErrorKind::Invalid, sentence));
    }
    if !read_only && header.has(incompatible::CORRUPT) && !options.for_repair {
        return Err(corrupt(
            "the image is marked as corrupt: repair it before it is written",
        ));
    }
    Ok(())
}

fn space(file: &dyn BlockDevice, header: &Header, read_only: bool) -> Space {
    let geometry = header.geometry;
    let size = file.info().size;
    let grows = !read_only && file.set_len(size).is_ok();
    if grows {
        Space {
            cursor: 0,
            virgin: geometry.clusters(size),
            end: 1 << (56 - geometry.cluster_bits()),
        }
    } else {
        Space {
            cursor: 0,
            virgin: u64::MAX,
            end: size >> geometry.cluster_bits(),
        }
    }
}

/// A queue to the file, for what is read before there is an image.
struct Reader<'a> {
    file: &'a dyn BlockDevice,
    queue: Box<dyn BlockQueue>,
}

impl<'a> Reader<'a> {
    fn new(file: &'a dyn BlockDevice, spawner: &Spawner) -> Result<Self> {
        let queue = file.open(spawner)?;
        Ok(Self { file, queue })
    }

    /// The header, and the first block of the file.
    async fn header(&self) -> Result<(Header, Vec<u8>)> {
        let info = self.file.info();
        let prefix = Header::PREFIX.max(info.logical_block as usize);
        let head = self.read(0, prefix).await?;
        let len = Header::len(&head)?.max(prefix);
        let cluster = self.read(0, len).await?;
        Ok((Header::parse(&cluster)?, head.to_vec()))
    }

    /// The bytes of a table, which lies inside the file.
    async fn table(&self, what: &str, offset: u64, len: u64) -> Result<Vec<u8>> {
        let size = self.file.info().size;
        if offset
            .checked_add(len)
            .is_none_or(|end| end > size.next_multiple_of(1 << 21))
        {
            return Err(corrupt(format!(
                "the {what} of {len} bytes at {offset} leaves the file of {size} bytes"
            )));
        }
        let mut bytes = Vec::new();
        let block = u64::from(self.file.info().logical_block);
        while (bytes.len() as u64) < len {
            let at = bytes.len() as u64;
            let part = READ.min((len - at).next_multiple_of(block));
            bytes.extend_from_slice(&self.read(offset + at, part as usize).await?);
        }
        bytes.truncate(len as usize);
        Ok(bytes)
    }

    /// What the image says of its keys.
    async fn encryption(&self, header: &Header) -> Result<Area> {
        let pointer = header.extensions.encryption;
        let (offset, len) = pointer.map_or((0, 0), |area| (area.offset, area.len));
        // What is longer than an area can be is no area either.
        let len = len.min(MAX_AREA_BYTES);
        let bytes = self.table("encryption header", offset, len).await?;
        Ok(Area::parse(bytes)?)
    }

    /// What is beyond the file's end reads as zeroes.
    async fn read(&self, offset: u64, len: usize) -> Result<Buffer> {
        let whole = IoVec::zeroed(len);
        let size = self.file.info().size;
        read_within(&*self.queue, size, offset, whole.clone()).await?;
        Ok(whole.into_buffer())
    }

    async fn write_head(&self, head: &[u8]) -> Result<()> {
        let write = Request::write(0, IoVec::copy_of(head));
        self.queue.submit(write).await.result?;
        self.queue.submit(Request::flush()).await.result
    }
}
