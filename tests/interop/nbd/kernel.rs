//! The kernel's own NBD client, in the Linux guest, over TCP.

use anyhow::Result;
use weft_tests::guest::LinuxGuest;
use weft_tests::{require, run};

use crate::site::{MIB, Site};

#[test]
fn a_file_system_lives_on_the_export() -> Result<()> {
    require!("qemu-system-x86_64", "nbd-client", "mkfs.ext4", "e2fsck");
    let site = Site::new(96 * MIB, &[(40 * MIB, MIB)]);
    let script = format!(
        r#"
modprobe nbd
nbd-client 10.0.2.2 {} /dev/nbd0 -N disk -C 2 -b 4096
test "$(cat /sys/block/nbd0/size)" = 196608
mkfs.ext4 -q -E nodiscard /dev/nbd0
mount -o discard /dev/nbd0 /mnt
dd if=/dev/urandom of=/mnt/file bs=64k count=200 status=none
sum=$(sha256sum </mnt/file)
cp /mnt/file /mnt/other
rm /mnt/other
sync
fstrim /mnt
umount /mnt
echo 3 >/proc/sys/vm/drop_caches
mount /dev/nbd0 /mnt
test "$(sha256sum </mnt/file)" = "$sum"
umount /mnt
blkdiscard -o 83886080 -l 1048576 /dev/nbd0
nbd-client -d /dev/nbd0
echo "$sum"
"#,
        site.port()
    );
    let printed = LinuxGuest::new("nbd-client")
        .user_network()
        .run(&script)?
        .success();
    let sum = printed
        .lines()
        .last()
        .and_then(|line| line.split_whitespace().next());
    assert_eq!(sum.map(str::len), Some(64), "{printed}");
    // Another judge reads the same file system from our file.
    let file = site.path("disk.img");
    run("e2fsck", ["-fn", &file])?;
    Ok(())
}
