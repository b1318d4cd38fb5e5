//! A machine on the platform VMM, with its root on a volume: in the Linux guest, which has real KVM.

use std::time::Duration;

use weft_tests::guest::{Initramfs, Kernel, LinuxGuest, root_image};
use weft_tests::{require, temp_dir};

/// The inner guest's root: takes a lease, says where it is, leaves a word on its disk.
const INIT: &str = r#"
mount -t sysfs sysfs /sys
cat >/tmp/lease <<'END'
#!/bin/sh
[ "$1" = bound ] || exit 0
ip address add "$ip/$mask" dev "$interface"
echo "inner lease=$ip"
END
chmod +x /tmp/lease
ip link set eth0 up
udhcpc -q -n -t 20 -i eth0 -s /tmp/lease 2>/dev/null
ping -c 1 -W 20 10.77.0.1 | grep transmitted
echo "inner root=$(awk '$2 == "/" { print $1 }' /proc/mounts) cpus=$(grep -c ^processor /proc/cpuinfo)"
echo 'written by the guest' >/word
rm /tmp/lease
mount -o remount,ro /
poweroff -f
"#;

/// The outer guest's script: disks to a volume, the root copied onto it, the machine, and stock Linux to read it all.
const SCRIPT: &str = r#"
export WEFT_STATE=/weft/state
cd /weft; modprobe tun
for disk in a b c; do $weft disk create $disk --size 48M; done
$weft raid create tank --level 5 ./a ./b ./c --assume-clean
$weft vg create data tank
$weft lv create data/root --size 40M
$weft export add data/root --nbd unix:/weft/nbd --name root
qemu-img convert -n -O raw $image 'nbd+unix:///root?socket=/weft/nbd'
$weft export remove root
$weft net create lan --subnet 10.77.0.0/24
$weft vm run inner --engine kvm --kernel $kernel --initrd $initrd --cpus 2 --memory 192M     --cmdline 'console=ttyS0 panic=-1 mitigations=off quiet' --disk data/root --net lan
n=0
while $weft vm show inner | grep -q '^state *running'; do
    n=$((n + 1)); [ $n -lt 240 ] || break
    sleep 0.5
done
$weft vm show inner
$weft vm console inner --log
$weft vm remove inner
$weft net remove lan
$weft vg deactivate data
$weft raid stop tank
$weft daemon --stop 2>/dev/null || true

modprobe loop; modprobe raid456
for disk in a b c; do loops="$loops $(losetup -f --show /weft/$disk)"; done
mdadm --assemble /dev/md0 --readonly $loops
vgchange -ay data
e2fsck -fn /dev/data/root
debugfs -R 'cat /word' /dev/data/root
"#;

#[test]
fn a_machine_runs_on_the_platform_vmm_from_a_volume() {
    require!(
        "qemu-system-x86_64",
        "qemu-img",
        "mkfs.ext4",
        "mdadm",
        "lvm",
        "nft"
    );
    let folder = temp_dir();
    let image = root_image(folder.path(), INIT).unwrap();
    let kernel = Kernel::cloud().unwrap();
    let mut archive = Initramfs::with_busybox().unwrap();
    let init = "#!/bin/sh
        mount -t proc proc /proc
        mount -t devtmpfs dev /dev
        while read -r module; do insmod /weft/modules/$module; done </weft/load-order
        mkdir /root
        mount -t ext4 /dev/vda /root
        exec switch_root /root /sbin/init\n";
    archive.file("init", init.as_bytes());
    let modules = ["virtio_pci", "virtio_blk", "virtio_net", "ext4"];
    archive.modules(&kernel, &modules).unwrap();
    let initrd = folder.path().join("initrd");
    std::fs::write(&initrd, archive.finish()).unwrap();

    let places = format!(
        "weft={} image={} kernel={} initrd={}",
        env!("CARGO_BIN_EXE_weft"),
        image.display(),
        kernel.image().display(),
        initrd.display()
    );
    let run = LinuxGuest::new("weft-kvm")
        .nested_kvm()
        .time_limit(Duration::from_secs(240))
        .run(&format!("{places}\n{SCRIPT}"))
        .unwrap();
    let output = &run.output;
    assert_eq!(run.status, 0, "{output}");
    for part in [
        "kvm (hardware virtualization is there)",
        "inner lease=10.77.0.",
        " 0% packet loss",
        "inner root=/dev/vda cpus=2",
        "written by the guest",
    ] {
        assert!(output.contains(part), "{part} is not in {output}");
    }
}
