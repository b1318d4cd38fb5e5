//! Serves a file or a block device over NBD until it is killed:
//! `cargo run --release --example serve_file -- FILE unix:PATH|HOST:PORT [read-only]`

use std::error::Error;
use std::sync::Arc;

use weft_export::nbd::server::{Export, Server};
use weft_uring::{Address, FileDevice, OpenOptions, Shard, block_on};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (file, address, read_only) = match &arguments[..] {
        [file, address] => (file, address, false),
        [file, address, word] if word == "read-only" => (file, address, true),
        _ => return Err("usage: serve_file FILE unix:PATH|HOST:PORT [read-only]".into()),
    };
    let address: Address = address.parse()?;
    let options = OpenOptions {
        read_only,
        ..OpenOptions::default()
    };
    let device = FileDevice::open(file, &options)?;
    let shard = Shard::start("nbd")?;
    let server = block_on(Server::start(&shard.handle(), &[address]))?;
    block_on(server.add("", Export::new(Arc::new(device))))?;
    for address in server.addresses() {
        println!("serving {file} at {address}");
    }
    loop {
        std::thread::park();
    }
}
