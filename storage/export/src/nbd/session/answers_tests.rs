//! What our server writes is what our client reads, and nonsense is told from it.

use proptest::prelude::*;

use super::*;
use crate::nbd::session::Replies;

fn read(structured: bool, bytes: &[u8]) -> Vec<Answer> {
    let mut answers = Answers::new(structured);
    let mut input = bytes;
    let mut all = Vec::new();
    loop {
        match answers.next(&mut input) {
            Answer::Wait => break,
            Answer::Data {
                cookie,
                offset,
                len,
                last,
            } => {
                input = &input[len as usize..];
                all.push(Answer::Data {
                    cookie,
                    offset,
                    len,
                    last,
                });
            }
            answer => all.push(answer),
        }
    }
    assert!(input.is_empty());
    all
}

#[test]
fn chunks_come_back() {
    let replies = Replies::new(true);
    let mut out = Vec::new();
    replies.data(&mut out, 1, 4096, 3, false);
    out.extend_from_slice(b"abc");
    replies.hole(&mut out, 1, 8192, 512, true);
    replies.block_status(&mut out, 2, &[(512, 0), (1024, 3)]);
    replies.error(&mut out, 3, Errno::Io, "the medium failed");
    replies.end_of_read(&mut out, 4);
    replies.done(&mut out, 5);
    assert_eq!(
        read(true, &out),
        [
            Answer::Data {
                cookie: 1,
                offset: 4096,
                len: 3,
                last: false
            },
            Answer::Hole {
                cookie: 1,
                offset: 8192,
                len: 512,
                last: true
            },
            Answer::Status {
                cookie: 2,
                context: 1,
                extents: vec![(512, 0), (1024, 3)],
                last: true
            },
            Answer::Error {
                cookie: 3,
                errno: Errno::Io,
                message: "the medium failed".into(),
                last: true
            },
            Answer::End { cookie: 4 },
            Answer::Simple {
                cookie: 5,
                error: None
            },
        ]
    );
}

#[test]
fn simple_replies_come_back() {
    let replies = Replies::new(false);
    let mut out = Vec::new();
    replies.done(&mut out, 1);
    replies.error(&mut out, 2, Errno::Perm, "not told");
    replies.end_of_read(&mut out, 3);
    let simple = |cookie, error| Answer::Simple { cookie, error };
    assert_eq!(
        read(false, &out),
        [
            simple(1, None),
            simple(2, Some(Errno::Perm)),
            simple(3, None)
        ]
    );
}

#[test]
fn a_long_message_is_cut_at_a_character() {
    let mut out = Vec::new();
    Replies::new(true).error(&mut out, 1, Errno::Io, &"ä".repeat(4000));
    let [Answer::Error { message, .. }] = &read(true, &out)[..] else {
        panic!("one error");
    };
    assert!(message.len() <= 512 && message.chars().all(|letter| letter == 'ä'));
}

#[test]
fn chunks_were_not_agreed_on() {
    let mut out = Vec::new();
    Replies::new(true).end_of_read(&mut out, 1);
    let answer = Answers::new(false).next(&mut &out[..]);
    assert!(matches!(answer, Answer::Broken(_)));
}

proptest! {
    #[test]
    fn no_bytes_break_a_client(kind in 0u16..8, error in any::<bool>(), len in 0u32..64, payload in prop::collection::vec(any::<u8>(), 64)) {
        let code = if error { kind | ChunkKind::ERROR } else { kind };
        let mut bytes = Chunk { flags: 1, code, cookie: 1, len }.encode().to_vec();
        bytes.extend_from_slice(&payload);
        for end in 0..bytes.len() {
            let mut input = &bytes[..end];
            let answer = Answers::new(true).next(&mut input);
            if answer == Answer::Wait {
                prop_assert_eq!(input.len(), end);
            }
        }
    }
}
