//! Two namespaces with a tunnel between them.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use weft_tests::bench::{CpuClock, Sample, seconds};
use weft_tests::{Netns, Process, link_pair, temp_dir};
use weft_vpn::PrivateKey;

const LIMIT: Duration = Duration::from_secs(20);

/// Which way streams go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    There,
    Back,
}

pub(crate) struct Pair {
    netns: [Netns; 2],
    daemons: Vec<Process>,
    /// To where streams go.
    target: &'static str,
}

impl Pair {
    /// Two namespaces joined by a pair of links.
    pub(crate) fn bare(number: usize) -> Result<Self> {
        let netns = [Netns::new()?, Netns::new()?];
        let link = format!("wbench{number}");
        link_pair([
            (&netns[0], &link, &["192.168.68.1/24"]),
            (&netns[1], &link, &["192.168.68.2/24"]),
        ])?;
        Ok(Self {
            netns,
            daemons: Vec::new(),
            target: "192.168.68.2",
        })
    }

    /// And a tunnel between them, by two processes of `program`.
    pub(crate) fn new(number: usize, program: &str, before: &[&str]) -> Result<Self> {
        let mut pair = Self::bare(number)?;
        let own = std::env::current_exe()?;
        let own = own.to_str().context("the bench's path is text")?;
        let program = if program == "SELF" { own } else { program };
        let names = [1, 2].map(|host| format!("wb{}-{number}{host}", std::process::id()));
        for (netns, name) in pair.netns.iter().zip(&names) {
            let mut command = netns.command(program);
            command
                .args(before)
                .arg(name)
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            pair.daemons.push(Process::spawn(command)?);
            let start = Instant::now();
            while netns.run("wg", ["show", name]).is_err() {
                if start.elapsed() > LIMIT {
                    bail!("{program} does not answer");
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        pair.configure(&names)?;
        pair.target = "10.68.0.2";
        Ok(pair)
    }

    fn configure(&self, names: &[String; 2]) -> Result<()> {
        let folder = temp_dir();
        let keys = [1, 2].map(|host| PrivateKey::new([host; 32]));
        for (own, other) in [(0, 1), (1, 0)] {
            let (netns, name) = (&self.netns[own], names[own].as_str());
            let file = folder.path().join(name);
            let text = format!(
                "[Interface]\nPrivateKey = {}\nListenPort = 7200\n[Peer]\nPublicKey = {}\nAllowedIPs = 10.68.0.0/24\n\
                 Endpoint = 192.168.68.{}:7200\n",
                keys[own].expose_base64().as_str(),
                keys[other].public(),
                other + 1
            );
            std::fs::write(&file, text)?;
            let file = file.to_str().context("the folder's path is text")?;
            netns.run("wg", ["setconf", name, file])?;
            let address = format!("10.68.0.{}/24", own + 1);
            netns.run("ip", ["address", "add", &address, "dev", name])?;
            netns.run("ip", ["link", "set", name, "mtu", "1420", "up"])?;
        }
        let first = ["-q", "-c", "1", "-W", "10", "10.68.0.2"];
        self.netns[0].run("ping", first).map(drop)
    }

    /// What a client of iperf3 says that has run for one turn.
    fn client(&self, how: &[&str]) -> Result<serde_json::Value> {
        let seconds = seconds().to_string();
        let arguments = [&["-J", "-c", self.target, "-t", &seconds], how].concat();
        let start = Instant::now();
        // The server may not listen yet, which the client tells in its JSON.
        loop {
            let said = self.netns[0].run("iperf3", &arguments)?;
            let said: serde_json::Value = serde_json::from_str(&said)?;
            if said["end"]["sum_received"]["bytes"].is_u64() {
                return Ok(said);
            }
            if start.elapsed() > LIMIT {
                bail!("iperf3: {}", said["error"]);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Segments that TCP sent again in one turn on a link that has little to do.
    pub(crate) fn resent_when_idle(&self) -> Result<u64> {
        let mut server = self.server()?;
        let said = self.client(&["-b", "50M"])?;
        server.wait_for(LIMIT)?;
        let resent = said["end"]["sum_sent"]["retransmits"].as_u64();
        resent.context("iperf3 tells retransmits")
    }

    fn server(&self) -> Result<Process> {
        let mut server = self.netns[1].command("iperf3");
        server.args(["-s", "-1"]).stdout(Stdio::null());
        Process::spawn(server)
    }

    /// One turn of TCP streams from the first namespace to the second, or back.
    pub(crate) fn stream(&self, streams: u32, way: Way) -> Result<Sample> {
        let mut server = self.server()?;
        let clocks: Vec<CpuClock> = self
            .daemons
            .iter()
            .map(|daemon| CpuClock::of(daemon.pid()))
            .collect::<Result<_>>()?;
        let streams = streams.to_string();
        let mut arguments = vec!["-P", &streams];
        arguments.extend((way == Way::Back).then_some("-R"));
        let said = self.client(&arguments)?;
        server.wait_for(LIMIT)?;
        let received = &said["end"]["sum_received"];
        let mut sample = Sample {
            operations: 1,
            bytes: received["bytes"].as_u64().context("iperf3 tells bytes")?,
            elapsed: Duration::from_secs_f64(
                received["seconds"]
                    .as_f64()
                    .context("iperf3 tells seconds")?,
            ),
            cpu: Duration::ZERO,
        };
        for clock in clocks {
            sample.cpu += clock.used()?;
        }
        Ok(sample)
    }

    /// The average round trip of echoes, in milliseconds.
    pub(crate) fn ping(&self) -> Result<String> {
        let arguments = ["-q", "-i", "0.001", "-c", "1000", self.target];
        let said = self.netns[0].run("ping", arguments)?;
        let average = said
            .split(" = ")
            .nth(1)
            .and_then(|all| all.split('/').nth(1));
        Ok(average.context("ping tells the average")?.to_owned())
    }
}
