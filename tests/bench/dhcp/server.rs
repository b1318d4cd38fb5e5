//! Our server as a process: the machine, its socket, and leases appended to a file.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Mutex;

use anyhow::{Context as _, Result, anyhow};
use weft_dhcp::{Config, Lease, SERVER_PORT, Server};
use weft_netio::datagram::{LinkSocket, serve as run};
use weft_netio::link::Links;
use weft_wire::{Ipv4Cidr, Ipv4Range};

/// Answers on `link` until it is killed.
pub(crate) fn serve(
    link: &str,
    address: Ipv4Addr,
    (first, last): (&str, &str),
    leases: &Path,
) -> Result<()> {
    let subnet = Ipv4Cidr::new(address, 16).context("16 is a prefix")?;
    let range: Ipv4Range = format!("{first}-{last}").parse()?;
    let machine = Mutex::new(Server::new(Config::new(subnet, range), [])?);
    let mut file = OpenOptions::new().append(true).create(true).open(leases)?;
    let store = |changes: Vec<Lease>| {
        let mut write = || -> Result<()> {
            let mut text = Vec::new();
            for lease in &changes {
                serde_json::to_writer(&mut text, lease)?;
                text.push(b'\n');
            }
            file.write_all(&text)?;
            Ok(file.sync_data()?)
        };
        std::future::ready(write())
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let told = |e: weft_netio::Error| anyhow!("{}", e.sentence());
        let link = Links::open()
            .map_err(told)?
            .expect(link)
            .await
            .map_err(told)?;
        let socket = LinkSocket::open(&link, address, SERVER_PORT).map_err(told)?;
        run(&socket, &machine, store, std::future::pending())
            .await
            .map_err(told)
    })
}
