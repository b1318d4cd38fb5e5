//! Networks on a stock Linux, judged by its own tools: `ip`, `bridge`, `nft`, ping, and the DHCP clients udhcpc and
//! dhclient. Everything happens in namespaces of the tests' own.

mod dhcp;
mod forwarding;
mod lab;
mod nothing_left;
mod rootless;
