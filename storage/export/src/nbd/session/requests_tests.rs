//! Requests made up byte by byte.

use proptest::prelude::*;

use super::*;
use crate::nbd::proto::command_flag::*;
use crate::nbd::session::ExportFacts;

fn agreed() -> Agreed {
    Agreed {
        export: ExportFacts {
            name: String::new(),
            description: String::new(),
            size: 1 << 20,
            min_block: 512,
            preferred_block: 4096,
            read_only: false,
            trim: true,
        },
        structured: true,
        allocation: true,
    }
}

fn request(code: CommandCode, flags: u16, offset: u64, len: u32) -> [u8; REQUEST_HEADER] {
    raw(code as u16, flags, offset, len)
}

fn raw(code: u16, flags: u16, offset: u64, len: u32) -> [u8; REQUEST_HEADER] {
    Request {
        flags,
        code,
        cookie: 99,
        offset,
        len,
    }
    .encode()
}

fn take(agreed: &Agreed, bytes: &[u8]) -> Event {
    Requests::new(agreed).next(&mut &bytes[..])
}

fn action(event: Event) -> Action {
    match event {
        Event::Do(command) => command.action,
        event => panic!("{event:?}"),
    }
}

fn errno(event: Event) -> Errno {
    match event {
        Event::Refuse(Refusal {
            cookie: 99, errno, ..
        }) => errno,
        event => panic!("{event:?}"),
    }
}

use CommandCode::*;

#[test]
fn every_command_arrives_with_its_flags() {
    let agreed = agreed();
    let (whole, one, fua) = (true, true, true);
    for (code, flags, action_wanted) in [
        (Read, 0, Action::Read { whole: false }),
        (Read, DF | FUA, Action::Read { whole }),
        (Write, FUA, Action::Write { fua }),
        (Trim, FUA, Action::Trim { fua }),
        (Cache, 0, Action::Cache),
        (BlockStatus, REQ_ONE, Action::BlockStatus { one }),
        (
            WriteZeroes,
            FAST_ZERO,
            Action::WriteZeroes {
                unmap: true,
                fast: true,
                fua: false,
            },
        ),
        (
            WriteZeroes,
            NO_HOLE | FUA,
            Action::WriteZeroes {
                unmap: false,
                fast: false,
                fua,
            },
        ),
    ] {
        let event = take(&agreed, &request(code, flags, 4096, 512));
        assert_eq!(action(event), action_wanted, "{code:?}");
    }
    let event = take(&agreed, &request(Flush, 0, 0, 0));
    assert_eq!(action(event), Action::Flush);
    let event = take(&agreed, &request(Disconnect, 0, 0, 0));
    assert_eq!(event, Event::Disconnect);
}

#[test]
fn ranges_are_checked_and_told_apart() {
    let agreed = agreed();
    let end = 1 << 20;
    for (code, offset, len, wanted) in [
        (Read, end, 512, Errno::Inval),
        (Read, 3, 512, Errno::Inval),
        (Read, 0, 511, Errno::Inval),
        (Write, end - 512, 1024, Errno::NoSpace),
        (WriteZeroes, u64::MAX - 511, 512, Errno::NoSpace),
        (Trim, end, 512, Errno::Inval),
        (BlockStatus, end, 512, Errno::Inval),
        (BlockStatus, 0, 0, Errno::Inval),
        (Flush, 512, 0, Errno::Inval),
        (Cache, end, 512, Errno::Inval),
    ] {
        let event = take(&agreed, &request(code, 0, offset, len));
        assert_eq!(errno(event), wanted, "{code:?} {offset} {len}");
    }
    let event = take(&agreed, &request(Read, 0, end, 0));
    assert_eq!(action(event), Action::Read { whole: false });
}

#[test]
fn unknown_commands_and_flags_are_invalid() {
    let agreed = agreed();
    assert_eq!(errno(take(&agreed, &raw(8, 0, 0, 512))), Errno::Inval);
    assert_eq!(errno(take(&agreed, &raw(4711, FUA, 0, 512))), Errno::Inval);
    for (code, flags) in [
        (Read, NO_HOLE),
        (Read, 1 << 9),
        (Write, DF),
        (Trim, REQ_ONE),
        (Cache, FAST_ZERO),
    ] {
        let event = take(&agreed, &request(code, flags, 0, 512));
        assert_eq!(errno(event), Errno::Inval, "{code:?}");
    }
}

#[test]
fn what_was_not_negotiated_is_invalid() {
    let mut plain = agreed();
    (plain.structured, plain.allocation) = (false, false);
    plain.export.trim = false;
    for (code, flags) in [(Read, DF), (BlockStatus, 0), (Trim, 0)] {
        let event = take(&plain, &request(code, flags, 0, 512));
        assert_eq!(errno(event), Errno::Inval, "{code:?}");
    }
}

#[test]
fn a_read_only_export_takes_no_writes() {
    let mut agreed = agreed();
    agreed.export.read_only = true;
    agreed.export.trim = false;
    for code in [Write, WriteZeroes, Trim] {
        let event = take(&agreed, &request(code, 0, 0, 512));
        assert_eq!(errno(event), Errno::Perm, "{code:?}");
    }
    assert_eq!(
        action(take(&agreed, &request(Flush, 0, 0, 0))),
        Action::Flush
    );
}

#[test]
fn the_payload_of_a_refused_write_is_dropped() {
    let mut requests = Requests::new(&agreed());
    let mut bytes = request(Write, 0, 1 << 20, 64 << 20).to_vec();
    let mut input = &bytes[..];
    assert_eq!(errno(requests.next(&mut input)), Errno::Inval);
    for _ in 0..64 {
        assert_eq!(requests.next(&mut &vec![0x25; 1 << 20][..]), Event::Wait);
    }
    bytes = request(Read, 0, 0, 512).to_vec();
    assert_eq!(
        action(requests.next(&mut &bytes[..])),
        Action::Read { whole: false }
    );
}

#[test]
fn half_a_request_stays_in_the_input() {
    let mut requests = Requests::new(&agreed());
    let bytes = request(Read, 0, 0, 512);
    let mut input = &bytes[..27];
    assert_eq!(requests.next(&mut input), Event::Wait);
    assert_eq!(input.len(), 27);
    assert!(matches!(requests.next(&mut &[0; 28][..]), Event::Broken(_)));
}

proptest! {
    #[test]
    fn what_passes_lies_in_the_export(
        code in 0u16..10, flags in 0u16..64, offset in any::<u64>(), small in 0u64..3000, len in any::<u32>(), short in 0u32..3000,
    ) {
        let agreed = agreed();
        for (offset, len) in [(offset, len), (small * 512, short * 512), (small, len)] {
            if let Event::Do(command) = take(&agreed, &raw(code, flags, offset, len)) {
                prop_assert!(command.offset + u64::from(command.len) <= agreed.export.size);
                prop_assert!(command.offset % 512 == 0 && command.len % 512 == 0);
            }
        }
    }
}
