//! Rows with parity.

use crate::level::{Level, ParityLayout};

/// Rows of which each has one parity chunk, or two: P, and with RAID-6 also Q.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParityRows {
    members: u32,
    chunk: u64,
    rows: u64,
    parities: u32,
    layout: ParityLayout,
}

/// In which order a row's data lies on the slots that hold no parity.
enum Order {
    /// From slot 0 on.
    Slots,
    /// From slot `start` on and around, among the first `among` slots.
    Cycle { start: u32, among: u32 },
}

impl ParityRows {
    /// `rows` rows of chunks of `chunk` bytes; the layout must be one of the level's and the members enough for it.
    pub(super) fn new(
        level: Level,
        layout: ParityLayout,
        members: u32,
        chunk: u64,
        rows: u64,
    ) -> Self {
        Self {
            members,
            chunk,
            rows,
            parities: if level == Level::Raid6 { 2 } else { 1 },
            layout,
        }
    }

    /// Slots.
    pub fn members(&self) -> u32 {
        self.members
    }

    /// Data chunks of a row.
    pub fn data(&self) -> u32 {
        self.members - self.parities
    }

    /// Parity chunks of a row.
    pub fn parities(&self) -> u32 {
        self.parities
    }

    /// Bytes of a chunk.
    pub fn chunk(&self) -> u64 {
        self.chunk
    }

    /// Rows of the array.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// The slot that holds P, the exclusive or of `row`.
    ///
    /// Source: Linux `drivers/md/raid5.h`, the algorithms' comments, and `raid5_compute_sector`.
    pub fn parity_slot(&self, row: u64) -> u32 {
        use ParityLayout as L;
        // Below the number it is divided by, so it fits.
        let turn = |among: u32| (row % u64::from(among)) as u32;
        let last = self.members - 1;
        match self.layout {
            L::LeftAsymmetric | L::LeftSymmetric | L::DdfNContinue => last - turn(self.members),
            L::RightAsymmetric | L::RightSymmetric | L::DdfZeroRestart => turn(self.members),
            L::ParityFirst | L::ParityFirst6 => 0,
            L::ParityLast => self.data(),
            L::DdfNRestart => last - ((row + 1) % u64::from(self.members)) as u32,
            L::LeftAsymmetric6 | L::LeftSymmetric6 => last - 1 - turn(last),
            L::RightAsymmetric6 | L::RightSymmetric6 => turn(last),
        }
    }

    /// The slot that holds Q of `row`, with RAID-6.
    pub fn q_slot(&self, row: u64) -> Option<u32> {
        use ParityLayout as L;
        if self.parities < 2 {
            return None;
        }
        let parity = self.parity_slot(row);
        Some(match self.layout {
            L::DdfNContinue => (parity + self.members - 1) % self.members,
            L::LeftAsymmetric6
            | L::RightAsymmetric6
            | L::LeftSymmetric6
            | L::RightSymmetric6
            | L::ParityFirst6 => self.members - 1,
            _ => (parity + 1) % self.members,
        })
    }

    /// Whether a slot holds data in some row: where parity stays on members of its own, it does not there.
    pub fn holds_data(&self, slot: u32) -> bool {
        // Layouts turn round once in as many rows as there are members.
        (0..u64::from(self.members)).any(|row| self.data_index(row, slot).is_some())
    }

    /// The slots of `row` that hold parity: P, then Q.
    pub fn parity_slots(&self, row: u64) -> impl Iterator<Item = u32> + use<> {
        [Some(self.parity_slot(row)), self.q_slot(row)]
            .into_iter()
            .flatten()
    }

    fn order(&self, row: u64) -> Order {
        use ParityLayout as L;
        let (start, among) = match self.layout {
            L::LeftSymmetric | L::RightSymmetric => {
                (self.parity_slot(row) + self.parities, self.members)
            }
            L::DdfNContinue => (self.parity_slot(row) + 1, self.members),
            L::LeftSymmetric6 | L::RightSymmetric6 => (self.parity_slot(row) + 1, self.members - 1),
            _ => return Order::Slots,
        };
        Order::Cycle {
            start: start % among,
            among,
        }
    }

    /// The slot that holds data chunk `index` of `row`.
    pub fn data_slot(&self, row: u64, index: u32) -> u32 {
        match self.order(row) {
            Order::Cycle { start, among } => (start + index) % among,
            Order::Slots => {
                let parity = self.parity_slot(row);
                let q = self.q_slot(row).unwrap_or(parity);
                let mut slot = index + u32::from(index >= parity.min(q));
                slot += u32::from(parity != q && slot >= parity.max(q));
                slot
            }
        }
    }

    /// The data chunk of `row` that `slot` holds, or none if it holds parity.
    pub fn data_index(&self, row: u64, slot: u32) -> Option<u32> {
        if self.parity_slots(row).any(|parity| parity == slot) {
            return None;
        }
        Some(match self.order(row) {
            Order::Cycle { start, among } => (slot + among - start) % among,
            Order::Slots => {
                slot - self
                    .parity_slots(row)
                    .map(|parity| u32::from(slot > parity))
                    .sum::<u32>()
            }
        })
    }

    /// The power of the generator that the data of `slot` has in the Q of `row`: md counts from the slot after Q on and
    /// around, leaving the parities out, whatever the logical order; the layouts of DDF take the slot itself.
    ///
    /// Source: Linux `drivers/md/raid5.c`, `raid6_d0` and `raid6_idx_to_slot`.
    pub fn power(&self, row: u64, slot: u32) -> u32 {
        use ParityLayout as L;
        if matches!(
            self.layout,
            L::DdfZeroRestart | L::DdfNRestart | L::DdfNContinue
        ) {
            return slot;
        }
        let Some(q) = self.q_slot(row) else { return 0 };
        let from_first = |slot: u32| (slot + self.members - (q + 1) % self.members) % self.members;
        let place = from_first(slot);
        place - u32::from(from_first(self.parity_slot(row)) < place)
    }

    /// Array offset of data chunk `index` of `row`.
    pub fn logical(&self, row: u64, index: u32) -> u64 {
        (row * u64::from(self.data()) + u64::from(index)) * self.chunk
    }
}
