//! LUKS headers, from a disk or out of an image.

use weft_qcow2::luks::{Area, HEADER_BYTES, Header, MAX_AREA_BYTES};

/// Work that a fuzzer waits for.
const FEW_ITERATIONS: u32 = 16;
const FEW_STRIPES: u32 = 64;

pub(super) fn header(bytes: &[u8]) {
    let Ok(header) = Header::parse(bytes) else {
        assert!(Area::parse(bytes.to_vec()).is_err());
        return;
    };
    assert_eq!(Header::parse(&header.to_bytes()).as_ref(), Ok(&header));
    assert!(header.area_bytes() <= MAX_AREA_BYTES);
    let quick = header.digest_iterations() <= FEW_ITERATIONS
        && header
            .slots()
            .iter()
            .all(|slot| slot.iterations() <= FEW_ITERATIONS && slot.stripes() <= FEW_STRIPES);
    if !quick {
        return;
    }
    let mut whole = bytes.to_vec();
    whole.resize(bytes.len().max(header.area_bytes() as usize), 0);
    let mut area = Area::parse(whole).expect("the header was checked against its own area");
    let _ = area.unlock(b"passphrase");
    for slot in 0..9 {
        let _ = area.erase_key(slot, true, &mut |bytes| bytes.fill(slot as u8));
    }
    let left = Header::parse(&area.bytes()[..HEADER_BYTES]).expect("it is as valid as before");
    assert!(left.slots().iter().all(|slot| !slot.is_in_use()));
}
