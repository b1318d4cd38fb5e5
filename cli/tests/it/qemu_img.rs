//! `weft-qemu-img` beside the program whose words it understands: the same lines, the same answers, the same images.

use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;
use weft_tests::require;

/// A folder with images, and both programs.
pub(crate) struct Bench {
    folder: TempDir,
}

/// What a program answered: its output and its status.
#[derive(Debug, PartialEq)]
pub(crate) struct Answer {
    pub(crate) output: String,
    pub(crate) status: Option<i32>,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("weft-qemu-img");
        symlink(env!("CARGO_BIN_EXE_weft"), link).unwrap();
        Self { folder }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn run(&self, program: &str, words: &[&str]) -> Output {
        let mut command = Command::new(program);
        command.args(words).current_dir(self.folder.path());
        command.env("TZ", "UTC").output().unwrap()
    }

    /// QEMU's answer.
    pub(crate) fn qemu(&self, words: &[&str]) -> Answer {
        answer(&self.run("qemu-img", words))
    }

    /// Ours.
    pub(crate) fn weft(&self, words: &[&str]) -> Answer {
        answer(&self.run("./weft-qemu-img", words))
    }

    /// Runs a program that must succeed.
    #[track_caller]
    pub(crate) fn ok(&self, program: &str, words: &[&str]) {
        let output = self.run(program, words);
        let said = String::from_utf8_lossy(&[output.stderr, output.stdout].concat()).into_owned();
        assert!(output.status.success(), "{program} {words:?}: {said}");
    }

    #[track_caller]
    pub(crate) fn io(&self, image: &str, commands: &[&str]) {
        let mut words = Vec::new();
        for command in commands {
            words.extend(["-c", command]);
        }
        words.push(image);
        self.ok("qemu-io", &words);
    }

    /// Both programs answer the same.
    #[track_caller]
    pub(crate) fn same(&self, words: &[&str]) {
        assert_eq!(self.weft(words), self.qemu(words), "{words:?}");
    }

    /// Both programs answer the same document.
    #[track_caller]
    pub(crate) fn same_json(&self, words: &[&str]) {
        let with_json = [&words[..1], &["--output=json"], &words[1..]].concat();
        let (ours, theirs) = (self.weft(&with_json), self.qemu(&with_json));
        assert_eq!(ours.status, theirs.status, "{words:?}");
        let parse = |answer: &Answer| serde_json::from_str::<Value>(&answer.output).unwrap();
        assert_eq!(parse(&ours), parse(&theirs), "{words:?}");
    }

    /// A folder with images of many kinds, made by QEMU.
    pub(crate) fn with_images() -> Self {
        let bench = Self::new();
        bench.make_images();
        bench
    }

    /// Another folder with the same files.
    pub(crate) fn copied(&self) -> Self {
        let bench = Self::new();
        let (from, to) = (self.path("."), bench.path("."));
        let (from, to) = (from.to_str().unwrap(), to.to_str().unwrap());
        bench.ok("cp", &["-a", "--sparse=always", from, to]);
        bench
    }

    fn make_images(&self) {
        let create = |words: &[&str]| {
            let words = [&["create", "-q", "-f", "qcow2"], words].concat();
            self.ok("qemu-img", &words);
        };
        create(&["base", "100M"]);
        let base = ["write -P 1 0 1M", "write -z 2M 128k", "write -P 3 50M 4k"];
        self.io("base", &base);
        self.ok("qemu-img", &["snapshot", "-c", "one", "base"]);
        self.ok("qemu-img", &["bitmap", "--add", "base", "changes"]);
        create(&["-b", "base", "-F", "qcow2", "top"]);
        self.io("top", &["write -P 2 512k 64k", "write -z 0 64k"]);
        create(&["-b", "base", "-F", "qcow2", "longer", "120M"]);
        create(&["-o", "compat=0.10", "old", "10M"]);
        create(&["-o", "extended_l2=on,cluster_size=128k", "parts", "10M"]);
        self.io("parts", &["write -P 1 4k 8k", "write -z 64k 4k"]);
        create(&["-o", "cluster_size=512,refcount_bits=64", "small", "10M"]);
        self.io("small", &["write -P 1 1M 100k", "write -P 1 8M 100k"]);
        create(&["-o", "data_file=data,lazy_refcounts=on", "apart", "1M"]);
        self.io("apart", &["write -P 1 0 128k"]);
        create(&["-o", "preallocation=metadata", "taken", "1M"]);
        let compress = [
            "convert",
            "-c",
            "-O",
            "qcow2",
            "-o",
            "compression_type=zstd",
        ];
        self.ok("qemu-img", &[&compress[..], &["top", "short"]].concat());
        self.ok("qemu-img", &["convert", "-O", "raw", "top", "raw"]);
    }
}

const IMAGES: &[&str] = &[
    "base", "top", "longer", "old", "parts", "small", "apart", "short", "raw",
];

