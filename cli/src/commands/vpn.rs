//! `weft vpn`, as far as the daemon keeps tunnels.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use weft_service::api::{
    Error, ErrorKind, PeerAdd, PeerName, Result, Vpn, VpnCreate, VpnExport, VpnExported, VpnImport,
    VpnImported,
};

use super::{Nothing, absolute};
use crate::args::{PeerAddArgs, PeerCommand, VpnCommand, VpnCreateArgs, VpnImportArgs};
use crate::client::{Client, path};
use crate::render::{Output, tunnels};

pub(super) async fn run(client: &Client, output: &Output, command: VpnCommand) -> Result<()> {
    match command {
        VpnCommand::Create(arguments) => {
            let vpn: Vpn = client.post("/v1/vpn", &create(arguments)?).await?;
            output.show(&vpn, tunnels::one);
        }
        VpnCommand::Peer(PeerCommand::Add(arguments)) => {
            let target = path(["vpn", &arguments.name, "peer"]);
            let vpn: Vpn = client.post(&target, &peer(arguments)?).await?;
            output.show(&vpn, tunnels::one);
        }
        VpnCommand::Peer(PeerCommand::Remove { name, peer }) => {
            let target = path(["vpn", &name, "peer", "remove"]);
            let vpn: Vpn = client.post(&target, &PeerName { peer }).await?;
            output.show(&vpn, tunnels::one);
        }
        VpnCommand::Show { name } => {
            let vpn: Vpn = client.get(&path(["vpn", &name])).await?;
            output.show(&vpn, tunnels::one);
        }
        VpnCommand::List => {
            let vpns: Vec<Vpn> = client.get("/v1/vpn").await?;
            output.show(&vpns, |vpns| tunnels::list(vpns));
        }
        VpnCommand::Import(arguments) => {
            let imported: VpnImported = client.post("/v1/vpn/import", &import(arguments)?).await?;
            for key in &imported.left_out {
                output.say(&format!(
                    "{key} of the file is left out: weft does not do it"
                ));
            }
            output.show(&imported.vpn, tunnels::one);
        }
        VpnCommand::Export {
            name,
            peer,
            endpoint,
            output: file,
        } => {
            let target = path(["vpn", &name, "export"]);
            let file = file.unwrap_or_else(|| file_of(&name, &peer));
            let request = VpnExport { peer, endpoint };
            let exported: VpnExported = client.post(&target, &request).await?;
            hand_out(output, &exported, &file)?;
        }
        VpnCommand::Remove { name } => {
            client.delete::<Nothing>(&path(["vpn", &name])).await?;
            output.done(&format!("tunnel {name} is taken away"));
        }
        VpnCommand::Run { .. } | VpnCommand::Keygen { .. } => {
            unreachable!("these need no daemon")
        }
    }
    Ok(())
}

fn create(arguments: VpnCreateArgs) -> Result<VpnCreate> {
    Ok(VpnCreate {
        name: arguments.name,
        addresses: arguments.addresses,
        listen: arguments.listen,
        key_file: arguments.key.as_deref().map(absolute).transpose()?,
        mtu: arguments.mtu,
        fwmark: arguments.fwmark,
        no_routes: arguments.no_routes,
        netns: arguments.place.netns,
        socket_netns: arguments.place.socket_netns,
        net: arguments.place.net,
        nat: arguments.place.nat,
        key_log: arguments
            .insecure_key_log
            .as_deref()
            .map(absolute)
            .transpose()?,
        peers: Vec::new(),
    })
}

fn peer(arguments: PeerAddArgs) -> Result<PeerAdd> {
    Ok(PeerAdd {
        name: arguments.peer,
        key: arguments.key,
        tunnel: None,
        allowed: arguments.allowed,
        endpoint: arguments.endpoint,
        psk_file: arguments.psk_file.as_deref().map(absolute).transpose()?,
        keepalive: arguments.keepalive,
    })
}

fn import(arguments: VpnImportArgs) -> Result<VpnImport> {
    Ok(VpnImport {
        path: absolute(&arguments.file)?,
        name: arguments.name,
        netns: arguments.place.netns,
        socket_netns: arguments.place.socket_netns,
        net: arguments.place.net,
        nat: arguments.place.nat,
    })
}

/// A name that a file can have, whatever the peer is called by.
fn file_of(name: &str, peer: &str) -> PathBuf {
    let plain = |letter: char| {
        let fits = letter.is_ascii_alphanumeric() || "-_.".contains(letter);
        if fits { letter } else { '_' }
    };
    let peer: String = peer.chars().map(plain).collect();
    PathBuf::from(format!("{name}-{peer}.conf"))
}

fn hand_out(output: &Output, exported: &VpnExported, file: &Path) -> Result<()> {
    if file == Path::new("-") {
        output.show(exported, |exported| exported.config.clone());
        return Ok(());
    }
    let name = file.display().to_string();
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file)
        .and_then(|mut opened| opened.write_all(exported.config.as_bytes()));
    written.map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => {
            let message = format!("{name} exists already; name another file by --output");
            Error::new(ErrorKind::Exists, &name, message)
        }
        _ => Error::from_io(&name, &format!("{name} cannot be written"), &error),
    })?;
    let answer = serde_json::json!({
        "file": name,
        "has_private_key": exported.has_private_key,
    });
    output.show(&answer, |_| match exported.has_private_key {
        true => format!("{name} holds the peer's private key: hand it over in secret\n"),
        false => format!("{name} is written; the peer's private key is not in it\n"),
    });
    Ok(())
}
