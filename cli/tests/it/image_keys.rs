//! Encrypted images on the command line: made, opened, copied, and their passphrases changed, beside QEMU's program.

use weft_tests::require;

use crate::program::Weft;
use crate::qemu_img::Bench;

/// How often QEMU is asked again when it has measured nothing: with short times its clock often tells it that none passed.
const ATTEMPTS: usize = 300;

const TOP: &str = "secret,id=top,file=top.key";
const BASE: &str = "secret,id=base,file=base.key";
const OTHER: &str = "secret,id=other,file=other.key";

/// A folder with three passphrases.
fn bench() -> Bench {
    let bench = Bench::new();
    for (file, passphrase) in [
        ("top.key", "one"),
        ("base.key", "two"),
        ("other.key", "three"),
    ] {
        std::fs::write(bench.path(file), passphrase).unwrap();
    }
    bench
}

fn image(key: &str, path: &str) -> String {
    format!("driver=qcow2,encrypt.key-secret={key},file.filename={path}")
}

fn encrypted(key: &str) -> String {
    format!("encrypt.format=luks,encrypt.key-secret={key},encrypt.iter-time=10")
}

/// Lets QEMU do what it measures itself for; what it answered.
#[track_caller]
fn qemu(bench: &Bench, words: &[&str]) -> String {
    for _ in 0..ATTEMPTS {
        let output = bench.run("qemu-img", words);
        if output.status.success() {
            return String::from_utf8_lossy(&output.stdout).into_owned();
        }
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("accurate CPU usage"), "{words:?}: {said}");
    }
    panic!("QEMU could not measure in {ATTEMPTS} attempts");
}

/// Runs commands of QEMU's on an encrypted image.
#[track_caller]
fn io(bench: &Bench, object: &str, image: &str, commands: &[&str]) {
    let mut words = vec!["--object", object, "--image-opts"];
    for command in commands {
        words.extend(["-c", command]);
    }
    words.push(image);
    bench.ok("qemu-io", &words);
}

