//! RAID-10: every chunk on several members.

use smallvec::SmallVec;

use super::Place;
use crate::level::CopiesLayout;

/// Where the copies of an array's chunks lie.
///
/// Source: Linux `drivers/md/raid10.c`, `__raid10_find_phys` and `calc_sectors`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copies {
    members: u32,
    chunk: u64,
    layout: CopiesLayout,
    /// Chunks of the array.
    chunks: u64,
    /// Chunks of a member that the array uses.
    member_chunks: u64,
    /// Chunks from a copy to the far one behind it.
    stride: u64,
}

impl Copies {
    /// Over `members` with room for `room` chunks of `chunk` bytes each; none if the copies have not a member each, or no
    /// chunk fits.
    pub(super) fn new(layout: CopiesLayout, members: u32, chunk: u64, room: u64) -> Option<Self> {
        let copies = layout.copies();
        if copies > members || copies == 0 {
            return None;
        }
        let rows = room / u64::from(layout.far) * u64::from(members);
        let chunks = rows / u64::from(layout.near);
        let member_chunks = (chunks * u64::from(copies)).div_ceil(u64::from(members));
        let stride = match layout.offset {
            true => 1,
            false => member_chunks / u64::from(layout.far),
        };
        (chunks > 0).then_some(Self {
            members,
            chunk,
            layout,
            chunks,
            member_chunks,
            stride,
        })
    }

    /// Bytes of a chunk.
    pub fn chunk(&self) -> u64 {
        self.chunk
    }

    /// Whether further copies lie in another part of the members, which begins where the first ends.
    pub fn has_far_part(&self) -> bool {
        self.layout.far > 1 && !self.layout.offset
    }

    /// Bytes of the array.
    pub fn size(&self) -> u64 {
        self.chunks * self.chunk
    }

    /// Bytes of each member that the array uses.
    pub fn member_size(&self) -> u64 {
        self.member_chunks * self.chunk
    }

    /// How many copies there are of everything.
    pub fn copies(&self) -> u32 {
        self.layout.copies()
    }

    /// The places of array byte `offset`, the first copy first.
    pub fn places(&self, offset: u64) -> SmallVec<[Place; 4]> {
        let (number, inside) = (offset / self.chunk, offset % self.chunk);
        let (members, near) = (u64::from(self.members), u64::from(self.layout.near));
        let first = number * near;
        let mut places = SmallVec::new();
        for copy in first..first + near {
            // Rows that are written again at once take `far` rows of the member.
            let mut row = copy / members;
            if self.layout.offset {
                row *= u64::from(self.layout.far);
            }
            for far in 0..u64::from(self.layout.far) {
                places.push(Place {
                    slot: ((copy + far * near) % members) as u32,
                    offset: (row + far * self.stride) * self.chunk + inside,
                    left: self.chunk - inside,
                });
            }
        }
        places
    }

    /// The array byte of which member byte `offset` of `slot` is a copy; none for what is left over at the members' ends.
    pub fn origin(&self, slot: u32, offset: u64) -> Option<u64> {
        let (mut row, inside) = (offset / self.chunk, offset % self.chunk);
        let (members, near) = (u64::from(self.members), u64::from(self.layout.near));
        let far = match self.layout.offset {
            true => row % u64::from(self.layout.far),
            false => (row / self.stride).min(u64::from(self.layout.far)),
        };
        if far >= u64::from(self.layout.far) {
            return None;
        }
        row = match self.layout.offset {
            true => row / u64::from(self.layout.far),
            false => row - far * self.stride,
        };
        let shift = far * near % members;
        let column = (u64::from(slot) + members - shift) % members;
        let number = (row * members + column) / near;
        (number < self.chunks).then(|| number * self.chunk + inside)
    }

