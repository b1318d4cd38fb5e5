//! An end of a tunnel that runs in the test's own process.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use weft_netio::link::Links;
use weft_netio::{InterfaceName, Namespace};
use weft_tunnel::{Device, Tun, entropy};
use weft_vpn::{Endpoint, Prefix, PresharedKey, PrivateKey, Tunnel};

pub(crate) const LONGEST_WAIT: Duration = Duration::from_secs(20);

/// One end of a tunnel, with the device in a namespace of its own.
pub(crate) struct Side {
    pub(crate) inside: Namespace,
    pub(crate) device: Device,
    pub(crate) address: Ipv4Addr,
}

impl Side {
    /// A tunnel whose device is in a namespace of its own and whose ports are where the thread is.
    pub(crate) fn new(number: u8, mtu: u32) -> Self {
        let inside = Namespace::create().expect("a namespace");
        let address = Ipv4Addr::new(10, 9, 0, number);
        let tun = inside
            .run(|| {
                let name = InterfaceName::new("wg0").expect("a name");
                let tun = Tun::create(&name).expect("a device");
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .expect("a runtime");
                runtime.block_on(async {
                    let links = Links::open().expect("netlink");
                    let cidr = format!("{address}/24").parse().expect("a subnet");
                    links.add_address(&name, cidr).await.expect("an address");
                    links.set_mtu(&name, mtu).await.expect("an MTU");
                    links.set_up(&name, true).await.expect("up");
                });
                tun
            })
            .expect("the thread enters");
        let mut machine = Tunnel::new(entropy());
        machine.set_private_key(Some(PrivateKey::new([number; 32])));
        machine.set_mtu(mtu as usize);
        let device = Device::start(machine, Box::new(tun), 0).expect("a tunnel");
        Self {
            inside,
            device,
            address,
        }
    }

    pub(crate) fn know(&self, other: &Self, outer: Option<IpAddr>) {
        let public = other.device.with(|machine, _, _| machine.public_key());
        let port = other.device.port();
        self.device.with(|machine, now, outputs| {
            let peer = machine.add_peer(public.expect("a key")).expect("a peer");
            machine.allow(peer, Prefix::host(other.address.into()));
            machine.set_preshared_key(peer, PresharedKey::new([9; 32]));
            if let Some(outer) = outer {
                let endpoint = Endpoint::new(SocketAddr::new(outer, port));
                machine.set_endpoint(peer, endpoint, now, outputs);
            }
        });
    }

    /// Does something with sockets of the inner namespace.
    pub(crate) fn inside<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        self.inside.run(act).expect("the thread enters")
    }
}
