//! The program from outside: what a person or a script types, and what comes back.

#![allow(clippy::unwrap_used)] // In tests a panic is the message.

mod disks;
mod growing;
mod image_amend;
mod image_bitmaps;
mod image_copies;
mod image_disks;
mod image_keys;
mod image_names;
mod image_options;
mod image_room;
mod image_secrets;
mod images;
mod joined;
mod kvm;
mod labs;
mod live;
mod machines;
mod networks;
mod program;
mod qemu_img;
mod raid;
mod remote;
mod restart;
mod stretch;
mod tunnels;
mod volumes;
mod vpn;
mod vpn_lab;
mod ways;
