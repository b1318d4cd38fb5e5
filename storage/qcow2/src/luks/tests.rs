//! Areas end to end, and the published vectors of the ciphers.

use super::*;

/// Bytes of a text of hexadecimal digits.
pub(super) fn unhex(text: &str) -> Vec<u8> {
    let digit = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(digit).collect()
}

/// Numbers in place of chance.
pub(super) fn counting() -> impl FnMut(&mut [u8]) {
    let mut state = 1u64;
    move |bytes| {
        for byte in bytes {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            *byte = (state >> 56) as u8;
        }
    }
}

fn spec(algorithm: Algorithm, mode: Mode, iv: IvKind) -> Spec {
    Spec::new(algorithm, mode, iv).unwrap()
}

fn work() -> Work {
    Work::iterations(1000).unwrap()
}

fn small_area() -> (Area, MasterKey) {
    let options = CreateOptions {
        spec: spec(Algorithm::Aes128, Mode::Cbc, IvKind::Plain64),
        hash: Hash::Sha256,
    };
    Area::create(options, b"first", work(), &mut counting()).unwrap()
}

/// Writes the ranges of a change one by one to what was on the medium, with a look after each.
fn each_cut(before: &[u8], area: &Area, change: &Change, mut look: impl FnMut(&Area)) {
    let mut medium = before.to_vec();
    look(&Area::parse(medium.clone()).unwrap());
    for range in &change.writes {
        assert!(range.start % SECTOR_BYTES == 0 && range.end % SECTOR_BYTES == 0);
        medium[range.clone()].copy_from_slice(&area.bytes()[range.clone()]);
        look(&Area::parse(medium.clone()).unwrap());
    }
    assert_eq!(medium, area.bytes());
}

#[test]
fn aes_in_xts_mode_is_that_of_ieee_1619() {
    // Vectors 4 and 10 of annex B: sectors of 512 bytes, 0x00 to 0xff twice, with keys of 128 and 256 bits.
    let plain: Vec<u8> = (0..512).map(|number| number as u8).collect();
    let vectors = [
        (
            Algorithm::Aes128,
            "27182818284590452353602874713526",
            "31415926535897932384626433832795",
            0,
            "27a7479befa1d476489f308cd4cfa6e2a96e4bbe3208ff25287dd3819616e89c",
            "0a282df920147beabe421ee5319d0568",
        ),
        (
            Algorithm::Aes256,
            "2718281828459045235360287471352662497757247093699959574966967627",
            "3141592653589793238462643383279502884197169399375105820974944592",
            0xff,
            "1c3b3a102f770386e4836c99e370cf9bea00803f5e482357a4ae12d414a3e63b",
            "c4f36ffda9fcea70b9c6e693e148c151",
        ),
    ];
    for (algorithm, data_key, tweak_key, sector, head, tail) in vectors {
        let key = [unhex(data_key), unhex(tweak_key)].concat();
        let cipher = Cipher::of_bytes(spec(algorithm, Mode::Xts, IvKind::Plain64), &key);
        let mut bytes = plain.clone();
        cipher.encrypt(sector, &mut bytes);
        assert_eq!(bytes[..32], unhex(head), "{cipher:?}");
        assert_eq!(bytes[496..], unhex(tail), "{cipher:?}");
        cipher.decrypt(sector, &mut bytes);
        assert_eq!(bytes, plain);
    }
}

#[test]
fn every_cipher_undoes_itself_sector_by_sector() {
    let algorithms = [
        Algorithm::Aes128,
        Algorithm::Aes192,
        Algorithm::Aes256,
        Algorithm::Serpent128,
        Algorithm::Serpent256,
        Algorithm::Twofish192,
        Algorithm::Twofish256,
        Algorithm::Cast5,
    ];
    let mut random = counting();
    let mut plain = vec![0; 150 * SECTOR_BYTES];
    random(&mut plain);
    for algorithm in algorithms {
        for mode in [Mode::Xts, Mode::Cbc] {
            for iv in [IvKind::Plain, IvKind::Plain64, IvKind::EssivSha256] {
                let Ok(spec) = Spec::new(algorithm, mode, iv) else {
                    continue;
                };
                let mut key = vec![0; spec.key_bytes()];
                random(&mut key);
                one_cipher(&Cipher::of_bytes(spec, &key), &plain);
            }
        }
    }
}

