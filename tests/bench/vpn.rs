//! WireGuard between two network namespaces: our tunnel against others', and the machine alone with many peers.
//!
//! Outside the MTU is 1500, inside 1420. CPU is that of both ends together. `WEFT_BENCH_SECONDS` says how long a turn
//! takes (two seconds).

use anyhow::Result;
use weft_tests::bench::{Contest, Measure};
use weft_tests::{can, missing_programs};

#[path = "vpn/machine.rs"]
mod machine;
#[path = "vpn/pair.rs"]
mod pair;

use pair::{Pair, Way};

/// Implementations: the name in the table, the program (`SELF` is this one), and what comes before the interface's name.
const CONTESTANTS: [(&str, &str, &[&str]); 4] = [
    ("weft", "SELF", &["serve"]),
    ("wireguard-go", "wireguard-go", &["-f"]),
    (
        "boringtun-cli",
        "boringtun-cli",
        &["-f", "--disable-drop-privileges"],
    ),
    (
        "gotatun-cli",
        "gotatun",
        &["-f", "--disable-drop-privileges"],
    ),
];

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, word, name] = &arguments[..]
        && word == "serve"
    {
        return Ok(weft_service::network::vpn::run(name, || {})?);
    }
    machine::storm()?;
    machine::many_peers()?;
    if !can::be_root() {
        println!("WireGuard between namespaces: needs root");
        return Ok(());
    }
    let missing = missing_programs(&["ip", "wg", "iperf3", "ping"]);
    if !missing.is_empty() {
        println!("WireGuard between namespaces: needs {}", missing.join(", "));
        return Ok(());
    }
    let mut pairs = Vec::new();
    let mut absent = Vec::new();
    for (number, (name, program, before)) in CONTESTANTS.iter().enumerate() {
        if *program == "SELF" || missing_programs(&[program]).is_empty() {
            pairs.push((*name, Pair::new(number, program, before)?));
        } else {
            absent.push(*name);
        }
    }
    let bare = Pair::bare(CONTESTANTS.len())?;
    let ways = [("there", Way::There), ("back", Way::Back)];
    let cases = [1, 4].map(|streams| ways.map(|(word, way)| (streams, word, way)));
    for (streams, word, way) in cases.into_iter().flatten() {
        let title = format!("WireGuard, TCP, {streams} stream(s) {word}");
        let mut contest = Contest::new(
            &title,
            &[Measure::GigabytesPerSecond, Measure::CpuPerGigabyte],
        );
        for (name, pair) in &pairs {
            contest.add(name, || pair.stream(streams, way));
        }
        contest.add("veth, no tunnel", || bare.stream(streams, way));
        absent.iter().for_each(|name| contest.note_missing(name));
        println!("{}", contest.run()?);
    }
    println!("segments sent again at 50 Mbit/s");
    for (name, pair) in &pairs {
        println!("  {name:16} {}", pair.resent_when_idle()?);
    }
    println!("\n1,000 echoes, one each millisecond: average round trip in ms");
    for (name, pair) in &pairs {
        println!("  {name:16} {}", pair.ping()?);
    }
    Ok(())
}