    /// Whether every chunk has a copy on a slot that is not lost.
    pub fn survives(&self, is_lost: impl Fn(u32) -> bool) -> bool {
        // The slots of chunks come round after as many chunks as there are members.
        let period = self.chunks.min(u64::from(self.members));
        (0..period).all(|number| {
            let places = self.places(number * self.chunk);
            places.iter().any(|place| !is_lost(place.slot))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copies(name: &str, members: u32, room: u64) -> Copies {
        let layout = CopiesLayout::from_name(name).expect("a layout");
        Copies::new(layout, members, 8, room).expect("it can be")
    }

    /// The first chunks that every member holds, in its own order.
    fn drawn(copies: &Copies, rows: u64) -> Vec<Vec<Option<u64>>> {
        (0..copies.members)
            .map(|slot| {
                let chunks = (0..rows).map(|row| copies.origin(slot, row * 8));
                chunks.map(|origin| origin.map(|byte| byte / 8)).collect()
            })
            .collect()
    }

    fn some(chunks: &[u64]) -> Vec<Option<u64>> {
        chunks.iter().copied().map(Some).collect()
    }

    /// Rows that were read off arrays of the kernel.
    #[test]
    fn chunks_lie_where_the_kernel_puts_them() {
        let near = drawn(&copies("n2", 4, 10), 3);
        assert_eq!(
            near,
            [
                some(&[0, 2, 4]),
                some(&[0, 2, 4]),
                some(&[1, 3, 5]),
                some(&[1, 3, 5])
            ]
        );
        let odd = drawn(&copies("n2", 3, 12), 6);
        assert_eq!(odd[0], some(&[0, 1, 3, 4, 6, 7]));
        assert_eq!(odd[1], some(&[0, 2, 3, 5, 6, 8]));
        assert_eq!(odd[2], some(&[1, 2, 4, 5, 7, 8]));
        let offset = drawn(&copies("o2", 4, 12), 6);
        assert_eq!(offset[0], some(&[0, 3, 4, 7, 8, 11]));
        assert_eq!(offset[1], some(&[1, 0, 5, 4, 9, 8]));
        assert_eq!(offset[3], some(&[3, 2, 7, 6, 11, 10]));
        let far = copies("f2", 4, 12);
        let first = drawn(&far, 3);
        assert_eq!(first[0], some(&[0, 4, 8]));
        assert_eq!(far.origin(0, 6 * 8), Some(3 * 8));
        assert_eq!(far.origin(1, 7 * 8), Some(4 * 8));
    }

    #[test]
    fn places_and_origins_are_each_others_reverse() {
        for name in ["n1", "n2", "n3", "f2", "f3", "o2", "o3"] {
            for members in 2..=9 {
                for room in [1, 5, 6, 17] {
                    let layout = CopiesLayout::from_name(name).expect("a layout");
                    let Some(copies) = Copies::new(layout, members, 8, room) else {
                        continue;
                    };
                    check(&copies, room);
                }
            }
        }
    }

    fn check(copies: &Copies, room: u64) {
        assert!(copies.member_chunks <= room, "{copies:?}");
        let mut taken = std::collections::BTreeSet::new();
        for number in 0..copies.chunks {
            let places = copies.places(number * 8 + 3);
            assert_eq!(places.len() as u32, copies.copies());
            for place in &places {
                assert!(place.offset < copies.member_size(), "{copies:?} {place:?}");
                assert!(taken.insert((place.slot, place.offset)), "{copies:?}");
                let origin = copies.origin(place.slot, place.offset);
                assert_eq!(origin, Some(number * 8 + 3), "{copies:?} {place:?}");
            }
            let slots: std::collections::BTreeSet<u32> =
                places.iter().map(|place| place.slot).collect();
            assert_eq!(slots.len(), places.len(), "a member each");
        }
        for slot in 0..copies.members {
            for row in 0..copies.member_chunks {
                if let Some(origin) = copies.origin(slot, row * 8) {
                    let places = copies.places(origin);
                    let own = |place: &Place| (place.slot, place.offset) == (slot, row * 8);
                    assert!(places.iter().any(own), "{copies:?} {slot} {row}");
                }
            }
        }
    }

    #[test]
    fn losses_are_counted_by_chunks_and_not_by_members() {
        let pairs = copies("n2", 4, 10);
        assert!(pairs.survives(|slot| slot == 0 || slot == 2));
        assert!(!pairs.survives(|slot| slot < 2));
        let odd = copies("n2", 3, 12);
        assert!(odd.survives(|slot| slot == 1));
        assert!(!odd.survives(|slot| slot != 1));
        assert!(!copies("f2", 4, 12).survives(|slot| slot == 0 || slot == 3));
    }
}
