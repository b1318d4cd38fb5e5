//! The Linux guest itself: that it judges, and that its verdict arrives.

use std::time::Duration;

use weft_tests::guest::LinuxGuest;
use weft_tests::{require, sparse_file, temp_dir};

#[test]
fn real_md_and_lvm_run_on_our_files() {
    require!("qemu-system-x86_64", "mdadm", "lvm");
    let folder = temp_dir();
    let disks = ["a", "b", "c"].map(|name| sparse_file(folder.path(), name, 64 << 20));
    let output = LinuxGuest::new("md-and-lvm")
        .disks(&disks)
        .module("raid456")
        .module("dm-mod")
        .run(
            "mdadm --create /dev/md0 --run --level=5 --raid-devices=3 --assume-clean /dev/vda /dev/vdb /dev/vdc
             cat /proc/mdstat
             pvcreate -q /dev/md0
             vgcreate -q tank /dev/md0
             lvcreate -q -n data -L 32M tank
             mkfs.ext4 -q /dev/tank/data
             mount /dev/tank/data /mnt
             echo 'it holds' >/mnt/file
             umount /mnt
             lvs --noheadings -o lv_name,vg_name
             vgchange -an tank
             mdadm --stop /dev/md0
             mdadm --examine /dev/vda >/weft/share/examined",
        )
        .expect("the guest runs")
        .success();
    assert!(output.contains("active raid5"), "{output}");
    assert!(output.contains("[3/3] [UUU]"), "{output}");
    assert!(output.contains("data tank"), "{output}");
}

#[test]
fn a_failing_script_gives_its_status() {
    require!("qemu-system-x86_64");
    let run = LinuxGuest::new("status")
        .env("WORD", "it's here")
        .run("echo \"$WORD\"; echo left >/weft/share/file; exit 42")
        .expect("the guest runs");
    assert_eq!(run.status, 42);
    assert_eq!(run.output, "it's here\n");
    assert_eq!(run.shared_file("file").expect("it was left"), b"left\n");
    let run = LinuxGuest::new("set-e")
        .run("false; echo unreachable")
        .expect("the guest runs");
    assert_eq!((run.status, run.output.as_str()), (1, ""));
}

#[test]
fn a_hang_is_killed() {
    require!("qemu-system-x86_64");
    let mut guest = LinuxGuest::new("hang")
        .time_limit(Duration::from_secs(30))
        .start("echo up; sleep 1000")
        .expect("the guest starts");
    guest.wait_for("up").expect("it comes up");
    let process = format!("/proc/{}", guest.pid());
    let error = LinuxGuest::new("short")
        .time_limit(Duration::from_secs(1))
        .run("true")
        .err()
        .expect("one second is too short");
    let text = format!("{error:#}");
    assert!(text.contains("killed after its 1 s"), "{text}");
    drop(guest);
    assert!(!std::path::Path::new(&process).exists());
}

#[test]
fn kvm_works_inside() {
    require!("qemu-system-x86_64");
    let output = LinuxGuest::new("nested-kvm")
        .nested_kvm()
        .run("test -c /dev/kvm && grep -o -m1 -w svm /proc/cpuinfo")
        .expect("the guest runs")
        .success();
    assert_eq!(output.trim(), "svm");
}
