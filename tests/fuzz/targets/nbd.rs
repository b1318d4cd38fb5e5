//! Both ends of an NBD connection, with bytes of a hostile peer.

use weft_export::nbd::session::{
    Agreed, Answer, Answers, Catalogue, Event, ExportFacts, Joining, Negotiation, Progress,
    Requests, Step,
};

struct OneExport;

fn facts() -> ExportFacts {
    ExportFacts {
        name: "disk".into(),
        description: "a disk".into(),
        size: 1 << 20,
        min_block: 512,
        preferred_block: 4096,
        read_only: false,
        trim: true,
    }
}

impl Catalogue for OneExport {
    fn find(&self, name: &str) -> Option<ExportFacts> {
        (name.is_empty() || name == "disk").then(facts)
    }

    fn list(&self) -> Vec<(String, String)> {
        vec![("disk".into(), "a disk".into())]
    }
}

/// The most that a server may have to say at once: its answers to an option are short.
const LONGEST_ANSWER: usize = 64 << 10;

pub(super) fn server(bytes: &[u8]) {
    let mut out = Vec::new();
    let mut negotiation = Negotiation::new(&mut out);
    let mut input = bytes;
    loop {
        out.clear();
        let before = input.len();
        match negotiation.advance(&mut input, &OneExport, &mut out) {
            Step::Answered => assert!(out.len() <= LONGEST_ANSWER),
            Step::Enter(agreed) => return transmission(&agreed, input),
            Step::Wait if input.len() == before => break,
            Step::Wait => {}
            Step::Close(_) => break,
        }
    }
    // Without a handshake in the way, every byte reaches the requests.
    for structured in [false, true] {
        let agreed = Agreed {
            export: facts(),
            structured,
            allocation: structured,
        };
        transmission(&agreed, bytes);
    }
}

fn transmission(agreed: &Agreed, mut input: &[u8]) {
    let mut requests = Requests::new(agreed);
    loop {
        match requests.next(&mut input) {
            Event::Wait | Event::Disconnect | Event::Broken(_) => return,
            Event::Refuse(refusal) => assert!(!refusal.why.is_empty()),
            Event::Do(command) => {
                let end = command.offset.checked_add(u64::from(command.len));
                assert!(
                    end.is_some_and(|end| end <= agreed.export.size),
                    "{command:?}"
                );
                if matches!(
                    command.action,
                    weft_export::nbd::session::Action::Write { .. }
                ) {
                    let Some(rest) = input.get(command.len as usize..) else {
                        return;
                    };
                    input = rest;
                }
            }
        }
    }
}

pub(super) fn client(bytes: &[u8]) {
    let mut joining = Joining::new("disk", true).expect("a short name is taken");
    let mut input = bytes;
    let mut out = Vec::new();
    loop {
        let before = input.len();
        out.clear();
        match joining.advance(&mut input, &mut out) {
            Err(error) => {
                let _ = error.sentence();
                break;
            }
            Ok(Progress::Done(joined)) => return answers(joined.structured, input),
            Ok(Progress::Wait) if input.len() == before => break,
            Ok(Progress::Wait) => {}
        }
    }
    answers(false, bytes);
    answers(true, bytes);
}

fn answers(structured: bool, mut input: &[u8]) {
    let mut answers = Answers::new(structured);
    loop {
        let before = input.len();
        match answers.next(&mut input) {
            Answer::Wait | Answer::Broken(_) => return,
            _ => assert!(input.len() < before, "an answer takes bytes"),
        }
    }
}
