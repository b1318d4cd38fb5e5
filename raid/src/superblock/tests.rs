use proptest::prelude::*;

use super::*;

const DEVICE: u64 = 131_072;

pub(crate) fn sample() -> Superblock {
    let mut set_name = [0; 32];
    set_name[..9].copy_from_slice(b"host:tank");
    let mut roles = vec![Role::Spare; 128];
    for slot in 0..3 {
        roles[usize::from(slot)] = Role::Active(slot);
    }
    Superblock {
        features: Features::BITMAP,
        set_uuid: [7; 16],
        set_name,
        ctime: Timestamp::new(1_700_000_000, 17),
        level: Level::Raid5,
        layout: 2,
        size: 128 * 1000,
        chunk: 128,
        raid_disks: 3,
        bitmap_offset: 8,
        reshape: Reshape::default(),
        data_offset: 2048,
        data_size: DEVICE - 2048,
        recovery_offset: 0,
        dev_number: 1,
        corrected_reads: 0,
        device_uuid: [9; 16],
        devflags: 0,
        bblog_shift: 0,
        bblog_size: 8,
        bblog_offset: 16,
        utime: Timestamp::new(1_700_000_001, 0),
        events: 17,
        resync_offset: CLEAN,
        roles,
    }
}

fn refused(change: impl FnOnce(&mut Superblock)) -> SuperblockError {
    let mut superblock = sample();
    change(&mut superblock);
    Superblock::parse(&superblock.to_bytes(512), DEVICE).expect_err("it was refused")
}

#[test]
fn what_was_written_is_read() {
    let superblock = sample();
    let bytes = superblock.to_bytes(512);
    assert_eq!(bytes.len(), 512);
    assert_eq!(Superblock::parse(&bytes, DEVICE), Ok(superblock.clone()));
    assert_eq!(superblock.role(), Role::Active(1));
    assert_eq!(superblock.name(), "host:tank");
    assert_eq!(superblock.bitmap_sector(), Some(16));
    assert_eq!(superblock.bitmap_room(), 8);
}

#[test]
fn a_flipped_bit_is_seen() {
    let mut bytes = sample().to_bytes(512);
    bytes[300] ^= 4;
    let error = Superblock::parse(&bytes, DEVICE).expect_err("damaged");
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().starts_with("the superblock is damaged"));
}

#[test]
fn hostile_values_are_refused_in_a_sentence() {
    let cases = [
        refused(|sb| sb.raid_disks = 0),
        refused(|sb| sb.raid_disks = 1921),
        refused(|sb| sb.chunk = 0),
        refused(|sb| sb.chunk = 100),
        refused(|sb| sb.chunk = 1 << 31),
        refused(|sb| sb.size = 0),
        refused(|sb| sb.size = u64::MAX),
        refused(|sb| sb.data_size = u64::MAX),
        refused(|sb| sb.data_offset = 4),
        refused(|sb| sb.data_offset = u64::MAX),
        refused(|sb| sb.roles[5] = Role::Active(3)),
        refused(|sb| sb.bitmap_offset = 0),
        refused(|sb| sb.bitmap_offset = -8000),
        refused(|sb| sb.bitmap_offset = 4096),
        refused(|sb| sb.bblog_offset = i32::MIN),
        refused(|sb| sb.bblog_size = 9),
        refused(|sb| sb.features = Features::RAID0_LAYOUT),
    ];
    for error in cases {
        assert!(matches!(error, SuperblockError::Malformed(_)), "{error}");
    }
    let unknown = refused(|sb| sb.features = Features::from_bits(1 << 20));
    assert_eq!(unknown, SuperblockError::UnknownFeatures(1 << 20));
}

/// The place of a log by its offset from the superblock and its length.
fn ppl(offset: i16, sectors: u16) -> i32 {
    (u32::from(offset as u16) | u32::from(sectors) << 16) as i32
}

