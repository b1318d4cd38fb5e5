//! Room that is taken in advance, as QEMU's program takes it.

use std::os::unix::fs::MetadataExt;

use weft_tests::require;

use crate::qemu_img::Bench;

/// Bytes that a file takes of its file system.
fn used(bench: &Bench, name: &str) -> u64 {
    std::fs::metadata(bench.path(name)).unwrap().blocks() * 512
}

/// An image made by each program with the same words: both are the same to QEMU, in size, check, map and contents.
#[track_caller]
fn is_the_same(lines: &[&[&str]]) {
    let (ours, theirs) = (Bench::new(), Bench::new());
    for bench in [&ours, &theirs] {
        bench.ok("qemu-img", &["create", "-q", "-f", "raw", "raw", "1M"]);
        bench.ok(
            "qemu-io",
            &["-f", "raw", "-c", "write -P 5 64k 128k", "raw"],
        );
        bench.ok("qemu-img", &["create", "-q", "-f", "qcow2", "base", "3M"]);
        bench.io("base", &["write -P 6 0 2M"]);
    }
    for line in lines {
        assert_eq!(ours.weft(line), theirs.qemu(line), "{line:?}");
    }
    let other = theirs.path("new");
    let other = other.to_str().unwrap();
    // QEMU takes the first block of a raw file whatever is asked for.
    let raw = lines[0].contains(&"raw") && lines[0][0] == "create";
    // Ours takes free clusters between others first, and a strict comparison tells where a run of clusters ends.
    let compare: &[&str] = if lines.len() > 1 {
        &["compare"]
    } else if raw {
        &["compare", "-f", "raw", "-F", "raw"]
    } else {
        &["compare", "-s"]
    };
    let same = ours.qemu(&[compare, &["new", other]].concat());
    assert_eq!(same.status, Some(0), "{lines:?}: {same:?}");
    let told = |bench: &Bench| {
        let map = bench.qemu(&["map", "--output=json", "new"]).output;
        let check = bench.qemu(&["check", "new"]);
        (kinds(&map), check.status, allocated(&check.output))
    };
    if !raw {
        assert_eq!(told(&ours), told(&theirs), "{lines:?}");
    }
    // The tables are elsewhere, and may be some clusters more or less.
    let (ours, theirs) = (used(&ours, "new"), used(&theirs, "new"));
    assert!(
        ours.abs_diff(theirs) <= 512 << 10,
        "{lines:?}: {ours}, {theirs}"
    );
}

/// The parts of a map without their places.
fn kinds(map: &str) -> Vec<(u64, u64, bool, bool, bool)> {
    let parts: Vec<serde_json::Value> = serde_json::from_str(map).unwrap();
    let mut kinds: Vec<(u64, u64, bool, bool, bool)> = Vec::new();
    for part in &parts {
        let number = |key: &str| part[key].as_u64().unwrap();
        let flag = |key: &str| part[key].as_bool().unwrap();
        let (start, end) = (number("start"), number("start") + number("length"));
        let flags = (flag("present"), flag("zero"), flag("data"));
        match kinds.last_mut() {
            Some(last) if (last.2, last.3, last.4) == flags => last.1 = end,
            _ => kinds.push((start, end, flags.0, flags.1, flags.2)),
        }
    }
    kinds
}

/// What a check tells of clusters, without how they lie.
fn allocated(text: &str) -> Option<String> {
    let line = text.lines().find(|line| line.contains("allocated"))?;
    line.split(',').next().map(str::to_owned)
}

#[test]
fn room_is_taken_as_qemu_takes_it() {
    require!("qemu-img", "qemu-io");
    for mode in ["off", "metadata", "falloc", "full"] {
        for more in [
            "",
            "extended_l2=on",
            "cluster_size=4k",
            "compat=0.10",
            "data_file=data",
            "data_file=data,data_file_raw=on",
        ] {
            let options = format!("preallocation={mode},{more}");
            let options = options.trim_end_matches(',');
            is_the_same(&[&["create", "-f", "qcow2", "-o", options, "new", "5M"]]);
        }
        let option = format!("preallocation={mode}");
        is_the_same(&[&["convert", "-O", "qcow2", "-o", &option, "raw", "new"]]);
        if mode != "metadata" {
            is_the_same(&[&["create", "-f", "raw", "-o", &option, "new", "5M"]]);
        }
        let resize = format!("--preallocation={mode}");
        let create = ["create", "-f", "qcow2", "new", "1M"];
        is_the_same(&[&create, &["resize", &resize, "new", "5M"]]);
    }
    let backed = "extended_l2=on,preallocation=metadata";
    is_the_same(&[&[
        "create", "-f", "qcow2", "-b", "base", "-F", "qcow2", "-o", backed, "new",
    ]]);
}

#[test]
fn what_cannot_be_taken_is_refused() {
    require!("qemu-img");
    let bench = Bench::new();
    bench.ok("qemu-img", &["create", "-q", "-f", "qcow2", "base", "1M"]);
    let backed = ["create", "-f", "qcow2", "-b", "base", "-F", "qcow2", "-o"];
    for (words, rest) in [
        (&backed[..], &["preallocation=metadata", "new"][..]),
        (
            &["create", "-f", "raw", "-o"],
            &["preallocation=metadata", "new", "1M"],
        ),
        (
            &["create", "-f", "qcow2", "-o"],
            &["preallocation=some", "new", "1M"],
        ),
    ] {
        let line = [words, rest].concat();
        assert_eq!(bench.weft(&line).status, Some(1), "{line:?}");
        assert_eq!(bench.qemu(&line).status, Some(1), "{line:?}");
        let _ = std::fs::remove_file(bench.path("new"));
    }
}

/// Room in an encrypted image reads as zeroes, not as what zeroes decrypt to.
#[test]
fn room_in_an_encrypted_image_reads_as_zeroes() {
    require!("qemu-img", "qemu-io");
    let bench = Bench::new();
    std::fs::write(bench.path("key"), "one").unwrap();
    let secret = "secret,id=s,file=key";
    for mode in ["metadata", "falloc", "full"] {
        let options = format!(
            "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10,preallocation={mode}"
        );
        let create = [
            "create", "-q", "--object", secret, "-f", "qcow2", "-o", &options,
        ];
        bench.ok("./weft-qemu-img", &[&create[..], &["new", "2M"]].concat());
        let image = "driver=qcow2,encrypt.key-secret=s,file.filename=new";
        let io = [
            "--object",
            secret,
            "--image-opts",
            "-c",
            "read -P 0 0 2M",
            image,
        ];
        let output = bench.run("qemu-io", &io);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success() && !said.contains("failed"),
            "{mode}: {said}"
        );
        bench.ok(
            "qemu-img",
            &["check", "-q", "--object", secret, "--image-opts", image],
        );
    }
}