fn answer(output: &Output) -> Answer {
    Answer {
        output: String::from_utf8_lossy(&output.stdout).into_owned(),
        status: output.status.code(),
    }
}

#[test]
fn what_is_told_of_an_image_is_the_same() {
    require!("qemu-img", "qemu-io");
    let bench = Bench::with_images();
    for image in IMAGES {
        for command in ["info", "check", "map"] {
            bench.same(&[command, image]);
            if (command, *image) != ("check", "raw") {
                bench.same_json(&[command, image]);
            }
        }
        for format in ["raw", "qcow2"] {
            bench.same(&["measure", "-O", format, image]);
            bench.same_json(&["measure", "-O", format, image]);
        }
        bench.same(&["snapshot", "-l", image]);
    }
    bench.same(&["info", "--backing-chain", "top"]);
    bench.same_json(&["info", "--backing-chain", "longer"]);
    bench.same_json(&["map", "-s", "600k", "-l", "1M", "top"]);
    bench.same_json(&[
        "measure",
        "--size",
        "1T",
        "-O",
        "qcow2",
        "-o",
        "cluster_size=4k",
    ]);
    bench.same(&["measure", "-l", "one", "-O", "qcow2", "base"]);
}

#[test]
fn comparisons_and_their_statuses_are_the_same() {
    require!("qemu-img", "qemu-io");
    let bench = Bench::with_images();
    for one in IMAGES {
        for other in IMAGES {
            bench.same(&["compare", one, other]);
            // Which part it tells first depends on where its search stops.
            let strict = ["compare", "-s", one, other];
            let status = |answer: Answer| answer.status;
            assert_eq!(
                status(bench.weft(&strict)),
                status(bench.qemu(&strict)),
                "{strict:?}"
            );
        }
    }
    bench.same(&["compare", "-q", "top", "base"]);
    bench.same(&["compare", "top", "none"]);
    for wrong in [
        &["info", "none"][..],
        &["info"],
        &["juggle"],
        &["info", "-f", "foo", "top"],
        &["resize", "top", "12Q"],
        &["resize", "top", "1M"],
        &["snapshot", "-d", "none", "base"],
        &["rebase", "top"],
        &["create", "-f", "qcow2", "new"],
        &["create", "-f", "qcow2", "-b", "base", "new"],
        &["create", "-f", "qcow2", "-o", "bogus=1", "new", "1M"],
        &["convert", "-n", "-O", "qcow2", "top", "none"],
    ] {
        assert_eq!(
            bench.weft(wrong).status,
            bench.qemu(wrong).status,
            "{wrong:?}"
        );
        assert!(!bench.path("new").exists(), "{wrong:?}");
    }
}

/// Each group of lines is said to both programs about images that are alike; then they are alike again.
#[track_caller]
pub(crate) fn is_the_same(groups: &[&[&[&str]]]) {
    let made = Bench::with_images();
    for lines in groups {
        let (ours, theirs) = (made.copied(), made.copied());
        for line in *lines {
            assert_eq!(ours.weft(line), theirs.qemu(line), "{line:?}");
        }
        are_alike(&ours, &theirs, lines);
    }
}

#[test]
fn what_is_done_to_an_image_is_the_same() {
    require!("qemu-img", "qemu-io");
    is_the_same(&[
        &[
            &["resize", "top", "+1M"],
            &["resize", "-q", "--shrink", "top", "40M"],
        ],
        &[
            &["snapshot", "-c", "two", "base"],
            &["snapshot", "-d", "one", "base"],
        ],
        &[
            &["bitmap", "--remove", "base", "changes"],
            &["snapshot", "-a", "one", "base"],
        ],
        &[&["commit", "top"]],
        &[&["commit", "-d", "top"]],
        &[&["commit", "longer"]],
        &[&["rebase", "-b", "", "top"]],
        &[&["rebase", "-b", "parts", "-F", "qcow2", "top"]],
        &[&["rebase", "-u", "-b", "raw", "-F", "raw", "top"]],
        &[&["rebase", "-u", "-b", "", "top"]],
        &[
            &["bitmap", "--add", "-g", "32k", "base", "more"],
            &["bitmap", "--merge", "changes", "base", "more"],
            &["bitmap", "--disable", "base", "changes"],
        ],
        &[&["bitmap", "--remove", "base", "changes"]],
        &[
            &["bitmap", "--add", "--disable", "top", "still"],
            &["bitmap", "--enable", "top", "still"],
        ],
        &[&[
            "bitmap", "--add", "--merge", "changes", "-b", "base", "-F", "qcow2", "top", "new",
        ]],
    ]);
}

