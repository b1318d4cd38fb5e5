use proptest::prelude::*;

use super::*;
use crate::geometry::{Geometry, Shape};
use crate::level::{Level, ParityLayout};
use crate::plan;

const CHUNK: u64 = 4096;

fn header(entries: Vec<Entry>) -> Header {
    Header {
        generation: 7,
        entries,
    }
}

const ENTRY: Entry = Entry {
    sector: 1,
    partial: 512,
    data: 1024,
    slot: 3,
    checksum: 9,
};

fn block(bytes: &[u8]) -> [u8; HEADER_BYTES] {
    bytes.try_into().expect("a header's length")
}

#[test]
fn a_header_lies_where_md_looks_for_it() {
    let bytes = header(vec![ENTRY; 2]).to_bytes(0xbd81_92da);
    assert!(bytes[..512].iter().all(|&byte| byte == 0xff));
    assert_eq!(bytes[512..520], [0xda, 0x92, 0x81, 0xbd, 0, 0, 0, 0]);
    assert_eq!((bytes[520], bytes[528]), (7, 2));
    assert_eq!((bytes[536], bytes[544], bytes[545]), (1, 0, 2));
    assert_eq!((bytes[549], bytes[552], bytes[556]), (4, 3, 9));
    assert_eq!(MOST_ENTRIES, 148);
    // CRC-32C of 32 zeroes, from RFC 3720.
    assert_eq!(parity_checksum(&[0; 32]), 0x8a91_36aa);
}

#[test]
fn only_a_whole_header_of_this_array_is_read() {
    let whole = header(vec![ENTRY]);
    let mut bytes = block(&whole.to_bytes(5));
    assert_eq!(Header::parse(&bytes, 5), Ok(whole));
    assert_eq!(Header::parse(&bytes, 6), Err(PplError::Signature(5)));
    assert_eq!(Header::parse(&[0; HEADER_BYTES], 5), Err(PplError::Absent));
    bytes[4095] ^= 1;
    assert!(matches!(
        Header::parse(&bytes, 5),
        Err(PplError::Checksum { .. })
    ));
    bytes[4095] ^= 1;
    bytes[COUNT_AT] = 149;
    let sum = checksum(&bytes);
    put(&mut bytes, CHECKSUM_AT, &sum.to_le_bytes());
    assert_eq!(Header::parse(&bytes, 5), Err(PplError::Entries(149)));
}

fn rows(layout: usize, members: u32) -> ParityRows {
    let layout = ParityLayout::of(Level::Raid5)
        .nth(layout)
        .expect("one of six");
    let geometry = Geometry::parity(Level::Raid5, layout, members, CHUNK, 9 * CHUNK);
    let geometry = geometry.expect("it can be");
    let Shape::Parity(rows) = geometry.shape() else {
        panic!("a level with parity")
    };
    *rows
}

proptest! {
    #[test]
    fn what_is_logged_is_found(layout in 0_usize..6, members in 2_u32..=9, first: u16, sectors in 1_u64..100) {
        let rows = rows(layout, members);
        let size = rows.rows() * CHUNK * u64::from(rows.data());
        let offset = u64::from(first) * SECTOR % size;
        let len = (sectors * SECTOR).min(size - offset);
        for unit in plan::split(&rows, offset, len, 2 * CHUNK) {
            for row in unit.row..unit.row + unit.rows {
                let partial = vec![1; unit.len as usize];
                let partial = (unit.count < rows.data()).then_some(&partial[..]);
                let entry = Entry::of(&rows, &unit, row, partial);
                let wanted = Unit { row, rows: 1, ..unit };
                prop_assert_eq!(entry.change(&rows), Some(wanted));
                prop_assert_eq!(entry.slot, rows.parity_slot(row));
            }
        }
    }

    #[test]
    fn no_entry_reaches_out_of_a_row(sector in 0_u64..600, partial in 0_u32..5000, data in 0_u32..70_000, slot in 0_u32..5) {
        let rows = rows(2, 4);
        let entry = Entry { sector, partial, data, slot, checksum: 0 };
        if let Some(unit) = entry.change(&rows) {
            prop_assert!(unit.row < rows.rows() && unit.first + unit.count <= rows.data());
            prop_assert!(unit.start + unit.len <= CHUNK && unit.len > 0 && unit.rows == 1);
            prop_assert_eq!(u64::from(data), u64::from(unit.count) * unit.len);
            prop_assert_eq!(slot, rows.parity_slot(unit.row));
        }
    }
}

#[test]
fn hostile_entries_are_nothing() {
    let rows = rows(2, 4);
    let sound = Entry {
        sector: 8,
        partial: 4096,
        data: 8192,
        slot: rows.parity_slot(0),
        checksum: 0,
    };
    assert!(sound.change(&rows).is_some());
    let hostile = [
        Entry {
            sector: u64::MAX,
            ..sound
        },
        Entry {
            sector: 1 << 40,
            ..sound
        },
        Entry {
            data: 0,
            partial: 0,
            ..sound
        },
        Entry {
            data: u32::MAX,
            ..sound
        },
        Entry {
            partial: u32::MAX,
            ..sound
        },
        Entry {
            partial: 100,
            data: 200,
            ..sound
        },
        Entry {
            slot: u32::MAX,
            ..sound
        },
        Entry {
            data: 12_288,
            ..sound
        },
    ];
    for entry in hostile {
        assert_eq!(entry.change(&rows), None, "{entry:?}");
    }
}
