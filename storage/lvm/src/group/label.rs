//! Changing a label so that a power cut at any instant leaves one whole.

use weft_block::Result;

use super::areas::Member;
use super::bytes::Bytes;
use crate::format::{LABEL_SECTOR, PV_IN_USE, PvLabel, label_sector};

const SECTOR: u64 = 512;

/// Where a copy of the label is while the one in `home` is rewritten. A reader takes the first whole label of four
/// sectors, so it finds either.
fn spare(home: u64) -> u64 {
    match home {
        3 => 2,
        home => home + 1,
    }
}

impl Member {
    /// Says in the label whether the volume belongs to a group.
    pub(super) async fn mark_used(&mut self, bytes: &Bytes, used: bool) -> Result<()> {
        if self.is_marked_used() == used && self.is_label_tidy() {
            return Ok(());
        }
        let mut label = self.label.clone();
        label.flags = match used {
            true => label.flags | PV_IN_USE,
            false => label.flags & !PV_IN_USE,
        };
        self.write_label(bytes, label).await
    }

    /// Says in the label how large the device is now.
    pub(super) async fn mark_size(&mut self, bytes: &Bytes, size: u64) -> Result<()> {
        let label = PvLabel {
            device_size: size,
            ..self.label.clone()
        };
        self.write_label(bytes, label).await
    }

    async fn write_label(&mut self, bytes: &Bytes, label: PvLabel) -> Result<()> {
        // Found in the spare sector, it is the one whole copy of an update that was cut short.
        let home = match self.label_sector {
            0 | 3 => self.label_sector,
            _ => LABEL_SECTOR,
        };
        let spare = spare(home);
        if bytes.block() > SECTOR {
            // All label sectors are in one block: it is written as one.
            let first = home.min(spare);
            let mut sectors = [0; 2 * SECTOR as usize];
            let place = ((home - first) * SECTOR) as usize;
            sectors[place..place + SECTOR as usize].copy_from_slice(&label_sector(home, &label));
            bytes.write(first * SECTOR, &sectors).await?;
        } else {
            if self.label_sector != spare {
                bytes
                    .write(spare * SECTOR, &label_sector(spare, &label))
                    .await?;
                bytes.flush().await?;
            }
            bytes
                .write(home * SECTOR, &label_sector(home, &label))
                .await?;
            bytes.flush().await?;
            bytes.write(spare * SECTOR, &[0; SECTOR as usize]).await?;
        }
        bytes.flush().await?;
        self.label = label;
        self.label_sector = home;
        self.stray_label = false;
        Ok(())
    }

    /// Whether the label is where it belongs, alone.
    pub(super) fn is_label_tidy(&self) -> bool {
        !self.stray_label && self.label_sector != spare(LABEL_SECTOR)
    }
}
