//! The in-tree VMM on real KVM: in the Linux guest, whose emulated CPU has AMD's virtualization.

mod inner;

use inner::{Inner, Kernel, Outer};
use weft_tests::require;
use weft_vmm::Ending;

#[test]
fn stock_kernels_boot_by_both_entries() {
    require!("qemu-system-x86_64", "lz4");
    let mut outer = Outer::new("vmm-boot");
    let task = "echo cpus=$(grep -c ^processor /proc/cpuinfo)\n\
                grep -o -m1 weft.word=here /proc/cmdline\n\
                dmesg -r | grep '^<[0-4]>'\n";
    let machine = |name: &str, kernel| {
        Inner::new(name, kernel)
            .cmdline("weft.word=here")
            .task(task)
    };
    outer.vm(machine("bzimage", Kernel::BzImage));
    outer.vm(machine("pvh", Kernel::Vmlinux).cpus(2));
    let verdict = outer.run();
    for (name, cpus) in [("bzimage", 1), ("pvh", 2)] {
        let console = verdict.console(name);
        assert!(console.contains(&format!("cpus={cpus}\n")), "{console}");
        assert!(console.contains("weft.word=here\n"), "{console}");
        assert!(!console.contains("WARNING"), "{console}");
        let report = verdict.report(name);
        assert_eq!(report.ending, Ending::PoweredOff, "{report:?}");
        assert!(report.sandbox.seccomp && report.sandbox.landlock);
    }
}

#[test]
fn a_disk_is_read_and_written_and_survives_a_reboot() {
    require!("qemu-system-x86_64", "qemu-storage-daemon");
    let mut outer = Outer::new("vmm-disk");
    outer.script("truncate -s 64M /weft/disk; printf before >/weft/disk.head; dd if=/weft/disk.head of=/weft/disk conv=notrunc status=none");
    outer.storage_daemon("/weft/disk", "/weft/disk.socket");
    outer.vm(
        Inner::new("disk", Kernel::BzImage).cpus(2).disk("/weft/disk.socket").task(
            "head=$(dd if=/dev/vda bs=16 count=1 2>/dev/null | tr -d '\\0')
             echo \"head=$head size=$(cat /sys/block/vda/size) queues=$(ls /sys/block/vda/mq | wc -l)\"
             grep virtio /proc/interrupts
             if [ $head = before ]; then
                 dd if=/dev/urandom of=/data bs=1M count=16 2>/dev/null
                 dd if=/data of=/dev/vda bs=1M seek=1 conv=fsync 2>/dev/null
                 printf after- | dd of=/dev/vda conv=notrunc,fsync 2>/dev/null
                 echo sum=$(md5sum </data | cut -c1-32)
                 reboot -f
             fi
             echo sum=$(dd if=/dev/vda bs=1M skip=1 count=16 2>/dev/null | md5sum | cut -c1-32)\n",
        ),
    );
    outer.script(
        "dd if=/weft/disk bs=1M skip=1 count=16 status=none | md5sum; kill $qsd; wait $qsd || true",
    );
    let verdict = outer.run();
    let console = verdict.console("disk");
    println!(
        "{console}\n{}\n{:#?}",
        verdict.output(),
        verdict.report("disk")
    );
    assert!(
        console.contains("head=before size=131072 queues=2\n"),
        "{console}"
    );
    assert!(console.contains("head=after-"), "{console}");
    let sums: Vec<&str> = console
        .lines()
        .filter_map(|line| line.strip_prefix("sum="))
        .collect();
    assert_eq!(sums.len(), 2, "{console}");
    assert_eq!(sums[0], sums[1]);
    assert!(verdict.output().contains(sums[0]), "{}", verdict.output());
    let report = verdict.report("disk");
    assert_eq!((report.ending, report.boots), (Ending::PoweredOff, 2));
}
