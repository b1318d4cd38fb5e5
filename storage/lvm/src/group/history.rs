//! Older metadata, as far as the rings still hold it.

use weft_block::{Result, Spawner};

use super::Group;
use super::areas::{Copy, Known};
use super::bytes::Bytes;
use crate::format::{Area, HEADER_BYTES, ID_LEN, Location, checksum};
use crate::model::{Origin, VolumeGroup};

/// Bytes of the largest area that is searched.
const MAX_RING: u64 = 128 << 20;

/// Texts in a ring follow one another, so all of them together are not many times longer than the ring.
const MAX_LAPS: usize = 4;

/// Bytes in the longest name of a group, with what follows on its line.
const MAX_NAME: usize = 130;

/// A version of a group's metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// What it says.
    pub model: VolumeGroup,
    /// Who wrote it and why.
    pub origin: Origin,
}

impl Group {
    /// The versions of this group's metadata that are still whole in a ring, newest first.
    ///
    /// # Errors
    /// If no disk of the group can be read.
    pub async fn history(&self, spawner: &Spawner) -> Result<Vec<Version>> {
        let mut found: Vec<Copy> = Vec::new();
        for member in &self.members {
            let bytes = Bytes::open(&member.disk, spawner)?;
            for area in member.areas.iter().filter(|area| area.is_active()) {
                for (copy, _) in texts(&bytes, area.place, &mut Known::default()).await {
                    let known = found.iter().any(|one| one.bytes == copy.bytes);
                    if copy.model.id == self.model.id && !known {
                        found.push(copy);
                    }
                }
            }
        }
        found.sort_by_key(|copy| std::cmp::Reverse(copy.model.seqno));
        let version = |copy: Copy| Version {
            origin: copy.model.origin.clone(),
            model: VolumeGroup::clone(&copy.model),
        };
        Ok(found.into_iter().map(version).collect())
    }
}

/// The newest whole text in the ring of an area whose header is lost, and where it is; none if the ring holds texts of
/// several groups, of which the lost header alone could say which one counts.
pub(super) async fn newest(
    bytes: &Bytes,
    place: Area,
    known: &mut Known,
) -> Option<(Copy, Location)> {
    let found = texts(bytes, place, known).await;
    let (newest, location) = found.iter().max_by_key(|(copy, _)| copy.model.seqno)?;
    let one_group = found
        .iter()
        .all(|(copy, _)| copy.model.id == newest.model.id);
    one_group.then(|| (newest.clone(), *location))
}

/// Every whole text in a ring. Sectors that cannot be read end the text that they are in.
async fn texts(bytes: &Bytes, place: Area, known: &mut Known) -> Vec<(Copy, Location)> {
    if place.size > MAX_RING {
        return Vec::new();
    }
    let ring = read_ring(bytes, place).await;
    let mut budget = MAX_LAPS * ring.len();
    let mut found = Vec::new();
    for at in (0..ring.len()).step_by(512) {
        if !is_start(&ring[at..]) {
            continue;
        }
        // A text ends with a NUL, maybe beyond the wrap.
        let (before, after) = ring.split_at(at);
        let mut text: Vec<u8> = after
            .iter()
            .chain(before)
            .copied()
            .take_while(|&byte| byte != 0)
            .collect();
        text.push(0);
        let Some(left) = budget.checked_sub(text.len()) else {
            break;
        };
        budget = left;
        let location = Location {
            offset: HEADER_BYTES + at as u64,
            size: text.len() as u64,
            checksum: checksum(&text),
            flags: 0,
        };
        if let Ok(copy) = known.parse(text) {
            found.push((copy, location));
        }
    }
    found
}

async fn read_ring(bytes: &Bytes, place: Area) -> Vec<u8> {
    let begin = place.offset + HEADER_BYTES;
    let len = place.size - HEADER_BYTES;
    if let Ok(ring) = bytes.read(begin, len).await {
        return ring;
    }
    let mut ring = Vec::with_capacity(len as usize);
    for at in (begin..begin + len).step_by(512) {
        let sector = bytes.read(at, 512).await;
        ring.extend(sector.unwrap_or_else(|_| vec![0; 512]));
    }
    ring
}

/// Whether a text may start here: a name, a brace, and an identifier.
fn is_start(bytes: &[u8]) -> bool {
    let bytes = &bytes[..bytes.len().min(MAX_NAME + 2 * ID_LEN)];
    let line = bytes
        .split(|&byte| byte == b'\n')
        .next()
        .unwrap_or_default();
    line.ends_with(b" {") && bytes.windows(6).any(|window| window == b"id = \"")
}
