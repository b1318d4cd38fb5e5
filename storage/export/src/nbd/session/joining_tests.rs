//! Our client against our server's handshake, and against servers that do not behave.

use super::*;
use crate::nbd::session::{Catalogue, ExportFacts, Negotiation, Step};

struct Shop;

impl Catalogue for Shop {
    fn find(&self, name: &str) -> Option<ExportFacts> {
        (name == "disk").then(|| ExportFacts {
            name: "disk".into(),
            description: String::new(),
            size: 1 << 30,
            min_block: 4096,
            preferred_block: 65536,
            read_only: true,
            trim: false,
        })
    }

    fn list(&self) -> Vec<(String, String)> {
        Vec::new()
    }
}

/// Runs both sides against each other; what each of them ended with.
fn haggle(name: &str, transmit: bool) -> (Result<Joined, Error>, Step) {
    let mut client = Joining::new(name, transmit).unwrap();
    let (mut to_client, mut to_server) = (Vec::new(), Vec::new());
    let mut server = Negotiation::new(&mut to_client);
    let mut last = Step::Wait;
    loop {
        let bytes = std::mem::take(&mut to_client);
        let progress = client.advance(&mut &bytes[..], &mut to_server);
        let bytes = std::mem::take(&mut to_server);
        let mut input = &bytes[..];
        while !matches!(last, Step::Enter(_) | Step::Close(_)) {
            last = server.advance(&mut input, &Shop, &mut to_client);
            if last == Step::Wait {
                break;
            }
        }
        match progress {
            Ok(Progress::Wait) => assert!(!to_client.is_empty(), "both wait"),
            Ok(Progress::Done(joined)) => return (Ok(joined), last),
            Err(error) => return (Err(error), last),
        }
    }
}

#[test]
fn both_sides_agree() {
    let (joined, step) = haggle("disk", true);
    let joined = joined.unwrap();
    assert_eq!((joined.size, joined.min_block), (1 << 30, 4096));
    assert_eq!(joined.preferred_block, 65536);
    assert!(joined.structured && joined.allocation.is_some());
    assert!(joined.offers(transmission_flag::READ_ONLY | transmission_flag::CAN_MULTI_CONN));
    assert!(!joined.offers(transmission_flag::SEND_TRIM));
    assert!(matches!(step, Step::Enter(agreed) if agreed.structured && agreed.allocation));
}

#[test]
fn a_look_ends_with_abort() {
    let (joined, step) = haggle("disk", false);
    assert_eq!(joined.unwrap().size, 1 << 30);
    assert!(matches!(step, Step::Close(_)));
}

#[test]
fn a_refused_name_is_told_with_the_servers_words() {
    let (joined, _) = haggle("tape", true);
    let error = joined.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert_eq!(
        error.sentence(),
        "the server has no export \"tape\": there is no export \"tape\""
    );
}

#[test]
fn servers_that_do_not_speak_our_style_are_refused() {
    let answer = |bytes: &[u8]| {
        Joining::new("", true)
            .unwrap()
            .advance(&mut &bytes[..], &mut Vec::new())
    };
    assert!(matches!(answer(b"NBDMAGICIHAVEOP"), Ok(Progress::Wait)));
    let kind = |bytes: &[u8]| answer(bytes).unwrap_err().kind();
    assert_eq!(kind(b"SSH-2.0-OpenSSH_9.2p1"), ErrorKind::Corrupt);
    assert_eq!(
        kind(b"NBDMAGIC\0\0\x42\x02\x81\x86\x12\x53\0\0"),
        ErrorKind::Unsupported
    );
    assert_eq!(kind(b"NBDMAGICIHAVEOPT\0\0"), ErrorKind::Unsupported);
    assert_eq!(
        kind(b"NBDMAGICIHAVEOPT\0\x03 and then nonsense..."),
        ErrorKind::Corrupt
    );
}

#[test]
fn a_name_must_fit_the_protocol() {
    let kind = |name: &str| Joining::new(name, true).unwrap_err().kind();
    assert_eq!(kind(&"x".repeat(4097)), ErrorKind::Invalid);
    assert_eq!(kind("a\0b"), ErrorKind::Invalid);
}
