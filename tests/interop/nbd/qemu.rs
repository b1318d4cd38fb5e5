//! qemu-img and qemu-io.

use anyhow::Result;
use serde_json::Value;
use weft_tests::{require, run};

use crate::site::{MIB, Site, text};

#[test]
fn qemu_img_tells_maps_and_compares() -> Result<()> {
    require!("qemu-img");
    let site = Site::new(64 * MIB, &[(MIB, 2 * MIB)]);
    let file = text(&site.file());
    for url in site.urls() {
        let info: Value = serde_json::from_str(&run("qemu-img", ["info", "--output=json", &url])?)?;
        assert_eq!(info["virtual-size"], 64 * MIB);
        let map: Value = serde_json::from_str(&run("qemu-img", ["map", "--output=json", &url])?)?;
        assert_eq!(map[0]["length"], MIB);
        assert_eq!(map[0]["zero"], true);
        assert_eq!(map[1]["length"], 2 * MIB);
        assert_eq!(map[1]["data"], true);
        run(
            "qemu-img",
            ["compare", "-f", "raw", "-F", "raw", &url, &file],
        )?;
    }
    Ok(())
}

#[test]
fn qemu_img_converts_both_ways() -> Result<()> {
    require!("qemu-img");
    let site = Site::new(64 * MIB, &[(0, MIB), (30 * MIB, 5 * MIB)]);
    let file = text(&site.file());
    for (number, url) in site.urls().iter().enumerate() {
        let qcow2 = site.path(&format!("copy{number}.qcow2"));
        run(
            "qemu-img",
            ["convert", "-f", "raw", "-O", "qcow2", url, &qcow2],
        )?;
        run("qemu-img", ["compare", "-F", "raw", &qcow2, &file])?;

        let back = Site::new(64 * MIB, &[(2 * MIB, 10 * MIB)]);
        let target = &back.urls()[number];
        // -W: out of order; -n: into what is there, whose old data must not show.
        run(
            "qemu-img",
            [
                "convert", "-n", "-W", "-m", "8", "-O", "raw", &qcow2, target,
            ],
        )?;
        let restored = text(&back.file());
        run(
            "qemu-img",
            ["compare", "-f", "raw", "-F", "raw", &restored, &file],
        )?;
    }
    Ok(())
}

#[test]
fn qemu_io_writes_zeroes_discards_and_flushes() -> Result<()> {
    require!("qemu-io");
    let site = Site::new(64 * MIB, &[(0, 8 * MIB)]);
    for url in site.urls() {
        let commands = [
            "write -P 0xab 1M 1M",
            "write -f -P 0xcd 2M 64k",
            "read -P 0xab 1M 1M",
            "read -P 0xcd 2M 64k",
            "aio_write -P 0x11 4M 1M",
            "aio_write -P 0x22 5M 1M",
            "aio_flush",
            "read -P 0x11 4M 1M",
            "read -P 0x22 5M 1M",
            "write -z 1M 512k",
            "write -z -u 1536k 512k",
            "read -P 0 1M 1M",
            "discard 4M 2M",
            "flush",
            // Odd offsets: QEMU rounds them out to our blocks.
            "write -P 0x77 1000 100",
            "read -P 0x77 1000 100",
        ];
        let mut arguments = vec!["-f", "raw"];
        for command in commands {
            arguments.extend(["-c", command]);
        }
        arguments.push(&url);
        let printed = run("qemu-io", arguments)?;
        assert!(!printed.contains("failed"), "{printed}");
    }
    let site = Site::read_only(MIB, &[(0, 4096)]);
    let printed = run(
        "qemu-io",
        ["-r", "-f", "raw", "-c", "read 0 1M", &site.unix()],
    )?;
    assert!(printed.contains("read 1048576/1048576"), "{printed}");
    let refused = run("qemu-io", ["-f", "raw", "-c", "write 0 4k", &site.unix()]);
    assert!(refused.is_err());
    Ok(())
}