/// A run of any length is its sectors one by one, and comes back.
fn one_cipher(cipher: &Cipher, plain: &[u8]) {
    const FIRST: u64 = u32::MAX as u64 - 20;
    let mut singly = plain.to_vec();
    for (number, sector) in (FIRST..).zip(singly.chunks_mut(SECTOR_BYTES)) {
        cipher.encrypt(number, sector);
    }
    for sectors in [0, 1, 2, 7, 8, 9, 63, 64, 65, 150] {
        let len = sectors * SECTOR_BYTES;
        let mut run = plain[..len].to_vec();
        cipher.encrypt(FIRST, &mut run);
        assert!(run == singly[..len], "{cipher:?}, {sectors} sectors");
        cipher.decrypt(FIRST, &mut run);
        assert!(run == plain[..len], "{cipher:?}, {sectors} sectors");
    }
    let mut again = singly[..SECTOR_BYTES].to_vec();
    cipher.decrypt(FIRST + 1, &mut again);
    assert!(again != plain[..SECTOR_BYTES], "the sector's number counts");
}

#[test]
fn plain_ivs_come_again_after_two_tebibytes_and_plain64_do_not() {
    for (iv, again) in [(IvKind::Plain, true), (IvKind::Plain64, false)] {
        let cipher = Cipher::of_bytes(spec(Algorithm::Aes128, Mode::Cbc, iv), &[5; 16]);
        let mut low = vec![0; SECTOR_BYTES];
        let mut high = low.clone();
        cipher.encrypt(9, &mut low);
        cipher.encrypt(9 + (1 << 32), &mut high);
        assert_eq!(low == high, again);
    }
}

#[test]
fn a_new_area_opens_with_its_passphrase_alone() {
    for algorithm in [Algorithm::Aes192, Algorithm::Aes256, Algorithm::Cast5] {
        let mode = if algorithm == Algorithm::Cast5 {
            Mode::Cbc
        } else {
            Mode::Xts
        };
        let options = CreateOptions {
            spec: spec(algorithm, mode, IvKind::Plain64),
            hash: Hash::Sha512,
        };
        let (area, key) = Area::create(options, b"open", work(), &mut counting()).unwrap();
        assert_eq!(area.bytes().len() as u64, area_bytes(options.spec));
        assert_eq!(area.header().payload_offset(), area_bytes(options.spec));
        assert!(area.header().area_bytes() <= area_bytes(options.spec));
        let read = Area::parse(area.bytes().to_vec()).unwrap();
        assert_eq!(read.header(), area.header());
        let unlocked = read.unlock(b"open").unwrap();
        assert_eq!((unlocked.slot, unlocked.key.bytes()), (0, key.bytes()));
        for wrong in [&b""[..], b"Open", b"open "] {
            assert_eq!(read.unlock(wrong).unwrap_err(), LuksError::WrongPassphrase);
        }
        let uuid = area.header().uuid();
        assert_eq!((uuid.len(), &uuid[14..15]), (36, "4"));
    }
}

/// As cryptsetup makes it: material that ends within a sector.
#[test]
fn material_that_is_not_whole_sectors_is_read_and_not_made() {
    let options = CreateOptions {
        spec: spec(Algorithm::Aes192, Mode::Cbc, IvKind::Plain64),
        hash: Hash::Sha256,
    };
    let made = Area::create(options, b"x", work(), &mut counting());
    assert_eq!(made.map(|_| ()), Err(LuksError::NotForQemu));

    let (area, key) = small_area();
    let mut header = area.header().clone();
    header.slots[1].stripes = 3999;
    let mut bytes = area.bytes().to_vec();
    bytes[..HEADER_BYTES].copy_from_slice(&header.to_bytes());
    let mut area = Area::parse(bytes).unwrap();
    area.add_key(&key, b"odd", Some(1), work(), &mut counting())
        .unwrap();
    // Whoever reads only the material's own bytes reads them the same.
    let mut bytes = area.bytes().to_vec();
    bytes[area.material(1)][3999 * 16..].fill(0);
    assert_eq!(Area::parse(bytes).unwrap().slots_of(b"odd"), [1]);
}