#[test]
fn what_is_made_is_the_same() {
    require!("qemu-img", "qemu-io");
    is_the_same(&[
        &[
            &["convert", "-O", "qcow2", "top", "new"],
            &["convert", "-f", "qcow2", "new", "new2"],
        ],
        &[&["convert", "-l", "one", "-O", "qcow2", "base", "new"]],
        &[&["convert", "-n", "-f", "raw", "-O", "qcow2", "raw", "longer"]],
        &[&[
            "convert", "-O", "qcow2", "-B", "base", "-F", "qcow2", "top", "new",
        ]],
        &[&["convert", "-S", "0", "-O", "raw", "parts", "new"]],
        &[&[
            "convert",
            "-O",
            "qcow2",
            "-o",
            "data_file=new.data",
            "top",
            "new",
        ]],
        &[&["convert", "-c", "-O", "qcow2", "top", "new"]],
        &[&[
            "convert",
            "-c",
            "-O",
            "qcow2",
            "-o",
            "compression_type=zstd",
            "raw",
            "new",
        ]],
        &[&[
            "create",
            "-f",
            "qcow2",
            "-o",
            "cluster_size=4k,extended_l2=off",
            "new",
            "1G",
        ]],
        &[&["create", "-f", "qcow2", "-b", "top", "-F", "qcow2", "new"]],
        &[&[
            "create", "-f", "qcow2", "-F", "raw", "-u", "-b", "nowhere", "new", "1M",
        ]],
        &[&["create", "new", "1M"]],
        &[&["create", "-f", "qcow2", "parts", "1M"]],
    ]);
}

/// The disks of both are the same, and QEMU finds nothing wrong with ours.
#[track_caller]
fn are_alike(ours: &Bench, theirs: &Bench, lines: &[&[&str]]) {
    for image in IMAGES.iter().copied().chain(["new", "new2"]) {
        assert_eq!(
            ours.path(image).exists(),
            theirs.path(image).exists(),
            "{lines:?}: {image}"
        );
        if !ours.path(image).exists() {
            continue;
        }
        let info = |bench: &Bench| {
            let info = bench.qemu(&["info", "--output=json", image]).output;
            let mut info: Value = serde_json::from_str(&info).unwrap();
            info.as_object_mut().unwrap().remove("actual-size");
            for snapshot in info["snapshots"].as_array_mut().into_iter().flatten() {
                // What was not counted is zero there and nothing here.
                let later = |key: &str| key.starts_with("date") || key == "icount";
                snapshot
                    .as_object_mut()
                    .unwrap()
                    .retain(|key, _| !later(key));
            }
            info
        };
        assert_eq!(info(ours), info(theirs), "{lines:?}: {image}");
        if info(ours)["backing-filename"] == "nowhere" {
            continue;
        }
        let other = theirs.path(image);
        let same = ours.qemu(&["compare", image, other.to_str().unwrap()]);
        assert_eq!(same.status, Some(0), "{lines:?}: {image}: {same:?}");
        if info(ours)["format"] == "qcow2" {
            let checked = ours.qemu(&["check", image]);
            assert_eq!(checked.status, Some(0), "{lines:?}: {image}: {checked:?}");
        }
    }
}

#[test]
fn a_broken_image_has_the_same_status_and_is_mended() {
    require!("qemu-img", "qemu-io");
    let bench = Bench::new();
    bench.ok("qemu-img", &["create", "-q", "-f", "qcow2", "a", "10M"]);
    bench.io("a", &["write -P 1 0 1M"]);
    let whole = std::fs::read(bench.path("a")).unwrap();
    let word = |at: usize| u64::from_be_bytes(whole[at..at + 8].try_into().unwrap()) as usize;
    let block = word(word(48));
    // A cluster that nobody uses, a refcount too high for what its entry says, one too low, and all of them.
    for (places, status) in [
        (&[(40, 1)][..], 3),
        (&[(6, 2)], 2),
        (&[(6, 0)], 2),
        (&[(6, 2), (7, 0), (40, 1)], 2),
    ] {
        let mut broken = whole.clone();
        for &(cluster, count) in places {
            let end = (cluster + 1) << 16;
            broken.resize(broken.len().max(end), 0);
            broken[block + cluster * 2 + 1] = count;
        }
        std::fs::write(bench.path("a"), &broken).unwrap();
        let (ours, theirs) = (bench.weft(&["check", "a"]), bench.qemu(&["check", "a"]));
        assert_eq!(
            (ours.status, theirs.status),
            (Some(status), Some(status)),
            "{places:?}"
        );
        assert_eq!(
            bench.weft(&["check", "-q", "-r", "all", "a"]).status,
            Some(0),
            "{places:?}"
        );
        assert_eq!(bench.qemu(&["check", "a"]).status, Some(0), "{places:?}");
        bench.io("a", &["read -P 1 0 1M"]);
    }
}

#[test]
fn the_name_alone_makes_the_program_another() {
    let bench = Bench::new();
    let version = bench.weft(&["--version"]).output;
    assert!(version.starts_with("qemu-img version "), "{version}");
    assert_eq!(bench.weft(&["--help"]).status, Some(0));
}
