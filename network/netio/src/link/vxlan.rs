//! VXLAN devices (RFC 7348) between hosts that know each other.

use std::net::Ipv4Addr;

use futures_util::StreamExt;
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::LinkVxlan;
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};

use super::connection::{created, error};
use super::{LINK_GROUP, Links, Owner};
use crate::{InterfaceName, Result};

/// The port of VXLAN (RFC 7348, 8).
const PORT: u16 = 4789;

/// What a VXLAN device sends and to whom.
#[derive(Debug, Clone, Copy)]
pub struct VxlanEnds<'a> {
    /// Where its packets come from.
    pub local: Ipv4Addr,
    /// The other hosts, one or more. A frame for all goes to each of them; where the others are, it learns.
    pub remotes: &'a [Ipv4Addr],
}

impl Links {
    /// Makes a VXLAN device that is down, whose packets leave by the link `lower` on the port of RFC 7348, and marks
    /// it. It goes with `lower`.
    pub async fn create_vxlan(
        &self,
        name: &InterfaceName,
        vni: u32,
        lower: &InterfaceName,
        ends: VxlanEnds<'_>,
        owner: &Owner,
    ) -> Result<()> {
        let lower = self.expect(lower.as_str()).await?.index;
        let device = LinkVxlan::new(name.as_str(), vni)
            .dev(lower)
            .local(ends.local)
            .port(PORT)
            .link_group(LINK_GROUP);
        let made = self.handle.link().add(device.build()).execute().await;
        made.map_err(|e| created(name, "VXLAN device", &e))?;
        let finish = async {
            for &remote in ends.remotes {
                self.flood_to(name, remote).await?;
            }
            self.set_owner(name, owner).await
        };
        let finished = finish.await;
        if finished.is_err()
            && let Ok(Some(link)) = self.link(name.as_str()).await
        {
            let _ = self.handle.link().del(link.index).execute().await;
        }
        finished
    }

    /// Lets frames whose place is not known go to one more host: each is a destination of the address of zeroes.
    async fn flood_to(&self, name: &InterfaceName, remote: Ipv4Addr) -> Result<()> {
        let doing = format!("letting frames of {name} go to {remote}");
        let mut entry = NeighbourMessage::default();
        entry.header.family = AddressFamily::Bridge;
        entry.header.ifindex = self.expect(name.as_str()).await?.index;
        entry.header.state = NeighbourState::Permanent;
        entry.header.flags = NeighbourFlags::Own;
        entry.attributes = vec![
            NeighbourAttribute::LinkLayerAddress(vec![0; 6]),
            NeighbourAttribute::Destination(NeighbourAddress::Inet(remote)),
        ];
        let mut request = NetlinkMessage::from(RouteNetlinkMessage::NewNeighbour(entry));
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_APPEND;
        let mut handle = self.handle.clone();
        let mut answers = handle.request(request).map_err(|e| error(&doing, &e))?;
        while let Some(answer) = answers.next().await {
            if let NetlinkPayload::Error(message) = answer.payload {
                return Err(error(&doing, &rtnetlink::Error::NetlinkError(message)));
            }
        }
        Ok(())
    }
}
