//! The in-tree VMM on real KVM: in the Linux guest, whose emulated CPU has AMD's virtualization.

mod inner;

use inner::{Inner, Kernel, Outer};
use weft_tests::guest::root_image;
use weft_tests::require;
use weft_vmm::Ending;

#[test]
fn stock_kernels_boot_by_both_entries() {
    require!("qemu-system-x86_64", "lz4");
    let mut outer = Outer::new("vmm-boot");
    let task = "echo cpus=$(grep -c ^processor /proc/cpuinfo)\n\
                echo memory=$(awk '/MemTotal/ { print int($2 / 1e6) }' /proc/meminfo)\n\
                grep -o -m1 weft.word=here /proc/cmdline\n\
                dmesg -r | grep '^<[0-4]>'\n";
    let machine = |name: &str, kernel| {
        Inner::new(name, kernel)
            .cmdline("weft.word=here")
            .task(task)
    };
    outer.vm(machine("bzimage", Kernel::BzImage));
    // Memory on both sides of the gap below 4 GiB.
    outer.vm(machine("pvh", Kernel::Vmlinux).cpus(2).memory(4 << 30));
    let verdict = outer.run();
    for (name, cpus, memory) in [("bzimage", 1, 0), ("pvh", 2, 4)] {
        let console = verdict.console(name);
        assert!(console.contains(&format!("memory={memory}\n")), "{console}");
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

#[test]
fn a_stock_kernel_runs_from_a_root_on_a_vhost_user_disk() {
    require!(
        "qemu-system-x86_64",
        "qemu-storage-daemon",
        "mkfs.ext4",
        "busybox"
    );
    let mut outer = Outer::new("vmm-root");
    let init = "echo root=$(awk '$2 == \"/\" { print $1 }' /proc/mounts) cpus=$(grep -c ^processor /proc/cpuinfo)
                echo 'hello from the guest' >/written
                mount -o remount,ro /
                poweroff -f\n";
    let image = root_image(outer.folder(), init).expect("mkfs makes the image");
    outer.script(&format!("cp {} /weft/root.image", image.display()));
    outer.storage_daemon("/weft/root.image", "/weft/root.socket");
    outer.vm(Inner::new("root", Kernel::BzImage)
        .cpus(2)
        .disk("/weft/root.socket")
        .task("mount -t ext4 /dev/vda /root && exec switch_root /root /sbin/init\n"));
    outer.script("kill $qsd; wait $qsd || true; e2fsck -fn /weft/root.image; debugfs -R 'cat /written' /weft/root.image");
    let verdict = outer.run();
    let console = verdict.console("root");
    assert!(console.contains("root=/dev/vda cpus=2\n"), "{console}");
    assert!(
        verdict.output().contains("hello from the guest"),
        "{}",
        verdict.output()
    );
    assert_eq!(verdict.report("root").ending, Ending::PoweredOff);
}

#[test]
fn a_machine_is_controlled_from_outside() {
    require!("qemu-system-x86_64");
    let mut outer = Outer::new("vmm-control");
    let task = "echo inner-ready
                read line; echo inner-read=$line
                head -c 24 /dev/input/event0 >/dev/null; echo inner-button\n";
    outer.start(
        Inner::new("ctl", Kernel::BzImage)
            .module("button")
            .module("evdev")
            .task(task),
    );
    outer.script(
        "wait_for /weft/share/ctl.log inner-ready
         echo status=$($vmm status /weft/ctl.control)
         for task in /proc/$ctl/task/*; do
             echo thread=$(cat $task/comm) $(grep -E 'NoNewPrivs|Seccomp:' $task/status)
         done
         $vmm pause /weft/ctl.control
         echo paused=$($vmm status /weft/ctl.control)
         $vmm resume /weft/ctl.control
         $vmm type /weft/ctl.console typed-words
         wait_for /weft/share/ctl.log inner-read=typed-words
         $vmm wait /weft/ctl.control >/weft/waited & waited=$!
         $vmm shutdown /weft/ctl.control
         wait $ctl; wait $waited
         echo waited=$(cat /weft/waited)",
    );
    outer.start(Inner::new("victim", Kernel::BzImage).task("echo inner-ready; sleep 1000\n"));
    outer.script(
        "wait_for /weft/share/victim.log inner-ready; $vmm kill /weft/victim.control; wait $victim",
    );
    let verdict = outer.run();
    let output = verdict.output();
    let console = verdict.console("ctl");
    assert!(console.contains("inner-button"), "{console}");
    assert!(output.contains(r#""state":"running""#), "{output}");
    assert!(output.contains(r#""state":"paused""#), "{output}");
    assert!(
        output.contains(r#"waited={"ok":true"#) || output.contains(r#""kind":"powered-off""#),
        "{output}"
    );
    let threads: Vec<&str> = output
        .lines()
        .filter(|line| line.starts_with("thread="))
        .collect();
    assert_eq!(
        threads.len(),
        3,
        "supervisor, control, one CPU: {threads:?}"
    );
    for thread in threads {
        assert!(thread.ends_with("NoNewPrivs: 1 Seccomp: 2"), "{thread}");
    }
    assert_eq!(verdict.report("ctl").ending, Ending::PoweredOff);
    assert_eq!(verdict.report("victim").ending, Ending::Killed);
}

#[test]
fn our_back_ends_serve_a_growing_disk_and_a_nic_over_a_reboot() {
    require!("qemu-system-x86_64", "ip", "busybox");
    let mut outer = Outer::new("vmm-ours");
    outer.script(
        "modprobe tun
         truncate -s 16M /weft/disk
         $vmm disk /weft/disk.socket /weft/disk & disk=$!
         $vmm nic /weft/nic.socket tap0 & nic=$!
         n=0; until ip link show tap0 >/dev/null 2>&1; do n=$((n+1)); [ $n -lt 100 ]; sleep 0.1; done
         ip address add 10.77.0.1/24 dev tap0; ip link set tap0 up
         mkdir /weft/web; dd if=/dev/urandom of=/weft/web/page bs=1M count=4 status=none
         busybox httpd -f -p 10.77.0.1:80 -h /weft/web & web=$!
         echo page=$(md5sum </weft/web/page)",
    );
    let task = "ip address add 10.77.0.2/24 dev eth0; ip link set eth0 up
                echo address=$(cat /sys/class/net/eth0/address) size=$(cat /sys/block/vda/size)
                ping -c 2 -W 20 10.77.0.1 | grep transmitted
                echo page=$(wget -q -O - http://10.77.0.1/page | md5sum)
                if [ $(cat /sys/block/vda/size) = 32768 ]; then
                    echo inner-ready
                    until [ $(cat /sys/block/vda/size) = 65536 ]; do sleep 0.1; done
                    echo inner-grown
                    reboot -f
                fi\n";
    let machine = Inner::new("ours", Kernel::BzImage)
        .cpus(2)
        .disk("/weft/disk.socket");
    outer.start(
        machine
            .nic("/weft/nic.socket", [0x52, 0x54, 0, 1, 2, 3])
            .task(task),
    );
    outer.script(
        "wait_for /weft/share/ours.log inner-ready
         truncate -s 32M /weft/disk
         wait $ours; kill $disk $nic $web",
    );
    let verdict = outer.run();
    let console = verdict.console("ours");
    assert!(console.contains("inner-grown"), "{console}");
    for size in [32768, 65536] {
        assert!(
            console.contains(&format!("address=52:54:00:01:02:03 size={size}\n")),
            "{console}"
        );
    }
    assert_eq!(console.matches(" 0% packet loss").count(), 2, "{console}");
    let page = verdict
        .output()
        .lines()
        .find(|line| line.starts_with("page="))
        .expect("a page");
    assert_eq!(
        console.matches(page).count(),
        2,
        "{console}\n{}",
        verdict.output()
    );
    let report = verdict.report("ours");
    assert_eq!((report.ending, report.boots), (Ending::PoweredOff, 2));
}

#[test]
fn a_back_end_is_killed_under_load_and_no_write_is_lost() {
    require!("qemu-system-x86_64");
    let mut outer = Outer::new("vmm-kill");
    outer.script(
        "truncate -s 64M /weft/disk
         serve() { $vmm disk /weft/disk.socket /weft/disk & back=$!; }
         serve",
    );
    // Four writers at once, on two queues, until somebody types.
    let task = "dd if=/dev/urandom of=/data bs=256k count=1 2>/dev/null
                (read line; echo >/stop) </dev/ttyS0 &
                echo inner-ready
                until [ -e /stop ]; do
                    for at in 0 1 2 3; do
                        dd if=/data of=/dev/vda bs=4k seek=$((at * 64)) oflag=direct 2>/dev/null || echo failed &
                        writers=\"$writers $!\"
                    done
                    wait $writers; writers=
                done
                for at in 0 1 2 3; do
                    dd if=/dev/vda bs=4k skip=$((at * 64)) count=64 iflag=direct 2>/dev/null | cmp - /data && echo same
                done
                echo inner-stopped; sleep 1\n";
    let machine = Inner::new("load", Kernel::BzImage)
        .cpus(2)
        .disk("/weft/disk.socket");
    outer.start(machine.task(task));
    outer.script(
        "wait_for /weft/share/load.log inner-ready
         for kill in 1 2 3; do sleep 0.7; kill -9 $back; wait $back || true; serve; done
         $vmm type /weft/load.console stop
         wait_for /weft/share/load.log inner-stopped
         $vmm status /weft/load.control
         wait $load; kill $back",
    );
    let verdict = outer.run();
    let console = verdict.console("load");
    assert_eq!(console.matches("same\n").count(), 4, "{console}");
    assert!(!console.contains("failed"), "{console}");
    let output = verdict.output();
    assert!(output.contains(r#""reconnects":3"#), "{output}");
    assert_eq!(verdict.report("load").ending, Ending::PoweredOff);
}
