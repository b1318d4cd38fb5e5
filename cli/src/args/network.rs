//! `net`.

use clap::{Subcommand, ValueEnum};
use weft_service::api::{DhcpSetting, NetMode};

/// How a network meets the host's other links.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Mode {
    /// Guests reach out behind the host's address
    Nat,
    /// Guests reach out with their own addresses
    Routed,
    /// Guests reach the host and each other only
    Isolated,
}

impl From<Mode> for NetMode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Nat => Self::Nat,
            Mode::Routed => Self::Routed,
            Mode::Isolated => Self::Isolated,
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum NetCommand {
    /// Make a network; the host's address in it is the first of the subnet
    Create {
        /// Its name
        name: String,
        /// The subnet, such as 10.77.0.0/24
        #[arg(long)]
        subnet: String,
        /// How it meets the host's other links
        #[arg(long, value_enum, default_value = "nat")]
        mode: Mode,
        /// The range to hand out, such as 10.77.0.100-10.77.0.200, or off
        #[arg(long, default_value = "default")]
        dhcp: DhcpSetting,
        /// A port of the host that leads to a guest, such as tcp:8080:10.77.0.5:80; may be given several times
        #[arg(long = "forward", value_name = "FORWARD")]
        forwards: Vec<String>,
    },
    /// List the networks
    List,
    /// Show a network, its ports and leases
    Show {
        /// The network
        name: String,
    },
    /// Take a network away
    Remove {
        /// The network
        name: String,
    },
    /// Join a network to the bridges of other hosts through a tunnel, so that guests on all sides share it
    ///
    /// Frames travel by VXLAN inside the tunnel; each other host does the same and names all others, or is any Linux with
    /// a VXLAN device in a bridge. One of them hands out addresses. Given once more, with other hosts, it is shared with
    /// these from then on.
    Stretch {
        /// The network
        name: String,
        /// The tunnel
        #[arg(long)]
        vpn: String,
        /// The VXLAN network identifier, the same on all hosts
        #[arg(long)]
        vni: u32,
        /// The IPv4 addresses in the tunnel of all other hosts
        #[arg(long = "remote", value_name = "ADDRESS", required = true, num_args = 1.., value_delimiter = ',')]
        remotes: Vec<String>,
    },
    /// End that
    Unstretch {
        /// The network
        name: String,
    },
    /// A network's ports
    #[command(subcommand)]
    Port(PortCommand),
}

#[derive(Debug, Subcommand)]
pub(crate) enum PortCommand {
    /// Make a port: a TAP link, or a vhost-user-net socket
    Add {
        /// The network
        net: String,
        /// The port's name
        port: String,
        /// The link's name on the host [default: made from the two names]
        #[arg(long)]
        tap: Option<String>,
        /// Serve the port as vhost-user-net on this socket
        #[arg(long)]
        vhost: Option<std::path::PathBuf>,
    },
    /// Take a port away
    Remove {
        /// The network
        net: String,
        /// The port's name
        port: String,
    },
}
