#!/bin/sh
# The lab of vpn-lab.toml: three sites, a traveller behind a NAT, a link that breaks. Needs root, and `weft` in the PATH;
# works with a daemon of its own and takes everything away.
set -eu
lab=$(cd "$(dirname "$0")" && pwd)/vpn-lab.toml
folder=$(mktemp -d)
export WEFT_STATE="$folder/state"
trap 'weft down "$lab" >/dev/null 2>&1 || true; weft daemon --stop >/dev/null 2>&1 || true; rm -rf "$folder"' EXIT

say() { printf '\n# %s\n' "$*"; }
show() { printf '$ %s\n' "$*"; "$@"; }
reaches() { ip netns exec "$1" ping -q -c 1 -W 1 "$2" >/dev/null 2>&1; } # host, address
tells() { # host, address, what that is called: waits until it is so
    tries=0
    until reaches "$1" "$2"; do
        tries=$((tries + 1))
        [ $tries -lt 60 ] || { echo "$1 does not reach $3"; exit 1; }
    done
    echo "$1 reaches $3"
}

say "Hosts, links and tunnels, from one file"
show weft up "$lab"
show weft plan "$lab" >/dev/null

say "Each site reaches each other one; a handshake opens each tunnel"
tells site-a 10.50.0.2 "site b"
tells site-b 10.50.0.3 "site c"
tells site-c 10.50.0.1 "site a"

say "The traveller is in a cafe, and site a sees the cafe's address"
tells traveller 10.50.0.1 "site a"
tells site-a 10.50.0.4 "the traveller"
show weft vpn show wg-a

say "It goes out, into a mobile network: an address that nobody answers is given up, and site a follows"
show ip -n traveller route replace default via 203.0.113.5
tells traveller 10.50.0.1 "site a"
tells site-a 10.50.0.4 "the traveller"
show weft vpn show wg-a

say "Site b loses its link"
show ip -n internet link set site-b down
if reaches site-a 10.50.0.2; then echo "site b is still there"; exit 1; fi
echo "site-a does not reach site b"
tells site-a 10.50.0.3 "site c"

say "And has it again"
show ip -n internet link set site-b up
tells site-a 10.50.0.2 "site b"

say "All of it is taken away"
show weft down "$lab"
for host in internet site-a site-b site-c cafe traveller; do
    if ip netns list | grep -qw "$host"; then echo "$host is left"; exit 1; fi
done
echo "nothing is left"
