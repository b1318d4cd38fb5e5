//! The fuzz targets on the stable compiler: every file of the corpus, and bytes grown out of it from a seed.
//!
//! `WEFT_SEED=N` tries the inputs of that seed alone; `WEFT_SEEDS=N` tries N seeds instead of a few.

#[allow(unreachable_pub)] // To cargo-fuzz it is a library.
mod targets;

use std::panic::catch_unwind;
use std::path::Path;

use weft_tests::data::Sequence;
use weft_tests::repository;

/// Seeds tried when nobody asks for more.
const SEEDS: u64 = 4;

/// Inputs grown from each seed for each target.
const INPUTS: u64 = 1_000;

const LONGEST_INPUT: usize = 1 << 17;

/// Numbers that parsers trip over.
const EDGES: &[u64] = &[
    0,
    1,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    u64::MAX >> 1,
    u64::MAX,
];

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = repository().join("tests/fuzz/corpus").join(target);
    let mut files: Vec<_> = std::fs::read_dir(&folder)
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default();
    files.sort();
    files
        .iter()
        .map(|file| std::fs::read(file).expect("a corpus file can be read"))
        .collect()
}

/// Bytes like one of the corpus, changed in a few places; now and then bytes of no order at all.
fn grown(corpus: &[Vec<u8>], sequence: &mut Sequence) -> Vec<u8> {
    let pick = |sequence: &mut Sequence, len: usize| sequence.below(len.max(1) as u64) as usize;
    if corpus.is_empty() || sequence.below(16) == 0 {
        let len = pick(sequence, 5000);
        return weft_tests::data::bytes(sequence.draw(), len);
    }
    let mut bytes = corpus[pick(sequence, corpus.len())].clone();
    for _ in 0..=sequence.below(6) {
        let at = pick(sequence, bytes.len());
        match sequence.below(7) {
            0 => bytes.truncate(at),
            1 if at < bytes.len() => bytes[at] ^= 1 << sequence.below(8),
            2 if at < bytes.len() => bytes[at] = sequence.draw() as u8,
            3 => put_edge(&mut bytes, at, sequence),
            4 => {
                let other = &corpus[pick(sequence, corpus.len())];
                let from = pick(sequence, other.len());
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
            5 => {
                let end = (at + pick(sequence, 64)).min(bytes.len());
                let part = bytes[at.min(end)..end].to_vec();
                bytes.splice(at..at, part);
            }
            _ => {
                let end = (at + pick(sequence, 16)).min(bytes.len());
                bytes.drain(at.min(end)..end);
            }
        }
    }
    bytes.truncate(LONGEST_INPUT);
    bytes
}

fn put_edge(bytes: &mut [u8], at: usize, sequence: &mut Sequence) {
    let edge = EDGES[sequence.below(EDGES.len() as u64) as usize];
    let width = 1 << sequence.below(4);
    let encoded = if sequence.below(2) == 0 {
        edge.to_le_bytes()
    } else {
        edge.swap_bytes().to_le_bytes()
    };
    let encoded = if sequence.below(2) == 0 {
        &encoded[..width]
    } else {
        &encoded[8 - width..]
    };
    if let Some(place) = bytes.get_mut(at..at + width) {
        place.copy_from_slice(encoded);
    }
}

fn try_input(name: &str, origin: &str, bytes: &[u8]) {
    if catch_unwind(|| targets::run(name, bytes)).is_ok() {
        return;
    }
    let folder = repository().join("target/fuzz-failures");
    let file = folder.join(name);
    let saved = std::fs::create_dir_all(&folder).and_then(|()| std::fs::write(&file, bytes));
    let place = saved.map_or_else(|error| error.to_string(), |()| file.display().to_string());
    panic!(
        "target {name} fails on {origin} (input: {place}); put it into tests/fuzz/corpus/{name} once it is mended"
    );
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|text| text.parse().expect("a seed is a number"))
}

#[test]
fn no_input_makes_a_target_panic() {
    let seeds = match variable("WEFT_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..variable("WEFT_SEEDS").unwrap_or(SEEDS),
    };
    for (name, _) in targets::TARGETS {
        let corpus = corpus(name);
        try_input(name, "no bytes", &[]);
        for (number, bytes) in corpus.iter().enumerate() {
            try_input(name, &format!("corpus file {number}"), bytes);
        }
        for seed in seeds.clone() {
            let mut sequence = Sequence::new(seed);
            for number in 0..INPUTS {
                let bytes = grown(&corpus, &mut sequence);
                try_input(name, &format!("input {number} of WEFT_SEED={seed}"), &bytes);
            }
        }
    }
}

#[test]
fn each_target_has_its_program_and_a_corpus() {
    let folder = repository().join("tests/fuzz");
    let programs = std::fs::read_dir(folder.join("fuzz_targets")).expect("the folder is there");
    let mut programs: Vec<String> = programs
        .flatten()
        .filter_map(|entry| {
            Some(
                Path::new(&entry.file_name())
                    .file_stem()?
                    .to_str()?
                    .to_owned(),
            )
        })
        .collect();
    programs.sort();
    let mut named: Vec<&str> = targets::TARGETS.iter().map(|(name, _)| *name).collect();
    named.sort_unstable();
    assert_eq!(programs, named);
    let bare: Vec<_> = named
        .iter()
        .filter(|name| corpus(name).is_empty())
        .collect();
    assert!(bare.is_empty(), "no corpus for {bare:?}");
}
