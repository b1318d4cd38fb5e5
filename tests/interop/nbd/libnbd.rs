//! nbdinfo, nbdcopy, fio's nbd engine and libnbd itself, driven from Python.

use anyhow::{Context as _, Result};
use serde_json::Value;
use weft_tests::{require, run};

use crate::site::{MIB, Site, allocated, same};

#[test]
fn nbdinfo_sees_what_the_server_offers() -> Result<()> {
    require!("nbdinfo");
    let site = Site::new(64 * MIB, &[(MIB, 2 * MIB)]);
    for url in site.urls() {
        let told: Value = serde_json::from_str(&run("nbdinfo", ["--json", &url])?)?;
        let export = &told["exports"][0];
        assert_eq!(told["structured"], true);
        assert_eq!(export["export-name"], "disk");
        assert_eq!(export["description"], "a disk for judges");
        assert_eq!(export["export-size"], 64 * MIB);
        assert_eq!(export["contexts"][0], "base:allocation");
        for ability in [
            "can_cache",
            "can_df",
            "can_fast_zero",
            "can_flush",
            "can_fua",
            "can_multi_conn",
            "can_trim",
            "can_zero",
        ] {
            assert_eq!(export[ability], true, "{ability}");
        }
        assert_eq!(export["is_read_only"], false);
        assert_eq!(export["block_size_minimum"], 512);
        let listed: Value = serde_json::from_str(&run("nbdinfo", ["--list", "--json", &url])?)?;
        assert_eq!(listed["exports"][0]["export-name"], "disk");
    }
    let site = Site::read_only(MIB, &[]);
    let told: Value = serde_json::from_str(&run("nbdinfo", ["--json", &site.unix()])?)?;
    assert_eq!(told["exports"][0]["is_read_only"], true);
    assert_eq!(told["exports"][0]["can_trim"], false);
    Ok(())
}

#[test]
fn nbdinfo_maps_data_and_holes() -> Result<()> {
    require!("nbdinfo");
    let site = Site::new(64 * MIB, &[(MIB, 2 * MIB), (40 * MIB, MIB)]);
    let map: Value = serde_json::from_str(&run("nbdinfo", ["--map", "--json", &site.tcp()])?)?;
    let seen: Vec<(u64, u64, u64)> = map
        .as_array()
        .context("a list")?
        .iter()
        .map(|part| {
            let number = |name: &str| part[name].as_u64().unwrap();
            (number("offset"), number("length"), number("type"))
        })
        .collect();
    assert_eq!(
        seen,
        [
            (0, MIB, 3),
            (MIB, 2 * MIB, 0),
            (3 * MIB, 37 * MIB, 3),
            (40 * MIB, MIB, 0),
            (41 * MIB, 23 * MIB, 3)
        ]
    );
    Ok(())
}

#[test]
fn nbdcopy_copies_both_ways_over_several_connections() -> Result<()> {
    require!("nbdcopy");
    let islands = [(0, 3 * MIB), (20 * MIB + 512, 7 * MIB), (63 * MIB, MIB)];
    let site = Site::new(64 * MIB, &islands);
    for (number, url) in site.urls().iter().enumerate() {
        let copy = site.path(&format!("copy{number}"));
        run("nbdcopy", ["--connections=4", url, &copy])?;
        assert!(same(&copy, site.file()));
        assert!(allocated(&copy) < 16 * MIB, "holes stay holes");

        let back = Site::new(64 * MIB, &[(5 * MIB, 20 * MIB)]);
        let target = &back.urls()[number];
        let arguments = ["--connections=4", "--requests=64", "--flush", &copy, target];
        run("nbdcopy", arguments)?;
        assert!(same(&copy, back.file()));
        assert!(allocated(back.file()) < 16 * MIB, "zeroes become holes");
    }
    // From one server of ours to another, and to nowhere.
    let other = Site::new(64 * MIB, &[]);
    run("nbdcopy", [&site.unix(), &other.tcp()])?;
    assert!(same(site.file(), other.file()));
    run("nbdcopy", [&site.tcp(), "null:"])?;
    Ok(())
}

#[test]
fn fio_finds_what_it_wrote() -> Result<()> {
    require!("fio");
    let site = Site::new(64 * MIB, &[]);
    for (url, block, depth) in [
        (site.unix(), "--bs=4k", "--iodepth=32"),
        (site.unix(), "--bsrange=512-128k", "--iodepth=16"),
        (site.tcp(), "--bs=64k", "--iodepth=8"),
    ] {
        let uri = format!("--uri={url}");
        run(
            "fio",
            [
                "--name=verify",
                "--ioengine=nbd",
                &uri,
                "--rw=randwrite",
                block,
                depth,
                "--size=16m",
                "--verify=crc32c",
                "--verify_fatal=1",
                "--verify_state_save=0",
                "--fsync=64",
            ],
        )?;
    }
    Ok(())
}

/// Runs a program of libnbd's Python module. `nbdsh` is the same with another prompt.
fn python(program: &str) -> Result<String> {
    run("/usr/bin/python3", ["-c", program])
}

fn has_libnbd() -> bool {
    run("/usr/bin/python3", ["-c", "import nbd"]).is_ok()
}

