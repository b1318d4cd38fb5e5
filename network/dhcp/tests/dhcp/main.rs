//! The DHCP server against its clients: what each message leads to, and runs on a bad network.

mod client;
mod protocol;
mod simulation;
