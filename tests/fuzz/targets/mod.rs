//! What hostile bytes meet first: one function for each parser and machine that takes them.
//!
//! A target must not panic, whatever the bytes; where a format has a writer too, what was read and written again must
//! be read the same. Bytes that carry a checksum are tried as they are and with the checksum put right, since
//! otherwise nothing behind the checksum would ever be reached.

mod dhcp;
mod frames;
mod images;
mod lab;
mod luks;
mod lvm;
mod md;
mod nbd;
mod qcow2;
mod signatures;
mod virtio;
mod vmm;
mod vpn;

/// A target.
pub type Target = fn(&[u8]);

/// Every target under the name of its folder in `corpus/` and its file in `fuzz_targets/`.
pub const TARGETS: &[(&str, Target)] = &[
    ("dhcp_server", dhcp::server),
    ("frames", frames::frames),
    ("image_names", images::names),
    ("lab_file", lab::file),
    ("luks_header", luks::header),
    ("lvm_area_header", lvm::area_header),
    ("lvm_label", lvm::label),
    ("lvm_text", lvm::text),
    ("md_bitmap", md::bitmap),
    ("md_journal", md::journal),
    ("md_ppl", md::ppl),
    ("md_superblock", md::superblock),
    ("nbd_client", nbd::client),
    ("nbd_server", nbd::server),
    ("qcow2_compressed", qcow2::compressed),
    ("qcow2_header", qcow2::header),
    ("qcow2_image", qcow2::image),
    ("signatures", signatures::signatures),
    ("virtio_blk", virtio::blk),
    ("virtio_net_control", virtio::net_control),
    ("vmm_kernel", vmm::kernel),
    ("vmm_virtio_pci", vmm::virtio_pci),
    ("vpn_datagrams", vpn::datagrams),
    ("vpn_text", vpn::text),
    ("vpn_uapi", vpn::uapi),
    ("vpn_wg_quick", vpn::wg_quick),
];

/// Runs the target of that name.
///
/// # Panics
/// If there is no such target, or the target finds a bug.
pub fn run(name: &str, bytes: &[u8]) {
    let found = TARGETS.iter().find(|(known, _)| *known == name);
    let (_, target) = found.unwrap_or_else(|| panic!("no fuzz target is called {name}"));
    target(bytes);
}
