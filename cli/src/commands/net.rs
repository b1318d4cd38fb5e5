//! `weft net`.

use weft_service::api::{NetCreate, Network, Port, PortAdd, Result};

use super::{Nothing, absolute};
use crate::args::{NetCommand, PortCommand};
use crate::client::Client;
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
            let network: Network = client.get(&format!("/v1/net/{name}")).await?;
            output.show(&network, details::network);
        }
        NetCommand::Remove { name } => {
            client.delete::<Nothing>(&format!("/v1/net/{name}")).await?;
            output.done(&format!("network {name} is taken away"));
        }
        NetCommand::Port(PortCommand::Add {
            net,
            port,
            tap,
            vhost,
        }) => {
            let vhost = vhost.as_deref().map(absolute).transpose()?;
            let request = PortAdd { port, tap, vhost };
            let port: Port = client
                .post(&format!("/v1/net/{net}/port"), &request)
                .await?;
            output.show(&port, |port| match &port.socket {
                Some(socket) => format!("{}: vhost-user-net on {socket}\n", port.name),
                None => format!("{}: TAP link {}\n", port.name, port.tap),
            });
        }
        NetCommand::Port(PortCommand::Remove { net, port }) => {
            client
                .delete::<Nothing>(&format!("/v1/net/{net}/port/{port}"))
                .await?;
            output.done(&format!("port {port} of network {net} is taken away"));
        }
    }
    Ok(())
}
