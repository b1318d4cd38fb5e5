//! What all queues of an image share, behind one lock that is held for short synchronous steps only.
//!
//! A step decides, and changes tables in memory. Where it misses something it stops before it has changed anything, says
//! what ([`Stop`]), and is made again when that is there.

use std::collections::BTreeSet;

use weft_block::{Error, ErrorKind, Result};

use super::pages::{Kind, Pages};
use super::redo::Redo;
use super::space::Space;
use super::table::Table;
use crate::format::{Geometry, Header};

/// Why a step could not be made.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The page that holds this byte of the file is not in memory.
    Page(u64, Kind),
    /// The L2 table with this index is not there, or is shared: there must be one that may be changed.
    Table(u64),
    /// There is no refcount block with this index.
    Block(u64),
    /// The redo log takes no more until something is published.
    Room,
    /// It cannot be made.
    Failed(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// Clusters that nothing in memory points at any more, and something in the file still may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unlinked {
    /// The first.
    pub(crate) cluster: u64,
    /// How many.
    pub(crate) count: u64,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) header: Header,
    /// The first block of the file, as it is there.
    pub(crate) head: Vec<u8>,
    pub(crate) l1: Table,
    pub(crate) refcounts: Table,
    /// The refcount table lies elsewhere than the header in the file says.
    pub(crate) refcounts_moved: bool,
    pub(crate) pages: Pages,
    pub(crate) space: Space,
    /// Tables and refcount blocks, by their first byte, that nothing in the file points at yet.
    pub(crate) unpublished: BTreeSet<u64>,
    pub(crate) unlinked: Vec<Unlinked>,
    /// Clusters that nothing in the file points at any more either, but perhaps a request that is under way.
    pub(crate) freed: Vec<Unlinked>,
    /// Where the next compressed data goes: a byte inside a cluster that holds some already.
    pub(crate) tail: Option<u64>,
    /// Changes are on their way to the file.
    pub(crate) publishing: bool,
    /// What outlives the process of all that is not published.
    pub(crate) redo: Option<Redo>,
    /// Why nothing is written any more.
    failed: Option<String>,
}

impl State {
    pub(crate) fn new(
        (header, head): (Header, Vec<u8>),
        l1: Table,
        refcounts: Table,
        pages: Pages,
        space: Space,
    ) -> Self {
        Self {
            header,
            head,
            l1,
            refcounts,
            refcounts_moved: false,
            pages,
            space,
            unpublished: BTreeSet::new(),
            unlinked: Vec::new(),
            freed: Vec::new(),
            tail: None,
            publishing: false,
            redo: None,
            failed: None,
        }
    }

    pub(crate) fn geometry(&self) -> Geometry {
        self.header.geometry
    }

    /// Whether the file does not hold what is in memory.
    pub(crate) fn is_dirty(&self) -> bool {
        self.pages.is_dirty()
            || self.l1.is_dirty()
            || self.refcounts.is_dirty()
            || self.refcounts_moved
    }

    /// Nothing may point at `count` clusters from the file's byte `host` on, as soon as what is in memory is published.
    pub(crate) fn unlink(&mut self, host: u64, count: u64) {
        let cluster = host >> self.geometry().cluster_bits();
        self.unlinked.push(Unlinked { cluster, count });
    }

    /// The first block of the file as the header must be.
    pub(crate) fn patched_head(&self) -> Vec<u8> {
        let mut head = self.head.clone();
        self.header.patch(&mut head);
        head
    }

    /// Ends all writing.
    pub(crate) fn fail(&mut self, reason: String) {
        self.failed.get_or_insert(reason);
    }

    /// # Errors
    /// `Io` when writing has ended.
    pub(crate) fn check_writable(&self) -> Result<()> {
        match &self.failed {
            None => Ok(()),
            Some(reason) => Err(Error::new(
                ErrorKind::Io,
                format!("the image takes no writes until it is opened again: {reason}"),
            )),
        }
    }
}
