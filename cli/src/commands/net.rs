//! `weft net`.

use weft_service::api::{NetCreate, NetStretch, Network, Port, PortAdd, Result};

use super::{Nothing, absolute};
use crate::args::{NetCommand, PortCommand};
use crate::client::{Client, path};
use crate::render::{Output, details, tables};

pub(super) async fn run(client: &Client, output: &Output, command: NetCommand) -> Result<()> {
    match command {
        NetCommand::Create {
            name,
            subnet,
            mode,
            dhcp,
            forwards,
        } => {
            let request = NetCreate {
                name,
                subnet,
                mode: mode.into(),
                dhcp,
                forwards,
            };
            let network: Network = client.post("/v1/net", &request).await?;
            output.show(&network, details::network);
        }
        NetCommand::List => {
            let networks: Vec<Network> = client.get("/v1/net").await?;
            output.show(&networks, |networks| tables::networks(networks));
        }
        NetCommand::Show { name } => {
            let network: Network = client.get(&path(["net", &name])).await?;
            output.show(&network, details::network);
        }
        NetCommand::Remove { name } => {
            client.delete::<Nothing>(&path(["net", &name])).await?;
            output.done(&format!("network {name} is taken away"));
        }
        NetCommand::Stretch {
            name,
            vpn,
            vni,
            remotes,
        } => {
            let request = NetStretch { vpn, vni, remotes };
            let target = path(["net", &name, "stretch"]);
            let network: Network = client.post(&target, &request).await?;
            output.show(&network, details::network);
        }
        NetCommand::Unstretch { name } => {
            let network: Network = client.delete(&path(["net", &name, "stretch"])).await?;
            output.show(&network, details::network);
        }
        NetCommand::Port(command) => port(client, output, command).await?,
    }
    Ok(())
}

async fn port(client: &Client, output: &Output, command: PortCommand) -> Result<()> {
    match command {
        PortCommand::Add {
            net,
            port,
            tap,
            vhost,
        } => {
            let vhost = vhost.as_deref().map(absolute).transpose()?;
            let request = PortAdd { port, tap, vhost };
            let port: Port = client.post(&path(["net", &net, "port"]), &request).await?;
            output.show(&port, |port| match &port.socket {
                Some(socket) => format!("{}: vhost-user-net on {socket}\n", port.name),
                None => format!("{}: TAP link {}\n", port.name, port.tap),
            });
        }
        PortCommand::Remove { net, port } => {
            client
                .delete::<Nothing>(&path(["net", &net, "port", &port]))
                .await?;
            output.done(&format!("port {port} of network {net} is taken away"));
        }
    }
    Ok(())
}
