# Run by the demo in a stock Linux kernel that has the demo's disk files: md assembles the array, LVM activates the
# volume, and the files' checksums must agree.
export DM_DISABLE_UDEV=1
modprobe raid456
modprobe dm-mod
modprobe ext4
mdadm --assemble --run /dev/md0 /dev/vd?
sed -n 's/^md0/md: md0/p' /proc/mdstat
echo check >/sys/block/md0/md/sync_action
while [ "$(cat /sys/block/md0/md/sync_action)" != idle ]; do sleep 0.2; done
mismatches=$(cat /sys/block/md0/md/mismatch_cnt)
echo "md: parity checked, $mismatches mismatches"
[ "$mismatches" = 0 ]
vgchange --activate y data
lvs --noheadings -o vg_name,lv_name,lv_size data
mkdir -p /tmp/data
mount -t ext4 /dev/data/root /tmp/data
cd /tmp/data
sha256sum -c sums >/tmp/verified || { grep -v OK /tmp/verified; exit 1; }
echo "Linux verified $(grep -c OK /tmp/verified) files"
cd /
umount /tmp/data
vgchange --activate n data
mdadm --stop /dev/md0
