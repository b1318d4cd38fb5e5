//! The network edge: TAP, packet sockets, netlink, nftables, namespaces.