#[test]
fn odd_requests_get_the_errors_of_the_specification() -> Result<()> {
    if !has_libnbd() {
        weft_tests::skip!("needs python3-libnbd (scripts/install-deps installs it)");
    }
    let site = Site::new(64 * MIB, &[(0, MIB)]);
    let program = r#"
import nbd, errno
h = nbd.NBD()
h.set_strict_mode(0)
h.connect_uri("URL")
size = h.get_size()
def fails(wanted, call, *arguments):
    try:
        call(*arguments)
    except nbd.Error as error:
        assert error.errnum == wanted, (call, arguments, error.errnum, str(error))
        return
    raise AssertionError((call, arguments))
fails(errno.EINVAL, h.pread, 512, size)
fails(errno.EINVAL, h.pread, 100, 0)
fails(errno.EINVAL, h.pread, 512, 1)
fails(errno.ENOSPC, h.pwrite, bytes(512), size)
fails(errno.ENOSPC, h.zero, 1024, size - 512)
fails(errno.EINVAL, h.trim, 512, size)
fails(errno.EINVAL, h.cache, 512, size)
fails(errno.EINVAL, h.pwrite, bytes(512), 0, 1 << 9)
fails(errno.EINVAL, h.pread, 512, 0, nbd.CMD_FLAG_REQ_ONE)
fails(errno.EINVAL, h.block_status, 512, 0, lambda *a: 0)
# FUA is accepted with every command.
assert len(h.pread(512, 0, nbd.CMD_FLAG_FUA)) == 512
h.flush(nbd.CMD_FLAG_FUA)
h.cache(512, 0, nbd.CMD_FLAG_FUA)
# The longest payload, at once and in one chunk.
data = bytes(range(256)) * (1 << 17)
h.pwrite(data, 0, nbd.CMD_FLAG_FUA)
assert h.pread(len(data), 0) == data
assert h.pread(len(data), 0, nbd.CMD_FLAG_DF) == data
h.zero(1 << 20, 0, nbd.CMD_FLAG_FAST_ZERO | nbd.CMD_FLAG_NO_HOLE)
h.zero(len(data), 0)
assert h.pread(len(data), 0) == bytes(len(data))
h.trim(size, 0, nbd.CMD_FLAG_FUA)
h.shutdown()
"#;
    for url in site.urls() {
        python(&program.replace("URL", &url))?;
    }
    Ok(())
}

#[test]
fn option_haggling_by_hand() -> Result<()> {
    if !has_libnbd() {
        weft_tests::skip!("needs python3-libnbd (scripts/install-deps installs it)");
    }
    let site = Site::new(64 * MIB, &[(0, MIB)]);
    let program = r#"
import nbd
def begin(structured = True):
    h = nbd.NBD()
    h.set_opt_mode(True)
    h.set_request_structured_replies(structured)
    h.connect_unix("SOCKET")
    return h
h = begin()
names = []
h.opt_list(lambda name, text: names.append((name, text)))
assert names == [("disk", "a disk for judges")], names
h.set_export_name("tape")
try:
    h.opt_info()
    raise AssertionError("there is no tape")
except nbd.Error:
    pass
h.set_export_name("")
h.opt_info()
assert h.get_size() == 64 << 20
h.set_export_name("disk")
h.add_meta_context("base:allocation")
h.add_meta_context("qemu:dirty-bitmap:x")
contexts = []
h.opt_list_meta_context(lambda name: contexts.append(name))
assert contexts == ["base:allocation"], contexts
h.opt_go()
assert h.can_meta_context("base:allocation") and not h.can_meta_context("qemu:dirty-bitmap:x")
seen = []
h.block_status(8 << 20, 0, lambda name, offset, extents, error: seen.extend(extents))
assert seen == [1 << 20, 0, 7 << 20, 3], seen
one = []
h.block_status(8 << 20, 0, lambda name, offset, extents, error: one.extend(extents), nbd.CMD_FLAG_REQ_ONE)
assert one == [1 << 20, 0], one
h.shutdown()
# Without structured replies.
h = begin(False)
h.set_export_name("disk")
h.opt_go()
assert not h.get_structured_replies_negotiated() and not h.can_df()
assert len(h.pread(4 << 20, 0)) == 4 << 20
h.shutdown()
# A client that changes its mind.
h = begin()
h.opt_abort()
"#;
    python(&program.replace("SOCKET", &site.path("socket")))?;
    Ok(())
}

#[test]
fn many_requests_at_once_from_many_clients() -> Result<()> {
    if !has_libnbd() {
        weft_tests::skip!("needs python3-libnbd (scripts/install-deps installs it)");
    }
    let site = Site::new(64 * MIB, &[]);
    let program = r#"
import nbd
handles = []
for number in range(8):
    h = nbd.NBD()
    h.connect_uri("URL")
    handles.append(h)
writes = []
for number, h in enumerate(handles):
    for block in range(64):
        data = nbd.Buffer.from_bytearray(bytearray([number * 16 + block % 16]) * 65536)
        writes.append((h, h.aio_pwrite(data, (number * 64 + block) * 65536)))
for h, cookie in writes:
    while not h.aio_command_completed(cookie):
        h.poll(-1)
# A flush on one connection covers the writes of all.
handles[0].flush()
for number, h in enumerate(reversed(handles)):
    number = 7 - number
    other = handles[(number + 3) % 8]
    for block in range(64):
        data = other.pread(65536, (number * 64 + block) * 65536)
        assert data == bytes([number * 16 + block % 16]) * 65536, (number, block)
for h in handles:
    h.shutdown()
"#;
    for url in site.urls() {
        python(&program.replace("URL", &url))?;
    }
    Ok(())
}
