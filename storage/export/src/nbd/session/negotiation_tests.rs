//! A handshake driven with made-up bytes.

use proptest::prelude::*;

use super::*;

struct Shop;

impl Catalogue for Shop {
    fn find(&self, name: &str) -> Option<ExportFacts> {
        ["disk", ""].contains(&name).then(|| ExportFacts {
            name: "disk".into(),
            description: "a disk".into(),
            size: 1 << 20,
            min_block: 512,
            preferred_block: 4096,
            read_only: false,
            trim: true,
        })
    }

    fn list(&self) -> Vec<(String, String)> {
        vec![("disk".into(), "a disk".into()), ("ä".into(), "".into())]
    }
}

fn option(code: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = OPTION_MAGIC.to_be_bytes().to_vec();
    bytes.extend_from_slice(&code.to_be_bytes());
    bytes.extend_from_slice(&(data.len() as u32).to_be_bytes());
    bytes.extend_from_slice(data);
    bytes
}

fn query(name: &str, wants: &[u16]) -> Vec<u8> {
    let wants = wants.to_vec();
    ExportQuery { name, wants }.encode()
}

fn contexts(name: &str, queries: &[&str]) -> Vec<u8> {
    let queries = queries.to_vec();
    MetaQuery { name, queries }.encode()
}

/// Flags sent, greeting read.
fn begun(flags: u32) -> Negotiation {
    let mut out = Vec::new();
    let mut negotiation = Negotiation::new(&mut out);
    assert_eq!(out[..], *b"NBDMAGICIHAVEOPT\0\x03");
    let step = negotiation.advance(&mut &flags.to_be_bytes()[..], &Shop, &mut out);
    assert_eq!(step, Step::Answered);
    negotiation
}

type Replies = Vec<(u32, Vec<u8>)>;

/// Sends one option; the codes and data of the replies to it.
fn send(negotiation: &mut Negotiation, code: u32, data: &[u8]) -> (Step, Replies) {
    let bytes = option(code, data);
    let (mut input, mut out) = (&bytes[..], Vec::new());
    let mut step = negotiation.advance(&mut input, &Shop, &mut out);
    while step == Step::Answered && !input.is_empty() {
        step = negotiation.advance(&mut input, &Shop, &mut out);
    }
    if step == Step::Answered && out.is_empty() {
        step = negotiation.advance(&mut input, &Shop, &mut out);
    }
    (step, replies(&out, code))
}

fn replies(mut out: &[u8], code: u32) -> Replies {
    let mut replies = Vec::new();
    while let Some((header, rest)) = out.split_first_chunk() {
        let reply = OptionReply::parse(header).expect("the magic of a reply");
        assert_eq!(reply.option, code);
        let (data, rest) = rest.split_at(reply.len as usize);
        replies.push((reply.code, data.to_vec()));
        out = rest;
    }
    assert!(out.is_empty());
    replies
}

fn codes(replies: &Replies) -> Vec<u32> {
    replies.iter().map(|(code, _)| *code).collect()
}

const ACK: u32 = ReplyCode::Ack as u32;
const INFO: u32 = ReplyCode::Info as u32;