#[test]
fn a_partial_parity_log_has_a_place_of_its_own() {
    let logged = |change: &dyn Fn(&mut Superblock)| {
        let mut superblock = sample();
        superblock.features = Features::PPL;
        superblock.data_offset = 4096;
        superblock.data_size = DEVICE - 4096;
        superblock.size = 128 * 900;
        superblock.bblog_offset = 2056;
        superblock.bitmap_offset = ppl(8, 2048);
        change(&mut superblock);
        Superblock::parse(&superblock.to_bytes(512), DEVICE)
    };
    let sound = logged(&|_| {}).expect("it is sound");
    let place = sound.ppl().expect("it has a log");
    assert_eq!((place.sector, place.sectors), (16, 2048));
    assert_eq!(place.word(), sound.bitmap_offset);
    assert_eq!(sound.bitmap_sector(), None);
    let hostile: [&dyn Fn(&mut Superblock); 9] = [
        &|sb| sb.bitmap_offset = ppl(8, 0),
        &|sb| sb.bitmap_offset = ppl(8, 15),
        &|sb| sb.bitmap_offset = ppl(0, 2048),
        &|sb| sb.bitmap_offset = ppl(8, 4096),
        &|sb| sb.bitmap_offset = ppl(i16::MIN, u16::MAX),
        &|sb| sb.bblog_offset = 100,
        &|sb| sb.features = Features::PPL.with(Features::BITMAP),
        &|sb| sb.features = Features::PPL.with(Features::JOURNAL),
        &|sb| sb.level = Level::Raid4,
    ];
    for (number, change) in hostile.into_iter().enumerate() {
        let refused = logged(change).expect_err("it was refused");
        let malformed = matches!(refused, SuperblockError::Malformed(_));
        assert!(malformed, "{number}: {refused}");
    }
}

#[test]
fn a_journal_holds_no_data_and_is_not_for_every_level() {
    let journaled = |change: &dyn Fn(&mut Superblock)| {
        let mut superblock = sample();
        superblock.features = Features::JOURNAL;
        superblock.level = Level::Raid5;
        superblock.bitmap_offset = 0;
        let own = superblock.dev_number as usize;
        superblock.roles[own] = Role::Journal;
        change(&mut superblock);
        Superblock::parse(&superblock.to_bytes(512), DEVICE)
    };
    let read = journaled(&|sb| (sb.data_size, sb.recovery_offset) = (4096, 64));
    let read = read.expect("a journal is as small as it likes");
    assert_eq!((read.role(), read.recovery_offset), (Role::Journal, 64));
    let hostile: [&dyn Fn(&mut Superblock); 4] = [
        &|sb| sb.level = Level::Raid1,
        &|sb| sb.features = Features::JOURNAL.with(Features::BITMAP),
        &|sb| sb.raid_disks = 204,
        &|sb| sb.data_size = DEVICE,
    ];
    for (number, change) in hostile.into_iter().enumerate() {
        let refused = journaled(change).expect_err("it was refused");
        let malformed = matches!(refused, SuperblockError::Malformed(_));
        assert!(malformed, "{number}: {refused}");
    }
}

/// A superblock of three members that were two, and whose data goes to sector 128.
pub(crate) fn reshaping() -> Superblock {
    let mut superblock = sample();
    let change = Features::RESHAPE.with(Features::NEW_OFFSET);
    superblock.features = superblock.features.with(change);
    superblock.reshape = Reshape {
        new_level: 5,
        position: 128 * 2 * 7,
        delta_disks: 1,
        new_layout: 2,
        new_chunk: 128,
        new_offset: -1920,
    };
    superblock
}

