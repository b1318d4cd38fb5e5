//! md arrays, both ways between weft and the stock kernel: `mdadm --examine` on plain files, and md itself in the
//! Linux guest, which assembles, scrubs, degrades, writes and rebuilds what we made, and the reverse.

mod ours;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use weft_raid::ArrayState;
use weft_raid::level::Level;
use weft_tests::guest::LinuxGuest;
use weft_tests::{require, run, sparse_file, temp_dir};

use ours::{Image, fail, make_whole, member, state_is, told, with_new, with_old};

const DISK: u64 = 64 << 20;

fn disks(folder: &Path, array: &str, count: usize) -> Vec<PathBuf> {
    let names = (0..count).map(|number| format!("{array}-{number}"));
    names.map(|name| sparse_file(folder, &name, DISK)).collect()
}

/// What the scripts share. `same` compares an array's start with a file, `scrub` counts what does not fit together.
const SHELL: &str = r#"
same() { # DEVICE FILE
    cmp --bytes="$(stat -c %s "$2")" "$1" "$2"
}
scrub() { # ARRAY
    mdadm --wait "/dev/$1" || true
    echo check >"/sys/block/$1/md/sync_action"
    mdadm --wait "/dev/$1" || true
    mismatches=$(cat "/sys/block/$1/md/mismatch_cnt")
    echo "$1: $mismatches mismatches"
    [ "$mismatches" = 0 ]
}
"#;

fn guest(name: &str) -> LinuxGuest {
    LinuxGuest::new(name)
        .module("raid0")
        .module("raid1")
        .module("raid456")
}

/// `mdadm --examine` takes the file for a member of an array of that level and state.
fn examined(path: &Path, level: &str, devices: usize) -> Result<()> {
    let file = path.to_str().context("the path is text")?;
    let export = run("mdadm", ["--examine", "--export", file])?;
    for wanted in [format!("MD_LEVEL={level}"), format!("MD_DEVICES={devices}")] {
        ensure!(
            export.lines().any(|line| line == wanted),
            "{file}: no {wanted} in\n{export}"
        );
    }
    let told = run("mdadm", ["--examine", file])?;
    let checksum = told
        .lines()
        .find(|line| line.trim_start().starts_with("Checksum :"));
    ensure!(
        checksum.is_some_and(|line| line.contains("correct")),
        "{file}:\n{told}"
    );
    ensure!(told.contains("Version : 1.2"), "{file}:\n{told}");
    run("mdadm", ["--examine-badblocks", file])?;
    if level != "raid0" {
        ensure!(told.contains("Internal Bitmap"), "{file}:\n{told}");
    }
    Ok(())
}

#[test]
fn mdadm_examines_what_we_write() -> Result<()> {
    require!("mdadm");
    let folder = temp_dir();
    let levels = [
        (Level::Raid0, "raid0", 2),
        (Level::Raid1, "raid1", 2),
        (Level::Raid4, "raid4", 3),
        (Level::Raid5, "raid5", 4),
    ];
    for (level, word, count) in levels {
        let paths = disks(folder.path(), word, count);
        with_new(level, &paths, async |_, _| Ok(()))?;
        for path in &paths {
            examined(path, word, count)?;
        }
        with_old(&paths, async |array, spawner| {
            make_whole(array, spawner).await
        })?;
        for path in &paths {
            examined(path, word, count)?;
            let told = run("mdadm", ["--examine".as_ref(), path.as_os_str()])?;
            ensure!(told.contains("State : clean"), "{told}");
        }
    }
    Ok(())
}

/// What the kernel does with our arrays: read, scrub, lose a member, write, and in RAID-5 take it back.
const JUDGE: &str = r#"
    mdadm --assemble /dev/md0 /dev/vda /dev/vdb
    mdadm --assemble /dev/md1 /dev/vdc /dev/vdd
    mdadm --assemble /dev/md5 /dev/vde /dev/vdf /dev/vdg
    mdadm --examine-bitmap /dev/vdc
    mdadm --examine-bitmap /dev/vde
    cat /proc/mdstat
    same /dev/md0 $FILES/image0
    same /dev/md1 $FILES/image1
    same /dev/md5 $FILES/image5
    scrub md1
    scrub md5
    mdadm /dev/md1 --fail /dev/vdc
    mdadm /dev/md5 --fail /dev/vdf
    same /dev/md1 $FILES/image1
    same /dev/md5 $FILES/image5
    dd if=$FILES/new of=/dev/md1 bs=1M conv=fsync status=none
    dd if=$FILES/new of=/dev/md5 bs=1M conv=fsync status=none
    mdadm /dev/md1 --remove /dev/vdc
    mdadm /dev/md5 --remove /dev/vdf
    mdadm /dev/md5 --re-add /dev/vdf
    scrub md5
    same /dev/md5 $FILES/new
    mdadm --stop /dev/md0
    mdadm --stop /dev/md1
    mdadm --stop /dev/md5"#;

