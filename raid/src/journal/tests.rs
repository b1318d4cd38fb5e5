//! Meta blocks: written, read, and refused.

use smallvec::smallvec;

use super::*;

const UUID: [u8; 16] = [7; 16];

fn block(bytes: &[u8]) -> [u8; BLOCK_BYTES] {
    bytes.try_into().expect("a block")
}

fn example() -> MetaBlock {
    MetaBlock {
        seq: 41,
        position: 64,
        payloads: vec![
            Payload::Data {
                sector: 1024,
                checksum: 5,
            },
            Payload::Parity {
                sector: 256,
                checksums: smallvec![6, 7],
            },
            Payload::Flush {
                sectors: vec![8, 16],
            },
        ],
    }
}

/// Puts bytes into a block and makes its checksum right again.
fn forged(at: usize, bytes: &[u8]) -> Result<MetaBlock, JournalError> {
    let seed = Seed::of(&UUID);
    let mut forged = example().to_bytes(seed);
    put(&mut forged, at, bytes);
    let sum = seed.of_meta(&forged);
    put(&mut forged, CHECKSUM_AT, &sum.to_le_bytes());
    MetaBlock::parse(&block(&forged), 64, seed)
}

#[test]
fn a_meta_block_is_read_as_it_was_written() {
    let seed = Seed::of(&UUID);
    let bytes = example().to_bytes(seed);
    assert_eq!(MetaBlock::parse(&block(&bytes), 64, seed), Ok(example()));
    assert_eq!(example().blocks(), 4);
    let at_bytes = |at: usize, count: usize| &bytes[at..at + count];
    assert_eq!(at_bytes(0, 4), [0x09, 0xc5, 0x33, 0x64]);
    assert_eq!(le32(&bytes, 12), 32 + 20 + 24 + 24);
    // The sizes: sectors of data and parity, bytes of a flush payload.
    assert_eq!(
        (le32(&bytes, 36), le32(&bytes, 56), le32(&bytes, 80)),
        (8, 16, 16)
    );
}

/// The checksum of md is the plain register: no inversion at the end, and the identity's goes in as it came out.
#[test]
fn checksums_are_those_of_md() {
    fn register(mut sum: u32, bytes: &[u8]) -> u32 {
        for byte in bytes {
            sum ^= u32::from(*byte);
            for _ in 0..8 {
                sum = (sum >> 1) ^ (0x82f6_3b78 & (sum & 1).wrapping_neg());
            }
        }
        sum
    }
    let identity = register(u32::MAX, &UUID);
    let seed = Seed::of(&UUID);
    let data = [0x5a; BLOCK_BYTES];
    assert_eq!(seed.checksum(&data), register(identity, &data));
    let mut meta = example().to_bytes(seed);
    let stored = le32(&meta, CHECKSUM_AT);
    meta[CHECKSUM_AT..CHECKSUM_AT + 4].fill(0);
    assert_eq!(stored, register(identity, &meta));
}

#[test]
fn what_is_no_meta_block_of_this_place_is_refused() {
    let seed = Seed::of(&UUID);
    let bytes = block(&example().to_bytes(seed));
    let mut torn = bytes;
    torn[100] ^= 1;
    assert!(matches!(
        MetaBlock::parse(&torn, 64, seed),
        Err(JournalError::Checksum { .. })
    ));
    let other = Seed::of(&[8; 16]);
    assert!(MetaBlock::parse(&bytes, 64, other).is_err());
    assert_eq!(
        MetaBlock::parse(&bytes, 72, seed),
        Err(JournalError::Position(64))
    );
    assert_eq!(
        MetaBlock::parse(&[0; BLOCK_BYTES], 64, seed),
        Err(JournalError::Absent)
    );
}

#[test]
fn hostile_sizes_are_refused() {
    assert_eq!(
        forged(12, &31_u32.to_le_bytes()),
        Err(JournalError::Size(31))
    );
    assert_eq!(
        forged(12, &5000_u32.to_le_bytes()),
        Err(JournalError::Size(5000))
    );
    for (at, kind, size) in [(32, 0_u16, 16_u32), (32, 3, 8), (52, 1, 24), (76, 2, 4096)] {
        let mut head = [0; 8];
        head[..2].copy_from_slice(&kind.to_le_bytes());
        head[4..].copy_from_slice(&size.to_le_bytes());
        assert_eq!(forged(at, &head), Err(JournalError::Payload { kind, size }));
    }
    // A payload that ends behind the end.
    assert!(matches!(
        forged(12, &(32 + 20 + 20_u32).to_le_bytes()),
        Err(JournalError::Payload { kind: 1, .. })
    ));
    assert_eq!(forged(8, &[2]), Err(JournalError::Version(2)));
}

#[test]
fn the_widest_stripe_fits() {
    let data = Payload::Data {
        sector: 0,
        checksum: 0,
    };
    assert_eq!(MOST_MEMBERS, 203);
    assert!(MOST_MEMBERS as usize * data.bytes() <= MetaBlock::ROOM);
}