#[test]
fn any_bit_of_a_slots_material_makes_its_passphrase_wrong() {
    let (area, _) = small_area();
    let range = area.material(0);
    let len = 16 * 4000;
    for at in [range.start, range.start + 4711, range.start + len - 1] {
        let mut bytes = area.bytes().to_vec();
        bytes[at] ^= 0x10;
        let damaged = Area::parse(bytes).unwrap();
        assert_eq!(
            damaged.unlock(b"first").unwrap_err(),
            LuksError::WrongPassphrase
        );
    }
}

#[test]
fn keys_are_added_until_all_slots_are_full() {
    let (mut area, key) = small_area();
    let mut random = counting();
    let change = area.add_key(&key, b"six", Some(6), work(), &mut random);
    assert_eq!(change.unwrap().slot, 6);
    let again = area.add_key(&key, b"six", Some(6), work(), &mut random);
    assert_eq!(again.unwrap_err(), LuksError::SlotInUse(6));
    let beyond = area.add_key(&key, b"x", Some(8), work(), &mut random);
    assert_eq!(beyond.unwrap_err(), LuksError::NoSuchSlot(8));
    for slot in [1, 2, 3, 4, 5, 7] {
        let change = area.add_key(&key, b"many", None, work(), &mut random);
        assert_eq!(change.unwrap().slot, slot);
    }
    let full = area.add_key(&key, b"x", None, work(), &mut random);
    assert_eq!(full.unwrap_err(), LuksError::NoFreeSlot);
    let full = area.change_key(b"first", b"x", work(), &mut random);
    assert_eq!(full.unwrap_err(), LuksError::NoFreeSlot);
    assert_eq!(area.slots_of(b"many"), [1, 2, 3, 4, 5, 7]);
    assert_eq!(area.unlock(b"six").unwrap().key.bytes(), key.bytes());
}

#[test]
fn a_key_of_another_area_is_refused() {
    let (mut area, _) = small_area();
    let mut chance = counting();
    chance(&mut [0; 7]);
    let options = CreateOptions {
        spec: area.header().spec(),
        hash: Hash::Sha256,
    };
    let (_, other) = Area::create(options, b"first", work(), &mut chance).unwrap();
    let error = Cipher::new(area.header(), &other).unwrap_err();
    assert_eq!(error, LuksError::OtherKey);
    let refused = area.add_key(&other, b"x", None, work(), &mut counting());
    assert_eq!(refused.unwrap_err(), LuksError::OtherKey);
}

#[test]
fn a_cut_in_a_change_of_keys_locks_nobody_out() {
    let (mut area, key) = small_area();
    let before = area.bytes().to_vec();
    let change = area
        .add_key(&key, b"second", None, work(), &mut counting())
        .unwrap();
    each_cut(&before, &area, &change, |seen| {
        assert_eq!(seen.slots_of(b"first"), [0]);
    });
    assert_eq!(area.slots_of(b"second"), [1]);

    let before = area.bytes().to_vec();
    let change = area
        .change_key(b"first", b"third", work(), &mut counting())
        .unwrap();
    assert_eq!(change.slot, 2);
    each_cut(&before, &area, &change, |seen| {
        let opens = |passphrase| seen.unlock(passphrase).is_ok();
        assert!(opens(b"first") || opens(b"third"));
        assert!(opens(b"second"));
    });
    assert!(area.slots_of(b"first").is_empty());
    assert_eq!(area.slots_of(b"third"), [2]);

    let before = area.bytes().to_vec();
    let change = area.erase_key(1, false, &mut counting()).unwrap();
    each_cut(&before, &area, &change, |seen| {
        assert_eq!(seen.slots_of(b"third"), [2]);
    });
    assert!(area.slots_of(b"second").is_empty());
    let material = area.material(1);
    assert!(area.bytes()[material.clone()] != before[material]);
}

#[test]
fn the_last_key_is_erased_by_force_alone() {
    let (mut area, _) = small_area();
    let mut random = counting();
    let refused = area.erase_key(0, false, &mut random);
    assert_eq!(refused.unwrap_err(), LuksError::LastSlot(0));
    let unused = area.erase_key(1, true, &mut random);
    assert_eq!(unused.unwrap_err(), LuksError::SlotUnused(1));
    let beyond = area.erase_key(9, true, &mut random);
    assert_eq!(beyond.unwrap_err(), LuksError::NoSuchSlot(9));
    assert!(area.unlock(b"first").is_ok());
    area.erase_key(0, true, &mut random).unwrap();
    assert_eq!(
        area.unlock(b"first").unwrap_err(),
        LuksError::WrongPassphrase
    );
}