#[test]
fn the_kernel_runs_our_arrays() -> Result<()> {
    require!("qemu-system-x86_64", "mdadm");
    let folder = temp_dir();
    let place = |name: &str| folder.path().join(name);
    let (stripes, mirror, parity) = (
        disks(folder.path(), "raid0", 2),
        disks(folder.path(), "raid1", 2),
        disks(folder.path(), "raid5", 3),
    );
    let (of_stripes, mut of_mirror, mut of_parity) = (Image::new(1), Image::new(2), Image::new(3));
    with_new(Level::Raid0, &stripes, async |array, spawner| {
        of_stripes.write(array, spawner).await
    })?;
    with_new(Level::Raid1, &mirror, async |array, spawner| {
        of_mirror.write(array, spawner).await?;
        make_whole(array, spawner).await?;
        of_mirror.change(4, 200, array, spawner).await
    })?;
    with_new(Level::Raid5, &parity, async |array, spawner| {
        make_whole(array, spawner).await?;
        of_parity.write(array, spawner).await?;
        of_parity.change(5, 200, array, spawner).await
    })?;
    of_stripes.save(&place("image0"))?;
    of_mirror.save(&place("image1"))?;
    of_parity.save(&place("image5"))?;
    let new = Image::new(6);
    new.save(&place("new"))?;

    let guest = guest("md-ours")
        .disks(&stripes)
        .disks(&mirror)
        .disks(&parity);
    let guest = guest.env("FILES", folder.path().to_str().context("the path is text")?);
    let output = guest.run(&format!("{SHELL}{JUDGE}"))?.success();
    ensure!(output.matches("[3/3] [UUU]").count() == 1, "{output}");

    // Back home: the RAID-5 is whole, the mirror has one good member and a stale one that catches up.
    with_old(&parity, async |array, spawner| {
        state_is(array, ArrayState::Clean)?;
        new.compare(array, spawner).await
    })?;
    with_old(&mirror[1..], async |array, spawner| {
        state_is(array, ArrayState::Degraded)?;
        new.compare(array, spawner).await?;
        let stale = member(&mirror[0])?;
        array.add(stale, [7; 16], spawner).await.map_err(told)?;
        make_whole(array, spawner).await?;
        new.compare(array, spawner).await
    })?;
    with_old(&mirror[..1], async |array, spawner| {
        new.compare(array, spawner).await
    })
}

/// How mdadm makes the arrays that we are to run.
const CREATE: &str = r#"
    mdadm --create /dev/md0 --run --metadata=1.2 --level=0 --raid-devices=2 --chunk=64 /dev/vda /dev/vdb
    mdadm --create /dev/md1 --run --metadata=1.2 --level=1 --raid-devices=2 --bitmap=internal /dev/vdc /dev/vdd
    mdadm --create /dev/md5 --run --metadata=1.2 --level=5 --raid-devices=3 --bitmap=internal --chunk=128 \
        /dev/vde /dev/vdf /dev/vdg
    mdadm --create /dev/md4 --run --metadata=1.2 --level=4 --raid-devices=3 --bitmap=none /dev/vdh /dev/vdi /dev/vdj
    for array in md0 md1 md5 md4; do
        mdadm --wait /dev/$array || true
        dd if=$FILES/image of=/dev/$array bs=1M conv=fsync status=none
    done
    mdadm /dev/md5 --fail /dev/vde --remove /dev/vde
    dd if=$FILES/later of=/dev/md5 bs=1M conv=fsync status=none
    for array in md0 md1 md5 md4; do mdadm --stop /dev/$array; done"#;

#[test]
fn we_run_the_kernels_arrays() -> Result<()> {
    require!("qemu-system-x86_64", "mdadm");
    let folder = temp_dir();
    let files = folder.path().to_str().context("the path is text")?;
    let [stripes, mirror, parity, fixed] = [("raid0", 2), ("raid1", 2), ("raid5", 3), ("raid4", 3)]
        .map(|(name, count)| disks(folder.path(), name, count));
    let mut image = Image::new(11);
    let mut later = Image::new(12);
    image.save(&folder.path().join("image"))?;
    later.save(&folder.path().join("later"))?;
    let with_disks = |name| {
        guest(name)
            .disks(&stripes)
            .disks(&mirror)
            .disks(&parity)
            .disks(&fixed)
            .env("FILES", files)
    };
    with_disks("md-theirs").run(CREATE)?.success();

    with_old(&stripes, async |array, spawner| {
        image.compare(array, spawner).await
    })?;
    with_old(&fixed, async |array, spawner| {
        state_is(array, ArrayState::Clean)?;
        image.compare(array, spawner).await
    })?;
    with_old(&mirror, async |array, spawner| {
        state_is(array, ArrayState::Clean)?;
        image.compare(array, spawner).await?;
        image.change(13, 300, array, spawner).await?;
        fail(array, &mirror[0], spawner).await?;
        image.change(14, 300, array, spawner).await
    })?;
    // The member that the kernel failed is stale: it is left out, and caught up when it is added.
    with_old(&parity, async |array, spawner| {
        state_is(array, ArrayState::Degraded)?;
        later.compare(array, spawner).await?;
        later.change(15, 300, array, spawner).await
    })?;
    with_old(&parity[1..], async |array, spawner| {
        let stale = member(&parity[0])?;
        array.add(stale, [9; 16], spawner).await.map_err(told)?;
        make_whole(array, spawner).await?;
        later.change(16, 300, array, spawner).await?;
        state_is(array, ArrayState::Active)
    })?;

    image.save(&folder.path().join("image"))?;
    later.save(&folder.path().join("later"))?;
    let script = format!(
        "{SHELL}
        mdadm --assemble --run /dev/md1 /dev/vdd
        mdadm --assemble /dev/md5 /dev/vde /dev/vdf /dev/vdg
        cat /proc/mdstat
        same /dev/md1 $FILES/image
        same /dev/md5 $FILES/later
        scrub md5
        mdadm /dev/md5 --fail /dev/vdg
        same /dev/md5 $FILES/later
        mdadm --stop /dev/md1
        mdadm --stop /dev/md5"
    );
    let output = with_disks("md-back").run(&script)?.success();
    ensure!(output.contains("[3/3] [UUU]"), "{output}");
    Ok(())
}
