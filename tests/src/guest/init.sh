#!/bin/sh
# Init of the Linux guest: the host's root becomes this machine's root, under a layer that takes writes and forgets them.
# Paths below /weft come from the initramfs; what the fixture wants is in /weft/wanted.
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev

fail() {
    echo "weft-guest: $*"
    reboot -f
}

while read -r module; do
    insmod "/weft/modules/$module" || fail "the module $module does not load"
done </weft/load-order

transport=trans=virtio,version=9p2000.L,msize=512000
mkdir -p /host /layer /root
mount -t 9p -o "ro,cache=loose,$transport" host /host || fail "the host's root does not mount"
mount -t tmpfs -o mode=0755 layer /layer
mkdir /layer/upper /layer/work
mount -t overlay -o lowerdir=/host,upperdir=/layer/upper,workdir=/layer/work overlay /root || fail "overlay refuses"

for place in proc sys dev; do
    mkdir -p "/root/$place"
    mount --move "/$place" "/root/$place"
done
mkdir -p /root/dev/pts /root/dev/shm /root/run /root/lib/modules /root/weft
mount -t devpts devpts /root/dev/pts
mount -t tmpfs shm /root/dev/shm
mount -t tmpfs run /root/run
mkdir -p /root/run/lock
mount -t tmpfs weft /root/weft
mount --bind "/root$(cat /weft/modules-folder)" /root/lib/modules || fail "the kernel's modules are not on the host"
mkdir /root/weft/share
mount -t 9p -o "cache=none,$transport" share /root/weft/share || fail "the shared folder does not mount"
cp /weft/lvmlocal.conf /root/weft/
[ ! -d /root/etc/lvm ] || cp /weft/lvmlocal.conf /root/etc/lvm/lvmlocal.conf

cp /weft/start.sh /bin/busybox /root/weft/
cat >/root/weft/init.sh <<'end'
# What udev makes elsewhere.
/weft/busybox ln -s /proc/self/fd /dev/fd
for stream in stdin=0 stdout=1 stderr=2; do /weft/busybox ln -s "fd/${stream#*=}" "/dev/${stream%=*}"; done
sh /weft/start.sh </dev/null >/weft/share/output 2>&1
echo $? >/weft/share/status
/weft/busybox sync
/weft/busybox reboot -f
end
# Not chroot: the kernel looks for modprobe in the root of process 1.
exec switch_root /root /bin/sh /weft/init.sh
