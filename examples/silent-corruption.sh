#!/bin/sh
# A disk that lies: a RAID-6 array, a block of one member changed behind its back, and what weft makes of it.
# Usage: silent-corruption.sh [SEED]; works in a folder of its own and takes it away. Needs `weft` in the PATH.
set -eu
exec 3>&1
seed=${1:-1}
folder=$(mktemp -d)
export WEFT_STATE="$folder/state"
cd "$folder"
trap 'weft daemon --stop >/dev/null 2>&1 || true; cd /; rm -rf "$folder"' EXIT

say() { printf '\n# %s\n' "$*"; }
show() { printf '$ %s\n' "$*" >&3; "$@"; }

say "Four disks, any two of which may be lost"
for disk in a b c d; do weft disk create $disk.img --size 16M >/dev/null; done
show weft raid create tank --level 6 ./a.img ./b.img ./c.img ./d.img --chunk 64K --assume-clean
weft vg create data tank >/dev/null
weft lv create data/files --size 20M >/dev/null
weft export add data/files --nbd "unix:$folder/socket" >/dev/null
uri="nbd+unix:///?socket=$folder/socket"
seq "$seed" $((seed + 400000)) | head -c 2097152 >written
qemu-io -f raw -c "write -s written 0 2M" "$uri" >/dev/null
show sha256sum written

# Which member, and where: the seed decides, among what was written.
member=$(printf '%s' "b c d" | cut -d' ' -f$((seed % 3 + 1)))
offset=$((seed * 7919 % 128 * 4096))
say "4 KiB of $member.img change on the medium, and no disk reports an error"
start=$(weft raid examine ./$member.img --json | sed -n 's/.*"data_offset_bytes":[ ]*\([0-9]*\).*/\1/p')
head -c 4096 /dev/zero | tr '\0' '\125' |
    dd of=$member.img bs=4096 seek=$(((start + 1048576 + offset) / 4096)) conv=notrunc status=none

# What the last check or repair has found.
found() { weft raid wait tank >/dev/null 2>&1; weft raid show tank | sed -n '/^check\|^repair/,$p'; }

say "A check finds it, and the two parities tell who lies"
show weft raid check tank >/dev/null
found

say "A repair rewrites those blocks alone, from the others"
show weft raid repair tank >/dev/null
found
show weft raid check tank >/dev/null
found

say "The data is what was written"
qemu-img dd -f raw -O raw bs=1M count=2 if="$uri" of=read >/dev/null 2>&1
show sha256sum read
cmp written read