#[test]
fn a_change_of_shape_that_cannot_be_is_refused() {
    let parsed = |change: &dyn Fn(&mut Superblock)| {
        let mut superblock = reshaping();
        change(&mut superblock);
        Superblock::parse(&superblock.to_bytes(512), DEVICE)
    };
    let backwards = |sb: &mut Superblock, sectors: i32| {
        sb.features = sb.features.with(Features::RESHAPE_BACKWARDS);
        (sb.reshape.delta_disks, sb.reshape.new_offset) = (0, sectors);
    };
    let sound = parsed(&|_| {}).expect("it is sound");
    assert_eq!((sound.shift(), sound.data_start()), (-1920, 128));
    let behind = parsed(&|sb| backwards(sb, 1024)).expect("there is so much room");
    assert_eq!((behind.shift(), behind.data_start()), (1024, 2048));
    let hostile: [&dyn Fn(&mut Superblock); 24] = [
        // Over the bad-block log, the bitmap, the superblock, and before the start of the device.
        &|sb| sb.reshape.new_offset = 31 - 2048,
        &|sb| sb.reshape.new_offset = 16 - 2048,
        &|sb| sb.reshape.new_offset = 8 - 2048,
        &|sb| sb.reshape.new_offset = -2048,
        &|sb| sb.reshape.new_offset = -2049,
        &|sb| sb.reshape.new_offset = i32::MIN,
        // Over the end of the device.
        &|sb| backwards(sb, 1025),
        &|sb| backwards(sb, i32::MAX),
        // The wrong way round.
        &|sb| sb.reshape.new_offset = 128,
        &|sb| sb.features = sb.features.with(Features::RESHAPE_BACKWARDS),
        &|sb| backwards(sb, -128),
        &|sb| (sb.reshape.delta_disks, sb.reshape.new_offset) = (0, 128),
        &|sb| sb.reshape.delta_disks = -1,
        &|sb| sb.reshape.delta_disks = 3,
        &|sb| sb.reshape.delta_disks = i32::MAX,
        &|sb| sb.reshape.delta_disks = i32::MIN,
        &|sb| sb.reshape.delta_disks = -1918,
        &|sb| sb.reshape.new_chunk = 0,
        &|sb| sb.reshape.new_chunk = 4,
        &|sb| sb.reshape.new_chunk = 100,
        &|sb| sb.reshape.new_chunk = 1 << 29,
        &|sb| sb.reshape.new_chunk = u32::MAX,
        &|sb| {
            let features = sb.features.without(Features::BITMAP);
            sb.features = features.with(Features::JOURNAL);
        },
        &|sb| {
            sb.features = sb.features.without(Features::BITMAP).with(Features::PPL);
            (sb.bitmap_offset, sb.bblog_size) = (ppl(8, 64), 0);
        },
    ];
    for (number, change) in hostile.into_iter().enumerate() {
        let refused = parsed(change).expect_err("it was refused");
        let malformed = matches!(refused, SuperblockError::Malformed(_));
        assert!(malformed, "{number}: {refused}");
    }
}

#[test]
fn features_are_named() {
    let features = Features::CLUSTERED.with(Features::BITMAP);
    assert_eq!(features.refused().names(), ["clustered bitmap"]);
    assert_eq!(
        features.names(),
        ["write-intent bitmap", "clustered bitmap"]
    );
}

proptest! {
    #[test]
    fn any_bytes_are_answered(mut bytes in proptest::collection::vec(any::<u8>(), 256..700), right in any::<bool>()) {
        bytes[..8].copy_from_slice(&[0xfc, 0x4e, 0x2b, 0xa9, 1, 0, 0, 0]);
        if right {
            let roles = ((bytes.len() - 256) / 2) as u32;
            put(&mut bytes, 220, &roles.to_le_bytes());
            put(&mut bytes, 144, &8_u64.to_le_bytes());
            let sum = checksum(&bytes[..256 + 2 * roles as usize]);
            put(&mut bytes, CHECKSUM_AT, &sum.to_le_bytes());
        }
        let _ = Superblock::parse(&bytes, DEVICE);
    }

    #[test]
    fn any_field_of_a_good_one_is_answered(at in 8_usize..512, value in any::<u64>(), device in 0_u64..1 << 40) {
        let mut bytes = sample().to_bytes(512);
        let end = (at + 8).min(512);
        bytes[at..end].copy_from_slice(&value.to_le_bytes()[..end - at]);
        let max_dev = le32(&bytes, 220);
        if max_dev <= 128 {
            let sum = checksum(&bytes[..256 + 2 * max_dev as usize]);
            put(&mut bytes, CHECKSUM_AT, &sum.to_le_bytes());
        }
        if let Ok(superblock) = Superblock::parse(&bytes, device) {
            prop_assert!(superblock.data_offset + superblock.used() <= device);
            prop_assert!(superblock.bitmap_room() <= superblock.data_offset);
        }
    }
}
