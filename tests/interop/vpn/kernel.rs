//! The kernel's own WireGuard, in the Linux guest, with our tunnel as a process beside it; then both over a link that
//! the kernel's netem makes bad.

use anyhow::Result;
use weft_tests::guest::LinuxGuest;
use weft_tests::require;

const PROGRAM: &str = env!("CARGO_BIN_EXE_tunnel-process");

/// Two namespaces, `ours` and `kernel`, with a link between them and an interface in each. `wg` looks for a
/// socket of the interface's name first, in whatever namespace, so the names differ.
const SITES: &str = r#"
umask 077
mkdir -p /var/run/wireguard
for site in ours kernel; do
    ip netns add $site
    wg genkey >/tmp/$site.key
    wg pubkey </tmp/$site.key >/tmp/$site.pub
done
wg genpsk >/tmp/psk
ip link add line netns ours type veth peer name line netns kernel
number=1
for site in ours kernel; do
    ip -n $site address add 192.168.66.$number/24 dev line
    ip -n $site address add fd66::$number/64 dev line nodad
    ip -n $site link set line up
    number=2
done
ip netns exec ours $PROGRAM w-ours &
until wg show w-ours >/dev/null 2>&1; do sleep 0.05; done
ip -n kernel link add w-kernel type wireguard
number=1
for site in ours kernel; do
    ip netns exec $site wg set w-$site private-key /tmp/$site.key listen-port 700$number
    ip -n $site address add 10.66.0.$number/24 dev w-$site
    ip -n $site link set w-$site mtu 1420 up
    number=2
done
of() { [ $1 = ours ] && echo $2 || echo $3; }
introduce() { # who opens, to which address of the other, preshared key
    for end in ours kernel; do
        key=$(cat /tmp/$(of $end kernel ours).pub)
        ip netns exec $end wg set w-$end peer $key remove
        place=; [ $end != $1 ] || place="endpoint $2"
        ip netns exec $end wg set w-$end peer $key preshared-key $3 allowed-ips 10.66.0.$(of $end 2 1) $place
    done
}
echoes() { # from, bytes
    ip netns exec $1 ping -q -c 2 -i 0.05 -W 10 -s $2 10.66.0.$(of $1 2 1) >/tmp/said || true
    grep -q ' 0% packet loss' /tmp/said || { cat /tmp/said; exit 1; }
}
"#;

/// Each side opens the tunnel over both versions, with and without a preshared key; and anew when its keys are gone.
const ROLES: &str = r#"
for psk in /dev/null /tmp/psk; do
    for version in 4 6; do
        for site in ours kernel; do
            other=$(of $site kernel ours)
            [ $version = 4 ] && to=192.168.66.$(of $site 2 1) || to="[fd66::$(of $site 2 1)]"
            introduce $site $to:700$(of $site 2 1) $psk
            echoes $site 1392
            echoes $other 56
            echo "$site opened over $version with $psk"
        done
    done
done
for site in ours kernel; do
    wg genkey >/tmp/spare
    for key in /tmp/spare /tmp/$site.key; do ip netns exec $site wg set w-$site private-key $key; done
    echoes $site 56
    echo "$site opened anew"
done
"#;

/// Loss, delay that reorders, and duplicates, in both directions.
const BAD_LINK: &str = r#"
for site in ours kernel; do
    tc -n $site qdisc add dev line root netem delay 8ms 4ms loss 3% duplicate 10%
done
ip netns exec ours ping -q -c 200 -i 0.01 -W 5 10.66.0.2 | grep transmitted || true
ip netns exec kernel ping -q -c 200 -i 0.01 -W 5 10.66.0.1 | grep transmitted || true
head -c 100000 /dev/urandom >/tmp/data
mkfifo /tmp/open
exec 9<>/tmp/open # nc ends with its standard input
for site in ours kernel; do
    ip netns exec $site /weft/busybox nc -l -p 9000 <&9 >/tmp/got &
    server=$!
    other=$(of $site kernel ours)
    until ip netns exec $site ss -ltn | grep -q :9000; do sleep 0.05; done
    ip netns exec $other /weft/busybox nc 10.66.0.$(of $site 1 2) 9000 </tmp/data
    wait $server
    cmp /tmp/data /tmp/got
    echo "$site has it all"
done
tc -s -n ours qdisc show dev line | grep dropped
"#;

#[test]
fn the_kernel_and_we_open_tunnels_and_keep_them_over_a_bad_link() -> Result<()> {
    require!("qemu-system-x86_64", "ip", "wg", "ping", "tc", "ss");
    let output = LinuxGuest::new("vpn")
        .module("wireguard")
        .module("veth")
        .module("tun")
        .module("sch_netem")
        .env("PROGRAM", PROGRAM)
        .run(&[SITES, ROLES, BAD_LINK].concat())?
        .success();
    for site in ["ours", "kernel"] {
        for psk in ["/dev/null", "/tmp/psk"] {
            for version in [4, 6] {
                let line = format!("{site} opened over {version} with {psk}");
                assert!(output.contains(&line), "no `{line}` in:\n{output}");
            }
        }
        for line in [format!("{site} opened anew"), format!("{site} has it all")] {
            assert!(output.contains(&line), "no `{line}` in:\n{output}");
        }
    }
    // What the link doubles comes out once.
    assert!(!output.contains("duplicates"), "{output}");
    Ok(())
}