#[track_caller]
fn fails(bench: &Bench, words: &[&str]) -> String {
    let output = bench.run("./weft-qemu-img", words);
    assert_eq!(output.status.code(), Some(1), "{words:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn what_we_encrypt_qemu_reads_and_the_reverse() {
    require!("qemu-img", "qemu-io");
    let bench = bench();
    let options = encrypted("top");
    let create = [
        "create", "-q", "--object", TOP, "-f", "qcow2", "-o", &options,
    ];
    bench.ok("./weft-qemu-img", &[&create[..], &["ours", "8M"]].concat());
    qemu(&bench, &[&create[..], &["theirs", "8M"]].concat());
    for path in ["ours", "theirs"] {
        bench.same(&["info", path]);
        bench.same_json(&["info", path]);
        let opened = image("top", path);
        io(
            &bench,
            TOP,
            &opened,
            &["write -P 7 1M 64k", "write -z 4M 64k"],
        );
        bench.ok(
            "qemu-img",
            &["check", "-q", "--object", TOP, "--image-opts", &opened],
        );
        bench.same_json(&["map", "--object", TOP, "--image-opts", &opened]);
        // Where the data is does not tell what it is.
        bench.same(&["map", "--object", TOP, "--image-opts", &opened]);
        let plain = format!("{path}.raw");
        let copy = [
            "convert",
            "-O",
            "raw",
            "--object",
            TOP,
            "--image-opts",
            &opened,
            &plain,
        ];
        bench.ok("./weft-qemu-img", &copy);
        let bytes = std::fs::read(bench.path(&plain)).unwrap();
        assert!(bytes[1 << 20..][..64 << 10].iter().all(|byte| *byte == 7));
        assert!(bytes[..1 << 20].iter().all(|byte| *byte == 0));

        let wrong = image("base", path);
        let said = fails(
            &bench,
            &["convert", "--object", BASE, "--image-opts", &wrong, "none"],
        );
        assert!(said.contains("the key is wrong"), "{said}");
        let said = fails(&bench, &["convert", path, "none"]);
        assert!(said.contains("no key was given"), "{said}");
        assert!(!bench.path("none").exists());
    }
    let sides = [image("top", "ours"), image("top", "theirs")];
    let compare = [
        "compare",
        "--object",
        TOP,
        "--image-opts",
        &sides[0],
        &sides[1],
    ];
    bench.same(&compare);
    let usual = "encrypt.format=luks,encrypt.key-secret=top";
    let measure = ["measure", "--object", TOP, "-O", "qcow2", "-o", usual];
    let measure = [&measure[..], &["--size", "1G"]].concat();
    let ours = bench.run("./weft-qemu-img", &measure);
    assert_eq!(
        String::from_utf8_lossy(&ours.stdout),
        qemu(&bench, &measure)
    );
}

#[test]
fn each_image_of_a_chain_has_its_key() {
    require!("qemu-img", "qemu-io");
    let bench = bench();
    let weft = "./weft-qemu-img";
    let create = |key: &str, object, rest: &[&str]| {
        let options = encrypted(key);
        let create = [
            "create", "-q", "--object", object, "-f", "qcow2", "-o", &options,
        ];
        bench.ok(weft, &[&create[..], rest].concat());
    };
    create("base", BASE, &["base", "8M"]);
    io(&bench, BASE, &image("base", "base"), &["write -P 1 0 2M"]);
    create("top", TOP, &["-b", "base", "-F", "qcow2", "top"]);
    let both = format!("{},backing.encrypt.key-secret=base", image("top", "top"));
    let keys = ["--object", TOP, "--object", BASE, "--image-opts"];
    bench.ok(
        "qemu-io",
        &[&keys[..], &["-c", "write -P 2 1M 2M", &both]].concat(),
    );
    bench.same_json(&[&["map"], &keys[..], &[&both]].concat());

    for (program, out) in [(weft, "ours.raw"), ("qemu-img", "theirs.raw")] {
        bench.ok(
            program,
            &[&["convert", "-O", "raw"], &keys[..], &[&both, out]].concat(),
        );
    }
    bench.ok("cmp", &["ours.raw", "theirs.raw"]);
    let said = fails(
        &bench,
        &[&["convert"], &keys[..], &[&image("top", "top"), "none"]].concat(),
    );
    assert!(said.contains("base is encrypted"), "{said}");

    // A copy in the copy's own key, over nothing, and the same written again.
    let copy = encrypted("other");
    let objects = [&keys[..4], &["--object", OTHER, "--image-opts"]].concat();
    let made = ["convert", "-O", "qcow2", "-o", &copy];
    bench.ok(weft, &[&made[..], &objects, &[&both, "copy"]].concat());
    let other = image("other", "copy");
    let again = ["convert", "-n", "--target-image-opts"];
    bench.ok(weft, &[&again[..], &objects, &[&both, &other]].concat());
    let raw = "driver=raw,file.filename=theirs.raw";
    bench.ok(
        "qemu-img",
        &["compare", "--object", OTHER, "--image-opts", &other, raw],
    );

    bench.ok(weft, &[&["commit", "-q"], &keys[..], &[&both]].concat());
    let base = image("base", "base");
    bench.ok(
        "qemu-img",
        &["compare", "--object", BASE, "--image-opts", &base, raw],
    );
    bench.ok(weft, &[&["rebase", "-b", ""], &keys[..], &[&both]].concat());
    let top = image("top", "top");
    bench.ok(
        "qemu-img",
        &["compare", "--object", TOP, "--image-opts", &top, raw],
    );
    bench.ok(
        weft,
        &["resize", "-q", "--object", TOP, "--image-opts", &top, "+1M"],
    );
    bench.ok(
        "qemu-img",
        &["check", "-q", "--object", TOP, "--image-opts", &top],
    );
}

#[test]
fn passphrases_are_added_and_removed() {
    require!("qemu-img", "qemu-io");
    let bench = bench();
    let options = encrypted("top");
    let create = [
        "create", "-q", "--object", TOP, "-f", "qcow2", "-o", &options,
    ];
    bench.ok("./weft-qemu-img", &[&create[..], &["a", "8M"]].concat());
    let opened = image("top", "a");
    let amend = [
        "amend",
        "--object",
        TOP,
        "--object",
        OTHER,
        "--image-opts",
        &opened,
        "-o",
    ];
    let add = "encrypt.state=active,encrypt.new-secret=other,encrypt.iter-time=10";
    bench.ok("./weft-qemu-img", &[&amend[..], &[add]].concat());
    let other = image("other", "a");
    for (object, opened) in [(TOP, &opened), (OTHER, &other)] {
        io(&bench, object, opened, &["read -P 0 0 64k"]);
    }
    bench.same(&["info", "a"]);
    // QEMU adds one that we remove, and the reverse.
    let add = format!("{add},encrypt.keyslot=5");
    qemu(&bench, &[&amend[..], &[&add]].concat());
    let remove = "encrypt.state=inactive,encrypt.old-secret=other";
    bench.ok("./weft-qemu-img", &[&amend[..], &[remove]].concat());
    bench.same(&["info", "a"]);
    let gone = bench.run(
        "qemu-io",
        &["--object", OTHER, "--image-opts", &other, "-c", "quit"],
    );
    assert!(String::from_utf8_lossy(&gone.stderr).contains("Invalid password"));
    let last = "encrypt.state=inactive,encrypt.old-secret=top";
    let said = fails(&bench, &[&amend[..], &[last]].concat());
    assert!(said.contains("the last that opens it"), "{said}");
    io(&bench, TOP, &opened, &["read -P 0 0 64k"]);
}

#[test]
fn passphrases_are_files_in_plain_words() {
    require!("qemu-img");
    let weft = Weft::new();
    for (file, passphrase) in [("one", "first"), ("two", "second"), ("newline", "first\n")] {
        std::fs::write(weft.path(file), passphrase).unwrap();
    }
    let create = [
        "image",
        "create",
        "a.qcow2",
        "--size",
        "8M",
        "--key-file",
        "one",
    ];
    let quick = ["-o", "encrypt.format=luks", "-o", "encrypt.iter-time=10"];
    let made = weft.json(&[&create[..], &quick].concat());
    assert_eq!(made["qcow2"]["luks"]["cipher"], "aes-256");
    weft.ok(&["image", "convert", "a.qcow2", "a.raw", "--key-file", "one"]);
    let back = [
        "image",
        "convert",
        "a.raw",
        "b.qcow2",
        "--target-key-file",
        "two",
    ];
    weft.ok(&[&back[..], &quick].concat());
    let same = weft.json(&[
        "image",
        "compare",
        "a.qcow2",
        "b.qcow2",
        "--key-file",
        "one",
        "--key-file",
        "two",
    ]);
    assert_eq!(same["identical"], true);
    // Tables need no key.
    for command in ["info", "check", "map"] {
        weft.ok(&["image", command, "a.qcow2"]);
    }
    let (kind, said) = weft.fails(&["image", "convert", "a.qcow2", "c", "--key-file", "newline"]);
    assert!(
        kind == "invalid" && said.contains("ends with a newline"),
        "{said}"
    );

    let add = [
        "image",
        "key",
        "add",
        "a.qcow2",
        "--key-file",
        "one",
        "--new-key-file",
        "two",
    ];
    let added = weft.json(&[&add[..], &["--slot", "3", "--guess-time", "10"]].concat());
    assert_eq!(added["qcow2"]["luks"]["slots"][3]["in_use"], true);
    weft.ok(&["image", "key", "remove", "a.qcow2", "--key-file", "one"]);
    let (_, said) = weft.fails(&["image", "convert", "a.qcow2", "c", "--key-file", "one"]);
    assert!(said.contains("the key is wrong"), "{said}");
    weft.ok(&["image", "convert", "a.qcow2", "c", "--key-file", "two"]);
    let (_, said) = weft.fails(&["image", "key", "remove", "a.qcow2", "--slot", "3"]);
    assert!(said.contains("must be forced"), "{said}");
    let (kind, _) = weft.fails(&["image", "key", "remove", "a.raw", "--slot", "3"]);
    assert!(kind == "invalid" || kind == "unsupported", "{kind}");
}