#[test]
fn go_describes_the_export_and_enters() {
    let mut negotiation = begun(3);
    let (_, replies) = send(&mut negotiation, OptionCode::StructuredReply as u32, b"");
    assert_eq!(codes(&replies), [ACK]);
    let set = contexts("disk", &["base:allocation", "qemu:dirty-bitmap:x"]);
    let (_, replies) = send(&mut negotiation, OptionCode::SetMetaContext as u32, &set);
    assert_eq!(codes(&replies), [ReplyCode::MetaContext as u32, ACK]);
    assert_eq!(replies[0].1, b"\0\0\0\x01base:allocation");

    let (step, replies) = send(
        &mut negotiation,
        OptionCode::Go as u32,
        &query("", &[1, 2, 3, 9]),
    );
    assert_eq!(codes(&replies), [INFO, INFO, INFO, INFO, ACK]);
    let flags = Shop.find("").unwrap().flags(true).to_be_bytes();
    assert_eq!(replies[0].1[..10], [0, 0, 0, 0, 0, 0, 0, 0x10, 0, 0]);
    assert_eq!(replies[0].1[10..], flags);
    assert_eq!(replies[1].1, b"\0\x01disk");
    assert_eq!(replies[2].1, b"\0\x02a disk");
    assert_eq!(replies[3].1, [0, 3, 0, 0, 2, 0, 0, 0, 16, 0, 2, 0, 0, 0]);
    let Step::Enter(agreed) = step else {
        panic!("{step:?}");
    };
    assert!(agreed.structured && agreed.allocation);
    assert_eq!(agreed.export.name, "disk");
}

#[test]
fn export_name_is_answered_with_or_without_padding() {
    for (flags, len) in [(1, 134), (3, 10)] {
        let mut negotiation = begun(flags);
        let bytes = option(OptionCode::ExportName as u32, b"disk");
        let mut out = Vec::new();
        let step = negotiation.advance(&mut &bytes[..], &Shop, &mut out);
        assert!(matches!(step, Step::Enter(agreed) if !agreed.structured));
        assert_eq!(out.len(), len);
        assert_eq!(out[..8], (1u64 << 20).to_be_bytes());
    }
}

#[test]
fn an_unknown_export_is_refused_or_hung_up_on() {
    let mut negotiation = begun(3);
    let (step, replies) = send(&mut negotiation, OptionCode::Go as u32, &query("tape", &[]));
    assert_eq!(step, Step::Answered);
    assert_eq!(codes(&replies), [ReplyCode::ErrUnknown as u32]);
    let (step, _) = send(&mut negotiation, OptionCode::ExportName as u32, b"tape");
    assert!(matches!(step, Step::Close(_)));
}

#[test]
fn the_list_names_every_export() {
    let (step, replies) = send(&mut begun(3), OptionCode::List as u32, b"");
    assert_eq!(step, Step::Answered);
    let server = ReplyCode::Server as u32;
    assert_eq!(codes(&replies), [server, server, ACK]);
    assert_eq!(replies[0].1, b"\0\0\0\x04diska disk");
    let (_, replies) = send(&mut begun(3), OptionCode::List as u32, b"x");
    assert_eq!(codes(&replies), [ReplyCode::ErrInvalid as u32]);
}

#[test]
fn what_is_not_offered_is_unsupported_and_the_handshake_goes_on() {
    let mut negotiation = begun(3);
    for code in [
        OptionCode::StartTls as u32,
        OptionCode::ExtendedHeaders as u32,
        4,
        4711,
    ] {
        let (step, replies) = send(&mut negotiation, code, b"");
        assert_eq!(step, Step::Answered, "{code}");
        assert_eq!(codes(&replies), [ReplyCode::ErrUnsup as u32], "{code}");
    }
    let (_, replies) = send(&mut negotiation, 4711, &[7; 100_000]);
    assert_eq!(codes(&replies), [ReplyCode::ErrUnsup as u32]);
    let (step, _) = send(&mut negotiation, OptionCode::Go as u32, &query("disk", &[]));
    assert!(matches!(step, Step::Enter(_)));
}

#[test]
fn an_option_that_is_too_long_is_skipped() {
    let mut negotiation = begun(3);
    let data = vec![0; MAX_OPTION_DATA + 1];
    let (step, replies) = send(&mut negotiation, OptionCode::Go as u32, &data);
    assert_eq!(step, Step::Answered);
    assert_eq!(codes(&replies), [ReplyCode::ErrTooBig as u32]);
    let (step, _) = send(&mut negotiation, OptionCode::ExportName as u32, &data);
    assert!(matches!(step, Step::Close(_)));
}

