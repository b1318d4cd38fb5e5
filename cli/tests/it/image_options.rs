//! Every option with which QEMU makes an image: what it makes we read, write and check, and the reverse.

use std::collections::BTreeSet;

use weft_tests::require;

use crate::qemu_img::Bench;

/// Options of QEMU's list with values to try; each line is one image. One that is tried elsewhere says where.
const TRIED: &[(&str, &[&str])] = &[
    ("backing_file", &["backing_file=base,backing_fmt=qcow2"]),
    ("backing_fmt", &["backing_file=base.raw,backing_fmt=raw"]),
    (
        "cluster_size",
        &["cluster_size=512", "cluster_size=4k", "cluster_size=2M"],
    ),
    (
        "compat",
        &["compat=0.10", "compat=1.1", "compat=v2", "compat=v3"],
    ),
    (
        "compression_type",
        &["compression_type=zlib", "compression_type=zstd"],
    ),
    ("data_file", &["data_file=data"]),
    ("data_file_raw", &["data_file=data,data_file_raw=on"]),
    ("encrypt.format", &[LUKS]),
    ("encrypt.key-secret", &[]),
    ("encrypt.iter-time", &[]),
    (
        "encrypt.cipher-alg",
        &["cipher-alg=aes-128", "cipher-alg=twofish-256"],
    ),
    (
        "encrypt.cipher-mode",
        &["cipher-mode=cbc,encrypt.ivgen-alg=plain"],
    ),
    ("encrypt.hash-alg", &["hash-alg=sha512"]),
    ("encrypt.ivgen-alg", &["ivgen-alg=plain"]),
    (
        "encrypt.ivgen-hash-alg",
        &["ivgen-alg=essiv,encrypt.ivgen-hash-alg=sha256,encrypt.cipher-mode=cbc"],
    ),
    (
        "extended_l2",
        &["extended_l2=on", "extended_l2=on,cluster_size=2M"],
    ),
    ("lazy_refcounts", &["lazy_refcounts=on"]),
    (
        "preallocation",
        &[
            "preallocation=metadata",
            "preallocation=falloc",
            "preallocation=full",
        ],
    ),
    (
        "refcount_bits",
        &[
            "refcount_bits=1",
            "refcount_bits=2",
            "refcount_bits=4",
            "refcount_bits=8",
            "refcount_bits=32",
            "refcount_bits=64",
        ],
    ),
    ("size", &["size=3M"]),
];

/// Options that weft does without, and why.
const NOT_DONE: &[&str] = &[
    // QEMU's first encryption is broken, and QEMU itself makes no image with it outside its own tests.
    "encryption",
];

/// What every encrypted image here is made with; QEMU measures itself for so many milliseconds.
const LUKS: &str = "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10";
const SECRET: &str = "secret,id=s,file=key";

/// How often QEMU is asked again when it has measured nothing.
const ATTEMPTS: usize = 300;

fn bench(options: &str) -> Bench {
    let bench = Bench::new();
    std::fs::write(bench.path("key"), "one").unwrap();
    if !options.contains("backing") {
        return bench;
    }
    bench.ok("qemu-img", &["create", "-q", "-f", "qcow2", "base", "2M"]);
    bench.io("base", &["write -P 9 512k 1M"]);
    bench.ok("qemu-img", &["convert", "-O", "raw", "base", "base.raw"]);
    bench
}

/// The options that a program says it has.
fn offered(bench: &Bench, program: &str) -> BTreeSet<String> {
    let output = bench.run(program, &["create", "-f", "qcow2", "-o", "help"]);
    let text = String::from_utf8(output.stdout).unwrap();
    let names = text.lines().filter_map(|line| line.split_once("=<"));
    names.map(|(name, _)| name.trim().to_owned()).collect()
}

#[test]
fn every_option_of_qemu_is_tried_or_named() {
    require!("qemu-img");
    let bench = Bench::new();
    let tried = TRIED.iter().map(|(name, _)| (*name).to_owned());
    let tried: BTreeSet<String> = tried.collect();
    let mut known = tried.clone();
    known.extend(NOT_DONE.iter().map(|name| (*name).to_owned()));
    assert_eq!(offered(&bench, "qemu-img"), known);
    assert_eq!(offered(&bench, "./weft-qemu-img"), tried);
}