#[test]
fn a_change_of_keys_leaves_what_others_wrote_as_it_was() {
    let (area, key) = small_area();
    let mut bytes = area.bytes().to_vec();
    // A hash after plain IVs means nothing, but it is there, as bytes after the header may be.
    bytes[40..58].copy_from_slice(b"cbc-plain64:sha256");
    bytes[600] = 0x5a;
    let mut area = Area::parse(bytes.clone()).unwrap();
    area.add_key(&key, b"second", None, work(), &mut counting())
        .unwrap();
    let slot = 256..304;
    assert_eq!(area.bytes()[..slot.start], bytes[..slot.start]);
    assert_eq!(area.bytes()[slot.end..4096], bytes[slot.end..4096]);
    assert!(area.bytes()[slot.clone()] != bytes[slot]);
}

#[test]
fn hostile_headers_are_refused_in_one_sentence() {
    let (area, _) = small_area();
    let good = area.bytes()[..HEADER_BYTES].to_vec();
    assert_eq!(Header::parse(&good).as_ref(), Ok(area.header()));
    let slot = |number: usize, field: usize| 208 + 48 * number + field;
    let cases: [(usize, &[u8], &str); 15] = [
        (0, b"LUKX", "there is no LUKS header"),
        (6, &[0, 2], "version 2"),
        (8, &[b'a'; 32], "one of its names has no end"),
        (8, b"rot13\0", "rot13 with keys of 128 bits"),
        (40, b"ctr-plain64", "ctr-plain64"),
        (40, b"ecb\0", "ecb hides nothing"),
        (72, b"md5\0\0\0", "hash md5"),
        (108, &[0xff; 4], "keys of 34359738360 bits"),
        (164, &[0; 4], "no iterations"),
        (164, &[0xff; 4], "4294967295 PBKDF2 iterations"),
        (slot(0, 4), &[0x40, 0, 0, 0], "1073741824 PBKDF2 iterations"),
        (
            slot(3, 0),
            &[1, 2, 3, 4],
            "slot 3 of the LUKS header is damaged: it is neither",
        ),
        (
            slot(4, 40),
            &[0; 4],
            "slot 4 of the LUKS header is damaged: its key material lies over the header",
        ),
        (slot(5, 44), &[0xff; 4], "its key material is too long"),
        (slot(7, 44), &[0; 4], "no stripes"),
    ];
    for (at, bytes, expected) in cases {
        let mut header = good.clone();
        header[at..at + bytes.len()].copy_from_slice(bytes);
        let sentence = Header::parse(&header).unwrap_err().to_string();
        assert!(
            sentence.contains(expected),
            "{sentence} instead of {expected}"
        );
    }
    // The material of slot 1 over that of slot 0, and that of slot 7 over the payload.
    let mut header = good.clone();
    header.copy_within(slot(0, 40)..slot(0, 44), slot(1, 40));
    let sentence = Header::parse(&header).unwrap_err().to_string();
    assert!(
        sentence.contains("slot 1") && sentence.contains("another slot"),
        "{sentence}"
    );
    let mut header = good.clone();
    header[slot(7, 44)..slot(7, 48)].copy_from_slice(&5000u32.to_be_bytes());
    let sentence = Header::parse(&header).unwrap_err().to_string();
    assert!(
        sentence.contains("slot 7") && sentence.contains("payload"),
        "{sentence}"
    );
}

#[test]
fn what_is_cut_off_is_no_area() {
    let (area, _) = small_area();
    for len in [0, 5, 6, 100, HEADER_BYTES - 1, HEADER_BYTES, 4096] {
        assert!(
            Area::parse(area.bytes()[..len].to_vec()).is_err(),
            "{len} bytes"
        );
    }
}

#[test]
fn no_debug_shows_a_secret() {
    let (area, key) = small_area();
    let shown = format!(
        "{key:?} {:?} {area:?}",
        Cipher::new(area.header(), &key).unwrap()
    );
    assert!(
        shown.starts_with("MasterKey(128 bits) Cipher(aes-cbc-plain64) Area {"),
        "{shown}"
    );
    assert!(!shown.contains(&format!("{:?}", key.bytes())));
}