#[test]
fn metadata_contexts_belong_to_one_export_and_need_structured_replies() {
    let set = OptionCode::SetMetaContext as u32;
    let list = OptionCode::ListMetaContext as u32;
    let mut negotiation = begun(3);
    let wanted = contexts("disk", &["base:allocation"]);
    let (_, replies) = send(&mut negotiation, set, &wanted);
    assert_eq!(codes(&replies), [ReplyCode::ErrInvalid as u32]);

    send(&mut negotiation, OptionCode::StructuredReply as u32, b"");
    let context = ReplyCode::MetaContext as u32;
    for (code, queries, answer) in [
        (list, &[][..], &[context, ACK][..]),
        (list, &["base:"], &[context, ACK]),
        (list, &["qemu:"], &[ACK]),
        (set, &[], &[ACK]),
        (set, &["base:"], &[ACK]),
        (set, &["base:allocation"], &[context, ACK]),
    ] {
        let (_, replies) = send(&mut negotiation, code, &contexts("disk", queries));
        assert_eq!(codes(&replies), answer, "{code} {queries:?}");
    }
    // A set that fails leaves nothing selected.
    let (_, replies) = send(
        &mut negotiation,
        set,
        &contexts("tape", &["base:allocation"]),
    );
    assert_eq!(codes(&replies), [ReplyCode::ErrUnknown as u32]);
    let (step, _) = send(&mut negotiation, OptionCode::Go as u32, &query("disk", &[]));
    assert!(matches!(step, Step::Enter(agreed) if !agreed.allocation));
}

#[test]
fn abort_is_acknowledged() {
    let (step, replies) = send(&mut begun(3), OptionCode::Abort as u32, b"bye");
    assert!(matches!(step, Step::Close(_)));
    assert_eq!(codes(&replies), [ACK]);
}

#[test]
fn unknown_client_flags_and_wrong_magics_end_the_session() {
    let mut out = Vec::new();
    let mut negotiation = Negotiation::new(&mut out);
    let step = negotiation.advance(&mut &4u32.to_be_bytes()[..], &Shop, &mut out);
    assert!(matches!(step, Step::Close(_)));
    let step = begun(3).advance(&mut &[0x55; 64][..], &Shop, &mut out);
    assert!(matches!(step, Step::Close(_)));
}

#[test]
fn endless_haggling_ends() {
    let mut negotiation = begun(3);
    let bytes = option(OptionCode::StructuredReply as u32, b"");
    let closed = (0..MAX_OPTIONS + 1).find(|_| {
        let step = negotiation.advance(&mut &bytes[..], &Shop, &mut Vec::new());
        matches!(step, Step::Close(_))
    });
    assert_eq!(closed, Some(MAX_OPTIONS));
}

proptest! {
    /// Bytes that nearly make sense: options with any code, any data and a length that may lie, in any pieces.
    #[test]
    fn no_bytes_break_a_handshake(
        options in prop::collection::vec((0u32..13, prop::collection::vec(any::<u8>(), 0..40), 0u32..4), 0..12),
        piece in 1usize..50,
    ) {
        let mut bytes = 3u32.to_be_bytes().to_vec();
        for (code, data, lie) in options {
            bytes.extend(option(code, &data));
            let at = bytes.len() - data.len() - 1;
            bytes[at] = bytes[at].wrapping_add(u8::from(lie == 0));
        }
        let mut out = Vec::new();
        let mut negotiation = Negotiation::new(&mut out);
        let (mut taken, mut shown) = (0, 0);
        loop {
            let mut input = &bytes[taken..shown];
            let before = input.len();
            let step = negotiation.advance(&mut input, &Shop, &mut out);
            taken += before - input.len();
            match step {
                Step::Wait if shown == bytes.len() => break,
                Step::Wait => shown = bytes.len().min(shown + piece),
                Step::Answered => prop_assert!(out.len() < 1 << 20),
                Step::Enter(_) | Step::Close(_) => break,
            }
        }
    }
}
