//! Images that options describe in place of a name, on the command line and in images, beside QEMU's program.

use weft_tests::require;

use crate::program::Weft;
use crate::qemu_img::Bench;

const TOP: &str = r#"json:{"driver":"qcow2","file":{"driver":"file","filename":"top"}}"#;

/// Over `raw` in place of what it says.
const OVER_RAW: &str = r#"json:{"driver":"qcow2","file.filename":"top",
    "backing":{"driver":"raw","file":{"driver":"file","filename":"other"}}}"#;

/// Over nothing.
const ALONE: &str = r#"json:{"driver":"qcow2","file.filename":"top","backing":null}"#;

/// The same two as options.
const OVER_RAW_FLAT: &str = "driver=qcow2,file.filename=top,backing.driver=raw,backing.file.driver=file,backing.file.filename=other";

#[test]
fn what_is_described_is_what_qemu_means() {
    require!("qemu-img", "qemu-io");
    let bench = Bench::with_images();
    bench.ok("cp", &["raw", "other"]);
    let shift = ["convert", "-f", "raw", "-O", "raw", "longer", "other"];
    bench.ok("qemu-img", &shift);
    for image in [TOP, OVER_RAW, ALONE] {
        bench.same_json(&["map", image]);
        bench.same(&["check", image]);
        for (program, out) in [("qemu-img", "theirs"), ("./weft-qemu-img", "ours")] {
            bench.ok(program, &["convert", "-O", "raw", image, out]);
        }
        bench.ok("cmp", &["theirs", "ours"]);
        bench.same(&["compare", image, "top"]);
    }
    bench.same_json(&["map", "--image-opts", OVER_RAW_FLAT]);
    bench.same(&[
        "compare",
        "--image-opts",
        OVER_RAW_FLAT,
        "driver=qcow2,file.filename=top",
    ]);
    let alone = "driver=qcow2,file.filename=top,backing=";
    bench.same_json(&["map", "--image-opts", alone]);
    // Two that differ, or nothing was seen.
    let compare = ["compare", TOP, ALONE];
    assert_eq!(bench.weft(&compare).status, Some(1));

    for wrong in [
        "json:{",
        "json:[]",
        r#"json:{"driver":"qcow2"}"#,
        r#"json:{"driver":"qcow2","file":"none"}"#,
        r#"json:{"driver":"raw","file.filename":"raw","backing":{"file.filename":"base"}}"#,
        r#"json:{"driver":"qcow2","file.filename":"top","bogus":1}"#,
        r#"json:{"driver":"qcow2","file.filename":"none"}"#,
    ] {
        let line = ["info", wrong];
        let statuses = (bench.weft(&line).status, bench.qemu(&line).status);
        assert_eq!(statuses, (Some(1), Some(1)), "{wrong}");
    }
}

#[test]
fn an_image_may_describe_what_it_rests_on() {
    require!("qemu-img", "qemu-io");
    let bench = Bench::with_images();
    let below =
        r#"json:{"driver":"qcow2","file":{"driver":"file","filename":"base"},"node-name":"x"}"#;
    for maker in ["qemu-img", "./weft-qemu-img"] {
        let create = [
            "create", "-q", "-f", "qcow2", "-b", below, "-F", "qcow2", "new",
        ];
        bench.ok(maker, &create);
        bench.same_json(&["map", "new"]);
        bench.same(&["compare", "new", "base"]);
        bench.ok("./weft-qemu-img", &["rebase", "-b", "", "new"]);
        bench.ok(maker, &["rebase", "-u", "-b", below, "-F", "qcow2", "new"]);
        bench.ok(
            "./weft-qemu-img",
            &["rebase", "-b", "longer", "-F", "qcow2", "new"],
        );
        bench.same(&["compare", "new", "base"]);
        bench.ok("rm", &["new"]);
    }
}

#[test]
fn a_description_in_an_image_opens_no_more_than_a_name() {
    require!("qemu-img");
    let weft = Weft::new();
    let (outside, folder) = (tempfile::tempdir().unwrap(), weft.path("."));
    let secret = outside.path().join("secret");
    std::fs::write(&secret, vec![7; 1 << 20]).unwrap();
    std::fs::write(folder.join("beside"), vec![8; 1 << 20]).unwrap();
    let make = |name: &str, below: &str| {
        let image = folder.join(name);
        let line = [
            "create", "-q", "-u", "-f", "qcow2", "-b", below, "-F", "raw",
        ];
        let mut command = std::process::Command::new("qemu-img");
        let made = command.args(line).arg(&image).arg("1M").status().unwrap();
        assert!(made.success());
    };
    let described = |path: &std::path::Path| {
        let path = path.display();
        format!(r#"json:{{"driver":"raw","file":{{"driver":"file","filename":"{path}"}}}}"#)
    };
    make("astray", &described(&secret));
    let (kind, said) = weft.fails(&["image", "convert", "astray", "copy"]);
    assert!(
        kind == "permission" && said.contains("--allow-backing"),
        "{kind}: {said}"
    );
    make("fine", &described(&folder.join("beside")));
    weft.ok(&["image", "convert", "fine", "copy"]);
    let copy = std::fs::read(folder.join("copy")).unwrap();
    assert!(copy.iter().all(|byte| *byte == 8));

    // What is described under a description is opened by the same rule.
    let deeper = format!(
        r#"json:{{"driver":"qcow2","file.filename":"{}","backing":{{"driver":"raw","file.filename":"{}"}}}}"#,
        folder.join("fine").display(),
        secret.display()
    );
    let line = [
        "create", "-q", "-u", "-f", "qcow2", "-b", &deeper, "-F", "qcow2",
    ];
    let mut command = std::process::Command::new("qemu-img");
    let made = command
        .args(line)
        .arg(folder.join("deep"))
        .arg("1M")
        .status();
    assert!(made.unwrap().success());
    let (kind, said) = weft.fails(&["image", "convert", "deep", "copy2"]);
    assert!(
        kind == "permission" && said.contains("secret"),
        "{kind}: {said}"
    );
    let path = secret.display().to_string();
    let both = folder.join("fine").display().to_string();
    weft.ok(&[
        "image",
        "convert",
        "deep",
        "copy2",
        "--allow-backing",
        &path,
        "--allow-backing",
        &both,
    ]);
    let copy = std::fs::read(folder.join("copy2")).unwrap();
    assert!(copy.iter().all(|byte| *byte == 7));
}
