//! Whole DHCP exchanges (DISCOVER, OFFER, REQUEST, ACK) by our server and by dnsmasq.
//!
//! Both answer in a network namespace to clients in another, who speak through a relay, 32 at a time. Each turn begins
//! with no leases and gives one to every client. Ours makes each batch of leases durable before it answers; dnsmasq
//! writes its lease file without waiting for the disk.

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use weft_tests::bench::{Contest, CpuClock, Measure, Sample};
use weft_tests::{Netns, Process, can, link_pair, missing_programs, run, temp_dir};

#[path = "dhcp/clients.rs"]
mod clients;
#[path = "dhcp/server.rs"]
mod server;

/// Leases given in one turn.
const CLIENTS: u32 = 3000;
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 91, 0, 1);
const RELAY: Ipv4Addr = Ipv4Addr::new(10, 91, 255, 254);
const RANGE: (&str, &str) = ("10.91.0.10", "10.91.100.250");
const LINK: &str = "uplink";

/// Server and clients, each in a namespace, joined by a pair of links.
struct Bench {
    server: Netns,
    clients: Netns,
}

impl Bench {
    fn new() -> Result<Self> {
        let (server, clients) = (Netns::new()?, Netns::new()?);
        link_pair([
            (&server, LINK, &[&format!("{SERVER}/16")]),
            (&clients, "eth0", &[&format!("{RELAY}/16")]),
        ])?;
        Ok(Self { server, clients })
    }

    /// Starts a server by `program` and `arguments`, lets every client get a lease from it, and ends it.
    fn turn(&self, program: &str, arguments: &[&str]) -> Result<Sample> {
        let mut command = self.server.command(program);
        command.args(arguments).stderr(std::process::Stdio::null());
        let mut process = Process::spawn(command)?;
        let clients = clients::Clients::open(&self.clients, SERVER, RELAY)?;
        clients
            .wait_for_server()
            .with_context(|| format!("{program} does not answer"))?;
        let (started, cpu) = (Instant::now(), CpuClock::of(process.pid())?);
        clients.lease(CLIENTS)?;
        let sample = Sample {
            operations: CLIENTS.into(),
            bytes: 0,
            elapsed: started.elapsed(),
            cpu: cpu.used()?,
        };
        if !process.is_running() {
            bail!("{program} ended");
        }
        Ok(sample)
    }
}

fn dnsmasq(leases: &Path) -> Vec<String> {
    let plain = [
        "--keep-in-foreground",
        "--port=0",
        "--no-ping",
        "--quiet-dhcp",
        "--bind-interfaces",
        "--dhcp-authoritative",
        "--dhcp-lease-max=100000",
        "--conf-file=/dev/null",
        "--user=root",
        "--pid-file=",
        "--log-facility=/dev/null",
    ];
    let mut arguments: Vec<String> = plain.map(str::to_owned).into();
    arguments.push(format!("--interface={LINK}"));
    arguments.push(format!(
        "--dhcp-range={},{},255.255.0.0,1h",
        RANGE.0, RANGE.1
    ));
    arguments.push(format!("--dhcp-leasefile={}", leases.display()));
    arguments
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, verb, leases] = &arguments[..]
        && verb == "serve"
    {
        return server::serve(LINK, SERVER, RANGE, Path::new(leases));
    }
    if !can::be_root() {
        println!("DHCP: needs root for network namespaces");
        return Ok(());
    }
    let folder = temp_dir();
    let leases = folder.path().join("leases");
    let fresh = || match std::fs::remove_file(&leases) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    };
    let bench = Bench::new()?;
    let own = std::env::current_exe()?;
    let own = own.to_str().context("the bench's path is text")?;
    let path = leases.to_str().context("the folder's path is text")?;
    let measures = [Measure::KiloOperationsPerSecond, Measure::CpuPerOperation];
    let title = format!("DHCP, {CLIENTS} clients get a lease each, 32 at a time");
    let mut contest = Contest::new(&title, &measures);
    contest.add("weft", || {
        fresh()?;
        bench.turn(own, &["serve", path])
    });
    if missing_programs(&["dnsmasq"]).is_empty() {
        let version = run("dnsmasq", ["--version"])?;
        let name: Vec<&str> = version.split_whitespace().take(3).collect();
        let arguments = dnsmasq(&leases);
        let bench = &bench;
        contest.add(
            &name.join(" ").replace("Dnsmasq version", "dnsmasq"),
            move || {
                fresh()?;
                let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
                bench.turn("dnsmasq", &arguments)
            },
        );
    } else {
        contest.note_missing("dnsmasq");
    }
    println!("{}", contest.run()?);
    Ok(())
}
