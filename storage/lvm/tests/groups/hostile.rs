//! Disks that somebody has tampered with, checksums put right.

use std::sync::Arc;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use weft_block::BlockDevice;
use weft_lvm::format::{AreaHeader, Location, checksum, label_sector, parse_label};
use weft_lvm::{Amount, Group, NewVolume};
use weft_sim::{MemoryDevice, for_each_seed};

use crate::rig::{MIB, Rig};

/// Numbers that trip arithmetic.
const EDGES: [u64; 9] = [
    0,
    1,
    511,
    512,
    4096,
    1 << 40,
    i64::MAX as u64,
    u64::MAX - 511,
    u64::MAX,
];

fn edge(random: &mut ChaCha8Rng) -> u64 {
    EDGES[random.random_range(0..EDGES.len())]
}

/// Changes a number or a few bytes of the text, and its place in the header so that it is believed.
fn tamper_with_text(memory: &MemoryDevice, text: &str, random: &mut ChaCha8Rng) {
    let mut bytes = text.as_bytes().to_vec();
    let digits: Vec<usize> = (0..bytes.len())
        .filter(|&at| bytes[at].is_ascii_digit())
        .collect();
    for _ in 0..random.random_range(1..4) {
        let at = digits[random.random_range(0..digits.len())];
        let number = edge(random).to_string();
        match random.random_range(0..3) {
            0 => bytes[at] = b'0' + random.random_range(0..10),
            1 => _ = bytes.splice(at..at + 1, number.bytes()),
            _ => bytes[at] = random.random_range(32..127),
        }
    }
    bytes.push(0);
    let mut header = AreaHeader::empty(4096, MIB - 4096);
    header.committed = Location {
        offset: 512,
        size: bytes.len() as u64,
        checksum: checksum(&bytes),
        flags: 0,
    };
    if random.random_bool(0.2) {
        header.committed.size = edge(random);
        header.committed.offset = edge(random);
    }
    memory.poke(4096 + 512, &bytes);
    memory.poke(4096, &header.to_bytes());
}

fn tamper_with_label(memory: &MemoryDevice, random: &mut ChaCha8Rng) {
    let parsed = parse_label(&memory.peek(0, 2048)).expect("a label");
    let (sector, mut label) = parsed.expect("a label");
    for area in &mut label.metadata_areas {
        match random.random() {
            true => area.size = edge(random),
            false => area.offset = edge(random).max(1),
        }
    }
    let twin = label.metadata_areas[0];
    label
        .metadata_areas
        .extend(vec![twin; random.random_range(0..6)]);
    label.device_size = edge(random);
    memory.poke(sector * 512, &label_sector(sector, &label));
}

#[test]
fn tampered_disks_are_read_or_refused() {
    let rig = Rig::new(&[8, 8]);
    let spawner = rig.spawner();
    let mut group = rig.create();
    let new = NewVolume {
        stripes: 2,
        ..NewVolume::linear("lv", Amount::Bytes(4 * MIB))
    };
    rig.run(group.create_volume(&new, &spawner)).expect("made");
    let text = group.backup_text();
    let images: Vec<Vec<u8>> = rig
        .memory
        .iter()
        .map(|memory| memory.peek(0, MIB as usize))
        .collect();
    for_each_seed(300, |seed| {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        for (memory, image) in rig.memory.iter().zip(&images) {
            memory.poke(0, image);
        }
        for memory in &rig.memory {
            match random.random_range(0..3) {
                0 => tamper_with_label(memory, &mut random),
                _ => tamper_with_text(memory, &text, &mut random),
            }
        }
        for found in rig.scan().groups {
            let opened = Group::open(found, Arc::clone(&rig.host), &spawner);
            let Ok(mut group) = rig.run(opened) else {
                continue;
            };
            if let Ok(volume) = group.volume("lv") {
                assert!(volume.info().size <= 14 * MIB, "no larger than its disks");
            }
            let grow = group.resize_volume("lv", Amount::PercentFree(100), &[], &spawner);
            let _ = rig.run(grow);
        }
    });
}