#[test]
fn what_qemu_makes_goes_both_ways() {
    require!("qemu-img", "qemu-io");
    all_go_both_ways("qemu-img");
}

#[test]
fn what_we_make_goes_both_ways() {
    require!("qemu-img", "qemu-io");
    all_go_both_ways("./weft-qemu-img");
}

fn all_go_both_ways(maker: &str) {
    for (name, values) in TRIED {
        for value in *values {
            let options = match name.strip_prefix("encrypt.") {
                Some("format") => LUKS.to_owned(),
                Some(_) => format!("{LUKS},encrypt.{value}"),
                None => (*value).to_owned(),
            };
            goes_both_ways(maker, &options);
        }
    }
}

/// Makes an image and lets both programs write to it in turns; both read the same then, and find nothing wrong.
#[track_caller]
fn goes_both_ways(maker: &str, options: &str) {
    let bench = bench(options);
    make(&bench, maker, options);
    let encrypted = options.contains("encrypt.");
    let image = match encrypted {
        true => "driver=qcow2,encrypt.key-secret=s,file.filename=new",
        false => "driver=qcow2,file.filename=new",
    };
    let words = |words: &[&'static str]| {
        let mut all = vec![words[0]];
        if encrypted {
            all.extend(["--object", SECRET]);
        }
        all.push("--image-opts");
        all.extend(&words[1..]);
        all
    };
    let io = |command: &'static str| {
        let all = words(&["-c", command, image]);
        // The first word there is an option, not a command.
        let all = [&all[1..all.len() - 2], &["-c", command, image]].concat();
        bench.ok("qemu-io", &all);
    };
    io("write -P 1 100k 300k");
    // Ours writes by copying a disk into the image that is there.
    let read = |program: &str, out: &'static str| {
        let convert = words(&["convert", "-O", "raw", image, out]);
        let convert = match encrypted {
            true => [&convert[..3], &["--image-opts", "-O", "raw", image, out]].concat(),
            false => convert,
        };
        bench.ok(program, &convert);
    };
    read("qemu-img", "disk");
    let mut disk = std::fs::read(bench.path("disk")).unwrap();
    disk[700 << 10..900 << 10].fill(2);
    disk[150 << 10..200 << 10].fill(0);
    std::fs::write(bench.path("disk"), &disk).unwrap();
    let mut copy = vec!["convert", "-n", "-f", "raw", "--target-image-opts"];
    if encrypted {
        copy.extend(["--object", SECRET]);
    }
    copy.extend(["disk", image]);
    bench.ok("./weft-qemu-img", &copy);
    io("write -z 800k 64k");
    io("write -P 3 1M 100k");
    read("qemu-img", "theirs");
    read("./weft-qemu-img", "ours");
    let (ours, theirs) = (bench.path("ours"), bench.path("theirs"));
    let same = std::fs::read(ours).unwrap() == std::fs::read(theirs).unwrap();
    assert!(same, "{maker}, {options}: the disks differ");
    for program in ["qemu-img", "./weft-qemu-img"] {
        bench.ok(program, &words(&["check", image]));
    }
}

/// Lets a program make the image; QEMU is asked again while it fails to measure itself.
#[track_caller]
fn make(bench: &Bench, maker: &str, options: &str) {
    let mut create = vec!["create", "-q", "-f", "qcow2", "-o", options];
    if options.contains("encrypt.") {
        create.extend(["--object", SECRET]);
    }
    create.push("new");
    if !options.contains("size=3M") {
        create.push("4M");
    }
    for _ in 0..ATTEMPTS {
        let output = bench.run(maker, &create);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() {
            return;
        }
        assert!(
            said.contains("accurate CPU usage"),
            "{maker} {options}: {said}"
        );
    }
    panic!("{maker} could not measure in {ATTEMPTS} attempts");
}
